//! What a node that joins says until it is let in, and strangers that would keep others from joining.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mode_envoy_cluster_tests::cluster::{Cluster, Node, READY};
use mode_envoy_cluster_tests::load::Pace;
use mode_envoy_cluster_tests::members::settled;
use mode_envoy_cluster_tests::program::Output;
use mode_envoy_cluster_tests::wait;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const SOON: Duration = Duration::from_secs(30);
/// Where strangers come from; nodes and tests come from another address.
const ELSEWHERE: [u8; 4] = [127, 0, 0, 77];
const HERE: [u8; 4] = [127, 0, 0, 1];
/// More connections than the peer listener has places for strangers.
const STRANGERS: usize = 40;

#[tokio::test]
async fn a_node_that_joins_answers_probes_before_it_is_let_in_and_shows_its_own_ca_afterwards()
-> Result<()> {
    let mut cluster = Cluster::start(NODE, 1).await?;
    let token = cluster.node(1).join_token("1h").await?;
    let address = cluster.node(1).launch.peer.clone();
    // Nobody is there to let it in.
    cluster.node_mut(1).kill().await?;
    let joiner = cluster.plan_joiner(&address, &token);
    let (host, _) = joiner.launch.admin.rsplit_once(':').context("an address")?;
    let advertised = format!("{host}:7070");
    let port = std::net::TcpListener::bind("0.0.0.0:0")?
        .local_addr()?
        .port();
    joiner.launch.admin = format!("0.0.0.0:{port}");
    joiner.launch.more = vec!["--advertise-admin".to_owned(), advertised];
    joiner.start()?;
    let (probed, url) = (
        SocketAddr::from((HERE, port)),
        format!("https://127.0.0.1:{port}"),
    );

    wait::until("the reason why it is not ready", READY, async || {
        ensure!(
            page(probed, "/healthz").await?.contains(" 200 OK"),
            "it is not alive"
        );
        let said = page(probed, "/readyz").await?;
        ensure!(
            said.contains(" 503 ") && said.contains("joining: ") && said.contains(&address),
            "{said}"
        );
        Ok(())
    })
    .await?;
    // Nobody trusts it, so that no token is sent to it.
    let joiner = cluster.node(2);
    let said = at(joiner, &url, &["get", "tenants", "--token", "met-x"])
        .await?
        .fails(1)?;
    ensure!(said.contains("--ca FILE"), "{said}");

    cluster.node_mut(1).start()?;
    wait::until("the node to have joined", READY, async || {
        let said = page(probed, "/readyz").await?;
        ensure!(said.contains(" 200 OK"), "{said}");
        Ok(())
    })
    .await?;
    // The same process, by the CA that it has from the cluster.
    let status = at(cluster.node(2), &url, &["cluster", "status", "-o", "json"])
        .await?
        .json()?;
    ensure!(
        status["nodes"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 2),
        "{status}"
    );
    cluster.finish().await
}

#[tokio::test]
async fn strangers_keep_nobody_from_joining() -> Result<()> {
    let mut cluster = Cluster::start(NODE, 1).await?;
    let address = cluster.node(1).launch.peer.clone();
    let mut strangers = JoinSet::new();
    // Some come back whenever they are turned away.
    for _ in 0..STRANGERS {
        let address = address.clone();
        strangers.spawn(async move {
            loop {
                stand_around(&address, ELSEWHERE.into()).await;
                Pace::every(Duration::from_millis(200)).tick().await;
            }
        });
    }
    let who = ServerName::try_from("node-1.peer.mode-envoy")?;
    wait::until("the strangers to be there", SOON, async || {
        // From their address nobody is listened to any more.
        let mut tls = handshake(address.parse()?, ELSEWHERE.into(), who.clone()).await?;
        let told = tokio::time::timeout(Duration::from_millis(300), tls.read_u8()).await;
        ensure!(matches!(told, Ok(Err(_))), "there is room for one more");
        Ok(())
    })
    .await?;
    cluster.join(1).await?;
    settled(cluster.node(1), &[1, 2], &[]).await?;

    // Those of one's own address have to go when they do not say what they want.
    let mut neighbours = JoinSet::new();
    for _ in 0..STRANGERS {
        let address = address.clone();
        neighbours.spawn(async move { stand_around(&address, HERE.into()).await });
    }
    cluster.join(1).await?;
    settled(cluster.node(1), &[1, 2, 3], &[]).await?;
    strangers.abort_all();
    cluster.finish().await
}

// === helpers ===

/// Takes any certificate, as a probe does.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS connection from an address, without a certificate and to whoever answers.
async fn handshake(
    to: SocketAddr,
    from: IpAddr,
    name: ServerName<'static>,
) -> Result<TlsStream<TcpStream>> {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    let stream = socket.connect(to).await?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?)
}

/// Connects to a peer listener and says nothing until it is turned away.
async fn stand_around(address: &str, from: IpAddr) {
    let (Ok(to), Ok(name)) = (
        address.parse(),
        ServerName::try_from("node-1.peer.mode-envoy"),
    ) else {
        return;
    };
    if let Ok(mut tls) = handshake(to, from, name).await {
        // However it ends, it has ended.
        let _ = tls.read_to_end(&mut Vec::new()).await;
    }
}

/// A page of an admin listener, over TLS and HTTP/1.1.
async fn page(to: SocketAddr, path: &str) -> Result<String> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::try_from("localhost")?;
    let mut tls = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // Some close without saying so.
    let _ = tls.read_to_end(&mut answer).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Runs the command line against an address.
async fn at(node: &Node, url: &str, words: &[&str]) -> Result<Output> {
    let words = [words, &["--admin", url]].concat();
    node.launch.program.run(&words, "").await
}
