//! One sample of every log message about the replacement of the cluster secret.

use mode_envoy_proto::log::v1 as log;

use super::Golden;

pub(crate) fn each(golden: &mut Golden<'_>) {
    golden.check("Rotation", &rotation());
    golden.check("RotationSwitched", &log::RotationSwitched {});
    golden.check("RotationEnded", &log::RotationEnded {});
    golden.check("RotationAborted", &log::RotationAborted {});
}

pub(crate) fn events() -> Vec<log::event::Kind> {
    use log::event::Kind;
    vec![
        Kind::RotationBegan(rotation()),
        Kind::RotationSwitched(log::RotationSwitched {}),
        Kind::RotationEnded(log::RotationEnded {}),
        Kind::RotationAborted(log::RotationAborted {}),
    ]
}

pub(crate) fn rotation() -> log::Rotation {
    log::Rotation {
        check: vec![12; 32],
        wrapped_key: vec![13; 61],
        old_root: vec![14; 32],
        new_root: vec![15; 32],
        switched: true,
        old_wrapped_key: Vec::new(),
        generation: 0,
    }
}
