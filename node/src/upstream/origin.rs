//! An origin: where connections go. Two URLs with the same scheme, host and port share connections.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::HeaderValue;
use mode_envoy_model::url::BaseUrl;

/// Scheme, host and port.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    /// Without brackets, where it is an IPv6 address.
    pub(crate) host: Arc<str>,
    pub(crate) port: u16,
    /// For messages: `https://host:port`.
    pub(crate) label: Arc<str>,
    /// The value of the `Host` field: the port is left out where it is the scheme's own.
    pub(crate) authority: HeaderValue,
}

// === impl Origin ===

impl Origin {
    /// The origin of a URL; `None` where the host cannot stand in a header.
    pub(crate) fn of(url: &BaseUrl) -> Option<Self> {
        let bare = url.host.trim_start_matches('[').trim_end_matches(']');
        let shown = if bare.contains(':') {
            format!("[{bare}]")
        } else {
            bare.to_owned()
        };
        let (scheme, own_port) = if url.tls {
            ("https", 443)
        } else {
            ("http", 80)
        };
        let authority = if url.port == own_port {
            shown.clone()
        } else {
            format!("{shown}:{}", url.port)
        };
        Some(Self {
            tls: url.tls,
            host: Arc::from(bare),
            port: url.port,
            label: Arc::from(format!("{scheme}://{shown}:{}", url.port)),
            authority: HeaderValue::try_from(authority).ok()?,
        })
    }
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.port == other.port && self.tls == other.tls && self.host == other.host
    }
}

impl Eq for Origin {}

impl Hash for Origin {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.host.hash(state);
        self.port.hash(state);
        self.tls.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(url: &str) -> Origin {
        Origin::of(&BaseUrl::parse(url).unwrap()).unwrap()
    }

    #[test]
    fn the_schemes_own_port_is_left_out_of_the_host_field() {
        assert_eq!(
            origin("https://api.openai.com/v1").authority,
            "api.openai.com"
        );
        assert_eq!(origin("http://10.0.0.5:7001").authority, "10.0.0.5:7001");
        assert_eq!(&*origin("http://10.0.0.5").label, "http://10.0.0.5:80");
    }

    #[test]
    fn paths_do_not_make_another_origin_but_schemes_do() {
        assert_eq!(origin("http://a/x"), origin("http://a/y"));
        assert_ne!(origin("http://a:443"), origin("https://a"));
    }
}
