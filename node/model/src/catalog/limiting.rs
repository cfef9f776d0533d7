//! How many limits one request can match, so that each request asks for a bounded number of amounts.
//!
//! Counted from above: limits are put into groups by whom they name (anyone, a team, a consumer, a key), and within a group only
//! those that name different places (a route, a model) are known to exclude each other. A request's count is at most the sum
//! over the groups that it is in; it is less where groups name different places, which few do. What could pass the bound is
//! refused when it is put, so nothing is left out when a request comes. A tenant's own limits have a smaller bound of their own: the
//! operator's find room whatever a tenant does.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::Catalog;
use crate::catalog::faults::{Faults, refuse};
use crate::command::{Rejected, RejectedCode, Violation};
use crate::consumer::Consumer;
use crate::key::Key;
use crate::limit::Limit;
use crate::limits;
use crate::object::Object;
use crate::route::is_built_in_name;

/// Whom limits name: tenant, empty for any, and name.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Group<'a> {
    Anyone(&'a str),
    Team(&'a str, &'a str),
    Consumer(&'a str, &'a str),
    Key(&'a str, &'a str),
}

/// How many limits of one group name which places.
#[derive(Default)]
struct Places<'a> {
    anywhere: usize,
    routes: BTreeMap<&'a str, usize>,
    built_in: BTreeMap<&'a str, usize>,
    models: BTreeMap<&'a str, usize>,
}

/// Limits by group.
#[derive(Default)]
struct Groups<'a>(BTreeMap<Group<'a>, Places<'a>>);

/// Who may send a request; empty where limits name none.
#[derive(Clone, Copy, Default, Eq, Ord, PartialEq, PartialOrd)]
struct Sender<'a> {
    tenant: &'a str,
    team: &'a str,
    consumer: &'a str,
    key: &'a str,
}

/// All limits, and those of tenants alone.
struct Crowd<'a> {
    all: Groups<'a>,
    own: Groups<'a>,
}

// === impl Group ===

impl<'a> Group<'a> {
    fn of(limit: &'a Limit) -> Self {
        let tenant = limit.only_tenant().map_or("", |name| &**name);
        let matches = &limit.matches;
        match (&matches.key, &matches.consumer, &matches.team) {
            (Some(key), ..) => Self::Key(tenant, key),
            (_, Some(consumer), _) => Self::Consumer(tenant, consumer),
            (.., Some(team)) => Self::Team(tenant, team),
            _ => Self::Anyone(tenant),
        }
    }
}

// === impl Places ===

impl<'a> Places<'a> {
    fn add(&mut self, limit: &'a Limit) {
        let matches = &limit.matches;
        let count = match (&matches.route, &matches.model) {
            (Some(route), _) if is_built_in_name(route) => self.built_in.entry(route).or_default(),
            (Some(route), _) => self.routes.entry(route).or_default(),
            (None, Some(model)) => self.models.entry(model).or_default(),
            (None, None) => &mut self.anywhere,
        };
        *count += 1;
    }

    /// How many one request can match: only built-in routes ask models.
    fn most(&self) -> usize {
        let most = |places: &BTreeMap<&str, usize>| places.values().copied().max().unwrap_or(0);
        self.anywhere + most(&self.routes).max(most(&self.built_in) + most(&self.models))
    }
}

// === impl Groups ===

impl<'a> Groups<'a> {
    fn of(limits: impl Iterator<Item = &'a Limit>) -> Self {
        let mut groups = Self::default();
        for limit in limits {
            groups.0.entry(Group::of(limit)).or_default().add(limit);
        }
        groups
    }

    fn most(&self, sender: Sender<'a>) -> usize {
        let groups = sender.groups();
        let places = groups.filter_map(|group| self.0.get(&group));
        places.map(Places::most).sum()
    }
}

// === impl Sender ===

impl<'a> Sender<'a> {
    fn of_consumer(consumer: &'a Consumer) -> Self {
        Self {
            tenant: &consumer.tenant,
            team: consumer.team.as_deref().unwrap_or_default(),
            consumer: &consumer.name,
            key: "",
        }
    }

    /// The groups that its requests are in, each once.
    fn groups(self) -> impl Iterator<Item = Group<'a>> {
        let Self {
            tenant,
            team,
            consumer,
            key,
        } = self;
        let all = [
            (true, Group::Anyone("")),
            (!tenant.is_empty(), Group::Anyone(tenant)),
            (!team.is_empty(), Group::Team("", team)),
            (
                !team.is_empty() && !tenant.is_empty(),
                Group::Team(tenant, team),
            ),
            (!consumer.is_empty(), Group::Consumer(tenant, consumer)),
            (!key.is_empty(), Group::Key(tenant, key)),
        ];
        all.into_iter()
            .filter(|(is_in, _)| *is_in)
            .map(|(_, group)| group)
    }

    fn text(self) -> String {
        let Self {
            tenant,
            team,
            consumer,
            key,
        } = self;
        match (tenant, team, consumer, key) {
            ("", "", ..) => "a request of any tenant".to_owned(),
            ("", team, ..) => format!("a request of team {team}"),
            (_, _, _, key) if !key.is_empty() => format!("a request with key {tenant}/{key}"),
            (_, _, consumer, _) if !consumer.is_empty() => {
                format!("a request of consumer {tenant}/{consumer}")
            }
            (_, "", ..) => format!("a request of tenant {tenant}"),
            (_, team, ..) => format!("a request of team {team} of tenant {tenant}"),
        }
    }
}

// === impl Crowd ===

