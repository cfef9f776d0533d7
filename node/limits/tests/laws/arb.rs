//! Limits, keys and moments for tests, and chance from a seed.

use std::sync::Arc;

use mode_envoy_limits::Now;
use mode_envoy_model::ledger::ask::PoolKey;
use mode_envoy_model::limit::{Limit, Match, Mode, Per, Unit, Window};

/// A wall time at which a minute, an hour and a day begin.
pub(crate) const MIDNIGHT: u64 = 1_767_225_600_000;

pub(crate) fn limit(amount: u64, per: Per, mode: Mode) -> Limit {
    Limit {
        name: "acme-rpm".into(),
        tenant: None,
        matches: Match::default(),
        each: None,
        unit: Unit::Requests,
        amount,
        per,
        window: Window::Calendar,
        mode,
        shadow: false,
    }
}

pub(crate) fn bucket(amount: u64, per: Per, burst: u64, mode: Mode) -> Limit {
    Limit {
        window: Window::Bucket { burst },
        ..limit(amount, per, mode)
    }
}

pub(crate) fn concurrent(amount: u64, mode: Mode) -> Limit {
    Limit {
        unit: Unit::Concurrent,
        ..limit(amount, Per::Total, mode)
    }
}

pub(crate) fn key(number: u64) -> PoolKey {
    PoolKey {
        limit: number,
        value: Arc::from(""),
    }
}

/// A node that is connected, so many milliseconds after midnight.
pub(crate) fn at(ms: u64) -> Now {
    Now {
        wall_ms: MIDNIGHT + ms,
        boot_ms: 1_000_000 + ms,
        contact_boot_ms: Some(1_000_000 + ms),
        nodes: 3,
    }
}

/// The same node, that was last connected at `contact`.
pub(crate) fn cut_off(ms: u64, contact: u64) -> Now {
    Now {
        contact_boot_ms: Some(1_000_000 + contact),
        ..at(ms)
    }
}

/// Splitmix64.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// In (0, 1].
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn exponential(&mut self, rate: f64) -> f64 {
        -self.unit().ln() / rate
    }

    /// About normal, by the sum of twelve.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}
