//! What a seed makes of a run before it begins: how many nodes, how bad a network, which faults.

use std::time::Duration;

use mode_envoy_storage::testing::SplitMix64;

/// What a run is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// Anything goes wrong; a spare takes the place of a node now and then.
    Faults,
    /// The set of voters changes all the time, among nodes that are heard at very different speeds.
    Churn,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kind: Kind,
    /// 3 or 5.
    pub(crate) voters: u64,
    /// Nodes that may take the place of others.
    pub(crate) spares: u64,
    /// The slowest message.
    pub(crate) latency: Duration,
    /// The slowest sync, stalls apart.
    pub(crate) sync: Duration,
    /// How long things go wrong.
    pub(crate) chaos: Duration,
    pub(crate) first_fault: Duration,
    /// Between two faults, on average.
    pub(crate) pause: Duration,
    /// How long a fault lasts at most.
    pub(crate) outage: Duration,
    /// How many disks may be lost.
    pub(crate) disks: u32,
    /// How often the set of voters is changed.
    pub(crate) changes: u32,
}

// === impl Plan ===

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = SplitMix64::new(seed);
        let mut from = |values: &[u64]| values.get(rng.below(values.len())).copied().unwrap_or(0);
        let voters = from(&[3, 3, 5]);
        let ms = Duration::from_millis;
        if seed.is_multiple_of(4) {
            return Self {
                seed,
                kind: Kind::Churn,
                voters: 5,
                spares: 2,
                latency: ms(from(&[10, 40, 80])),
                sync: ms(from(&[1, 5])),
                chaos: ms(12_000),
                first_fault: ms(1_000),
                pause: ms(from(&[500, 1_000])),
                outage: ms(from(&[400, 1_000])),
                disks: 0,
                changes: 20,
            };
        }
        Self {
            seed,
            kind: Kind::Faults,
            voters,
            spares: from(&[0, 1, 2]),
            latency: ms(from(&[3, 10, 40])),
            sync: ms(from(&[1, 5, 20])),
            chaos: ms(from(&[8_000, 12_000])),
            first_fault: ms(from(&[300, 1_500, 2_500])),
            pause: ms(from(&[300, 700, 1_500])),
            outage: ms(from(&[600, 1_500, 4_000])),
            disks: u32::from(from(&[0, 1]) == 1),
            changes: u32::try_from(from(&[0, 1, 3])).unwrap_or(0),
        }
    }
}
