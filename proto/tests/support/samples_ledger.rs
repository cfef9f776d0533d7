//! Samples of what limits put into the log, and of their books in a checkpoint.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check("LeaseUse", &lease_use());
    golden.check("Ask", &ask());
    golden.check("AskItem", &ask().items[0]);
    golden.check("Final", &finished());
    golden.check("SpoolEnd", &finished().ends[0]);
    golden.check("Evict", &evict());
    golden.check("LedgerMeta", &meta());
    golden.check("LedgerRules", &rules());
    golden.check("LeaseState", &window().leases[0]);
    golden.check("WindowState", &window());
    golden.check("PoolState", &pool());
    golden.check("DemandState", &pool().demands[0]);
    golden.check(
        "PoolsChunk",
        &log::PoolsChunk {
            pools: vec![pool()],
        },
    );
    golden.check("OverState", &over());
    golden.check(
        "WindowsChunk",
        &log::WindowsChunk {
            windows: vec![over()],
        },
    );
    golden.check("FrozenState", &frozen());
    golden.check(
        "FrozenChunk",
        &log::FrozenChunk {
            frozen: vec![frozen()],
        },
    );
}

pub(crate) fn lease_use() -> log::LeaseUse {
    log::LeaseUse {
        lease: 12,
        spent: 3,
        returned: 4,
    }
}

pub(crate) fn ask() -> log::Ask {
    let item = log::AskItem {
        limit: 5,
        value: "acme".to_owned(),
        need: 1,
        want: 40,
        demand: 20,
        typical: 2,
    };
    log::Ask { items: vec![item] }
}

pub(crate) fn finished() -> log::Final {
    log::Final {
        node: 2,
        incarnation: 77,
        ends: vec![log::SpoolEnd {
            uuid: vec![3; 16],
            end: 900,
        }],
    }
}

pub(crate) fn evict() -> log::Evict {
    log::Evict {
        node: 2,
        incarnation: 77,
    }
}

pub(crate) fn meta() -> log::LedgerMeta {
    log::LedgerMeta {
        rules: Some(rules()),
        last_lease: 12,
        counter: 30,
        refused: 1,
    }
}

fn rules() -> log::LedgerRules {
    log::LedgerRules {
        version: 1,
        share: 2,
        central: 3,
        recall_ms: 20,
        demand_ms: 10_000,
        ahead_ms: 10_001,
        ahead_short_ms: 5_000,
        hold_ms: 250,
        hold_permille: 251,
        hold_units: 16,
        kept_ms: 172_800_000,
        idle_ms: 600_000,
    }
}

fn window() -> log::WindowState {
    let lease = log::LeaseState {
        id: 12,
        node: 2,
        incarnation: 77,
        granted: 20,
        returned: 4,
        settled: 3,
        owed: 1,
    };
    log::WindowState {
        number: 29,
        start: 1_700_000_040_000,
        ends: Some(1_700_000_100_000),
        issued: 10,
        free: -8,
        settled: 3,
        burned: 2,
        leases: vec![lease],
    }
}

fn pool() -> log::PoolState {
    log::PoolState {
        limit: 5,
        value: "acme".to_owned(),
        cap: 10,
        window: Some(window()),
        central: true,
        recalls: 28,
        recalled_ms: Some(0),
        epoch: 27,
        filled_ms: 1_000,
        filled_rest: 7,
        demands: vec![log::DemandState {
            node: 2,
            rate: 20,
            typical: 2,
            seen_ms: 999,
        }],
    }
}

fn over() -> log::OverState {
    log::OverState {
        limit: 5,
        value: "acme".to_owned(),
        window: Some(window()),
        burns_ms: 1_700_172_900_000,
    }
}

fn frozen() -> log::FrozenState {
    log::FrozenState {
        node: 2,
        incarnation: 70,
        spools: vec![vec![3; 16]],
    }
}
