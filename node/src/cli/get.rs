//! `get`: objects of one kind, as columns or as a document.

use clap::Args;
use mode_envoy_ai::price::TokenPrice;
use mode_envoy_model::limit::{Dimension, Limit, Per, Unit, Window};
use mode_envoy_model::object::{Kind, Object};
use mode_envoy_model::price::Price;
use mode_envoy_model::provider::Protocol;
use mode_envoy_model::route::Auth;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;

use super::Ended;
use super::client::{Client, api};
use super::output::{Format, Table, answer, data, json};
use crate::control::document::{Draft, read, tree};

/// Prints objects of one kind.
#[derive(Args, Clone, Debug)]
pub(super) struct GetArgs {
    /// tenants, consumers, providers, models, services, routes or limits
    #[arg(value_name = "KIND")]
    kind: String,
    /// One object; all of them where absent
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Only objects of this tenant
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// What was declared at this revision; secrets are told as they were stored then
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(u64).range(1..))]
    revision: Option<u64>,
    /// What the node itself has, without asking the cluster whether that is all
    #[arg(long)]
    local: bool,
}

pub(super) async fn run(client: Client, args: GetArgs, format: Format) -> anyhow::Result<Ended> {
    let kind = Kind::parse(&args.kind);
    let message = pb::GetRequest {
        kind: args.kind,
        name: args.name.unwrap_or_default(),
        tenant: args.tenant.unwrap_or_default(),
        local: args.local,
        revision: args.revision.unwrap_or_default(),
    };
    let got = client
        .call(message, |channel, request| async move {
            api!(ConfigClient, channel).get(request).await
        })
        .await?;
    match (format, kind) {
        (Format::Json, _) => data(&json(&tree(&got.document)?)),
        (Format::Table | Format::Csv, Some(kind)) => {
            let document = read(&got.document)?;
            answer(format, &table(kind, &document.drafts), &());
        }
        (Format::Table | Format::Csv | Format::Yaml, _) => data(&got.document),
    }
    Ok(Ended::Done)
}

fn table(kind: Kind, drafts: &[Draft]) -> Table {
    let head: &[&str] = match kind {
        Kind::Tenant => &["name", "hosts"],
        Kind::Consumer => &["tenant", "name", "team"],
        Kind::Provider => &["name", "protocol", "base_url", "keys"],
        Kind::Model => &["name", "target", "price", "access"],
        Kind::Service => &["name", "endpoints", "access"],
        Kind::Route => &[
            "tenant", "name", "hosts", "paths", "methods", "auth", "service",
        ],
        Kind::Limit => &[
            "tenant", "name", "match", "each", "amount", "unit", "per", "window", "mode", "shadow",
        ],
    };
    Table {
        head: head.iter().map(ToString::to_string).collect(),
        rows: drafts.iter().map(row).collect(),
        texts: head.len(),
    }
}

