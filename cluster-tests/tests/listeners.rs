//! The listeners as clients meet them: TLS, certificates that change, HTTP/2, and the admin listener beyond loopback.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mode_envoy_cluster_tests::cluster::{Cluster, Node, READY};
use mode_envoy_cluster_tests::http::{self as client, Answer, CHAT};
use mode_envoy_cluster_tests::origin::Origin;
use mode_envoy_cluster_tests::{usage, wait};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const NAME: &str = "gateway.acme.test";
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn the_gateway_speaks_tls_in_both_versions_and_takes_up_a_new_certificate() -> Result<()> {
    let ca = Ca::new()?;
    let mut cluster = Cluster::plan(NODE, 1)?;
    let (cert, key) = (cluster.dir().join("gw.pem"), cluster.dir().join("gw.key"));
    ca.write(&cert, &key)?;
    let flags = ["--gateway-cert", &path(&cert), "--gateway-key", &path(&key)];
    cluster.node_mut(1).launch.more = flags.map(str::to_owned).to_vec();
    cluster.start_all()?;
    cluster.wait_ready().await?;
    let origin = Origin::start("orders").await?;
    cluster.apply(&document(&origin)).await?;
    let secret = cluster.node(1).create_key("acme", "app", "first").await?;
    let gateway = cluster.node(1).gateway().to_owned();

    let first = ca.connect(&gateway, "http/1.1").await?;
    let shown = leaf(&first)?;
    let answer = wait::until("the key to be in force", SOON, async || {
        let stream = ca.connect(&gateway, "http/1.1").await?;
        h1(stream, call("/orders/1", &secret, "")?)
            .await?
            .expect(200)
    })
    .await?;
    ensure!(
        answer.json()?["headers"]["x-forwarded-proto"] == "https",
        "{answer:?}"
    );
    let stream = ca.connect(&gateway, "h2").await?;
    ensure!(
        stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        "HTTP/2 is not offered"
    );
    let asked = call(CHAT, &secret, &client::chat("fast", "over TLS").to_string())?;
    h2(stream, asked).await?.expect(200)?;

    // Who does not speak TLS is let go, and nobody else notices.
    let mut clear = TcpStream::connect(&gateway).await?;
    clear
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await?;
    let mut said = Vec::new();
    let _ = clear.read_to_end(&mut said).await;
    ensure!(!said.starts_with(b"HTTP/"), "{said:?}");

    certificates_change(cluster.node(1), &ca, (&cert, &key), &shown).await?;
    hang_up(cluster.node(1), &ca, (&cert, &key)).await?;
    // A connection that was open before the change is open after it.
    h1(first, call("/orders/1", &secret, "")?)
        .await?
        .expect(200)?;
    cluster.finish().await
}

#[tokio::test]
async fn a_client_that_knows_the_gateway_speaks_http_2_without_tls() -> Result<()> {
    let cluster = Cluster::start(NODE, 1).await?;
    let origin = Origin::start("orders").await?;
    cluster.apply(&document(&origin)).await?;
    let secret = cluster.key("acme", "app", "first").await?;
    let node = cluster.node(1);

    let (send, _connection) = h2_connection(TcpStream::connect(node.gateway()).await?).await?;
    let mut calls = JoinSet::new();
    for number in 0..50 {
        let body = client::chat_stream("fast", &format!("call {number}")).to_string();
        let (mut send, request) = (send.clone(), call(CHAT, &secret, &body)?);
        calls.spawn(async move { answer(send.send_request(request).await?).await });
    }
    for answered in calls.join_all().await {
        let answered = answered?.expect(200)?;
        ensure!(!answered.events()?.is_empty(), "no events");
        ensure!(!answered.header("x-request-id").is_empty(), "{answered:?}");
    }
    let row = usage::row(
        &node
            .usage(&["--filter", "model=fast", "--linearizable"])
            .await?,
    )?;
    ensure!(
        (row.calls, row.errors, row.estimated_calls) == (50, 0, 0),
        "{row:?}"
    );
    cluster.finish().await
}

