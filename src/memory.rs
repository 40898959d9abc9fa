//! Gives freed memory back to the machine.
//!
//! glibc keeps what is freed, and a heap of its own for each thread: after a burst of sessions a
//! gateway would miss those megabytes until the next restart.

use std::ops::Range;

/// Makes all threads share one heap. To be called before there are threads.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    glibc::share_heap();
}

/// Whether the free memory has changed much since [`give_back`].
pub fn has_changed() -> bool {
    #[cfg(target_env = "gnu")]
    return glibc::has_changed();
    #[cfg(not(target_env = "gnu"))]
    false
}

/// Gives back what is free. [`tidy`] first, on each thread that has freed much.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    glibc::give_back();
}

/// Lets this thread part with the small pieces that it has freed: glibc keeps up to
/// [`tidy::PIECES`] of each size for every thread, and each keeps the page that it lies in.
///
/// There is no call for that. A piece that is taken, grown beyond the sizes that are kept, and
/// freed again is joined with what is free around it.
pub fn tidy() {
    const WORD: usize = size_of::<usize>();
    for size in (0..tidy::SIZES).map(|number| (3 + 2 * number) * WORD) {
        let mut pieces: [Vec<u8>; tidy::PIECES] = std::array::from_fn(|_| Vec::with_capacity(size));
        // From the highest on: each grows into the one that has just been freed.
        pieces.sort_unstable_by_key(|piece| std::cmp::Reverse(piece.as_ptr()));
        for mut piece in pieces {
            piece.reserve_exact((3 + 2 * tidy::SIZES) * WORD);
            std::hint::black_box(&piece);
        }
    }
}

mod tidy {
    /// Sizes that are kept: two words apart, from three words on.
    pub(super) const SIZES: usize = 64;
    /// Pieces kept of each.
    pub(super) const PIECES: usize = 7;
}

/// Lets go of the pages of program and libraries that only the start has used: they stay in the
/// kernel's file cache, where they may give way to the gateway's own files, and what is used
/// again is mapped again from there.
pub fn forget_start() {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    unwritten(&smaps).into_iter().for_each(let_go);
}

/// The addresses of what is mapped from files and holds nothing but what they hold: nobody may
/// write there, and nobody has. `smaps` has the form of proc_pid_smaps(5).
fn unwritten(smaps: &str) -> Vec<Range<usize>> {
    /// What counts the pages that differ from the file.
    const OWN: [&str; 2] = ["Anonymous:", "Swap:"];
    let mut found = Vec::new();
    let mut mapping = None;
    let mut none = 0;
    for line in smaps.lines() {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        match words[..] {
            [name, "0", "kB"] if OWN.contains(&name) => none += 1,
            [addresses, rights, _, _, inode, _] if !addresses.ends_with(':') => {
                let may_be = !rights.contains('w') && inode != "0";
                mapping = range(addresses).filter(|_| may_be);
                none = 0;
            }
            // The last line of each mapping.
            ["VmFlags:", ..] => found.extend(mapping.take().filter(|_| none == OWN.len())),
            _ => {}
        }
    }
    found
}

/// Two addresses, as in `7f00-8f00`.
fn range(addresses: &str) -> Option<Range<usize>> {
    let (start, end) = addresses.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    Some(address(start)?..address(end)?)
}

#[expect(unsafe_code, reason = "no safe wrapper knows what lies in memory")]
fn let_go(mapping: Range<usize>) {
    // SAFETY: what was mapped from a file and not changed is mapped again when it is used. What
    // the kernel cannot let go, it leaves.
    unsafe {
        libc::madvise(mapping.start as *mut libc::c_void, mapping.len(), libc::MADV_DONTNEED);
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own functions, which no safe wrapper offers")]
mod glibc {
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A change of the free memory that is worth looking at, in bytes.
    const MUCH: usize = 64 * 1024;

    /// Free memory after the last time, in bytes. What was given back still counts as free.
    static FREE: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn share_heap() {
        // SAFETY: it sets a number.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }

    pub(super) fn has_changed() -> bool {
        free().abs_diff(FREE.load(Ordering::Relaxed)) >= MUCH
    }

    pub(super) fn give_back() {
        // SAFETY: it takes the allocator's lock and touches only what is free.
        unsafe { libc::malloc_trim(0) };
        FREE.store(free(), Ordering::Relaxed);
    }

    fn free() -> usize {
        // SAFETY: it reads the allocator's counters. They are ints that may wrap around beyond
        // 2 GiB, which makes the comparison wrong and nothing else.
        let info = unsafe { libc::mallinfo() };
        info.fordblks as u32 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_files_hold_is_let_go() {
        let mapping = |head: &str, anonymous, swap| {
            format!(
                "{head}\nSize: 8 kB\nRss: 8 kB\nAnonymous: {anonymous} kB\nSwap: {swap} kB\n\
                 VmFlags: rd mr mw me\n"
            )
        };
        for (head, anonymous, swap, goes) in [
            ("1000-3000 r-xp 00000000 fe:00 1234 /usr/bin/program", 0, 0, true),
            ("1000-3000 r--p 00000000 fe:00 1234 /usr/bin/program", 0, 0, true),
            ("1000-3000 r--p 00000000 fe:00 1234 /usr/bin/relocated", 8, 0, false),
            ("1000-3000 r--p 00000000 fe:00 1234 /usr/bin/relocated", 0, 8, false),
            ("1000-3000 rw-p 00000000 fe:00 1234 /usr/bin/program", 0, 0, false),
            ("1000-3000 rw-p 00000000 00:00 0 [heap]", 0, 0, false),
            ("1000-3000 r-xp 00000000 00:00 0 [vdso]", 0, 0, false),
            ("1000-3000 r-xp 00000000 00:00 0", 0, 0, false),
            ("1000-3000 r-xp 00000000 fe:00 1234 /tmp/gone (deleted)", 0, 0, false),
        ] {
            let text = mapping("4000-5000 rw-p 00000000 00:00 0", 4, 0)
                + &mapping(head, anonymous, swap)
                + &mapping("6000-7000 rw-p 00000000 00:00 0", 4, 0);
            let expected = goes.then_some(0x1000..0x3000);
            assert_eq!(unwritten(&text).pop(), expected, "{head} {anonymous} {swap}");
        }
        assert_eq!(unwritten("1000-3000 r-xp 00000000 fe:00 1 /x\nVmFlags: rd\n"), vec![]);
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        assert!(!unwritten(&smaps).is_empty());
        forget_start();
        assert!(std::fs::read_to_string("/proc/self/smaps").is_ok());
    }

    #[test]
    fn a_tidy_thread_has_its_memory() {
        let kept: Vec<Vec<u8>> = (0..1000).map(|n| vec![7; n]).collect();
        drop(kept.clone());
        tidy();
        give_back();
        assert!(kept.iter().enumerate().all(|(n, piece)| *piece == vec![7; n]));
    }
}
