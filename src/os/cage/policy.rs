//! The system calls that the cage allows, each with its reason: what was seen of the daemon and of `tunnel`
//! under all tests, and what the C library falls back to on other machines.

/// A machine that the policy has the numbers of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(test), expect(dead_code, reason = "a program runs on one of them"))]
pub(super) enum Machine {
    X86_64,
    Arm64,
    Riscv64,
    Arm,
}

impl Machine {
    /// The one that this program is for; `None` for any other.
    pub(super) const OWN: Option<Machine> = match () {
        #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
        () => Some(Machine::X86_64),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        () => Some(Machine::Arm64),
        #[cfg(target_arch = "riscv64")]
        () => Some(Machine::Riscv64),
        #[cfg(all(target_arch = "arm", target_endian = "little"))]
        () => Some(Machine::Arm),
        #[cfg(not(any(
            all(target_arch = "x86_64", target_pointer_width = "64"),
            all(target_arch = "aarch64", target_endian = "little"),
            target_arch = "riscv64",
            all(target_arch = "arm", target_endian = "little"),
        )))]
        () => None,
    };

    /// The kernel's number for it (linux/audit.h).
    pub(super) fn audit(self) -> u32 {
        match self {
            Machine::X86_64 => 0xc000_003e,
            Machine::Arm64 => 0xc000_00b7,
            Machine::Riscv64 => 0xc000_00f3,
            Machine::Arm => 0x4000_0028,
        }
    }
}

/// What an argument has to be: one of `count` values, once only the bits of the mask are left.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    pub(super) argument: u32,
    pub(super) mask: u32,
    pub(super) one_of: [u32; 8],
    pub(super) count: usize,
}

/// For which of the two a call is allowed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    Both,
    Daemon,
    Tunnel,
}

/// What is asked of a call's arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Any,
    /// TCP and local sockets, by their usual protocols; UDP for who looks names up.
    Socket,
    /// Of these, local ones.
    Local,
    /// And TCP.
    Stream,
    /// A thread of this process, as the C library begins one: no process, no namespace.
    Thread,
    /// The thread's name.
    Name,
    /// Not what dials and sends at once (TCP Fast Open), which Landlock does not look at. The flags are the
    /// third argument here.
    Message,
    /// The same where they are the fourth.
    Bytes,
    /// For who opens ports after the start: without a `bind`, the kernel chooses one, and Landlock is not asked.
    Port,
    /// Whether a socket waits, and what waits in it.
    Socketry,
    /// Flags, copies, the size of a pipe: not who is sent signals.
    Descriptor,
    /// This process alone.
    Own,
    /// No memory that can be executed, but for who looks names up: the C library loads what does that.
    Memory,
    /// Answered as by a kernel that has no such call, so that the C library does without.
    Absent,
    /// Any where the C library is musl, which asks older calls, and others than glibc does.
    Musl,
    /// Refused, and no end where others are: what is tried although it may be refused.
    Tried,
}

/// A system call.
pub(super) struct Call {
    #[cfg(test)]
    pub(super) name: &'static str,
    #[cfg(test)]
    pub(super) why: &'static str,
    pub(super) who: For,
    pub(super) rule: Rule,
    /// On x86_64; on arm64 and riscv64, which have the same; on 32-bit Arm. Where a call has two forms,
    /// with 32 and 64 bits of time or size, or of two ages, both.
    numbers: [[u16; 2]; 3],
}

/// No call.
pub(super) const NONE: u16 = u16::MAX;

impl Call {
    /// Its numbers on this machine.
    pub(super) fn numbers(&self, machine: Machine) -> impl Iterator<Item = u32> {
        let column = match machine {
            Machine::X86_64 => 0,
            Machine::Arm64 | Machine::Riscv64 => 1,
            Machine::Arm => 2,
        };
        let numbers = self.numbers[column].into_iter().filter(|number| *number != NONE);
        numbers.map(move |number| match (machine, number) {
            // The one difference: riscv64 renames by a newer call, renameat2.
            (Machine::Riscv64, 38) => 276,
            (_, number) => number.into(),
        })
    }
}

