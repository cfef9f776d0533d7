//! A worker's thread: accept, serve each connection in a task of its own, and on drain finish what is in flight.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use super::client_io::overloaded;
use super::connection::accepted;
use super::worker::Worker;
use crate::descriptors::{Use, may_keep};

/// How often idle connections are looked through.
const TIDY: Duration = Duration::from_secs(5);
/// Pause after the system refused to accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often a reason that lasts is told.
const TELL_AGAIN: Duration = Duration::from_mins(1);

/// When to stop, once that is known; what is in flight then has until that moment.
pub(super) type Stop = watch::Receiver<Option<Instant>>;

/// Serves until told to stop.
pub(super) async fn run(worker: Rc<Worker>, listener: TcpListener, mut stop: Stop) {
    let tidy = tokio::task::spawn_local(tidy(Rc::clone(&worker)));
    let deadline = tokio::select! {
        deadline = stopped(&mut stop) => deadline,
        () = accept(&worker, &listener) => Instant::now(),
    };
    drop(listener);
    worker.connections.drain();
    if timeout_at(deadline, worker.connections.all_closed())
        .await
        .is_err()
    {
        let left = worker.connections.count();
        tracing::warn!(
            connections = left,
            "draining took too long; what was in flight is cut"
        );
    }
    tidy.abort();
}

async fn stopped(stop: &mut Stop) -> Instant {
    match stop.wait_for(Option::is_some).await {
        Ok(deadline) => deadline.unwrap_or_else(Instant::now),
        // The gateway itself was dropped.
        Err(_) => Instant::now(),
    }
}

async fn tidy(worker: Rc<Worker>) {
    let mut ticks = interval(TIDY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        worker.tidy();
    }
}

async fn accept(worker: &Rc<Worker>, listener: &TcpListener) {
    let mut told: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((stream, _)) if !may_keep(&stream, Use::Client) => {
                turn_away(worker, &stream);
                if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                    tracing::warn!(
                        "clients are answered `overloaded`: too few open files are left; raise the limit of this node"
                    );
                    told = Some(Instant::now());
                }
            }
            Ok((stream, peer)) => admit(worker, stream, peer),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted; is the limit of open files too low?");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// As much as the socket takes at once: nobody waits for a client that is not served. Where it expects TLS, being closed has
/// to tell.
fn turn_away(worker: &Worker, stream: &TcpStream) {
    let answer = overloaded(worker);
    if worker.tls.is_none() {
        let _ = stream.try_write(&answer);
    }
}

fn admit(worker: &Rc<Worker>, stream: TcpStream, peer: SocketAddr) {
    let Some(ticket) = worker.connections.open(peer.ip(), &worker.limits) else {
        turn_away(worker, &stream);
        return;
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection was gone before it was served");
        return;
    }
    tokio::task::spawn_local(accepted(Rc::clone(worker), stream, peer.ip(), ticket));
}
