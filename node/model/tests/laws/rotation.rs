//! One cluster secret takes the place of another in steps, of which none can be skipped.

use mode_envoy_model::catalog::Catalog;
use mode_envoy_model::command::{ChangeKind, Command, RejectedCode};
use mode_envoy_model::object::Object;
use mode_envoy_model::provider::{Provider, Resealed, SealedSecret};
use mode_envoy_model::rotation::Rotation;

use crate::samples::{catalog, openai, put, refusal, secret, what};

fn begin(check: u8) -> Command {
    Command::BeginRotation(Rotation {
        check: [check; 32],
        wrapped_key: [9, 9].into(),
        old_wrapped_key: [8, 8].into(),
        generation: u32::from(check),
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

fn resealed(fingerprint: u8, generation: u32) -> SealedSecret {
    SealedSecret {
        generation,
        ..secret(fingerprint, b"anew")
    }
}

fn reseal(generation: u32, provider: &str, keys: Vec<SealedSecret>) -> Command {
    let provider = provider.into();
    Command::Reseal {
        generation,
        providers: vec![Resealed { provider, keys }],
    }
}

fn generations(catalog: &Catalog, provider: &str) -> Vec<u32> {
    let provider = &catalog.provider(provider).expect("it is there").value;
    provider.keys.iter().map(|key| key.generation).collect()
}

#[test]
fn a_rotation_ends_only_when_every_secret_is_sealed_under_the_new_key() {
    let mut catalog = catalog();
    let keys = vec![secret(1, b"one"), secret(2, b"two")];
    what(&mut catalog, &put(vec![openai("o", keys.clone())]));
    let set_at = catalog.provider("o").map(|stored| stored.revision);
    what(&mut catalog, &begin(1));
    // Before the switch, the old key is the one in force.
    let early = reseal(1, "o", vec![resealed(1, 1)]);
    assert_eq!(what(&mut catalog, &early), [ChangeKind::Unchanged]);
    what(&mut catalog, &advance(false));
    assert_eq!(catalog.generation(), 1);
    assert_eq!(refusal(&catalog, &advance(true)).0, RejectedCode::Conflict);

    // One after the other; one that nobody has, and one under a key that is not in force, are nothing.
    let one = reseal(1, "o", vec![resealed(1, 1), resealed(9, 1), resealed(2, 7)]);
    let did = [ChangeKind::Unchanged, ChangeKind::Updated];
    assert_eq!(what(&mut catalog, &one), did);
    assert_eq!(what(&mut catalog, &one), [ChangeKind::Unchanged]);
    assert_eq!(generations(&catalog, "o"), [1, 0]);
    assert_eq!(refusal(&catalog, &advance(true)).0, RejectedCode::Conflict);
    what(&mut catalog, &reseal(1, "o", vec![resealed(2, 1)]));
    assert_eq!(generations(&catalog, "o"), [1, 1]);
    let revision = catalog.provider("o").map(|stored| stored.revision);
    assert_eq!(revision, set_at, "who declared it stays");
    // A document that speaks of the secrets by their fingerprints means what it meant.
    let same = put(vec![openai("o", keys)]);
    assert_eq!(what(&mut catalog, &same), [ChangeKind::Unchanged]);
    assert_eq!(what(&mut catalog, &advance(true)), [ChangeKind::Updated]);
    assert!(!catalog.has_stale_secrets());
}

#[test]
fn a_secret_that_was_sealed_before_the_switch_and_comes_after_it_is_not_stored() {
    let mut catalog = catalog();
    what(
        &mut catalog,
        &put(vec![openai("o", vec![secret(1, b"one")])]),
    );
    what(&mut catalog, &begin(1));
    what(&mut catalog, &advance(false));
    let late = put(vec![openai("late", vec![secret(3, b"old")])]);
    let (code, paths) = refusal(&catalog, &late);
    assert_eq!(
        (code, paths),
        (
            RejectedCode::Conflict,
            vec!["providers[late].keys".to_owned()]
        )
    );
    let anew = put(vec![openai("late", vec![resealed(3, 1)])]);
    assert_eq!(what(&mut catalog, &anew), [ChangeKind::Created]);
    // What is stored under the old key still may be kept beside a new one.
    let both = put(vec![openai(
        "o",
        vec![secret(1, b"other bytes"), resealed(4, 1)],
    )]);
    assert_eq!(what(&mut catalog, &both), [ChangeKind::Updated]);
    assert_eq!(generations(&catalog, "o"), [0, 1]);
    let moved = Object::Provider(Provider {
        base_url: "https://other.test/v1".into(),
        ..Provider::clone(&catalog.provider("o").expect("it is there").value)
    });
    assert_eq!(what(&mut catalog, &put(vec![moved])), [ChangeKind::Updated]);
}

#[test]
fn a_rotation_that_was_prepared_with_a_secret_that_is_gone_is_refused() {
    let mut catalog = catalog();
    what(&mut catalog, &begin(1));
    what(&mut catalog, &advance(false));
    what(&mut catalog, &advance(true));
    // It was begun beside the first, and comes when that is over.
    let Command::BeginRotation(late) = begin(2) else {
        panic!("it begins")
    };
    let late = Command::BeginRotation(Rotation {
        generation: 1,
        ..late
    });
    assert_eq!(refusal(&catalog, &late).0, RejectedCode::Conflict);
    assert_eq!(what(&mut catalog, &begin(2)), [ChangeKind::Updated]);
}
