//! The threads that carry what is heavy and holds no state of the daemon: TLS handshakes and
//! relays.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use smol::lock::Semaphore;
use smol::{Executor, Task};

use super::line::Line;
use super::reactor;
use super::timer::until;
use crate::limits;
use crate::logging::ALWAYS;

/// Worker threads, each with an executor and a reactor of its own: what begins on one stays
/// there, so that its sockets need no lock. They live as long as the process. The thread that starts them has an
/// executor among theirs, for what is too short to be worth the way.
pub struct Workers {
    workers: Vec<Arc<Worker>>,
    /// The thread that gives them work, which does a little of it itself ([`run_home`](Self::run_home)).
    home: Arc<Worker>,
    /// Those that wait to shake hands on one of them.
    pub line: Line,
}

struct Worker {
    executor: Executor<'static>,
    load: AtomicUsize,
    is_home: bool,
}

/// One more piece of work on a worker, until dropped. The work keeps it.
pub struct Load(Arc<Worker>);

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When the system grants no more threads.
    pub fn start(count: usize) -> io::Result<Self> {
        let mut workers = Vec::with_capacity(count);
        for number in 1..=count {
            let worker = Worker::new(false);
            workers.push(worker.clone());
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let forever = reactor::run::<()>(|| worker.executor.tick());
                if let Err(error) = reactor::block_on(forever) {
                    log::error!(target: ALWAYS, "a worker thread cannot wait for events: {error}; the daemon ends");
                    std::process::abort();
                }
            })?;
        }
        Ok(Workers {
            workers,
            home: Worker::new(true),
            line: Line::new(limits::HANDSHAKES * count),
        })
    }

    /// Runs `work` on the worker that has least to do. Dropping the task ends it there soon.
    ///
    /// The work keeps its own load, because a future around it would take its memory twice.
    pub fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        work: impl FnOnce(Load) -> F,
    ) -> Task<T> {
        self.place().spawn(work)
    }

    /// A place on the worker that has least to do.
    pub fn place(&self) -> Load {
        let least = self.workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        #[expect(clippy::expect_used, reason = "the settings allow no count of 0")]
        let worker = least.expect("at least one worker");
        Load::on(worker.clone())
    }

    /// A place on this thread, or on a worker where this one has as many as `most`.
    pub fn place_here(&self, most: usize) -> Load {
        match self.home.load.load(Ordering::Relaxed) < most {
            true => Load::on(self.home.clone()),
            false => self.place(),
        }
    }

    /// Does the work of this thread's own places. Never ends.
    pub async fn run_home(&self) {
        reactor::run::<()>(|| self.home.executor.tick()).await;
    }

    /// Returns once every worker has taken its turn: proof that none is stuck.
    pub async fn answer(&self) {
        self.each(|| ()).await;
    }

    /// As [`answer`](Self::answer), once this thread's own places have had their turn, too.
    pub async fn all_answer(&self) {
        self.answer().await;
        self.home.begin(Box::pin(async {})).await;
    }

    /// Returns once what the kernel knew by now has come to every task on a worker that waits for it,
    /// and it has dealt with it. A task that ended by that has told of it before.
    pub async fn look(&self) {
        let looks = self.workers.iter().chain([&self.home]).map(|worker| {
            worker.begin(Box::pin(async {
                // The first look wakes who waits, in front of this task. The second is for what
                // these have begun: a task of its own reads and discards the rest of a session.
                reactor::look().await;
                reactor::look().await;
            }))
        });
        // All at once.
        let looks: Vec<Task<()>> = looks.collect();
        for look in looks {
            look.await;
        }
    }

    /// Has this thread and every worker make something, one after the other; `None` for one that is not done with it in
    /// `time`. This one is first: its work may go on to a worker meanwhile, and does not come from there.
    pub async fn each_makes<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        time: Duration,
        make: fn() -> F,
    ) -> Vec<Option<T>> {
        let mut made = Vec::with_capacity(1 + self.workers.len());
        for worker in [&self.home].into_iter().chain(&self.workers) {
            let result = Arc::new(Mutex::new(None));
            let there = result.clone();
            let task = worker.begin(Box::pin(async move {
                let done = make().await;
                *locked(&there) = Some(done);
            }));
            // Dropping the task ends it there.
            until(Instant::now() + time, task).await;
            made.push(locked(&result).take());
        }
        made
    }

    /// Has every worker do something short, one after the other.
    pub async fn each(&self, work: fn()) {
        for worker in &self.workers {
            worker.begin(Box::pin(async move { work() })).await;
        }
    }
}