#[tokio::test]
async fn the_admin_listener_beyond_loopback_has_a_certificate_of_the_clusters_own() -> Result<()> {
    let mut cluster = Cluster::plan(NODE, 1)?;
    let own = cluster.node(1).admin().to_owned();
    let (host, _) = own.rsplit_once(':').context("an address")?;
    let port = std::net::TcpListener::bind("0.0.0.0:0")?
        .local_addr()?
        .port();
    let node = cluster.node_mut(1);
    node.launch.admin = format!("0.0.0.0:{port}");
    node.launch.more = vec!["--advertise-admin".to_owned(), format!("{host}:{port}")];
    node.start()?;

    // On this machine nothing needs to be said: the context file names token and CA.
    let here = format!("https://127.0.0.1:{port}");
    let node = cluster.node(1);
    let status = wait::until("the admin API", READY, async || {
        at(node, &here, &["cluster", "status", "-o", "json"])
            .await?
            .json()
    })
    .await?;
    ensure!(
        status["nodes"][0]["admin"] == format!("{host}:{port}"),
        "{status}"
    );

    // Elsewhere whom to trust is said, and with what to come.
    let ca = path(&node.launch.data_dir.join("admin-ca.pem"));
    let token = std::fs::read_to_string(node.launch.data_dir.join("admin.token"))?;
    let there = format!("https://{host}:{port}");
    let words = ["get", "tenants", "--token", token.trim()];
    at(node, &there, &[&words[..], &["--ca", &ca]].concat())
        .await?
        .ok()?;
    // A change goes the same way as a question: nothing of it, and no token, in the clear.
    let change = ["keys", "create", "--tenant", "none", "--consumer", "none"];
    let trusting = [&change[..], &["--token", token.trim(), "--ca", &ca]].concat();
    let said = at(node, &there, &trusting).await?.fails(1)?;
    ensure!(said.contains("there is no"), "{said}");
    let strange = [&change[..], &["--token", token.trim()]].concat();
    let said = at(node, &there, &strange).await?.fails(1)?;
    ensure!(said.contains("--ca FILE"), "{said}");
    let said = at(node, &there, &words).await?.fails(1)?;
    ensure!(said.contains("--ca FILE"), "{said}");
    let other = cluster.dir().join("other.pem");
    std::fs::write(&other, Ca::new()?.certificate.pem())?;
    let wrong = at(
        node,
        &there,
        &[&words[..], &["--ca", &path(&other)]].concat(),
    )
    .await?;
    ensure!(
        wrong.fails(1)?.contains("invalid peer certificate"),
        "another CA was trusted"
    );
    let clear = at(node, &format!("http://{host}:{port}"), &words).await?;
    clear.fails(1)?;
    ensure!(
        !node.log().contains("--insecure"),
        "a waiver is logged that nobody gave"
    );
    cluster.finish().await
}

// === phases ===

async fn certificates_change(
    node: &Node,
    ca: &Ca,
    (cert, key): (&Path, &Path),
    shown: &[u8],
) -> Result<()> {
    // Half a change is told and left alone; a whole one is taken up, and open connections stay.
    std::fs::write(cert, "-----BEGIN CERTIFICATE-----\nnonsense")?;
    wait::until("the broken certificate to be told", SOON, async || {
        let page = client::get(node.admin(), "/metrics", None).await?.text();
        let told = page.contains("mode_envoy_tls_reload_failures_total{listener=\"gateway\"} 1");
        ensure!(told, "it is not");
        Ok(())
    })
    .await?;
    ensure!(
        leaf(&ca.connect(node.gateway(), "h2").await?)? == *shown,
        "the old one is gone"
    );
    ca.write(cert, key)?;
    wait::until("the new certificate to be shown", SOON, async || {
        ensure!(
            leaf(&ca.connect(node.gateway(), "h2").await?)? != *shown,
            "it is the old one"
        );
        Ok(())
    })
    .await?;
    ensure!(
        node.log().contains("the one before stays in use"),
        "nothing in the log"
    );
    let page = client::get(node.admin(), "/metrics", None).await?.text();
    ensure!(
        page.contains("mode_envoy_tls_certificate_not_after_seconds{listener=\"gateway\"}"),
        "{page}"
    );
    Ok(())
}

