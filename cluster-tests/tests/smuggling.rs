//! What a gateway makes of requests that two servers might read in two ways: the corpus is `data/smuggling.txt`.
//!
//! Each case has a client connection of its own. The upstream closes every connection after one answer, and keeps the
//! bytes that came on it: they must be one request in the strictest reading, and nothing after it.

#![expect(
    clippy::unwrap_used,
    reason = "the helpers of a test may panic like the test itself"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use mode_envoy_cluster_tests::cluster::Cluster;
use mode_envoy_cluster_tests::http;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

const NODE: &str = env!("CARGO_BIN_EXE_mode-envoy-under-test");
const CORPUS: &str = include_str!("data/smuggling.txt");
const WITHIN: Duration = Duration::from_secs(10);
const CASES_MIN: usize = 80;

#[tokio::test]
async fn no_upstream_sees_more_than_one_request_of_one() -> Result<()> {
    let upstream = Recorder::start().await?;
    let cluster = Cluster::start(NODE, 1).await?;
    let document = format!(
        r#"
tenants: [{{name: acme}}]
services: [{{name: s, endpoints: [{{url: "http://{}"}}]}}]
routes: [{{name: open, tenant: acme, service: s, auth: [none], match: {{paths: ["/open/{{*rest}}"]}}}}]
"#,
        upstream.address
    );
    cluster.apply(&document).await?;
    let gateway = cluster.node(1).gateway().to_owned();
    let cases = corpus()?;
    ensure!(
        cases.len() >= CASES_MIN,
        "only {} cases were read",
        cases.len()
    );

    let mut faults = Vec::new();
    for case in &cases {
        upstream.forget();
        let held = match timeout(WITHIN, case.send(&gateway)).await {
            Ok(Ok(answer)) => case.judge(&answer, &upstream),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow!("the gateway neither answered nor closed")),
        };
        if let Err(error) = held {
            faults.push(format!("{}: {error:#}", case.name));
        }
    }
    // Whatever was sent on late is there before this call has been answered.
    http::get(&gateway, "/open/last", None).await?.expect(200)?;
    if let Err(error) = upstream.check() {
        faults.push(format!("at the end: {error:#}"));
    }
    ensure!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
    cluster.finish().await
}

// === the corpus ===

/// One request, and what may come of it.
#[derive(Debug)]
struct Case {
    name: String,
    expected: Expected,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Expected {
    Refused(String),
    Forwarded(Vec<u8>),
    Reset,
    Cut,
}

fn corpus() -> Result<Vec<Case>> {
    let text = CORPUS.lines().filter(|line| !line.starts_with('#'));
    let text = text.collect::<Vec<_>>().join("\n");
    let cases = text.split("\n= ").skip(1);
    cases
        .map(|case| read(case).with_context(|| case.to_owned()))
        .collect()
}

fn read(text: &str) -> Result<Case> {
    let (name, rest) = text
        .split_once("\n> ")
        .context("a case says what is expected")?;
    let (expected, lines) = rest.split_once('\n').context("a case has a request")?;
    let expected = match expected.split_once(' ').unwrap_or((expected, "")) {
        ("refused", code) => Expected::Refused(code.to_owned()),
        ("forwarded", body) => Expected::Forwarded(unescaped(body)?),
        ("reset", "") => Expected::Reset,
        ("cut", "") => Expected::Cut,
        _ => bail!("{expected} is not known"),
    };
    let bytes = if name.starts_with("h2 ") {
        frames(lines)?
    } else {
        unescaped(&lines.lines().collect::<String>())?
    };
    Ok(Case {
        name: name.to_owned(),
        expected,
        bytes,
    })
}

fn unescaped(text: &str) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [bytes.next(), bytes.next()].map(Option::unwrap_or_default);
                u8::from_str_radix(std::str::from_utf8(&digits)?, 16)?
            }
            other => bail!("the escape {other:?} is not known"),
        });
    }
    Ok(out)
}

