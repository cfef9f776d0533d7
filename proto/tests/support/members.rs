//! One sample of every log message about members.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check("JoinToken", &token());
    golden.check("NodeJoined", &joined());
    golden.check("NodeRemoved", &log::NodeRemoved { node: 2 });
    golden.check("ClusterMembers", &members());
    golden.check("JoinedNode", &members().joined[0]);
}

pub(crate) fn events() -> Vec<log::event::Kind> {
    use log::event::Kind;
    vec![
        Kind::JoinTokenPut(token()),
        Kind::NodeJoined(joined()),
        Kind::NodeRemoved(log::NodeRemoved { node: 2 }),
    ]
}

pub(crate) fn members() -> log::ClusterMembers {
    log::ClusterMembers {
        largest_id: 5,
        joined: vec![log::JoinedNode {
            node: 5,
            peer: "10.0.0.5:7071".to_owned(),
            joined_ms: 1_700_000_000_000,
        }],
        removed: vec![2, 4],
        tokens: vec![token()],
    }
}

fn token() -> log::JoinToken {
    log::JoinToken {
        hash: vec![8; 32],
        expires_ms: 1_700_003_600_000,
        node: 5,
        nonce_hash: vec![9; 32],
    }
}

fn joined() -> log::NodeJoined {
    log::NodeJoined {
        node: 5,
        peer: "10.0.0.5:7071".to_owned(),
        joined_ms: 1_700_000_000_000,
        token_hash: vec![8; 32],
        nonce_hash: vec![9; 32],
    }
}
