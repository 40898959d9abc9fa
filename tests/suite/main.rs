//! The tests that mostly wait, in one program: it is linked once, and they wait beside each other.
//! What loads the machine, or needs a network of its own, has programs of its own in `tests/`.

#[macro_use]
#[path = "../common/mod.rs"]
mod common;

mod broken_daemon;
mod cage;
mod clocks;
mod control_api;
mod dump;
mod endings;
mod events;
mod lessons;
mod logs;
mod mapping_changes;
mod mapping_options;
mod one_file;
mod original_failures;
mod private_pipe;
mod process;
mod proxied_users;
mod public_pipe;
mod resets;
mod room;
mod server_names;
mod settings;
mod short_sessions;
mod state;
mod state_faults;
mod status;
mod stopping;
mod top;
mod tunnel_bad_connector;
mod tunnel_command;
mod tunnel_proxy;
mod tunnel_version_three;
mod tunnels;
mod tunnels_process;
mod upgrade;
mod upgrade_faults;
mod version_three;
mod version_two;
