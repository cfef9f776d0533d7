//! Calls of the admin API: addresses tried in turn, a token found, errors told in words.
//!
//! For a question, the next address is tried only where nothing can have happened at the last one: it was not reached, or
//! it said so itself. A change is asked for until it is answered, also where nobody knows what became of the last try:
//! each try names it by the same request id, so the cluster carries it out once.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::Uri;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use self::tls::Tls;
use crate::admin::{ERROR_DOMAIN, MAX_MESSAGE_BYTES};
use crate::cli::output::note;
use crate::context;
use crate::secrets::random_id;

mod tls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longer than any deadline of a node.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a change is asked for while nobody knows what became of it.
const CHANGE_DEADLINE: Duration = Duration::from_secs(30);
/// For one try of a change; longer than a node takes to carry it out and to wait until every node has it in force.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(12);
/// Between two tries of a change.
const CHANGE_PAUSE: Duration = Duration::from_millis(500);
const MAX_HEAD_BYTES: u32 = 64 << 10;
const MAX_TOKEN_FILE_BYTES: u64 = 4 << 10;
const TOKEN_FILE_VARIABLE: &str = "MODE_ENVOY_TOKEN_FILE";

/// The admin API of a cluster.
#[derive(Debug)]
pub(crate) struct Client {
    nodes: Vec<Node>,
    /// Names the one change that this command makes.
    request_id: MetadataValue<Ascii>,
}

/// What became of one try of a change.
enum Tried<A> {
    Answered(A),
    Refused(Refused),
    /// It was not carried out.
    Unsent(String),
    /// It may have been carried out.
    Unknown(String),
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
        let request_id = random_request_id()?;
        Ok(Self { nodes, request_id })
    }

    /// Names the change by an id that the caller chose.
    pub(crate) fn with_request_id(self, id: &str) -> anyhow::Result<Self> {
        let request_id = id
            .parse()
            .context("the request id has characters that no id has")?;
        Ok(Self { request_id, ..self })
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

// === impl Client: changes ===

impl Client {
    /// Asks for a change, as [`Self::call`] asks a question, until it is answered or [`CHANGE_DEADLINE`] passes.
    pub(crate) async fn change<M, A, F, Fut>(&self, message: M, send: F) -> anyhow::Result<A>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let deadline = Instant::now() + CHANGE_DEADLINE;
        let mut unknown = false;
        loop {
            let mut failed = Vec::new();
            for node in &self.nodes {
                let why = match self.try_change(node, &message, &send).await {
                    Tried::Answered(answer) => return Ok(answer),
                    Tried::Refused(refused) => return Err(refused.into()),
                    Tried::Unsent(why) => why,
                    Tried::Unknown(why) => {
                        if !unknown {
                            note(&format!(
                                "{}: {why}; what became of the change is not known, so it is asked for again, which \
                                 makes it once at most",
                                node.url
                            ));
                        }
                        unknown = true;
                        why
                    }
                };
                failed.push(format!("{}: {why}", node.url));
            }
            let failed = failed.join("; ");
            if !unknown {
                bail!("no node answered: {failed}; is one running, and is --admin right?");
            }
            if Instant::now() + CHANGE_PAUSE >= deadline {
                let id = self.request_id.to_str().unwrap_or_default();
                bail!(
                    "whether the change was made is not known: {failed}; once a node answers, the same command with \
                     `--request-id {id}` tells, and makes it if it was not made"
                );
            }
            sleep(CHANGE_PAUSE).await;
        }
    }

    async fn try_change<M, A, F, Fut>(&self, node: &Node, message: &M, send: &F) -> Tried<A>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<tonic::Response<A>, Status>>,
    {
        let channel = match node.connect().await {
            Ok(channel) => channel,
            Err(error) => return Tried::Unsent(innermost(&error)),
        };
        let mut request = node.request(message.clone());
        request
            .metadata_mut()
            .insert("x-request-id", self.request_id.clone());
        match timeout(CHANGE_TIMEOUT, send(channel, request)).await {
            Ok(Ok(response)) => Tried::Answered(response.into_inner()),
            Ok(Err(status)) if nothing_happened(&status) => {
                Tried::Unsent(status.message().to_owned())
            }
            Ok(Err(status)) if is_unknown(&status) => Tried::Unknown(status.message().to_owned()),
            Ok(Err(status)) => Tried::Refused(Refused {
                url: node.url.clone(),
                status,
            }),
            Err(_) => Tried::Unknown("no answer in time".to_owned()),
        }
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

/// Whether a change may have been made: the node says so, or its answer did not come.
fn is_unknown(status: &Status) -> bool {
    let details = status.get_error_details();
    let of_a_node = details
        .error_info()
        .is_some_and(|info| info.domain == ERROR_DOMAIN);
    match status.code() {
        Code::DeadlineExceeded => true,
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => !of_a_node,
        _ => false,
    }
}

fn random_request_id() -> anyhow::Result<MetadataValue<Ascii>> {
    let halves = [random_id()?, random_id()?];
    Ok(halves.concat().parse()?)
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
    fn a_change_is_asked_for_again_only_where_it_may_have_been_made() {
        let of_a_node = |code, reason: &str| {
            let details = ErrorDetails::with_error_info(reason, ERROR_DOMAIN, HashMap::new());
            Status::with_error_details(code, "no", details)
        };
        assert!(is_unknown(&of_a_node(
            Code::DeadlineExceeded,
            "OUTCOME_UNKNOWN"
        )));
        assert!(is_unknown(&Status::unavailable("the connection broke")));
        assert!(is_unknown(&Status::unknown("h2 protocol error")));
        assert!(!is_unknown(&of_a_node(Code::Unavailable, "UNAVAILABLE")));
        assert!(!is_unknown(&of_a_node(Code::AlreadyExists, "EXISTS")));
        assert!(!is_unknown(&Status::invalid_argument("no such field")));
    }

    #[test]
    fn every_command_has_a_request_id_of_its_own_that_nodes_take() {
        let id = random_request_id().unwrap();
        assert_eq!(id.to_str().unwrap().len(), 48);
        assert_ne!(id, random_request_id().unwrap());
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
