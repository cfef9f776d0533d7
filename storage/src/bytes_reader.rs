//! Reads integers and byte strings off the front of a slice, without ever trusting a length.
//!
//! Invariant: every method returns `None` instead of reading past the end, and nothing is allocated.

/// What is left of a slice that is being read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BytesReader<'a>(&'a [u8]);

// === impl BytesReader ===

impl<'a> BytesReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(front)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A byte string behind its `u32` length; `None` if it is longer than `limit` or than what is left.
    pub(crate) fn bytes(&mut self, limit: usize) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        if len > limit { None } else { self.take(len) }
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Writes a byte string behind its `u32` length; the caller has bounded the length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_beyond_the_limit_or_the_slice_is_refused() {
        let mut out = Vec::new();
        put_bytes(&mut out, b"abcd");
        assert_eq!(BytesReader::new(&out).bytes(4), Some(&b"abcd"[..]));
        assert_eq!(BytesReader::new(&out).bytes(3), None);
        assert_eq!(BytesReader::new(&out[..7]).bytes(4), None);
        assert_eq!(
            BytesReader::new(&u32::MAX.to_le_bytes()).bytes(usize::MAX),
            None
        );
    }
}
