//! Calls of the admin API: addresses tried in turn, a token found, errors told in words.
//!
//! The next address is tried only where nothing can have happened at the last one: it was not reached, or it said so
//! itself. A connection that breaks in the middle of a change is an error, never a second try.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use self::tls::Tls;
use crate::admin::{ERROR_DOMAIN, MAX_MESSAGE_BYTES};
use crate::context;

mod tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than any deadline of a node.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: u32 = 64 << 10;
const MAX_TOKEN_FILE_BYTES: u64 = 4 << 10;
const TOKEN_FILE_VARIABLE: &str = "MODE_ENVOY_TOKEN_FILE";

/// The admin API of a cluster.
#[derive(Debug)]
pub(crate) struct Client {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    url: String,
    endpoint: Endpoint,
    tls: Option<Tls>,
    authorization: Option<MetadataValue<Ascii>>,
}

/// A refusal by a node.
#[derive(Debug)]
pub(crate) struct Refused {
    url: String,
    status: Status,
}

/// One field at fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FieldFault {
    pub(crate) path: String,
    pub(crate) problem: String,
}

// === impl Client ===

impl Client {
    /// Over the addresses given; `token` and `ca` are what the command line or the environment says.
    pub(crate) fn new(
        urls: &[String],
        token: Option<&str>,
        ca: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let nodes = urls
            .iter()
            .map(|url| Node::new(url.trim(), token, ca))
            .collect::<Result<Vec<_>, _>>()?;
        if nodes.is_empty() {
            bail!("no admin address: give one by --admin or MODE_ENVOY_ADMIN");
        }
        Ok(Self { nodes })
    }

    /// Makes one call: `send` gets a channel and a request with `message`.
    pub(crate) async fn call<M, A, F, Fut>(&self, message: M, send: F) -> anyhow::Result<A>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let mut unreached = Vec::new();
        for (i, node) in self.nodes.iter().enumerate() {
            let channel = match node.connect().await {
                Ok(channel) => channel,
                Err(error) => {
                    unreached.push(format!("{}: {}", node.url, innermost(&error)));
                    continue;
                }
            };
            match send(channel, node.request(message.clone())).await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) if nothing_happened(&status) && i + 1 < self.nodes.len() => {
                    unreached.push(format!("{}: {}", node.url, status.message()));
                }
                Err(status) => {
                    return Err(Refused {
                        url: node.url.clone(),
                        status,
                    }
                    .into());
                }
            }
        }
        bail!(
            "no node answered: {}; is one running, and is --admin right?",
            unreached.join("; ")
        )
    }
}

// === impl Node ===

impl Node {
    fn new(url: &str, token: Option<&str>, ca: Option<&Path>) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/').to_owned();
        let uri: Uri = url
            .parse()
            .with_context(|| format!("the admin address `{url}` is not a URL"))?;
        let bare = uri.path() == "/" && uri.query().is_none();
        let tls = match uri.scheme_str() {
            Some("http") if bare => None,
            Some("https") if bare => Some(tls_to(&url, &uri, ca)?),
            _ => bail!(
                "the admin address `{url}` is not like http://127.0.0.1:7070 or https://admin.example.com:7070"
            ),
        };
        let loopback = uri.host().is_some_and(is_loopback);
        // An empty variable is the same as none.
        let token = match token.filter(|token| !token.trim().is_empty()) {
            Some(token) => Some(token.to_owned()),
            None => found_token(&url, loopback)?,
        };
        let authorization = match token {
            Some(token) => {
                let value = format!("Bearer {}", token.trim());
                let mut value: MetadataValue<Ascii> = value
                    .parse()
                    .context("the admin token has characters that no token has")?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let endpoint = Endpoint::from(dialled(&uri)?)
            .origin(uri)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .http2_max_header_list_size(MAX_HEAD_BYTES)
            .user_agent(concat!("mode-envoy/", env!("CARGO_PKG_VERSION")))?;
        Ok(Self {
            url,
            endpoint,
            tls,
            authorization,
        })
    }

    async fn connect(&self) -> Result<Channel, tonic::transport::Error> {
        match &self.tls {
            None => self.endpoint.connect().await,
            Some(tls) => {
                let tls = tls.clone();
                let connector = tower::service_fn(move |_: Uri| tls.clone().connect());
                self.endpoint.connect_with_connector(connector).await
            }
        }
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.clone());
        }
        request
    }
}

// === impl Refused ===

impl Refused {
    /// The fields at fault, where the node named any.
    pub(crate) fn fields(&self) -> Vec<FieldFault> {
        let details = self.status.get_error_details();
        let violations = details.bad_request().map(|b| b.field_violations.clone());
        let fault = |v: tonic_types::FieldViolation| FieldFault {
            path: v.field,
            problem: v.description,
        };
        violations
            .unwrap_or_default()
            .into_iter()
            .map(fault)
            .collect()
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let fields = self.fields();
        if self.status.code() == Code::Unauthenticated || fields.is_empty() {
            return write!(f, "{}: {}", self.url, self.status.message());
        }
        // The message repeats the fields, and may have been cut.
        write!(f, "{}: refused", self.url)?;
        fields
            .iter()
            .try_for_each(|field| write!(f, "\n  {}: {}", field.path, field.problem))
    }
}

