//! The policy as values, read by an interpreter of BPF; and the cage from inside, in processes of their own.

use std::fs;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, sendto, socket};

use super::filter::*;
use super::policy::*;
use super::*;
use crate::testing::folder::Folder;

const MACHINES: [Machine; 4] = [Machine::X86_64, Machine::Arm64, Machine::Riscv64, Machine::Arm];
const OWN: u32 = 4711;
const REFUSAL: u32 = ERROR | libc::EPERM as u32;
const ABSENT: u32 = ERROR | libc::ENOSYS as u32;

fn process(who: For, loads: bool) -> Process {
    Process { who, loads, listens: who == For::Daemon, musl: false, own: OWN }
}

/// The answer of a program to a call, as seccomp(2) has it.
fn answer(program: &[Instruction], machine: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [number.to_le_bytes(), machine.to_le_bytes()].concat();
    data.extend([0; 8]);
    data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
    let (mut at, mut held) = (0, 0);
    loop {
        let Instruction { code, when, otherwise, value } = program[at];
        at += 1;
        let go = |is: bool| usize::from(if is { when } else { otherwise });
        match code {
            LOAD => {
                let from = value as usize;
                held = u32::from_le_bytes(data[from..from + 4].try_into().unwrap());
            }
            AND => held &= value,
            JUMP => at += value as usize,
            IF_EQUAL => at += go(held == value),
            IF_AT_LEAST => at += go(held >= value),
            RETURN => return value,
            other => panic!("unknown instruction {other}"),
        }
    }
}

fn call(name: &str) -> &'static Call {
    CALLS.iter().find(|call| call.name == name).unwrap_or_else(|| panic!("{name} is not listed"))
}

fn number(name: &str, machine: Machine) -> u32 {
    call(name).numbers(machine).next().unwrap()
}

#[test]
fn each_call_is_allowed_or_refused_on_each_machine_as_the_policy_says() {
    for machine in MACHINES {
        for (who, loads) in [(For::Daemon, false), (For::Tunnel, false), (For::Tunnel, true)] {
            let program = program(machine, process(who, loads), REFUSAL);
            let all =
                || CALLS.iter().flat_map(move |call| call.numbers(machine).map(move |n| (n, call)));
            for other in 0..1024 {
                let found = all().find(|(number, _)| *number == other).map(|(_, call)| call);
                let arguments = [0; 6];
                let expected = match found {
                    Some(call) if ![For::Both, who].contains(&call.who) => REFUSAL,
                    None => REFUSAL,
                    Some(call) => match call.rule {
                        Rule::Port if who == For::Tunnel => REFUSAL,
                        Rule::Any | Rule::Memory | Rule::Port | Rule::Bytes | Rule::Message => {
                            ALLOW
                        }
                        Rule::Absent => ABSENT,
                        // No family, no thread, no such question.
                        _ => REFUSAL,
                    },
                };
                let name = found.map_or("none", |call| call.name);
                let told = answer(&program, machine.audit(), other, arguments);
                assert_eq!(told, expected, "{machine:?}: {other} ({name})");
            }
        }
    }
}

