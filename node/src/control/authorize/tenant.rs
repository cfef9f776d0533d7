//! What a token of one tenant may change: consumers, keys and limits of the tenant, and its routes on its own hosts to services
//! that are shared with it. A limit of its own only ever refuses its own requests; the operator's limits on it are seen, and
//! stay as they are.
//!
//! Everything else is not there, whether it is or not: a refusal repeats what the caller wrote and tells nothing more. An
//! object that stays as it is may be named, so that what was exported can be applied again.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{Command, Rejected, RejectedCode, Violation};
use mode_envoy_model::limits;
use mode_envoy_model::object::{Kind, Object, ObjectRef};
use mode_envoy_model::route::Route;

/// What a message may repeat of a name.
const NAME_SHOWN: usize = 64;

/// What is said of a limit that is not the tenant's own.
const OPERATORS: &str = "this limit is the operator's, not the tenant's: a token of the tenant leaves it as it is; ask who runs the \
                         cluster";

/// What was found against a command.
#[derive(Default)]
struct Found {
    violations: Vec<Violation>,
    beyond: usize,
    code: Option<RejectedCode>,
}

// === impl Found ===

impl Found {
    fn add(&mut self, code: RejectedCode, path: String, problem: String) {
        // Forbidden is said of what is the tenant's own, so it is worth more than what is only not there.
        if self.code != Some(RejectedCode::Forbidden) {
            self.code = Some(code);
        }
        if self.violations.len() < limits::VIOLATIONS {
            self.violations.push(Violation { path, problem });
        } else {
            self.beyond += 1;
        }
    }

    fn done(mut self) -> Result<(), Rejected> {
        let Some(code) = self.code else { return Ok(()) };
        if self.beyond > 0 {
            self.violations.push(Violation {
                path: "…".to_owned(),
                problem: format!("and {} more; mend these first", self.beyond),
            });
        }
        Err(Rejected {
            code,
            violations: self.violations,
        })
    }
}

// === free functions ===

/// Whether a token of `own` may give a command that its role allows.
pub(super) fn check_command(
    own: &str,
    catalog: &Catalog,
    command: &Command,
) -> Result<(), Rejected> {
    match command {
        Command::Put { objects, .. } | Command::Prune { objects, .. } => {
            let mut found = Found::default();
            for object in objects {
                check_object(own, catalog, object, &mut found);
            }
            found.done()
        }
        Command::Delete(at) => check_delete(own, catalog, at),
        Command::CreateKey(key) if *key.tenant == *own => Ok(()),
        Command::CreateKey(key) => Err(no_tenant("tenant", &key.tenant)),
        Command::RotateKey { tenant, .. } | Command::RevokeKey { tenant, .. } => {
            match tenant.as_deref() {
                Some(tenant) if tenant == own => Ok(()),
                Some(tenant) => Err(no_tenant("tenant", tenant)),
                None => Err(refuse(
                    RejectedCode::Invalid,
                    "tenant",
                    format!("name the tenant {own}"),
                )),
            }
        }
        Command::Rollback { .. }
        | Command::CreateToken(_)
        | Command::RevokeToken { .. }
        | Command::CreateJoinToken { .. }
        | Command::Join { .. }
        | Command::RemoveNode { .. }
        | Command::Found { .. }
        | Command::RaiseFormat { .. }
        | Command::BeginRotation(_)
        | Command::AdvanceRotation { .. }
        | Command::Reseal { .. }
        | Command::AbortRotation => Err(super::of_the_cluster("this", own)),
    }
}

/// As the catalog says it of a tenant that is not there.
pub(super) fn no_tenant(path: &str, tenant: &str) -> Rejected {
    let problem = format!(
        "there is no tenant {}; apply one, or correct the name",
        shown(tenant)
    );
    refuse(RejectedCode::NotFound, path, problem)
}

