//! A daemon under churn: agents of both versions, users, Controllers that add and remove
//! mappings, reloads and certificates, all at once and for as long as it is told.

#![allow(unreachable_pub, reason = "a test is a crate without users")]
mod measure;
mod session;
mod site;

pub use measure::{Line, Sample};
pub use site::Site;
