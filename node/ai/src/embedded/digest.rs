//! A stable hash, so that equal requests get equal ids on every node and in every release.
//!
//! FNV-1a with 128 bits: not a secret, not for tables; the standard's own hashers promise no
//! stability.

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

// === free functions ===

/// The digest of `bytes`.
pub(crate) fn of(bytes: &[u8]) -> u128 {
    bytes.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_fnv_1a_and_never_changes() {
        assert_eq!(of(b""), OFFSET);
        assert_eq!(of(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
