//! What the measured process costs.

use std::fs;

use crate::arguments::{Arguments, die};
use crate::record::Record;

/// The processor time of `--pid`'s threads at one moment, to compare a later one with.
pub(crate) struct Cost {
    process: Option<u32>,
    nanoseconds: u64,
}

/// Processor time in seconds; `None` without `--pid`.
pub(crate) struct Spent(Option<f64>);

impl Cost {
    /// Begins to count.
    pub(crate) fn begin(arguments: &Arguments) -> Self {
        let process = arguments.get("pid");
        Cost { process, nanoseconds: process.map_or(0, nanoseconds) }
    }

    /// Ends to count.
    pub(crate) fn end(self) -> Spent {
        let spent = |process| nanoseconds(process).saturating_sub(self.nanoseconds) as f64 / 1e9;
        Spent(self.process.map(spent))
    }
}

impl Spent {
    /// Records it per `units` moved.
    pub(crate) fn record(&self, record: &mut Record, name: &str, units: f64) {
        if let Some(seconds) = self.0 {
            record.number(name, seconds / units);
        }
    }
}

/// Time on a processor, of the threads alive now: the measured ones keep theirs.
fn nanoseconds(process: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        die(format_args!("process {process} is gone"))
    };
    let of_thread = |thread: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_ascii_whitespace().next()?.parse().ok()
    };
    threads.flatten().filter_map(of_thread).sum()
}
