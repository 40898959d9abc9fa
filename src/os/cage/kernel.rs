//! The kernel's calls for the cage: seccomp(2), landlock(7).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use super::filter::Instruction;

/// `struct landlock_ruleset_attr`: what rules are about. An older kernel knows the beginning alone.
#[repr(C)]
pub(super) struct Ruleset {
    pub(super) files: u64,
    pub(super) ports: u64,
    pub(super) scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct Beneath {
    access: u64,
    folder: i32,
}

/// `struct landlock_net_port_attr`.
#[repr(C)]
struct Port {
    access: u64,
    port: u64,
}

const BENEATH: libc::c_long = 1;
const PORT: libc::c_long = 2;

fn result(returned: libc::c_long) -> io::Result<libc::c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Has every thread of the process make its system calls through the program, for ever.
#[expect(unsafe_code, reason = "no safe wrapper offers it")]
pub(super) fn filter(program: &mut [Instruction], flags: libc::c_ulong) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: program.len() as u16,
        // The same four fields.
        filter: program.as_mut_ptr().cast(),
    };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the kernel copies so many instructions from there, and checks them.
    let returned = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    match result(returned)? {
        0 => Ok(()),
        // A thread with a filter of its own.
        _ => Err(io::Error::other("a thread has another filter")),
    }
}

/// The version of the kernel's Landlock.
#[expect(unsafe_code, reason = "no safe wrapper offers it")]
pub(super) fn landlock_version() -> io::Result<libc::c_long> {
    let number = libc::SYS_landlock_create_ruleset;
    // SAFETY: with this flag it is given no memory and returns a number.
    result(unsafe { libc::syscall(number, ptr::null::<Ruleset>(), 0_usize, 1_u32) })
}

/// A set of rules, `size` bytes of which the kernel knows.
#[expect(unsafe_code, reason = "no safe wrapper offers it")]
pub(super) fn rules(about: &Ruleset, size: usize) -> io::Result<OwnedFd> {
    let number = libc::SYS_landlock_create_ruleset;
    let size = size.min(size_of::<Ruleset>());
    // SAFETY: the kernel reads so many bytes from there, and returns a descriptor that is ours.
    unsafe {
        let made = result(libc::syscall(number, ptr::from_ref(about), size, 0_u32))?;
        Ok(OwnedFd::from_raw_fd(made as i32))
    }
}

/// Allows this in the folder, or with the file.
pub(super) fn allow_beneath(rules: &OwnedFd, folder: impl AsFd, access: u64) -> io::Result<()> {
    add(rules, BENEATH, &Beneath { access, folder: folder.as_fd().as_raw_fd() })
}

/// Allows this with the TCP port.
pub(super) fn allow_port(rules: &OwnedFd, port: u16, access: u64) -> io::Result<()> {
    add(rules, PORT, &Port { access, port: port.into() })
}

#[expect(unsafe_code, reason = "no safe wrapper offers it")]
fn add<R>(rules: &OwnedFd, kind: libc::c_long, rule: &R) -> io::Result<()> {
    let number = libc::SYS_landlock_add_rule;
    // SAFETY: the kernel reads the struct that belongs to the kind.
    let returned =
        unsafe { libc::syscall(number, rules.as_raw_fd(), kind, ptr::from_ref(rule), 0_u32) };
    result(returned).map(drop)
}

/// Puts the rules in force for this thread and those that it will begin, for ever.
#[expect(unsafe_code, reason = "no safe wrapper offers it")]
pub(super) fn restrict(rules: &OwnedFd) -> io::Result<()> {
    // SAFETY: it is given a descriptor and no memory.
    let returned =
        unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0_u32) };
    result(returned).map(drop)
}
