//! What the kernel says of the daemon, and the line through it.

use std::fmt;
use std::fs;
use std::time::Instant;

use super::Site;

/// One look at a daemon.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Time since the start, in hours.
    pub hours: f64,
    /// Descriptors, without spare kernel pipes.
    pub files: usize,
    /// Resident memory in KiB.
    pub resident: f64,
    /// Of it, what the program has written. The rest is pages of files, of which there are ever
    /// more the more of the program has been used, up to its size.
    pub own: f64,
    /// Threads.
    pub threads: usize,
    /// Processor time used since its start, in seconds.
    pub processor: f64,
    /// Bytes of log files and stderr.
    pub log: u64,
}

/// A straight line through samples, by least squares.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// Gain an hour.
    pub slope: f64,
    /// The standard error of the slope, from the scatter around the line.
    pub error: f64,
}

impl Sample {
    /// Looks now.
    pub fn take(site: &Site, start: Instant) -> Self {
        let daemon = &site.daemon;
        let folder = format!("/proc/{}", daemon.pid().as_raw_nonzero());
        let memory = fs::read_to_string(format!("{folder}/smaps_rollup")).expect("/proc");
        let kib = |name: &str| {
            let line = memory.lines().find(|line| line.starts_with(name)).expect("its line");
            line.split_whitespace().nth(1).expect("a number").parse::<f64>().expect("a number")
        };
        let size = |path| fs::metadata(path).map_or(0, |file| file.len());
        let old = daemon.log_file().with_extension("log.1");
        Sample {
            hours: start.elapsed().as_secs_f64() / 3600.0,
            files: site.files(),
            resident: kib("Rss:"),
            own: kib("Anonymous:"),
            threads: fs::read_dir(format!("{folder}/task")).expect("/proc").count(),
            processor: daemon.ticks() as f64 / 100.0,
            log: size(daemon.log_file())
                + size(old)
                + u64::try_from(daemon.stderr().len()).expect("64 bits"),
        }
    }

    /// This look, with the least memory and descriptors of both.
    pub fn or_less(self, other: Self) -> Self {
        Sample {
            files: self.files.min(other.files),
            resident: self.resident.min(other.resident),
            own: self.own.min(other.own),
            ..self
        }
    }

    /// As a row of the table.
    pub fn row(&self) -> String {
        format!(
            "{:6.1} {:6} {:8} {:8} {:8} {:12.1} {:8}\n",
            self.hours * 60.0,
            self.files,
            self.resident,
            self.own,
            self.threads,
            self.processor,
            self.log / 1024
        )
    }
}

impl Line {
    /// The line through at least three samples' values; anything through fewer is flat.
    pub fn through(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> Self {
        if samples.len() < 3 {
            return Line { slope: 0.0, error: f64::INFINITY };
        }
        let count = samples.len() as f64;
        let points: Vec<_> = samples.iter().map(|sample| (sample.hours, value(sample))).collect();
        let middle = points.iter().fold((0.0, 0.0), |sum, (x, y)| (sum.0 + x, sum.1 + y));
        let (x0, y0) = (middle.0 / count, middle.1 / count);
        let spread: f64 = points.iter().map(|(x, _)| (x - x0).powi(2)).sum();
        let slope = points.iter().map(|(x, y)| (x - x0) * (y - y0)).sum::<f64>() / spread;
        let rest: f64 = points.iter().map(|(x, y)| (y - y0 - slope * (x - x0)).powi(2)).sum();
        Line { slope, error: (rest / (count - 2.0) / spread).sqrt() }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ± {:.0}", self.slope, self.error)
    }
}

#[test]
fn a_line_is_found_with_the_uncertainty_of_its_slope() {
    let sample = |minute: u32| Sample {
        hours: f64::from(minute) / 60.0,
        files: 100,
        // 120 KiB an hour, with a swing of 1 KiB.
        resident: 4000.0,
        own: 1000.0 + 2.0 * f64::from(minute) + f64::from(minute % 2),
        threads: 5,
        processor: 0.0,
        log: 0,
    };
    let samples: Vec<_> = (0..60).map(sample).collect();
    let memory = Line::through(&samples, |sample| sample.own);
    assert!((memory.slope - 120.0).abs() < 1.0, "{memory}");
    assert!((0.1..1.0).contains(&memory.error), "{memory}");
    let files = Line::through(&samples, |sample| sample.files as f64);
    assert_eq!((files.slope, files.error), (0.0, 0.0));
    assert!(Line::through(&samples[..2], |sample| sample.own).error.is_infinite());
}
