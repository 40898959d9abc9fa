//! The system calls that the event loops need, made safe to call.

use std::io;
use std::net::SocketAddrV4;
use std::os::fd::RawFd;
use std::ptr::null_mut;
use std::sync::OnceLock;
use std::time::Instant;

use libc::c_int;

/// Standard input.
pub(crate) const INPUT: RawFd = 0;

pub(crate) const IN: u32 = libc::EPOLLIN as u32;
pub(crate) const OUT: u32 = libc::EPOLLOUT as u32;
pub(crate) const EDGE: u32 = libc::EPOLLET as u32;
pub(crate) const ENDED: u32 = libc::EPOLLRDHUP as u32;
pub(crate) const HUP: u32 = libc::EPOLLHUP as u32;
pub(crate) const ERR: u32 = libc::EPOLLERR as u32;

/// Raises the soft limit of open files to the hard one, and makes writing to a closed connection
/// an error instead of a signal.
pub(crate) fn prepare() {
    // SAFETY: both calls take a valid struct of this frame, or plain numbers.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn check_int(result: c_int) -> io::Result<RawFd> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Whether an operation has only to be tried again later.
pub(crate) fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Nanoseconds since the first call.
pub(crate) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

fn address(of: &SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: of.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(of.ip().octets()) },
        sin_zero: [0; 8],
    }
}

const ADDRESS: u32 = size_of::<libc::sockaddr_in>() as u32;

fn socket() -> io::Result<RawFd> {
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: plain numbers.
    check_int(unsafe { libc::socket(libc::AF_INET, kind, 0) })
}

fn switch_on(fd: RawFd, level: c_int, option: c_int) {
    let on: c_int = 1;
    // SAFETY: the value is a c_int of this frame, and its size is given.
    unsafe { libc::setsockopt(fd, level, option, (&raw const on).cast(), 4) };
}

/// A non-blocking listener.
pub(crate) fn listen(at: &SocketAddrV4) -> io::Result<RawFd> {
    let fd = socket()?;
    switch_on(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR);
    let at = address(at);
    // SAFETY: the address is a sockaddr_in of this frame, and its size is given.
    check_int(unsafe { libc::bind(fd, (&raw const at).cast(), ADDRESS) })?;
    // SAFETY: plain numbers.
    check_int(unsafe { libc::listen(fd, 4096) })?;
    Ok(fd)
}

/// The next connection of a listener, non-blocking.
pub(crate) fn accept(listener: RawFd) -> io::Result<RawFd> {
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no address is asked for.
    let fd = check_int(unsafe { libc::accept4(listener, null_mut(), null_mut(), flags) })?;
    switch_on(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    Ok(fd)
}

/// Begins to connect; the socket is writable once that is done.
pub(crate) fn connect(to: &SocketAddrV4) -> io::Result<RawFd> {
    let fd = socket()?;
    switch_on(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY);
    let to = address(to);
    // SAFETY: the address is a sockaddr_in of this frame, and its size is given.
    let connected = check_int(unsafe { libc::connect(fd, (&raw const to).cast(), ADDRESS) });
    match connected {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            close(fd);
            Err(error)
        }
        _ => Ok(fd),
    }
}

/// Closes a file.
pub(crate) fn close(fd: RawFd) {
    // SAFETY: a plain number; whoever calls gives the file up.
    unsafe { libc::close(fd) };
}

/// Ends this side's direction.
pub(crate) fn finish(fd: RawFd) {
    // SAFETY: plain numbers.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Reads into `buffer`.
pub(crate) fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are the buffer's.
    check(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// Writes some of `bytes`.
pub(crate) fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are the slice's.
    check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) })
}

/// Writes some of several slices.
pub(crate) fn write_vectored(fd: RawFd, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
    let count = slices.len().min(64) as c_int;
    // SAFETY: IoSlice has iovec's layout, as std guarantees, and `count` is within the slice.
    check(unsafe { libc::writev(fd, slices.as_ptr().cast(), count) })
}

