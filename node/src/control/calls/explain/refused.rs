//! The limit that refused a call, in sentences: why, how it stood, and when there is more.

use mode_envoy_proto::peer::v1::RefusedBy;

use super::super::super::time::format_ms;

/// What there is to say of a refusal on a node.
pub(super) fn sentences(by: &RefusedBy, node: u64) -> Vec<String> {
    let mut sentences = vec![why(by, node), figures(by)];
    sentences.extend(window(by));
    sentences
}

fn why(by: &RefusedBy, node: u64) -> String {
    let part = match by.value.as_str() {
        "" => String::new(),
        value => format!(" for `{value}`"),
    };
    let of = format!("The limit `{}` ({}){part}", by.limit, by.mode);
    match by.why.as_str() {
        "exhausted" if by.mode == "local" => {
            format!("{of} refused it: the share that node {node} keeps alone is used up.")
        }
        "exhausted" => {
            format!("{of} refused it: it is used up, and nobody has any of it left to give.")
        }
        "held_elsewhere" => format!(
            "{of} refused it: other nodes held what was left of it, or had used it and not told yet; none of it came back in time."
        ),
        "never_fits" => format!("{of} refused it: one call takes more than it ever gives."),
        "no_quorum" => format!(
            "{of} could not be checked: node {node} was cut off from the others, and had spent what it may spend alone."
        ),
        "unanswered" => {
            format!("{of} could not be checked: the cluster's log did not answer in time.")
        }
        "crowded" => format!(
            "{of} could not be checked: too many calls on node {node} were waiting for the cluster's log already."
        ),
        // A word of a later release.
        word => format!("{of} stopped it; the reason is `{word}`."),
    }
}

fn figures(by: &RefusedBy) -> String {
    let (need, slice) = (by.need, by.slice);
    if by.mode == "local" {
        return format!("It needed {need}, and the node had {slice} left.");
    }
    if by.applied_index == 0 {
        return format!(
            "It needed {need}, and the node had {slice} left; the log had not told it yet how the limit stands."
        );
    }
    format!(
        "It needed {need}; the node had {slice} left, {} were free and other nodes held {}, as of index {} of the log.",
        by.free, by.elsewhere, by.applied_index
    )
}

fn window(by: &RefusedBy) -> Option<String> {
    if by.window_ends_ms == 0 {
        return None;
    }
    let (begins, ends) = (format_ms(by.window_begins_ms), format_ms(by.window_ends_ms));
    let then = match by.why.as_str() {
        "exhausted" | "held_elsewhere" => "; then all of the amount is there again",
        _ => "",
    };
    Some(format!(
        "The limit's window began at {begins} and ends at {ends}{then}."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exhausted() -> RefusedBy {
        let text = str::to_owned;
        RefusedBy {
            limit: text("daily"),
            value: text("acme/first"),
            why: text("exhausted"),
            mode: text("strict"),
            need: 1,
            slice: 0,
            free: 0,
            elsewhere: 0,
            applied_index: 41,
            window_begins_ms: 1_772_323_200_000,
            window_ends_ms: 1_772_409_600_000,
        }
    }

    #[test]
    fn a_limit_that_is_used_up_says_how_it_stood_and_when_there_is_more() {
        assert_eq!(
            sentences(&exhausted(), 2),
            [
                "The limit `daily` (strict) for `acme/first` refused it: it is used up, and nobody has any of it left to \
                 give.",
                "It needed 1; the node had 0 left, 0 were free and other nodes held 0, as of index 41 of the log.",
                "The limit's window began at 2026-03-01T00:00:00Z and ends at 2026-03-02T00:00:00Z; then all of the amount \
                 is there again.",
            ]
        );
    }

    #[test]
    fn a_limit_that_could_not_be_checked_never_reads_as_one_that_was_reached() {
        for (why, reached) in [
            ("exhausted", true),
            ("held_elsewhere", true),
            ("never_fits", true),
            ("no_quorum", false),
            ("unanswered", false),
            ("crowded", false),
        ] {
            let by = RefusedBy {
                why: why.to_owned(),
                ..exhausted()
            };
            let told = sentences(&by, 2).remove(0);
            assert_eq!(told.contains("refused it"), reached, "{told}");
            assert_eq!(told.contains("could not be checked"), !reached, "{told}");
        }
    }

    #[test]
    fn what_the_node_did_not_know_is_not_told() {
        let unheard = RefusedBy {
            applied_index: 0,
            window_ends_ms: 0,
            ..exhausted()
        };
        let told = sentences(&unheard, 2);
        assert_eq!(told.len(), 2);
        assert!(
            told[1].ends_with("had not told it yet how the limit stands."),
            "{told:?}"
        );
        let alone = RefusedBy {
            mode: "local".to_owned(),
            ..exhausted()
        };
        let told = sentences(&alone, 2);
        assert!(
            told[0].contains("node 2 keeps alone is used up"),
            "{told:?}"
        );
        assert!(!told[1].contains("index"), "{told:?}");
        let later = RefusedBy {
            why: "moon_phase".to_owned(),
            ..exhausted()
        };
        assert!(sentences(&later, 2)[0].contains("`moon_phase`"));
    }
}