/// SIGHUP has the files looked at, says so, and ends nothing; files that are broken still are told again.
async fn hang_up(node: &Node, ca: &Ca, (cert, key): (&Path, &Path)) -> Result<()> {
    let before = leaf(&ca.connect(node.gateway(), "h2").await?)?;
    ca.write(cert, key)?;
    node.hang_up()?;
    wait::until("the certificate of the hang-up", SOON, async || {
        let shown = leaf(&ca.connect(node.gateway(), "h2").await?)?;
        ensure!(shown != before, "it is the old one");
        ensure!(
            node.log().contains("SIGHUP: the certificate files"),
            "{}",
            node.log()
        );
        Ok(())
    })
    .await?;
    for _ in 0..3 {
        node.hang_up()?;
    }
    client::get(node.admin(), "/readyz", None)
        .await?
        .expect(200)?;
    Ok(())
}

// === helpers ===

/// A CA for one test.
struct Ca {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?;
        Ok(Self {
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// Writes a new certificate and its key.
    fn write(&self, cert: &Path, key: &Path) -> Result<()> {
        let new = KeyPair::generate()?;
        let params = CertificateParams::new(vec![NAME.to_owned()])?;
        let certificate = params.signed_by(&new, &self.issuer)?;
        std::fs::write(key, new.serialize_pem())?;
        std::fs::write(cert, certificate.pem())?;
        Ok(())
    }

    /// Connects, and offers one protocol.
    async fn connect(&self, address: &str, protocol: &str) -> Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(connector
            .connect(ServerName::try_from(NAME)?, stream)
            .await?)
    }
}

fn leaf(stream: &TlsStream<TcpStream>) -> Result<Vec<u8>> {
    let chain = stream
        .get_ref()
        .1
        .peer_certificates()
        .context("a certificate")?;
    Ok(chain[0].to_vec())
}

fn document(origin: &Origin) -> String {
    format!(
        r#"
tenants: [{{name: acme}}]
consumers: [{{name: app, tenant: acme}}]
providers: [{{name: local, protocol: embedded}}]
models: [{{name: fast, targets: [{{provider: local, model: echo}}]}}]
services: [{{name: orders, endpoints: [{{url: "{}"}}]}}]
routes: [{{name: orders, tenant: acme, service: orders, auth: [key], match: {{paths: ["/orders/{{*rest}}"]}}}}]
"#,
        origin.url()
    )
}

fn call(path: &str, key: &str, body: &str) -> Result<Request<Full<Bytes>>> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    Ok(Request::builder()
        .method(method)
        .uri(format!("https://{NAME}{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {key}"))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::from(body.to_owned()))?)
}

async fn h1<S>(stream: S, mut request: Request<Full<Bytes>>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    request.headers_mut().insert(header::HOST, NAME.parse()?);
    *request.uri_mut() = request.uri().path().parse()?;
    answer(send.send_request(request).await?).await
}

async fn h2<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut send, _connection) = h2_connection(stream).await?;
    answer(send.send_request(request).await?).await
}

type H2 = (http2::SendRequest<Full<Bytes>>, JoinSet<hyper::Result<()>>);

async fn h2_connection<S>(stream: S) -> Result<H2>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (send, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    Ok((send, tasks))
}

async fn answer(response: http::Response<hyper::body::Incoming>) -> Result<Answer> {
    let (head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => bail!("the answer was cut: {error}"),
    };
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
    })
}

/// Runs the command line against an address.
async fn at(
    node: &Node,
    url: &str,
    words: &[&str],
) -> Result<mode_envoy_cluster_tests::program::Output> {
    let words = [words, &["--admin", url]].concat();
    node.launch.program.run(&words, "").await
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
