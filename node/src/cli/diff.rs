//! `diff`: what applying documents would change, field by field. Exit code 2 where the cluster differs.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;
use mode_envoy_proto::admin::v1 as pb;
use mode_envoy_proto::admin::v1::config_client::ConfigClient;
use serde::Serialize;

use super::Ended;
use super::apply::{ShownChange, object, placed, refused, shown_change};
use super::client::{Client, api};
use super::inputs::Inputs;
use super::output::{Format, Table, answer, data, note};
use crate::control::document::write;

/// Compares documents with the cluster.
#[derive(Args, Clone, Debug)]
pub(super) struct DiffArgs {
    /// A document, a folder of documents, or `-` for standard input
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Count what `apply --prune` would delete as a difference
    #[arg(long)]
    prune: bool,
    /// What the node itself has, without asking the cluster whether that is all
    #[arg(long)]
    local: bool,
}

#[derive(Serialize)]
struct Shown<'a> {
    differs: bool,
    objects: Vec<ShownObject<'a>>,
    /// What `apply --prune` would delete.
    beside: Vec<ShownChange<'a>>,
    revision: u64,
}

#[derive(Serialize)]
struct ShownObject<'a> {
    kind: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    tenant: &'a str,
    name: &'a str,
    change: &'a str,
    fields: Vec<ShownField<'a>>,
}

#[derive(Serialize)]
struct ShownField<'a> {
    path: &'a str,
    old: Option<&'a str>,
    new: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    secret: bool,
}

pub(super) async fn run(client: Client, args: DiffArgs, format: Format) -> anyhow::Result<Ended> {
    let inputs = match Inputs::read(&args.files)? {
        Ok(inputs) => inputs,
        Err(faults) => return Ok(refused(&faults)),
    };
    let drafts = match inputs.resolved() {
        Ok(drafts) => drafts,
        Err(faults) => return Ok(refused(&faults)),
    };
    let Ok(document) = write(&drafts) else {
        bail!("the documents hold a text that YAML cannot express; nothing was sent");
    };
    let message = pb::DiffRequest {
        document,
        local: args.local,
    };
    let found = client
        .call(message, |channel, request| async move {
            api!(ConfigClient, channel).diff(request).await
        })
        .await;
    match found {
        Ok(found) => Ok(show(&found, args.prune, format)),
        Err(error) => placed(&inputs, error),
    }
}

fn show(found: &pb::DiffResponse, prune: bool, format: Format) -> Ended {
    let differs = !found.objects.is_empty() || (prune && !found.beside.is_empty());
    if format == Format::Table {
        data(&lines(found, prune));
    } else {
        answer(format, &table(found, prune), &shown(found, differs));
    }
    if !prune && !found.beside.is_empty() {
        let left = match found.beside.len() {
            1 => "1 object of these kinds and tenants is".to_owned(),
            many => format!("{many} objects of these kinds and tenants are"),
        };
        note(&format!(
            "{left} not in the documents; `--prune` lists them"
        ));
    }
    if differs {
        return Ended::Differs;
    }
    note(&format!("no difference at revision {}", found.revision));
    Ended::Done
}

fn lines(found: &pb::DiffResponse, prune: bool) -> String {
    let mut lines = Vec::new();
    for differing in &found.objects {
        let named = object(&change_of(differing));
        lines.push(format!("{named} {}\n", differing.change));
        let fields = differing.fields.iter();
        lines.extend(fields.map(|field| format!("  {}: {}\n", field.path, values(field))));
    }
    if prune {
        let gone = found.beside.iter();
        lines.extend(gone.map(|gone| format!("{} {}\n", object(gone), gone.change)));
    }
    lines.concat()
}

fn values(field: &pb::FieldDiff) -> String {
    let shown = |value: &Option<String>| value.as_deref().unwrap_or("(none)").to_owned();
    if field.secret {
        "changed (secret)".to_owned()
    } else {
        format!("{} -> {}", shown(&field.old), shown(&field.new))
    }
}

