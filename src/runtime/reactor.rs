//! One thread's event loop: what is ready, what time it is, and who waits for it.
//!
//! A relay forwards a small message with one `epoll_wait`, one `recv` and one `send`. To get
//! there an operation is tried first; the socket is registered when it has to be waited for the
//! first time, edge-triggered, and never re-armed; timers are the `epoll_wait`'s time-out. The
//! futures themselves run on smol's executors: this file owns nothing but readiness and time, and
//! knows nothing of tunnels or TLS.
//!
//! Each thread that calls [`block_on`] has a reactor of its own, which nobody else touches: an
//! [`Io`] must be used and dropped on the thread that made it ([`Io::into_inner`] takes the socket
//! to another one). Only [`Alarm`] is for all threads.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::net::{RecvFlags, SocketFlags};
use slab::Slab;
use smol::io::{AsyncRead, AsyncWrite};

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// Time between two looks at the kernel while there is something to do: short beside anything that
/// somebody waits for, and a hundred times as long as a look.
const LOOK: Duration = Duration::from_micros(200);

/// The key of the reactor's own wake-up among its sources.
const WAKE: u64 = u64::MAX;

/// The thread is polling futures; a wake-up needs no system call.
const POLLING: u8 = 0;
/// The thread waits in the kernel; a wake-up writes to its eventfd.
const SLEEPING: u8 = 1;
/// A wake-up came: the thread polls again before it waits.
const NOTIFIED: u8 = 2;

/// Readiness of a source, as the edges tell it and `EAGAIN` takes it back.
const READ: u8 = 1;
const WRITE: u8 = 2;
/// The peer has ended its direction: reading never waits again.
const ENDED: u8 = 4;
/// Both directions are gone (reset, or closed after an error).
const GONE: u8 = 8;
/// The connection has broken (reset, or timed out): what has come in can still be read.
const BROKEN: u8 = 32;
/// Urgent data has come: a read stops short of it, and says nothing about what follows.
const URGENT: u8 = 16;

thread_local! {
    static CURRENT: OnceCell<Reactor> = const { OnceCell::new() };
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    static LOOKS: Cell<u32> = const { Cell::new(0) };
}

/// The time at which this thread last came back from the kernel: exact enough for activity and
/// deadlines, and free.
pub fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// How often this thread has looked at the kernel, modulo 2^32: another number, another turn.
pub fn looks() -> u32 {
    LOOKS.get()
}

/// As if this thread had looked so often.
#[cfg(test)]
pub fn set_looks(looks: u32) {
    LOOKS.set(looks);
}

/// Wakes the polling task again after everything else that is ready has been seen. A task that
/// wakes itself is polled again before the kernel is asked, hundreds of times on executors within
/// executors.
pub fn yield_turn(context: &Context<'_>) {
    let yielded =
        with(|reactor| reactor.yielded.borrow_mut().push(context.waker().clone())).is_some();
    if !yielded {
        context.waker().wake_by_ref();
    }
}

/// Runs an executor's tasks on this thread for ever, one with each call of `tick`; the kernel is
/// looked at every [`LOOK`], and after each task that takes longer. An executor's own `run` goes on
/// for 200 tasks, hundreds of times where executors run within executors. (`LocalExecutor::run` also
/// has a queue of 8 KiB for other threads to take from, which every mapping would have.)
pub async fn run<T>(tick: impl AsyncFn()) -> T {
    loop {
        tick().await;
        if now().elapsed() >= LOOK {
            look().await;
        }
    }
}

/// Goes on when the kernel has been looked at.
pub async fn look() {
    let looked = looks();
    poll_fn(|context| {
        if looks() != looked {
            return Poll::Ready(());
        }
        yield_turn(context);
        Poll::Pending
    })
    .await;
}