fn row(draft: &Draft) -> Vec<String> {
    let listed = |texts: &[std::sync::Arc<str>], none: &str| match texts {
        [] => none.to_owned(),
        texts => texts.join(" "),
    };
    match &draft.object {
        Object::Tenant(o) => vec![o.name.to_string(), listed(&o.hosts, "")],
        Object::Consumer(o) => vec![
            o.tenant.to_string(),
            o.name.to_string(),
            o.team.as_deref().unwrap_or_default().to_owned(),
        ],
        Object::Provider(o) => {
            let protocol = match o.protocol {
                Protocol::Openai => "openai",
                Protocol::Embedded => "embedded",
            };
            let keys = draft.keys.len().to_string();
            vec![
                o.name.to_string(),
                protocol.to_owned(),
                o.base_url.to_string(),
                keys,
            ]
        }
        Object::Model(o) => {
            let target = o.targets.first();
            let price = target.and_then(|t| t.price.as_ref()).or(o.price.as_ref());
            let access = o.access.as_ref().map(|entries| {
                let text = |e: &mode_envoy_model::model::AccessEntry| match &e.consumer {
                    Some(consumer) => format!("{}/{consumer}", e.tenant),
                    None => e.tenant.to_string(),
                };
                entries.iter().map(text).collect::<Vec<_>>().join(" ")
            });
            vec![
                o.name.to_string(),
                target
                    .map(|t| format!("{}/{}", t.provider, t.model))
                    .unwrap_or_default(),
                price.map(price_text).unwrap_or_default(),
                access.map_or_else(
                    || "all".to_owned(),
                    |a| if a.is_empty() { "nobody".to_owned() } else { a },
                ),
            ]
        }
        Object::Service(o) => {
            let urls: Vec<_> = o.endpoints.iter().map(|e| &*e.url).collect();
            vec![o.name.to_string(), urls.join(" "), listed(&o.access, "")]
        }
        Object::Route(o) => {
            let auth = match o.auth {
                Auth::Key => "key",
                Auth::None => "none",
            };
            vec![
                o.tenant.to_string(),
                o.name.to_string(),
                listed(&o.hosts, "any"),
                listed(&o.paths, ""),
                listed(&o.methods, "any"),
                auth.to_owned(),
                o.service.to_string(),
            ]
        }
        Object::Limit(o) => limit_row(o),
    }
}

fn limit_row(limit: &Limit) -> Vec<String> {
    let fixed = Dimension::ALL.into_iter().filter_map(|dimension| {
        let name = limit.matches.value(dimension)?;
        Some(format!("{}={name}", dimension.word()))
    });
    let fixed: Vec<_> = fixed.collect();
    let each = limit.each.map(Dimension::word).unwrap_or_default();
    let has_time = limit.unit != Unit::Concurrent;
    let window = match limit.window {
        Window::Bucket { burst } => format!("bucket of {burst}"),
        Window::Calendar if has_time && limit.per != Per::Total => "calendar".to_owned(),
        Window::Calendar => String::new(),
    };
    vec![
        limit.tenant.as_deref().unwrap_or_default().to_owned(),
        limit.name.to_string(),
        if fixed.is_empty() {
            "any".to_owned()
        } else {
            fixed.join(" ")
        },
        each.to_owned(),
        limit.amount.to_string(),
        limit.unit.word().to_owned(),
        if has_time { limit.per.word() } else { "" }.to_owned(),
        window,
        limit.mode.word().to_owned(),
        if limit.shadow { "yes" } else { "" }.to_owned(),
    ]
}

fn price_text(price: &Price) -> String {
    let text = |pico| {
        TokenPrice::from_pico_dollars(pico)
            .map(|p| p.to_string())
            .unwrap_or_default()
    };
    format!("{} in, {} out", text(price.input), text(price.output))
}

#[cfg(test)]
mod tests {
    use super::super::output::render;
    use super::*;

    #[test]
    fn objects_are_shown_in_columns() {
        let text = "models:\n\
                    - {name: fast, targets: [{provider: openai, model: gpt-4o-mini}], price: {input: '0.15', output: '0.6'}}\n\
                    - {name: closed, targets: [{provider: local, model: echo}], access: []}\n";
        let table = table(Kind::Model, &read(text).unwrap().drafts);
        assert_eq!(
            render(Format::Table, &table, &()),
            "NAME    TARGET              PRICE             ACCESS\n\
             fast    openai/gpt-4o-mini  0.15 in, 0.6 out  all\n\
             closed  local/echo          -                 nobody\n"
        );
    }

    #[test]
    fn every_kind_has_as_many_cells_as_columns() {
        let text = include_str!("../control/document/golden/everything.yaml");
        let document = read(text).unwrap();
        for kind in Kind::ALL {
            let drafts: Vec<_> = document
                .drafts
                .iter()
                .filter(|d| d.reference().kind == kind)
                .cloned()
                .collect();
            let table = table(kind, &drafts);
            assert!(!table.rows.is_empty());
            assert!(
                table.rows.iter().all(|row| row.len() == table.head.len()),
                "{kind}"
            );
        }
    }
}