/// A connection of HTTP/2 with one request on stream 1, its fields written as they are.
fn frames(lines: &str) -> Result<Vec<u8>> {
    let (head, body) = lines.split_once("\n\n").unwrap_or((lines, ""));
    let mut block = Vec::new();
    for line in head.lines().filter(|line| !line.is_empty()) {
        let colon = 1 + line[1..].find(':').context("a field has a colon")?;
        let value = &line[colon + 1..];
        // A literal that is not indexed, its name and value as they are (RFC 7541, 6.2.2).
        block.push(0);
        for text in [&line[..colon], value.strip_prefix(' ').unwrap_or(value)] {
            let text = unescaped(text)?;
            ensure!(text.len() < 127, "a longer length takes another form");
            block.push(u8::try_from(text.len())?);
            block.extend_from_slice(&text);
        }
    }
    let body = unescaped(body.trim_end_matches('\n'))?;
    let (end_headers, end_stream) = (0x4, 0x1);
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut out, 0x4, 0, 0, &[])?;
    if body.is_empty() {
        frame(&mut out, 0x1, end_headers | end_stream, 1, &block)?;
    } else {
        frame(&mut out, 0x1, end_headers, 1, &block)?;
        frame(&mut out, 0x0, end_stream, 1, &body)?;
    }
    Ok(out)
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
    let length = u32::try_from(payload.len())?.to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

// === the client ===

/// How the gateway ended a case.
#[derive(Debug)]
struct Ended {
    /// It answered with these bytes.
    body: Vec<u8>,
    /// It ended the stream or the connection without an answer.
    reset: bool,
}

impl Case {
    async fn send(&self, gateway: &str) -> Result<Ended> {
        let mut stream = TcpStream::connect(gateway).await?;
        stream.write_all(&self.bytes).await?;
        let mut read = Vec::new();
        loop {
            let ended = if self.name.starts_with("h2 ") {
                ended_h2(&read)
            } else {
                ended_h1(&read)
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
            // A connection that was reset has ended as well.
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return Ok(Ended {
                    body: read,
                    reset: true,
                });
            }
        }
    }

    fn judge(&self, ended: &Ended, upstream: &Recorder) -> Result<()> {
        let text = String::from_utf8_lossy(&ended.body);
        let seen = upstream.whole()?;
        match &self.expected {
            Expected::Refused(code) => {
                let told = format!("\"code\":\"{code}\"");
                ensure!(text.contains(&told), "it was not refused as {code}: {text}");
                ensure!(
                    seen.is_empty(),
                    "it was refused, and yet forwarded: {seen:?}"
                );
            }
            Expected::Forwarded(body) => {
                ensure!(
                    text.ends_with("ok"),
                    "it was not answered by the upstream: {text}"
                );
                ensure!(seen == [body.clone()], "the upstream saw {seen:?}");
            }
            Expected::Reset => ensure!(ended.reset, "it was answered: {text}"),
            Expected::Cut => ensure!(
                ended.reset || text.contains("\"code\":\"request_invalid\""),
                "it was answered: {text}"
            ),
        }
        if matches!(self.expected, Expected::Reset | Expected::Cut) {
            ensure!(
                seen.is_empty(),
                "the upstream saw a whole request: {seen:?}"
            );
        }
        Ok(())
    }
}

/// A whole answer of HTTP/1, if there is one: all that was read.
fn ended_h1(read: &[u8]) -> Option<Ended> {
    let text = String::from_utf8_lossy(read);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))?;
    let whole = body.len() >= length.parse().ok()?;
    whole.then(|| Ended {
        body: read.to_vec(),
        reset: false,
    })
}

/// The end of stream 1 of HTTP/2, if it has ended: the data that came on it.
fn ended_h2(read: &[u8]) -> Option<Ended> {
    let mut rest = read;
    let mut body = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (payload, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
        rest = after;
        let (kind, flags, stream) = (head[3], head[4], head[8]);
        match kind {
            0x0 if stream == 1 => body.extend_from_slice(payload),
            // RST_STREAM, and GOAWAY.
            0x3 | 0x7 => return Some(Ended { body, reset: true }),
            _ => {}
        }
        if stream == 1 && kind <= 0x1 && flags & 0x1 != 0 {
            return Some(Ended { body, reset: false });
        }
    }
    None
}

// === the upstream ===

/// An upstream that keeps the bytes of each connection, answers one request on it, and reads on until it is closed.
struct Recorder {
    address: String,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    first: Mutex<usize>,
    _tasks: JoinSet<()>,
}