fn check_object(own: &str, catalog: &Catalog, object: &Object, found: &mut Found) {
    let at = object.reference();
    let label = label(&at);
    let unchanged = || {
        catalog
            .object(&at)
            .is_some_and(|(_, stored)| stored == *object)
    };
    match object {
        Object::Tenant(tenant) if *tenant.name == *own => {
            if !unchanged() {
                let problem = "a token of the tenant does not change the tenant itself; leave it as it is, or ask \
                               who runs the cluster";
                found.add(RejectedCode::Forbidden, label, problem.to_owned());
            }
        }
        Object::Consumer(consumer) if *consumer.tenant == *own => {}
        Object::Limit(limit) if limit.tenant.as_deref() == Some(own) => {}
        Object::Limit(limit) if limit.tenant.is_none() => {
            let problem = match sees_limit(own, catalog, &limit.name) {
                true if unchanged() => return,
                true => OPERATORS.to_owned(),
                false => {
                    format!("a token of the tenant makes limits of the tenant: add `tenant: {own}`")
                }
            };
            found.add(RejectedCode::Forbidden, label, problem);
        }
        Object::Route(route) if *route.tenant == *own => {
            if !unchanged() {
                check_route(own, catalog, route, &label, found);
            }
        }
        Object::Consumer(_) | Object::Route(_) | Object::Limit(_) => {
            let tenant = at.tenant.as_deref().unwrap_or_default();
            let problem = format!(
                "there is no tenant {}; define it, or correct the name",
                shown(tenant)
            );
            found.add(RejectedCode::NotFound, format!("{label}.tenant"), problem);
        }
        Object::Tenant(_) | Object::Provider(_) | Object::Model(_) | Object::Service(_) => {
            let problem = format!(
                "a token of a tenant finds no {} to change; leave it out",
                at.kind.plural()
            );
            found.add(RejectedCode::NotFound, label, problem);
        }
    }
}

fn check_route(own: &str, catalog: &Catalog, route: &Route, label: &str, found: &mut Found) {
    let shared = catalog
        .service(&route.service)
        .is_some_and(|service| service.value.is_shared_with(own));
    if !shared {
        let problem = format!(
            "there is no service {}; define it, or correct the name",
            shown(&route.service)
        );
        found.add(RejectedCode::NotFound, format!("{label}.service"), problem);
    }
    let hosts = catalog.tenant(own).map(|t| t.value.hosts.clone());
    let hosts = hosts.unwrap_or_default();
    let ours = || match hosts.as_slice() {
        [] => "it has none yet: who runs the cluster gives it some".to_owned(),
        hosts => format!("its hosts are {}", hosts.join(", ")),
    };
    if route.hosts.is_empty() {
        let problem = format!("a route of the tenant names hosts of its own; {}", ours());
        found.add(RejectedCode::NotFound, format!("{label}.hosts"), problem);
    }
    for (i, host) in route.hosts.iter().enumerate() {
        if !hosts.contains(host) {
            let problem = format!("`{}` is not a host of the tenant; {}", shown(host), ours());
            found.add(
                RejectedCode::NotFound,
                format!("{label}.hosts[{i}]"),
                problem,
            );
        }
    }
}

/// Whether a limit of the operator's can match the tenant's requests, and so is known to it.
fn sees_limit(own: &str, catalog: &Catalog, name: &str) -> bool {
    catalog.of_tenant(own).limit(None, name).is_some()
}

fn check_delete(own: &str, catalog: &Catalog, at: &ObjectRef) -> Result<(), Rejected> {
    let owner = match at.kind {
        Kind::Tenant => Some(&at.name),
        _ => at.tenant.as_ref(),
    };
    match (at.kind, owner.is_some_and(|owner| **owner == *own)) {
        (Kind::Consumer | Kind::Route | Kind::Limit, true) => Ok(()),
        (Kind::Limit, false) if at.tenant.is_none() && sees_limit(own, catalog, &at.name) => {
            Err(refuse(RejectedCode::Forbidden, label(at), OPERATORS))
        }
        (Kind::Tenant, true) => {
            let problem =
                "a token of the tenant does not delete the tenant itself; ask who runs the cluster";
            Err(refuse(RejectedCode::Forbidden, label(at), problem))
        }
        _ => {
            let kind = at.kind;
            let problem = format!(
                "there is no {kind} {}; `get {kind}` lists what there is",
                shown(&at.name)
            );
            Err(refuse(RejectedCode::NotFound, label(at), problem))
        }
    }
}

fn label(at: &ObjectRef) -> String {
    let kind = at.kind.plural();
    match &at.tenant {
        Some(tenant) => format!("{kind}[{}/{}]", shown(tenant), shown(&at.name)),
        None => format!("{kind}[{}]", shown(&at.name)),
    }
}

fn refuse(code: RejectedCode, path: impl Into<String>, problem: impl Into<String>) -> Rejected {
    let violation = Violation {
        path: path.into(),
        problem: problem.into(),
    };
    Rejected {
        code,
        violations: vec![violation],
    }
}

/// Names come here before anything has looked at them.
fn shown(name: &str) -> String {
    let chars = name.chars().take(NAME_SHOWN);
    chars.flat_map(char::escape_debug).collect()
}