/// Runs `future` to its end on this thread, with the thread's reactor.
///
/// # Errors
/// When the kernel grants no epoll or eventfd (the limit of open files), or fails to wait.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    if with(|_| ()).is_none() {
        let reactor = Reactor::new()?;
        let _ = CURRENT.try_with(|current| _ = current.get_or_init(|| reactor));
    }
    let alarm = with(|reactor| reactor.alarm.clone()).ok_or_else(no_reactor)?;
    let waker = Waker::from(alarm.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut events = Vec::with_capacity(EVENTS);
    NOW.set(Some(Instant::now()));
    loop {
        alarm.state.swap(POLLING, Ordering::AcqRel);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        with(|reactor| reactor.wait(&mut events)).ok_or_else(no_reactor)??;
    }
}

/// Does something with this thread's reactor, if it has one.
fn with<T>(what: impl FnOnce(&Reactor) -> T) -> Option<T> {
    CURRENT.try_with(|current| current.get().map(what)).ok().flatten()
}

fn no_reactor() -> io::Error {
    io::Error::other("this thread has no event loop")
}

struct Reactor {
    number: u32,
    epoll: OwnedFd,
    alarm: Arc<Alarm>,
    sources: RefCell<Slab<Source>>,
    timers: RefCell<Timers>,
    /// Tasks that go on once the kernel has been asked what else is ready.
    yielded: RefCell<Vec<Waker>>,
    /// Those to wake now, and otherwise the room for them.
    woken: RefCell<Vec<Waker>>,
}

#[derive(Default)]
struct Timers {
    next_key: u64,
    by_deadline: BTreeMap<(Instant, u64), Waker>,
}

#[derive(Default)]
struct Source {
    ready: u8,
    /// What the kernel watches; nothing before it has been waited for.
    watched: EventFlags,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Makes a thread poll again that waits in the kernel.
struct Alarm {
    state: AtomicU8,
    wake: OwnedFd,
}

impl Reactor {
    fn new() -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, each write is an event of its own, so that it need not be read.
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        Ok(Reactor {
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            epoll,
            alarm: Arc::new(Alarm { state: AtomicU8::new(POLLING), wake }),
            sources: RefCell::default(),
            timers: RefCell::default(),
            yielded: RefCell::default(),
            woken: RefCell::default(),
        })
    }

    /// Waits for events, the next timer or a wake-up from another thread, and wakes who waits.
    fn wait(&self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
        let state = &self.alarm.state;
        let asleep =
            state.compare_exchange(POLLING, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let idle = asleep && self.yielded.borrow().is_empty();
        let mut timeout = if idle { self.until_next_timer() } else { Some(AT_ONCE) };
        let mut woken = self.woken.take();
        let mut rounds = 0;
        // A timer that fires says that nothing has come, so the kernel is first let tell of
        // everything that has: more than fits in one answer, or what came while the process stood
        // still, whose end (SIGCONT) interrupts the wait.
        while self.take_events(events, timeout, &mut woken)?
            && rounds <= self.sources.borrow().len() / EVENTS
        {
            rounds += 1;
            timeout = Some(AT_ONCE);
        }
        let now = Instant::now();
        NOW.set(Some(now));
        LOOKS.set(LOOKS.get().wrapping_add(1));
        self.fire(now, &mut woken);
        woken.append(&mut self.yielded.borrow_mut());
        // Nothing is borrowed any more: a waker may run what it likes.
        for waker in woken.drain(..) {
            waker.wake();
        }
        woken.shrink_to(EVENTS);
        self.woken.replace(woken);
        Ok(())
    }

    /// Waits for events, marks their sources and takes who waits for them; `true` when there may
    /// be more events.
    fn take_events(
        &self,
        events: &mut Vec<epoll::Event>,
        timeout: Option<Timespec>,
        woken: &mut Vec<Waker>,
    ) -> io::Result<bool> {
        events.clear();
        let waited =
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref());
        self.alarm.state.swap(POLLING, Ordering::AcqRel);
        match waited {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        let mut sources = self.sources.borrow_mut();
        for event in events.iter() {
            let key = event.data.u64();
            if key != WAKE {
                if let Some(source) = sources.get_mut(key as usize) {
                    source.signal(event.flags, woken);
                }
            }
        }
        Ok(events.len() == events.capacity())
    }

    /// Time to the next timer, in whole milliseconds rounded up: the oldest kernels we serve
    /// count no finer, and a timer must not be early.
    fn until_next_timer(&self) -> Option<Timespec> {
        let timers = self.timers.borrow();
        let (&(deadline, _), _) = timers.by_deadline.first_key_value()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = left.as_nanos().div_ceil(1_000_000).min(86_400_000) as i64;
        Some(Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 })
    }