impl<'a> Crowd<'a> {
    fn of(catalog: &'a Catalog) -> Self {
        let limits = || catalog.limits().map(|(_, limit)| &**limit);
        Self {
            all: Groups::of(limits()),
            own: Groups::of(limits().filter(|limit| limit.tenant.is_some())),
        }
    }

    /// What is wrong with how many limits a sender's requests can match.
    fn problem(&self, sender: Sender<'a>) -> Option<String> {
        let (all, own) = (self.all.most(sender), self.own.most(sender));
        let (many, most, whose) = if all > limits::MATCHED_LIMITS {
            (all, limits::MATCHED_LIMITS, "limits")
        } else if own > limits::MATCHED_OWN_LIMITS {
            (
                own,
                limits::MATCHED_OWN_LIMITS,
                "limits of the tenant's own",
            )
        } else {
            return None;
        };
        Some(format!(
            "{} could match {many} {whose}, and {most} is the most; delete some, or let one with `each` stand for several",
            sender.text()
        ))
    }
}

// === impl Catalog ===

impl Catalog {
    /// Adds a fault for each of these objects by which a request could match too many limits.
    pub(super) fn check_matched(&self, changed: &[&Object], faults: &mut Faults) {
        let concerned = |o: &&Object| matches!(o, Object::Limit(_) | Object::Consumer(_));
        if self.limits.len() == 0 || !changed.iter().any(concerned) {
            return;
        }
        let crowd = Crowd::of(self);
        let mut of_groups: BTreeMap<Group<'_>, String> = BTreeMap::new();
        let mut senders = Vec::new();
        for object in changed {
            match object {
                Object::Limit(limit) => {
                    let path = object.reference().path();
                    of_groups.entry(Group::of(limit)).or_insert(path);
                }
                Object::Consumer(consumer) => self.senders_of(consumer, &crowd, &mut senders),
                _ => {}
            }
        }
        if !of_groups.is_empty() {
            senders = self.senders(&crowd);
        }
        let mut told = BTreeSet::new();
        for sender in senders {
            if faults.is_full() {
                return;
            }
            let Some(problem) = crowd.problem(sender) else {
                continue;
            };
            let path = sender
                .groups()
                .filter_map(|group| of_groups.get(&group))
                .last();
            let path = path.cloned().unwrap_or_else(|| {
                format!("consumers[{}/{}].team", sender.tenant, sender.consumer)
            });
            if told.insert(path.clone()) {
                faults.add(RejectedCode::Limit, Violation { path, problem });
            }
        }
    }

    /// Refuses a key whose name limits have already, of one that was revoked, where its requests could match too many.
    pub(super) fn check_matched_by_key(&self, key: &Key) -> Result<(), Rejected> {
        let named = Group::Key(&key.tenant, &key.name);
        if !self.limits().any(|(_, limit)| Group::of(limit) == named) {
            return Ok(());
        }
        let team = self.consumer(&key.tenant, &key.consumer);
        let sender = Sender {
            tenant: &key.tenant,
            team: team
                .and_then(|c| c.value.team.as_deref())
                .unwrap_or_default(),
            consumer: &key.consumer,
            key: &key.name,
        };
        match Crowd::of(self).problem(sender) {
            Some(problem) => Err(refuse(RejectedCode::Limit, "name", problem)),
            None => Ok(()),
        }
    }

    /// Whose requests could match too many limits.
    pub(super) fn crowded(&self) -> impl Iterator<Item = String> {
        let crowd = Crowd::of(self);
        let senders = self.senders(&crowd).into_iter();
        let found: Vec<_> = senders.filter_map(|sender| crowd.problem(sender)).collect();
        found.into_iter()
    }

    /// Every sender that limits tell from others.
    fn senders<'a>(&'a self, crowd: &Crowd<'a>) -> Vec<Sender<'a>> {
        let mut senders = vec![Sender::default()];
        let mut teams = BTreeSet::new();
        for group in crowd.all.0.keys() {
            match *group {
                Group::Anyone(tenant) => senders.push(Sender {
                    tenant,
                    ..Sender::default()
                }),
                Group::Team(_, team) => drop(teams.insert(team)),
                Group::Consumer(tenant, name) => {
                    let consumer = self.consumer(tenant, name);
                    senders.extend(consumer.map(|c| Sender::of_consumer(&c.value)));
                }
                Group::Key(tenant, name) => senders.push(self.sender_of_key(tenant, name)),
            }
        }
        if !teams.is_empty() {
            let consumers = self.consumers().map(|c| Sender::of_consumer(&c.value));
            senders.extend(consumers.filter(|sender| teams.contains(sender.team)));
        }
        senders
    }

    /// A consumer, and those of its keys that limits name.
    fn senders_of<'a>(
        &'a self,
        consumer: &'a Consumer,
        crowd: &Crowd<'a>,
        to: &mut Vec<Sender<'a>>,
    ) {
        let sender = Sender::of_consumer(consumer);
        to.push(sender);
        let keys = crowd.all.0.range(Group::Key(sender.tenant, "")..);
        for (group, _) in keys {
            match *group {
                Group::Key(tenant, name) if tenant == sender.tenant => {
                    let key = self.sender_of_key(tenant, name);
                    to.extend((key.consumer == sender.consumer).then_some(key));
                }
                _ => break,
            }
        }
    }

    /// The sender behind a key; of one that is revoked, nothing is known but its tenant.
    fn sender_of_key<'a>(&'a self, tenant: &'a str, name: &'a str) -> Sender<'a> {
        let key = self.key(tenant, name);
        let consumer = key.and_then(|key| self.consumer(tenant, &key.value.consumer));
        let consumer = consumer.map(|c| Sender::of_consumer(&c.value));
        Sender {
            tenant,
            key: name,
            ..consumer.unwrap_or_default()
        }
    }
}
