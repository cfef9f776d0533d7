//! What is told of limits, and to whom.

use mode_envoy_model::batch::{Batch, Item};
use mode_envoy_model::command::Command;
use mode_envoy_model::ledger::ask::{Ask, AskItem, LeaseUse, PoolKey};
use mode_envoy_model::state::State;
use mode_envoy_model::token::Role;
use mode_envoy_model::usage::batch::{Register, UsageBatch};

use super::*;
use crate::control::document;

const DAY: u64 = 86_400_000;
/// 2026-03-10T12:30:20Z.
const WALL: u64 = 20_522 * DAY + 12 * 3_600_000 + 30 * 60_000 + 20_000;

const DOCUMENT: &str = "
tenants: [{name: acme}, {name: beta}]
limits:
  - {name: alone, unit: requests, amount: 90, per: minute, mode: local}
  - {name: daily, each: key, unit: requests, amount: 100, per: day}
  - {name: per-model, each: model, unit: requests, amount: 70, per: day}
  - {name: everybody, unit: requests, amount: 200, per: hour}
  - {name: beat, match: {tenant: beta}, unit: requests, amount: 100, per: second, burst: 500}
  - {name: own, tenant: acme, unit: concurrent, amount: 7}
";

/// Two nodes, of which the first holds 40 of one key's part and 1 of another's, and has told that it used 3 of the first.
fn state() -> State {
    let mut state = State::new();
    let drafts = document::read(DOCUMENT).unwrap().drafts;
    let objects = drafts.into_iter().map(|draft| draft.object).collect();
    let mut catalog = Catalog::empty();
    let command = Command::Put {
        objects,
        dry_run: false,
    };
    for event in catalog.decide(&command, 1).unwrap().events {
        catalog.evolve(&event);
    }
    state.ledger.set_limits(catalog.limits());
    state.catalog = catalog.into();
    for node in 1..=2_u8 {
        let register = Register {
            node: node.into(),
            follows: 0,
            spools: vec![(0, [node; 16])],
        };
        apply(&mut state, 1, Item::Register(register));
    }
    let asks = ["acme/first", "beta/ci"].map(|value| ask(&state, "daily", value, 40));
    say(&mut state, Vec::new(), asks.into());
    let uses = uses(&state, "acme/first", 3);
    say(&mut state, uses, Vec::new());
    state
}

fn apply(state: &mut State, index: u64, item: Item) {
    let batch = Batch {
        lease_clock_ms: 1_000,
        wall_ms: WALL,
        items: vec![item],
    };
    assert_eq!(state.apply(index, &batch).len(), 1);
}

fn ask(state: &State, limit: &str, value: &str, need: u64) -> Ask {
    let (limit, _) = state.catalog.limit(None, limit).unwrap();
    let pool = PoolKey {
        limit,
        value: value.into(),
    };
    Ask {
        items: vec![AskItem {
            pool,
            need,
            want: 0,
            demand: 1,
            typical: 1,
        }],
    }
}

fn uses(state: &State, value: &str, spent: u64) -> Vec<LeaseUse> {
    let of_value = state
        .ledger
        .leases_of(1)
        .filter(|(key, ..)| *key.value == *value);
    of_value
        .map(|(_, _, lease)| LeaseUse {
            lease: lease.id,
            spent,
            returned: 0,
        })
        .collect()
}

fn say(state: &mut State, uses: Vec<LeaseUse>, asks: Vec<Ask>) {
    let stream = state.usage.streams.get(1).unwrap();
    let batch = UsageBatch {
        node: 1,
        incarnation: stream.incarnation,
        seq: stream.next_seq,
        ranges: Vec::new(),
        series: Vec::new(),
        rows: Vec::new(),
        uses,
        asks,
    };
    apply(state, 2, Item::Usage(batch));
}

fn asked<'a>(state: &'a State, catalog: &'a Catalog) -> Asked<'a> {
    Asked {
        catalog,
        ledger: &state.ledger,
        tenant: "",
        name: "",
        most: 100,
        wall_ms: WALL,
    }
}

/// Name, value, used, free, and what each node has.
fn told(found: &Found) -> Vec<String> {
    let pools = found.pools.iter();
    pools
        .map(|pool| {
            let (name, value) = (&pool.limit.name, &pool.key.value);
            format!(
                "{name} {value:?} {} {} {:?}",
                pool.used, pool.free, pool.leased
            )
        })
        .collect()
}

