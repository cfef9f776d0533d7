//! Calls of the API, each role's and each refusal's.

use std::collections::BTreeSet;

use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::cluster_client::ClusterClient;
use mode_envoy_proto::admin::v1::keys_client::KeysClient;
use mode_envoy_proto::admin::v1::tokens_client::TokensClient;
use mode_envoy_proto::admin::v1::usage_client::UsageClient;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::harness::{DOCUMENT, Node, changes, with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_exported_is_applied_unchanged_and_moves_no_revision() {
    let node = Node::founded().await;
    let first = node.apply(&node.root, DOCUMENT).await.unwrap();
    assert_eq!(changes(&first), BTreeSet::from(["created"]));
    assert_eq!(first.changes.len(), 7);
    assert_eq!(
        (first.missing_nodes, first.late_nodes),
        (Vec::new(), Vec::new())
    );

    let mut config = node.config().await;
    let message = pb::ExportRequest::default();
    let exported = config
        .export(with(&node.root, message))
        .await
        .unwrap()
        .into_inner();
    assert!(
        !exported.document.contains("sk-very-secret"),
        "{}",
        exported.document
    );
    let again = node.apply(&node.root, &exported.document).await.unwrap();
    assert_eq!(changes(&again), BTreeSet::from(["unchanged"]));
    assert_eq!(again.revision, first.revision);

    // The same secret again is unchanged too, though it was sealed anew.
    let again = node.apply(&node.root, DOCUMENT).await.unwrap();
    assert_eq!(
        (changes(&again), again.revision),
        (BTreeSet::from(["unchanged"]), first.revision)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_change_and_changes_nothing() {
    let node = Node::founded().await;
    let message = pb::ApplyRequest {
        document: DOCUMENT.to_owned(),
        dry_run: true,
        wait: false,
        ..pb::ApplyRequest::default()
    };
    let dry = node
        .config()
        .await
        .apply(with(&node.root, message))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(changes(&dry), BTreeSet::from(["created"]));
    let applied = node.apply(&node.root, DOCUMENT).await.unwrap();
    assert_eq!(
        (changes(&applied), applied.revision),
        (BTreeSet::from(["created"]), dry.revision + 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_does_what_it_may_and_no_more() {
    let node = Node::founded().await;
    let (admin, viewer) = (node.token("admin").await, node.token("viewer").await);

    let refused = node.apply(&viewer, DOCUMENT).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(
        refused.message().contains("takes the role admin"),
        "{}",
        refused.message()
    );
    node.apply(&admin, DOCUMENT).await.unwrap();
    node.config()
        .await
        .export(with(&viewer, pb::ExportRequest::default()))
        .await
        .unwrap();

    let mut tokens = TokensClient::new(node.channel().await);
    let listed = tokens
        .list_tokens(with(&admin, pb::ListTokensRequest { local: true }))
        .await;
    assert_eq!(listed.unwrap_err().code(), Code::PermissionDenied);

    for token in ["", "met-unknown", &node.root[1..]] {
        let refused = node.apply(token, DOCUMENT).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        for part in ["--token", "MODE_ENVOY_TOKEN_FILE", "context.json"] {
            assert!(refused.message().contains(part), "{}", refused.message());
        }
    }

    let message = pb::RevokeTokenRequest {
        name: "admin".to_owned(),
    };
    tokens
        .revoke_token(with(&node.root, message))
        .await
        .unwrap();
    let refused = node
        .apply(&admin, "tenants: [{name: beta}]")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_name_the_fields_at_fault() {
    let node = Node::founded().await;
    let cases = [
        (
            "tenants: [{nam: x}]",
            Code::InvalidArgument,
            "tenants[#0]",
            "line 1, column 11: `name` is missing",
        ),
        (
            "consumers: [{name: a, tenant: t}]",
            Code::NotFound,
            "consumers[t/a].tenant",
            "there is no tenant t",
        ),
        (
            "tenants: [{name: Acme}]",
            Code::InvalidArgument,
            "tenants[Acme].name",
            "is not a name",
        ),
        (
            "providers: [{name: o, protocol: openai, keys: [{env: HOME}]}]",
            Code::InvalidArgument,
            "providers[o].keys[0]",
            "a node reads no environment variables",
        ),
        (
            "providers: [{name: o, protocol: openai, keys: [{stored: abababababababababababababababab}]}]",
            Code::InvalidArgument,
            "providers[o].keys[0]",
            "the cluster knows no secret",
        ),
    ];
    for (document, code, field, problem) in cases {
        let refused = node.apply(&node.root, document).await.unwrap_err();
        assert_eq!(refused.code(), code, "{document}: {}", refused.message());
        let details = refused.get_error_details();
        let violation = &details.bad_request().unwrap().field_violations[0];
        assert_eq!(violation.field, field);
        assert!(
            violation.description.contains(problem),
            "{}",
            violation.description
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_rotated_and_revoked() {
    let node = Node::founded().await;
    node.apply(&node.root, DOCUMENT).await.unwrap();
    let mut keys = KeysClient::new(node.channel().await);
    let (tenant, consumer, name) = ("acme".to_owned(), "app".to_owned(), "ci".to_owned());
    let message = pb::CreateKeyRequest {
        tenant,
        consumer,
        name,
        expires_in_seconds: 60,
    };
    let made = keys
        .create_key(with(&node.root, message.clone()))
        .await
        .unwrap()
        .into_inner();
    let key = made.key.unwrap();
    assert!(
        made.secret.starts_with("me-") && key.expires > key.created,
        "{key:?}"
    );
    let twice = keys
        .create_key(with(&node.root, message))
        .await
        .unwrap_err();
    assert_eq!(twice.code(), Code::AlreadyExists);

    let message = pb::RotateKeyRequest {
        name: key.id.clone(),
        ..pb::RotateKeyRequest::default()
    };
    let rotated = keys
        .rotate_key(with(&node.root, message))
        .await
        .unwrap()
        .into_inner();
    assert_ne!(rotated.secret, made.secret);
    assert_eq!(rotated.key.unwrap(), key);

    let message = pb::ListKeysRequest {
        tenant: "acme".to_owned(),
        ..pb::ListKeysRequest::default()
    };
    let listed = keys
        .list_keys(with(&node.root, message.clone()))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.keys, [key]);

    let named = pb::RevokeKeyRequest {
        tenant: String::new(),
        name: "ci".to_owned(),
    };
    keys.revoke_key(with(&node.root, named.clone()))
        .await
        .unwrap();
    let listed = keys
        .list_keys(with(&node.root, message))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(listed.keys, []);
    let gone = keys.revoke_key(with(&node.root, named)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_got_and_deleted_by_kind_and_name() {
    let node = Node::founded().await;
    node.apply(&node.root, DOCUMENT).await.unwrap();
    let mut config = node.config().await;
    let message = pb::GetRequest {
        kind: "route".to_owned(),
        name: "orders".to_owned(),
        ..pb::GetRequest::default()
    };
    let got = config
        .get(with(&node.root, message.clone()))
        .await
        .unwrap()
        .into_inner();
    assert!(
        got.document
            .starts_with("routes:\n- name: orders\n  tenant: acme\n"),
        "{}",
        got.document
    );

    let delete = |kind: &str, tenant: &str| pb::DeleteRequest {
        kind: kind.to_owned(),
        name: "orders".to_owned(),
        tenant: tenant.to_owned(),
    };
    let used = config
        .delete(with(&node.root, delete("service", "")))
        .await
        .unwrap_err();
    assert_eq!(used.code(), Code::FailedPrecondition);
    config
        .delete(with(&node.root, delete("route", "acme")))
        .await
        .unwrap();
    let gone = config.get(with(&node.root, message)).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
    config
        .delete(with(&node.root, delete("service", "")))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_and_usage_are_answered() {
    let node = Node::founded().await;
    let mut cluster = ClusterClient::new(node.channel().await);
    let status = cluster
        .status(with(&node.root, pb::StatusRequest {}))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (status.leader, status.nodes.len(), status.cluster_id.len()),
        (1, 1, 32)
    );
    assert_eq!(status.nodes[0].role, "leader");
    assert!(status.nodes[0].reachable);

    let mut usage = UsageClient::new(node.channel().await);
    let message = pb::QueryUsageRequest {
        group_by: vec!["tenant".to_owned()],
        ..pb::QueryUsageRequest::default()
    };
    let answer = usage
        .query_usage(with(&node.root, message))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((answer.interval.as_str(), answer.rows.len()), ("total", 0));
    let message = pb::QueryUsageRequest {
        group_by: vec!["node".to_owned(), "model".to_owned()],
        ..pb::QueryUsageRequest::default()
    };
    let refused = usage
        .query_usage(with(&node.root, message))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(
        refused.message().contains("call records"),
        "{}",
        refused.message()
    );
}
