//! The one place that judges who a request between nodes is from, and whom it is for.
//!
//! Invariant: a request whose sender, receiver or cluster is not what the certificate and this node say is refused before anything
//! of its content is looked at.

use mode_envoy_proto::peer::v1::Envelope;
use tonic::{Request, Status};

use crate::identity::{ClusterId, Identity, PeerIdentity, cluster_hex};

/// Who this node is, for judging envelopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// This node.
    pub node_id: u64,
    /// Its cluster.
    pub cluster_id: ClusterId,
    /// Whether a peer's certificate must name the cluster; see [`Identity::uri_required`].
    pub uri_required: bool,
}

// === impl Local ===

impl Local {
    /// Of an identity that knows its cluster.
    pub fn of(identity: &Identity) -> Option<Self> {
        Some(Self {
            node_id: identity.node_id(),
            cluster_id: identity.cluster_id()?,
            uri_required: identity.uri_required(),
        })
    }
}

/// Judges a request before its content: it is meant for this node of this cluster, and comes from whom the certificate names.
/// Returns the sender's id.
///
/// # Errors
/// `permission_denied` where sender and certificate differ, else `failed_precondition`.
pub fn check_envelope<T>(
    local: &Local,
    request: &Request<T>,
    envelope: Option<&Envelope>,
) -> Result<u64, Status> {
    let peer = request.extensions().get::<PeerIdentity>().ok_or_else(|| {
        Status::permission_denied("the connection shows no certificate of a node")
    })?;
    let envelope =
        envelope.ok_or_else(|| Status::invalid_argument("the request has no envelope"))?;
    if peer.node_id != envelope.from {
        return Err(Status::permission_denied(format!(
            "the request says it is from node {}, its certificate is of node {}",
            envelope.from, peer.node_id
        )));
    }
    let certified = match peer.cluster_id {
        Some(cluster) => cluster == local.cluster_id,
        None => !local.uri_required,
    };
    if !certified {
        return Err(Status::permission_denied(format!(
            "the certificate of node {} is not of cluster {}",
            peer.node_id,
            cluster_hex(&local.cluster_id)
        )));
    }
    if envelope.cluster_id != local.cluster_id {
        return Err(Status::failed_precondition(format!(
            "the request is for another cluster than {}",
            cluster_hex(&local.cluster_id)
        )));
    }
    if envelope.to != local.node_id {
        return Err(Status::failed_precondition(format!(
            "the request is for node {}, this is node {}",
            envelope.to, local.node_id
        )));
    }
    Ok(envelope.from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: ClusterId = [1; 16];
    const THEIRS: ClusterId = [9; 16];
    const LOCAL: Local = Local {
        node_id: 1,
        cluster_id: OURS,
        uri_required: true,
    };

    /// A request over a connection of node 2 whose certificate names `certified`.
    fn judged(
        local: &Local,
        certified: Option<ClusterId>,
        (cluster_id, from, to): (ClusterId, u64, u64),
    ) -> Result<u64, String> {
        let mut request = Request::new(());
        request.extensions_mut().insert(PeerIdentity {
            node_id: 2,
            cluster_id: certified,
        });
        let envelope = Envelope {
            cluster_id: cluster_id.to_vec(),
            from,
            to,
        };
        check_envelope(local, &request, Some(&envelope)).map_err(|s| s.message().to_owned())
    }

    #[test]
    fn an_envelope_from_the_certified_node_of_this_cluster_to_this_node_is_accepted() {
        assert_eq!(judged(&LOCAL, Some(OURS), (OURS, 2, 1)), Ok(2));
    }

    #[test]
    fn each_lie_in_an_envelope_is_refused_by_name() {
        for (certified, sent, says) in [
            (Some(OURS), (OURS, 3, 1), "certificate is of node 2"),
            (None, (OURS, 2, 1), "is not of cluster"),
            (Some(THEIRS), (OURS, 2, 1), "is not of cluster"),
            (Some(OURS), (THEIRS, 2, 1), "another cluster"),
            (Some(OURS), (OURS, 2, 3), "for node 3, this is node 1"),
        ] {
            let refused = judged(&LOCAL, certified, sent).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn a_request_without_a_certificate_or_an_envelope_is_refused() {
        let mut request = Request::new(());
        let refused = check_envelope(&LOCAL, &request, Some(&Envelope::default())).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::PermissionDenied);
        request.extensions_mut().insert(PeerIdentity {
            node_id: 2,
            cluster_id: Some(OURS),
        });
        let refused = check_envelope(&LOCAL, &request, None).unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn an_operators_certificate_need_not_name_the_cluster_but_never_names_another() {
        let local = Local {
            uri_required: false,
            ..LOCAL
        };
        assert_eq!(judged(&local, None, (OURS, 2, 1)), Ok(2));
        assert!(judged(&local, Some(THEIRS), (OURS, 2, 1)).is_err());
    }
}
