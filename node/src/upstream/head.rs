//! Heads on the wire: a request's is written, an answer's is read.
//!
//! An answer whose framing can be read in two ways is refused, never guessed at (RFC 9112, 6.3 and 11.2): the bytes
//! behind it could be taken for an answer to somebody else's request.

use std::mem::MaybeUninit;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::decode::{Chunk, Decoder};
use super::upload::Framing;

/// The longest head of an answer.
pub(super) const HEAD_BYTES_MAX: usize = 64 << 10;
/// Header lines of an answer.
const HEADERS_MAX: usize = 128;

/// An answer's status and header fields as the upstream sent them.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// How long the body is, where that is known.
    pub(crate) length: Option<u64>,
}

/// What the first line of a request and its `Host` say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadParts<'a> {
    pub(crate) method: &'a Method,
    /// Path prefix of the upstream, without a slash at its end.
    pub(crate) prefix: &'a str,
    /// Path, with a slash at its beginning.
    pub(crate) path: &'a str,
    /// Query, if there is one.
    pub(crate) query: Option<&'a str>,
    pub(crate) host: &'a HeaderValue,
}

/// A head as parsed, with what the connection needs to know.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) head: ResponseHead,
    pub(super) decoder: Decoder,
    pub(super) keep_alive: bool,
}

/// What a look at the buffer gave.
#[derive(Debug)]
pub(super) enum Reading {
    More,
    /// `100` and the like: to be skipped.
    Interim,
    Head(Box<Parsed>),
}

// === free functions ===

/// Writes a request's head up to its header fields, framing included. Fields and the empty line follow.
pub(crate) fn write_head(out: &mut BytesMut, parts: &HeadParts<'_>, framing: Framing) {
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(parts.prefix.as_bytes());
    out.put_slice(parts.path.as_bytes());
    if let Some(query) = parts.query {
        out.put_u8(b'?');
        out.put_slice(query.as_bytes());
    }
    out.put_slice(b" HTTP/1.1\r\nhost: ");
    out.put_slice(parts.host.as_bytes());
    out.put_slice(b"\r\n");
    match framing {
        Framing::None => {}
        Framing::Chunked => out.put_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) => {
            out.put_slice(b"content-length: ");
            put_decimal(out, length);
            out.put_slice(b"\r\n");
        }
    }
}

/// Takes an answer's head off the front of `buf`, once it is whole.
pub(super) fn read_head(buf: &mut BytesMut, method: &Method) -> Result<Reading, &'static str> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut response,
        buf,
        &mut fields,
    );
    let length = match parsed {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if buf.len() < HEAD_BYTES_MAX => return Ok(Reading::More),
        Ok(_) => return Err("its head is too long"),
        Err(httparse::Error::TooManyHeaders) => return Err("it has too many header lines"),
        Err(_) => return Err("it is not HTTP/1.1"),
    };
    let status = StatusCode::from_u16(response.code.unwrap_or_default())
        .map_err(|_| "its status is not one")?;
    let http_1_1 = response.version == Some(1);
    let places: Vec<Field> = response
        .headers
        .iter()
        .map(|field| Field::of(buf, field))
        .collect();
    let raw = buf.split_to(length).freeze();
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err("it switches protocols, which nobody asked for");
    }
    if status.is_informational() {
        return Ok(Reading::Interim);
    }
    let (mut headers, framing) = collect(&raw, &places)?;
    let decoder = decoder(status, method, &framing, http_1_1)?;
    let keep_alive = framing.keep_alive.unwrap_or(http_1_1) && decoder != Decoder::UntilClose;
    headers.remove(TRANSFER_ENCODING);
    let length = match decoder {
        Decoder::Done => Some(0),
        Decoder::Length(length) => Some(length),
        Decoder::Chunked(_) | Decoder::UntilClose => None,
    };
    let head = ResponseHead {
        status,
        headers,
        length,
    };
    Ok(Reading::Head(Box::new(Parsed {
        head,
        decoder,
        keep_alive,
    })))
}

/// Where a header line stands in the buffer.
struct Field {
    name: (usize, usize),
    value: (usize, usize),
}

/// What the header fields say about the message itself.
#[derive(Default)]
struct MessageFraming {
    length: Option<u64>,
    chunked: Option<bool>,
    keep_alive: Option<bool>,
}

impl Field {
    fn of(buf: &[u8], field: &httparse::Header<'_>) -> Self {
        // Both are slices of `buf`, so the difference of addresses is an offset.
        let base = buf.as_ptr().addr();
        let name = field.name.as_ptr().addr() - base;
        let value = field.value.as_ptr().addr().wrapping_sub(base);
        Self {
            name: (name, name + field.name.len()),
            value: (value, value + field.value.len()),
        }
    }
}

fn collect(raw: &Bytes, places: &[Field]) -> Result<(HeaderMap, MessageFraming), &'static str> {
    let mut headers = HeaderMap::with_capacity(places.len() + 4);
    let mut framing = MessageFraming::default();
    for place in places {
        let name = raw.get(place.name.0..place.name.1).unwrap_or_default();
        let name = HeaderName::from_bytes(name).map_err(|_| "a header name is not one")?;
        let value = if place.value.0 == place.value.1 {
            Bytes::new()
        } else {
            raw.slice(place.value.0..place.value.1)
        };
        let value =
            HeaderValue::from_maybe_shared(value).map_err(|_| "a header value is not one")?;
        if name == CONTENT_LENGTH {
            framing.add_length(&value)?;
        } else if name == TRANSFER_ENCODING {
            framing.chunked = Some(value.as_bytes().eq_ignore_ascii_case(b"chunked"));
        } else if name == CONNECTION {
            framing.add_connection(&value);
        }
        headers.append(name, value);
    }
    Ok((headers, framing))
}

