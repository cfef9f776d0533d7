//! Columns of integers: one value for each cell of a block.
//!
//! ```text
//! column    0                                  every value is 0
//!           1, varint                          every value is this one
//!           2, length, one varint per cell     else
//! ```
//!
//! Reading never panics and never reads beyond its bytes: where they end too early, it says so.

use super::bytes::{put_sized, put_varint, take_byte, take_sized, take_varint};

/// How many cells share a block; a column holds as many values at most.
pub(crate) const BLOCK: usize = 64;

/// The values of one column of a block.
pub(super) type Values = [u64; BLOCK];

const ZERO: u8 = 0;
const SAME: u8 = 1;
const EACH: u8 = 2;

/// A column as it stands in a block.
#[derive(Clone, Copy)]
pub(super) enum Column<'a> {
    /// Every value is this one.
    Same(u64),
    /// One varint per cell.
    Each(&'a [u8]),
}

// === impl Column ===

impl<'a> Column<'a> {
    /// Takes the column at the front of `bytes`.
    pub(super) fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        match take_byte(bytes)? {
            ZERO => Some(Self::Same(0)),
            SAME => take_varint(bytes).map(Self::Same),
            EACH => take_sized(bytes).map(Self::Each),
            _ => None,
        }
    }

    /// The first `count` values; whether they are there, all of them and nothing else.
    pub(super) fn read(self, count: usize, values: &mut Values) -> bool {
        let values = &mut values[..count.min(BLOCK)];
        match self {
            Self::Same(value) => {
                values.fill(value);
                true
            }
            Self::Each(mut bytes) => {
                let whole = values
                    .iter_mut()
                    .all(|value| take_varint(&mut bytes).map(|read| *value = read).is_some());
                whole && bytes.is_empty()
            }
        }
    }
}

/// Appends a column.
pub(super) fn put_column(out: &mut Vec<u8>, values: &[u64]) {
    let first = values.first().copied().unwrap_or(0);
    if values.iter().any(|value| *value != first) {
        let mut each = Vec::with_capacity(values.len() * 2);
        for value in values {
            put_varint(&mut each, *value);
        }
        out.push(EACH);
        put_sized(out, &each);
    } else if first == 0 {
        out.push(ZERO);
    } else {
        out.push(SAME);
        put_varint(out, first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_costs_as_little_as_it_says() {
        for (values, bytes) in [
            (vec![0, 0, 0], 1),
            (vec![7, 7, 7], 2),
            (vec![1, 2, 300], 1 + 1 + 4),
        ] {
            let mut out = Vec::new();
            put_column(&mut out, &values);
            assert_eq!(out.len(), bytes);
            let mut rest = &out[..];
            let mut read = [9; BLOCK];
            assert!(
                Column::take(&mut rest)
                    .unwrap()
                    .read(values.len(), &mut read)
            );
            assert_eq!(read[..values.len()], values);
            assert!(rest.is_empty());
        }
    }
}
