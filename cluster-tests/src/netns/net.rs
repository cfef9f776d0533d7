//! One bridge, and a network namespace for each node on it; links that are cut one way, both ways, or pulled.
//!
//! A cut is silent, as in a broken network: what a node sends to another goes to a hardware address that nobody has, so that
//! nothing comes back, not even a refusal. Addresses are resolved by fixed entries only, or one direction would need the other.
//! The test's own address is never cut: a node whose peers are gone still has clients. A node that is pulled has nobody.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use super::sandbox::tool;

/// The first three numbers of every address. It is inside of the sandbox, so it is free.
const NETWORK: [u8; 3] = [10, 77, 0];
/// The test itself: clients and upstreams.
const HOST: u8 = 254;
const BRIDGE: &str = "br0";
/// A node's end of its link.
const DEVICE: &str = "eth0";
/// No interface has this hardware address.
const NOBODY: &str = "02:00:00:00:00:ff";

/// The nodes' network. It vanishes with its sandbox.
#[derive(Debug)]
pub struct Net {
    host: Ipv4Addr,
    links: Vec<Link>,
}

/// One node's way to the bridge.
#[derive(Debug)]
struct Link {
    namespace: String,
    /// The bridge's end of it.
    port: String,
    address: String,
    hardware: String,
}

// === impl Net ===

impl Net {
    /// A network for nodes 1 to `count`, all connected. There is one in a sandbox.
    ///
    /// # Errors
    ///
    /// A tool is missing, or this kernel lacks bridges or veth pairs.
    pub fn build(count: usize) -> Result<Self> {
        let [a, b, c] = NETWORK;
        let host = Ipv4Addr::new(a, b, c, HOST);
        tool("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
        let own = format!("{host}/24");
        tool("ip", &["address", "add", &own, "dev", BRIDGE])?;
        tool("ip", &["link", "set", BRIDGE, "up"])?;
        let links: Vec<_> = (1..=count).map(Link::of).collect();
        for link in &links {
            link.connect()
                .with_context(|| format!("connecting {}", link.namespace))?;
        }
        let net = Self { host, links };
        net.heal()?;
        Ok(net)
    }

    /// What the addresses of its nodes begin with: the rest is their ids.
    pub fn network(&self) -> String {
        let [a, b, c, _] = self.host.octets();
        format!("{a}.{b}.{c}")
    }

    /// What starts a program in a node's namespace.
    pub fn starter(&self, id: usize) -> Vec<String> {
        let words = ["ip", "netns", "exec", &self.link(id).namespace];
        words.map(str::to_owned).into()
    }

    /// The address of the test itself.
    pub const fn host(&self) -> Ipv4Addr {
        self.host
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
                self.point(from, to, &self.link(to).hardware)?;
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
            self.point(from, to, &self.link(to).hardware)?;
        }
        Ok(())
    }

    /// Pulls a node's plug: neither nodes nor clients nor upstreams are reached.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn pull(&self, id: usize) -> Result<()> {
        tool("ip", &["link", "set", &self.link(id).port, "down"]).map(drop)
    }

    /// Puts the plug in again.
    ///
    /// # Errors
    ///
    /// `ip` failed.
    pub fn plug(&self, id: usize) -> Result<()> {
        tool("ip", &["link", "set", &self.link(id).port, "up"]).map(drop)
    }

    fn point(&self, from: usize, to: usize, hardware: &str) -> Result<()> {
        let (from, to) = (&self.link(from).namespace, &self.link(to).address);
        let whose = ["-n", from, "neighbour", "replace", to];
        let where_to = ["lladdr", hardware, "dev", DEVICE, "nud", "permanent"];
        tool("ip", &[&whose[..], &where_to].concat()).map(drop)
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.links.len();
        (1..=count).flat_map(move |from| {
            (1..=count)
                .filter(move |to| *to != from)
                .map(move |to| (from, to))
        })
    }

    /// Asking for a node that is not there is a fault of the test.
    fn link(&self, id: usize) -> &Link {
        &self.links[id - 1]
    }
}

// === impl Link ===

impl Link {
    fn of(id: usize) -> Self {
        let [a, b, c] = NETWORK;
        Self {
            namespace: format!("n{id}"),
            port: format!("v{id}"),
            address: format!("{a}.{b}.{c}.{id}"),
            hardware: format!("02:00:00:00:00:{id:02x}"),
        }
    }

    fn connect(&self) -> Result<()> {
        let (name, port) = (&self.namespace, &self.port);
        tool("ip", &["netns", "add", name])?;
        let pair = ["link", "add", port, "type", "veth", "peer", "name", DEVICE];
        let far_end = ["address", &self.hardware, "netns", name];
        tool("ip", &[&pair[..], &far_end].concat())?;
        tool("ip", &["link", "set", port, "master", BRIDGE, "up"])?;
        tool("ip", &["-n", name, "link", "set", "lo", "up"])?;
        let own = format!("{}/24", self.address);
        tool("ip", &["-n", name, "address", "add", &own, "dev", DEVICE])?;
        tool("ip", &["-n", name, "link", "set", DEVICE, "up"]).map(drop)
    }
}
