//! Names to addresses, off the workers and remembered for the whole node.
//!
//! The system's resolver blocks, so it runs on tokio's blocking threads. It tells no time to live; names are asked
//! for again after [`FRESH`]. A resolver that fails does not take down what it has answered before: an old answer
//! is used for up to [`STALE`], and a failure is remembered for [`NEGATIVE`], so that it is not asked for each request.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long an answer is taken as it is.
const FRESH: Duration = Duration::from_secs(30);
/// How long an answer is still used where asking again fails.
const STALE: Duration = Duration::from_mins(5);
/// How long a failure is remembered.
const NEGATIVE: Duration = Duration::from_secs(1);
/// Names remembered; beyond it all are forgotten, which costs one lookup each.
const NAMES_MAX: usize = 4_096;

/// The names that this node has asked for.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    known: Mutex<HashMap<Arc<str>, Known>>,
}

#[derive(Clone, Debug)]
struct Known {
    addresses: Arc<[IpAddr]>,
    answered: Instant,
    /// Until when nobody needs to ask again.
    settled_until: Instant,
}

// === impl Resolver ===

impl Resolver {
    /// The addresses of `host`, in the order to try.
    pub(super) async fn addresses(&self, host: &Arc<str>) -> io::Result<Arc<[IpAddr]>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Arc::from([address]));
        }
        let known = self.get(host);
        if let Some(known) = &known
            && Instant::now() < known.settled_until
        {
            return nonempty(Arc::clone(&known.addresses));
        }
        let asked = tokio::net::lookup_host((&**host, 0)).await;
        self.remember(host, known, asked)
    }

    fn remember(
        &self,
        host: &Arc<str>,
        known: Option<Known>,
        asked: io::Result<impl Iterator<Item = SocketAddr>>,
    ) -> io::Result<Arc<[IpAddr]>> {
        let now = Instant::now();
        let (addresses, error) = match asked {
            Ok(found) => (
                found.map(|address| address.ip()).collect::<Arc<[IpAddr]>>(),
                None,
            ),
            Err(error) => (Arc::from([]), Some(error)),
        };
        if !addresses.is_empty() {
            let fresh = Arc::clone(&addresses);
            self.put(
                host,
                Known {
                    addresses: fresh,
                    answered: now,
                    settled_until: now + FRESH,
                },
            );
            return Ok(addresses);
        }
        let old = known.filter(|known| now.duration_since(known.answered) < STALE);
        let (addresses, answered) = match old {
            Some(known) => (known.addresses, known.answered),
            None => (addresses, now),
        };
        let kept = Arc::clone(&addresses);
        self.put(
            host,
            Known {
                addresses: kept,
                answered,
                settled_until: now + NEGATIVE,
            },
        );
        match error {
            Some(error) if addresses.is_empty() => Err(error),
            _ => nonempty(addresses),
        }
    }

    fn get(&self, host: &str) -> Option<Known> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(host)
            .cloned()
    }

    fn put(&self, host: &Arc<str>, entry: Known) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= NAMES_MAX {
            known.clear();
        }
        known.insert(Arc::clone(host), entry);
    }
}

fn nonempty(addresses: Arc<[IpAddr]>) -> io::Result<Arc<[IpAddr]>> {
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(address: &str) -> std::vec::IntoIter<SocketAddr> {
        vec![address.parse().unwrap()].into_iter()
    }

    fn failed() -> io::Result<std::vec::IntoIter<SocketAddr>> {
        Err(io::Error::other("no resolver"))
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_outlives_a_failing_resolver_but_not_for_ever() {
        let (resolver, host) = (Resolver::default(), Arc::from("orders.test"));
        assert!(
            resolver
                .remember(&host, None, Ok(found("10.0.0.5:0")))
                .is_ok()
        );
        tokio::time::advance(FRESH * 2).await;
        let again = resolver
            .remember(&host, resolver.get(&host), failed())
            .unwrap();
        assert_eq!(&*again, ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        tokio::time::advance(STALE).await;
        assert!(
            resolver
                .remember(&host, resolver.get(&host), failed())
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_for_a_moment() {
        let (resolver, host) = (Resolver::default(), Arc::from("nowhere.test"));
        assert!(resolver.remember(&host, None, failed()).is_err());
        // Within the moment the resolver is not asked: the answer comes without the blocking pool.
        assert!(resolver.addresses(&host).await.is_err());
        let known = resolver.get(&host).unwrap();
        assert!(Instant::now() < known.settled_until);
    }

    #[tokio::test]
    async fn an_address_needs_no_resolver() {
        let resolver = Resolver::default();
        let addresses = resolver.addresses(&Arc::from("127.0.0.1")).await.unwrap();
        assert_eq!(&*addresses, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(resolver.get("127.0.0.1").is_none());
    }
}