    fn fire(&self, now: Instant, woken: &mut Vec<Waker>) {
        let mut timers = self.timers.borrow_mut();
        while let Some(entry) = timers.by_deadline.first_entry() {
            if entry.key().0 > now {
                break;
            }
            woken.push(entry.remove());
        }
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING {
            // It can only fail when 2^64 wake-ups are unread; then the thread is awake anyway.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }
}

impl Source {
    fn signal(&mut self, flags: EventFlags, woken: &mut Vec<Waker>) {
        let mut ready = 0;
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            ready |= READ | WRITE | ENDED | GONE;
        }
        if flags.contains(EventFlags::ERR) {
            ready |= BROKEN;
        }
        if flags.contains(EventFlags::RDHUP) {
            ready |= READ | ENDED;
        }
        if flags.contains(EventFlags::IN) {
            ready |= READ;
        }
        if flags.contains(EventFlags::PRI) {
            ready |= READ | URGENT;
        }
        if flags.contains(EventFlags::OUT) {
            ready |= WRITE;
        }
        self.ready |= ready;
        if ready & READ != 0 {
            woken.extend(self.reader.take());
        }
        if ready & WRITE != 0 {
            woken.extend(self.writer.take());
        }
    }

    /// Has the kernel watch a socket for more than it does so far.
    fn watch(
        &mut self,
        epoll: &OwnedFd,
        key: u32,
        socket: impl AsFd,
        direction: u8,
    ) -> io::Result<()> {
        let input = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET;
        let wanted = if direction == WRITE { input | EventFlags::OUT } else { input };
        if self.watched.contains(wanted) {
            return Ok(());
        }
        let data = EventData::new_u64(key.into());
        // The kernel tells at once what is ready already.
        if self.watched.is_empty() {
            epoll::add(epoll, socket, data, wanted)?;
        } else {
            epoll::modify(epoll, socket, data, wanted)?;
        }
        self.watched = wanted;
        Ok(())
    }

    fn waiting(&mut self, direction: u8) -> &mut Option<Waker> {
        if direction == WRITE { &mut self.writer } else { &mut self.reader }
    }
}

/// A socket of this thread's reactor. Dropping it closes the socket.
pub struct Io<T: AsFd> {
    place: Place,
    inner: T,
}

/// A source's place among those of its reactor, given back when dropped. The kernel forgets a
/// socket by itself when it is closed.
struct Place {
    reactor: u32,
    key: u32,
}

impl Place {
    /// Does something with the source here, if this is its thread.
    fn with<R>(&self, what: impl FnOnce(&mut Source) -> R) -> Option<R> {
        with(|reactor| {
            let mut sources = reactor.sources.borrow_mut();
            let source = sources.get_mut(self.key as usize);
            source.filter(|_| reactor.number == self.reactor).map(what)
        })
        .flatten()
    }

    fn is(&self, bits: u8) -> bool {
        self.with(|source| source.ready & bits != 0).unwrap_or(false)
    }

    fn clear(&self, bits: u8) {
        self.with(|source| source.ready &= !bits);
    }

