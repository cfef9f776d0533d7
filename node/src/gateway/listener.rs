//! Listening sockets: one for each worker on the same port, so that the kernel spreads connections over the cores.
//!
//! `SO_REUSEPORT` would also let a second process of the same user share the port without a word. So a plain bind
//! comes first: it fails where anybody else listens.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel keeps for a worker that is busy.
const BACKLOG: i32 = 4_096;

/// Binds `count` sockets to `addr`. Port 0 takes a free one, the same for all.
pub(super) fn bind(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    drop(socket(addr, false)?);
    let mut listeners = Vec::with_capacity(count);
    let mut addr = addr;
    for _ in 0..count.max(1) {
        let socket = socket(addr, true)?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        addr = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

fn socket(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A port that was in use a moment ago is free, though the kernel still remembers its connections.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_share_the_port_that_the_first_was_given() {
        let listeners = bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<u16> = listeners
            .iter()
            .map(|listener| listener.local_addr().unwrap().port())
            .collect();
        assert_eq!(ports, [ports[0]; 3]);
        assert_ne!(ports[0], 0);
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_refused_though_it_could_be_shared() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let taken = first[0].local_addr().unwrap();
        assert_eq!(bind(taken, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
