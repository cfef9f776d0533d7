//! What a tenant's admin may do with limits: its own anything, the operator's nothing.

use super::*;

/// Every kind of limit, beside [`CLUSTER`].
const LIMITS: &str = "
limits:
  - {name: on-acme, match: {tenant: acme}, unit: requests, amount: 9, per: minute}
  - {name: on-beta, match: {tenant: beta}, unit: requests, amount: 9, per: minute}
  - {name: own, tenant: acme, unit: requests, amount: 9, per: minute}
  - {name: own, tenant: beta, unit: requests, amount: 9, per: minute}
";

#[test]
fn a_tenants_admin_limits_the_tenant_and_leaves_the_operators_limits() {
    let mut catalog = cluster();
    let put = |document: &str| Command::Put {
        objects: objects(document),
        dry_run: false,
    };
    for event in catalog.decide(&put(LIMITS), 1).unwrap().events {
        catalog.evolve(&event);
    }
    let limit = |fields: &str| {
        put(&format!(
            "limits: [{{{fields}, unit: requests, amount: 9, per: minute}}]"
        ))
    };
    let delete = |tenant: Option<&str>, name: &str| {
        Command::Delete(ObjectRef {
            kind: Kind::Limit,
            tenant: tenant.map(Into::into),
            name: name.into(),
        })
    };
    for allowed in [
        limit("name: new, tenant: acme, match: {consumer: app}"),
        limit("name: on-acme, match: {tenant: acme}"),
        delete(Some("acme"), "own"),
    ] {
        assert_eq!(leader_says(&catalog, &allowed), Ok(()), "{allowed:?}");
    }
    let (forbidden, absent) = (RejectedCode::Forbidden, RejectedCode::NotFound);
    for (command, code) in [
        (
            limit("name: on-acme, match: {tenant: acme}, shadow: true"),
            forbidden,
        ),
        (delete(None, "on-acme"), forbidden),
        (delete(None, "on-beta"), absent),
        (delete(Some("beta"), "own"), absent),
        (limit("name: own, tenant: beta"), absent),
    ] {
        let said = leader_says(&catalog, &command).unwrap_err();
        assert_eq!(said.code, code, "{command:?}: {said}");
    }
    // What is the operator's and on somebody else reads as what is nobody's, guessed rightly or not.
    let said = |command: &Command| leader_says(&catalog, command).unwrap_err().to_string();
    let theirs = said(&limit("name: on-beta, match: {tenant: beta}"));
    let nobodys = said(&limit("name: nobodys, match: {tenant: beta}"));
    assert_eq!(theirs.replace("on-beta", "nobodys"), nobodys);
    let theirs = said(&delete(None, "on-beta"));
    assert_eq!(
        theirs.replace("on-beta", "nobodys"),
        said(&delete(None, "nobodys"))
    );
}
