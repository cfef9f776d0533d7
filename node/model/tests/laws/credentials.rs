//! What founding, keys and tokens do and what they refuse.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::key::Key;
use mode_envoy_model::limits;
use mode_envoy_model::token::Role;

use crate::samples::*;

#[test]
fn a_cluster_is_founded_once() {
    let mut catalog = Catalog::empty();
    assert_eq!(what(&mut catalog, &found()), [ChangeKind::Created; 2]);
    assert_eq!(what(&mut catalog, &found()), [ChangeKind::Unchanged]);
    assert_eq!(catalog.founded().map(|f| f.cluster_id), Some([7; 16]));
    let root = token("root", Role::Root, 200);
    let other = Command::Found {
        cluster_id: [8; 16],
        wrapped_key: vec![1],
        root,
    };
    assert_eq!(refusal(&catalog, &other).0, RejectedCode::Exists);
}

#[test]
fn a_cluster_needs_a_wrapped_key_and_a_root_token() {
    let with = |wrapped_key: Vec<u8>, role| {
        let root = token("root", role, 200);
        refusal(
            &Catalog::empty(),
            &Command::Found {
                cluster_id: [7; 16],
                wrapped_key,
                root,
            },
        )
    };
    let fault = |path: &str| (RejectedCode::Invalid, vec![path.to_owned()]);
    assert_eq!(with(Vec::new(), Role::Root), fault("wrapped_key"));
    assert_eq!(with(vec![0; 2_000], Role::Root), fault("wrapped_key"));
    assert_eq!(with(vec![1], Role::Admin), fault("root.role"));
}

#[test]
fn the_format_is_raised_no_further_than_this_build_writes() {
    let mut catalog = catalog();
    let raise = |version| Command::RaiseFormat { version };
    let now = catalog.format_version();
    assert_eq!(what(&mut catalog, &raise(now)), [ChangeKind::Unchanged]);
    assert_eq!(refusal(&catalog, &raise(now - 1)).0, RejectedCode::Invalid);
    assert_eq!(
        refusal(&catalog, &raise(limits::FORMAT_VERSION + 1)).0,
        RejectedCode::Invalid
    );
}

#[test]
fn a_key_needs_its_consumer_and_a_name_id_and_secret_of_its_own() {
    use RejectedCode::{Exists, Invalid, NotFound};
    let mut catalog = catalog();
    let create = |key: Key| Command::CreateKey(key);
    assert_eq!(
        what(&mut catalog, &create(key("acme", "k", 1))),
        [ChangeKind::Created]
    );
    assert_eq!(
        what(&mut catalog, &create(key("acme", "k", 1))),
        [ChangeKind::Unchanged]
    );
    let edited = |edit: fn(&mut Key)| {
        let mut key = key("acme", "n", 2);
        edit(&mut key);
        key
    };
    let refused = [
        (key("acme", "k", 2), Exists, "name"),
        (key("ghost", "k", 2), NotFound, "tenant"),
        (edited(|k| k.consumer = "x".into()), NotFound, "consumer"),
        (edited(|k| k.hash = [1; 32]), Exists, "hash"),
        (edited(|k| k.id = "id1".into()), Exists, "id"),
        (edited(|k| k.id = "k".into()), Exists, "id"),
        (key("beta", "id1", 2), Exists, "name"),
        (edited(|k| k.expires_ms = Some(NOW)), Invalid, "expires"),
        (
            edited(|k| k.previous = Some(([9; 32], 1))),
            Invalid,
            "previous",
        ),
        (key("acme", "N", 2), Invalid, "keys[acme/N].name"),
    ];
    for (key, code, path) in refused {
        assert_eq!(
            refusal(&catalog, &create(key)),
            (code, vec![path.to_owned()])
        );
    }
}

#[test]
fn a_rotated_key_is_found_by_both_secrets_and_the_old_one_ends() {
    let mut catalog = catalog();
    run(&mut catalog, &Command::CreateKey(key("acme", "k", 1))).expect("accepted");
    let rotate = |n: u8, grace_ms| Command::RotateKey {
        tenant: None,
        name: "k".into(),
        hash: [n; 32],
        grace_ms,
    };
    assert_eq!(what(&mut catalog, &rotate(2, 500)), [ChangeKind::Updated]);
    assert_eq!(what(&mut catalog, &rotate(2, 500)), [ChangeKind::Unchanged]);
    let accepts = |catalog: &Catalog, n: u8, at| {
        catalog
            .key_by_hash(&[n; 32])
            .is_some_and(|key| key.accepts(&[n; 32], at))
    };
    assert!(accepts(&catalog, 2, NOW) && accepts(&catalog, 1, NOW + 499));
    assert!(!accepts(&catalog, 1, NOW + 500));
    assert_eq!(refusal(&catalog, &rotate(1, 0)).0, RejectedCode::Exists);
    assert_eq!(
        refusal(&catalog, &rotate(3, limits::GRACE_MS + 1)).0,
        RejectedCode::Invalid
    );

    assert_eq!(what(&mut catalog, &rotate(3, 0)), [ChangeKind::Updated]);
    assert!(catalog.key_by_hash(&[1; 32]).is_none() && catalog.key_by_hash(&[2; 32]).is_none());
    assert_eq!(
        catalog.key("acme", "k").map(|k| k.value.previous),
        Some(None)
    );
}

