//! What each role and each tenant may do, here and at the leader.

use std::collections::BTreeMap;

use mode_envoy_model::catalog::WayBack;
use mode_envoy_model::event::Event;
use mode_envoy_model::object::{Kind, ObjectRef};
use mode_envoy_model::token::Token;
use prost::Message as _;

use super::*;
use crate::control::document;

mod limits;

const ROLES: [Role; 3] = [Role::Viewer, Role::Admin, Role::Root];

fn token(role: Role) -> Token {
    let name = role_name(role);
    Token {
        name: name.into(),
        role,
        hash: [role as u8 + 1; 32],
        created_ms: 0,
        tenant: None,
    }
}

fn principal(role: Role, tenant: Option<&str>) -> Principal {
    Principal {
        name: role_name(role).into(),
        role,
        tenant: tenant.map(Into::into),
        hash: token(role).hash,
        request: None,
    }
}

fn prune() -> Command {
    Command::Prune {
        objects: Vec::new(),
        confirmed: true,
        dry_run: false,
    }
}

fn rollback() -> Command {
    Command::Rollback {
        revision: 1,
        base_revision: 2,
        back: WayBack::default(),
        dry_run: true,
    }
}

fn every_command() -> Vec<(Command, [bool; 3])> {
    let name = || "x".into();
    let key = mode_envoy_model::key::Key {
        tenant: name(),
        consumer: name(),
        name: name(),
        id: name(),
        hash: [9; 32],
        created_ms: 0,
        expires_ms: None,
        previous: None,
    };
    let object = ObjectRef {
        kind: Kind::Tenant,
        tenant: None,
        name: name(),
    };
    let root = token(Role::Root);
    //                       viewer, admin, root
    let (nobody, admin, only_root) = ([false; 3], [false, true, true], [false, false, true]);
    vec![
        (
            Command::Found {
                cluster_id: [1; 16],
                wrapped_key: vec![1],
                root: root.clone(),
            },
            nobody,
        ),
        (Command::RaiseFormat { version: 2 }, nobody),
        (
            Command::Put {
                objects: Vec::new(),
                dry_run: true,
            },
            admin,
        ),
        (prune(), admin),
        (rollback(), admin),
        (Command::Delete(object), admin),
        (Command::CreateKey(key), admin),
        (
            Command::RotateKey {
                tenant: None,
                name: name(),
                hash: [1; 32],
                grace_ms: 0,
            },
            admin,
        ),
        (
            Command::RevokeKey {
                tenant: None,
                name: name(),
            },
            admin,
        ),
        (Command::CreateToken(root), only_root),
        (Command::RevokeToken { name: name() }, only_root),
    ]
    .into_iter()
    .chain(about_members())
    .collect()
}

fn about_members() -> [(Command, [bool; 3]); 6] {
    let (nobody, only_root) = ([false; 3], [false, false, true]);
    let (hash, members) = ([1; 32], BTreeMap::new());
    let join = Command::Join {
        token: hash,
        nonce: hash,
        peer: String::new(),
        members: members.clone(),
    };
    let create = Command::CreateJoinToken { hash, valid_ms: 1 };
    let advance = Command::AdvanceRotation {
        end: true,
        check: hash,
    };
    let reseal = Command::Reseal {
        generation: 1,
        providers: Vec::new(),
    };
    [
        (create, only_root),
        (Command::RemoveNode { node: 1, members }, only_root),
        (join, nobody),
        (advance, nobody),
        (Command::AbortRotation, only_root),
        (reseal, nobody),
    ]
}

#[test]
fn each_role_may_do_what_the_table_says_here_and_at_the_leader() {
    let mut catalog = Catalog::empty();
    for role in ROLES {
        catalog.evolve(&Event::TokenPut(token(role)));
    }
    for (command, allowed) in every_command() {
        for (role, allowed) in ROLES.into_iter().zip(allowed) {
            let caller = Caller {
                actor: "t".to_owned(),
                token_hash: Some(token(role).hash),
                request: None,
            };
            assert_eq!(
                check_command(&principal(role, None), &catalog, &command).is_ok(),
                allowed,
                "{role:?} {command:?}"
            );
            assert_eq!(
                hook()(&catalog, &caller, &command).is_ok(),
                allowed,
                "{role:?} {command:?}"
            );
        }
    }
}

#[test]
fn the_node_itself_founds_the_cluster_and_changes_nothing_else() {
    let caller = Caller {
        actor: "cluster".to_owned(),
        token_hash: None,
        request: None,
    };
    for (command, allowed) in every_command() {
        let internal = allowed == [false; 3];
        assert_eq!(
            hook()(&Catalog::empty(), &caller, &command).is_ok(),
            internal,
            "{command:?}"
        );
    }
}

