//! How others ask the flusher for a flush: everything closed before now is counted when the answer comes.
//!
//! The channel exists before the flusher does, since peers may ask while this node still starts; such a question
//! waits, and whoever asks has a deadline. At most 64 questions wait, taken up by the flusher or not; one that nobody
//! waits for any more is none.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

/// Questions that may wait.
const WAITING: usize = 64;

/// Asks for a flush. A cheap clone.
#[derive(Clone, Debug)]
pub struct FlushHandle {
    asks: mpsc::Sender<Waiter>,
    places: Arc<Semaphore>,
}

/// The other end: what the flusher is asked.
#[derive(Debug)]
pub(crate) struct FlushRequests(pub(crate) mpsc::Receiver<Waiter>);

/// Whoever waits for a flush.
pub(crate) type Waiter = oneshot::Sender<()>;

/// Why a flush was not confirmed. What is in the spools stays there and is counted later.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FlushError {
    /// Too many wait already.
    #[error("{WAITING} flushes wait already, since the log accepts none; ask again later")]
    Busy,
    /// The flusher has ended.
    #[error("this node is ending and flushes no more; ask again when it is back")]
    Ended,
}

/// Both ends.
pub(crate) fn channel() -> (FlushHandle, FlushRequests) {
    let (asks, asked) = mpsc::channel(WAITING);
    let places = Arc::new(Semaphore::new(WAITING));
    (FlushHandle { asks, places }, FlushRequests(asked))
}

// === impl FlushHandle ===

impl FlushHandle {
    /// Returns when every record that was in this node's spools before the call is counted by the log.
    ///
    /// # Errors
    ///
    /// It is not known to be counted; nothing is lost.
    ///
    /// # Cancel safety
    ///
    /// Safe: the flush goes on without the caller.
    pub async fn flush(&self) -> Result<(), FlushError> {
        let _place = self.places.try_acquire().map_err(|_| FlushError::Busy)?;
        let (waiter, answer) = oneshot::channel();
        self.asks.try_send(waiter).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => FlushError::Busy,
            mpsc::error::TrySendError::Closed(_) => FlushError::Ended,
        })?;
        answer.await.map_err(|_| FlushError::Ended)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Asking<'a> = Pin<Box<dyn Future<Output = Result<(), FlushError>> + 'a>>;

    fn look(asking: &mut Asking<'_>) -> Poll<Result<(), FlushError>> {
        asking
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn no_more_than_64_wait_though_the_flusher_has_taken_them_up() {
        let (handle, mut requests) = channel();
        let mut asking: Vec<Asking<'_>> = Vec::new();
        let mut taken = Vec::new();
        for _ in 0..WAITING {
            let mut another: Asking<'_> = Box::pin(handle.flush());
            assert_eq!(look(&mut another), Poll::Pending);
            asking.push(another);
            taken.push(requests.0.try_recv().unwrap());
        }
        let ask = || -> Asking<'_> { Box::pin(handle.flush()) };
        assert_eq!(look(&mut ask()), Poll::Ready(Err(FlushError::Busy)));
        taken.remove(0).send(()).unwrap();
        assert_eq!(look(&mut asking.remove(0)), Poll::Ready(Ok(())));
        let mut another = ask();
        assert_eq!(look(&mut another), Poll::Pending);
        assert_eq!(look(&mut ask()), Poll::Ready(Err(FlushError::Busy)));
        // One that gives up makes room, too.
        drop(another);
        assert_eq!(look(&mut ask()), Poll::Pending);
    }
}
