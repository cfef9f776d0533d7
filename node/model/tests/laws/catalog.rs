//! Laws 1 and 2: `evolve` is total and deterministic; accepted commands keep the invariants and repeat to nothing.

use mode_envoy_model::batch::{ChangeSet, Outcome};
use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::Command;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::arb;
use crate::samples::{self, NOW, consumer, embedded, put, run, service};

/// A founded catalog with what the generated commands may refer to.
fn peopled() -> Catalog {
    let mut catalog = samples::catalog();
    let mut objects = vec![service("a"), service("b"), embedded("a"), embedded("b")];
    for tenant in ["a", "b"] {
        objects.push(samples::tenant(tenant));
        objects.push(consumer(tenant, "a"));
        objects.push(consumer(tenant, "b"));
    }
    run(&mut catalog, &put(objects)).expect("the objects are sound");
    catalog
}

proptest! {
    #![proptest_config(arb::cases(256))]

    /// Any events in any order; the indexes stay a function of the objects.
    #[test]
    fn evolve_takes_any_events_and_agrees_with_itself(events in vec(arb::event(), 0..60)) {
        let (mut one, mut two) = (Catalog::empty(), Catalog::empty());
        for event in &events {
            one.evolve(event);
        }
        for event in &events {
            two.evolve(event);
        }
        prop_assert_eq!(&one, &two);

        let restored = Catalog::restore(
            one.founded().cloned(),
            one.format_version(),
            one.revision(),
            one.records(),
        );
        let restored = restored
            .with_members(one.members().clone())
            .with_last_limit_id(one.last_limit_id())
            .with_rotation(one.rotation().cloned());
        prop_assert_eq!(&one, &restored);
    }

    /// A copy does not see what happens to the original.
    #[test]
    fn a_published_catalog_does_not_change(
        before in vec(arb::event(), 0..20),
        after in vec(arb::event(), 0..20),
    ) {
        let mut catalog = Catalog::empty();
        for event in &before {
            catalog.evolve(event);
        }
        let published = catalog.clone();
        let records: Vec<_> = published.records().collect();
        for event in &after {
            catalog.evolve(event);
        }
        prop_assert_eq!(published.records().collect::<Vec<_>>(), records);
    }

    #[test]
    fn accepted_commands_keep_the_invariants_and_repeat_to_nothing(
        founded in prop::bool::weighted(0.9),
        commands in vec(arb::command(), 1..40),
    ) {
        let mut catalog = if founded { peopled() } else { Catalog::empty() };
        for (step, command) in commands.iter().enumerate() {
            let now = NOW + step as u64;
            let decided = catalog.decide(command, now);
            prop_assert_eq!(&decided, &catalog.decide(command, now));
            let Ok(decision) = decided else { continue };
            prop_assert!(!decision.changes.is_empty());
            if matches!(command, Command::Put { dry_run: true, .. } | Command::Prune { dry_run: true, .. }) {
                prop_assert!(decision.events.is_empty());
                continue;
            }
            if !decision.events.is_empty() {
                let base_revision = catalog.revision();
                let set = ChangeSet { base_revision, events: decision.events, ..ChangeSet::default() };
                let outcome = catalog.apply_change_set(&set);
                prop_assert_eq!(outcome, Outcome::Changed { revision: base_revision + 1 });
                prop_assert_eq!(
                    catalog.apply_change_set(&set),
                    Outcome::Stale { revision: base_revision + 1 }
                );
            }
            prop_assert_eq!(catalog.invariants(), Vec::<String>::new());
            if let Ok(again) = catalog.decide(command, now + 1) {
                prop_assert_eq!(again.events, vec![]);
            }
        }
    }
}

#[test]
fn a_change_set_without_events_or_with_too_many_is_malformed() {
    use mode_envoy_model::limits;
    let mut catalog = samples::catalog();
    let event = mode_envoy_model::event::Event::FormatRaised { version: 1 };
    let base_revision = catalog.revision();
    let set = |events, actor: String| ChangeSet {
        base_revision,
        actor,
        events,
        ..ChangeSet::default()
    };
    let many = vec![event.clone(); limits::EVENTS_PER_CHANGE_SET + 1];
    let long = "x".repeat(limits::ACTOR + 1);
    for bad in [
        set(Vec::new(), String::new()),
        set(many, String::new()),
        set(vec![event], long),
    ] {
        assert_eq!(catalog.apply_change_set(&bad), Outcome::Malformed);
        assert_eq!(catalog.revision(), base_revision);
    }
}

#[test]
fn an_event_that_takes_anothers_secret_is_void() {
    use mode_envoy_model::event::Event;
    let mut catalog = samples::catalog();
    catalog.evolve(&Event::KeyPut(samples::key("acme", "k", 1)));
    catalog.evolve(&Event::KeyPut(samples::key("beta", "thief", 1)));
    assert!(catalog.key("beta", "thief").is_none());
    assert_eq!(
        catalog.key_by_hash(&[1; 32]).map(|key| &*key.name),
        Some("k")
    );
}