    /// Keeps the waker of the polling task for the next event of `direction`, which the kernel
    /// watches from the first time on.
    fn wait(&self, context: &Context<'_>, direction: u8, socket: impl AsFd) -> io::Result<()> {
        with(|reactor| {
            let mut sources = reactor.sources.borrow_mut();
            let source = sources.get_mut(self.key as usize);
            let source = source.filter(|_| reactor.number == self.reactor);
            let source = source.ok_or_else(no_reactor)?;
            source.watch(&reactor.epoll, self.key, socket, direction)?;
            match source.waiting(direction) {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            Ok(())
        })
        .unwrap_or_else(|| Err(no_reactor()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let source = with(|reactor| {
            let mut sources = reactor.sources.borrow_mut();
            (reactor.number == self.reactor).then(|| sources.try_remove(self.key as usize))
        });
        // With nothing borrowed, because wakers are dropped with it.
        drop(source);
    }
}

impl<T: AsFd> Io<T> {
    /// Takes a non-blocking socket into this thread's reactor.
    ///
    /// # Errors
    /// When the thread has none.
    pub fn new(inner: T) -> io::Result<Self> {
        // Assumed ready: the first operation is tried, not waited for.
        let source = Source { ready: READ | WRITE, ..Source::default() };
        let place = with(|reactor| Place {
            reactor: reactor.number,
            key: reactor.sources.borrow_mut().insert(source) as u32,
        });
        Ok(Io { place: place.ok_or_else(no_reactor)?, inner })
    }

    /// Takes a listening socket, which the kernel speaks of when somebody comes: to ask each of a
    /// thousand that are opened together whether somebody is there would take its time.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn listening(inner: T) -> io::Result<Self> {
        let io = Self::new(inner)?;
        io.place.clear(READ);
        Ok(io)
    }

    /// The socket itself.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Takes the socket out of this thread's reactor, for another thread's.
    pub fn into_inner(self) -> T {
        if self.place.with(|source| source.watched.is_empty()) == Some(false) {
            // A failure means that the kernel does not watch it any more, which is what is wanted.
            with(|reactor| _ = epoll::delete(&reactor.epoll, self.inner.as_fd()));
        }
        self.inner
    }

    /// Whether something may have come in that has not been looked at yet.
    pub fn maybe_readable(&self) -> bool {
        self.place.is(READ)
    }

    /// Whether both directions are known to be gone.
    pub fn is_gone(&self) -> bool {
        self.place.is(GONE)
    }

    /// Tries `operation` whenever the socket may be readable, until it gives anything but
    /// `WouldBlock`.
    pub fn poll_read_with<R>(
        &self,
        context: &Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(context, READ, operation)
    }

    /// Tries `operation` whenever the socket may be writable, until it gives anything but
    /// `WouldBlock`.
    pub fn poll_write_with<R>(
        &self,
        context: &Context<'_>,
        operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(context, WRITE, operation)
    }

    fn poll_with<R>(
        &self,
        context: &Context<'_>,
        direction: u8,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if !self.place.is(direction) {
                return match self.place.wait(context, direction, &self.inner) {
                    Ok(()) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error)),
                };
            }
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.place.clear(direction);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Ready when the connection has broken, or cannot be watched, for who does not read now.
    pub fn poll_broken(&self, context: &Context<'_>) -> Poll<()> {
        if self.place.is(BROKEN) || self.place.wait(context, READ, &self.inner).is_err() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Ready when the peer has ended its direction or the connection is gone, or cannot be watched,
    /// for who does not read now.
    pub fn poll_ended(&self, context: &Context<'_>) -> Poll<()> {
        if self.place.is(ENDED) || self.place.wait(context, READ, &self.inner).is_err() {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Whether the peer is known to have ended its direction, whatever is left to be read.
    pub fn has_ended(&self) -> bool {
        self.place.is(ENDED)
    }

    /// Ready when both directions are gone, or cannot be watched, for who does not want to read.
    pub fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        if self.place.is(GONE) || self.place.wait(context, READ, &self.inner).is_err() {
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl<T: AsFd> Io<T> {
    /// Returns when somebody has come to a listener, who is left there.
    pub async fn come(&self) {
        let come = poll_fn(|context| {
            self.poll_read_with(context, |listener| {
                let mut asked = [PollFd::new(listener, PollFlags::IN)];
                let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
                match rustix::event::poll(&mut asked, Some(&at_once))? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            })
        });
        // What is wrong with it, accepting says.
        let _ = come.await;
    }

    /// The next connection of a listener, non-blocking and closed on exec.
    ///
    /// # Errors
    /// As `accept4(2)`: the caller pauses when there are no files left.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, peer) = poll_fn(|context| {
            self.poll_read_with(context, |listener| {
                Ok(rustix::net::acceptfrom_with(listener, flags)?)
            })
        })
        .await?;
        let peer = peer
            .and_then(|peer| SocketAddr::try_from(peer).ok())
            .ok_or_else(|| io::Error::from(io::ErrorKind::ConnectionAborted))?;
        Ok((TcpStream::from(socket), peer))
    }
}

impl Io<TcpStream> {
    /// Receives into `buffer`; 0 is the end of the stream. `buffer` must not be empty.
    pub fn poll_recv(&self, context: &Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let room = buffer.len();
        let received = self.poll_read_with(context, |mut stream| stream.read(buffer));
        if let Poll::Ready(Ok(1..)) = received {
            // A short read has emptied the socket: what comes next is a new edge, or told when
            // watching begins. Not so the end of the stream, whose edge may have come with these
            // bytes.
            let short = matches!(received, Poll::Ready(Ok(count)) if count < room);
            self.place.with(|source| {
                if short && source.ready & (ENDED | URGENT) == 0 {
                    source.ready &= !READ;
                }
            });
        }
        received
    }

    /// Whether a byte (`true`) or the end of the stream (`false`) has come, which is left there.
    pub fn poll_peek(&self, context: &Context<'_>) -> Poll<io::Result<bool>> {
        self.poll_read_with(context, |stream| {
            let (count, _) = rustix::net::recv(stream, &mut [0u8; 1], RecvFlags::PEEK)?;
            Ok(count > 0)
        })
    }

    /// Sends some of `bytes`.
    pub fn poll_send(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(context, |mut stream| stream.write(bytes))
    }

    /// Sends some of `bytes` if that is possible at once; 0 if not.
    ///
    /// # Errors
    /// As `send(2)`, but for `EAGAIN`.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.place.is(WRITE) {
            return Ok(0);
        }
        match (&self.inner).write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.place.clear(WRITE);
                Ok(0)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }
}

impl AsyncRead for Io<TcpStream> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_recv(context, buffer)
    }
}