impl std::error::Error for Refused {}

// === free functions ===

/// Generated clients take their limits one by one.
macro_rules! api {
    ($client:ident, $channel:expr) => {
        $client::new($channel)
            .max_decoding_message_size($crate::cli::client::max_message())
            .max_encoding_message_size($crate::cli::client::max_message())
    };
}
pub(crate) use api;

/// Longest message either way.
pub(crate) const fn max_message() -> usize {
    MAX_MESSAGE_BYTES
}

/// Whom an `https` address must show itself to be: `--ca`, else what a node on this machine has left for that address.
fn tls_to(url: &str, uri: &Uri, ca: Option<&Path>) -> anyhow::Result<Tls> {
    let left = match ca {
        Some(_) => None,
        None => context::lookup(url)?.and_then(|entry| entry.ca),
    };
    Tls::new(uri, ca.or(left.as_deref())).with_context(|| format!("the admin address `{url}`"))
}

/// The address without TLS, which the connector sees to.
fn dialled(uri: &Uri) -> anyhow::Result<Uri> {
    let mut parts = uri.clone().into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    Ok(Uri::from_parts(parts)?)
}

fn nothing_happened(status: &Status) -> bool {
    let details = status.get_error_details();
    let said_so = details
        .error_info()
        .is_some_and(|info| info.domain == ERROR_DOMAIN && info.reason == "UNAVAILABLE");
    said_so && status.code() == Code::Unavailable
}

fn found_token(url: &str, loopback: bool) -> anyhow::Result<Option<String>> {
    if let Some(path) = std::env::var_os(TOKEN_FILE_VARIABLE).filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        return read_token(&path)
            .map(Some)
            .with_context(|| format!("{TOKEN_FILE_VARIABLE} names it"));
    }
    // A file that happens to lie here belongs to a node on this machine: it is not sent anywhere else.
    if !loopback {
        return Ok(None);
    }
    match context::lookup(url)? {
        Some(entry) => read_token(&entry.token_file)
            .map(Some)
            .context("the context file names it"),
        None => Ok(None),
    }
}

fn read_token(path: &Path) -> anyhow::Result<String> {
    let doing = || format!("reading the token file {}", path.display());
    if fs::metadata(path).with_context(doing)?.len() > MAX_TOKEN_FILE_BYTES {
        bail!(
            "reading the token file {}: it is too long for one",
            path.display()
        );
    }
    Ok(fs::read_to_string(path)
        .with_context(doing)?
        .trim()
        .to_owned())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    #[test]
    fn addresses_are_http_urls_without_a_path() {
        for url in [
            "http://127.0.0.1:7070",
            "http://127.0.0.1:7070/",
            "http://[::1]:7070",
            "http://localhost:1",
            "https://admin.acme.test",
            "https://[::1]:7070",
        ] {
            assert!(
                Client::new(&[url.to_owned()], Some("t"), None).is_ok(),
                "{url}"
            );
        }
        for (url, part) in [
            ("https://127.0.0.1:7070/x", "is not like"),
            ("127.0.0.1:7070", "is not"),
            ("http://127.0.0.1:7070/api", "is not like"),
            ("ftp://x", "is not like"),
        ] {
            let refused = Client::new(&[url.to_owned()], Some("t"), None).unwrap_err();
            assert!(format!("{refused:#}").contains(part), "{url}: {refused:#}");
        }
        let (url, none) = (["https://a.test".to_owned()], Path::new("/no/such.pem"));
        let refused = Client::new(&url, Some("t"), Some(none)).unwrap_err();
        assert!(format!("{refused:#}").contains("reading the CA file /no/such.pem"));
    }

    #[test]
    fn only_loopback_is_this_machine() {
        for (host, loopback) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("[::1]", true),
            ("localhost", true),
            ("10.0.0.1", false),
            ("localhost.evil.test", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }

    #[test]
    fn another_node_is_tried_only_where_nothing_happened() {
        let with = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
            Status::with_error_details(code, "no leader", details)
        };
        assert!(nothing_happened(&with(Code::Unavailable, "UNAVAILABLE")));
        assert!(!nothing_happened(&with(
            Code::DeadlineExceeded,
            "OUTCOME_UNKNOWN"
        )));
        assert!(!nothing_happened(&Status::unavailable(
            "the connection broke"
        )));
    }

    #[test]
    fn a_refusal_lists_the_fields_at_fault() {
        let mut details = ErrorDetails::new();
        details.set_bad_request(vec![FieldViolation::new("name", "it is missing")]);
        let status = Status::with_error_details(Code::InvalidArgument, "refused: name: …", details);
        let refused = Refused {
            url: "http://n".to_owned(),
            status,
        };
        assert_eq!(
            refused.to_string(),
            "http://n: refused\n  name: it is missing"
        );
    }
}
