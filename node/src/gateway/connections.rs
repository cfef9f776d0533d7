//! The open connections of one worker: how many there are, and whose, and how they learn that the node drains.
//!
//! A connection's task looks at a flag each time it is polled, which costs nothing; those that sleep are woken when
//! the flag is raised.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::settings::GatewayLimits;

/// What one subscriber of IPv6 usually has.
const V6_PREFIX: u128 = u128::MAX << 64;

/// The open connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    draining: Cell<bool>,
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Option<Waker>>>,
    /// How many each client has.
    clients: RefCell<HashMap<IpAddr, usize>>,
    /// Who waits for the last one to close.
    waiting: RefCell<Option<Waker>>,
}

/// One connection; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    connections: Rc<Connections>,
    number: u64,
    client: IpAddr,
    registered: bool,
}

// === impl Connections ===

impl Connections {
    pub(crate) fn count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Counts one more of a client; nothing where that would be too many.
    pub(crate) fn open(self: &Rc<Self>, client: IpAddr, limits: &GatewayLimits) -> Option<Ticket> {
        let client = subscriber(client);
        if self.count() >= limits.connections {
            return None;
        }
        {
            let mut clients = self.clients.borrow_mut();
            let count = clients.entry(client).or_insert(0);
            if *count >= limits.connections_per_client {
                return None;
            }
            *count += 1;
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        self.open.borrow_mut().insert(number, None);
        Some(Ticket {
            connections: Rc::clone(self),
            number,
            client,
            registered: false,
        })
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
        let mut clients = self.connections.clients.borrow_mut();
        if let Some(count) = clients.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&self.client);
            }
        }
        drop(clients);
        let mut open = self.connections.open.borrow_mut();
        open.remove(&self.number);
        if open.is_empty()
            && let Some(waker) = self.connections.waiting.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

/// Who counts as one client: an address, or a whole /64 of IPv6.
fn subscriber(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & V6_PREFIX)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_all_clients_nor_one_may_have_too_many() {
        let limits = GatewayLimits {
            connections: 3,
            connections_per_client: 2,
            ..GatewayLimits::default()
        };
        let connections = Rc::<Connections>::default();
        let open = |client: &str| connections.open(client.parse().unwrap(), &limits);
        let first = open("192.0.2.1").unwrap();
        let _second = open("::ffff:192.0.2.1").unwrap();
        assert!(open("192.0.2.1").is_none());
        let third = open("2001:db8::1").unwrap();
        assert!(open("192.0.2.2").is_none());
        drop(third);
        drop(first);
        let _again = open("192.0.2.1").unwrap();
        assert!(open("192.0.2.1").is_none());
        assert_eq!(connections.count(), 2);
    }

    #[test]
    fn a_whole_network_of_version_6_is_one_client() {
        let of = |text: &str| subscriber(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    }
}
