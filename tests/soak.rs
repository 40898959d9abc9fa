//! A long life: two daemons, plain and in TLS, under churn for as long as `tests/soak` says.
//! Descriptors, memory, threads, processor time and the log are sampled every 10 s and judged at
//! the end, with every acknowledged change and every byte.

mod churn;
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use churn::{Line, Sample, Site};
use common::*;

/// Sessions begun a second, over both daemons.
const RATE: f64 = 50.0;
/// Time between samples, each of which has the least memory of several looks.
const SAMPLE: Duration = Duration::from_secs(10);
const LOOKS: u32 = 10;
/// Memory that may be gained, in KiB an hour.
const SLOPE: f64 = 50.0;
/// Runs shorter than this say nothing of memory: the slope's own uncertainty is above the goal.
const LONG: Duration = Duration::from_secs(20 * 60);
/// What the log file and its predecessor hold at most, and a line.
const LOG: u64 = 2 * 1024 * 1024 + 8 * 1024;

#[test]
#[ignore = "lasts as long as it is told: tests/soak 30m"]
fn long_life_gains_nothing_and_loses_nothing() {
    let seconds = std::env::var("SOAK_SECONDS").expect("SOAK_SECONDS, which tests/soak sets");
    let length = Duration::from_secs(seconds.parse().expect("SOAK_SECONDS is a number"));
    let mut sites = [Mode::Plain, Mode::Tls].map(|mode| Site::new(mode, RATE / 2.0));
    let mut samples = [Vec::new(), Vec::new()];
    let start = Instant::now();
    while start.elapsed() < length {
        let mut round = [None, None];
        for _ in 0..LOOKS {
            thread::sleep(SAMPLE / LOOKS);
            for (site, least) in sites.iter().zip(&mut round) {
                let now = Sample::take(site, start);
                *least = Some(least.map_or(now, |least| now.or_less(least)));
            }
        }
        for (samples, sample) in samples.iter_mut().zip(round) {
            samples.extend(sample);
        }
        if samples[0].len() % 30 == 0 {
            eprintln!("{}", progress(&sites, &samples));
        }
    }
    let mut failures = Vec::new();
    sites.iter_mut().for_each(Site::calm);
    for (site, samples) in sites.iter_mut().zip(&samples) {
        let mode = format!("{:?}", site.daemon.mode);
        let state = site.check_state();
        let emptied = empty(site);
        print!("{}", table(&mode, site, samples, &emptied));
        let mut faults = judge(site, samples, length, &emptied);
        match state {
            Ok(count) => println!("state at the end: {count} mappings, as acknowledged\n"),
            Err(why) => faults.push(why),
        }
        faults.extend(stop(site));
        failures.extend(faults.into_iter().map(|fault| format!("{mode}: {fault}")));
    }
    if failures.is_empty() {
        println!("all is well");
    } else {
        panic!("{}", failures.join("\n"));
    }
}

/// Sends everybody home; the descriptors and the memory that stay.
fn empty(site: &mut Site) -> Sample {
    let start = Instant::now();
    site.empty();
    // Connections are kept for up to 30 s for their last bytes, API ones too.
    let deadline = Instant::now() + 2 * PATIENCE;
    while site.files() > site.quiet_files && Instant::now() < deadline {
        thread::sleep(ms(100));
    }
    // Freed memory is given back at the next housekeeping, every 5 s.
    thread::sleep(ms(6000));
    Sample::take(site, start)
}

