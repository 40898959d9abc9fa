//! Every input that is kept, and every one that once broke a promise, without the engine.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// The files of `folder` for a target, in order.
fn inputs(folder: &str, target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target);
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    let mut inputs: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            (path.display().to_string(), fs::read(&path).expect("an input"))
        })
        .collect();
    inputs.sort();
    inputs
}

fn replay(target: &str) {
    // One at a time: targets count the open files.
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (_, check) = fuzz::TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let kept = inputs("corpus", target);
    assert!(!kept.is_empty(), "no corpus for {target}");
    let empty = [("nothing".to_owned(), Vec::new())];
    for (name, input) in kept.into_iter().chain(inputs("regressions", target)).chain(empty) {
        assert!(catch_unwind(|| check(&input)).is_ok(), "{name} breaks a promise");
    }
}

macro_rules! replays {
    ($($target:ident),*) => {
        $(#[test] fn $target() { replay(stringify!($target)); })*

        #[test]
        fn no_target_is_left_out() {
            let replayed = [$(stringify!($target)),*];
            assert!(fuzz::TARGETS.iter().map(|(name, _)| *name).eq(replayed));
        }
    };
}

replays!(
    certificate,
    form,
    frames,
    greeting,
    http,
    mapping,
    passcode,
    proxy,
    records,
    session,
    settings,
    state
);