impl Worker {
    fn new(is_home: bool) -> Arc<Self> {
        Arc::new(Worker { executor: Executor::new(), load: AtomicUsize::new(0), is_home })
    }

    /// Begins a task. In a box, so that the program has one kind of such tasks: each kind takes 2 KB.
    fn begin(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) -> Task<()> {
        self.executor.spawn(work)
    }
}

/// Does `work`, which may block, on a thread of its own that ends with it. This is too rare to
/// justify a thread pool, whose idle threads would wake up now and then (`blocking` 1.7: twice a
/// second, for ever). [`limits::BLOCKING_THREADS`] at one time; where the system grants no thread,
/// this one does it.
pub async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    static PLACES: Semaphore = Semaphore::new(limits::BLOCKING_THREADS);
    let _place = PLACES.acquire().await;
    let result = Arc::new(Mutex::new(None));
    let (there, (tell, told)) = (result.clone(), smol::channel::bounded(1));
    on_a_thread(Box::new(move || {
        let done = work();
        *locked(&there) = Some(done);
        let _ = tell.try_send(());
    }));
    let _ = told.recv().await;
    let done = locked(&result).take();
    match done {
        Some(done) => done,
        // Only a panic ends the work early, and that ends the process, too.
        None => std::future::pending().await,
    }
}

/// Work on its way to a thread: in a box, so that the program has one kind of such threads. Each kind takes 4 KB.
type Work = Box<dyn FnOnce() + Send>;

fn on_a_thread(work: Work) {
    let work = Arc::new(Mutex::new(Some(work)));
    let there = work.clone();
    let take = |work: &Mutex<Option<Work>>| locked(work).take();
    let thread = thread::Builder::new().name("aside".into());
    let begun = thread.spawn(move || {
        if let Some(work) = take(&there) {
            work();
        }
    });
    if begun.is_err() {
        if let Some(work) = take(&work) {
            work();
        }
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    fn on(worker: Arc<Worker>) -> Self {
        worker.load.fetch_add(1, Ordering::Relaxed);
        Load(worker)
    }

    /// Continues with `rest` on the same worker, independently of the task that calls this.
    pub fn go_on<F: Future<Output = ()> + Send + 'static>(self, rest: impl FnOnce(Load) -> F) {
        let worker = self.0.clone();
        worker.begin(Box::pin(rest(self))).detach();
    }

    /// The same for something that has an outcome. Dropping the task ends it there soon.
    pub fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        self,
        rest: impl FnOnce(Load) -> F,
    ) -> Task<T> {
        let worker = self.0.clone();
        worker.executor.spawn(rest(self))
    }

    /// Whether it is on the thread that gives the workers work.
    pub fn is_home(&self) -> bool {
        self.0.is_home
    }

    /// One more piece of work on the same worker.
    pub fn another(&self) -> Load {
        Load::on(self.0.clone())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::runtime::block_on;
    use smol::future::or;

    #[test]
    fn all_have_answered_when_what_was_left_to_this_threads_own_places_has_had_its_turn() {
        block_on(async {
            let workers = Workers::start(2).unwrap();
            let had_its_turn = Arc::new(AtomicBool::new(false));
            let has_it = had_its_turn.clone();
            workers.place_here(1).go_on(|load| async move {
                has_it.store(true, Ordering::Relaxed);
                drop(load);
            });
            let soon = Instant::now() + Duration::from_millis(100);
            assert!(until(soon, workers.all_answer()).await.is_none(), "this thread was busy");
            or(workers.all_answer(), workers.run_home()).await;
            assert!(had_its_turn.load(Ordering::Relaxed));
        })
        .unwrap();
    }

    #[test]
    fn so_many_begin_on_this_thread_and_give_their_places_back() {
        let workers = Workers::start(1).unwrap();
        let places = [(); 3].map(|()| workers.place_here(2));
        assert_eq!(places.each_ref().map(Load::is_home), [true, true, false]);
        let [first, ..] = places;
        drop(first);
        let again = workers.place_here(2);
        assert!(again.is_home());
        assert!(!workers.place_here(2).is_home() && !workers.place().is_home());
        // Those of a session go where it is, whatever there is.
        assert!(again.another().is_home());
    }
}
