//! A stable hash, so that equal requests get equal ids on every node and in every release.
//!
//! FNV-1a with 128 bits: not a secret, not for tables; the standard's own hashers promise no
//! stability.

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
/// Odd, with bits all over.
const MIX: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

// === free functions ===

/// The digest of `bytes`.
pub(crate) fn of(bytes: &[u8]) -> u128 {
    bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

/// The `nth` of any number of blocks of bits that stand for a digest, each as if drawn by lot. A digest itself will not
/// do: its low bits depend on the last bytes alone.
pub(crate) fn block(digest: u128, nth: u128) -> u128 {
    let start = digest.wrapping_add(MIX.wrapping_mul(nth.wrapping_add(1)));
    let mixed = (0..3).fold(start, |bits, _| (bits ^ (bits >> 67)).wrapping_mul(MIX));
    mixed ^ (mixed >> 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_fnv_1a_and_never_changes() {
        assert_eq!(of(b""), OFFSET);
        assert_eq!(of(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn blocks_of_near_digests_share_half_of_their_bits() {
        let blocks: Vec<u128> = ["a", "b", "aa", "ab", "ba", ""]
            .iter()
            .flat_map(|text| (0..6).map(|nth| block(of(text.as_bytes()), nth)))
            .collect();
        for (at, one) in blocks.iter().enumerate() {
            for other in &blocks[..at] {
                let differing = (one ^ other).count_ones();
                assert!((36..=92).contains(&differing), "{differing}");
            }
        }
    }
}