/// Receives up to `count` bytes and throws them away in the kernel, so that a sink costs little.
pub(crate) fn discard(fd: RawFd, count: usize) -> io::Result<usize> {
    // SAFETY: TCP copies nothing with MSG_TRUNC, so that the pointer is never used.
    check(unsafe { libc::recv(fd, null_mut(), count, libc::MSG_TRUNC) })
}

/// Bytes from `from` (a socket or the reading end of a pipe) to `to` within the kernel.
pub(crate) fn splice(from: RawFd, to: RawFd, count: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: no offsets are given.
    check(unsafe { libc::splice(from, null_mut(), to, null_mut(), count, flags) })
}

/// A non-blocking pipe of `size` bytes: its reading and its writing end.
pub(crate) fn pipe(size: usize) -> io::Result<[RawFd; 2]> {
    let mut ends = [-1; 2];
    // SAFETY: the array holds the two numbers that are written.
    check_int(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
    // SAFETY: plain numbers. A smaller pipe works as well.
    unsafe { libc::fcntl(ends[1], libc::F_SETPIPE_SZ, size as c_int) };
    Ok(ends)
}

/// Bytes in memory that [`send_file`] can send.
pub(crate) fn memory_file(bytes: &[u8]) -> io::Result<RawFd> {
    // SAFETY: the name is a constant C string.
    let fd = check_int(unsafe { libc::memfd_create(c"loadgen".as_ptr(), libc::MFD_CLOEXEC) })?;
    let mut written = 0;
    while written < bytes.len() {
        written += write(fd, &bytes[written..])?;
    }
    Ok(fd)
}

/// Sends up to `count` bytes of `file`, from `offset` on, without copying them.
pub(crate) fn send_file(
    socket: RawFd,
    file: RawFd,
    offset: usize,
    count: usize,
) -> io::Result<usize> {
    let mut offset = offset as libc::off_t;
    // SAFETY: the offset is a variable of this frame.
    check(unsafe { libc::sendfile(socket, file, &mut offset, count) })
}

/// Asks a process to end.
pub(crate) fn terminate(process: u32) {
    // SAFETY: plain numbers.
    unsafe { libc::kill(process as c_int, libc::SIGTERM) };
}

/// An epoll instance; events carry the number given with a file.
pub(crate) struct Epoll(RawFd);

/// One event: its flags and the file's number.
pub(crate) type Event = (u32, u64);

impl Epoll {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: a plain number.
        check_int(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Epoll)
    }

    fn control(&self, operation: c_int, fd: RawFd, events: u32, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: number };
        // SAFETY: the event is a struct of this frame.
        check_int(unsafe { libc::epoll_ctl(self.0, operation, fd, &mut event) }).map(drop)
    }

    /// Watches a file.
    pub(crate) fn add(&self, fd: RawFd, events: u32, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, events, number)
    }

    /// Watches it for something else.
    pub(crate) fn change(&self, fd: RawFd, events: u32, number: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, events, number)
    }

    /// Waits for events, `timeout` milliseconds at most (-1: for ever), into `events`.
    pub(crate) fn wait(&self, events: &mut Vec<Event>, timeout: c_int) {
        let mut found = [libc::epoll_event { events: 0, u64: 0 }; 512];
        // SAFETY: pointer and length are the array's.
        let count =
            unsafe { libc::epoll_wait(self.0, found.as_mut_ptr(), found.len() as c_int, timeout) };
        events.clear();
        events.extend(found.iter().take(count.max(0) as usize).map(|e| (e.events, e.u64)));
    }
}

/// The error that a connection has met, if any.
pub(crate) fn socket_error(fd: RawFd) -> Option<io::Error> {
    let (mut error, mut size): (c_int, libc::socklen_t) = (0, 4);
    // SAFETY: value and size are variables of this frame.
    unsafe {
        let (value, size) = ((&raw mut error).cast(), &raw mut size);
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, value, size);
    }
    (error != 0).then(|| io::Error::from_raw_os_error(error))
}
