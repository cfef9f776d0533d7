//! The projection of usage: opened beside the state, filled by a thread of its own, and never needed.

use mode_envoy_raft::Handle;
use mode_envoy_storage::projection::ProjectionOptions;

use super::App;
use crate::supervisor::TaskKind;
use crate::usage::projection::{Filler, Sums, View};

const PROJECTION_DIR: &str = "projection";

/// Opens the projection and begins to fill it; `None` where there are no threads for it, which costs time only.
pub(super) fn start(app: &App, member: &Handle) -> Option<Sums> {
    let dir = app.settings.data_dir.join(PROJECTION_DIR);
    let options = ProjectionOptions::new(dir, member.cluster_id(), member.node_id());
    let sums = Sums::open(options)
        .inspect_err(|error| tracing::warn!(%error, "usage is answered from its cells alone"))
        .ok()?;
    let member = member.clone();
    let look = move || {
        // Read before the snapshot is taken, so that the snapshot is never older than it says.
        let applied = member.applied_index();
        member.read(|state| View {
            snapshot: state.usage.snapshot(),
            applied,
            wall_ms: state.wall_ms,
        })
    };
    let filler = Filler::new(sums.clone(), look);
    let stopping = app.supervisor.stopping();
    let filling = move || filler.run(&stopping);
    app.supervisor
        .spawn_thread("roll-ups", TaskKind::BestEffort, filling)
        .inspect_err(|error| tracing::warn!(%error, "usage is answered from its cells alone"))
        .ok()?;
    Some(sums)
}
