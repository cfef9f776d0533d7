//! What a stream said is known however it was cut, and how it ended is never guessed.

use proptest::prelude::*;

use super::*;

const ROLE: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#;
const TEXT: &str = r#"{"choices":[{"index":0,"delta":{"content":"h\u00e9😀"},"finish_reason":null}],"usage":null}"#;
const FINISH: &str = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
const USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"total_tokens":11}}"#;
const DONE: &str = "[DONE]";

fn stream(payloads: &[&str]) -> String {
    let frame = |payload: &&str| ["data: ", payload, "\n\n"].concat();
    payloads.iter().map(frame).collect()
}

fn outcome(payloads: &[&str]) -> StreamOutcome {
    let mut meter = StreamMeter::new(1);
    meter.on_bytes(stream(payloads).as_bytes());
    meter.finish()
}

#[test]
fn a_whole_stream_gives_usage_and_counts_its_text() {
    let outcome = outcome(&[ROLE, TEXT, TEXT, FINISH, USAGE, DONE]);
    assert_eq!(outcome.usage.map(|usage| usage.total()), Some(11));
    assert!(outcome.saw_finish && outcome.saw_done && outcome.first_content_seen);
    assert_eq!(outcome.output_bytes, 2 * (1 + 2 + 4));
    assert_eq!(outcome.unread_frames, 0);
    assert_eq!(outcome.end(), StreamEnd::Complete);
}

#[test]
fn a_missing_done_after_the_finish_is_fine() {
    assert_eq!(outcome(&[ROLE, TEXT, FINISH]).end(), StreamEnd::Complete);
    assert_eq!(
        outcome(&[ROLE, TEXT, FINISH, USAGE]).end(),
        StreamEnd::Complete
    );
}

#[test]
fn an_end_before_the_finish_is_a_truncation() {
    assert_eq!(outcome(&[]).end(), StreamEnd::Truncated);
    assert_eq!(outcome(&[ROLE, TEXT]).end(), StreamEnd::Truncated);
}

#[test]
fn a_done_without_a_finish_is_an_end() {
    assert_eq!(outcome(&[ROLE, TEXT, DONE]).end(), StreamEnd::Complete);
}

#[test]
fn a_stream_of_two_choices_ends_when_both_have_ended() {
    let second = FINISH.replace(r#""index":0"#, r#""index":1"#);
    let end = |payloads: &[&str]| {
        let mut meter = StreamMeter::new(2);
        meter.on_bytes(stream(payloads).as_bytes());
        meter.finish().end()
    };
    assert_eq!(end(&[FINISH, FINISH]), StreamEnd::Truncated);
    assert_eq!(end(&[FINISH, &second]), StreamEnd::Complete);
}

#[test]
fn an_error_frame_is_a_failure_whatever_follows() {
    let error = r#"{"error":{"message":"overloaded","type":"server_error","code":null}}"#;
    let mut meter = StreamMeter::new(1);
    meter.on_bytes(stream(&[ROLE, error]).as_bytes());
    assert!(meter.in_band_error().is_some());
    assert!(!meter.first_content_seen());
    meter.on_bytes(stream(&[FINISH, DONE]).as_bytes());
    let outcome = meter.finish();
    assert_eq!(outcome.end(), StreamEnd::Failed);
    assert_eq!(outcome.in_band_error.unwrap().message, "overloaded");
}

#[test]
fn cumulative_usage_is_replaced_and_a_later_null_does_not_erase_it() {
    let with = |output: u64| {
        TEXT.replace(
            r#""usage":null"#,
            &format!(r#""usage":{{"prompt_tokens":9,"completion_tokens":{output}}}"#),
        )
    };
    let outcome = outcome(&[&with(1), &with(2), FINISH, DONE]);
    assert_eq!(outcome.usage.map(|usage| usage.output), Some(2));
}

#[test]
fn an_unusable_last_usage_leaves_none() {
    let absurd = USAGE.replace(":2,", ":-2,");
    let outcome = outcome(&[TEXT, FINISH, USAGE, &absurd]);
    assert_eq!(outcome.usage, None);
    assert!(outcome.unusable.is_some());
}

#[test]
fn keep_alives_and_filter_chunks_do_no_harm() {
    let mut meter = StreamMeter::new(1);
    let azure = r#"{"choices":[],"prompt_filter_results":[{"prompt_index":0}]}"#;
    meter.on_bytes(b": ping\n\ndata: : keepalive\n\n");
    meter.on_bytes(stream(&[azure, TEXT, FINISH]).as_bytes());
    let outcome = meter.finish();
    assert_eq!(outcome.end(), StreamEnd::Complete);
    assert_eq!(outcome.unread_frames, 1);
}

#[test]
fn tool_calls_count_their_arguments() {
    let call = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]},"finish_reason":null}]}"#;
    let outcome = outcome(&[ROLE, call]);
    assert_eq!(outcome.output_bytes, 7);
    assert!(outcome.first_content_seen);
}

#[test]
fn a_frame_over_the_limit_is_counted_as_unread() {
    let long = TEXT.replace('h', &"h".repeat(crate::sse::FRAME_BYTES_MAX));
    let outcome = outcome(&[&long, FINISH]);
    assert_eq!(
        (outcome.unread_frames, outcome.end()),
        (1, StreamEnd::Complete)
    );
}

proptest! {
    #[test]
    fn any_cut_says_what_the_whole_says(
        picks in prop::collection::vec(0..5_usize, 0..12),
        size in 1..40_usize,
        crlf: bool,
    ) {
        let payloads: Vec<&str> = picks.iter().map(|pick| [ROLE, TEXT, FINISH, USAGE, DONE][*pick]).collect();
        let mut bytes = stream(&payloads);
        if crlf {
            bytes = bytes.replace('\n', "\r\n");
        }
        let mut meter = StreamMeter::new(1);
        bytes.as_bytes().chunks(size).for_each(|read| meter.on_bytes(read));
        prop_assert_eq!(meter.finish(), outcome(&payloads));
    }
}
