//! The open connections of one worker: how many there are, and how they learn that the node drains.
//!
//! A connection's task looks at a flag each time it is polled, which costs nothing; those that sleep are woken when
//! the flag is raised.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The open connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    draining: Cell<bool>,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Option<Waker>>>,
    /// Who waits for the last one to close.
    waiting: RefCell<Option<Waker>>,
}

/// One connection; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    connections: Rc<Connections>,
    number: u64,
    registered: bool,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Counts one more.
    pub(crate) fn open(self: &Rc<Self>) -> Ticket {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.open.borrow_mut().insert(number, None);
        Ticket {
            connections: Rc::clone(self),
            number,
            registered: false,
        }
    }

    /// Tells every connection to end after what it has in flight.
    pub(crate) fn drain(&self) {
        self.draining.set(true);
        let wakers: Vec<Waker> = self.open.borrow().values().flatten().cloned().collect();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Until there is no connection left.
    pub(crate) async fn all_closed(&self) {
        poll_fn(|cx| {
            if self.open.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.waiting.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

// === impl Ticket ===

impl Ticket {
    /// Whether the node drains; if not, the task is woken when it begins to.
    pub(crate) fn is_draining(&mut self, cx: &Context<'_>) -> bool {
        if !self.registered {
            // A task's waker wakes it wherever it is polled, so it is kept once.
            self.registered = true;
            self.connections
                .open
                .borrow_mut()
                .insert(self.number, Some(cx.waker().clone()));
        }
        self.connections.draining.get()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.connections.open.borrow_mut();
        open.remove(&self.number);
        if open.is_empty()
            && let Some(waker) = self.connections.waiting.borrow_mut().take()
        {
            waker.wake();
        }
    }
}
