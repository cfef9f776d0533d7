//! What a connection is at, and until when its client must have gone on; shared with the calls on it.
//!
//! * Between two requests a client has `keep_alive`.
//! * With HTTP/1 it has `head_timeout` for a head, from its first byte, however slowly that trickles.
//! * With HTTP/2 each call in flight tells when it has handed on bytes and was not asked for more since: that is the
//!   client's window, or the connection, being full. A client that takes little at a time is seen to go on because
//!   answers are handed on in slices.
//!
//! While a call is in flight nothing is asked of the client's sending side: a body that stalls is the upload's matter.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::gateway::settings::GatewayLimits;

/// Calls that a client may reset before they are answered; half of those counted are forgiven every few seconds.
const RESETS_MAX: u32 = 500;

/// What a connection is at; shared with the calls on it.
#[derive(Debug)]
pub(crate) struct Progress {
    state: Cell<State>,
    /// Whether the client has sent anything yet.
    touched: Cell<bool>,
    /// From a call's begin until its answer has left hyper.
    answering: Cell<bool>,
    /// There where calls may be many at once.
    streams: Option<Streams>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Between requests, since then.
    Idle(Instant),
    /// Within a head that began then.
    Head(Instant),
    /// A call is in flight.
    Call,
}

#[derive(Debug, Default)]
struct Streams {
    next: Cell<u64>,
    /// Those in flight, and since when the client gives an answer no room.
    open: RefCell<HashMap<u64, Option<Instant>>>,
    /// Calls that ended before they were answered.
    reset: Cell<u32>,
}

/// A call is in flight on a connection until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    progress: Rc<Progress>,
    stream: u64,
    answered: bool,
}

// === impl Progress ===

impl Progress {
    /// For HTTP/1.
    pub(crate) fn one_at_a_time() -> Rc<Self> {
        Self::new(None)
    }

    /// For HTTP/2.
    pub(crate) fn many_at_once() -> Rc<Self> {
        Self::new(Some(Streams::default()))
    }

    fn new(streams: Option<Streams>) -> Rc<Self> {
        Rc::new(Self {
            state: Cell::new(State::Idle(Instant::now())),
            touched: Cell::new(false),
            answering: Cell::new(false),
            streams,
        })
    }

    /// A request's head has been read.
    pub(crate) fn begin(self: &Rc<Self>) -> InFlight {
        self.state.set(State::Call);
        self.answering.set(true);
        let stream = self.streams.as_ref().map_or(0, Streams::begin);
        InFlight {
            progress: Rc::clone(self),
            stream,
            answered: false,
        }
    }

    /// Whether nothing has come yet, so that nobody misses a connection that is closed.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.touched.get()
    }

    /// Whether what is written may be an upstream's.
    pub(crate) fn is_answering(&self) -> bool {
        self.streams.is_some() || self.answering.get()
    }

    pub(crate) fn on_read(&self) {
        self.touched.set(true);
        if self.streams.is_none()
            && let State::Idle(_) = self.state.get()
        {
            self.state.set(State::Head(Instant::now()));
        }
    }

    /// hyper has nothing more to write. Its buffer holds the end of an answer before the call is dropped, so the
    /// answer has left once there is no call.
    pub(crate) fn on_flush(&self) {
        if !matches!(self.state.get(), State::Call) {
            self.answering.set(false);
        }
    }

    /// The client takes what it was slow to take: only from now on is its next request waited for.
    pub(crate) fn on_late_write(&self) {
        if let State::Idle(_) = self.state.get() {
            self.state.set(State::Idle(Instant::now()));
        }
    }

    /// Until when the client must have sent what is waited for.
    pub(crate) fn deadline(&self, limits: &GatewayLimits) -> Option<Instant> {
        match self.state.get() {
            State::Idle(since) => Some(since + limits.keep_alive),
            State::Head(since) => Some(since + limits.head_timeout),
            State::Call => None,
        }
    }

    /// Whether the client opens calls only to reset them.
    pub(super) fn is_abusive(&self) -> bool {
        let reset = |streams: &Streams| streams.reset.get() > RESETS_MAX;
        self.streams.as_ref().is_some_and(reset)
    }

    /// Half of what was counted is forgiven.
    pub(super) fn forgive(&self) {
        if let Some(streams) = &self.streams {
            streams.reset.set(streams.reset.get() / 2);
        }
    }

    /// Whether some answer was given no room for so long.
    pub(super) fn is_stuck(&self, now: Instant, limit: Duration) -> bool {
        let stuck = |since: &Option<Instant>| since.is_some_and(|since| now - since >= limit);
        let any = |streams: &Streams| streams.open.borrow().values().any(stuck);
        self.streams.as_ref().is_some_and(any)
    }
}

// === impl Streams ===

impl Streams {
    fn begin(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.open.borrow_mut().insert(number, None);
        number
    }
}

// === impl InFlight ===

impl InFlight {
    /// The call has an answer.
    pub(crate) fn is_answered(&mut self) {
        self.answered = true;
    }

    /// Whether the client's progress is seen by what the answer is asked for.
    pub(crate) fn is_paced(&self) -> bool {
        self.progress.streams.is_some()
    }

    /// The answer was asked for more: there is room for it.
    pub(crate) fn is_asked(&self) {
        self.waits_since(None);
    }

    /// The answer has handed on a piece.
    pub(crate) fn has_given(&self) {
        if self.is_paced() {
            self.waits_since(Some(Instant::now()));
        }
    }

    fn waits_since(&self, since: Option<Instant>) {
        if let Some(streams) = &self.progress.streams
            && let Some(waits) = streams.open.borrow_mut().get_mut(&self.stream)
        {
            *waits = since;
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(streams) = &self.progress.streams {
            if !self.answered {
                streams.reset.set(streams.reset.get().saturating_add(1));
            }
            let mut open = streams.open.borrow_mut();
            open.remove(&self.stream);
            if !open.is_empty() {
                return;
            }
        }
        self.progress.state.set(State::Idle(Instant::now()));
    }
}