impl AsyncWrite for Io<TcpStream> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.inner.shutdown(Shutdown::Write))
    }
}

/// Wakes its task at a deadline. A deadline that moves on costs nothing: the timer stays where
/// it is, and the task is woken once in vain before it is set anew.
#[derive(Default)]
pub struct Timer {
    armed: Option<(Instant, u64)>,
}

impl Timer {
    /// A timer that is not set.
    pub fn new() -> Self {
        Timer::default()
    }

    /// Ready once `deadline` has come.
    pub fn poll_at(&mut self, context: &Context<'_>, deadline: Instant) -> Poll<()> {
        if now() >= deadline {
            return Poll::Ready(());
        }
        // Without a reactor no future runs at all: `block_on` has made it.
        with(|reactor| {
            let timers = &mut *reactor.timers.borrow_mut();
            if let Some(key) = &self.armed {
                if key.0 <= deadline && timers.by_deadline.contains_key(key) {
                    return;
                }
                timers.by_deadline.remove(key);
            }
            // Different from those of all other threads.
            let key = (deadline, u64::from(reactor.number) << 48 | timers.next_key);
            timers.next_key += 1;
            timers.by_deadline.insert(key, context.waker().clone());
            self.armed = Some(key);
        });
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(key) = self.armed {
            // The waker is dropped when nothing is borrowed any more.
            drop(with(|reactor| reactor.timers.borrow_mut().by_deadline.remove(&key)));
        }
    }
}

