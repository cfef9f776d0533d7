//! Pages of the history, over records as a log would leave them.

use mode_envoy_model::event::Event;
use mode_envoy_model::tenant::Tenant;
use mode_envoy_proto::log::v1 as log;
use prost::Message as _;

use super::*;

fn encoded(origin: &str, tenants: &[&str]) -> Vec<u8> {
    let put = |name: &&str| log::Event {
        kind: Some(log::event::Kind::TenantPut(log::Tenant {
            name: (*name).to_owned(),
            hosts: Vec::new(),
        })),
    };
    log::ChangeSet {
        base_revision: 0,
        actor: "root".to_owned(),
        events: tenants.iter().map(put).collect(),
        origin: origin.to_owned(),
        request: None,
    }
    .encode_to_vec()
}

fn history(first: u64, sets: &[Vec<u8>]) -> History {
    let mut history = History::default();
    for (revision, set) in (first..).zip(sets) {
        history.record(revision, revision * 1_000, set.as_slice().into());
    }
    history
}

fn revisions(page: &HistoryPage) -> Vec<u64> {
    page.revisions.iter().map(|past| past.revision).collect()
}

#[test]
fn pages_follow_one_another_from_the_newest_to_the_oldest() {
    let sets: Vec<_> = (0..5)
        .map(|n| encoded("apply", &[["a", "b"][n % 2]]))
        .collect();
    let history = history(1, &sets);
    let page = |before| page_of(&history, 2, before, &|_, _| true).unwrap();
    let first = page(None);
    assert_eq!(
        (revisions(&first), first.next_before_revision),
        (vec![5, 4], 4)
    );
    let second = page(Some(4));
    assert_eq!(
        (revisions(&second), second.next_before_revision),
        (vec![3, 2], 2)
    );
    let last = page(Some(2));
    assert_eq!((revisions(&last), last.next_before_revision), (vec![1], 0));
    assert_eq!(last.since_revision, 1);
}

#[test]
fn what_was_there_before_tells_created_from_updated() {
    use mode_envoy_model::command::ChangeKind::{Created, Updated};
    let history = history(
        1,
        &[encoded("apply", &["a"]), encoded("apply", &["a", "b"])],
    );
    let page = page_of(&history, 9, None, &|_, _| true).unwrap();
    let what: Vec<_> = page.revisions[0].changes.iter().map(|c| c.what).collect();
    assert_eq!(what, [Updated, Created]);
    let only_b = page_of(&history, 9, None, &|_, change| *change.name == *"b").unwrap();
    assert_eq!(revisions(&only_b), [2]);
    assert_eq!(only_b.revisions[0].changes.len(), 1);
}

#[test]
fn a_long_change_is_listed_in_part_and_counted_as_a_whole() {
    let names: Vec<String> = (0..LISTED + 7).map(|n| format!("t{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let page = page_of(
        &history(1, &[encoded("apply", &names)]),
        9,
        None,
        &|_, _| true,
    )
    .unwrap();
    assert_eq!(
        (page.revisions[0].changes.len(), page.revisions[0].omitted),
        (LISTED, 7)
    );
}

#[test]
fn a_catalog_of_the_past_needs_a_beginning() {
    let known = |history: &History| {
        let now = Catalog::restore(None, 1, 7, []);
        let catalog = catalog_at(&now, history, 6)?;
        let names: Vec<_> = catalog
            .tenants()
            .map(|t| t.value.name.to_string())
            .collect();
        Ok::<_, ControlError>(names)
    };
    let sets = [
        encoded(BEGINNING, &["a"]),
        encoded("apply", &["b"]),
        encoded("apply", &["c"]),
    ];
    assert_eq!(known(&history(5, &sets)).unwrap(), ["a", "b"]);
    let refused = known(&history(5, &[encoded("apply", &["b"])])).unwrap_err();
    assert!(
        refused.to_string().contains("before revision 5"),
        "{refused}"
    );
    let now = Catalog::restore(None, 1, 7, []);
    for (revision, said) in [(4, "begins at revision 5"), (8, "is at 7")] {
        let refused = catalog_at(&now, &history(5, &sets), revision).unwrap_err();
        assert!(refused.to_string().contains(said), "{refused}");
    }
    // An event is what it was, whatever encoded it.
    let set = read_change_set(&sets[0].as_slice().into()).unwrap();
    assert_eq!(
        set.events,
        [Event::TenantPut(Tenant {
            name: "a".into(),
            hosts: Vec::new()
        })]
    );
}
