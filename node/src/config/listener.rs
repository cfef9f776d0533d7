//! Where this process listens, and the rules of leaving loopback.
//!
//! Invariants: a listener that carries secrets in the clear is on loopback, unless the operator waived that for it
//! by name (the admin listener beyond loopback has a certificate of the cluster's own CA where none is given); and the address that others are told is one they can reach.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use serde::Deserialize;

use super::error::ConfigError;

/// One of the three listeners.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ListenerKind {
    /// Everything that clients call.
    Gateway,
    /// The admin API.
    Admin,
    /// Node to node; always mutual TLS, so that nothing can be waived for it.
    #[value(skip)]
    #[serde(skip)]
    Peer,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsFiles {
    /// The certificate, followed by those that lead to its CA.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// How a listener's connections are protected.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Protection {
    /// Not at all; for the peer listener, by mutual TLS of its own.
    None,
    /// By a certificate of the operator's.
    Files(TlsFiles),
    /// By a certificate of the cluster's private CA.
    Minted,
}

/// Where to listen, and what to tell others.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listener {
    /// Which one.
    pub kind: ListenerKind,
    /// Where to bind; port 0 takes a free one.
    pub bind: SocketAddr,
    /// What others are told; absent where it is the address bound.
    pub advertise: Option<String>,
    /// TLS.
    pub protection: Protection,
    /// It leaves loopback without TLS, since the operator said so.
    pub waived: bool,
}

// === impl ListenerKind ===

impl ListenerKind {
    /// As flags and logs write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Admin => "admin",
            Self::Peer => "peer",
        }
    }
}

impl std::fmt::Display for ListenerKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Listener ===

impl Listener {
    /// Checks an address against the rules.
    pub(super) fn resolve(
        kind: ListenerKind,
        addr: &str,
        advertise: Option<&str>,
        insecure: &[ListenerKind],
        files: Option<TlsFiles>,
    ) -> Result<Self, ConfigError> {
        let bind = resolve(kind, addr)?;
        if let Some(advertise) = advertise {
            check_advertise(kind, advertise)?;
        } else if bind.ip().is_unspecified() {
            return Err(ConfigError::Wildcard { kind, bind });
        }
        let exposed = !bind.ip().is_loopback();
        let insecure = insecure.contains(&kind);
        let protection = match files {
            Some(files) => Protection::Files(files),
            None if exposed && kind == ListenerKind::Admin && !insecure => Protection::Minted,
            None => Protection::None,
        };
        let waived = exposed && kind != ListenerKind::Peer && protection == Protection::None;
        if waived && !insecure {
            return Err(ConfigError::Exposed { kind, bind });
        }
        Ok(Self {
            kind,
            bind,
            advertise: advertise.map(str::to_owned),
            protection,
            waived,
        })
    }

    /// Whether only this machine reaches it.
    pub const fn is_loopback(&self) -> bool {
        self.bind.ip().is_loopback()
    }

    /// What others are told, once the port is known.
    pub fn advertised(&self, bound: SocketAddr) -> String {
        self.advertise.clone().unwrap_or_else(|| bound.to_string())
    }
}

fn resolve(kind: ListenerKind, addr: &str) -> Result<SocketAddr, ConfigError> {
    let problem = match addr.to_socket_addrs() {
        Ok(mut found) => match found.next() {
            Some(found) => return Ok(found),
            None => "the name has no address".to_owned(),
        },
        Err(error) => error.to_string(),
    };
    Err(ConfigError::Address {
        flag: format!("--{kind}-addr"),
        value: addr.to_owned(),
        problem,
    })
}

fn check_advertise(kind: ListenerKind, text: &str) -> Result<(), ConfigError> {
    let problem = match text.rsplit_once(':') {
        None => "it has no port",
        Some(("", _)) => "it has no host",
        Some((_, port)) if port.parse::<u16>().is_ok_and(|port| port != 0) => {
            let wildcard = text
                .parse::<SocketAddr>()
                .is_ok_and(|a| a.ip().is_unspecified());
            if wildcard {
                "nobody can reach a wildcard address"
            } else {
                return Ok(());
            }
        }
        Some(_) => "its port is not one of 1 to 65535",
    };
    Err(ConfigError::Address {
        flag: format!("--advertise-{kind}"),
        value: text.to_owned(),
        problem: problem.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(
        addr: &str,
        advertise: Option<&str>,
        insecure: &[ListenerKind],
    ) -> Result<Listener, ConfigError> {
        Listener::resolve(ListenerKind::Gateway, addr, advertise, insecure, None)
    }

    #[test]
    fn a_listener_leaves_loopback_only_with_the_waiver_for_it() {
        assert!(gateway("127.3.2.1:80", None, &[]).is_ok_and(|l| !l.waived));
        let refused = gateway("10.0.0.1:80", None, &[ListenerKind::Admin]).unwrap_err();
        assert!(
            refused.to_string().contains("--insecure gateway"),
            "{refused}"
        );
        assert!(gateway("10.0.0.1:80", None, &[ListenerKind::Gateway]).is_ok_and(|l| l.waived));
    }

    #[test]
    fn with_tls_a_listener_leaves_loopback_and_the_admin_listener_has_it_by_itself() {
        let files = TlsFiles {
            cert: "cert.pem".into(),
            key: "key.pem".into(),
        };
        let exposed = |kind, insecure: &[ListenerKind], files: Option<&TlsFiles>| {
            Listener::resolve(kind, "10.0.0.1:80", None, insecure, files.cloned()).unwrap()
        };
        let own = exposed(ListenerKind::Gateway, &[], Some(&files));
        assert!(own.protection == Protection::Files(files) && !own.waived);
        let minted = exposed(ListenerKind::Admin, &[], None);
        assert!(minted.protection == Protection::Minted && !minted.waived);
        let clear = exposed(ListenerKind::Admin, &[ListenerKind::Admin], None);
        assert!(clear.protection == Protection::None && clear.waived);
        let admin = ListenerKind::Admin;
        let loopback = Listener::resolve(admin, "127.0.0.1:80", None, &[], None).unwrap();
        assert!(loopback.protection == Protection::None && !loopback.waived);
    }

    #[test]
    fn the_peer_listener_may_leave_since_it_always_has_tls() {
        let peer = Listener::resolve(ListenerKind::Peer, "10.0.0.1:7071", None, &[], None).unwrap();
        assert!(!peer.waived && !peer.is_loopback());
    }

    #[test]
    fn a_wildcard_is_refused_unless_others_are_told_an_address() {
        let insecure = [ListenerKind::Gateway];
        let refused = gateway("0.0.0.0:80", None, &insecure).unwrap_err();
        assert!(
            refused.to_string().contains("--advertise-gateway"),
            "{refused}"
        );
        assert!(gateway("0.0.0.0:80", Some("gw.test:80"), &insecure).is_ok());
        for unreachable in ["gw.test", ":80", "gw.test:0", "0.0.0.0:80", "[::]:80"] {
            assert!(
                gateway("0.0.0.0:80", Some(unreachable), &insecure).is_err(),
                "{unreachable}"
            );
        }
    }

    #[test]
    fn what_is_bound_is_advertised_where_nothing_else_is() {
        let listener = gateway("127.0.0.1:0", None, &[]).unwrap();
        assert_eq!(
            listener.advertised("127.0.0.1:81".parse().unwrap()),
            "127.0.0.1:81"
        );
    }
}
