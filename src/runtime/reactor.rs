//! One thread's event loop: what is ready, what time it is, and who waits for it.
//!
//! A relay forwards a small message with one `epoll_wait`, one `recv` and one `send`. To get
//! there an operation is tried first; the socket is registered when it has to be waited for the
//! first time, edge-triggered, and never re-armed; timers are the `epoll_wait`'s time-out. The
//! futures themselves run on smol's executors: this file owns nothing but readiness and time, and
//! knows nothing of tunnels or TLS.
//!
//! Each thread that calls [`block_on`] has a reactor of its own, which nobody else touches: an
//! [`Io`](super::Io) must be used and dropped on the thread that made it
//! ([`leave`](super::Io::leave) and [`enter`](super::Io::enter) take it to another one). Only [`Alarm`] is for all threads.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use slab::Slab;

use super::source::Source;

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

/// Has every task of this thread look again that waits for a socket, a few at a time, and returns when they have.
pub async fn wake_all() {
    let mut next = 0;
    loop {
        let some = with(|reactor| {
            let sources = reactor.sources.borrow();
            let keys = next..sources.capacity().min(next + EVENTS);
            next = keys.end;
            let wakers = keys.filter_map(|key| Some(sources.get(key)?.wakers())).flatten();
            wakers.collect::<Vec<_>>()
        });
        // Nothing is borrowed any more: a waker may run what it likes.
        some.into_iter().flatten().for_each(Waker::wake);
        // This task is behind them in its queue.
        look().await;
        if with(|reactor| reactor.sources.borrow().capacity() <= next).unwrap_or(true) {
            return;
        }
    }
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
pub(super) fn with<T>(what: impl FnOnce(&Reactor) -> T) -> Option<T> {
    CURRENT.try_with(|current| current.get().map(what)).ok().flatten()
}

fn no_reactor() -> io::Error {
    io::Error::other("this thread has no event loop")
}

pub(super) struct Reactor {
    pub(super) number: u32,
    epoll: OwnedFd,
    alarm: Arc<Alarm>,
    sources: RefCell<Slab<Source>>,
    pub(super) timers: RefCell<Timers>,
    /// Tasks that go on once the kernel has been asked what else is ready.
    yielded: RefCell<Vec<Waker>>,
    /// Those to wake now, and otherwise the room for them.
    woken: RefCell<Vec<Waker>>,
}

#[derive(Default)]
pub(super) struct Timers {
    pub(super) next_key: u64,
    pub(super) by_deadline: BTreeMap<(Instant, u64), Waker>,
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

/// A source's place among those of its reactor, given back when dropped. The kernel forgets a
/// socket by itself when it is closed.
pub(super) struct Registration {
    reactor: u32,
    key: u32,
}

impl Registration {
    /// Adds a source to this thread's reactor.
    pub(super) fn new() -> io::Result<Self> {
        let registration = with(|reactor| Registration {
            reactor: reactor.number,
            key: reactor.sources.borrow_mut().insert(Source::new()) as u32,
        });
        registration.ok_or_else(no_reactor)
    }

    /// That of a socket which is no thread's now.
    pub(super) fn none() -> Self {
        Registration { reactor: u32::MAX, key: 0 }
    }

    /// Whether this is its thread.
    pub(super) fn is_here(&self) -> bool {
        with(|reactor| reactor.number == self.reactor).unwrap_or(false)
    }

    /// Does something with the source here, if this is its thread.
    pub(super) fn with<R>(&self, what: impl FnOnce(&mut Source) -> R) -> Option<R> {
        with(|reactor| {
            let mut sources = reactor.sources.borrow_mut();
            let source = sources.get_mut(self.key as usize);
            source.filter(|_| reactor.number == self.reactor).map(what)
        })
        .flatten()
    }

    pub(super) fn is(&self, bits: u8) -> bool {
        self.with(|source| source.ready & bits != 0).unwrap_or(false)
    }

    /// As [`Source::tries`].
    pub(super) fn tries(&self, direction: u8) -> bool {
        self.with(|source| source.tries(direction)).unwrap_or(false)
    }

    /// Whether one of the bits is there, which are not any more.
    pub(super) fn take(&self, bits: u8) -> bool {
        let is = self.is(bits);
        self.clear(bits);
        is
    }

    pub(super) fn set(&self, bits: u8) {
        self.with(|source| source.ready |= bits);
    }

    pub(super) fn clear(&self, bits: u8) {
        self.with(|source| source.ready &= !bits);
    }

    /// Has the kernel stop watching the socket.
    pub(super) fn unwatch(&self, socket: impl AsFd) {
        if self.with(|source| source.watched.is_empty()) == Some(false) {
            // A failure means that the kernel does not watch it any more, which is what is wanted.
            with(|reactor| _ = epoll::delete(&reactor.epoll, socket));
        }
    }

    /// Keeps the waker of the polling task for the next event of `direction`, which the kernel
    /// watches from the first time on.
    pub(super) fn wait(
        &self,
        context: &Context<'_>,
        direction: u8,
        socket: impl AsFd,
    ) -> io::Result<()> {
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

impl Drop for Registration {
    fn drop(&mut self) {
        let source = with(|reactor| {
            let mut sources = reactor.sources.borrow_mut();
            (reactor.number == self.reactor).then(|| sources.try_remove(self.key as usize))
        });
        // With nothing borrowed, because wakers are dropped with it.
        drop(source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::io::Io;
    use crate::runtime::tests::pair;
    use crate::runtime::timer::until;
    use smol::Executor;
    use smol::io::AsyncReadExt;
    use std::io::Write;

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
