//! How the limits stand: what is used, what is free and which node has how much, as this node has applied the log.
//!
//! The log moves only when somebody has something to say, so windows that are over by the clock are told as the new ones. A limit that
//! every node keeps alone is no part of the log: its amount is told, and nothing is known of its use.
//!
//! Invariant: whoever is shown one tenant's part is shown pools that no other tenant's requests take from.

use std::sync::Arc;

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::ledger::Ledger;
use mode_envoy_model::ledger::report::PoolReport;
use mode_envoy_model::limit::{Dimension, Limit, Mode};

use super::authorize::{self, Action, check};
use super::time::now_ms;
use super::{Control, ControlError, Principal};

/// Pools of an answer, where the question does not say.
const LIMIT: u32 = 1_000;
/// Pools of one answer at most.
pub const POOLS_MAX: u32 = 10_000;
/// Bytes of a name.
const NAME_MAX: usize = 256;
/// Names that one warning tells.
const NAMED: usize = 10;

/// Which limits, as a caller writes it.
#[derive(Clone, Debug, Default)]
pub struct LimitsQuestion {
    /// Name of a limit; empty: all.
    pub name: String,
    /// What is this tenant's; empty: everything that the caller sees.
    pub tenant: String,
    /// How many pools at most; 0: a thousand.
    pub limit: u32,
}

/// How limits stand.
#[derive(Clone, Debug)]
pub struct LimitsAnswer {
    /// By tenant, name and value.
    pub pools: Vec<PoolReport>,
    /// There are more.
    pub more: bool,
    /// Where in the log that is from.
    pub applied_index: u64,
    /// As of when; Unix milliseconds.
    pub wall_ms: u64,
    /// What is left out, and why.
    pub warnings: Vec<String>,
}

/// What of the state is asked, in parts that stay as they are.
struct Asked<'a> {
    catalog: &'a Catalog,
    ledger: &'a Ledger,
    /// Only what is this tenant's; empty: everything.
    tenant: &'a str,
    /// Only limits of this name; empty: all.
    name: &'a str,
    most: usize,
    wall_ms: u64,
}

#[derive(Debug, Default)]
struct Found {
    pools: Vec<PoolReport>,
    more: bool,
    limits: usize,
    shared: Vec<String>,
}

// === impl Control ===

impl Control {
    /// How limits stand.
    ///
    /// # Errors
    ///
    /// There is no such limit or tenant, or the question is not one.
    pub fn limits(
        &self,
        who: &Principal,
        question: &LimitsQuestion,
    ) -> Result<LimitsAnswer, ControlError> {
        check(who.role, Action::Read)?;
        question.check()?;
        let tenant = authorize::narrowed(who, &question.tenant)?;
        // Read before the state is: what is told is at least as new.
        let applied_index = self.handle.applied_index();
        let (catalog, ledger, wall_ms) = self.handle.read(|state| {
            let (catalog, ledger) = (Arc::clone(&state.catalog), state.ledger.clone());
            (catalog, ledger, state.wall_ms)
        });
        let catalog = if tenant.is_empty() {
            catalog
        } else if catalog.tenant(tenant).is_some() {
            catalog.of_tenant(tenant).into()
        } else {
            return Err(no_tenant(tenant));
        };
        let wall_ms = wall_ms.max(now_ms());
        let found = find(&Asked {
            catalog: &catalog,
            ledger: &ledger,
            tenant,
            name: &question.name,
            most: question.most(),
            wall_ms,
        });
        if found.limits == 0 && !question.name.is_empty() {
            return Err(no_limit(&question.name));
        }
        Ok(LimitsAnswer {
            pools: found.pools,
            more: found.more,
            applied_index,
            wall_ms,
            warnings: shared_warning(&found.shared, who).into_iter().collect(),
        })
    }
}

// === impl LimitsQuestion ===

impl LimitsQuestion {
    fn check(&self) -> Result<(), ControlError> {
        for (field, text) in [("name", &self.name), ("tenant", &self.tenant)] {
            if text.len() > NAME_MAX {
                return Err(ControlError::invalid(field, "it is too long for a name"));
            }
        }
        if self.limit > POOLS_MAX {
            let problem = format!("at most {POOLS_MAX} are told at once; name a limit or a tenant");
            return Err(ControlError::invalid("limit", problem));
        }
        Ok(())
    }

    fn most(&self) -> usize {
        let most = if self.limit == 0 { LIMIT } else { self.limit };
        most as usize
    }
}

// === impl Found ===

impl Found {
    /// Adds what there is room for; whether there is more.
    fn add(&mut self, pools: impl Iterator<Item = PoolReport>, most: usize) -> bool {
        for pool in pools {
            if self.pools.len() >= most {
                self.more = true;
                break;
            }
            self.pools.push(pool);
        }
        self.more
    }
}

// === free functions ===

fn find(asked: &Asked<'_>) -> Found {
    let reporter = asked.ledger.reporter(asked.wall_ms);
    let mut found = Found::default();
    let limits = asked.catalog.limits();
    for (id, limit) in limits.filter(|(_, l)| asked.name.is_empty() || *l.name == *asked.name) {
        found.limits += 1;
        if is_shared(limit, asked.tenant) {
            found.shared.push(limit.name.to_string());
            continue;
        }
        let ours = |pool: &PoolReport| is_of(limit, &pool.key.value, asked.tenant);
        let mut pools = reporter.of(id).into_iter().filter(ours).peekable();
        let untouched = pools.peek().is_none();
        let untouched = untouched.then(|| reporter.untouched(id, limit));
        if found.add(pools.chain(untouched), asked.most) {
            break;
        }
    }
    found
}

/// Whether other tenants' requests take from the same pools of a limit; without a tenant, none are others'.
fn is_shared(limit: &Limit, tenant: &str) -> bool {
    let parted = |each: Dimension| each == Dimension::Tenant || each.is_tenants_own();
    !tenant.is_empty() && limit.only_tenant().is_none() && !limit.each.is_some_and(parted)
}

/// Whether a pool of a limit that is not shared is a tenant's.
fn is_of(limit: &Limit, value: &str, tenant: &str) -> bool {
    match limit.each {
        _ if tenant.is_empty() || limit.only_tenant().is_some() => true,
        Some(Dimension::Tenant) => value == tenant,
        _ => value
            .strip_prefix(tenant)
            .is_some_and(|rest| rest.starts_with('/')),
    }
}

fn shared_warning(shared: &[String], who: &Principal) -> Option<String> {
    let (named, beyond) = shared.split_at(shared.len().min(NAMED));
    if named.is_empty() {
        return None;
    }
    let more = match beyond.len() {
        0 => String::new(),
        many => format!(" and {many} more"),
    };
    let how = match who.tenant {
        Some(_) => "how much of it is left stands in the answers of the gateway",
        None => "it is told where no tenant is named",
    };
    let named = named.join(", ");
    Some(format!(
        "not told, since other tenants' calls count as well: {named}{more}; {how}"
    ))
}

fn no_limit(name: &str) -> ControlError {
    let problem = format!(
        "there is no limit `{}`; `get limits` lists what there is",
        name.escape_debug()
    );
    ControlError::not_found("name", problem)
}

fn no_tenant(name: &str) -> ControlError {
    let problem = format!(
        "there is no tenant `{}`; `get tenants` lists what there is",
        name.escape_debug()
    );
    ControlError::not_found("tenant", problem)
}

/// Whether anything but the amount is known of a limit's use.
pub fn is_counted(limit: &Limit) -> bool {
    limit.mode != Mode::Local
}

#[cfg(test)]
mod tests;
