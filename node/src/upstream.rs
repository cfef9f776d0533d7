//! Everything between a worker and an HTTP/1.1 upstream: names, connections, TLS, and the exchange of one request.
//!
//! ```text
//! Network (per node: resolver, TLS) -> Pool (per worker: idle connections) -> Exchange (one request and its answer)
//! ```
//!
//! The client's side of HTTP/1.1 is written here, over `httparse`, for two reasons that a library's connection task
//! cannot give: everything that one read of the upstream returned leaves in one piece, however many chunks it was
//! framed in; and an exchange runs in the task of its own request, without a channel or a wake-up in between.
//!
//! Invariants:
//! * a connection is used again only after its answer ended where its framing said, with nothing left over;
//! * a request that an upstream may have seen is never sent twice;
//! * dropping an exchange closes its connection, so that the upstream stops working for nobody.

mod connect;
mod decode;
mod exchange;
mod head;
mod io;
mod origin;
mod pool;
mod resolve;
mod timer;
mod tls;
mod upload;

use std::io::Error as IoError;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

pub use self::connect::{Network, NetworkError};
pub(crate) use self::exchange::Exchange;
pub(crate) use self::head::{HeadParts, ResponseHead, write_head};
pub(crate) use self::origin::Origin;
pub(crate) use self::pool::{Conn, Pool};
pub(crate) use self::timer::LazyTimer;
pub(crate) use self::upload::{Framing, Upload};

#[cfg(test)]
pub(crate) use self::connect::memory;

/// Limits of time of one exchange.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Timeouts {
    /// To connect, TLS included.
    pub(crate) connect: Duration,
    /// From the request's end to the first byte of the answer.
    pub(crate) first_byte: Duration,
    /// Between two reads of the answer, or two writes of the request, while the upstream is waited for.
    pub(crate) idle: Duration,
    /// For everything, from the request's arrival; looked at while the upstream is waited for.
    pub(crate) total: Duration,
    /// How long the client may keep the request's body waiting.
    pub(crate) client_idle: Duration,
}

/// What was waited for when time ran out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Waited {
    /// A connection.
    Connect,
    /// The first byte of the answer.
    FirstByte,
    /// The next byte, either way.
    Idle,
    /// The whole exchange.
    Total,
}

/// Why an exchange failed.
#[derive(Debug, Error)]
pub(crate) enum UpstreamError {
    /// Nothing was sent: no connection could be made.
    #[error("connecting to {origin}")]
    Connect {
        /// Where to.
        origin: Arc<str>,
        /// What the system said.
        #[source]
        source: IoError,
    },
    /// Time ran out.
    #[error("waiting for {origin}: {waited}")]
    Timeout {
        /// Who was waited for.
        origin: Arc<str>,
        /// What for.
        waited: Waited,
    },
    /// The connection broke.
    #[error("exchanging a request with {origin}")]
    Broken {
        /// With whom.
        origin: Arc<str>,
        /// Nothing of an answer came, on a connection that had served before.
        stale: bool,
        /// What the system said.
        #[source]
        source: IoError,
    },
    /// What came is not an HTTP/1.1 answer.
    #[error("reading the answer of {origin}: {problem}")]
    Malformed {
        /// Whose answer.
        origin: Arc<str>,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The client broke off or sent a body that does not hold.
    #[error("reading the request's body from the client")]
    ClientBody(#[source] hyper::Error),
    /// The client stopped sending.
    #[error("the client sent nothing of the request's body for too long")]
    ClientStalled,
    /// The request's body is over the limit.
    #[error("the request's body is longer than {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
}

// === impl Waited ===

impl std::fmt::Display for Waited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Connect => "no connection within its connect timeout",
            Self::FirstByte => "no answer within its first_byte timeout",
            Self::Idle => "nothing moved within its idle timeout",
            Self::Total => "not done within its total timeout",
        })
    }
}

// === impl UpstreamError ===

impl UpstreamError {
    /// Whether the upstream cannot have seen any of the request, so that another may be tried.
    pub(crate) fn before_sending(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Timeout {
                    waited: Waited::Connect,
                    ..
                }
        )
    }
}
