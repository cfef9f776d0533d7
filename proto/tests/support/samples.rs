//! One sample of every log message, with every field set to a value that is not its default.

use mode_envoy_proto::log::v1 as log;

use super::{
    Golden, every_event, every_item, every_series_ref, members, samples_access, samples_ledger,
    samples_limits,
};

pub(crate) fn each(golden: &mut Golden<'_>) {
    catalog(golden);
    usage(golden);
    checkpoint(golden);
    golden.check(
        "ObjectName",
        &log::ObjectName {
            tenant: "acme".to_owned(),
            name: "orders".to_owned(),
        },
    );
    golden.check("Founded", &founded());
    golden.check("FormatRaised", &log::FormatRaised { version: 2 });
    // The messages that are a choice hold one of each alternative, one after the other, in their container.
    golden.check(
        "ChangeSet",
        &log::ChangeSet {
            base_revision: 41,
            actor: "root".to_owned(),
            events: every_event(),
            origin: "apply".to_owned(),
            request: Some(samples_access::request()),
        },
    );
    golden.check("Event", &every_event()[2]);
    golden.check("Item", &every_item()[1]);
    golden.check(
        "Batch",
        &log::Batch {
            lease_clock_ms: 1_000,
            wall_ms: 1_700_000_000_000,
            items: every_item(),
        },
    );
}

fn catalog(golden: &mut Golden<'_>) {
    golden.check("Tenant", &tenant());
    golden.check("Consumer", &consumer());
    golden.check("SealedSecret", &sealed());
    golden.check("Timeouts", &timeouts());
    golden.check("Provider", &provider());
    golden.check("Price", &price());
    golden.check("Target", &target());
    golden.check("Model", &model());
    golden.check("AccessList", &access());
    golden.check(
        "Endpoint",
        &log::Endpoint {
            url: "http://127.0.0.1:7001".to_owned(),
        },
    );
    golden.check("Service", &service());
    golden.check("Route", &route());
    golden.check("Key", &key());
    golden.check("Token", &token());
}

fn usage(golden: &mut Golden<'_>) {
    golden.check("Register", &register());
    golden.check(
        "Spool",
        &log::Spool {
            worker: 1,
            uuid: vec![3; 16],
        },
    );
    golden.check("UsageBatch", &usage_batch());
    golden.check("SpoolRange", &range());
    golden.check("SeriesRef", &every_series_ref()[1]);
    golden.check("SeriesKey", &series_key());
    golden.check("UsageRow", &row());
    golden.check("Counters", &counters());
    golden.check("Histogram", &histogram());
}

fn checkpoint(golden: &mut Golden<'_>) {
    use log::catalog_object::Kind;
    let objects = [
        Kind::Tenant(tenant()),
        Kind::Consumer(consumer()),
        Kind::Provider(provider()),
        Kind::Model(model()),
        Kind::Service(service()),
        Kind::Route(route()),
        Kind::Key(key()),
        Kind::Token(token()),
        Kind::Limit(samples_limits::numbered()),
    ]
    .map(|kind| log::CatalogObject {
        revision: 42,
        kind: Some(kind),
    });
    golden.check("CatalogObject", &objects[0]);
    golden.check(
        "CatalogChunk",
        &log::CatalogChunk {
            objects: objects.to_vec(),
        },
    );
    golden.check(
        "CheckpointMeta",
        &log::CheckpointMeta {
            applied_term: 3,
            applied_node: 2,
            applied_index: 99,
            has_applied: true,
            membership: b"{}".to_vec(),
            revision: 42,
            lease_clock_ms: 1_000,
            wall_ms: 1_700_000_000_000,
            format_version: 1,
            founded: Some(founded()),
            history: Some(super::samples_history::head()),
            members: Some(members::members()),
            rotation: Some(super::rotation::rotation()),
            ledger: Some(samples_ledger::meta()),
            last_limit_id: 7,
            growth: None,
        },
    );
    let entry = log::SeriesEntry {
        id: 7,
        key: Some(series_key()),
    };
    golden.check("SeriesEntry", &entry);
    golden.check(
        "SeriesChunk",
        &log::SeriesChunk {
            series: vec![entry],
        },
    );
    let spool = log::SpoolState {
        worker: 1,
        uuid: vec![3; 16],
        acked_to: 12,
    };
    golden.check("SpoolState", &spool);
    let stream = log::StreamState {
        node: 2,
        incarnation: 77,
        next_seq: 5,
        spools: vec![spool],
    };
    golden.check("StreamState", &stream);
    golden.check(
        "StreamsChunk",
        &log::StreamsChunk {
            streams: vec![stream],
        },
    );
    let cell = log::CellEntry {
        series: 7,
        counters: Some(counters()),
        latency: Some(histogram()),
        ttft: Some(histogram()),
    };
    golden.check("CellEntry", &cell);
    golden.check(
        "CellsChunk",
        &log::CellsChunk {
            resolution: log::Resolution::Hour.into(),
            bucket: 472_222,
            cells: vec![cell],
        },
    );
    checkpoint_of_nodes(golden);
}

fn checkpoint_of_nodes(golden: &mut Golden<'_>) {
    let key = log::NodeSeriesKey {
        node: 2,
        tenant: "acme".to_owned(),
        route: "openai.chat_completions".to_owned(),
        status_class: 2,
    };
    golden.check("NodeSeriesKey", &key);
    let entry = log::NodeSeriesEntry {
        id: 7,
        key: Some(key),
    };
    golden.check("NodeSeriesEntry", &entry);
    golden.check(
        "NodeSeriesChunk",
        &log::NodeSeriesChunk {
            since_minute: 28_333_320,
            series: vec![entry],
        },
    );
}

