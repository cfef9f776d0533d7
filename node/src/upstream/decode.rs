//! Where an answer's body ends (RFC 9112, 6.3), and its bytes without the framing.
//!
//! All whole pieces that a read brought are joined in place and given out as one, so that they leave in one write.
//!
//! Invariants:
//! * nothing behind the body's end is ever given out: it stays in the buffer, and the connection is not used again;
//! * a chunk's size line is at most [`SIZE_LINE_MAX`] bytes, the trailers at most [`TRAILERS_MAX`]; trailers are
//!   read and dropped, since nothing that the gateway relays depends on them.

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest size line of a chunk, extensions included.
const SIZE_LINE_MAX: usize = 1_024;
/// Bytes of all trailers.
const TRAILERS_MAX: usize = 16 << 10;

/// How far a body has been read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decoder {
    /// This many bytes are still to come.
    Length(u64),
    /// In chunks.
    Chunked(Chunk),
    /// Until the connection closes.
    UntilClose,
    /// It has ended.
    Done,
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Chunk {
    /// A size line.
    Size,
    /// This many bytes of a chunk.
    Data(u64),
    /// The line end behind a chunk.
    DataEnd,
    /// Trailers; so many bytes of them were read.
    Trailers(usize),
}

/// What a look at the buffer gave.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Decoded {
    /// Bytes of the body; there may be more.
    Data(Bytes),
    /// The next byte has not come yet.
    More,
    /// The body has ended.
    End,
}

/// A body that breaks its framing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct BadFraming(pub(super) &'static str);

// === impl Decoder ===

impl Decoder {
    /// A body of `length` bytes.
    pub(super) fn of_length(length: u64) -> Self {
        if length == 0 {
            Self::Done
        } else {
            Self::Length(length)
        }
    }

    /// Takes what is there of the body out of `buf`.
    pub(super) fn decode(&mut self, buf: &mut BytesMut) -> Result<Decoded, BadFraming> {
        match self {
            Self::Done => Ok(Decoded::End),
            _ if buf.is_empty() => Ok(Decoded::More),
            Self::UntilClose => Ok(Decoded::Data(buf.split().freeze())),
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= here as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(buf.split_to(here).freeze()))
            }
            Self::Chunked(_) => self.decode_chunks(buf),
        }
    }

    /// The connection closed: whether the body is complete all the same.
    pub(super) fn at_close(&mut self) -> bool {
        if *self == Self::UntilClose {
            *self = Self::Done;
        }
        *self == Self::Done
    }

    /// Moves the data of all whole pieces to the front of `buf`, and splits it off.
    fn decode_chunks(&mut self, buf: &mut BytesMut) -> Result<Decoded, BadFraming> {
        let (mut read, mut written) = (0, 0);
        while let Self::Chunked(chunk) = self {
            let rest = buf.get(read..).unwrap_or_default();
            match step(*chunk, rest)? {
                Step::Wait => break,
                Step::Skip(bytes, next) => {
                    read += bytes;
                    *chunk = next;
                }
                Step::Data(bytes, next) => {
                    buf.copy_within(read..read + bytes, written);
                    read += bytes;
                    written += bytes;
                    *chunk = next;
                }
                Step::End(bytes) => {
                    read += bytes;
                    *self = Self::Done;
                }
            }
        }
        let data = buf.split_to(written);
        buf.advance(read - written);
        match self {
            _ if !data.is_empty() => Ok(Decoded::Data(data.freeze())),
            Self::Done => Ok(Decoded::End),
            _ => Ok(Decoded::More),
        }
    }
}

enum Step {
    /// The next piece is not whole yet.
    Wait,
    /// Framing of so many bytes.
    Skip(usize, Chunk),
    /// Data of so many bytes.
    Data(usize, Chunk),
    /// The last bytes of the body's framing.
    End(usize),
}

fn step(chunk: Chunk, rest: &[u8]) -> Result<Step, BadFraming> {
    match chunk {
        Chunk::Size => match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete((line, 0))) => Ok(Step::Skip(line, Chunk::Trailers(0))),
            Ok(httparse::Status::Complete((line, size))) => Ok(Step::Skip(line, Chunk::Data(size))),
            Ok(httparse::Status::Partial) if rest.len() < SIZE_LINE_MAX => Ok(Step::Wait),
            Ok(httparse::Status::Partial) => Err(BadFraming("a chunk's size line is too long")),
            Err(_) => Err(BadFraming("a chunk has no valid size")),
        },
        Chunk::Data(_) if rest.is_empty() => Ok(Step::Wait),
        Chunk::Data(left) => {
            let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let left = left - here as u64;
            let next = if left == 0 {
                Chunk::DataEnd
            } else {
                Chunk::Data(left)
            };
            Ok(Step::Data(here, next))
        }
        Chunk::DataEnd => match rest {
            [b'\r', b'\n', ..] => Ok(Step::Skip(2, Chunk::Size)),
            [] | [b'\r'] => Ok(Step::Wait),
            _ => Err(BadFraming("a chunk is longer than it said")),
        },
        Chunk::Trailers(seen) => trailer(seen, rest),
    }
}

