//! Tests that cannot run where they are. In a file of its own, because the unit tests use it too.

use std::fmt::Display;
use std::fs::File;
use std::io::Write;

/// Says that the running test could not be run here, and why: something that not every machine has or
/// allows. Written past the harness, which shows nothing of a test that ends well, and to the file that
/// `IOFOG_CONNECTOR_IGNORED` names, whose lines `.ci/run` counts.
pub fn could_not_run(reason: impl Display) {
    let thread = std::thread::current();
    // One line, whatever a program has said.
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let line = format!("{} ... ignored, {reason}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(format!("test {line}").as_bytes());
    if let Some(path) = std::env::var_os("IOFOG_CONNECTOR_IGNORED") {
        let file = File::options().create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the record of ignored tests");
    }
}