impl MessageFraming {
    fn add_length(&mut self, value: &HeaderValue) -> Result<(), &'static str> {
        let digits = value.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err("its content-length is not a number");
        }
        let length = value.to_str().ok().and_then(|text| text.parse().ok());
        let length = length.ok_or("its content-length is not a number")?;
        if self.length.is_some_and(|other| other != length) {
            return Err("it has two content-lengths");
        }
        self.length = Some(length);
        Ok(())
    }

    fn add_connection(&mut self, value: &HeaderValue) {
        for option in value
            .as_bytes()
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
        {
            if option.eq_ignore_ascii_case(b"close") {
                self.keep_alive = Some(false);
            } else if option.eq_ignore_ascii_case(b"keep-alive") && self.keep_alive.is_none() {
                self.keep_alive = Some(true);
            }
        }
    }
}

/// RFC 9112, 6.3, for a client.
fn decoder(
    status: StatusCode,
    method: &Method,
    framing: &MessageFraming,
    http_1_1: bool,
) -> Result<Decoder, &'static str> {
    if framing.chunked.is_some() && framing.length.is_some() {
        return Err("it has both a transfer-encoding and a content-length");
    }
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if bodiless || method == Method::HEAD {
        return Ok(Decoder::Done);
    }
    match (framing.chunked, framing.length) {
        (Some(_), _) if !http_1_1 => Err("it has a transfer-encoding in HTTP/1.0"),
        (Some(true), _) => Ok(Decoder::Chunked(Chunk::Size)),
        (Some(false), _) => Err("its transfer-encoding is not chunked"),
        (None, Some(length)) => Ok(Decoder::of_length(length)),
        (None, None) => Ok(Decoder::UntilClose),
    }
}

fn put_decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        at -= 1;
        if number == 0 {
            break;
        }
    }
    out.put_slice(digits.get(at..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Reading, &'static str> {
        read_head(&mut BytesMut::from(text.as_bytes()), &Method::GET)
    }

    fn head(text: &str) -> Parsed {
        match read(text) {
            Ok(Reading::Head(parsed)) => *parsed,
            other => panic!("{text:?} gave {other:?}"),
        }
    }

    #[test]
    fn the_first_line_and_the_framing_are_written_in_order() {
        let host = HeaderValue::from_static("orders:7001");
        let parts = HeadParts {
            method: &Method::POST,
            prefix: "/v2",
            path: "/a",
            query: Some("b=c"),
            host: &host,
        };
        let mut out = BytesMut::new();
        write_head(&mut out, &parts, Framing::Length(1_203));
        assert_eq!(
            &out[..],
            b"POST /v2/a?b=c HTTP/1.1\r\nhost: orders:7001\r\ncontent-length: 1203\r\n"
        );
    }

    #[test]
    fn the_end_of_a_body_follows_the_rules_of_the_specification() {
        let parsed = head("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n");
        assert_eq!(
            (parsed.decoder, parsed.head.length, parsed.keep_alive),
            (Decoder::Length(12), Some(12), true)
        );
        let parsed =
            head("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nConnection: x, close\r\n\r\n");
        assert_eq!(
            (parsed.decoder, parsed.keep_alive),
            (Decoder::Chunked(Chunk::Size), false)
        );
        assert!(!parsed.head.headers.contains_key(TRANSFER_ENCODING));
        let parsed = head("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(
            (parsed.decoder, parsed.keep_alive),
            (Decoder::UntilClose, false)
        );
        let parsed = head("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n");
        assert!(!parsed.keep_alive);
        let parsed = head("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n");
        assert_eq!(parsed.decoder, Decoder::Done);
    }

    #[test]
    fn an_answer_to_head_has_no_body_whatever_it_says() {
        let mut buf = BytesMut::from(&b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"[..]);
        let Ok(Reading::Head(parsed)) = read_head(&mut buf, &Method::HEAD) else {
            panic!("no head")
        };
        assert_eq!(parsed.decoder, Decoder::Done);
        assert_eq!(parsed.head.headers[CONTENT_LENGTH], "9");
    }

    #[test]
    fn framing_that_can_be_read_in_two_ways_is_refused() {
        for bad in [
            "content-length: 3\r\ntransfer-encoding: chunked",
            "content-length: 3\r\ncontent-length: 4",
            "content-length: +3",
            "content-length: 3, 3",
            "transfer-encoding: gzip",
            "transfer-encoding: chunked, gzip",
        ] {
            assert!(
                read(&format!("HTTP/1.1 200 OK\r\n{bad}\r\n\r\n")).is_err(),
                "{bad}"
            );
        }
        assert!(read("HTTP/1.1 101 Switching\r\n\r\n").is_err());
        assert!(read("SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn interim_answers_are_skipped_and_cut_heads_are_waited_for() {
        assert!(matches!(
            read("HTTP/1.1 100 Continue\r\n\r\n"),
            Ok(Reading::Interim)
        ));
        assert!(matches!(
            read("HTTP/1.1 200 OK\r\ncontent-"),
            Ok(Reading::More)
        ));
        assert!(
            read(&format!(
                "HTTP/1.1 200 OK\r\na: {}",
                "x".repeat(HEAD_BYTES_MAX)
            ))
            .is_err()
        );
    }

    #[test]
    fn numbers_are_written_without_loss() {
        for number in [0, 7, 10, u64::MAX] {
            let mut out = BytesMut::new();
            put_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