#[test]
fn a_token_that_was_revoked_is_refused_by_the_leader() {
    let caller = Caller {
        actor: "ci".to_owned(),
        token_hash: Some([7; 32]),
        request: None,
    };
    let command = Command::Put {
        objects: Vec::new(),
        dry_run: false,
    };
    let refused = hook()(&Catalog::empty(), &caller, &command).unwrap_err();
    assert_eq!(refused.code, RejectedCode::Forbidden);
    assert_eq!(
        refused.violations[0].problem,
        "the admin token `ci` was revoked"
    );
}

#[test]
fn a_refusal_says_which_role_it_takes() {
    let refused = check(Role::Viewer, Action::ChangeConfig)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("takes the role admin, and this token has the role viewer"),
        "{refused}"
    );
    assert!(check(Role::Viewer, Action::Read).is_ok());
}

/// Every method of the API, from the descriptors that reflection serves.
fn methods() -> Vec<String> {
    let set = mode_envoy_proto::FILE_DESCRIPTOR_SET;
    let set = prost_types::FileDescriptorSet::decode(set).unwrap();
    let files = set.file.iter();
    let services = files
        .filter(|file| file.package() == "modeenvoy.admin.v1")
        .flat_map(|file| &file.service);
    let mut methods: Vec<_> = services
        .flat_map(|service| {
            let methods = service.method.iter();
            methods.map(|method| format!("{}/{}", service.name(), method.name()))
        })
        .collect();
    methods.sort();
    methods
}

#[test]
fn every_method_of_the_api_has_a_rule() {
    let rules: Vec<_> = rules::RULES.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        methods(),
        rules,
        "state in control/authorize/rules.rs what each method is, and see what a token of a tenant is shown of it"
    );
}

#[test]
fn a_token_of_a_tenant_is_let_in_only_where_a_rule_says_so() {
    let root = principal(Role::Root, None);
    let viewer = principal(Role::Viewer, Some("acme"));
    let admin = principal(Role::Admin, Some("acme"));
    let of = |who: &Principal| -> Vec<String> {
        let all = methods().into_iter();
        all.filter(|method| admit(who, method).is_ok()).collect()
    };
    assert_eq!(of(&root), methods());
    let reads = [
        "Audit/ListChanges",
        "Calls/Explain",
        "Calls/FollowCalls",
        "Calls/QueryCalls",
        "Config/Diff",
        "Config/Export",
        "Config/Get",
        "Config/History",
        "Keys/ListKeys",
        "Limits/GetLimits",
        "Usage/QueryUsage",
    ];
    assert_eq!(of(&viewer), reads);
    let mut changes = of(&admin);
    changes.retain(|method| !reads.contains(&method.as_str()));
    let expected = [
        "Config/Apply",
        "Config/Delete",
        "Keys/CreateKey",
        "Keys/RevokeKey",
        "Keys/RotateKey",
    ];
    assert_eq!(changes, expected);
    assert!(admit(&admin, "Config/Unheard").is_err());
    assert!(admit(&root, "Config/Unheard").is_ok());
    assert!(admit_to_metrics(&viewer).is_err());
}

const CLUSTER: &str = r#"
tenants: [{name: acme, hosts: [api.acme.test]}, {name: beta, hosts: [api.beta.test]}]
consumers: [{name: app, tenant: acme}, {name: app, tenant: beta}]
services:
  - {name: shared, endpoints: [{url: "http://10.0.0.5:1"}], access: [acme, beta]}
  - {name: closed, endpoints: [{url: "http://10.0.0.6:1"}], access: [beta]}
routes:
  - {name: old, tenant: acme, service: closed, auth: [key], match: {paths: [/old]}}
"#;

fn objects(document: &str) -> Vec<mode_envoy_model::object::Object> {
    let drafts = document::read(document).unwrap().drafts;
    drafts.into_iter().map(|draft| draft.object).collect()
}

/// The catalog of [`CLUSTER`], with an admin's token of acme.
fn cluster() -> Catalog {
    let mut catalog = Catalog::empty();
    let command = Command::Put {
        objects: objects(CLUSTER),
        dry_run: false,
    };
    for event in catalog.decide(&command, 1).unwrap().events {
        catalog.evolve(&event);
    }
    catalog.evolve(&Event::TokenPut(Token {
        tenant: Some("acme".into()),
        ..token(Role::Admin)
    }));
    catalog
}

/// What the leader says to the admin of acme.
fn leader_says(catalog: &Catalog, command: &Command) -> Result<(), Rejected> {
    let caller = Caller {
        actor: "admin".to_owned(),
        token_hash: Some(token(Role::Admin).hash),
        request: None,
    };
    let said = hook()(catalog, &caller, command);
    let here = check_command(&principal(Role::Admin, Some("acme")), catalog, command);
    assert_eq!(said.is_ok(), here.is_ok(), "{said:?} {here:?}");
    said
}

fn route(fields: &str) -> String {
    format!("routes: [{{name: r, auth: [key], {fields}}}]")
}

