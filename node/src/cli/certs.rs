//! `certs`: what a cluster is started with.

use std::path::PathBuf;

use clap::Subcommand;
use mode_envoy_raft::ClusterSecret;
use serde::Serialize;

use super::Ended;
use super::output::{Format, Table, answer, data, note};

/// Secrets and certificates.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum CertsVerb {
    /// Make a cluster secret, for `serve --cluster-secret-file`; the same on all nodes
    Secret {
        /// Write it to this new file, readable by its owner only, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Leave a file that holds a secret already as it is
        #[arg(long, requires = "out")]
        if_missing: bool,
    },
}

#[derive(Serialize)]
struct Shown<'a> {
    secret: &'a str,
}

pub(super) fn run(verb: CertsVerb, format: Format) -> anyhow::Result<Ended> {
    let CertsVerb::Secret { out, if_missing } = verb;
    if if_missing && let Some(path) = &out {
        ClusterSecret::load_or_create(path)?;
        note(&format!("{} holds a cluster secret", path.display()));
        return Ok(Ended::Done);
    }
    let secret = ClusterSecret::generate()?;
    if let Some(path) = out {
        secret.create(&path)?;
        note(&format!(
            "{} holds a new cluster secret; copy it to every node, and to nobody else",
            path.display()
        ));
        return Ok(Ended::Done);
    }
    let text = secret.to_hex();
    match format {
        Format::Table => data(&format!("{}\n", text.as_str())),
        Format::Json | Format::Yaml | Format::Csv => {
            let table = Table::of_texts(["secret"], vec![[text.as_str().to_owned()]]);
            answer(
                format,
                &table,
                &Shown {
                    secret: text.as_str(),
                },
            );
        }
    }
    Ok(Ended::Done)
}
