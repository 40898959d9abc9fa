//! Gives freed memory back to the machine.
//!
//! glibc keeps what is freed, and a heap of its own for each thread: after a burst of sessions a
//! gateway would miss those megabytes until the next restart.

use std::thread;

/// Makes all threads share one heap. To be called before there are threads.
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    glibc::share_heap();
}

/// Whether much memory may be given back since [`give_back`] has done so: there is more or less
/// that is free, or other parts of it have been in use meanwhile.
pub fn has_changed() -> bool {
    #[cfg(target_env = "gnu")]
    return glibc::has_changed();
    #[cfg(not(target_env = "gnu"))]
    false
}

/// Gives back what is free. [`tidy()`] first, on each thread that has freed much.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    glibc::give_back();
}

/// Gives up the small pieces that this thread has freed: glibc keeps up to [`tidy::PIECES`] of each
/// size for every thread, and each keeps the page that it lies in.
///
/// There is no call for that, but a thread that ends keeps nothing: the pieces are taken, and
/// freed by a thread that does only this.
pub fn tidy() {
    const WORD: usize = size_of::<usize>();
    let sizes = (0..tidy::SIZES).map(|number| (3 + 2 * number) * WORD);
    let piece = |size| (0..tidy::PIECES).map(move |_| Vec::<u8>::with_capacity(size));
    let pieces: Vec<_> = sizes.flat_map(piece).collect();
    let thread = thread::Builder::new().name("tidy".into()).stack_size(tidy::STACK);
    // Without a thread they are freed here, and kept as they were.
    if let Ok(thread) = thread.spawn(move || drop(pieces)) {
        let _ = thread.join();
    }
}

mod tidy {
    /// Sizes that are kept: two words apart, from three words on.
    pub(super) const SIZES: usize = 64;
    /// Pieces kept of each.
    pub(super) const PIECES: usize = 7;
    /// Stack of the thread that frees them, in bytes.
    pub(super) const STACK: usize = 64 * 1024;
}

/// Unmaps the pages of program and libraries that only the start has used. They stay in the
/// kernel's file cache, which may drop them in favour of other files, and are mapped again from
/// there when they are used.
pub fn forget_start() {
    program::unwritten().into_iter().for_each(program::let_go);
}

#[expect(unsafe_code, reason = "no safe wrapper knows what the loader has mapped")]
mod program {
    use std::ffi::{CStr, c_int, c_void};
    use std::ops::Range;
    use std::slice;

    /// The addresses of what holds nothing but what the files of program and libraries hold: the
    /// segments that were never writable. What the loader relocates lies in the others, even if
    /// it is protected afterwards, so that /proc/self/maps could not tell.
    pub(super) fn unwritten() -> Vec<Range<usize>> {
        let mut found: Vec<Range<usize>> = Vec::new();
        // SAFETY: `collect` is called on this thread, before this returns, and given `found`.
        unsafe { libc::dl_iterate_phdr(Some(collect), (&raw mut found).cast()) };
        // SAFETY: it returns a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let Ok(page @ 1..) = usize::try_from(page) else { return Vec::new() };
        // Segments begin anywhere, mappings with a page.
        found.into_iter().map(|segment| segment.start / page * page..segment.end).collect()
    }

    /// Adds the segments of one file.
    ///
    /// # Safety
    /// `found` points to a `Vec` of address ranges that nobody else uses, the rest is as
    /// dl_iterate_phdr(3) says.
    unsafe extern "C" fn collect(
        file: *mut libc::dl_phdr_info,
        _size: usize,
        found: *mut c_void,
    ) -> c_int {
        // SAFETY: the loader gives a table of so many headers and a name that live as long as
        // the file is mapped; `found` is what `unwritten` has passed.
        let (base, segments, name, found) = unsafe {
            let file = &*file;
            (
                file.dlpi_addr as usize,
                slice::from_raw_parts(file.dlpi_phdr, file.dlpi_phnum.into()),
                CStr::from_ptr(file.dlpi_name).to_bytes(),
                &mut *found.cast::<Vec<Range<usize>>>(),
            )
        };
        // The program has no name, libraries have a path; the kernel's vDSO is no file.
        if name.first().is_none_or(|&first| first == b'/') {
            let read_only = segments
                .iter()
                .filter(|s| s.p_type == libc::PT_LOAD && s.p_flags & libc::PF_W == 0);
            found.extend(read_only.map(|segment| {
                let start = base.wrapping_add(segment.p_vaddr as usize);
                start..start.wrapping_add(segment.p_filesz as usize)
            }));
        }
        0
    }