#[test]
fn a_tenants_admin_changes_what_is_the_tenants() {
    let catalog = cluster();
    let own = "tenant: acme, service: shared, match: {hosts: [api.acme.test], paths: [/x]}";
    for document in [
        "consumers: [{name: new, tenant: acme, team: t}]",
        &route(own),
        // As it was exported, though it would not be allowed anew.
        "tenants: [{name: acme, hosts: [api.acme.test]}]",
        "routes: [{name: old, tenant: acme, service: closed, auth: [key], match: {paths: [/old]}}]",
    ] {
        let (objects, dry_run) = (objects(document), false);
        let said = leader_says(&catalog, &Command::Put { objects, dry_run });
        assert_eq!(said, Ok(()), "{document}");
    }
}

#[test]
fn what_is_not_the_tenants_is_not_there() {
    let catalog = cluster();
    let beta = "tenant: beta, service: shared, match: {hosts: [api.beta.test], paths: [/x]}";
    let nobody = "tenant: nobody, service: shared, match: {hosts: [api.beta.test], paths: [/x]}";
    let closed = "tenant: acme, service: closed, match: {hosts: [api.acme.test], paths: [/x]}";
    let absent = "tenant: acme, service: absent, match: {hosts: [api.acme.test], paths: [/x]}";
    let foreign = "tenant: acme, service: shared, match: {hosts: [api.beta.test], paths: [/x]}";
    let free = "tenant: acme, service: shared, match: {hosts: [free.test], paths: [/x]}";
    let any = "tenant: acme, service: shared, match: {paths: [/x]}";
    // In pairs: what is somebody else's, and what is nobody's.
    for (theirs, nobodys, path) in [
        (route(beta), route(nobody), "tenant"),
        (route(closed), route(absent), "routes[acme/r].service"),
        (route(foreign), route(free), "routes[acme/r].hosts[0]"),
        (route(any), route(any), "routes[acme/r].hosts"),
        (
            "consumers: [{name: app, tenant: beta}]".to_owned(),
            "consumers: [{name: app, tenant: nobody}]".to_owned(),
            "tenant",
        ),
        (
            "tenants: [{name: beta}]".to_owned(),
            "tenants: [{name: nobody}]".to_owned(),
            "tenants[",
        ),
        (
            "services: [{name: closed, endpoints: [{url: 'http://a:1'}]}]".to_owned(),
            "services: [{name: absent, endpoints: [{url: 'http://a:1'}]}]".to_owned(),
            "services[",
        ),
    ] {
        let said = |document: &str| {
            let command = Command::Put {
                objects: objects(document),
                dry_run: true,
            };
            leader_says(&catalog, &command).unwrap_err()
        };
        let (theirs, nobodys) = (said(&theirs), said(&nobodys));
        assert_eq!(theirs.code, RejectedCode::NotFound, "{theirs}");
        assert!(theirs.violations[0].path.contains(path), "{theirs}");
        let neutral = |text: &Rejected| {
            let text = text.to_string();
            let words = ["api.beta.test", "beta", "closed"].into_iter();
            let others = ["free.test", "nobody", "absent"];
            words.zip(others).fold(text, |text, (theirs, nobodys)| {
                text.replace(theirs, nobodys)
            })
        };
        assert_eq!(neutral(&theirs), neutral(&nobodys));
    }
}

#[test]
fn a_tenants_admin_changes_neither_the_tenant_nor_the_cluster() {
    let catalog = cluster();
    let put = |document: &str| Command::Put {
        objects: objects(document),
        dry_run: false,
    };
    let delete = |kind, tenant: Option<&str>, name: &str| {
        Command::Delete(ObjectRef {
            kind,
            tenant: tenant.map(Into::into),
            name: name.into(),
        })
    };
    let revoke = |tenant: Option<&str>| Command::RevokeKey {
        tenant: tenant.map(Into::into),
        name: "k".into(),
    };
    let (forbidden, absent) = (RejectedCode::Forbidden, RejectedCode::NotFound);
    for (command, code) in [
        (
            put("tenants: [{name: acme, hosts: [more.test]}]"),
            forbidden,
        ),
        (delete(Kind::Tenant, None, "acme"), forbidden),
        (delete(Kind::Tenant, None, "beta"), absent),
        (delete(Kind::Consumer, Some("beta"), "app"), absent),
        (delete(Kind::Service, None, "shared"), absent),
        (revoke(Some("beta")), absent),
        (revoke(None), RejectedCode::Invalid),
        (rollback(), forbidden),
        (Command::CreateToken(token(Role::Viewer)), forbidden),
        (Command::RaiseFormat { version: 2 }, forbidden),
    ] {
        let said = leader_says(&catalog, &command).unwrap_err();
        assert_eq!(said.code, code, "{command:?}: {said}");
    }
    assert!(leader_says(&catalog, &delete(Kind::Consumer, Some("acme"), "app")).is_ok());
    assert!(leader_says(&catalog, &revoke(Some("acme"))).is_ok());
}