/// Waits for `time`.
pub async fn sleep(time: Duration) {
    let deadline = Instant::now() + time;
    let mut timer = Timer::new();
    poll_fn(|context| timer.poll_at(context, deadline)).await;
}

/// What `future` gives, or `None` when `deadline` comes first.
pub async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    let mut timer = Timer::new();
    let mut future = pin!(future);
    poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Some(output));
        }
        timer.poll_at(context, deadline).map(|()| None)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    use smol::{Executor, LocalExecutor};
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (two, _) = listener.accept().unwrap();
        one.set_nonblocking(true).unwrap();
        two.set_nonblocking(true).unwrap();
        (one, two)
    }

    #[test]
    fn bytes_and_the_end_arrive_whatever_the_reads() {
        block_on(async {
            let (one, two) = pair();
            let (mut one, mut two) = (Io::new(one).unwrap(), Io::new(two).unwrap());
            let executor = LocalExecutor::new();
            let sender = executor.spawn(async move {
                for _ in 0..100 {
                    one.write_all(&[7; 100_000]).await.unwrap();
                }
                one.close().await.unwrap();
                one
            });
            let received = executor
                .run(async {
                    let mut all = Vec::new();
                    two.read_to_end(&mut all).await.unwrap();
                    all.len()
                })
                .await;
            assert_eq!(received, 10_000_000);
            drop(sender);
        })
        .unwrap();
    }

    #[test]
    fn timers_fire_in_order_and_not_early() {
        block_on(async {
            let start = Instant::now();
            assert!(
                until(start + Duration::from_millis(20), std::future::pending::<()>())
                    .await
                    .is_none()
            );
            assert!(start.elapsed() >= Duration::from_millis(20));
            sleep(Duration::from_millis(5)).await;
            assert!(start.elapsed() >= Duration::from_millis(25));
        })
        .unwrap();
    }

    #[test]
    fn what_came_in_time_counts_however_late_the_thread_looks() {
        block_on(async {
            // More than the kernel tells of in one answer.
            let (near, far): (Vec<_>, Vec<_>) = (0..EVENTS + 32).map(|_| pair()).unzip();
            let deadline = Instant::now() + Duration::from_millis(500);
            let mut reads: Vec<_> = near
                .into_iter()
                .map(|socket| {
                    Box::pin(async move {
                        let mut socket = Io::new(socket).unwrap();
                        until(deadline, socket.read(&mut [0; 8])).await.is_some()
                    })
                })
                .collect();
            let mut heard = 0;
            let mut look = |context: &mut Context<'_>| {
                reads.retain_mut(|read| match read.as_mut().poll(context) {
                    Poll::Ready(came) => {
                        heard += usize::from(came);
                        false
                    }
                    Poll::Pending => true,
                });
                if reads.is_empty() { Poll::Ready(heard) } else { Poll::Pending }
            };
            poll_fn(|context| {
                assert!(look(context).is_pending());
                Poll::Ready(())
            })
            .await;
            for mut socket in &far {
                socket.write_all(b"in time").unwrap();
            }
            std::thread::sleep(Duration::from_millis(600));
            let heard = poll_fn(look).await;
            assert_eq!(heard, EVENTS + 32);
        })
        .unwrap();
    }

    #[test]
    fn another_thread_wakes_a_sleeping_one() {
        let executor = Arc::new(Executor::new());
        let (sender, receiver) = smol::channel::bounded::<u32>(1);
        let there = executor.clone();
        let thread = std::thread::spawn(move || {
            block_on(there.run(async move { receiver.recv().await.unwrap() })).unwrap()
        });
        std::thread::sleep(Duration::from_millis(20));
        sender.try_send(5).unwrap();
        assert_eq!(thread.join().unwrap(), 5);
    }
}
