//! What the gateway listener is told at its start, and the limits of everything that it takes in.

use std::net::SocketAddr;
use std::time::Duration;

/// How to start the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GatewaySettings {
    /// Where clients connect; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Threads, each with its own listener, connections and spool.
    pub workers: usize,
    /// This node.
    pub node_id: u64,
    /// Limits of what clients send.
    pub limits: GatewayLimits,
}

/// Limits of what clients send. The defaults are [`GatewayLimits::default`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct GatewayLimits {
    /// Connections of one worker; more are answered `overloaded` and closed. Default 10,000.
    pub connections: usize,
    /// Connections of one worker from one address (IPv6: from one /64). Default 5,000.
    pub connections_per_client: usize,
    /// Calls at a time on one HTTP/2 connection. Default 128.
    pub streams: u32,
    /// Bytes of a request's head. Default 16 KiB.
    pub head_bytes: usize,
    /// Bytes of the body of an AI call, which is read before it is sent on. Default 32 MiB.
    pub ai_body_bytes: u64,
    /// Bytes of a body that is relayed as it comes. Default 1 GiB.
    pub proxied_body_bytes: u64,
    /// From a head's first byte to its last. Default 10 s.
    pub head_timeout: Duration,
    /// From the begin of an AI call until its whole body has come, however slowly it trickles. Default 2 min.
    pub ai_body_timeout: Duration,
    /// Between two requests of a connection. Default 75 s.
    pub keep_alive: Duration,
    /// While the client sends nothing of a body, or takes nothing of an answer. Default 60 s.
    pub client_idle: Duration,
}

// === impl GatewaySettings ===

impl GatewaySettings {
    /// Settings with the default limits.
    pub fn new(addr: SocketAddr, workers: usize, node_id: u64) -> Self {
        Self {
            addr,
            workers,
            node_id,
            limits: GatewayLimits::default(),
        }
    }
}

// === impl GatewayLimits ===

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_client: 5_000,
            streams: 128,
            head_bytes: 16 << 10,
            ai_body_bytes: 32 << 20,
            proxied_body_bytes: 1 << 30,
            head_timeout: Duration::from_secs(10),
            ai_body_timeout: Duration::from_mins(2),
            keep_alive: Duration::from_secs(75),
            client_idle: Duration::from_mins(1),
        }
    }
}