    pub(super) fn let_go(segment: Range<usize>) {
        // SAFETY: what was mapped from a file and not changed is mapped again when it is used.
        // What the kernel cannot let go, it leaves.
        unsafe {
            libc::madvise(segment.start as *mut c_void, segment.len(), libc::MADV_DONTNEED);
        }
    }
}

#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "the allocator's own functions, which no safe wrapper offers")]
mod glibc {
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A change of the free memory that is worth looking at, in bytes.
    const MUCH: usize = 64 * 1024;

    /// Growth of the memory in use that is worth looking at, in pages of mostly 4 KiB.
    const PAGES: usize = 16;

    /// Free memory after the last time, in bytes. What was given back still counts as free.
    static FREE: AtomicUsize = AtomicUsize::new(0);

    /// The process's own pages after the last time. Adding and removing mappings may leave as much
    /// free as before and yet touch other parts of the heap each time: without this figure, all of
    /// it would be in use in the end.
    static USED: AtomicUsize = AtomicUsize::new(0);

    pub(super) fn share_heap() {
        // SAFETY: it sets a number.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    }

    pub(super) fn has_changed() -> bool {
        free().abs_diff(FREE.load(Ordering::Relaxed)) >= MUCH
            || used() >= USED.load(Ordering::Relaxed) + PAGES
    }

    pub(super) fn give_back() {
        // SAFETY: it takes the allocator's lock and touches only what is free.
        unsafe { libc::malloc_trim(0) };
        FREE.store(free(), Ordering::Relaxed);
        USED.store(used(), Ordering::Relaxed);
    }

    /// The process's own pages in memory, those of no file; 0 without /proc.
    fn used() -> usize {
        let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let mut pages = statm.split(' ').skip(1).map_while(|pages| pages.parse::<usize>().ok());
        let (resident, shared) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
        resident.saturating_sub(shared)
    }

    /// Free memory, in bytes. What a thread keeps does not count.
    pub(super) fn free() -> usize {
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
        /// Addresses, which the loader writes.
        static RELOCATED: [&str; 2] = ["one", "two"];
        let segments = program::unwritten();
        let holds = |address: usize| segments.iter().any(|segment| segment.contains(&address));
        assert!(holds(forget_start as fn() as usize), "code");
        assert!(holds(RELOCATED[1].as_ptr() as usize), "constants");
        assert!(!holds(std::hint::black_box(&RELOCATED).as_ptr() as usize), "relocated");
        assert!(!holds(&raw const segments as usize), "the stack");
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        assert!(!program::unwritten().is_empty());
        forget_start();
        // What needs relocated addresses, of program and loader.
        let thread = thread::spawn(|| format!("{:?}", std::fs::metadata("/proc/self/smaps")));
        assert!(thread.join().unwrap().starts_with("Ok"));
    }

    #[test]
    fn a_tidy_thread_has_its_memory() {
        let kept: Vec<Vec<u8>> = (0..1000).map(|n| vec![7; n]).collect();
        drop(kept.clone());
        tidy();
        give_back();
        assert!(kept.iter().enumerate().all(|(n, piece)| *piece == vec![7; n]));
    }

    /// In a process of its own, where no other test takes and frees memory.
    #[cfg(target_env = "gnu")]
    #[test]
    fn small_pieces_that_a_thread_has_freed_are_free_for_all() {
        const CHILD: &str = "IOFOG_TEST_TIDY";
        if std::env::var_os(CHILD).is_none() {
            let name = "os::memory::tests::small_pieces_that_a_thread_has_freed_are_free_for_all";
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact", "--test-threads=1"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&child.stdout).into_owned();
            assert!(child.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        share_heap();
        let size = |number: usize| (3 + 2 * (number % tidy::SIZES)) * size_of::<usize>();
        let number = tidy::SIZES * tidy::PIECES;
        // Those that are freed lie between others that are not.
        let mut pieces: Vec<Vec<u8>> =
            (0..2 * number).map(|n| Vec::with_capacity(size(n / 2))).collect();
        let kept: Vec<_> = (0..number).map(|n| std::mem::take(&mut pieces[2 * n])).collect();
        let all: usize = (0..number).map(size).sum();
        drop(pieces);
        let before = glibc::free();
        tidy();
        let gained = glibc::free().saturating_sub(before);
        assert!(gained > all / 2, "{gained} of {all} bytes");
        drop(kept);
    }
}
