//! The listeners, bound before anything else, so that a taken port is the first error.

use std::io;
use std::net::{SocketAddr, TcpListener};

use mode_envoy_raft::Addresses;

use super::announce;
use crate::config::{Listener, ListenerKind, Protection, Settings};

/// Bound and not yet served.
pub(super) struct Listeners {
    pub(super) admin: TcpListener,
    pub(super) peer: TcpListener,
    pub(super) bound: Bound,
}

/// Where the listeners are, and what others are told.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) admin: SocketAddr,
    pub(super) gateway: SocketAddr,
    pub(super) advertise: Addresses,
    /// Whether the admin listener has TLS.
    pub(super) admin_tls: bool,
}

/// An address cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error(
    "binding the {kind} listener to {addr}: is another process using it? choose another with --{kind}-addr"
)]
pub(crate) struct BindError {
    kind: ListenerKind,
    addr: SocketAddr,
    #[source]
    source: io::Error,
}

// === impl Listeners ===

impl Listeners {
    pub(super) fn bind(settings: &Settings) -> Result<Self, BindError> {
        let (admin, admin_addr) = bind(&settings.admin)?;
        let (peer, peer_addr) = bind(&settings.peer)?;
        // The gateway binds for itself, each worker its own. Its address is settled now, since others are told
        // before it starts; where the port is left to the system, a free one is chosen here.
        let (gateway, gateway_addr) = bind(&settings.gateway)?;
        drop(gateway);
        let advertise = Addresses {
            peer: settings.peer.advertised(peer_addr),
            gateway: settings.gateway.advertised(gateway_addr),
            admin: settings.admin.advertised(admin_addr),
        };
        announce(ListenerKind::Admin, admin_addr, &advertise.admin);
        announce(ListenerKind::Peer, peer_addr, &advertise.peer);
        let bound = Bound {
            admin: admin_addr,
            gateway: gateway_addr,
            advertise,
            admin_tls: settings.admin.protection != Protection::None,
        };
        Ok(Self { admin, peer, bound })
    }
}

// === impl Bound ===

impl Bound {
    /// The admin API's URL for users of this machine.
    pub(super) fn admin_url(&self) -> String {
        let mut addr = self.admin;
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let scheme = if self.admin_tls { "https" } else { "http" };
        format!("{scheme}://{addr}")
    }
}

fn bind(listener: &Listener) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError {
        kind: listener.kind,
        addr: listener.bind,
        source,
    };
    let bound = TcpListener::bind(listener.bind).map_err(failed)?;
    bound.set_nonblocking(true).map_err(failed)?;
    let addr = bound.local_addr().map_err(failed)?;
    Ok((bound, addr))
}
