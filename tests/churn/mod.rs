//! A daemon under churn: agents of both versions, users, Controllers that add and remove
//! mappings, reloads and certificates, all at once and for as long as it is told.

#![allow(unreachable_pub, reason = "a test is a crate without users")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "in a test a panic is a report"
)]

mod measure;
mod session;
mod site;

pub use measure::{Line, Sample};
pub use site::Site;
