//! The one place that prints: data on standard output, everything else on standard error.
//!
//! A reader that goes away (`| head`) ends the printing, not the command.

use std::io::{self, Write as _};

use clap::ValueEnum;
use serde::Serialize;

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// Comma-separated values with a head line
    Csv,
}

/// Rows with a head line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Table {
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// How many columns, from the left, are texts; the others are numbers and stand to the right.
    pub(crate) texts: usize,
}

// === impl Table ===

impl Table {
    /// A table of texts.
    pub(crate) fn of_texts<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> Self {
        Self {
            head: head.iter().map(ToString::to_string).collect(),
            rows: rows.into_iter().map(Vec::from).collect(),
            texts: N,
        }
    }

    fn columns(&self) -> String {
        let head: Vec<_> = self.head.iter().map(|name| name.to_uppercase()).collect();
        // An empty cell would be hard to see, and harder to cut out of a line.
        let shown = |row: &Vec<String>| -> Vec<String> {
            row.iter()
                .map(|cell| {
                    if cell.is_empty() {
                        "-".to_owned()
                    } else {
                        cell.clone()
                    }
                })
                .collect()
        };
        let rows: Vec<_> = self.rows.iter().map(shown).collect();
        let lines = || std::iter::once(&head).chain(&rows);
        let width = |i: usize| {
            let widths = lines().map(|line| line.get(i).map_or(0, |cell| cell.chars().count()));
            widths.max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.head.len()).map(width).collect();
        let mut text = String::new();
        for line in lines() {
            let cells = line
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(i, (cell, width))| {
                    if i < self.texts {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    fn csv(&self) -> String {
        let mut text = String::new();
        for line in std::iter::once(&self.head).chain(&self.rows) {
            text.push_str(&csv_line(line));
        }
        text
    }
}

// === free functions ===

/// An answer in the format that was asked for.
pub(crate) fn render(format: Format, table: &Table, value: &impl Serialize) -> String {
    match format {
        Format::Table => table.columns(),
        Format::Csv => table.csv(),
        Format::Json => json(value),
        Format::Yaml => yaml(value),
    }
}

/// Prints an answer in the format that was asked for.
pub(crate) fn answer(format: Format, table: &Table, value: &impl Serialize) {
    data(&render(format, table, value));
}

/// Prints data.
pub(crate) fn data(text: &str) {
    let _ = try_data(text);
}

/// Prints data; whether somebody still reads.
pub(crate) fn try_data(text: &str) -> bool {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.is_ok()
}

/// Prints a line for whoever watches.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A value as JSON.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Values are built from texts and numbers: they can always be written.
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .unwrap_or_default()
}

/// A value as one line of JSON.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value)
        .map(|text| text + "\n")
        .unwrap_or_default()
}

/// A value as YAML.
pub(crate) fn yaml(value: &impl Serialize) -> String {
    serde_saphyr::to_string(value).unwrap_or_default()
}

/// Cells as one line of CSV.
pub(crate) fn csv_line(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| csv_cell(cell)).collect();
    cells.join(",") + "\n"
}

/// RFC 4180; a cell that a spreadsheet would take for a formula is a text.
fn csv_cell(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '@', '\t'])
        || (cell.starts_with('-') && cell.parse::<f64>().is_err());
    let cell = if formula {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let text = |s: &str| s.to_owned();
        Table {
            head: vec![text("key"), text("calls")],
            rows: vec![
                vec![text("a, \"b\""), text("7")],
                vec![text("=1+1"), text("1234")],
            ],
            texts: 1,
        }
    }

    #[test]
    fn columns_are_aligned_texts_to_the_left_and_numbers_to_the_right() {
        assert_eq!(
            render(Format::Table, &table(), &()),
            "KEY     CALLS\na, \"b\"      7\n=1+1     1234\n"
        );
    }

    #[test]
    fn csv_quotes_what_would_be_read_otherwise() {
        assert_eq!(
            render(Format::Csv, &table(), &()),
            "key,calls\n\"a, \"\"b\"\"\",7\n'=1+1,1234\n"
        );
    }

    #[test]
    fn json_and_yaml_show_the_value() {
        #[derive(Serialize)]
        struct Shown {
            secret: &'static str,
            expires: Option<u64>,
        }
        let value = Shown {
            secret: "me-x",
            expires: None,
        };
        assert_eq!(
            render(Format::Json, &table(), &value),
            "{\n  \"secret\": \"me-x\",\n  \"expires\": null\n}\n"
        );
        assert_eq!(
            render(Format::Yaml, &table(), &value),
            "secret: me-x\nexpires: null\n"
        );
    }
}