#[test]
fn arguments_decide_where_the_policy_says_so() {
    let tcp = [2, 1 | 0o2000000, 0, 0, 0, 0];
    for machine in MACHINES {
        let program = |loads| program(machine, process(For::Tunnel, loads), REFUSAL);
        let (strict, loading) = (program(false), program(true));
        let ask = |name: &str, arguments: [u64; 6]| {
            answer(&strict, machine.audit(), number(name, machine), arguments)
        };
        assert_eq!(ask("socket", tcp), ALLOW);
        assert_eq!(ask("socket", [1, 1 | 0o4000, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask("socket", [1, 2, 0, 0, 0, 0]), ALLOW);
        for udp in [[2, 2, 0], [10, 2 | 0o4000, 17], [2, 2 | 0o2000000, 6]] {
            let udp = [udp[0], udp[1], udp[2], 0, 0, 0];
            assert_eq!(ask("socket", udp), REFUSAL, "{udp:?} is for who looks names up");
            let number = number("socket", machine);
            assert_eq!(answer(&loading, machine.audit(), number, udp), ALLOW, "{udp:?}");
        }
        for refused in
            [[16, 3, 0], [17, 3, 0], [38, 5, 0], [2, 3, 1], [2, 1, 262], [2, 5, 0], [40, 1, 0]]
        {
            let [family, kind, protocol] = refused;
            assert_eq!(ask("socket", [family, kind, protocol, 0, 0, 0]), REFUSAL, "{refused:?}");
        }
        assert_eq!(ask("clone", [0x3d0f00, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask("clone", [0x7d0f00, 0, 0, 0, 0, 0]), ALLOW);
        // fork, vfork, and threads in another namespace.
        for flags in [0x11, 0x4111, 0x1200011, 0x3d0f00 | 0x10000000, 0x3d0f00 & !0x10000] {
            assert_eq!(ask("clone", [flags, 0, 0, 0, 0, 0]), REFUSAL, "{flags:#x}");
        }
        assert_eq!(ask("tgkill", [u64::from(OWN), 1, 6, 0, 0, 0]), ALLOW);
        assert_eq!(ask("tgkill", [1, 1, 9, 0, 0, 0]), REFUSAL);
        let fast_open = 0x2000_0000;
        for name in ["sendto", "sendmmsg"] {
            assert_eq!(ask(name, [3, 0, 1, 0x4000, 0, 0]), ALLOW);
            assert_eq!(ask(name, [3, 0, 1, 0x4000 | fast_open, 0, 0]), REFUSAL);
        }
        let daemons = super::filter::program(machine, process(For::Daemon, false), REFUSAL);
        let sendmsg = |flags| {
            let number = number("sendmsg", machine);
            answer(&daemons, machine.audit(), number, [3, 0, flags, 0, 0, 0])
        };
        assert_eq!((sendmsg(0x4000), sendmsg(fast_open)), (ALLOW, REFUSAL));
        assert_eq!(ask("prctl", [15, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask("prctl", [4, 0, 0, 0, 0, 0]), REFUSAL, "PR_SET_DUMPABLE");
        assert_eq!(ask("ioctl", [3, 0x5421, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask("ioctl", [3, 0x5412, 0, 0, 0, 0]), REFUSAL, "TIOCSTI");
        assert_eq!(ask("fcntl", [3, 1030, 0, 0, 0, 0]), ALLOW);
        assert_eq!(ask("fcntl", [3, 8, 1, 0, 0, 0]), REFUSAL, "F_SETOWN");
        for name in ["mmap", "mprotect"] {
            assert_eq!(ask(name, [0, 4096, 3, 0, 0, 0]), ALLOW);
            assert_eq!(ask(name, [0, 4096, 5, 0, 0, 0]), REFUSAL, "memory that can be executed");
            let number = number(name, machine);
            assert_eq!(answer(&loading, machine.audit(), number, [0, 4096, 5, 0, 0, 0]), ALLOW);
        }
    }
}

#[test]
fn another_machines_calls_are_refused_and_so_are_those_of_x32() {
    for machine in MACHINES {
        let program = program(machine, process(For::Daemon, false), REFUSAL);
        let read = number("read", machine);
        assert_eq!(answer(&program, machine.audit(), read, [0; 6]), ALLOW);
        for other in [0x4000_0003, 0, 0xc000_003f] {
            assert_eq!(answer(&program, other, read, [0; 6]), REFUSAL, "{other:#x}");
        }
        assert_eq!(answer(&program, machine.audit(), read | 0x4000_0000, [0; 6]), REFUSAL);
    }
}

#[test]
fn a_report_allows_and_notes_what_would_be_refused() {
    let program = program(Machine::X86_64, process(For::Daemon, false), LOG);
    let ask = |number| answer(&program, Machine::X86_64.audit(), number, [0; 6]);
    assert_eq!((ask(59), ask(0), ask(435)), (LOG, ALLOW, ABSENT), "execve, read, clone3");
}

#[test]
fn no_more_than_sixty_system_calls_are_allowed_and_each_has_its_reason() {
    for who in [For::Daemon, For::Tunnel] {
        let allowed = || {
            let calls = CALLS
                .iter()
                .filter(|call| ![Rule::Absent, Rule::Musl, Rule::Tried].contains(&call.rule));
            calls.filter(|call| [For::Both, who].contains(&call.who))
        };
        for machine in [Machine::X86_64, Machine::Arm64, Machine::Riscv64] {
            let count = allowed().flat_map(|call| call.numbers(machine)).count();
            assert!(count <= 60, "{machine:?}: {count}");
        }
        // Some have two forms there.
        let on_arm = allowed().filter(|call| call.numbers(Machine::Arm).next().is_some()).count();
        assert!(on_arm <= 60, "{on_arm}");
    }
    for call in CALLS {
        assert!(call.why.len() > 5, "{}", call.name);
        assert_eq!(
            CALLS.iter().filter(|other| other.name == call.name).count(),
            1,
            "{}",
            call.name
        );
    }
    for machine in MACHINES {
        let longest = program(machine, process(For::Tunnel, true), REFUSAL);
        assert!(longest.len() < 4096);
        let simple = longest.iter().filter(|one| one.code == IF_EQUAL && one.when > 8).count();
        assert!(simple < 250, "their jumps would be too long: {simple}");
    }
}

#[test]
fn what_only_musl_asks_is_allowed_in_its_programs_alone() {
    for (machine, older) in [
        (Machine::X86_64, &[2, 4, 6, 5, 262][..]),
        (Machine::Arm64, &[79, 80]),
        (Machine::Riscv64, &[79, 80]),
        (Machine::Arm, &[5, 195, 196, 197, 327]),
    ] {
        let allowed = |musl| {
            let process = Process { musl, ..process(For::Daemon, false) };
            let program = program(machine, process, REFUSAL);
            (0..1024)
                .filter(move |number| answer(&program, machine.audit(), *number, [0; 6]) == ALLOW)
        };
        let glibcs: Vec<u32> = allowed(false).collect();
        let mut added: Vec<u32> = allowed(true).filter(|number| !glibcs.contains(number)).collect();
        let mut older = older.to_vec();
        added.sort_unstable();
        older.sort_unstable();
        assert_eq!(added, older, "{machine:?}");
    }
}

#[test]
fn old_kernels_are_asked_for_no_more_than_they_know() {
    let cage = Cage::daemon(Sandbox::On, false);
    let about = |version| {
        let (about, size) = cage.about(version);
        (about.files, about.ports, about.scopes != 0, size)
    };
    assert_eq!(about(1), (0x1fff, 0, false, 8));
    assert_eq!(about(2), (0x3fff, 0, false, 8));
    assert_eq!(about(3), (0x7fff, 0, false, 8));
    assert_eq!(about(4), (0x7fff, right::CONNECT, false, 16));
    assert_eq!(about(5), (0xffff, right::CONNECT, false, 16));
    assert_eq!(about(6), (0xffff, right::CONNECT, true, 24));
    assert_eq!(about(99), about(6));
    let ports = |cage: Cage| cage.about(4).0.ports;
    let fixed = || Some(vec![1]);
    assert_eq!(ports(Cage::tunnel(Sandbox::On, false, fixed(), false, false)), 3);
    assert_eq!(ports(Cage::tunnel(Sandbox::On, true, None, true, false)), 0);
}

/// Of the machine that the test is built for.
#[cfg(target_env = "gnu")]
#[test]
fn the_numbers_are_the_kernels() {
    let Some(machine) = Machine::OWN else { return };
    macro_rules! same {
        ($($name:ident $constant:ident)*) => {
            $(assert!(
                call(stringify!($name)).numbers(machine).any(|number| number as libc::c_long == libc::$constant),
                stringify!($name)
            );)*
        };
    }
    same! {
        recvfrom SYS_recvfrom sendto SYS_sendto epoll_pwait SYS_epoll_pwait splice SYS_splice futex SYS_futex
        epoll_ctl SYS_epoll_ctl read SYS_read write SYS_write writev SYS_writev close SYS_close accept4 SYS_accept4
        shutdown SYS_shutdown setsockopt SYS_setsockopt getsockopt SYS_getsockopt
        getsockname SYS_getsockname clock_gettime SYS_clock_gettime getrandom SYS_getrandom socket SYS_socket
        bind SYS_bind listen SYS_listen connect SYS_connect getpeername SYS_getpeername sendmmsg SYS_sendmmsg
        ppoll SYS_ppoll fcntl SYS_fcntl ioctl SYS_ioctl pipe2 SYS_pipe2 sendmsg SYS_sendmsg recvmsg SYS_recvmsg
        eventfd2 SYS_eventfd2 epoll_create1 SYS_epoll_create1 timerfd_create SYS_timerfd_create openat SYS_openat
        statx SYS_statx getdents64 SYS_getdents64 lseek SYS_lseek pread64 SYS_pread64
        fsync SYS_fsync ftruncate SYS_ftruncate flock SYS_flock
        mprotect SYS_mprotect munmap SYS_munmap madvise SYS_madvise brk SYS_brk clone SYS_clone exit SYS_exit
        exit_group SYS_exit_group rt_sigprocmask SYS_rt_sigprocmask sigaltstack SYS_sigaltstack prctl SYS_prctl
        rt_sigaction SYS_rt_sigaction rt_sigreturn SYS_rt_sigreturn restart_syscall SYS_restart_syscall
        getpid SYS_getpid tgkill SYS_tgkill geteuid SYS_geteuid uname SYS_uname clone3 SYS_clone3 rseq SYS_rseq
        set_robust_list SYS_set_robust_list sched_getaffinity SYS_sched_getaffinity gettid SYS_gettid
        mremap SYS_mremap
    }
    #[cfg(target_pointer_width = "64")]
    same! { fstat SYS_fstat fstat SYS_newfstatat statfs SYS_statfs mmap SYS_mmap }
    #[cfg(target_arch = "x86_64")]
    same! {
        poll SYS_poll access SYS_access readlink SYS_readlink unlink SYS_unlink rename SYS_rename
    }
    #[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
    same! { access SYS_faccessat readlink SYS_readlinkat unlink SYS_unlinkat }
    #[cfg(target_arch = "riscv64")]
    same! { rename SYS_renameat2 }
    #[cfg(target_arch = "arm")]
    same! {
        recvfrom SYS_recv sendto SYS_send fcntl SYS_fcntl64 fstat SYS_fstat64 fstat SYS_fstatat64
        statfs SYS_statfs64 mmap SYS_mmap2 lseek SYS__llseek ftruncate SYS_ftruncate64 geteuid SYS_geteuid32
        poll SYS_poll access SYS_access access SYS_faccessat readlink SYS_readlink readlink SYS_readlinkat
        unlink SYS_unlink unlink SYS_unlinkat rename SYS_rename rename SYS_renameat
    }
}

#[test]
fn where_the_sandbox_kills_what_is_tried_all_the_same_is_refused() {
    for machine in MACHINES {
        let program = program(machine, process(For::Daemon, false), KILL);
        let ask = |number| answer(&program, machine.audit(), number, [0; 6]);
        let told =
            ["mkdir", "clone3", "read", "getpeername"].map(|name| ask(number(name, machine)));
        assert_eq!(told, [REFUSAL, ABSENT, ALLOW, KILL]);
        assert_eq!(ask(1023), KILL);
    }
}

/// Runs a test of this file by itself, in a process that may enter a cage.
fn alone(test: &str, folder: &Path) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--nocapture", "--test-threads", "1"]);
    child.arg(format!("os::cage::tests::{test}")).env("CAGE_IN", folder);
    child.output().unwrap()
}

#[track_caller]
fn passes_alone(test: &str, folder: &Path) {
    let output = alone(test, folder);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn where_the_sandbox_kills_a_call_that_is_not_allowed_ends_the_process() {
    let ended = alone("child_whose_cage_kills", &Folder::new());
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.contains("inside") && !said.contains("outlived"), "{said}");
    assert_eq!(ended.status.signal(), Some(libc::SIGSYS), "{:?}", ended.status);
}

#[test]
fn child_whose_cage_kills() {
    if std::env::var_os("CAGE_IN").is_none() {
        return;
    }
    assert_eq!(Cage::daemon(Sandbox::Kill, false).enter(), None);
    let passwd = fs::File::open("/etc/passwd").map_err(|error| error.kind());
    assert_eq!(passwd.err(), Some(io::ErrorKind::PermissionDenied), "files are refused");
    assert_eq!(raw(libc::SYS_clone3), Some(libc::ENOSYS), "as by a kernel without it");
    println!("inside");
    raw(libc::SYS_ptrace);
    println!("outlived it");
}

#[test]
fn from_inside_the_cage_nothing_is_reached_but_what_the_daemon_needs() {
    let folder = Folder::new();
    let own = folder.join("own");
    fs::create_dir(&own).unwrap();
    fs::write(folder.join("other"), "secret").unwrap();
    passes_alone("child_in_the_daemons_cage", &own);
}

#[test]
fn from_inside_a_tunnels_cage_that_resolves_no_name_as_little_is_reached() {
    let folder = Folder::new();
    let own = folder.join("own");
    fs::create_dir(&own).unwrap();
    fs::write(folder.join("other"), "secret").unwrap();
    passes_alone("child_in_a_tunnels_cage", &own);
}

/// One of the calls that no safe function makes, without arguments.
#[expect(unsafe_code, reason = "calls that no safe function makes")]
fn raw(number: libc::c_long) -> Option<i32> {
    // SAFETY: each of those below fails at once with arguments of 0, whether it is allowed or not.
    let returned = unsafe { libc::syscall(number, 0, 0, 0, 0, 0, 0) };
    (returned < 0).then(|| io::Error::last_os_error().raw_os_error().unwrap_or_default())
}

/// What is refused whoever is in the cage `own`.
fn expect_a_cage(own: &Path) {
    let status = fs::read_to_string("/proc/self/status");
    let denied = |what: io::Result<()>, why: &str| {
        let error = what.expect_err(why);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{why}: {error}");
    };
    denied(status.map(drop), "its own status");
    for path in ["/etc/passwd", "/etc/shadow", "/proc/1/environ", "/"] {
        denied(fs::File::open(path).map(drop), path);
    }
    denied(fs::read_dir("/etc").map(drop), "a folder's list");
    denied(
        fs::File::open(own.parent().unwrap().join("other")).map(drop),
        "a file beside its folder",
    );
    denied(fs::write(own.parent().unwrap().join("new"), "x"), "a file beside its folder");
    fs::metadata("/etc/passwd").expect("what the threat model says is not hidden");
    denied(Command::new("/bin/true").status().map(drop), "a process");
    denied(Err(Command::new("/bin/true").exec()), "another program");
    for (family, kind) in [
        (AddressFamily::PACKET, SocketType::RAW),
        (AddressFamily::NETLINK, SocketType::RAW),
        (AddressFamily::VSOCK, SocketType::STREAM),
        (AddressFamily::from_raw(38), SocketType::SEQPACKET),
        (AddressFamily::INET, SocketType::RAW),
        (AddressFamily::INET, SocketType::DGRAM),
        (AddressFamily::INET6, SocketType::DGRAM),
    ] {
        denied(socket(family, kind, None).map(drop).map_err(Into::into), "a socket");
    }
    denied(
        rustix::process::test_kill_process(rustix::process::Pid::INIT).map_err(Into::into),
        "signals",
    );
    for number in [
        libc::SYS_ptrace,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_perf_event_open,
        libc::SYS_memfd_create,
        libc::SYS_process_vm_readv,
        libc::SYS_keyctl,
        libc::SYS_capset,
        libc::SYS_kill,
        libc::SYS_execveat,
        libc::SYS_socketpair,
        libc::SYS_fchmodat,
    ] {
        assert_eq!(raw(number), Some(libc::EPERM), "system call {number}");
    }
    assert_eq!(raw(libc::SYS_clone3), Some(libc::ENOSYS));
}

/// Dials as TCP Fast Open does, by a call that Landlock does not look at.
fn sends_first(to: &std::net::TcpListener) -> rustix::io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32);
    sendto(&socket, b"x", fast_open, &to.local_addr().unwrap()).map(drop)
}

#[test]
fn child_in_the_daemons_cage() {
    let Some(own) = std::env::var_os("CAGE_IN").map(PathBuf::from) else { return };
    let mut cage = Cage::daemon(Sandbox::On, false);
    cage.keeps(&own);
    assert_eq!(cage.enter(), None);
    expect_a_cage(&own);
    // What it needs is there.
    fs::write(own.join("new"), "mapping").unwrap();
    fs::rename(own.join("new"), own.join("state")).unwrap();
    assert_eq!(fs::read(own.join("state")).unwrap(), b"mapping");
    fs::remove_file(own.join("state")).unwrap();
    assert!(fs::read_to_string("/proc/self/statm").unwrap().contains(' '));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dialled = std::net::TcpStream::connect(listener.local_addr().unwrap());
    if kernel::landlock_version().is_ok_and(|version| version >= 4) {
        assert_eq!(dialled.unwrap_err().kind(), io::ErrorKind::PermissionDenied, "it dials nobody");
    }
    let dialled = sends_first(&listener);
    assert_eq!(dialled, Err(Errno::PERM), "nor with bytes before the connection");
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    std::os::unix::net::UnixDatagram::unbound().unwrap();
}

#[test]
fn child_in_a_tunnels_cage() {
    let Some(own) = std::env::var_os("CAGE_IN").map(PathBuf::from) else { return };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = |listener: &std::net::TcpListener| listener.local_addr().unwrap();
    fs::write(own.join("ca.pem"), "ca").unwrap();
    let dials = Some(vec![at(&listener).port()]);
    let mut cage = Cage::tunnel(Sandbox::On, false, dials, false, false);
    cage.reads(&own.join("ca.pem"));
    assert_eq!(cage.enter(), None);
    expect_a_cage(&own);
    assert_eq!(fs::read(own.join("ca.pem")).unwrap(), b"ca");
    assert!(fs::write(own.join("ca.pem"), "x").is_err(), "it writes nothing");
    std::net::TcpStream::connect(at(&listener)).unwrap();
    if kernel::landlock_version().is_ok_and(|version| version >= 4) {
        assert!(std::net::TcpStream::connect(at(&other)).is_err(), "another port");
        assert!(std::net::TcpListener::bind("127.0.0.1:0").is_err(), "it opens no port");
    }
    assert_eq!(
        sends_first(&other),
        Err(Errno::PERM),
        "another port, with bytes before the connection"
    );
    let unbound = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert_eq!(rustix::net::listen(&unbound, 1), Err(Errno::PERM), "one that the kernel chooses");
}
