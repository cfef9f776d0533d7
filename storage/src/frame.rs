//! The one framing of every record this crate writes.
//!
//! ```text
//! 0        4         8      9         10                        10 + n      next multiple of 8
//! | len u32 | crc u32 | kind | version | payload (n bytes) ...  | zeros ... |
//! ```
//!
//! Integers are little endian. `len` counts kind, version and payload, so it is at least 2 and a
//! zero word means: nothing was written from here on. The CRC-32C covers `len`, kind, version and
//! payload, and starts from a seed that the file's header gives, so that bytes copied from another
//! file (or sent by a client as payload) are never taken for records of this one.
//!
//! Invariants: frames start at multiples of [`ALIGN`], so that a scan finds them behind damage; and a
//! flipped bit anywhere in a frame, padding included, is seen.

/// Frames start at multiples of this many bytes.
pub(crate) const ALIGN: usize = 8;

/// Bytes of a frame before its payload.
pub(crate) const HEAD: usize = 10;

/// Kind and version, which `len` counts beside the payload.
const TAG: usize = 2;

/// What starts at one place of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed<'a> {
    /// A whole frame with a matching checksum.
    Frame(Frame<'a>),
    /// The zero word that ends the frames, or the end of the file.
    End,
    /// Neither.
    Damaged,
}

/// A frame whose checksum matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) version: u8,
    pub(crate) payload: &'a [u8],
    pub(crate) crc: u32,
}

// === impl Frame ===

impl Frame<'_> {
    /// Bytes from this frame's start to the next one's.
    pub(crate) fn size(&self) -> usize {
        size(self.payload.len())
    }
}

/// Bytes that a frame with such a payload takes, padding included.
pub(crate) fn size(payload_len: usize) -> usize {
    (HEAD + payload_len).next_multiple_of(ALIGN)
}

/// The size of the frame that `buf` starts with by its own claim, or `None` if the claim is absurd.
pub(crate) fn claimed_size(buf: &[u8], max_payload: usize) -> Option<usize> {
    let word: [u8; 4] = buf.get(..4)?.try_into().ok()?;
    let payload = usize::try_from(u32::from_le_bytes(word))
        .ok()?
        .checked_sub(TAG)?;
    (payload <= max_payload).then(|| size(payload))
}

/// The first ten bytes of a frame around `parts`; the caller has bounded their length.
pub(crate) fn head(seed: u32, kind: u8, version: u8, parts: &[&[u8]]) -> [u8; HEAD] {
    let payload_len: usize = parts.iter().map(|part| part.len()).sum();
    let len = u32::try_from(TAG + payload_len)
        .unwrap_or(u32::MAX)
        .to_le_bytes();
    let mut crc = crc32c::crc32c_append(seed, &[len[0], len[1], len[2], len[3], kind, version]);
    for part in parts {
        crc = crc32c::crc32c_append(crc, part);
    }
    let crc = crc.to_le_bytes();
    [
        len[0], len[1], len[2], len[3], crc[0], crc[1], crc[2], crc[3], kind, version,
    ]
}

/// Appends one whole frame and returns its checksum.
pub(crate) fn push(out: &mut Vec<u8>, seed: u32, kind: u8, version: u8, payload: &[u8]) -> u32 {
    let head = head(seed, kind, version, &[payload]);
    out.extend_from_slice(&head);
    out.extend_from_slice(payload);
    out.resize(out.len().next_multiple_of(ALIGN), 0);
    crc_of(&head)
}

/// The checksum in a frame's head.
pub(crate) fn crc_of(head: &[u8; HEAD]) -> u32 {
    u32::from_le_bytes([head[4], head[5], head[6], head[7]])
}

/// Reads the frame at the start of `buf`, which reaches to the end of the file or at least as far as
/// the frame claims.
pub(crate) fn parse(buf: &[u8], seed: u32, max_payload: usize) -> Parsed<'_> {
    let Some(word) = buf.get(..4) else {
        return if buf.iter().all(|byte| *byte == 0) {
            Parsed::End
        } else {
            Parsed::Damaged
        };
    };
    if word == [0; 4] {
        return Parsed::End;
    }
    checked(buf, seed, max_payload).map_or(Parsed::Damaged, Parsed::Frame)
}

fn checked(buf: &[u8], seed: u32, max_payload: usize) -> Option<Frame<'_>> {
    let size = claimed_size(buf, max_payload)?;
    let whole = buf.get(..size)?;
    let head: &[u8; HEAD] = whole.first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes([head[0], head[1], head[2], head[3]])).ok()?;
    let (body, padding) = whole[HEAD - TAG..].split_at(len);
    let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &head[..4]), body);
    let intact = crc == crc_of(head) && padding.iter().all(|byte| *byte == 0);
    intact.then_some(Frame {
        kind: head[8],
        version: head[9],
        payload: &body[TAG..],
        crc,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_has_the_documented_bytes() {
        let mut out = Vec::new();
        push(&mut out, 0, 7, 1, b"usage");
        assert_eq!(out[..4], [7, 0, 0, 0]);
        assert_eq!(
            out[4..8],
            crc32c::crc32c(b"\x07\0\0\0\x07\x01usage").to_le_bytes()
        );
        assert_eq!(out[8..], *b"\x07\x01usage\0");
        assert_eq!(out[4..8], [0xec, 0xaf, 0x89, 0x13]);
    }

    #[test]
    fn zeros_and_nothing_are_the_end_and_a_short_rest_is_damage() {
        assert_eq!(parse(&[], 3, 100), Parsed::End);
        assert_eq!(parse(&[0; 16], 3, 100), Parsed::End);
        assert_eq!(parse(&[9, 0, 0], 3, 100), Parsed::Damaged);
        assert_eq!(parse(&[9, 0, 0, 0, 1, 1, 1, 1], 3, 100), Parsed::Damaged);
        assert_eq!(parse(&[1, 0, 0, 0, 1, 1, 1, 1], 3, 100), Parsed::Damaged);
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_is_damage() {
        let mut out = Vec::new();
        push(&mut out, 1, 1, 1, &[5; 101]);
        assert_eq!(parse(&out, 1, 100), Parsed::Damaged);
        assert!(matches!(parse(&out, 1, 101), Parsed::Frame(_)));
        assert_eq!(parse(&[0xff; 64], 1, 100), Parsed::Damaged);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            seed: u32,
            kind: u8,
            version: u8,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut out = Vec::new();
            let crc = push(&mut out, seed, kind, version, &payload);
            prop_assert_eq!(out.len() % ALIGN, 0);
            prop_assert_eq!(out.len(), size(payload.len()));
            let expected = Frame { kind, version, payload: &payload, crc };
            prop_assert_eq!(parse(&out, seed, 300), Parsed::Frame(expected));
            prop_assert_eq!(parse(&out, seed ^ 1, 300), Parsed::Damaged);
        }

        #[test]
        fn a_flipped_bit_is_never_read_as_a_frame(
            payload in proptest::collection::vec(any::<u8>(), 0..60),
            place in any::<proptest::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let mut out = Vec::new();
            push(&mut out, 77, 1, 1, &payload);
            let at = place.index(out.len());
            out[at] ^= 1 << bit;
            prop_assert!(!matches!(parse(&out, 77, 300), Parsed::Frame(_)));
        }
    }
}
