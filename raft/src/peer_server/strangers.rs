//! Who has not shown a certificate of a node, not yet or not at all: how many there may be, of one address and of all, and for
//! how long.
//!
//! ```text
//! accepted -> `Places` of the unproven: until the handshake is done
//!          -> `Places` of the strangers: a question within 3 s, its answer, and the connection ends
//! ```
//!
//! Invariants:
//! * members have most of the listener's connections to themselves, whatever others do;
//! * whoever holds places holds those of its own address, and only for moments, unless it shows a token.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// A stranger's question, the token with it, must have come so long after the handshake.
pub(super) const ASK_TIME: Duration = Duration::from_secs(3);
/// A stranger that has asked is gone after so long, answered or not.
const STRANGER_TIME: Duration = Duration::from_secs(15);
/// What one subscriber of IPv6 usually has.
const V6_PREFIX: u128 = u128::MAX << 64;

/// Places that are bounded per address and in all. A cheap clone of the same.
#[derive(Clone, Debug)]
pub(super) struct Places {
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    of_one: usize,
    of_all: usize,
}

/// One of them; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    taken: Arc<Mutex<BTreeMap<IpAddr, usize>>>,
    address: IpAddr,
}

/// How far a stranger is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Progress {
    Silent,
    Asked,
    Answered,
}

/// How far the stranger on a connection is, for whoever serves its question; in the extensions of its requests. A cheap clone.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    progress: Arc<watch::Sender<Progress>>,
}

/// A connection without a certificate.
#[derive(Debug)]
pub(super) struct Stranger {
    question: Question,
    began: Instant,
    _place: Place,
}

// === impl Places ===

impl Places {
    pub(super) fn new(of_one: usize, of_all: usize) -> Self {
        Self {
            taken: Arc::default(),
            of_one,
            of_all,
        }
    }

    /// One for this address, if it has not too many and there are any left.
    pub(super) fn take(&self, address: IpAddr) -> Option<Place> {
        let address = subscriber(address);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&address).copied().unwrap_or_default();
        if own >= self.of_one || taken.values().sum::<usize>() >= self.of_all {
            return None;
        }
        taken.insert(address, own + 1);
        Some(Place {
            taken: Arc::clone(&self.taken),
            address,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

// === impl Question ===

impl Question {
    /// It has come whole, the token with it.
    pub(crate) fn is_asked(&self) {
        self.reaches(Progress::Asked);
    }

    pub(super) fn is_answered(&self) {
        self.reaches(Progress::Answered);
    }

    fn reaches(&self, reached: Progress) {
        self.progress.send_if_modified(|progress| {
            let further = reached > *progress;
            *progress = reached.max(*progress);
            further
        });
    }

    /// Returns when the stranger is so far.
    async fn until(&self, reached: Progress) {
        let mut progress = self.progress.subscribe();
        // The sender lives as long as this value.
        let _ = progress.wait_for(|progress| *progress >= reached).await;
    }
}

// === impl Stranger ===

impl Stranger {
    pub(super) fn new(place: Place) -> Self {
        Self {
            question: Question {
                progress: Arc::new(watch::Sender::new(Progress::Silent)),
            },
            began: Instant::now(),
            _place: place,
        }
    }

    pub(super) fn question(&self) -> Question {
        self.question.clone()
    }
}

// === free functions ===

/// Returns when a stranger has taken too long. Whoever shows a certificate may take its time.
pub(super) async fn takes_too_long(stranger: Option<&Stranger>) {
    let Some(stranger) = stranger else {
        return pending().await;
    };
    let asked = stranger.question.until(Progress::Asked);
    if timeout(ASK_TIME, asked).await.is_ok() {
        sleep_until(stranger.began + STRANGER_TIME).await;
    }
}

/// Returns when a stranger has its answer: it has come for one.
pub(super) async fn is_served(stranger: Option<&Stranger>) {
    match stranger {
        Some(stranger) => stranger.question.until(Progress::Answered).await,
        None => pending().await,
    }
}

/// Who counts as one: an address, or a whole /64 of IPv6.
fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & V6_PREFIX)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn neither_one_address_nor_all_take_more_than_their_places() {
        let places = Places::new(2, 3);
        let first = places.take(ip("192.0.2.1")).unwrap();
        let _second = places.take(ip("::ffff:192.0.2.1")).unwrap();
        assert!(places.take(ip("192.0.2.1")).is_none());
        let third = places.take(ip("2001:db8::1")).unwrap();
        assert!(places.take(ip("192.0.2.2")).is_none());
        drop(third);
        let _network = places.take(ip("2001:db8::2")).unwrap();
        drop(first);
        let _again = places.take(ip("192.0.2.1")).unwrap();
        assert!(places.take(ip("192.0.2.1")).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_is_gone_soon_and_whoever_asks_later() {
        let stranger = || Stranger::new(Places::new(1, 1).take(ip("192.0.2.1")).unwrap());
        let (silent, asking, began) = (stranger(), stranger(), Instant::now());
        asking.question().is_asked();
        takes_too_long(Some(&silent)).await;
        assert_eq!(began.elapsed(), ASK_TIME);
        takes_too_long(Some(&asking)).await;
        assert_eq!(began.elapsed(), STRANGER_TIME);
        asking.question().is_answered();
        is_served(Some(&asking)).await;
    }
}