fn change_of(differing: &pb::ObjectDiff) -> pb::ObjectChange {
    pb::ObjectChange {
        kind: differing.kind.clone(),
        tenant: differing.tenant.clone(),
        name: differing.name.clone(),
        change: differing.change.clone(),
    }
}

/// One row for each field; objects without fields have one row.
fn table(found: &pb::DiffResponse, prune: bool) -> Table {
    let mut rows = Vec::new();
    for differing in &found.objects {
        let start = || {
            let at = [&differing.kind, &differing.tenant, &differing.name];
            let [kind, tenant, name] = at.map(String::clone);
            (kind, tenant, name, differing.change.clone())
        };
        for field in &differing.fields {
            let (kind, tenant, name, change) = start();
            let old = field.old.clone().unwrap_or_default();
            let new = field.new.clone().unwrap_or_default();
            rows.push([kind, tenant, name, change, field.path.clone(), old, new]);
        }
        if differing.fields.is_empty() {
            let (kind, tenant, name, change) = start();
            let none = String::new;
            rows.push([kind, tenant, name, change, none(), none(), none()]);
        }
    }
    for gone in found.beside.iter().filter(|_| prune) {
        let pb::ObjectChange {
            kind,
            tenant,
            name,
            change,
        } = gone.clone();
        let none = String::new;
        rows.push([kind, tenant, name, change, none(), none(), none()]);
    }
    let head = ["kind", "tenant", "name", "change", "field", "old", "new"];
    Table::of_texts(head, rows)
}

fn shown(found: &pb::DiffResponse, differs: bool) -> Shown<'_> {
    Shown {
        differs,
        objects: found.objects.iter().map(shown_object).collect(),
        beside: found.beside.iter().map(shown_change).collect(),
        revision: found.revision,
    }
}

fn shown_object(differing: &pb::ObjectDiff) -> ShownObject<'_> {
    let pb::ObjectDiff {
        kind,
        tenant,
        name,
        change,
        fields,
    } = differing;
    ShownObject {
        kind,
        tenant,
        name,
        change,
        fields: fields.iter().map(shown_field).collect(),
    }
}

fn shown_field(field: &pb::FieldDiff) -> ShownField<'_> {
    ShownField {
        path: &field.path,
        old: field.old.as_deref(),
        new: field.new.as_deref(),
        secret: field.secret,
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::render;
    use super::*;

    fn found() -> pb::DiffResponse {
        let text = str::to_owned;
        let field = |path: &str, old: Option<&str>, new: Option<&str>, secret| pb::FieldDiff {
            path: text(path),
            old: old.map(text),
            new: new.map(text),
            secret,
        };
        let object = |kind: &str, change: &str, fields| pb::ObjectDiff {
            kind: text(kind),
            tenant: String::new(),
            name: text("x"),
            change: text(change),
            fields,
        };
        pb::DiffResponse {
            objects: vec![
                object(
                    "provider",
                    "updated",
                    vec![
                        field("base_url", Some("http://a"), None, false),
                        field("keys", None, None, true),
                    ],
                ),
                object("service", "created", vec![]),
            ],
            revision: 7,
            beside: vec![pb::ObjectChange {
                kind: text("route"),
                tenant: text("acme"),
                name: text("y"),
                change: text("deleted"),
            }],
        }
    }

    #[test]
    fn a_difference_is_told_object_by_object_and_field_by_field() {
        let common = "provider x updated\n  base_url: http://a -> (none)\n  keys: changed (secret)\nservice x created\n";
        assert_eq!(lines(&found(), false), common);
        assert_eq!(
            lines(&found(), true),
            format!("{common}route acme/y deleted\n")
        );
    }

    #[test]
    fn csv_has_a_row_for_each_field() {
        assert_eq!(
            render(Format::Csv, &table(&found(), true), &()),
            "kind,tenant,name,change,field,old,new\nprovider,,x,updated,base_url,http://a,\n\
             provider,,x,updated,keys,,\nservice,,x,created,,,\nroute,acme,y,deleted,,,\n"
        );
    }
}