#[test]
fn every_limit_is_told_in_order_whether_anybody_asked_for_it_or_not() {
    let state = state();
    let found = find(&asked(&state, &state.catalog));
    assert_eq!(
        told(&found),
        [
            "alone \"\" 0 90 {}",
            "beat \"\" 0 475 {}",
            "daily \"acme/first\" 3 60 {1: 37}",
            "daily \"beta/ci\" 0 60 {1: 40}",
            "everybody \"\" 0 200 {}",
            "per-model \"\" 0 70 {}",
            "own \"\" 0 7 {}",
        ]
    );
    assert!(!found.more && found.shared.is_empty());
    let overshoots: Vec<_> = found.pools.iter().map(|pool| pool.overshoot).collect();
    let (strict, alone) = (Some(0), None);
    // One percent of the amount for each of two nodes.
    let (beat, everybody) = (Some(2), Some(4));
    assert_eq!(
        overshoots,
        [alone, beat, strict, strict, everybody, strict, strict]
    );
}

#[test]
fn a_window_that_is_over_is_told_as_the_new_one() {
    let state = state();
    let found = find(&Asked {
        name: "daily",
        wall_ms: WALL + DAY,
        ..asked(&state, &state.catalog)
    });
    assert_eq!(
        told(&found),
        [
            "daily \"acme/first\" 0 100 {}",
            "daily \"beta/ci\" 0 100 {}"
        ]
    );
    let pool = &found.pools[0];
    let begins = (WALL / DAY + 1) * DAY;
    assert_eq!(
        (pool.window, pool.ends_ms, pool.unsettled),
        (begins, Some(begins + DAY), 37)
    );
}

#[test]
fn a_bucket_fills_while_nobody_speaks() {
    let mut state = state();
    let all = ask(&state, "beat", "", 475);
    say(&mut state, Vec::new(), vec![all]);
    let spent = uses(&state, "", 475);
    say(&mut state, spent, Vec::new());
    let beat = |wall_ms| {
        let found = find(&Asked {
            name: "beat",
            wall_ms,
            ..asked(&state, &state.catalog)
        });
        told(&found).remove(0)
    };
    assert_eq!(beat(WALL), "beat \"\" 475 0 {1: 0}");
    assert_eq!(beat(WALL + 1_500), "beat \"\" 325 150 {1: 0}");
    assert_eq!(beat(WALL + 60_000), "beat \"\" 0 475 {1: 0}");
}

#[test]
fn an_answer_is_bounded_and_says_that_there_is_more() {
    let state = state();
    for (most, more) in [(3, true), (6, true), (7, false)] {
        let found = find(&Asked {
            most,
            ..asked(&state, &state.catalog)
        });
        assert_eq!((found.pools.len(), found.more), (most, more));
    }
}

#[test]
fn a_tenant_is_told_its_own_part_and_nothing_that_others_take_from() {
    let state = state();
    let of = |tenant: &str| {
        let catalog = state.catalog.of_tenant(tenant);
        find(&Asked {
            tenant,
            ..asked(&state, &catalog)
        })
    };
    let acme = of("acme");
    assert_eq!(
        told(&acme),
        ["daily \"acme/first\" 3 60 {1: 37}", "own \"\" 0 7 {}"]
    );
    assert_eq!(acme.shared, ["alone", "everybody", "per-model"]);
    let beta = of("beta");
    assert_eq!(
        told(&beta),
        ["beat \"\" 0 475 {}", "daily \"beta/ci\" 0 60 {1: 40}"]
    );
    // A tenant whose name begins another's is not that one.
    assert!(!is_of(&acme.pools[0].limit, "acme/first", "acm"));
}

#[test]
fn a_question_that_asks_too_much_is_refused() {
    let long = "n".repeat(300);
    for (question, field) in [
        (
            LimitsQuestion {
                limit: 10_001,
                ..LimitsQuestion::default()
            },
            "limit",
        ),
        (
            LimitsQuestion {
                name: long.clone(),
                ..LimitsQuestion::default()
            },
            "name",
        ),
        (
            LimitsQuestion {
                tenant: long,
                ..LimitsQuestion::default()
            },
            "tenant",
        ),
    ] {
        let refused = question.check().unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("refused: {field}: ")),
            "{refused}"
        );
    }
}

#[test]
fn what_is_left_out_is_named_and_so_is_where_it_is_told() {
    let who = |tenant: Option<&str>| Principal {
        name: "t".into(),
        role: Role::Viewer,
        tenant: tenant.map(Into::into),
        hash: [0; 32],
        request: None,
    };
    let shared: Vec<_> = (0..12).map(|n| format!("l{n}")).collect();
    assert_eq!(shared_warning(&[], &who(None)), None);
    let told = shared_warning(&shared, &who(None)).unwrap();
    assert!(
        told.ends_with("l9 and 2 more; it is told where no tenant is named"),
        "{told}"
    );
    let told = shared_warning(&shared[..1], &who(Some("acme"))).unwrap();
    assert!(told.contains(": l0; how much of it is left"), "{told}");
}
