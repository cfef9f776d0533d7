//! What a query reads from: the cells of the facts or those of the nodes, and which of their series it keeps.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::limits;
use crate::usage::UsageSnapshot;
use crate::usage::cells::Cells;
use crate::usage::query::{Dimension, Query, QueryError};
use crate::usage::series::{Needle, text_hash};

/// The alternatives for each dimension that is filtered.
pub(super) type Filters<'q> = BTreeMap<Dimension, Vec<&'q str>>;

/// The groups by the hash of their values.
type Groups = BTreeMap<u64, Vec<usize>>;

/// A series that the filter keeps, and the group it belongs to.
pub(super) struct Chosen {
    pub(super) series: u32,
    pub(super) group: usize,
    pub(super) folded: bool,
}

/// Cells, the series that the filter keeps, by number, and the values of each group.
pub(super) struct Source<'a> {
    pub(super) cells: &'a Cells,
    pub(super) series: Vec<Chosen>,
    pub(super) groups: Vec<Vec<&'a str>>,
    /// The groups as an answer lists them.
    pub(super) order: Vec<usize>,
    /// Of the series that is being chosen; here so that it is allocated once.
    values: Vec<&'a str>,
}

// === impl Source ===

impl<'a> Source<'a> {
    /// The facts, which know every dimension but the node.
    pub(super) fn facts(snapshot: &'a UsageSnapshot, query: &Query, filters: &Filters<'_>) -> Self {
        let needles: Vec<_> = filters
            .iter()
            .map(|(dimension, any)| Needle::new(*dimension, any.clone()))
            .collect();
        let mut source = Self::new(&snapshot.cells);
        let mut groups = Groups::new();
        for (id, found) in snapshot.series.find(&needles) {
            let dimensions = query.group_by.iter();
            let hash = dimensions
                .clone()
                .fold(0, |hash, dimension| mix(hash, found.hash_of(*dimension)));
            let values = dimensions.map(|dimension| dimension.value(&found.key));
            source.choose(&mut groups, hash, (id, found.key.folded), values);
        }
        source.sort(&query.group_by);
        source
    }

    /// The nodes' cells, which know the dimensions that [`Dimension::is_by_node`] tells.
    pub(super) fn nodes(snapshot: &'a UsageSnapshot, query: &Query, filters: &Filters<'_>) -> Self {
        let mut source = Self::new(&snapshot.nodes.cells);
        let mut groups = Groups::new();
        for (id, entry) in snapshot.nodes.series.entries() {
            let kept =
                |(dimension, any): (&Dimension, &Vec<&str>)| any.contains(&entry.value(*dimension));
            if filters.iter().all(kept) {
                let dimensions = query.group_by.iter();
                let values = dimensions.map(|dimension| entry.value(*dimension));
                let hash = values
                    .clone()
                    .fold(0, |hash, value| mix(hash, text_hash(value)));
                source.choose(&mut groups, hash, (id, entry.is_folded()), values);
            }
        }
        source.sort(&query.group_by);
        source
    }

    /// The group of a value, where one dimension is grouped by.
    pub(super) fn group_of(&self, value: &str) -> Option<usize> {
        let at = self
            .order
            .binary_search_by(|group| {
                self.groups[*group]
                    .first()
                    .map_or("", |first| *first)
                    .cmp(value)
            })
            .ok()?;
        Some(self.order[at])
    }

    const fn new(cells: &'a Cells) -> Self {
        Self {
            cells,
            series: Vec::new(),
            groups: Vec::new(),
            order: Vec::new(),
            values: Vec::new(),
        }
    }

    /// `hash` spares comparisons: the same values have the same one, and others seldom do.
    fn choose(
        &mut self,
        groups: &mut Groups,
        hash: u64,
        (series, folded): (u32, bool),
        values: impl Iterator<Item = &'a str>,
    ) {
        self.values.clear();
        self.values.extend(values);
        let alike = groups.entry(hash).or_default();
        let found = alike
            .iter()
            .find(|group| self.groups[**group] == self.values);
        let group = if let Some(&group) = found {
            group
        } else {
            alike.push(self.groups.len());
            self.groups.push(self.values.clone());
            self.groups.len() - 1
        };
        self.series.push(Chosen {
            series,
            group,
            folded,
        });
    }

    fn sort(&mut self, group_by: &[Dimension]) {
        let mut order: Vec<_> = (0..self.groups.len()).collect();
        order.sort_by(|a, b| compare(group_by, &self.groups[*a], &self.groups[*b]));
        self.order = order;
    }
}

// === free functions ===

/// The filters of a query, held to the limits.
pub(super) fn filters(query: &Query) -> Result<Filters<'_>, QueryError> {
    if query.filter.len() > limits::QUERY_FILTERS {
        return Err(QueryError::TooLong {
            limit: limits::QUERY_FILTERS,
            what: "filters",
        });
    }
    let mut filters = Filters::new();
    for (dimension, value) in &query.filter {
        match dimension {
            Dimension::Status if !["1xx", "2xx", "3xx", "4xx", "5xx"].contains(&&**value) => {
                return Err(QueryError::UnknownStatus(value.clone()));
            }
            Dimension::Node if !is_node(value) => {
                return Err(QueryError::UnknownNode(value.clone()));
            }
            _ => filters.entry(*dimension).or_default().push(value),
        }
    }
    Ok(filters)
}

const fn mix(hash: u64, value: u32) -> u64 {
    (hash ^ value as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(31)
}

fn is_node(text: &str) -> bool {
    text.parse::<u64>()
        .is_ok_and(|node| node.to_string() == text)
}

/// By text, dimension by dimension; nodes by number.
fn compare(group_by: &[Dimension], a: &[&str], b: &[&str]) -> Ordering {
    let pairs = group_by.iter().zip(a.iter().zip(b));
    pairs
        .map(|(dimension, (a, b))| match dimension {
            Dimension::Node => a.len().cmp(&b.len()).then_with(|| a.cmp(b)),
            _ => a.cmp(b),
        })
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_ordered_by_number_and_the_rest_by_text() {
        use Dimension::{Node, Route};
        let mut groups = [["10", "a"], ["9", "b"], ["9", "a"], ["1", ""]];
        groups.sort_by(|a, b| compare(&[Node, Route], a, b));
        assert_eq!(groups, [["1", ""], ["9", "a"], ["9", "b"], ["10", "a"]]);
        let mut groups = [["9", "1"], ["10", "1"]];
        groups.sort_by(|a, b| compare(&[Route, Node], a, b));
        assert_eq!(groups, [["10", "1"], ["9", "1"]]);
    }

    #[test]
    fn a_node_is_written_in_one_way() {
        assert!(is_node("1") && is_node("18446744073709551615"));
        for text in ["", "01", "+1", "-1", "n1", "18446744073709551616"] {
            assert!(!is_node(text), "{text}");
        }
    }
}
