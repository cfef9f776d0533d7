//! Samples of what requests of clients add to the log: their names, and how a checkpoint remembers their answers.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check("ClientRequest", &request());
    golden.check("ChangedObject", &changed());
    golden.check("AnsweredRequest", &answered());
    golden.check(
        "RequestsChunk",
        &log::RequestsChunk {
            requests: vec![answered()],
        },
    );
}

pub(crate) fn request() -> log::ClientRequest {
    log::ClientRequest {
        id: vec![12; 32],
        body: vec![13; 32],
        nonce: Vec::new(),
    }
}

fn changed() -> log::ChangedObject {
    log::ChangedObject {
        kind: "route".to_owned(),
        tenant: "acme".to_owned(),
        name: "orders".to_owned(),
        what: "created".to_owned(),
    }
}

fn answered() -> log::AnsweredRequest {
    log::AnsweredRequest {
        actor: "ci".to_owned(),
        request: Some(request()),
        revision: 42,
        index: 77,
        wall_ms: 1_700_000_000_000,
        changes: vec![changed()],
    }
}
