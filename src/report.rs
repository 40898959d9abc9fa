//! [`Status`](status::Status) for its readers: JSON for programs (and for the command line, which reads it
//! back into the same structs), Prometheus text for monitoring, a table and a page for people. None of them
//! shows a passcode, because `Status` has none.

mod answer;
pub mod live;
mod metrics;
mod page;
pub mod status;
mod table;
mod tunnels;

pub use answer::Report;
pub use metrics::{METRICS_TYPE, metrics};
pub use page::{PAGE_FIELDS, PAGE_TYPE, page};
pub use table::{events, list, table};
pub use tunnels::tunnels;

#[cfg(test)]
mod tests;
