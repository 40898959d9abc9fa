//! What the measured process costs.

use std::fs;

use crate::arguments::{Arguments, die};
use crate::record::Record;

/// What the connector calls the threads that carry sessions.
const WORKER: &str = "worker-";

/// The processor time of a process's threads at one moment, to compare a later one with.
pub(crate) struct Cost {
    process: Option<u32>,
    before: Vec<Thread>,
}

/// What has been spent since; `None` without `--pid`.
pub(crate) struct Spent(Option<Vec<Thread>>);

/// A thread and its time on a processor, in nanoseconds.
struct Thread {
    id: String,
    name: String,
    nanoseconds: u64,
}

impl Cost {
    /// Begins to count for `--pid`.
    pub(crate) fn begin(arguments: &Arguments) -> Self {
        let process = arguments.get("pid");
        Cost { process, before: process.map(threads).unwrap_or_default() }
    }

    /// Begins to count for this process.
    pub(crate) fn of(process: u32) -> Self {
        Cost { process: Some(process), before: threads(process) }
    }

    /// Ends to count.
    pub(crate) fn end(self) -> Spent {
        Spent(self.process.map(|process| {
            let mut after = threads(process);
            for thread in &mut after {
                let before = self.before.iter().find(|before| before.id == thread.id);
                thread.nanoseconds -= before.map_or(0, |before| before.nanoseconds);
            }
            after
        }))
    }
}

impl Spent {
    /// Records seconds per `units` moved.
    pub(crate) fn record(&self, record: &mut Record, name: &str, units: f64) {
        if let Some(threads) = &self.0 {
            let nanoseconds: u64 = threads.iter().map(|thread| thread.nanoseconds).sum();
            record.number(name, nanoseconds as f64 / 1e9 / units);
        }
    }

    /// Records the share of `elapsed` seconds that the busiest and the least busy of the
    /// connector's workers ran.
    pub(crate) fn record_workers(&self, record: &mut Record, elapsed: f64) {
        let workers = self.0.iter().flatten().filter(|thread| thread.name.starts_with(WORKER));
        let mut shares: Vec<f64> =
            workers.map(|worker| worker.nanoseconds as f64 / 1e9 / elapsed).collect();
        shares.sort_by(f64::total_cmp);
        if let [least, ..] = shares[..] {
            record.number("least_worker", least);
            record.number("busiest_worker", shares[shares.len() - 1]);
        }
    }
}

/// The threads alive now: the measured ones keep theirs.
fn threads(process: u32) -> Vec<Thread> {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        die(format_args!("process {process} is gone"))
    };
    let of_thread = |thread: fs::DirEntry| -> Option<Thread> {
        let read = |name| fs::read_to_string(thread.path().join(name)).ok();
        let nanoseconds = read("schedstat")?.split_ascii_whitespace().next()?.parse().ok()?;
        let id = thread.file_name().to_string_lossy().into_owned();
        Some(Thread { id, name: read("comm")?, nanoseconds })
    };
    threads.flatten().filter_map(of_thread).collect()
}
