//! One call from its head to its record: who, what, how long, how much.
//!
//! ```text
//! arrived --limits, open--> open --end--> ended  Close with what was used
//!    |                |
//!    +---refuse-------+--- drop: the client left ---> 499, or cut
//! ```
//!
//! Invariants:
//! * nothing is sent to an upstream before `open` has recorded the call;
//! * every call is closed once: by its end, its error, or its drop;
//! * what a call takes of limits is in its Open and its Close, and is held until that is recorded;
//! * a call that the client left is recorded with what its provider may have charged.

use std::net::IpAddr;
use std::rc::Rc;

use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use mode_envoy_ai::usage::{Usage, UsageSource as Counted};
use mode_envoy_ai::{estimate, price};
use mode_envoy_limits::{Refusal, Reservation};
use tokio::time::Instant;

use super::error::{Error, reason};
use super::hygiene::REQUEST_ID;
use super::ids;
use super::table::{Endpoint, KeyEntry, ModelEntry};
use super::tries::Tries;
use super::view::{Known, View};
use super::wall_ms;
use super::worker::Worker;
use crate::freshness::Standing;
use crate::supervisor::Chain;
use crate::upstream::{ResponseHead, UpstreamError};
use crate::usage::record::{Asked, CallId, Closed, Opened, Story, Takes, UsageSource, kept_path};
use crate::usage::recorder::RecordError;

/// What a client that left before its answer began is recorded with.
const CLIENT_LEFT: u16 = 499;
/// The longest label that a client may give its request.
const REQUEST_ID_MAX: usize = 128;

/// A call.
#[derive(Debug)]
pub(crate) struct Call {
    worker: Rc<Worker>,
    view: Rc<View>,
    id: CallId,
    client: IpAddr,
    request_id: HeaderValue,
    /// The request id is the client's own.
    labelled: bool,
    method: Method,
    path: Box<str>,
    started: Instant,
    started_ms: u64,
    /// How far this node's configuration could be trusted then.
    standing: Standing,
    known: Rc<Known>,
    /// What it holds of limits.
    holds: Option<Reservation>,
    takes: Takes,
    /// The limit that refused it.
    refused_by: Option<Box<Refusal>>,
    stage: Stage,
    tries: Tries,
    /// The code and the word of the error that the gateway answered with.
    error: &'static str,
    reason: &'static str,
    /// What the client was answered; 0 before its answer began.
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    ttft_us: Option<u64>,
    /// The tokens of an AI call, once they are known.
    tokens: Option<(Usage, Counted)>,
    /// Bytes of the prompt that a provider has been sent.
    prompt_bytes: Option<u64>,
    /// Whether the answer's bytes are text that a model has made.
    has_output: bool,
    price: Option<(price::Price, u64)>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Arrived,
    Open,
    Ended,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// As it should.
    Whole,
    /// Before its time.
    Cut,
}

// === impl Call ===