#[test]
fn an_expired_key_is_not_rotated() {
    let mut catalog = catalog();
    let soon = Key {
        expires_ms: Some(NOW + 1),
        ..key("acme", "k", 1)
    };
    run(&mut catalog, &Command::CreateKey(soon)).expect("accepted");
    let rotate = Command::RotateKey {
        tenant: None,
        name: "k".into(),
        hash: [2; 32],
        grace_ms: 0,
    };
    assert!(catalog.decide(&rotate, NOW).is_ok());
    assert_eq!(
        catalog.decide(&rotate, NOW + 1).expect_err("refused").code,
        RejectedCode::Invalid
    );
}

#[test]
fn a_key_is_spoken_of_by_name_or_id_and_by_tenant_where_two_share_a_name() {
    let mut catalog = catalog();
    for (tenant, name, n) in [("acme", "k", 1), ("beta", "k", 2), ("beta", "only", 3)] {
        run(&mut catalog, &Command::CreateKey(key(tenant, name, n))).expect("accepted");
    }
    let revoke = |tenant: Option<&str>, name: &str| Command::RevokeKey {
        tenant: tenant.map(Into::into),
        name: name.into(),
    };
    let rejected = catalog
        .decide(&revoke(None, "k"), NOW)
        .expect_err("refused");
    assert_eq!(rejected.code, RejectedCode::Invalid);
    assert!(
        rejected.violations[0].problem.contains("--tenant"),
        "{rejected}"
    );
    assert_eq!(
        refusal(&catalog, &revoke(Some("acme"), "id2")).0,
        RejectedCode::NotFound
    );
    for command in [
        revoke(Some("beta"), "k"),
        revoke(None, "id1"),
        revoke(None, "only"),
    ] {
        assert_eq!(what(&mut catalog, &command), [ChangeKind::Deleted]);
        assert_eq!(refusal(&catalog, &command).0, RejectedCode::NotFound);
    }
    assert_eq!(catalog.keys().count(), 0);
    assert!(catalog.key_by_hash(&[1; 32]).is_none());
}

#[test]
fn the_last_root_token_stays() {
    let mut catalog = catalog();
    let revoke = |name: &str| Command::RevokeToken { name: name.into() };
    run(
        &mut catalog,
        &Command::CreateToken(token("ci", Role::Admin, 1)),
    )
    .expect("accepted");
    assert_eq!(refusal(&catalog, &revoke("root")).0, RejectedCode::InUse);
    assert_eq!(what(&mut catalog, &revoke("ci")), [ChangeKind::Deleted]);
    run(
        &mut catalog,
        &Command::CreateToken(token("root2", Role::Root, 2)),
    )
    .expect("accepted");
    assert_eq!(what(&mut catalog, &revoke("root")), [ChangeKind::Deleted]);
    assert_eq!(refusal(&catalog, &revoke("root2")).0, RejectedCode::InUse);
    assert_eq!(refusal(&catalog, &revoke("root")).0, RejectedCode::NotFound);
    assert!(
        catalog
            .token_by_hash(&[2; 32])
            .is_some_and(|t| t.role == Role::Root)
    );
}

#[test]
fn a_token_needs_a_name_and_a_secret_of_its_own() {
    let mut catalog = catalog();
    let create = |name: &str, role, n| Command::CreateToken(token(name, role, n));
    let (code, paths) = refusal(&catalog, &create("cluster", Role::Viewer, 9));
    assert_eq!(
        (code, &*paths[0]),
        (RejectedCode::Invalid, "tokens[cluster].name")
    );
    assert_eq!(
        what(&mut catalog, &create("ci", Role::Admin, 1)),
        [ChangeKind::Created]
    );
    assert_eq!(
        what(&mut catalog, &create("ci", Role::Admin, 1)),
        [ChangeKind::Unchanged]
    );
    for (command, code) in [
        (create("ci", Role::Root, 1), RejectedCode::Exists),
        (create("ci", Role::Admin, 2), RejectedCode::Exists),
        (create("other", Role::Admin, 1), RejectedCode::Exists),
        (create("Other", Role::Admin, 2), RejectedCode::Invalid),
    ] {
        assert_eq!(refusal(&catalog, &command).0, code);
    }
}
