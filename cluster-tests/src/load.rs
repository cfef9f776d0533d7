//! Load at a steady pace: calls start when they are due, whatever became of those before (an open loop), so that a node
//! that stalls is not spared.
//!
//! Choices come from a seeded generator of our own: the same seed makes the same choices in every version.

use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// Moments that lie a fixed time apart.
#[derive(Debug)]
pub struct Pace {
    next: Instant,
    gap: Duration,
}

// === impl Rng ===

impl Rng {
    /// The generator of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.next_u64() % bound).unwrap_or(0)
    }

    /// Puts a list into another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
}

// === impl Pace ===

impl Pace {
    /// The first moment is one `gap` from now.
    pub fn every(gap: Duration) -> Self {
        Self {
            next: Instant::now() + gap,
            gap,
        }
    }

    /// Waits for the next moment; those that are past come at once.
    pub async fn tick(&mut self) {
        tokio::time::sleep_until(self.next).await;
        self.next += self.gap;
    }
}

// === free functions ===

/// Starts `per_second` calls a second for as long as `time` says, and waits for all of them. `start` makes the call of a
/// number, or ends the load early with `None`.
///
/// # Errors
///
/// A call panicked.
pub async fn paced<T, F>(
    per_second: u32,
    time: Duration,
    mut start: impl FnMut(usize) -> Option<F>,
) -> Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let end = Instant::now() + time;
    let mut pace = Pace::every(Duration::from_secs(1) / per_second.max(1));
    let mut calls = JoinSet::new();
    for number in 0.. {
        pace.tick().await;
        let Some(call) = start(number).filter(|_| Instant::now() < end) else {
            break;
        };
        calls.spawn(call);
    }
    let mut results = Vec::with_capacity(calls.len());
    while let Some(result) = calls.join_next().await {
        results.push(result.context("a call of the load panicked")?);
    }
    Ok(results)
}

/// The seed of a test that makes choices: `MODE_ENVOY_TEST_SEED`, or one of its own. The test prints it.
///
/// # Errors
///
/// The variable is not a number.
pub fn seed() -> Result<u64> {
    if let Ok(text) = std::env::var("MODE_ENVOY_TEST_SEED") {
        return text.parse().context("MODE_ENVOY_TEST_SEED is not a number");
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("reading the clock")?;
    Ok(Rng::new(u64::from(now.subsec_nanos()) ^ now.as_secs()).next_u64() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        let mut rng = Rng::new(1_234_567);
        let numbers = [rng.next_u64(), rng.next_u64(), rng.next_u64()];
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn a_shuffled_list_keeps_its_members() {
        let mut list: Vec<usize> = (0..100).collect();
        Rng::new(7).shuffle(&mut list);
        assert_ne!(list, (0..100).collect::<Vec<_>>());
        list.sort_unstable();
        assert_eq!(list, (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_load_starts_calls_at_its_pace_and_waits_for_them() {
        let began = Instant::now();
        let call = |number: usize| Some(async move { (number, Instant::now()) });
        let calls = paced(100, Duration::from_millis(200), call).await.unwrap();
        assert!((1..20).contains(&calls.len()), "{} calls", calls.len());
        for (number, at) in calls {
            let due = Duration::from_millis(10) * u32::try_from(number + 1).unwrap();
            assert!(at >= began + due, "call {number} began too early");
        }
        let three = |number| (number < 3).then_some(async move { number });
        assert_eq!(
            paced(1_000, Duration::from_mins(1), three)
                .await
                .unwrap()
                .len(),
            3
        );
    }
}
