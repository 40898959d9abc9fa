//! Deadlines: a task is woken when its time has come.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;

use super::reactor::{now, with};

/// Wakes its task at a deadline. Moving the deadline further away costs nothing: the timer stays as
/// it is, and the task is woken once too early before it is set anew.
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
                if let Some(waker) = timers.by_deadline.get_mut(key).filter(|_| key.0 <= deadline) {
                    // Another task may poll it by now.
                    waker.clone_from(context.waker());
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

    /// Has the task polled again at `deadline`, if there is one.
    pub fn wake_at(&mut self, context: &Context<'_>, deadline: Option<Instant>) {
        if deadline.is_some_and(|deadline| self.poll_at(context, deadline).is_ready()) {
            context.waker().wake_by_ref();
        }
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
pub fn until<F: Future>(deadline: Instant, future: F) -> Until<F> {
    Until { future, deadline, timer: Timer::new() }
}

pin_project! {
    /// What [`until`] returns. No `async fn`, which would have memory for `future` twice.
    pub struct Until<F> {
        #[pin]
        future: F,
        deadline: Instant,
        timer: Timer,
    }
}

impl<F: Future> Future for Until<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(context) {
            return Poll::Ready(Some(output));
        }
        this.timer.poll_at(context, *this.deadline).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;
    use crate::runtime::block_on;

    /// Counts how often its task is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn task_that_has_polled_last_is_woken() {
        block_on(async {
            let tasks = [Arc::<Woken>::default(), Arc::default()];
            let (mut timer, start) = (Timer::new(), Instant::now());
            for (task, after) in tasks.iter().zip([10, 20]) {
                let waker = Waker::from(task.clone());
                let deadline = start + Duration::from_millis(after);
                assert!(timer.poll_at(&Context::from_waker(&waker), deadline).is_pending());
            }
            sleep(Duration::from_millis(20)).await;
            assert_eq!(tasks.map(|task| task.0.load(Ordering::Relaxed)), [0, 1]);
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
}
