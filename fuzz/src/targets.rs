//! The targets by name.

mod certificate;
mod form;
mod frames;
mod greeting;
mod http;
mod mapping;
mod passcode;
mod proxy;
mod records;
mod session;
mod settings;
mod state;

/// Panics when a promise is broken; says whether the input was of use.
pub type Check = fn(&[u8]) -> bool;

/// Every target.
pub const TARGETS: &[(&str, Check)] = &[
    ("certificate", certificate::check),
    ("form", form::check),
    ("frames", frames::check),
    ("greeting", greeting::check),
    ("http", http::check),
    ("mapping", mapping::check),
    ("passcode", passcode::check),
    ("proxy", proxy::check),
    ("records", records::check),
    ("session", session::check),
    ("settings", settings::check),
    ("state", state::check),
];
