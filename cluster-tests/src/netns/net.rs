//! One bridge, and a network namespace for each node on it; links that are cut one way, both ways, or pulled.
//!
//! A cut is silent, as in a broken network: what a node sends to another goes to a hardware address that nobody has, so that
//! nothing comes back, not even a refusal. Addresses are resolved by fixed entries only, or one direction would need the other.
//! The test's own address is never cut: a node whose peers are gone still has clients. A node that is pulled has nobody.

use anyhow::{Context, Result};

use super::sandbox::tool;

/// The first three numbers of every address. It is inside of the sandbox, so it is free.
const NETWORK: &str = "10.77.0";
/// The test itself: clients and upstreams.
const HOST: u8 = 254;
const BRIDGE: &str = "br0";
/// No interface has this hardware address.
const NOBODY: &str = "02:00:00:00:00:ff";

/// The nodes' network. It vanishes with its sandbox.
#[derive(Debug)]
pub struct Net {
    count: usize,
}

// === impl Net ===

impl Net {
    /// A network for nodes 1 to `count`, all connected. There is one in a sandbox.
    ///
    /// # Errors
    ///
    /// A tool is missing, or this kernel lacks bridges or veth pairs.
    pub fn build(count: usize) -> Result<Self> {
        let net = Self { count };
        let host = format!("{NETWORK}.{HOST}/24");
        tool("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
        tool("ip", &["address", "add", &host, "dev", BRIDGE])?;
        tool("ip", &["link", "set", BRIDGE, "up"])?;
        for id in 1..=count {
            net.add(id)
                .with_context(|| format!("connecting node {id}"))?;
        }
        net.heal()?;
        Ok(net)
    }

    /// What the addresses of its nodes begin with: the rest is their ids.
    pub const fn network(&self) -> &'static str {
        NETWORK
    }

    /// What starts a program in a node's namespace.
    pub fn starter(&self, id: usize) -> Vec<String> {
        ["ip", "netns", "exec", &namespace(id)]
            .map(str::to_owned)
            .into()
    }

    /// The address of the test itself.
    pub fn host(&self) -> std::net::Ipv4Addr {
        std::net::Ipv4Addr::new(10, 77, 0, HOST)
    }

    /// From now on, nothing that `from` sends reaches `to`. The other way stays as it is.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        self.point(from, to, NOBODY)
    }

    /// From now on, two nodes do not hear one another.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn cut_between(&self, one: usize, other: usize) -> Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// From now on, nodes hear only those of their own group. Whoever is in none is alone.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn split(&self, groups: &[&[usize]]) -> Result<()> {
        let group = |id: usize| groups.iter().position(|group| group.contains(&id));
        for (from, to) in self.pairs() {
            if group(from).is_some() && group(from) == group(to) {
                self.point(from, to, &hardware(to))?;
            } else {
                self.cut(from, to)?;
            }
        }
        Ok(())
    }

    /// Every node hears every other again. A node that is pulled stays so.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn heal(&self) -> Result<()> {
        for (from, to) in self.pairs() {
            self.point(from, to, &hardware(to))?;
        }
        Ok(())
    }

    /// Pulls a node's plug: neither nodes nor clients nor upstreams are reached.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn pull(&self, id: usize) -> Result<()> {
        tool("ip", &["link", "set", &port(id), "down"]).map(drop)
    }

    /// Puts the plug in again.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn plug(&self, id: usize) -> Result<()> {
        tool("ip", &["link", "set", &port(id), "up"]).map(drop)
    }

    fn add(&self, id: usize) -> Result<()> {
        let (name, port, hardware) = (namespace(id), port(id), hardware(id));
        let address = format!("{NETWORK}.{id}/24");
        tool("ip", &["netns", "add", &name])?;
        let pair = ["link", "add", &port, "type", "veth", "peer", "name", "eth0"];
        tool(
            "ip",
            &[&pair[..], &["address", &hardware, "netns", &name]].concat(),
        )?;
        tool("ip", &["link", "set", &port, "master", BRIDGE, "up"])?;
        tool("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        let own = ["-n", &name, "address", "add", &address, "dev", "eth0"];
        tool("ip", &own)?;
        tool("ip", &["-n", &name, "link", "set", "eth0", "up"]).map(drop)
    }

    fn point(&self, from: usize, to: usize, hardware: &str) -> Result<()> {
        let (name, to) = (namespace(from), format!("{NETWORK}.{to}"));
        let whose = ["-n", &name, "neighbour", "replace", &to];
        let where_to = ["lladdr", hardware, "dev", "eth0", "nud", "permanent"];
        tool("ip", &[&whose[..], &where_to].concat()).map(drop)
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.count;
        (1..=count).flat_map(move |from| {
            (1..=count)
                .filter(move |to| *to != from)
                .map(move |to| (from, to))
        })
    }
}

// === free functions ===

fn namespace(id: usize) -> String {
    format!("n{id}")
}

fn hardware(id: usize) -> String {
    format!("02:00:00:00:00:{id:02x}")
}

/// The bridge's end of a node's link.
fn port(id: usize) -> String {
    format!("v{id}")
}
