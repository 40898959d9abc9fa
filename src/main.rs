//! The `iofog-connector` command.

fn main() {}