fn judge(site: &Site, samples: &[Sample], length: Duration, emptied: &Sample) -> Vec<String> {
    let tally = &site.tally;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut faults = Vec::new();
    let mut none = |count: u64, what: &str| {
        if count > 0 {
            faults.push(format!("{count} {what}"));
        }
    };
    none(get(&tally.foreign), "sessions with foreign bytes");
    none(get(&tally.lost), "sessions lost bytes");
    none(get(&tally.refused), "times an agent was refused or could not connect");
    none(get(&tally.wrong), "other promises not kept");
    none(get(&tally.unanswered).saturating_sub(get(&tally.crashes)), "users too many unanswered");
    let most = samples.iter().map(|sample| sample.log).max().unwrap_or(0);
    none(most.saturating_sub(LOG), "bytes of log beyond its bound");
    none(
        u64::try_from(emptied.files.saturating_sub(site.quiet_files)).expect("a count"),
        "descriptors are left when everybody has gone",
    );
    if get(&tally.whole) == 0 || get(&tally.changes) == 0 || get(&tally.reloads) == 0 {
        faults.push("nothing was tried".to_owned());
    }
    let threads = samples.iter().map(|sample| sample.threads);
    if threads.clone().min() != threads.max() && length >= LONG {
        let late = &samples[samples.len() / 2..];
        let (first, last) = (late[0].threads, late[late.len() - 1].threads);
        if first < last {
            faults.push(format!("threads grew from {first} to {last}"));
        }
    }
    if length >= LONG {
        let memory = Line::through(second_part(samples), |sample| sample.own);
        if memory.slope - 2.0 * memory.error > SLOPE {
            faults.push(format!("memory climbs by {memory} KiB an hour"));
        }
        let files = Line::through(second_part(samples), |sample| sample.files as f64);
        // A descriptor a minute would be a leak; the load's own swing is several.
        if files.slope - 2.0 * files.error > 60.0 {
            faults.push(format!("descriptors climb by {files} an hour"));
        }
    }
    faults.extend(tally.told());
    faults
}

/// SIGTERM; what was wrong with the end.
fn stop(site: &mut Site) -> Vec<String> {
    let mut faults = Vec::new();
    let Some(daemon) = Arc::get_mut(&mut site.daemon) else {
        return vec!["somebody still uses the daemon".to_owned()];
    };
    let exit = daemon.stop();
    if exit.status.code() != Some(0) {
        faults.push(format!("SIGTERM ends it with {}", exit.status));
    }
    if exit.stderr.contains("panicked") {
        faults.push(exit.stderr);
    }
    faults
}

fn second_part(samples: &[Sample]) -> &[Sample] {
    &samples[samples.len() / 3..]
}

fn progress(sites: &[Site], samples: &[Vec<Sample>]) -> String {
    let parts = sites.iter().zip(samples).map(|(site, samples)| {
        let last = samples[samples.len() - 1];
        format!(
            "{:?}: {} sessions, {} files, {} KiB, {:.1} s of processor",
            site.daemon.mode,
            site.tally.begun.load(Ordering::Relaxed),
            last.files,
            last.resident,
            last.processor
        )
    });
    let minutes = samples[0][samples[0].len() - 1].hours * 60.0;
    format!("{minutes:.0} min; {}", parts.collect::<Vec<_>>().join("; "))
}

fn table(mode: &str, site: &Site, samples: &[Sample], emptied: &Sample) -> String {
    let tally = &site.tally;
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut text = format!("{mode} mode, {:.1} min\n", samples[samples.len() - 1].hours * 60.0);
    text.push_str("   min  files  RSS KiB  own KiB  threads  processor s  log KiB\n");
    for sample in samples.iter().step_by((samples.len() / 12).max(1)).chain([emptied]) {
        text.push_str(&sample.row());
    }
    text.push_str("(the last row: minutes since the end of the load, everybody gone)\n");
    let second = second_part(samples);
    let memory = Line::through(second, |sample| sample.own);
    let files = Line::through(second, |sample| sample.files as f64);
    text.push_str(&format!(
        "slope over the last {:.0} min: memory {memory} KiB/h, descriptors {files} per hour\n",
        (second[second.len() - 1].hours - second[0].hours) * 60.0
    ));
    text.push_str(&format!(
        "sessions: {} begun, {} whole ({} MiB), {} reset as planned, {} unanswered beside {} \
         agents that vanished\n",
        get(&tally.begun),
        get(&tally.whole),
        get(&tally.bytes) >> 20,
        get(&tally.reset),
        get(&tally.unanswered),
        get(&tally.crashes)
    ));
    text.push_str(&format!(
        "foreign bytes in {}, bytes lost in {}; agents refused {}; {} other faults\n",
        get(&tally.foreign),
        get(&tally.lost),
        get(&tally.refused),
        get(&tally.wrong)
    ));
    text.push_str(&format!(
        "{} changes, {} reloads, {} certificates taken, {} bad ones not taken\n",
        get(&tally.changes),
        get(&tally.reloads),
        get(&tally.certificates),
        get(&tally.bad_certificates)
    ));
    text
}
