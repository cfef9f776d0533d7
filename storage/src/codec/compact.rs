//! The same layouts with integers as short as they are small: one byte below 251, then a mark and two, four or eight.
//!
//! Source: bincode 2, "varint encoding". Lengths of texts are integers as well, so a record of small counts and short
//! names takes less than half of what it takes in fixed width.

use serde::{Deserialize, Serialize};

use super::{COMPACT, CodecError, encode_as, prefix, whole};

/// Encodes a value at the start of `out` and returns how many bytes it took.
///
/// # Errors
/// [`CodecError::NoRoom`] if `out` is too small or the value longer than [`super::MAX_BYTES`].
pub fn encode_into<T: Serialize>(value: &T, out: &mut [u8]) -> Result<usize, CodecError> {
    encode_as(value, out, COMPACT)
}

/// Decodes a value that takes up all of `bytes`; its texts may stay where they are.
///
/// # Errors
/// [`CodecError::Decode`] if they are no such value, [`CodecError::Trailing`] if bytes are left over.
pub fn borrow<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    whole(bytes, COMPACT)
}

/// Decodes a value at the start of `bytes`, and says what is behind it.
///
/// # Errors
/// [`CodecError::Decode`] if there is no such value.
pub fn split<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
    let (value, consumed) = prefix(bytes, COMPACT)?;
    Ok((value, bytes.get(consumed..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, Eq, PartialEq, Serialize)]
    struct Sample<'a> {
        call: [u8; 2],
        small: u64,
        large: u64,
        name: &'a str,
    }

    const GOLDEN: &[u8] = &[
        1, 2,   // call
        250, // small
        252, 0x39, 0x30, 0, 1, // large
        3, b'g', b'p', b't', // name
    ];

    const SAMPLE: Sample<'static> = Sample {
        call: [1, 2],
        small: 250,
        large: 0x0100_3039,
        name: "gpt",
    };

    #[test]
    fn the_layout_is_the_one_once_written() {
        let mut out = [0; 64];
        let len = encode_into(&SAMPLE, &mut out).unwrap();
        assert_eq!(&out[..len], GOLDEN);
        assert_eq!(borrow::<Sample<'_>>(GOLDEN), Ok(SAMPLE));
    }

    #[test]
    fn what_is_behind_a_value_is_an_error_or_handed_back() {
        let longer = [GOLDEN, &[7]].concat();
        assert!(matches!(
            borrow::<Sample<'_>>(&longer),
            Err(CodecError::Trailing {
                consumed: 12,
                len: 13,
                ..
            })
        ));
        let (value, rest) = split::<Sample<'_>>(&longer).unwrap();
        assert_eq!((value, rest), (SAMPLE, &[7][..]));
    }

    #[test]
    fn a_hostile_length_is_refused() {
        let claimed = [253, 255, 255, 255, 255, 255, 255, 255, 255, b'a'];
        assert!(borrow::<&str>(&claimed).is_err());
        assert!(borrow::<Vec<u64>>(&claimed).is_err());
    }
}
