//! The fuzzing engine's entry: `FUZZ` names the target, the arguments are libFuzzer's.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::{Corpus, fuzz_target};

static TARGET: OnceLock<fuzz::Check> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("FUZZ").expect("FUZZ names the target");
        let (_, target) =
            fuzz::TARGETS.iter().find(|(known, _)| *known == name).expect("a known target");
        // As Rust does before `main`: `splice` to a connection that is gone must be an error.
        // SAFETY: no handler is installed.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
        TARGET.set(*target).expect("set once");
    },
    |data: &[u8]| -> Corpus {
        // What a target makes nothing of is not worth keeping.
        let target = TARGET.get().expect("init has run");
        if target(data) { Corpus::Keep } else { Corpus::Reject }
    }
);
