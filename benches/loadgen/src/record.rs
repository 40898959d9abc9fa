//! One measurement as a line of JSON on stdout.

use std::fmt::Write;

/// The fields so far.
pub(crate) struct Record(String);

impl Record {
    /// Of this command.
    pub(crate) fn new(command: &str) -> Self {
        Record(format!("{{\"command\":\"{command}\""))
    }

    /// Adds a number; JSON has no infinities, so that those become `null`.
    pub(crate) fn number(&mut self, name: &str, value: f64) {
        // Writing to a string cannot fail.
        let _ = if value.is_finite() {
            write!(self.0, ",\"{name}\":{value:.4}")
        } else {
            write!(self.0, ",\"{name}\":null")
        };
    }

    /// Adds the quantiles of latencies in nanoseconds, as microseconds.
    pub(crate) fn latencies(&mut self, mut nanoseconds: Vec<u32>) {
        nanoseconds.sort_unstable();
        for (name, quantile) in [("p50_us", 0.5), ("p90_us", 0.9), ("p99_us", 0.99)] {
            let place = (nanoseconds.len() as f64 * quantile).ceil() as usize;
            let value = nanoseconds.get(place.saturating_sub(1));
            self.number(name, value.map_or(f64::NAN, |value| f64::from(*value) / 1000.0));
        }
    }

    /// Prints it.
    pub(crate) fn print(self) {
        println!("{}}}", self.0);
    }
}