pub(crate) fn founded() -> log::Founded {
    log::Founded {
        cluster_id: vec![1; 16],
        wrapped_key: vec![2; 60],
        generation: 0,
    }
}

pub(crate) fn tenant() -> log::Tenant {
    log::Tenant {
        name: "acme".to_owned(),
        hosts: vec!["api.acme.test".to_owned()],
    }
}

pub(crate) fn consumer() -> log::Consumer {
    log::Consumer {
        tenant: "acme".to_owned(),
        name: "mobile-app".to_owned(),
        team: "retail".to_owned(),
    }
}

fn sealed() -> log::SealedSecret {
    log::SealedSecret {
        wrapped_data_key: vec![4; 60],
        ciphertext: vec![5; 40],
        fingerprint: vec![6; 16],
        generation: 0,
    }
}

fn timeouts() -> log::Timeouts {
    log::Timeouts {
        connect_ms: 5_000,
        first_byte_ms: 60_000,
        idle_ms: 60_001,
        total_ms: 600_000,
    }
}

pub(crate) fn provider() -> log::Provider {
    log::Provider {
        name: "openai".to_owned(),
        protocol: log::Protocol::Openai.into(),
        base_url: "https://api.openai.com/v1".to_owned(),
        keys: vec![sealed()],
        timeouts: Some(timeouts()),
    }
}

fn price() -> log::Price {
    log::Price {
        input: 150_000,
        output: 600_000,
        cached_input: Some(75_000),
        cache_write: Some(187_500),
    }
}

fn target() -> log::Target {
    log::Target {
        provider: "openai".to_owned(),
        model: "gpt-4o-mini".to_owned(),
        price: Some(price()),
    }
}

fn access() -> log::AccessList {
    log::AccessList {
        entries: vec!["acme".to_owned(), "beta/batch-jobs".to_owned()],
    }
}

pub(crate) fn model() -> log::Model {
    log::Model {
        name: "fast".to_owned(),
        targets: vec![target()],
        price: Some(price()),
        access: Some(access()),
    }
}

pub(crate) fn service() -> log::Service {
    log::Service {
        name: "orders".to_owned(),
        endpoints: vec![log::Endpoint {
            url: "http://127.0.0.1:7001".to_owned(),
        }],
        timeouts: Some(timeouts()),
        access: vec!["acme".to_owned()],
    }
}

pub(crate) fn route() -> log::Route {
    log::Route {
        tenant: "acme".to_owned(),
        name: "orders".to_owned(),
        service: "orders".to_owned(),
        hosts: vec!["api.acme.test".to_owned()],
        paths: vec!["/orders/{*rest}".to_owned()],
        methods: vec!["GET".to_owned(), "POST".to_owned()],
        auth: log::Auth::Key.into(),
        strip_prefix: "/orders".to_owned(),
    }
}

pub(crate) fn key() -> log::Key {
    log::Key {
        tenant: "acme".to_owned(),
        consumer: "mobile-app".to_owned(),
        name: "ci".to_owned(),
        id: "k1".to_owned(),
        hash: vec![7; 32],
        created_ms: 1_700_000_000_000,
        expires_ms: 1_800_000_000_000,
        previous_hash: vec![8; 32],
        previous_until_ms: 1_700_000_060_000,
    }
}

pub(crate) fn token() -> log::Token {
    log::Token {
        name: "root".to_owned(),
        role: log::Role::Root.into(),
        hash: vec![9; 32],
        created_ms: 1_700_000_000_000,
        tenant: "acme".to_owned(),
    }
}

pub(crate) fn register() -> log::Register {
    log::Register {
        node: 2,
        follows: 5,
        spools: vec![log::Spool {
            worker: 1,
            uuid: vec![3; 16],
        }],
    }
}

fn range() -> log::SpoolRange {
    log::SpoolRange {
        worker: 1,
        uuid: vec![3; 16],
        from: 10,
        to: 12,
    }
}

pub(crate) fn usage_batch() -> log::UsageBatch {
    log::UsageBatch {
        node: 2,
        incarnation: 77,
        seq: 4,
        ranges: vec![range()],
        series: every_series_ref(),
        rows: vec![row()],
        uses: vec![samples_ledger::lease_use()],
        asks: vec![samples_ledger::ask()],
    }
}

pub(crate) fn series_key() -> log::SeriesKey {
    log::SeriesKey {
        tenant: "acme".to_owned(),
        team: "retail".to_owned(),
        consumer: "mobile-app".to_owned(),
        key: "ci".to_owned(),
        route: "openai.chat_completions".to_owned(),
        api: "shop".to_owned(),
        model: "fast".to_owned(),
        provider: "openai".to_owned(),
        upstream_model: "gpt-4o-mini".to_owned(),
        status_class: 2,
        folded: true,
    }
}

fn row() -> log::UsageRow {
    log::UsageRow {
        minute: 28_333_333,
        series: 1,
        counters: Some(counters()),
        latency: Some(histogram()),
        ttft: Some(histogram()),
    }
}

fn counters() -> log::Counters {
    log::Counters {
        calls: 1,
        errors: 2,
        rejected: 3,
        estimated: 4,
        presumed: 5,
        attempts: 6,
        input_uncached: 7,
        cache_read: 8,
        cache_write: 9,
        output: 10,
        reasoning: 11,
        nano_usd: 12,
        unpriced: 13,
        bytes_in: 14,
        bytes_out: 15,
    }
}

fn histogram() -> log::Histogram {
    log::Histogram {
        bins: vec![3, 200],
        counts: vec![1, 300],
    }
}
