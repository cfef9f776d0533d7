//! One cluster secret takes the place of another in steps, of which none can be skipped.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::rotation::Rotation;

use crate::samples::{catalog, refusal, what};

fn begin(check: u8) -> Command {
    Command::BeginRotation(Rotation {
        check: [check; 32],
        wrapped_key: [9, 9].into(),
        old_root: [200; 32],
        new_root: [201; 32],
        switched: false,
    })
}

fn advance(end: bool) -> Command {
    advance_of(1, end)
}

fn advance_of(check: u8, end: bool) -> Command {
    let check = [check; 32];
    Command::AdvanceRotation { end, check }
}

fn wrapped(catalog: &Catalog) -> &[u8] {
    &catalog.founded().expect("it is founded").wrapped_key
}

fn has_root(catalog: &Catalog, hash: u8) -> bool {
    catalog.token_by_hash(&[hash; 32]).is_some()
}

#[test]
fn the_old_secret_is_in_force_until_every_member_holds_the_new_one() {
    let mut catalog = catalog();
    assert_eq!(what(&mut catalog, &begin(1)), [ChangeKind::Updated]);
    assert_eq!(what(&mut catalog, &begin(1)), [ChangeKind::Unchanged]);
    assert_eq!(refusal(&catalog, &begin(2)).0, RejectedCode::InUse);
    assert_eq!(wrapped(&catalog), [1, 2, 3]);
    assert!(has_root(&catalog, 200) && !has_root(&catalog, 201));
    assert_eq!(refusal(&catalog, &advance(true)).0, RejectedCode::Conflict);

    assert_eq!(what(&mut catalog, &advance(false)), [ChangeKind::Updated]);
    assert_eq!(wrapped(&catalog), [9, 9]);
    assert!(!has_root(&catalog, 200) && has_root(&catalog, 201));
    assert_eq!(what(&mut catalog, &advance(false)), [ChangeKind::Unchanged]);
    assert_eq!(
        refusal(&catalog, &Command::AbortRotation).0,
        RejectedCode::InUse
    );

    assert_eq!(what(&mut catalog, &advance(true)), [ChangeKind::Updated]);
    assert!(catalog.rotation().is_none());
    assert_eq!(what(&mut catalog, &advance(true)), [ChangeKind::Unchanged]);
    assert_eq!(wrapped(&catalog), [9, 9]);
}

#[test]
fn what_was_found_out_about_one_rotation_does_not_take_another_one_further() {
    let mut catalog = catalog();
    what(&mut catalog, &begin(1));
    what(&mut catalog, &advance(false));
    what(&mut catalog, &advance(true));
    what(&mut catalog, &begin(2));
    let before = catalog.clone();
    // The leader of the first one comes late.
    assert_eq!(refusal(&catalog, &advance(false)).0, RejectedCode::Conflict);
    assert_eq!(catalog.rotation(), before.rotation());
    let own = what(&mut catalog, &advance_of(2, false));
    assert_eq!(own, [ChangeKind::Updated]);
    assert_eq!(refusal(&catalog, &advance(true)).0, RejectedCode::Conflict);
    let own = what(&mut catalog, &advance_of(2, true));
    assert_eq!(own, [ChangeKind::Updated]);
}

#[test]
fn a_rotation_that_was_given_up_leaves_nothing_behind() {
    let mut catalog = catalog();
    let before = catalog.clone();
    what(&mut catalog, &begin(1));
    assert_eq!(
        what(&mut catalog, &Command::AbortRotation),
        [ChangeKind::Updated]
    );
    assert_eq!(
        what(&mut catalog, &Command::AbortRotation),
        [ChangeKind::Unchanged]
    );
    assert_eq!(catalog.founded(), before.founded());
    assert!(catalog.rotation().is_none() && has_root(&catalog, 200));
}

#[test]
fn nobody_is_let_in_while_the_secret_is_replaced() {
    let mut catalog = catalog();
    what(&mut catalog, &begin(1));
    let token = Command::CreateJoinToken {
        hash: [5; 32],
        valid_ms: 60_000,
    };
    assert_eq!(refusal(&catalog, &token).0, RejectedCode::InUse);
}