impl Recorder {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let connections = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(keep(stream, Arc::clone(&kept)));
            }
        });
        Ok(Self {
            address,
            connections,
            first: Mutex::new(0),
            _tasks: tasks,
        })
    }

    /// What has come so far belongs to the cases before.
    fn forget(&self) {
        *self.first.lock().unwrap() = self.connections.lock().unwrap().len();
    }

    /// The bodies of the requests that came whole since then.
    fn whole(&self) -> Result<Vec<Vec<u8>>> {
        let first = *self.first.lock().unwrap();
        let connections = self.connections.lock().unwrap();
        let read = connections
            .iter()
            .skip(first)
            .map(|bytes| one_request(bytes));
        read.filter_map(Result::transpose).collect()
    }

    /// Every connection had one request at most, and none that was smuggled.
    fn check(&self) -> Result<()> {
        let connections = self.connections.lock().unwrap();
        for bytes in connections.iter() {
            one_request(bytes)?;
        }
        Ok(())
    }
}

async fn keep(mut stream: TcpStream, kept: Arc<Mutex<Vec<Vec<u8>>>>) {
    let number = {
        let mut kept = kept.lock().unwrap();
        kept.push(Vec::new());
        kept.len() - 1
    };
    let (mut answered, mut buffer) = (false, [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let whole = {
            let mut kept = kept.lock().unwrap();
            kept[number].extend_from_slice(&buffer[..count]);
            // What breaks the rules is answered too, so that its case goes on to be judged.
            !matches!(one_request(&kept[number]), Ok(None))
        };
        if whole && !answered {
            answered = true;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        }
    }
}

/// Reads bytes as one request in the strictest way; its body, or nothing while it is not whole.
fn one_request(bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    let shown = || format!("the upstream saw {text:?}");
    let Some((head, rest)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    let mut lines = head.split("\r\n");
    let line: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [_, path, "HTTP/1.1"] = line[..] else {
        bail!("a request line that is none: {}", shown());
    };
    ensure!(
        path.starts_with("/open/") && !path.contains("smuggled"),
        "{}",
        shown()
    );
    let mut framing = Vec::new();
    for field in lines {
        let (name, value) = field.split_once(':').with_context(shown)?;
        let token = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        ensure!(
            !name.is_empty() && name.chars().all(token),
            "the name {name:?}: {}",
            shown()
        );
        ensure!(
            !value.chars().any(|c| c.is_control() && c != '\t'),
            "{name}: {}",
            shown()
        );
        match name.to_ascii_lowercase().as_str() {
            "content-length" => framing.push(value.trim().parse::<usize>().with_context(shown)?),
            "transfer-encoding" => {
                ensure!(value.trim() == "chunked", "{}", shown());
                framing.push(usize::MAX);
            }
            "connection" | "upgrade" | "te" | "http2-settings" => {
                bail!("{name} crossed: {}", shown())
            }
            _ => {}
        }
    }
    ensure!(framing.len() <= 1, "two framings: {}", shown());
    let (body, left) = match framing.first() {
        None => (Some(String::new()), rest),
        Some(&usize::MAX) => chunks(rest).with_context(shown)?,
        Some(&length) => match rest.split_at_checked(length) {
            Some((body, left)) => (Some(body.to_owned()), left),
            None => (None, ""),
        },
    };
    ensure!(left.is_empty(), "something after the request: {}", shown());
    Ok(body.map(String::into_bytes))
}

/// A chunked body without extensions or trailers, and what follows it.
fn chunks(mut rest: &str) -> Result<(Option<String>, &str)> {
    let mut body = String::new();
    loop {
        let Some((size, after)) = rest.split_once("\r\n") else {
            return Ok((None, ""));
        };
        ensure!(
            size.chars().all(|c| c.is_ascii_hexdigit()),
            "the chunk size {size:?}"
        );
        let size = usize::from_str_radix(size, 16)?;
        let Some((chunk, after)) = after.split_at_checked(size) else {
            return Ok((None, ""));
        };
        let Some(after) = after.strip_prefix("\r\n") else {
            ensure!(after.len() < 2, "a chunk that does not end: {after:?}");
            return Ok((None, ""));
        };
        if size == 0 {
            return Ok((Some(body), after));
        }
        body.push_str(chunk);
        rest = after;
    }
}
