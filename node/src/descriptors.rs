//! Open files: what clients may take of them, so that the log, the peers and the spools are never without.
//!
//! The system gives a new socket the lowest number that is free. A socket whose number is beyond a bound is closed at once, so
//! all numbers beyond it stay free for everything else, without any counting: nobody who only connects can end a node.
//!
//! ```text
//! 0          clients           1/2     upstreams, operators      1   log, peers, files
//! |-----------------------------|--------------------------------|---------------------|
//! ```

use std::os::fd::{AsFd, AsRawFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Numbers that no connection of a client or to an upstream ever has; a third of all where that is fewer. The peer listener takes
/// half of them at most, and it is open to strangers until they fail its handshake.
const RESERVE: u64 = 512;

/// With fewer than these the operator is told at the start.
const FEW: u64 = 4_096;

/// Whose socket it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Use {
    /// A client of the gateway. They get half, since each may need an upstream.
    Client,
    /// An upstream, which a client that was let in waits for; or an operator.
    Other,
}

// === free functions ===

/// Takes all the open files that the system lets this process have, and tells if they are few.
pub(crate) fn take_all() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // More than it has is never needed: what there is, is shared out.
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, all).is_err() {
        tracing::debug!("the limit of open files stays as it is");
    }
    if let Some(count) = getrlimit(Resource::Nofile)
        .current
        .filter(|count| *count < FEW)
    {
        let clients = bound(Some(count), Use::Client);
        tracing::warn!(
            open_files = count,
            clients_at_most = clients,
            "few open files are allowed, so few clients can be connected; raise the limit (ulimit -n, LimitNOFILE=)"
        );
    }
}

/// Whether a socket that was just made may be kept: enough numbers are left for what must go on.
pub(crate) fn may_keep(socket: &impl AsFd, whose: Use) -> bool {
    let number = u64::try_from(socket.as_fd().as_raw_fd()).unwrap_or(u64::MAX);
    number < bound(getrlimit(Resource::Nofile).current, whose)
}

/// The number from which on sockets are closed; `None` is no limit.
fn bound(limit: Option<u64>, whose: Use) -> u64 {
    let limit = limit.unwrap_or(u64::MAX);
    let shared = limit - RESERVE.min(limit / 3);
    match whose {
        Use::Client => shared / 2,
        Use::Other => shared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_room_for_upstreams_and_both_leave_room_for_the_log() {
        let bounds = |limit| (bound(limit, Use::Client), bound(limit, Use::Other));
        assert_eq!(bounds(Some(0)), (0, 0));
        assert_eq!(bounds(Some(200)), (67, 134));
        assert_eq!(bounds(Some(1_024)), (341, 683));
        assert_eq!(bounds(Some(1 << 20)), (524_032, 1_048_064));
        assert!(bounds(None).0 > 1 << 60);
    }

    #[test]
    fn a_socket_is_kept_while_its_number_is_low() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(may_keep(&socket, Use::Client));
    }
}