impl Call {
    pub(crate) fn begin(worker: &Rc<Worker>, client: IpAddr, parts: &Parts) -> Self {
        let view = worker.view();
        let id = worker.ids.next();
        let label = label(&parts.headers);
        Self {
            labelled: label.is_some(),
            request_id: label.unwrap_or_else(|| ids::header_value(id)),
            method: parts.method.clone(),
            path: kept_path(parts.uri.path()),
            known: view.empty(),
            holds: None,
            takes: Takes::NONE,
            refused_by: None,
            worker: Rc::clone(worker),
            view,
            id,
            client,
            started: Instant::now(),
            started_ms: wall_ms(),
            standing: worker.freshness.standing(),
            stage: Stage::Arrived,
            tries: Tries::default(),
            error: "",
            reason: "",
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            ttft_us: None,
            tokens: None,
            prompt_bytes: None,
            has_output: true,
            price: None,
        }
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    pub(crate) fn view(&self) -> &Rc<View> {
        &self.view
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.client
    }

    pub(crate) fn request_id(&self) -> &HeaderValue {
        &self.request_id
    }

    pub(crate) fn id(&self) -> CallId {
        self.id
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether keys may be taken at all: one that is known here may have been revoked elsewhere.
    pub(crate) fn may_take_keys(&self) -> Result<(), Error> {
        match self.standing {
            Standing::Fresh | Standing::Stale(_) => Ok(()),
            Standing::Denied(seconds) => Err(Error::ConfigStale { seconds }),
        }
    }

    /// Tells the operator what the client is not told: why, and of what.
    pub(crate) fn log_failure(&self, error: &Error) {
        tracing::warn!(
            error = Chain(error).to_string(),
            request_id = self.request_id.to_str().unwrap_or_default(),
            tenant = &*self.known.dims.tenant,
            route = &*self.known.dims.route,
            provider = &*self.known.dims.provider,
            "a call failed"
        );
    }

    /// Says whom and what the call is about, as far as that is known.
    pub(crate) fn about(&mut self, known: Rc<Known>) {
        self.known = known;
    }

    /// What the call is about.
    pub(crate) fn known(&self) -> &Rc<Known> {
        &self.known
    }

    /// It has taken this of its limits, and holds it until it has ended.
    pub(crate) fn holds(&mut self, taken: Reservation) {
        self.takes = Takes::of(&taken);
        self.holds = Some(taken);
    }

    /// Says whom and which built-in route the call is about.
    pub(crate) fn about_builtin(&mut self, key: &KeyEntry, route: &'static str) {
        self.known = self.view.of_builtin(key, route);
    }

    /// Says which model is asked, and what it costs.
    pub(crate) fn about_model(&mut self, key: &KeyEntry, route: &'static str, model: &ModelEntry) {
        self.known = self.view.of_model(key, route, model);
        self.price = model.price;
    }

    /// Records the call before an upstream sees a byte of it.
    pub(crate) fn open(&mut self, bytes_in: u64, prompt_bytes: Option<u64>) -> Result<(), Error> {
        self.bytes_in = bytes_in;
        let opened = Opened {
            call: self.id,
            attempt: 0,
            dims: &self.known.dims,
            takes: &self.takes,
            asked: self.asked(),
            reserved_input: prompt_bytes.map_or(0, estimate::tokens),
            bytes_in,
        };
        let recorded = self.worker.recorder.open(&opened);
        recorded.map_err(|error| match error {
            RecordError::Limited => Error::LimitUnrecordable,
            error => Error::Unrecordable(error),
        })?;
        self.prompt_bytes = prompt_bytes;
        self.stage = Stage::Open;
        Ok(())
    }

    /// The gateway answers with an error of its own.
    pub(crate) fn refused(&mut self, error: &Error) {
        (self.error, self.reason) = (error.code().as_str(), error.reason());
        if let Error::Limit(refusal) = error {
            self.refused_by = Some(refusal.clone());
        }
    }

    /// An attempt begins: at an endpoint, or in this process.
    pub(crate) fn tries(&mut self, endpoint: Option<&Endpoint>) {
        let now_us = self.elapsed_us();
        let label = endpoint.map(|endpoint| &endpoint.origin.label);
        self.tries.begin(label, now_us);
    }

    /// What came of the attempt, as far as its answer's head.
    pub(crate) fn tried(&mut self, outcome: Result<&ResponseHead, &UpstreamError>) {
        let now_us = self.elapsed_us();
        match outcome {
            Ok(head) => self
                .tries
                .end(head.status.as_u16(), reason::ANSWERED, now_us),
            Err(error) => self.tries.end(0, reason::of_upstream(error), now_us),
        }
    }

    /// The attempt in this process was answered.
    pub(crate) fn tried_inside(&mut self, status: u16) {
        let now_us = self.elapsed_us();
        self.tries.end(status, reason::ANSWERED, now_us);
    }

    /// Nothing of the prompt has reached a provider, or it will charge nothing for it.
    pub(crate) fn nothing_charged(&mut self) {
        self.prompt_bytes = None;
    }

    /// The answer holds no tokens, whatever its length.
    pub(crate) fn has_no_output(&mut self) {
        self.has_output = false;
    }

    /// The tokens that the call took.
    pub(crate) fn took(&mut self, tokens: (Usage, Counted)) {
        self.tokens = Some(tokens);
    }

    /// What the tokens so far cost, in nano-dollars; `None` where there are none or no price.
    pub(crate) fn nano_usd(&self) -> Option<u64> {
        let (usage, _) = self.tokens.as_ref()?;
        let (price, _) = self.price.as_ref()?;
        Some(price::cost(usage, price))
    }

    /// The answer begins.
    pub(crate) fn answer_begins(&mut self, status: u16) {
        self.status = status;
    }

    /// More of the request's body has come.
    pub(crate) fn received(&mut self, bytes_in: u64) {
        self.bytes_in = self.bytes_in.max(bytes_in);
    }

    /// More of the answer's body leaves.
    pub(crate) fn sends(&mut self, bytes: usize) {
        self.bytes_out += bytes as u64;
    }

    /// The first byte of the answer's body leaves; of a metered stream, the first token.
    pub(crate) fn first_byte(&mut self) {
        if self.ttft_us.is_none() && self.stage == Stage::Open {
            self.ttft_us = Some(self.elapsed_us());
        }
    }

    /// The answer has ended; the call is recorded.
    pub(crate) fn end(&mut self, end: End) {
        if end == End::Cut && self.reason.is_empty() {
            self.reason = reason::ANSWER_BROKE_OFF;
        }
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Ended => {}
            Stage::Arrived => {
                // What was taken is taken for nothing.
                self.holds = None;
                self.takes = Takes::NONE;
                self.record(end == End::Cut, Self::refusal);
            }
            Stage::Open => {
                self.estimate_what_is_missing();
                self.record(end == End::Cut, |worker, closed| {
                    worker.recorder.close(closed)
                });
                // Only now: whoever gives leases back asks whether a call holds them still.
                if let Some(held) = self.holds.take() {
                    held.settle();
                }
            }
        }
    }

    /// Where the provider was asked and nothing is known, a quarter of the bytes.
    fn estimate_what_is_missing(&mut self) {
        if let (None, Some(prompt)) = (self.tokens, self.prompt_bytes) {
            let answered = self.has_output && (200..300).contains(&self.status);
            let output_bytes = if answered { self.bytes_out } else { 0 };
            self.tokens = Some((estimate::usage(prompt, output_bytes), Counted::Estimated));
        }
    }

    fn refusal(worker: &Worker, closed: &Closed<'_>) -> Result<(), RecordError> {
        worker.recorder.refuse(closed)
    }

    fn record(
        &self,
        cut: bool,
        write: impl FnOnce(&Worker, &Closed<'_>) -> Result<(), RecordError>,
    ) {
        let (usage, source) = match self.tokens {
            Some((usage, Counted::Reported)) => (usage, UsageSource::Reported),
            Some((usage, Counted::Estimated)) => (usage, UsageSource::Estimated),
            None => (Usage::default(), UsageSource::None),
        };
        let nano_usd = self.nano_usd();
        let closed = Closed {
            status: if self.status == 0 {
                CLIENT_LEFT
            } else {
                self.status
            },
            cut,
            usage_source: source,
            input_uncached: usage.input_uncached,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            output: usage.output,
            reasoning: usage.reasoning,
            nano_usd: nano_usd.unwrap_or(0),
            priced: nano_usd.is_some(),
            price_version: nano_usd.and(self.price).map_or(0, |(_, version)| version),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            latency_us: self.elapsed_us(),
            ttft_us: self.ttft_us,
            asked: self.asked(),
            story: Story {
                error: self.error,
                reason: self.reason,
                earlier: self.tries.earlier(),
                last: self.tries.last(),
                refused: self.refused_by.as_deref(),
            },
            takes: &self.takes,
            ..Closed::of(self.id, 0, &self.known.dims)
        };
        if let Err(error) = write(&self.worker, &closed) {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the end of a call could not be recorded"
            );
        }
    }

    fn asked(&self) -> Asked<'_> {
        let label = self.labelled.then(|| self.request_id.to_str().ok());
        Asked {
            started_ms: self.started_ms,
            revision: self.view.table().revision(),
            request_id: label.flatten().unwrap_or_default(),
            method: self.method.as_str(),
            path: &self.path,
        }
    }

    fn elapsed_us(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Drop for Call {
    /// The client left: hyper dropped the work on its answer.
    fn drop(&mut self) {
        if self.reason.is_empty() {
            self.reason = reason::CLIENT_LEFT;
        }
        self.end(End::Cut);
    }
}

/// The client's own label, where it is one.
fn label(headers: &HeaderMap) -> Option<HeaderValue> {
    let value = headers.get(REQUEST_ID)?;
    let bytes = value.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let fits = (1..=REQUEST_ID_MAX).contains(&bytes.len()) && bytes.iter().all(allowed);
    fits.then(|| value.clone())
}
