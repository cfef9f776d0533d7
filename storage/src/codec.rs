//! Encoding of the payloads in usage spools and of the projection's values; the only user of bincode.
//!
//! Little endian, at most [`MAX_BYTES`]; integers are of fixed width, or [`compact`]: the smaller, the shorter. The layout follows the order of a
//! type's fields, so a type that was ever written is frozen: a change is a new type under a new
//! version of its frame. The frame around a payload carries kind, version and checksum; what stands
//! outside a segment has an `envelope` that does. Types hold integers, strings, byte vectors and fixed
//! arrays; no hash maps (their order is not stable) and no vectors of empty types (a limit in bytes
//! does not bound them).
//!
//! Invariant: a hostile length is refused before anything is allocated for it, and bytes behind the
//! value are an error.

use std::any::type_name;

use bincode::config::{self, Config, Configuration, Fixint, Limit, LittleEndian, Varint};
use bincode::error::{DecodeError, EncodeError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod compact;
pub(crate) mod envelope;

/// No value takes more bytes than this.
pub const MAX_BYTES: usize = 64 * 1024;

const CONFIG: Configuration<LittleEndian, Fixint, Limit<MAX_BYTES>> = config::standard()
    .with_little_endian()
    .with_fixed_int_encoding()
    .with_limit::<MAX_BYTES>();

const COMPACT: Configuration<LittleEndian, Varint, Limit<MAX_BYTES>> = config::standard()
    .with_little_endian()
    .with_variable_int_encoding()
    .with_limit::<MAX_BYTES>();

/// Why a value could not be encoded or decoded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    /// The buffer is too small.
    #[error("{ty} does not fit {room} bytes: give more room, at most {MAX_BYTES}")]
    NoRoom {
        /// The type.
        ty: &'static str,
        /// The bytes that were given.
        room: usize,
    },
    /// The type cannot be encoded this way, which is a defect of the type.
    #[error("cannot encode {ty}: {why}")]
    Encode {
        /// The type.
        ty: &'static str,
        /// What bincode said.
        why: String,
    },
    /// The bytes are no such value; written by another version, or damaged.
    #[error("cannot decode {ty} from {len} bytes: {why}")]
    Decode {
        /// The type.
        ty: &'static str,
        /// The bytes there were.
        len: usize,
        /// What bincode said.
        why: String,
    },
    /// Bytes are left over behind the value.
    #[error("cannot decode {ty}: it ends after {consumed} of {len} bytes")]
    Trailing {
        /// The type.
        ty: &'static str,
        /// Where the value ended.
        consumed: usize,
        /// The bytes there were.
        len: usize,
    },
}

/// Encodes a value at the start of `out` and returns how many bytes it took.
///
/// # Errors
/// [`CodecError::NoRoom`] if `out` is too small or the value longer than [`MAX_BYTES`].
pub fn encode_into<T: Serialize>(value: &T, out: &mut [u8]) -> Result<usize, CodecError> {
    encode_as(value, out, CONFIG)
}

/// Decodes a value that takes up all of `bytes`.
///
/// # Errors
/// [`CodecError::Decode`] if they are no such value, [`CodecError::Trailing`] if bytes are left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    borrow(bytes)
}

/// As [`decode`], for a value whose texts stay where they are.
///
/// # Errors
/// As of [`decode`].
pub fn borrow<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    whole(bytes, CONFIG)
}

fn encode_as<T: Serialize>(
    value: &T,
    out: &mut [u8],
    config: impl Config,
) -> Result<usize, CodecError> {
    let ty = type_name::<T>();
    let room = out.len().min(MAX_BYTES);
    bincode::serde::encode_into_slice(value, &mut out[..room], config).map_err(
        |error| match error {
            EncodeError::UnexpectedEnd => CodecError::NoRoom { ty, room },
            other => CodecError::Encode {
                ty,
                why: other.to_string(),
            },
        },
    )
}

fn whole<'a, T: Deserialize<'a>>(bytes: &'a [u8], config: impl Config) -> Result<T, CodecError> {
    let (value, consumed) = prefix(bytes, config)?;
    if consumed == bytes.len() {
        Ok(value)
    } else {
        Err(CodecError::Trailing {
            ty: type_name::<T>(),
            consumed,
            len: bytes.len(),
        })
    }
}

fn prefix<'a, T: Deserialize<'a>>(
    bytes: &'a [u8],
    config: impl Config,
) -> Result<(T, usize), CodecError> {
    bincode::serde::borrow_decode_from_slice(bytes, config).map_err(|error: DecodeError| {
        CodecError::Decode {
            ty: type_name::<T>(),
            len: bytes.len(),
            why: error.to_string(),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    /// Frozen: the bytes below were once written.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct SampleV1 {
        call: [u8; 4],
        tokens: u64,
        status: u16,
        model: String,
        price: Option<u32>,
    }

    const GOLDEN: &[u8] = &[
        1, 2, 3, 4, // call
        0x39, 0x30, 0, 0, 0, 0, 0, 0, // tokens
        0xc8, 0, // status
        5, 0, 0, 0, 0, 0, 0, 0, b'g', b'p', b't', b'-', b'x', // model
        1, 7, 0, 0, 0, // price
    ];

    fn sample() -> SampleV1 {
        SampleV1 {
            call: [1, 2, 3, 4],
            tokens: 12_345,
            status: 200,
            model: "gpt-x".to_owned(),
            price: Some(7),
        }
    }

    #[test]
    fn the_layout_is_the_one_once_written() {
        let mut out = [0; 64];
        let len = encode_into(&sample(), &mut out).unwrap();
        assert_eq!(&out[..len], GOLDEN);
        assert_eq!(decode::<SampleV1>(GOLDEN), Ok(sample()));
    }

    #[test]
    fn a_hostile_length_is_refused_without_allocating_for_it() {
        for claimed in [u64::MAX, 8 << 30, MAX_BYTES as u64 + 1, 3] {
            let bytes = [&claimed.to_le_bytes()[..], b"ab"].concat();
            assert!(matches!(
                decode::<String>(&bytes),
                Err(CodecError::Decode { .. })
            ));
            assert!(matches!(
                decode::<Vec<u64>>(&bytes),
                Err(CodecError::Decode { .. })
            ));
        }
    }

    #[test]
    fn bytes_behind_the_value_and_missing_ones_are_errors() {
        let longer = [GOLDEN, &[0]].concat();
        let trailing = decode::<SampleV1>(&longer);
        assert!(matches!(
            trailing,
            Err(CodecError::Trailing {
                consumed: 32,
                len: 33,
                ..
            })
        ));
        for len in 0..GOLDEN.len() {
            let cut = decode::<SampleV1>(&GOLDEN[..len]);
            assert!(matches!(cut, Err(CodecError::Decode { .. })), "{len} bytes");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused() {
        let mut out = [0; 31];
        let refused = encode_into(&sample(), &mut out);
        assert!(matches!(refused, Err(CodecError::NoRoom { room: 31, .. })));
        let mut large = vec![0; 2 * MAX_BYTES];
        let refused = encode_into(&"x".repeat(MAX_BYTES), &mut large);
        assert!(matches!(
            refused,
            Err(CodecError::NoRoom {
                room: MAX_BYTES,
                ..
            })
        ));
    }
}
