//! One thread's event loop: what is ready, what time it is, and who waits for it.
//!
//! A relay forwards a small message with one `epoll_wait`, one `recv` and one `send`. To get
//! there each socket is registered once, edge-triggered for both directions, and never re-armed;
//! an operation is tried first and waited for only when the kernel has said `EAGAIN`; timers
//! are the `epoll_wait`'s time-out. The futures themselves run on smol's executors: this file
//! owns nothing but readiness and time, and knows nothing of tunnels or TLS.
//!
//! Each thread that calls [`block_on`] has a reactor of its own, and an [`Io`] must be polled on
//! the thread that made it ([`Io::into_inner`] takes the socket to another one).

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::net::{RecvFlags, SocketFlags};
use slab::Slab;
use smol::io::{AsyncRead, AsyncWrite};

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

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
/// Urgent data has come: a read stops short of it, and says nothing about what follows.
const URGENT: u8 = 16;

thread_local! {
    static CURRENT: Result<Arc<Reactor>, io::ErrorKind> = Reactor::new().map_err(|e| e.kind());
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The time at which this thread last came back from the kernel: exact enough for activity and
/// deadlines, and free.
pub fn now() -> Instant {
    NOW.get().unwrap_or_else(Instant::now)
}

/// Wakes the polling task again after everything else that is ready has been seen. A task that
/// wakes itself is polled again before the kernel is asked, hundreds of times on executors within
/// executors.
pub fn yield_turn(context: &Context<'_>) {
    match Reactor::current() {
        Ok(reactor) => lock(&reactor.yielded).push(context.waker().clone()),
        Err(_) => context.waker().wake_by_ref(),
    }
}

/// Runs `future` to its end on this thread, with the thread's reactor.
///
/// # Errors
/// When the kernel grants no epoll or eventfd (the limit of open files), or fails to wait.
pub fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    let reactor = Reactor::current()?;
    let waker = Waker::from(reactor.clone());
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let mut events = Vec::with_capacity(EVENTS);
    NOW.set(Some(Instant::now()));
    loop {
        reactor.state.swap(POLLING, Ordering::AcqRel);
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Ok(output);
        }
        reactor.wait(&mut events)?;
    }
}

struct Reactor {
    epoll: OwnedFd,
    wake: OwnedFd,
    state: AtomicU8,
    sources: Mutex<Slab<Arc<Source>>>,
    timers: Mutex<Timers>,
    /// Tasks that go on once the kernel has been asked what else is ready.
    yielded: Mutex<Vec<Waker>>,
}

#[derive(Default)]
struct Timers {
    next_key: u64,
    by_deadline: BTreeMap<(Instant, u64), Waker>,
}

#[derive(Default)]
struct Source {
    ready: AtomicU8,
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

impl Reactor {
    fn new() -> io::Result<Arc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered, each write is an event of its own, so that it need not be read.
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
        Ok(Arc::new(Reactor {
            epoll,
            wake,
            state: AtomicU8::new(POLLING),
            sources: Mutex::default(),
            timers: Mutex::default(),
            yielded: Mutex::default(),
        }))
    }

    fn current() -> io::Result<Arc<Self>> {
        CURRENT.with(|current| match current {
            Ok(reactor) => Ok(reactor.clone()),
            Err(kind) => Err(io::Error::new(*kind, "this thread has no event loop")),
        })
    }

    /// Waits for events, the next timer or a wake-up from another thread, and wakes who waits.
    fn wait(&self, events: &mut Vec<epoll::Event>) -> io::Result<()> {
        let asleep = self
            .state
            .compare_exchange(POLLING, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        let idle = asleep && lock(&self.yielded).is_empty();
        let timeout =
            if idle { self.until_next_timer() } else { Some(Timespec { tv_sec: 0, tv_nsec: 0 }) };
        events.clear();
        let waited =
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout.as_ref());
        self.state.swap(POLLING, Ordering::AcqRel);
        match waited {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let now = Instant::now();
        NOW.set(Some(now));
        if !events.is_empty() {
            let sources = lock(&self.sources);
            for event in events.iter() {
                let key = event.data.u64();
                if key != WAKE {
                    if let Some(source) = sources.get(key as usize) {
                        source.signal(event.flags);
                    }
                }
            }
        }
        self.fire(now);
        for waker in std::mem::take(&mut *lock(&self.yielded)) {
            waker.wake();
        }
        Ok(())
    }

    /// Time to the next timer, in whole milliseconds rounded up: the oldest kernels we serve
    /// count no finer, and a timer must not be early.
    fn until_next_timer(&self) -> Option<Timespec> {
        let timers = lock(&self.timers);
        let (&(deadline, _), _) = timers.by_deadline.first_key_value()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = left.as_nanos().div_ceil(1_000_000).min(86_400_000) as i64;
        Some(Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 })
    }

    fn fire(&self, now: Instant) {
        let mut timers = lock(&self.timers);
        while let Some(entry) = timers.by_deadline.first_entry() {
            if entry.key().0 > now {
                break;
            }
            entry.remove().wake();
        }
    }
}

impl Wake for Reactor {
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
    fn signal(&self, flags: EventFlags) {
        let mut ready = 0;
        if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            ready |= READ | WRITE | ENDED | GONE;
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
        self.ready.fetch_or(ready, Ordering::Relaxed);
        if ready & READ != 0 {
            wake(&self.reader);
        }
        if ready & WRITE != 0 {
            wake(&self.writer);
        }
    }

    fn is(&self, bits: u8) -> bool {
        self.ready.load(Ordering::Relaxed) & bits != 0
    }

    fn clear(&self, bits: u8) {
        self.ready.fetch_and(!bits, Ordering::Relaxed);
    }
}

