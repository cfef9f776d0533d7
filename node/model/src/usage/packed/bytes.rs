//! Integers and histograms as bytes: varints (LEB128, as Protocol Buffers encode them), each in its shortest form.
//!
//! Reading never panics and never reads beyond its bytes: where they end too early, it says so.

use crate::usage::histogram::{BINS, Histogram};

/// Appends bytes and their length before them.
pub(crate) fn put_sized(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes bytes that their length precedes.
pub(crate) fn take_sized<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(take_varint(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// Appends a varint.
#[expect(clippy::cast_possible_truncation, reason = "seven bits fit")]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint in its shortest form.
#[inline]
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    *bytes = rest;
    if first < 0x80 {
        return Some(u64::from(first));
    }
    take_longer(bytes, first)
}

fn take_longer(bytes: &mut &[u8], first: u8) -> Option<u64> {
    let mut value = u64::from(first & 0x7f);
    for shift in (7..64).step_by(7) {
        let byte = take_byte(bytes)?;
        let bits = u64::from(byte & 0x7f);
        if (bits << shift) >> shift != bits {
            return None;
        }
        value |= bits << shift;
        if byte < 0x80 {
            return (byte != 0).then_some(value);
        }
    }
    None
}

/// Takes a byte.
pub(crate) fn take_byte(bytes: &mut &[u8]) -> Option<u8> {
    let (&byte, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(byte)
}

/// Appends a histogram: how many bins, then each as the bins skipped and its count.
pub(crate) fn put_histogram(out: &mut Vec<u8>, histogram: &Histogram) {
    put_varint(out, histogram.bins().len() as u64);
    let mut next = 0;
    for &(bin, count) in histogram.bins() {
        put_varint(out, u64::from(bin - next));
        put_varint(out, count);
        next = bin + 1;
    }
}

/// Takes a histogram; `None` where it is damaged.
pub(crate) fn take_histogram(bytes: &mut &[u8]) -> Option<Histogram> {
    let count = take_varint(bytes)?;
    if count > u64::from(BINS) {
        return None;
    }
    let mut bins = Vec::with_capacity(usize::try_from(count).ok()?);
    let mut next = 0_u16;
    for _ in 0..count {
        let bin = u16::try_from(take_varint(bytes)?).ok()?.checked_add(next)?;
        bins.push((bin, take_varint(bytes)?));
        next = bin.checked_add(1)?;
    }
    Histogram::from_bins(bins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_have_one_form() {
        for value in [
            0,
            1,
            127,
            128,
            16_383,
            16_384,
            u64::from(u32::MAX),
            u64::MAX,
        ] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut rest = &bytes[..];
            assert_eq!(take_varint(&mut rest), Some(value));
            assert!(rest.is_empty());
        }
        for bad in [&[][..], &[0x80], &[0x80, 0], &[0xff; 11]] {
            assert_eq!(take_varint(&mut &*bad), None, "{bad:?}");
        }
    }
}