impl Rule {
    /// What its arguments have to be, in the process `own`; all of it.
    pub(super) fn conditions(self, own: u32) -> ([Condition; 3], usize) {
        let any = Condition { argument: 0, mask: 0, one_of: [0; 8], count: 1 };
        let is = |argument, mask, values: &[u32]| {
            let mut one_of = [0; 8];
            one_of[..values.len()].copy_from_slice(values);
            Condition { argument, mask, one_of, count: values.len() }
        };
        const ALL: u32 = u32::MAX;
        /// Of a socket's type; the rest are flags.
        const KIND: u32 = 0xf;
        let one = |condition| ([condition, any, any], 1);
        match self {
            Rule::Any | Rule::Absent | Rule::Musl | Rule::Tried | Rule::Port => ([any; 3], 0),
            Rule::Socket => (
                [
                    is(0, ALL, &[libc::AF_INET, libc::AF_INET6, libc::AF_UNIX].map(|f| f as u32)),
                    is(1, KIND, &[libc::SOCK_STREAM, libc::SOCK_DGRAM].map(|kind| kind as u32)),
                    // Of others, such as MPTCP, Landlock knows no ports.
                    is(2, ALL, &[0, libc::IPPROTO_TCP as u32, libc::IPPROTO_UDP as u32]),
                ],
                3,
            ),
            Rule::Local => (
                [
                    is(0, ALL, &[libc::AF_UNIX as u32]),
                    is(1, KIND, &[libc::SOCK_STREAM, libc::SOCK_DGRAM].map(|kind| kind as u32)),
                    is(2, ALL, &[0]),
                ],
                3,
            ),
            Rule::Stream => (
                [
                    is(0, ALL, &[libc::AF_INET, libc::AF_INET6].map(|family| family as u32)),
                    is(1, KIND, &[libc::SOCK_STREAM as u32]),
                    is(2, ALL, &[0, libc::IPPROTO_TCP as u32]),
                ],
                3,
            ),
            // The bit that is left open says nothing since 2003; musl sets it.
            Rule::Thread => one(is(0, !0x0040_0000, &[0x003d_0f00])),
            Rule::Message => one(is(2, libc::MSG_FASTOPEN as u32, &[0])),
            Rule::Bytes => one(is(3, libc::MSG_FASTOPEN as u32, &[0])),
            Rule::Name => one(is(0, ALL, &[libc::PR_SET_NAME as u32])),
            Rule::Socketry => one(is(
                1,
                ALL,
                &[libc::FIONBIO as u32, libc::TIOCOUTQ as u32, libc::FIONREAD as u32],
            )),
            Rule::Descriptor => one(is(
                1,
                ALL,
                &[
                    libc::F_GETFD,
                    libc::F_SETFD,
                    libc::F_GETFL,
                    libc::F_SETFL,
                    libc::F_DUPFD_CLOEXEC,
                    libc::F_SETPIPE_SZ,
                    libc::F_GETPIPE_SZ,
                ]
                .map(|command| command as u32),
            )),
            Rule::Own => one(is(0, ALL, &[own])),
            Rule::Memory => one(is(2, libc::PROT_EXEC as u32, &[0])),
        }
    }
}

macro_rules! calls {
    ($($name:literal $x86:tt $generic:tt $arm:tt $who:ident $rule:ident $why:literal)*) => {
        /// Those that are made often first: an old kernel looks through them one after the other.
        pub(super) static CALLS: &[Call] = &[$(Call {
            #[cfg(test)]
            name: $name,
            #[cfg(test)]
            why: $why,
            who: For::$who,
            rule: Rule::$rule,
            numbers: [numbers(&$x86), numbers(&$generic), numbers(&$arm)],
        }),*];
    };
}

const fn numbers(given: &[u16]) -> [u16; 2] {
    match *given {
        [] => [NONE, NONE],
        [one] => [one, NONE],
        [one, two, ..] => [one, two],
    }
}

