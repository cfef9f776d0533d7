//! `check`: what is wrong with documents, without a cluster.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Ended;
use super::inputs::{Inputs, Located};
use super::output::{Format, Table, answer, data, note};
use crate::control::check;

/// Checks documents without a cluster.
#[derive(Args, Clone, Debug)]
pub(super) struct CheckArgs {
    /// A document, a folder of documents, or `-` for standard input
    #[arg(short, long = "file", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Shown<'a> {
    faults: &'a [Located],
    assumed: Vec<String>,
}

pub(super) fn run(args: &CheckArgs, format: Format) -> anyhow::Result<Ended> {
    let (faults, assumed, objects) = match Inputs::read(&args.files)? {
        Err(faults) => (faults, Vec::new(), 0),
        Ok(inputs) => {
            let drafts = inputs.drafts();
            let checked = check::check(&drafts);
            let mut faults: Vec<_> = checked
                .faults
                .iter()
                .map(|v| inputs.locate(&v.path, &v.problem))
                .collect();
            faults.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            (faults, checked.assumed, drafts.len())
        }
    };
    if format == Format::Table {
        for fault in &faults {
            data(&format!("{fault}\n"));
        }
    } else {
        answer(
            format,
            &table(&faults),
            &Shown {
                faults: &faults,
                assumed: assumed.clone(),
            },
        );
    }
    if !assumed.is_empty() {
        note(&format!(
            "not defined here, so the cluster must have: {}",
            assumed.join(", ")
        ));
    }
    if faults.is_empty() {
        note(&format!("no fault in {objects} objects"));
        return Ok(Ended::Done);
    }
    Ok(Ended::Failed)
}

fn table(faults: &[Located]) -> Table {
    let row = |f: &Located| {
        [
            f.file.clone(),
            f.line.to_string(),
            f.column.to_string(),
            f.path.clone(),
            f.problem.clone(),
        ]
    };
    Table::of_texts(
        ["file", "line", "column", "path", "problem"],
        faults.iter().map(row).collect(),
    )
}
