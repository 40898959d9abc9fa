//! Every bound on memory, time and count that is not a setting, with its arithmetic.
//!
//! What an operator may change stands in [`Config`](crate::config::Config); what stands here
//! follows from the protocol page or from the size of the machines this runs on.
//!
//! Each file has the bounds of one subject; all are used as `limits::NAME`.

mod agent;
mod answers;
mod api;
mod daemon;
mod log;
mod sessions;
mod strangers;
mod turns;

pub use agent::*;
pub use answers::*;
pub use api::*;
pub use daemon::*;
pub use log::*;
pub use sessions::*;
pub use strangers::*;
pub use turns::*;
