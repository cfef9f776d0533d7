//! Checks of a request's head, before anything is looked up.
//!
//! hyper has parsed it: framing is its job (RFC 9112, 6.3). What is checked here is what a proxy must not pass on
//! in two readings: the host, and paths that an upstream might resolve to somewhere else than the route said.

use std::borrow::Cow;

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Version};

use super::error::Error;

/// Header fields of a request.
pub(super) const FIELDS_MAX: usize = 100;
/// Bytes that a line's framing takes: `: ` and the line's end.
const LINE_OVERHEAD: usize = 4;

/// What of a head a route is looked up by.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Subject<'a> {
    /// In lower case, without port; empty where an HTTP/1.0 client names none.
    pub(crate) host: Cow<'a, str>,
    /// In its normal form.
    pub(crate) path: Cow<'a, str>,
    pub(crate) query: Option<&'a str>,
}

/// Checks a head, and says what it asks for.
pub(crate) fn check(parts: &Parts, head_bytes_max: usize) -> Result<Subject<'_>, Error> {
    if parts.method == Method::CONNECT {
        return Err(Error::Head("the method CONNECT is not served here"));
    }
    let uri_bytes = parts.uri.path().len() + parts.uri.query().map_or(0, str::len);
    if uri_bytes + fields_bytes(&parts.headers) > head_bytes_max || parts.headers.len() > FIELDS_MAX
    {
        return Err(Error::HeadTooLarge {
            limit: head_bytes_max,
        });
    }
    if let Some(scheme) = parts.uri.scheme_str()
        && !matches!(scheme, "http" | "https")
    {
        return Err(Error::Head("only http and https are served here"));
    }
    let path = normal_path(parts.uri.path())?;
    check_coding(&parts.headers)?;
    Ok(Subject {
        host: host(parts)?,
        path,
        query: parts.uri.query(),
    })
}

/// A transfer coding other than one `chunked` would be lost on the way (RFC 9112, 6.1).
fn check_coding(headers: &HeaderMap) -> Result<(), Error> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_none_or(chunked) && codings.next().is_none() {
        return Ok(());
    }
    Err(Error::Head(
        "the transfer-encoding is not `chunked` alone; send the body with no other coding",
    ))
}

/// The body's length, where the head announces one.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn fields_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + LINE_OVERHEAD)
        .sum()
}

/// The host that is asked for (RFC 9112, 3.2): of the request line if it has one, else of the one `Host` field.
fn host(parts: &Parts) -> Result<Cow<'_, str>, Error> {
    let mut fields = parts.headers.get_all(HOST).iter();
    let field = fields.next();
    if fields.next().is_some() {
        return Err(Error::Head("the request has two Host fields"));
    }
    let field = match field {
        Some(value) => Some(
            value
                .to_str()
                .map_err(|_| Error::Head("the Host field is not text"))?,
        ),
        None if parts.version == Version::HTTP_11
            || (parts.version == Version::HTTP_2 && parts.uri.authority().is_none()) =>
        {
            return Err(Error::Head("the request has no Host field"));
        }
        None => None,
    };
    let text = match parts.uri.authority() {
        // HTTP/2 has both where a gateway before this one made them out of one (RFC 9113, 8.3.1).
        Some(authority)
            if parts.version == Version::HTTP_2
                && field.is_some_and(|field| !field.eq_ignore_ascii_case(authority.as_str())) =>
        {
            return Err(Error::Head(
                "the request names two hosts, by :authority and by Host",
            ));
        }
        Some(authority) => authority.as_str(),
        None => field.unwrap_or_default(),
    };
    normal_host(text).ok_or(Error::Head("the host is not a valid one"))
}

/// A host without port and final dot, in lower case.
fn normal_host(text: &str) -> Option<Cow<'_, str>> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            let (host, after) = (rest.get(..end)?, rest.get(end + 1..)?);
            (
                host,
                if after.is_empty() {
                    ""
                } else {
                    after.strip_prefix(':')?
                },
            )
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:%".contains(&byte);
    if !host.bytes().all(is_allowed) || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let host = host.strip_suffix('.').unwrap_or(host);
    Some(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// The one form of a path that is matched and passed on.
fn normal_path(path: &str) -> Result<Cow<'_, str>, Error> {
    // Most paths are in that form already.
    let mut normal = Cow::Borrowed(path);
    if path.contains('%') {
        normal = Cow::Owned(unescaped(path)?);
    }
    if normal.contains('\\') {
        return Err(Error::Head("the path holds a backslash"));
    }
    if normal.contains("//") {
        let mut merged = normal.into_owned();
        let mut before = ' ';
        merged.retain(|c| !(std::mem::replace(&mut before, c) == '/' && c == '/'));
        normal = Cow::Owned(merged);
    }
    let dots = |segment: &str| segment == "." || segment == "..";
    if normal.contains("/.") && normal.split('/').any(dots) {
        return Err(Error::Head(
            "the path holds a `.` or `..` segment; send it resolved",
        ));
    }
    Ok(normal)
}

