//! Local connections that are closed while their tunnels serve again. There are mostly none, so that an executor
//! for them in each of hundreds of tunnels would be a waste.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// One that is being closed.
type Closing<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// Those that are being closed; each has a file, which bounds them.
#[derive(Default)]
pub(super) struct Closings<'a> {
    closing: RefCell<Vec<Closing<'a>>>,
    /// Of the task that closes them.
    waker: RefCell<Option<Waker>>,
}

impl<'a> Closings<'a> {
    /// One more.
    pub(super) fn add(&self, closing: Closing<'a>) {
        self.closing.borrow_mut().push(closing);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Closes them, for ever.
    pub(super) async fn run<T>(&self) -> T {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll<T>(&self, context: &mut Context<'_>) -> Poll<T> {
        self.waker.replace(Some(context.waker().clone()));
        // One that is over gives its file back, and whoever waits for that may add another.
        let mut closing = self.closing.take();
        closing.retain_mut(|closing| closing.as_mut().poll(context).is_pending());
        self.closing.borrow_mut().append(&mut closing);
        Poll::Pending
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
                closings.add(Box::pin(async move {
                    let _ = gone.recv().await;
                    let _ = done.send(number).await;
                }));
                assert!(poll_once(ended.recv()).await.is_none());
                drop(go);
                assert_eq!(ended.recv().await, Ok(number));
            }
        };
        smol::block_on(or(work, closings.run()));
        assert!(closings.closing.borrow().is_empty());
    }
}