calls! {
    // Name, x86_64, arm64 and riscv64, 32-bit Arm.
    "recvfrom" [45] [207] [292, 291] Both Any "bytes of peers"
    "sendto" [44] [206] [290, 289] Both Bytes "bytes to peers, and lines to syslog and the service manager"
    "epoll_pwait" [281] [22] [346] Both Any "waiting for peers"
    "splice" [275] [76] [340] Both Any "plain bytes in bulk, through the kernel alone"
    "futex" [202] [98] [240, 422] Both Any "threads that wait for each other"
    "epoll_ctl" [233] [21] [251] Both Any "which peers are waited for"
    "read" [0] [63] [3] Both Any "files, and the pipe that carries signals"
    "write" [1] [64] [4] Both Any "files, stderr, waking another thread"
    "writev" [20] [66] [146] Both Any "several pieces to a peer at once"
    "close" [3] [57] [6] Both Any "what is open"
    "accept4" [288] [242] [366] Both Any "peers that come"
    "shutdown" [48] [210] [293] Both Any "the end of one direction"
    "setsockopt" [54] [208] [294] Both Any "keepalive, delays, how a connection ends"
    "getsockopt" [55] [209] [295] Both Any "why a connection failed, and whether its peer is alive"
    "getsockname" [51] [204] [286] Both Any "the port of a socket"
    "clock_gettime" [228] [113] [263, 403] Both Any "the time, where the kernel's page does not tell it"
    "getrandom" [318] [278] [384] Both Any "keys and names"

    "socket" [41] [198] [281] Both Socket "ports of mappings, dials, names, syslog again"
    "bind" [49] [200] [282] Both Any "ports of mappings that are added"
    "listen" [50] [201] [284] Both Port "the same"
    "connect" [42] [203] [283] Both Any "syslog again; dials and the resolver"
    "getpeername" [52] [205] [287] Tunnel Any "whether a dial has come through"
    "sendmmsg" [307] [269] [374] Tunnel Bytes "the resolver asks for both families at once"
    "poll" [7] [] [168] Tunnel Any "the resolver waits"
    "ppoll" [271] [73] [336, 414] Both Any "whether stderr takes a line; the resolver waits"
    "fcntl" [72] [25] [221, 55] Both Descriptor "whether a file waits, copies of sockets, the size of a pipe"
    "ioctl" [16] [29] [54] Both Socketry "whether a socket waits, and what waits in it"
    "pipe2" [293] [59] [359] Both Any "the pipe that plain bytes in bulk pass through"
    "eventfd2" [290] [19] [356] Both Any "an event loop of a worker"
    "epoll_create1" [291] [20] [357] Both Any "the same"

    "openat" [257] [56] [322] Both Any "files; which ones, Landlock says"
    "open" [2] [] [5] Both Musl "the same"
    "statx" [332] [291] [397] Both Any "what a file is"
    "fstat" [5, 262] [80, 79] [197, 327] Tunnel Any "the same, by the C library for folders and the resolver's files"
    "fstat by musl" [5, 262] [80, 79] [197, 327] Daemon Musl "the same for all files"
    "stat" [4, 6] [] [195, 196] Both Musl "the same"
    "readv" [19] [65] [145] Tunnel Musl "the resolver's files"
    "access" [21] [48] [334, 33] Both Any "why a file cannot be used, in words"
    "sendmsg" [46] [211] [296] Daemon Message "files for a program that takes this one's place"
    "recvmsg" [47] [212] [297] Daemon Any "its words"
    "recvmsg by musl" [47] [212] [297] Tunnel Musl "what the resolver is answered"
    "readlink" [89] [78] [85, 332] Daemon Any "where the state file really is"
    "statfs" [137] [43] [266] Daemon Any "whether the log's disk is full"
    "getdents64" [217] [61] [217] Tunnel Any "the folder of tunnels"
    "lseek" [8] [62] [19, 140] Both Any "how much of a file is left"
    "pread64" [17] [67] [180] Tunnel Any "the C library loads what looks names up"
    "unlink" [87] [35] [10, 328] Both Any "sockets that are left at the end, files that were replaced"
    "rename" [82] [38] [38, 329] Daemon Any "a new state file, an old log file"
    "fsync" [74] [82] [118] Daemon Any "the state on disk"
    "ftruncate" [77] [46] [194, 93] Both Any "a state file that cannot be renamed over; the lock's file at the end"
    "flock" [73] [32] [143] Daemon Any "one writer of the state file"

    "mmap" [9] [222] [192] Both Memory "memory, stacks of threads"
    "mprotect" [10] [226] [125] Both Memory "a stack's guard"
    "munmap" [11] [215] [91] Both Any "memory that is given back"
    "madvise" [28] [233] [220] Both Any "the same"
    "brk" [12] [214] [45] Both Any "memory"

    "clone" [56] [220] [120] Both Thread "workers, and threads for what may block"
    "rseq" [334] [293] [398] Both Any "a thread that begins; the C library ends the process without"
    "exit" [60] [93] [1] Both Any "the end of a thread"
    "exit_group" [231] [94] [248] Both Any "the end of the process"
    "rt_sigprocmask" [14] [135] [175] Both Any "no signal while a thread begins"
    "sigaltstack" [131] [132] [186] Both Any "a stack that overflows is said"
    "prctl" [157] [167] [172] Both Name "names of threads"
    "rt_sigaction" [13] [134] [174] Both Any "a fault of memory ends the process"
    "rt_sigreturn" [15] [139] [173] Both Any "the end of a signal's handler"
    "restart_syscall" [219] [128] [0] Both Any "a wait that goes on after SIGSTOP and SIGCONT"
    "getpid" [39] [172] [20] Both Any "the C library aborts"
    "gettid" [186] [178] [224] Both Any "the same"
    "tgkill" [234] [131] [268] Both Own "the same"
    "geteuid" [107] [175] [201, 49] Both Any "who may not use a file, in words"
    "uname" [63] [160] [122] Both Any "the machine's own name: for callers of the API, and as the resolver's own domain"

    "tkill" [200] [130] [238] Both Tried "musl aborts, which then is a fault of memory: this could end any process of the user"
    "mkdir" [83] [34] [39, 323] Daemon Tried "a log folder that is gone: the log says so"

    // Its flags cannot be looked at, since they lie in memory: the C library falls back to `clone`.
    "clone3" [435] [435] [435] Both Absent "instead of clone"
    "set_robust_list" [273] [99] [338] Both Absent "no lock is shared with another process"
    "sched_getaffinity" [204] [123] [242] Both Absent "the start has counted the processors"
    "timerfd_create" [283] [85] [350] Both Absent "the event loop of signals needs no timer"
    "mremap" [25] [216] [163] Both Absent "memory that grows is copied"
}