/// A socket registered with this thread's reactor. Dropping it closes the socket.
pub struct Io<T: AsFd> {
    registration: Registration,
    inner: T,
}

/// A source's place among those of its reactor, given back when dropped. The kernel forgets a
/// socket by itself when it is closed.
struct Registration {
    source: Arc<Source>,
    key: usize,
    reactor: Arc<Reactor>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        lock(&self.reactor.sources).try_remove(self.key);
    }
}

impl<T: AsFd> Io<T> {
    /// Registers a non-blocking socket with this thread's reactor.
    ///
    /// # Errors
    /// When the kernel has no memory or no watches left for it.
    pub fn new(inner: T) -> io::Result<Self> {
        let reactor = Reactor::current()?;
        // Assumed ready: the first operation is tried, not waited for.
        let source = Arc::new(Source { ready: AtomicU8::new(READ | WRITE), ..Source::default() });
        let key = lock(&reactor.sources).insert(source.clone());
        let input = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP;
        let flags = input | EventFlags::OUT | EventFlags::ET;
        let registration = Registration { source, key, reactor };
        let data = EventData::new_u64(key as u64);
        epoll::add(&registration.reactor.epoll, inner.as_fd(), data, flags)?;
        Ok(Io { registration, inner })
    }

    /// Registers a listening socket, which the kernel speaks of when somebody comes: to ask each of
    /// a thousand that are opened together whether somebody is there would take its time.
    ///
    /// # Errors
    /// As [`Io::new`].
    pub fn listening(inner: T) -> io::Result<Self> {
        let io = Self::new(inner)?;
        // What the kernel says of it is heard on this thread, and not before this returns.
        io.registration.source.clear(READ);
        Ok(io)
    }

    /// The socket itself.
    pub fn get_ref(&self) -> &T {
        &self.inner
    }

    /// Takes the socket out of this thread's reactor, for another thread's.
    pub fn into_inner(self) -> T {
        // A failure means that the kernel does not watch it any more, which is what is wanted.
        let _ = epoll::delete(&self.registration.reactor.epoll, self.inner.as_fd());
        self.inner
    }

    /// Whether something may have come in that has not been looked at yet.
    pub fn maybe_readable(&self) -> bool {
        self.registration.source.is(READ)
    }

    /// Whether both directions are known to be gone.
    pub fn is_gone(&self) -> bool {
        self.registration.source.is(GONE)
    }

    /// Tries `operation` whenever the socket may be readable, until it gives anything but
    /// `WouldBlock`.
    pub fn poll_read_with<R>(
        &self,
        context: &Context<'_>,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(context, READ, &self.registration.source.reader, &mut operation)
    }

    /// Tries `operation` whenever the socket may be writable, until it gives anything but
    /// `WouldBlock`.
    pub fn poll_write_with<R>(
        &self,
        context: &Context<'_>,
        mut operation: impl FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        self.poll_with(context, WRITE, &self.registration.source.writer, &mut operation)
    }

    fn poll_with<R>(
        &self,
        context: &Context<'_>,
        direction: u8,
        waiting: &Mutex<Option<Waker>>,
        operation: &mut dyn FnMut(&T) -> io::Result<R>,
    ) -> Poll<io::Result<R>> {
        loop {
            if !self.registration.source.is(direction) {
                wait_in(waiting, context);
                return Poll::Pending;
            }
            match operation(&self.inner) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.registration.source.clear(direction);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Ready when both directions are gone, for who does not want to read.
    pub fn poll_gone(&self, context: &Context<'_>) -> Poll<()> {
        if self.registration.source.is(GONE) {
            return Poll::Ready(());
        }
        wait_in(&self.registration.source.reader, context);
        Poll::Pending
    }
}

impl<T: AsFd> Io<T> {
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
        if let Poll::Ready(Ok(count)) = received {
            // A short read has emptied the socket: what comes next is a new edge. Not so the
            // end of the stream, whose edge may have come with these bytes.
            if count < room && !self.registration.source.is(ENDED | URGENT) {
                self.registration.source.clear(READ);
            }
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
        if !self.registration.source.is(WRITE) {
            return Ok(0);
        }
        match (&self.inner).write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.registration.source.clear(WRITE);
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
    armed: Option<(Arc<Reactor>, (Instant, u64))>,
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
        if let Some((reactor, key)) = &self.armed {
            if key.0 <= deadline && lock(&reactor.timers).by_deadline.contains_key(key) {
                return Poll::Pending;
            }
        }
        self.disarm();
        // Without a reactor no future runs at all: `block_on` has made it.
        if let Ok(reactor) = Reactor::current() {
            let mut timers = lock(&reactor.timers);
            let key = (deadline, timers.next_key);
            timers.next_key += 1;
            timers.by_deadline.insert(key, context.waker().clone());
            drop(timers);
            self.armed = Some((reactor, key));
        }
        Poll::Pending
    }

    fn disarm(&mut self) {
        if let Some((reactor, key)) = self.armed.take() {
            lock(&reactor.timers).by_deadline.remove(&key);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.disarm();
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

/// Keeps the waker of the polling task in `waiting`, for [`wake`].
fn wait_in(waiting: &Mutex<Option<Waker>>, context: &Context<'_>) {
    let mut waiting = lock(waiting);
    match &mut *waiting {
        Some(waker) => waker.clone_from(context.waker()),
        None => *waiting = Some(context.waker().clone()),
    }
}

fn wake(waiting: &Mutex<Option<Waker>>) {
    if let Some(waker) = lock(waiting).take() {
        waker.wake();
    }
}

/// None of what these mutexes guard is left half-changed by a panic (which ends the process
/// anyway).
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
