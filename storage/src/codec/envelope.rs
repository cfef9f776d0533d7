//! The envelope of values that stand alone, outside any segment: whose they are, of what kind and version, and whole.
//!
//! ```text
//! magic u16 | envelope version u8 | type id u16 | type version u16 | len u32 | crc32c u32 | head | body
//! ```
//!
//! The head is a type of fixed size in the codec's layout, the body any bytes. The checksum covers everything before
//! it and everything behind it.
//!
//! Invariant: what [`open`] returns is what [`seal`] was given, byte for byte, under the same kind.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CodecError, decode, encode_into};

/// Bytes before the head.
pub(crate) const ENVELOPE_BYTES: usize = 15;

const MAGIC: u16 = 0x4d45;
const ENVELOPE_VERSION: u8 = 1;

/// Where the checksum stands, behind what it covers first.
const CRC_AT: usize = ENVELOPE_BYTES - 4;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Never given to another type.
    pub(crate) type_id: u16,
    /// Grows when the type's layout changes.
    pub(crate) version: u16,
    /// Bytes of the head's encoding.
    pub(crate) head_bytes: usize,
}

/// Puts a value into an envelope.
///
/// # Errors
/// What [`encode_into`] returns if the head is not of its kind's size.
pub(crate) fn seal<H: Serialize>(kind: Kind, head: &H, body: &[u8]) -> Result<Vec<u8>, CodecError> {
    let len = kind.head_bytes + body.len();
    let mut out = Vec::with_capacity(ENVELOPE_BYTES + len);
    out.extend(prefix(kind, len));
    out.extend([0; 4]);
    out.resize(ENVELOPE_BYTES + kind.head_bytes, 0);
    encode_into(head, &mut out[ENVELOPE_BYTES..])?;
    out.extend_from_slice(body);
    let crc = checksum(&out);
    out[CRC_AT..ENVELOPE_BYTES].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Takes a value out of its envelope; `None` if it is not whole, or of another kind or version.
pub(crate) fn open<H: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Option<(H, &[u8])> {
    let content = bytes.get(ENVELOPE_BYTES..)?;
    let crc = bytes.get(CRC_AT..ENVELOPE_BYTES)?;
    let sound =
        bytes[..CRC_AT] == prefix(kind, content.len()) && crc == checksum(bytes).to_le_bytes();
    let (head, body) = content.split_at_checked(kind.head_bytes)?;
    if !sound {
        return None;
    }
    Some((decode(head).ok()?, body))
}

fn prefix(kind: Kind, len: usize) -> [u8; CRC_AT] {
    let mut out = [0; CRC_AT];
    out[..2].copy_from_slice(&MAGIC.to_le_bytes());
    out[2] = ENVELOPE_VERSION;
    out[3..5].copy_from_slice(&kind.type_id.to_le_bytes());
    out[5..7].copy_from_slice(&kind.version.to_le_bytes());
    // A length beyond four bytes does not exist here; were there one, `open` would refuse it.
    out[7..11].copy_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
    out
}

fn checksum(bytes: &[u8]) -> u32 {
    let before = crc32c::crc32c(&bytes[..CRC_AT]);
    crc32c::crc32c_append(before, &bytes[ENVELOPE_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        type_id: 7,
        version: 2,
        head_bytes: 6,
    };

    #[test]
    fn the_layout_stays_as_it_was_shipped() {
        let sealed = seal(KIND, &(1_u16, 2_u32), b"body").unwrap();
        let golden: &[u8] = &[
            0x45, 0x4d, 1, 7, 0, 2, 0, 10, 0, 0, 0, 0x2f, 0xdc, 0xe4, 0x43, // envelope
            1, 0, 2, 0, 0, 0, // head
            b'b', b'o', b'd', b'y',
        ];
        assert_eq!(sealed, golden, "{sealed:02x?}");
        assert_eq!(
            open::<(u16, u32)>(KIND, &sealed),
            Some(((1, 2), &b"body"[..]))
        );
    }

    #[test]
    fn whatever_bit_flips_or_byte_is_missing_the_value_is_refused() {
        let sealed = seal(KIND, &(1_u16, 2_u32), b"body").unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open::<(u16, u32)>(KIND, &flipped), None, "bit {bit}");
        }
        for end in 0..sealed.len() {
            assert_eq!(open::<(u16, u32)>(KIND, &sealed[..end]), None);
        }
        let mut longer = sealed;
        longer.push(0);
        assert_eq!(open::<(u16, u32)>(KIND, &longer), None);
    }

    #[test]
    fn another_kind_or_version_is_refused() {
        let sealed = seal(KIND, &(1_u16, 2_u32), b"").unwrap();
        for other in [Kind { type_id: 8, ..KIND }, Kind { version: 1, ..KIND }] {
            assert_eq!(open::<(u16, u32)>(other, &sealed), None);
        }
    }
}
