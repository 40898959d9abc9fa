//! Local connections that are closed while their tunnels serve again. There are mostly none, so that an executor
//! for them in each of hundreds of tunnels is made only with the first.

use std::cell::OnceCell;
use std::future::{Future, pending};

use event_listener::Event;
use smol::LocalExecutor;
use smol::future::FutureExt;

/// Those that are being closed, each of which is polled when it is woken itself; each has a file, which bounds them.
#[derive(Default)]
pub(super) struct Closings<'a> {
    tasks: OnceCell<LocalExecutor<'a>>,
    /// Notified at the first one.
    begun: Event,
}

impl<'a> Closings<'a> {
    /// One more.
    pub(super) fn add(&self, closing: impl Future<Output = ()> + 'a) {
        let tasks = self.tasks.get_or_init(|| {
            self.begun.notify(1);
            LocalExecutor::new()
        });
        tasks.spawn(closing.boxed_local()).detach();
    }

    /// Closes them, for ever.
    pub(super) async fn run<T>(&self) -> T {
        loop {
            let begun = self.begun.listen();
            match self.tasks.get() {
                Some(tasks) => return tasks.run(pending()).await,
                None => begun.await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use smol::future::{or, poll_once};

    use super::*;

    #[test]
    fn all_are_closed_whenever_they_come() {
        let closings = Closings::default();
        let (done, ended) = smol::channel::unbounded();
        let work = async {
            for number in 0..3 {
                let done = done.clone();
                let (go, gone) = smol::channel::bounded::<()>(1);
                closings.add(async move {
                    let _ = gone.recv().await;
                    let _ = done.send(number).await;
                });
                assert!(poll_once(ended.recv()).await.is_none());
                drop(go);
                assert_eq!(ended.recv().await, Ok(number));
            }
        };
        smol::block_on(or(work, closings.run()));
        assert!(closings.tasks.get().is_some_and(|tasks| tasks.is_empty()));
    }
}
