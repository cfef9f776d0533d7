//! Changes that are asked for again: answered as the first time, secrets included, and made once.

use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::keys_client::KeysClient;
use mode_envoy_proto::admin::v1::tokens_client::TokensClient;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::harness::{DOCUMENT, Node, with};

const ID: &str = "0123456789abcdef0123456789abcdef";

fn named<M>(token: &str, id: &str, message: M) -> Request<M> {
    let mut request = with(token, message);
    let id = id.parse().unwrap();
    request.metadata_mut().insert("x-request-id", id);
    request
}

fn id(number: u32) -> String {
    format!("0123456789abcdef{number:016x}")
}

fn new_key(name: &str) -> pb::CreateKeyRequest {
    pb::CreateKeyRequest {
        tenant: "acme".to_owned(),
        consumer: "app".to_owned(),
        name: name.to_owned(),
        expires_in_seconds: 0,
    }
}

async fn create(node: &Node, id: &str, name: &str) -> Result<pb::CreateKeyResponse, Status> {
    let mut keys = KeysClient::new(node.channel().await);
    let made = keys
        .create_key(named(&node.root, id, new_key(name)))
        .await?;
    Ok(made.into_inner())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_shows_the_same_key_with_the_same_secret() {
    let node = Node::founded().await;
    node.apply(&node.root, DOCUMENT).await.unwrap();
    for name in ["", "named"] {
        let id = id(u32::try_from(name.len()).unwrap());
        let first = create(&node, &id, name).await.unwrap();
        assert!(first.secret.starts_with("me-") && first.secret.len() == 46);
        assert_eq!(create(&node, &id, name).await.unwrap(), first);
    }
    let first = create(&node, ID, "other").await.unwrap();
    let message = pb::ListKeysRequest::default();
    let mut keys = KeysClient::new(node.channel().await);
    let listed = keys.list_keys(with(&node.root, message)).await.unwrap();
    assert_eq!(listed.into_inner().keys.len(), 3);

    let refused = create(&node, ID, "another").await.unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    let details = refused.get_error_details();
    assert_eq!(
        details.bad_request().unwrap().field_violations[0].field,
        "x-request-id"
    );
    let refused = create(&node, "short", "another").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    // Another token's request of the same id is another request.
    let admin = node.token("admin").await;
    let refused = keys
        .create_key(named(&admin, ID, new_key("other")))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused.message().contains("has a key `other` already"),
        "{refused}"
    );

    let rotate = pb::RotateKeyRequest {
        tenant: String::new(),
        name: "other".to_owned(),
        grace_seconds: 0,
    };
    let rotate = || named(&node.root, &id(77), rotate.clone());
    let rotated = keys.rotate_key(rotate()).await.unwrap().into_inner();
    assert_ne!(rotated.secret, first.secret);
    let again = keys.rotate_key(rotate()).await.unwrap().into_inner();
    assert_eq!(again, rotated);
    let late = create(&node, ID, "other").await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
    assert!(
        late.message().contains("rotated or removed since"),
        "{late}"
    );

    let revoke = pb::RevokeKeyRequest {
        tenant: "acme".to_owned(),
        name: "other".to_owned(),
    };
    let revoke = || named(&node.root, &id(78), revoke.clone());
    let revoked = keys.revoke_key(revoke()).await.unwrap().into_inner();
    let again = keys.revoke_key(revoke()).await.unwrap().into_inner();
    assert_eq!(again, revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_documents_and_rollbacks_are_retried_too() {
    let node = Node::founded().await;
    let mut config = node.config().await;
    let document = |document: &str| pb::ApplyRequest {
        document: document.to_owned(),
        wait: true,
        ..pb::ApplyRequest::default()
    };
    let apply = || named(&node.root, &id(1), document(DOCUMENT));
    let first = config.apply(apply()).await.unwrap().into_inner();
    let more = document("tenants: [{name: acme}, {name: beta}]");
    let more = || named(&node.root, &id(2), more.clone());
    let second = config.apply(more()).await.unwrap().into_inner();
    assert_eq!(config.apply(apply()).await.unwrap().into_inner(), first);
    assert_eq!(config.apply(more()).await.unwrap().into_inner(), second);
    let whats: Vec<_> = second.changes.iter().map(|c| c.change.as_str()).collect();
    assert_eq!(whats, ["unchanged", "created"]);

    let back = pb::RollbackRequest {
        revision: first.revision,
        ..pb::RollbackRequest::default()
    };
    let back = || named(&node.root, &id(3), back);
    let done = config.rollback(back()).await.unwrap().into_inner();
    assert_eq!(
        (done.revision, done.changes.len()),
        (second.revision + 1, 1)
    );
    assert_eq!(config.rollback(back()).await.unwrap().into_inner(), done);

    let mut tokens = TokensClient::new(node.channel().await);
    let token = pb::CreateTokenRequest {
        name: "ci".to_owned(),
        role: "admin".to_owned(),
        tenant: "acme".to_owned(),
    };
    let create = || named(&node.root, &id(4), token.clone());
    let made = tokens.create_token(create()).await.unwrap().into_inner();
    assert!(made.token.starts_with("met-") && made.token.len() == 47);
    let again = tokens.create_token(create()).await.unwrap().into_inner();
    assert_eq!(again, made);
    let who = config
        .export(with(&again.token, pb::ExportRequest::default()))
        .await
        .unwrap();
    assert!(who.into_inner().document.contains("acme"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_remembered_holds_no_secret_and_no_id() {
    let node = Node::founded().await;
    node.apply(&node.root, DOCUMENT).await.unwrap();
    let made = create(&node, ID, "mine").await.unwrap();
    for (what, secret) in [("id", ID), ("secret", made.secret.as_str())] {
        assert!(!node.holds(secret.as_bytes()), "the {what} is on the disk");
    }
    assert!(node.holds(b"mine"), "what is looked for can be found");
}
