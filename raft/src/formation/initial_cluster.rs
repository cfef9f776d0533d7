//! `--initial-cluster`: `1=HOST:PORT,2=HOST:PORT,3=HOST:PORT`.
//!
//! Invariant: two lists are the same exactly if [`initial_cluster_text`] of them is; order and white space do not matter.

use std::collections::BTreeMap;

use super::FormationError;

/// The nodes that form a cluster at once. More join later, as learners or voters.
const NODES_MAX: usize = 9;
/// A host name has at most 253 characters.
const ADDRESS_BYTES_MAX: usize = 253 + 6;

/// Reads the value of `--initial-cluster`.
///
/// # Errors
/// [`FormationError::Malformed`], which says which part is wrong.
pub fn parse_initial_cluster(text: &str) -> Result<BTreeMap<u64, String>, FormationError> {
    parse(text).map_err(|reason| FormationError::Malformed {
        text: text.chars().take(1024).collect(),
        reason,
    })
}

/// The list in its one canonical form: by id, without white space.
pub fn initial_cluster_text(members: &BTreeMap<u64, String>) -> String {
    let parts: Vec<_> = members
        .iter()
        .map(|(id, address)| format!("{id}={address}"))
        .collect();
    parts.join(",")
}

fn parse(text: &str) -> Result<BTreeMap<u64, String>, String> {
    let mut members = BTreeMap::new();
    for part in text.split(',').map(str::trim) {
        let (id, address) = part
            .split_once('=')
            .ok_or_else(|| format!("{part:?} has no ="))?;
        let id = id.trim().parse().ok().filter(|id| *id != 0);
        let id: u64 =
            id.ok_or_else(|| format!("the id of {part:?} is not a whole number from 1"))?;
        let address = address.trim();
        check_address(address).map_err(|problem| format!("the address of node {id} {problem}"))?;
        if members.values().any(|known| known == address) {
            return Err(format!("two nodes have the address {address}"));
        }
        if members.insert(id, address.to_owned()).is_some() {
            return Err(format!("it lists node {id} twice"));
        }
        if members.len() > NODES_MAX {
            return Err(format!("it lists more than {NODES_MAX} nodes"));
        }
    }
    Ok(members)
}

fn check_address(address: &str) -> Result<(), &'static str> {
    let (host, port) = address.rsplit_once(':').ok_or("has no port")?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if host.is_empty() || (bracketed.is_none() && host.contains(':')) {
        return Err("has no host (write an IPv6 address in brackets)");
    }
    if address.len() > ADDRESS_BYTES_MAX
        || address.contains(|c: char| c.is_whitespace() || c == '/')
    {
        return Err("is not HOST:PORT");
    }
    match port.parse() {
        Ok(1_u16..) => Ok(()),
        _ => Err("has no port from 1 to 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_white_space_do_not_matter() {
        let members = parse_initial_cluster(" 2=[::1]:7071, 1 = a.test:1 ").unwrap();
        assert_eq!(initial_cluster_text(&members), "1=a.test:1,2=[::1]:7071");
        assert_eq!(
            parse_initial_cluster("1=a.test:1,2=[::1]:7071").unwrap(),
            members
        );
    }

    #[test]
    fn what_is_wrong_with_a_list_is_named() {
        for (text, says) in [
            ("", "has no ="),
            ("1=a:1,", "has no ="),
            ("a:1", "has no ="),
            ("0=a:1", "whole number from 1"),
            ("x=a:1", "whole number from 1"),
            ("1=a", "node 1 has no port"),
            ("1=a:0", "from 1 to 65535"),
            ("1=a:70000", "from 1 to 65535"),
            ("1=:1", "no host"),
            ("1=::1:7071", "brackets"),
            ("1=http://a:1", "has no host"),
            ("1=a/b:1", "not HOST:PORT"),
            ("1=a:1,1=b:1", "node 1 twice"),
            ("1=a:1,2=a:1", "two nodes have the address"),
            (
                "1=a:1,2=a:2,3=a:3,4=a:4,5=a:5,6=a:6,7=a:7,8=a:8,9=a:9,10=a:10",
                "more than 9",
            ),
        ] {
            let error = parse_initial_cluster(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
