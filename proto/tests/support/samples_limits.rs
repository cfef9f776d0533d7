//! One sample of every log message about limits.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check("LimitMatch", &matches());
    golden.check("Limit", &limit());
    golden.check("NumberedLimit", &numbered());
}

pub(crate) fn events() -> Vec<log::event::Kind> {
    use log::event::Kind;
    vec![
        Kind::LimitPut(numbered()),
        Kind::LimitDeleted(log::ObjectName {
            tenant: "acme".to_owned(),
            name: "rpm".to_owned(),
        }),
    ]
}

pub(crate) fn numbered() -> log::NumberedLimit {
    log::NumberedLimit {
        id: 7,
        limit: Some(limit()),
    }
}

fn limit() -> log::Limit {
    log::Limit {
        name: "rpm".to_owned(),
        tenant: "acme".to_owned(),
        matches: Some(matches()),
        each: log::LimitDimension::Key.into(),
        unit: log::LimitUnit::Requests.into(),
        amount: 600,
        per: log::LimitPer::Minute.into(),
        burst: 60,
        mode: log::LimitMode::Bounded.into(),
        shadow: true,
    }
}

fn matches() -> log::LimitMatch {
    log::LimitMatch {
        tenant: "acme".to_owned(),
        team: "retail".to_owned(),
        consumer: "shop".to_owned(),
        key: "k1".to_owned(),
        route: "orders".to_owned(),
        api: "store".to_owned(),
        model: "fast".to_owned(),
    }
}