/// One line of the trailers; the empty one ends the body.
fn trailer(seen: usize, rest: &[u8]) -> Result<Step, BadFraming> {
    let line = match memchr::memchr(b'\n', rest) {
        Some(at) => at + 1,
        None if seen + rest.len() < TRAILERS_MAX => return Ok(Step::Wait),
        None => return Err(BadFraming("the trailers are too long")),
    };
    match rest.get(..line).unwrap_or_default() {
        b"\r\n" | b"\n" => Ok(Step::End(line)),
        _ if seen + line < TRAILERS_MAX => Ok(Step::Skip(line, Chunk::Trailers(seen + line))),
        _ => Err(BadFraming("the trailers are too long")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNKED: Decoder = Decoder::Chunked(Chunk::Size);

    fn whole(decoder: &mut Decoder, bytes: &[u8]) -> Result<Decoded, BadFraming> {
        decoder.decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn chunks_of_one_read_leave_as_one_piece() {
        let mut decoder = CHUNKED;
        let read = b"5\r\nhello\r\n1;x=y\r\n \r\n5\r\nworld\r\n0\r\nx-a: b\r\n\r\n";
        let mut buf = BytesMut::from(&read[..]);
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Decoded::Data(Bytes::from_static(b"hello world")))
        );
        assert_eq!(decoder.decode(&mut buf), Ok(Decoded::End));
        assert!(buf.is_empty());
    }

    #[test]
    fn a_piece_that_was_cut_is_given_out_as_far_as_it_came() {
        let mut decoder = CHUNKED;
        let mut buf = BytesMut::from(&b"a\r\n01234"[..]);
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Decoded::Data(Bytes::from_static(b"01234")))
        );
        assert_eq!(decoder.decode(&mut buf), Ok(Decoded::More));
        assert!(!decoder.at_close());
    }

    #[test]
    fn what_stands_behind_the_end_stays_in_the_buffer() {
        let mut decoder = Decoder::of_length(3);
        let mut buf = BytesMut::from(&b"abcHTTP/1.1 200"[..]);
        assert_eq!(
            decoder.decode(&mut buf),
            Ok(Decoded::Data(Bytes::from_static(b"abc")))
        );
        assert_eq!(decoder.decode(&mut buf), Ok(Decoded::End));
        assert_eq!(&buf[..], b"HTTP/1.1 200");
    }

    #[test]
    fn bad_framing_is_an_error_and_never_a_guess() {
        for bad in [
            "x\r\n",
            "-1\r\n",
            "ffffffffffffffffff\r\n",
            "3\r\nabcd\r\n",
            "3\nabc",
        ] {
            let mut decoder = CHUNKED;
            let mut buf = BytesMut::from(bad.as_bytes());
            let mut result = decoder.decode(&mut buf);
            while let Ok(Decoded::Data(_)) = result {
                result = decoder.decode(&mut buf);
            }
            assert!(result.is_err(), "{bad:?} gave {result:?}");
        }
        let long = format!("1;{}", "x".repeat(SIZE_LINE_MAX));
        assert!(whole(&mut CHUNKED.clone(), long.as_bytes()).is_err());
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(TRAILERS_MAX / 6 + 1));
        assert!(whole(&mut CHUNKED.clone(), trailers.as_bytes()).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_cut_of_the_stream_gives_the_same_body(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            cuts in prop::collection::vec(1_usize..16, 1..64),
        ) {
            let mut stream = Vec::new();
            for chunk in &chunks {
                stream.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                stream.extend_from_slice(chunk);
                stream.extend_from_slice(b"\r\n");
            }
            stream.extend_from_slice(b"0\r\n\r\n");
            let (mut decoder, mut buf, mut body) = (CHUNKED, BytesMut::new(), Vec::new());
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            loop {
                match decoder.decode(&mut buf).unwrap() {
                    Decoded::Data(data) => body.extend_from_slice(&data),
                    Decoded::End => break,
                    Decoded::More => {
                        let end = (at + cuts.next().unwrap()).min(stream.len());
                        buf.extend_from_slice(&stream[at..end]);
                        at = end;
                    }
                }
            }
            prop_assert_eq!(body, chunks.concat());
        }
    }
}
