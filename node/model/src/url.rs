//! The URL of an upstream, taken apart once. Shared by the rules for configuration and by what connects.
//!
//! Invariants: scheme http or https; a host that is a DNS name in lower case or an address; no credentials, query or
//! fragment; the path is empty or starts with `/`, does not end with one, and has no `.` or `..` segment, so that
//! appending a request's path cannot leave it.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::limits;

/// An upstream's URL.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct BaseUrl {
    /// Whether it is https.
    pub tls: bool,
    /// DNS name or address; an IPv6 address without brackets.
    pub host: Arc<str>,
    /// Port, the scheme's own where none was given.
    pub port: u16,
    /// What stands before a request's path; empty, or `/…` without a slash at the end.
    pub path: Arc<str>,
}

/// Why a URL is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UrlError {
    /// Longer than [`limits::URL`].
    #[error("the URL is longer than {} bytes; shorten it", limits::URL)]
    TooLong,
    /// Another scheme, or none.
    #[error("the URL must start with http:// or https://")]
    Scheme,
    /// A credential in front of the host.
    #[error("the URL must not hold a user name or password; give credentials as keys")]
    Userinfo,
    /// No host, or not one.
    #[error("the URL's host must be a DNS name, an IPv4 address or an IPv6 address in brackets")]
    Host,
    /// Not a port.
    #[error("the URL's port must be a number from 1 to 65535")]
    Port,
    /// A query or fragment.
    #[error("the URL must not have a query (`?`) or fragment (`#`)")]
    Query,
    /// A path that could not be sent.
    #[error(
        "the URL's path may hold letters, digits and -._~!$&'()*+,;=:@/%XX, without empty, `.` or `..` segments"
    )]
    Path,
}

// === impl BaseUrl ===

impl BaseUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        if url.len() > limits::URL {
            return Err(UrlError::TooLong);
        }
        let (tls, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return Err(UrlError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(UrlError::Query);
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError::Userinfo);
        }
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(port) => parse_port(port)?,
            None if tls => 443,
            None => 80,
        };
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.is_empty() && !is_path(path) {
            return Err(UrlError::Path);
        }
        Ok(Self {
            tls,
            host: Arc::from(parse_host(host)?),
            port,
            path: Arc::from(path),
        })
    }

    /// `host` or `host:port`, as a `host` header has it.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.to_string()
        };
        let default = if self.tls { 443 } else { 80 };
        if self.port == default {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Whether this is a DNS name in lower case: labels of letters, digits, `-` and `_`, not all of them a number.
pub fn is_dns_name(host: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let number = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    (1..=limits::HOST).contains(&host.len())
        && host.split('.').all(label)
        && !host.rsplit('.').next().is_some_and(number)
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (_, after) = rest.split_once(']').ok_or(UrlError::Host)?;
        let host = &authority[..authority.len() - after.len()];
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(UrlError::Host),
        };
    }
    Ok(authority
        .split_once(':')
        .map_or((authority, None), |(host, port)| (host, Some(port))))
}

fn parse_port(port: &str) -> Result<u16, UrlError> {
    let digits = (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
    let port = if digits { port.parse().unwrap_or(0) } else { 0 };
    if port == 0 {
        Err(UrlError::Port)
    } else {
        Ok(port)
    }
}

fn parse_host(host: &str) -> Result<String, UrlError> {
    if let Some(address) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().map_err(|_| UrlError::Host)?;
        return Ok(address.to_string());
    }
    let host = host.to_ascii_lowercase();
    let sound = host.parse::<Ipv4Addr>().is_ok() || is_dns_name(&host);
    if sound { Ok(host) } else { Err(UrlError::Host) }
}

/// Whether a path may be sent as it is: `/…`, no empty or dot segments, sound escapes.
pub(crate) fn is_path(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/".contains(&b);
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        let escape = b == b'%'
            && bytes
                .get(at + 1..at + 3)
                .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        if !plain(b) && !escape {
            return false;
        }
        at += if escape { 3 } else { 1 };
    }
    let dots = |segment: &str| {
        matches!(
            segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
            "" | "." | ".."
        )
    };
    path.strip_prefix('/')
        .is_some_and(|rest| !rest.split('/').any(dots))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(url: &str) -> (bool, String, u16, String) {
        let url = BaseUrl::parse(url).unwrap();
        (
            url.tls,
            url.host.to_string(),
            url.port,
            url.path.to_string(),
        )
    }

    #[test]
    fn a_url_is_taken_apart() {
        assert_eq!(
            parts("https://api.openai.com/v1"),
            (true, "api.openai.com".into(), 443, "/v1".into())
        );
        assert_eq!(
            parts("http://10.0.0.5:7001"),
            (false, "10.0.0.5".into(), 7001, String::new())
        );
        assert_eq!(
            parts("http://[::1]:80/a/b/"),
            (false, "::1".into(), 80, "/a/b".into())
        );
        assert_eq!(
            parts("http://LOCALHOST/"),
            (false, "localhost".into(), 80, String::new())
        );
    }

    #[test]
    fn a_url_prints_as_it_is_sent() {
        for url in [
            "https://a.test/v1",
            "http://[::1]:81",
            "http://10.0.0.5:7001/x%20y",
        ] {
            assert_eq!(BaseUrl::parse(url).unwrap().to_string(), url);
        }
        assert_eq!(
            BaseUrl::parse("https://a.test:443/").unwrap().to_string(),
            "https://a.test"
        );
    }

    #[test]
    fn each_rule_has_its_refusal() {
        let cases = [
            ("ftp://a", UrlError::Scheme),
            ("a.test/v1", UrlError::Scheme),
            ("HTTP://a", UrlError::Scheme),
            ("http://u:p@a.test", UrlError::Userinfo),
            ("http://", UrlError::Host),
            ("http://a b", UrlError::Host),
            ("http://999.1.1.1", UrlError::Host),
            ("http://1.2.3", UrlError::Host),
            ("http://[::1", UrlError::Host),
            ("http://[::1]x", UrlError::Host),
            ("http://-a.test", UrlError::Host),
            ("http://a..test", UrlError::Host),
            ("http://a:0", UrlError::Port),
            ("http://a:65536", UrlError::Port),
            ("http://a:", UrlError::Port),
            ("http://a:+80", UrlError::Port),
            ("http://a/?x", UrlError::Query),
            ("http://a/#x", UrlError::Query),
            ("http://a/b//c", UrlError::Path),
            ("http://a/../c", UrlError::Path),
            ("http://a/%2E%2e/c", UrlError::Path),
            ("http://a/%zz", UrlError::Path),
            ("http://a/{x}", UrlError::Path),
            ("http://a/é", UrlError::Path),
        ];
        for (url, error) in cases {
            assert_eq!(BaseUrl::parse(url), Err(error), "{url}");
        }
        let long = format!("http://a/{}", "x".repeat(limits::URL));
        assert_eq!(BaseUrl::parse(&long), Err(UrlError::TooLong));
    }
}
