//! What holds after every accepted command, checked by tests and debug assertions.

use std::collections::BTreeMap;

use crate::catalog::evolve::hashes;
use crate::catalog::routing::patterns;
use crate::catalog::{Catalog, Versioned};
use crate::limits;
use crate::object::Kind;
use crate::route::Route;
use crate::token::Role;

// === impl Catalog ===

impl Catalog {
    /// What does not hold; empty for a catalog that only accepted commands made.
    pub fn invariants(&self) -> Vec<String> {
        let mut broken = Vec::new();
        self.objects_are_sound(&mut broken);
        self.keys_are_sound(&mut broken);
        self.tokens_are_sound(&mut broken);
        self.routes_are_distinct(&mut broken);
        self.limits_are_sound(&mut broken);
        self.counts_are_bounded(&mut broken);
        broken
    }

    fn objects_are_sound(&self, broken: &mut Vec<String>) {
        for (revision, object) in Kind::ALL.into_iter().flat_map(|kind| self.objects(kind)) {
            let at = object.reference();
            if revision > self.revision {
                broken.push(format!("{at} was set by the future revision {revision}"));
            }
            if self.object(&at).is_none() {
                broken.push(format!("{at} is stored in another place"));
            }
            for violation in object.validate() {
                broken.push(format!("{}: {}", violation.path, violation.problem));
            }
            for (field, missing) in self.missing_references(&object) {
                broken.push(format!(
                    "{at}: {field} refers to {missing}, which is not there"
                ));
            }
        }
    }

    fn keys_are_sound(&self, broken: &mut Vec<String>) {
        let mut secrets = 0;
        for ((tenant, name), Versioned { value: key, .. }) in &self.keys {
            if (tenant, name) != (&key.tenant, &key.name) {
                broken.push(format!("key {tenant}/{name} is stored in another place"));
            }
            if self.consumer(tenant, &key.consumer).is_none() {
                broken.push(format!(
                    "key {tenant}/{name} refers to a consumer that is not there"
                ));
            }
            if self
                .key_by_id(&key.id)
                .is_none_or(|other| other.value != *key)
            {
                broken.push(format!("key {tenant}/{name} is not found by its id"));
            }
            for hash in hashes(key) {
                secrets += 1;
                if self.key_by_hash(&hash) != Some(key) {
                    broken.push(format!("key {tenant}/{name} is not found by its secret"));
                }
            }
        }
        if secrets != self.key_by_hash.len() || self.keys.len() != self.key_by_id.len() {
            broken.push("an index of keys has entries without a key".to_owned());
        }
    }

    fn tokens_are_sound(&self, broken: &mut Vec<String>) {
        for (name, Versioned { value: token, .. }) in &self.tokens {
            if self.token_by_hash(&token.hash) != Some(token) || *name != token.name {
                broken.push(format!("token {name} is not found by its secret"));
            }
        }
        for token in self.tokens.values().map(|token| &token.value) {
            if token
                .tenant
                .as_deref()
                .is_some_and(|t| self.tenant(t).is_none())
            {
                broken.push(format!(
                    "token {} is of a tenant that is not there",
                    token.name
                ));
            }
        }
        if self.tokens.len() != self.token_by_hash.len() {
            broken.push("the index of tokens has entries without a token".to_owned());
        }
        let root = self.tokens().any(|token| token.value.role == Role::Root);
        if self.founded.is_some() && !root {
            broken.push("there is no root token".to_owned());
        }
    }

    fn routes_are_distinct(&self, broken: &mut Vec<String>) {
        let mut by_pattern: BTreeMap<(&str, &str), Vec<&Route>> = BTreeMap::new();
        for route in self.routes().map(|route| &*route.value) {
            for pattern in patterns(route) {
                let others = by_pattern.entry(pattern).or_default();
                for other in others.iter().filter(|other| other.shares_a_method(route)) {
                    broken.push(format!(
                        "routes {} and {} match the same",
                        other.name, route.name
                    ));
                }
                others.push(route);
            }
        }
        let owners = self.owners_of_hosts();
        for (host, tenants) in &owners {
            let routes = self
                .routes()
                .filter(|r| r.value.hosts.iter().any(|h| **h == **host));
            let mut all = tenants
                .iter()
                .copied()
                .chain(routes.map(|r| &r.value.tenant));
            let first = all.next();
            if all.any(|tenant| Some(tenant) != first) {
                broken.push(format!("the host {host} is of two tenants"));
            }
        }
        let mut owners = BTreeMap::new();
        for route in self.routes().map(|route| &*route.value) {
            for host in &route.hosts {
                if owners
                    .insert(host, &route.tenant)
                    .is_some_and(|owner| *owner != route.tenant)
                {
                    broken.push(format!("the host {host} has routes of two tenants"));
                }
            }
        }
    }

    fn limits_are_sound(&self, broken: &mut Vec<String>) {
        for (id, limit) in self.limits() {
            if id == 0 || id > self.last_limit_id() {
                broken.push(format!("limit {} has the number {id}", limit.name));
            }
            if self.limit_by_id(id) != Some(limit) {
                broken.push(format!("limit {} is not found by its number", limit.name));
            }
        }
        broken.extend(
            self.crowded()
                .map(|who| format!("{who} matches too many limits")),
        );
    }

    fn counts_are_bounded(&self, broken: &mut Vec<String>) {
        let counts = [
            ("tenants", self.tenants.len(), limits::TENANTS),
            ("consumers", self.consumers.len(), limits::CONSUMERS),
            ("providers", self.providers.len(), limits::PROVIDERS),
            ("models", self.models.len(), limits::MODELS),
            ("services", self.services.len(), limits::SERVICES),
            ("routes", self.routes.len(), limits::ROUTES),
            ("limits", self.limits.len(), limits::LIMITS),
            ("keys", self.keys.len(), limits::KEYS),
            ("tokens", self.tokens.len(), limits::TOKENS),
        ];
        for (kind, count, limit) in counts {
            if count > limit {
                broken.push(format!("there are {count} {kind}, more than {limit}"));
            }
        }
    }
}