/// The path with the escapes decoded that stand for unreserved characters, and the others in capitals.
fn unescaped(path: &str) -> Result<String, Error> {
    let mut parts = path.split('%');
    let mut out = String::with_capacity(path.len());
    out.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let escape = part
            .get(..2)
            .filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = escape.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let (Some(byte), Some(rest)) = (byte, part.get(2..)) else {
            return Err(Error::Head(
                "a `%` in the path is not followed by two hexadecimal digits",
            ));
        };
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            b'/' | b'\\' => {
                return Err(Error::Head(
                    "the path holds an encoded slash, which servers read in different ways",
                ));
            }
            0..=31 | 127 => return Err(Error::Head("the path holds an encoded control character")),
            _ => {
                out.push('%');
                out.push_str(&part[..2].to_ascii_uppercase());
            }
        }
        out.push_str(rest);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::get(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn host_of(uri: &str, hosts: &[&str]) -> Result<String, Error> {
        check(&parts(uri, hosts), 16_384).map(|subject| subject.host.into_owned())
    }

    #[test]
    fn the_host_is_compared_without_port_case_and_final_dot() {
        assert_eq!(
            host_of("/", &["API.acme.test:8080"]).unwrap(),
            "api.acme.test"
        );
        assert_eq!(host_of("/", &["api.acme.test."]).unwrap(), "api.acme.test");
        assert_eq!(host_of("/", &["[::1]:80"]).unwrap(), "::1");
        assert_eq!(host_of("http://b.test/x", &["a.test"]).unwrap(), "b.test");
    }

    #[test]
    fn a_host_that_is_missing_doubled_or_no_host_is_refused() {
        assert!(host_of("/", &[]).is_err());
        assert!(host_of("/", &["a.test", "b.test"]).is_err());
        assert!(host_of("/", &["user@a.test"]).is_err());
        assert!(host_of("/", &["a.test:x"]).is_err());
        assert!(host_of("/", &["[::1"]).is_err());
    }

    #[test]
    fn dot_segments_are_refused_in_every_spelling() {
        for bad in [
            "/a/../b",
            "/a/..",
            "/./a",
            "/a/%2e%2E/b",
            "/a/.%2e",
            "/a%2f..%2fb",
            "/a%5c%2e%2e",
        ] {
            assert!(check(&parts(bad, &["a"]), 16_384).is_err(), "{bad}");
        }
        for good in ["/a/.well-known/x", "/a..b", "/...", "/a%20b"] {
            assert!(check(&parts(good, &["a"]), 16_384).is_ok(), "{good}");
        }
    }

    #[test]
    fn a_path_is_matched_and_passed_on_in_its_one_form() {
        for (path, normal) in [
            ("/a/b", "/a/b"),
            ("/open/%73ecret", "/open/secret"),
            ("/%7euser/a%20b%c3%a9", "/~user/a%20b%C3%A9"),
            ("/open//secret///x/", "/open/secret/x/"),
            ("//", "/"),
            ("/%25", "/%25"),
        ] {
            let parts = parts(path, &["a"]);
            assert_eq!(check(&parts, 16_384).unwrap().path, normal, "{path}");
        }
        for bad in [
            "/a%2fb", "/a%2Fb", "/a%5Cb", "/a%00", "/a%0a", "/a%7f", "/a%", "/a%2", "/a%zz",
        ] {
            assert!(check(&parts(bad, &["a"]), 16_384).is_err(), "{bad}");
        }
    }

    #[test]
    fn no_coding_but_one_chunked_is_taken() {
        let coded = |codings: &[&str]| {
            let mut parts = parts("/", &["a"]);
            for coding in codings {
                let coding = HeaderValue::from_str(coding).unwrap();
                parts.headers.append(TRANSFER_ENCODING, coding);
            }
            check(&parts, 16_384).is_ok()
        };
        assert!(coded(&[]) && coded(&["Chunked"]));
        for bad in [
            &["gzip, chunked"][..],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["gzip"],
        ] {
            assert!(!coded(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_head_over_the_limit_is_refused_as_such() {
        let long = format!("/{}", "x".repeat(300));
        assert!(matches!(
            check(&parts(&long, &["a"]), 256),
            Err(Error::HeadTooLarge { .. })
        ));
    }

    #[test]
    fn tunnels_are_not_served() {
        let request = Request::connect("a.test:443").body(()).unwrap();
        assert!(check(&request.into_parts().0, 16_384).is_err());
    }
}
