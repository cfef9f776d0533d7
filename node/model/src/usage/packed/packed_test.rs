//! Packed buckets come back as they were, cost little, and nothing damaged is taken for one.

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn counters() -> impl Strategy<Value = Counters> {
    let value = prop_oneof![4 => Just(0), 4 => 0_u64..300, 1 => any::<u64>()];
    vec(value, COUNTERS).prop_map(|values| Counters::of(values.try_into().expect("as many")))
}

fn histogram() -> impl Strategy<Value = Histogram> {
    let bins = btree_map(0..BINS, prop_oneof![1_u64..200, Just(u64::MAX)], 0..6);
    bins.prop_map(|bins| Histogram::from_bins(bins.into_iter().collect()).expect("sound"))
}

fn chunk() -> impl Strategy<Value = Chunk> {
    let id = prop_oneof![0_u32..400, any::<u32>()];
    let cell = (counters(), histogram(), histogram()).prop_map(|(counters, latency, ttft)| {
        Arc::new(Cell {
            counters,
            latency,
            ttft,
        })
    });
    btree_map(id, cell, 0..200).prop_map(|cells| cells.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn cells_come_back_as_they_were(chunk in chunk()) {
        let packed = Packed::of(&chunk);
        prop_assert_eq!(packed.len(), chunk.len());
        prop_assert_eq!(&packed.unpack(), &chunk);
        prop_assert!(packed.series().eq(chunk.keys().copied()));
        let again = Packed::from_bytes(packed.bytes()).expect("its own bytes");
        prop_assert_eq!(&again, &packed);
        prop_assert_eq!(again.unpack(), chunk);
    }

    #[test]
    fn a_series_is_in_the_block_that_is_found_for_it(chunk in chunk(), other in any::<u32>()) {
        let packed = Packed::of(&chunk);
        for id in chunk.keys() {
            let (_, block) = packed.block_of(*id).expect("it is there");
            prop_assert!(block.series().contains(id));
        }
        let found = packed.block_of(other).is_some_and(|(_, block)| block.series().contains(&other));
        prop_assert_eq!(found, chunk.contains_key(&other));
    }

    /// A checksum guards the file that a bucket stands in; here the bytes must only never be taken for what breaks a reader.
    #[test]
    fn damaged_bytes_are_refused_or_read_without_a_panic(
        chunk in chunk(),
        flips in vec((any::<prop::sample::Index>(), 1_u8..), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let packed = Packed::of(&chunk);
        let mut bytes = packed.bytes().to_vec();
        for (at, mask) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        for damaged in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            if let Ok(read) = Packed::from_bytes(damaged) {
                let ids: Vec<u32> = read.series().collect();
                prop_assert!(ids.is_sorted_by(|a, b| a < b));
                prop_assert_eq!(read.unpack().len(), read.len());
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(mut bytes in vec(any::<u8>(), 0..300)) {
        if let Some(first) = bytes.first_mut() {
            *first = 1;
        }
        if let Ok(read) = Packed::from_bytes(&bytes) {
            prop_assert_eq!(read.cells().count(), read.len());
        }
    }
}

#[test]
fn cells_that_look_alike_cost_a_few_bytes_each() {
    let cell = Arc::new(Cell {
        counters: Counters {
            calls: 4,
            input_uncached: 900,
            ..Counters::default()
        },
        ..Cell::default()
    });
    let chunk: Chunk = (0..10_u32.pow(4))
        .map(|id| (id, Arc::clone(&cell)))
        .collect();
    let packed = Packed::of(&chunk);
    assert!(
        packed.bytes().len() < 2 * chunk.len(),
        "{}",
        packed.bytes().len()
    );
}

#[test]
fn bytes_of_another_version_and_bytes_that_follow_are_refused() {
    let chunk: Chunk = (0..=64_u32).map(|id| (id, Arc::default())).collect();
    let bytes = Packed::of(&chunk).bytes().to_vec();
    let mut newer = bytes.clone();
    newer[0] = 2;
    let mut longer = bytes.clone();
    longer.push(0);
    for bad in [&newer[..], &longer, &bytes[..bytes.len() - 1], &[]] {
        assert!(Packed::from_bytes(bad).is_err());
    }
    let mut claims = vec![1];
    put_varint(&mut claims, u64::MAX);
    assert!(Packed::from_bytes(&claims).is_err());
}
