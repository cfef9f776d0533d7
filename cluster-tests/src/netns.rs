//! Real faults for real processes: networks that are cut in every shape, disks that fill up, descriptors that run out.
//!
//! Such a test runs in a [`sandbox`]: namespaces of its own for network, mounts and processes. So it needs names and addresses
//! of nobody else, touches nothing outside, and leaves nothing behind however it ends: the kernel takes the namespaces away
//! with their last process. Each node is in a network namespace of its own below that, on one bridge ([`net`]); the test
//! itself, its clients and its upstreams are on the bridge too, and reach a node that the others do not.

pub mod net;
pub mod sandbox;
pub mod scene;
pub mod small_disk;
pub mod work;
