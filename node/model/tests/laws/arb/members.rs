//! Generators of what is asked about members, and of what happened to them.

use mode_envoy_model::command::Command;
use mode_envoy_model::event::Event;
use mode_envoy_model::member::{JoinToken, JoinedNode};
use mode_envoy_model::provider::{Resealed, SealedSecret};
use mode_envoy_model::rotation::Rotation;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

fn hash() -> impl Strategy<Value = [u8; 32]> {
    (0_u8..4).prop_map(|n| [n; 32])
}

fn peer() -> impl Strategy<Value = String> {
    select(vec!["a:1", "b:2", "nonsense"]).prop_map(str::to_owned)
}

pub(super) fn command() -> impl Strategy<Value = Command> {
    let members = || (1_u64..4).prop_map(|n| (1..=n).map(|id| (id, format!("h{id}:1"))).collect());
    prop_oneof![
        (hash(), 0_u64..4_000_000)
            .prop_map(|(hash, valid_ms)| Command::CreateJoinToken { hash, valid_ms }),
        (hash(), hash(), peer(), members()).prop_map(|(token, nonce, peer, members)| {
            Command::Join {
                token,
                nonce,
                peer,
                members,
            }
        }),
        (0_u64..8, members()).prop_map(|(node, members)| Command::RemoveNode { node, members }),
        hash().prop_map(|hash| Command::BeginRotation(rotation(hash))),
        (any::<bool>(), hash()).prop_map(|(end, check)| Command::AdvanceRotation { end, check }),
        Just(Command::AbortRotation),
        (1_u32..3, vec(resealed(), 0..3)).prop_map(|(generation, providers)| Command::Reseal {
            generation,
            providers,
        }),
    ]
}

fn resealed() -> impl Strategy<Value = Resealed> {
    let key = (super::secret(), 0_u32..3).prop_map(|(secret, generation)| SealedSecret {
        generation,
        ..secret
    });
    (super::name(), vec(key, 0..3)).prop_map(|(provider, keys)| Resealed { provider, keys })
}

fn rotation(hash: [u8; 32]) -> Rotation {
    Rotation {
        check: hash,
        wrapped_key: [7, 8].into(),
        old_wrapped_key: [9].into(),
        generation: 1,
        old_root: [200; 32],
        new_root: hash,
        switched: false,
    }
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    let used = proptest::option::of((0_u64..9, hash()));
    let token = (hash(), 0_u64..400_000_000, used);
    prop_oneof![
        resealed().prop_map(Event::Resealed),
        token.prop_map(|(hash, expires_ms, used)| Event::JoinTokenPut(JoinToken {
            hash,
            expires_ms,
            used
        })),
        (
            any::<u64>(),
            0_u64..12,
            peer(),
            hash(),
            hash(),
            any::<bool>()
        )
            .prop_map(|(large, id, peer, token, nonce, odd)| Event::NodeJoined {
                node: JoinedNode {
                    id: if odd { large } else { id },
                    peer: peer.as_str().into(),
                    joined_ms: 3,
                },
                token,
                nonce,
            }),
        (0_u64..12).prop_map(Event::NodeRemoved),
        hash().prop_map(|hash| Event::RotationBegan(rotation(hash))),
        Just(Event::RotationSwitched),
        Just(Event::RotationEnded),
        Just(Event::RotationAborted),
    ]
}
