//! Certificates in files that change.

use std::path::Path;

use rcgen::{CertificateParams, KeyPair};

use super::*;

struct Pair {
    cert: String,
    key: String,
}

fn pair(name: &str) -> Pair {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    Pair {
        cert: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

fn write(dir: &Path, cert: &str, key: &str) -> TlsFiles {
    let files = TlsFiles {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    };
    std::fs::write(&files.cert, cert).unwrap();
    std::fs::write(&files.key, key).unwrap();
    files
}

fn shown(tls: &ListenerTls) -> Vec<u8> {
    tls.shown.0.load().cert[0].to_vec()
}

#[test]
fn files_that_do_not_fit_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (pair("a.test"), pair("b.test"));
    let refused = |cert: &str, key: &str| {
        let files = write(dir.path(), cert, key);
        let error = ListenerTls::from_files(ListenerKind::Gateway, &files).unwrap_err();
        Chain(&error).to_string()
    };
    assert!(refused(&a.cert, &b.key).contains("do not work together"));
    assert!(refused("", &a.key).contains("cert.pem cannot be used: it holds no certificate"));
    assert!(refused(&a.cert, "").contains("key.pem cannot be used: it holds no private key"));
    let files = TlsFiles {
        cert: dir.path().join("none.pem"),
        key: dir.path().join("key.pem"),
    };
    let error = ListenerTls::from_files(ListenerKind::Gateway, &files).unwrap_err();
    assert!(Chain(&error).to_string().contains("none.pem: No such file"));
}

#[tokio::test(start_paused = true)]
async fn a_new_certificate_is_taken_up_and_a_broken_one_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (pair("a.test"), pair("b.test"));
    let files = write(dir.path(), &a.cert, &a.key);
    let tls = ListenerTls::from_files(ListenerKind::Gateway, &files).unwrap();
    let (first, cancel) = (shown(&tls), CancellationToken::new());
    let asked = watch::Sender::new(0);
    let following = tls.clone().follow(asked.subscribe(), cancel.clone());
    let changing = async {
        tokio::time::advance(LOOK_AGAIN * 2).await;
        assert_eq!(shown(&tls), first);
        // A certificate without its key, as between two writes.
        write(dir.path(), &b.cert, &a.key);
        for _ in 0..3 {
            tokio::time::advance(LOOK_AGAIN).await;
            tokio::task::spawn_blocking(|| {}).await.unwrap();
        }
        assert_eq!(shown(&tls), first);
        write(dir.path(), &b.cert, &b.key);
        while shown(&tls) == first {
            tokio::time::advance(LOOK_AGAIN).await;
            tokio::task::spawn_blocking(|| {}).await.unwrap();
        }
        cancel.cancel();
    };
    tokio::join!(following, changing);
}

#[tokio::test(start_paused = true)]
async fn files_are_looked_at_at_once_where_that_is_asked_for() {
    let (a, b) = (pair("a.test"), pair("b.test"));
    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), &a.cert, &a.key);
    let tls = ListenerTls::from_files(ListenerKind::Gateway, &files).unwrap();
    let (first, cancel) = (shown(&tls), CancellationToken::new());
    let asked = watch::Sender::new(0);
    let following = tls.clone().follow(asked.subscribe(), cancel.clone());
    let changing = async {
        let began = tokio::time::Instant::now();
        write(dir.path(), &b.cert, &b.key);
        asked.send_modify(|times| *times += 1);
        while shown(&tls) == first {
            tokio::task::spawn_blocking(|| {}).await.unwrap();
        }
        assert!(began.elapsed() < LOOK_AGAIN);
        cancel.cancel();
    };
    tokio::join!(following, changing);
}
