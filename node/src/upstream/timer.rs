//! A timer for deadlines that move at every read and hardly ever pass.
//!
//! Registering a timer costs more than reading a clock. So the registered one is left alone while it fires no later
//! than it must; when it fires early, it is set again.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// Wakes its task once the deadline of the last poll has passed.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
}

// === impl LazyTimer ===

impl LazyTimer {
    /// Ready once `deadline` has passed.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if deadline < sleep.deadline() {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if deadline <= sleep.deadline() || deadline <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_last_deadline_and_not_at_an_earlier_one() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        let mut deadline = start + Duration::from_secs(1);
        poll_fn(|cx| {
            let first = timer.poll(cx, deadline);
            assert!(first.is_pending());
            deadline = start + Duration::from_secs(3);
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| timer.poll(cx, deadline)).await;
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_nearer_fires_earlier() {
        let start = Instant::now();
        let mut timer = LazyTimer::default();
        poll_fn(|cx| {
            assert!(timer.poll(cx, start + Duration::from_mins(1)).is_pending());
            Poll::Ready(())
        })
        .await;
        poll_fn(|cx| timer.poll(cx, start + Duration::from_secs(2))).await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}
