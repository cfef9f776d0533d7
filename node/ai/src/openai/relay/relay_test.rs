//! The client gets what the provider sent, at once, but for the chunk that it did not ask for.

use proptest::prelude::*;

use super::*;

const TEXT: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"héy\"}}],\"usage\":null}\n\n";
const FINISH: &str =
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str = "data: {\"id\":\"c\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}\n\n";
const AZURE: &str = "data: {\"choices\":[],\"prompt_filter_results\":[]}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const PING: &str = ": ping\n\n";

/// What the client gets of a stream in these reads, and what was seen.
fn relayed(usage_chunk: UsageChunk, reads: &[&[u8]]) -> (String, StreamOutcome) {
    let mut relay = StreamRelay::new(1, usage_chunk);
    let mut written = Vec::new();
    for read in reads {
        written.extend_from_slice(&relay.on_bytes(Bytes::copy_from_slice(read)));
    }
    let (tail, outcome) = relay.finish();
    written.extend_from_slice(&tail);
    (String::from_utf8(written).unwrap(), outcome)
}

fn hidden(reads: &[&str]) -> String {
    let reads: Vec<&[u8]> = reads.iter().map(|read| read.as_bytes()).collect();
    relayed(UsageChunk::Hidden, &reads).0
}

#[test]
fn a_client_that_asked_gets_every_byte_and_nothing_is_copied() {
    let mut relay = StreamRelay::new(1, UsageChunk::Shown);
    let read = Bytes::from(format!("{TEXT}{FINISH}{USAGE}data: [DO"));
    let out = relay.on_bytes(read.clone());
    assert_eq!((out.as_ptr(), out.len()), (read.as_ptr(), read.len()));
    assert_eq!(relay.on_bytes(Bytes::from_static(b"NE]\n\n")), "NE]\n\n");
    let (tail, outcome) = relay.finish();
    assert!(tail.is_empty());
    assert_eq!(outcome.usage.map(|usage| usage.input()), Some(9));
}

#[test]
fn a_client_that_did_not_ask_never_sees_the_usage_chunk() {
    let whole = [TEXT, FINISH, USAGE, DONE].concat();
    assert_eq!(hidden(&[&whole]), [TEXT, FINISH, DONE].concat());
    let (_, outcome) = relayed(UsageChunk::Hidden, &[whole.as_bytes()]);
    assert_eq!(outcome.usage.map(|usage| usage.input()), Some(9));
}

#[test]
fn usage_on_the_chunk_that_finishes_stays() {
    let finish = FINISH.replace(
        "}]}",
        "}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":2}}",
    );
    let stream = [TEXT, &finish, DONE].concat();
    assert_eq!(hidden(&[&stream]), stream);
}

#[test]
fn chunks_without_choices_or_usage_stay() {
    let stream = [AZURE, PING, TEXT, FINISH, DONE].concat();
    assert_eq!(hidden(&[&stream]), stream);
}

#[test]
fn whole_frames_leave_with_the_read_that_brought_them_and_uncopied() {
    let mut relay = StreamRelay::new(1, UsageChunk::Hidden);
    let read = Bytes::from([TEXT, TEXT, "data: {\"id\":\"c\""].concat());
    let out = relay.on_bytes(read.clone());
    assert_eq!(out, [TEXT, TEXT].concat());
    assert_eq!(out.as_ptr(), read.as_ptr());
}

#[test]
fn the_beginning_of_a_frame_is_held_only_until_its_choices_begin() {
    let mut relay = StreamRelay::new(1, UsageChunk::Hidden);
    assert_eq!(
        relay.on_bytes(Bytes::from_static(b"data: {\"id\":\"c\",\"choi")),
        ""
    );
    assert_eq!(
        relay.on_bytes(Bytes::from_static(b"ces\":[{\"index\"")),
        "data: {\"id\":\"c\",\"choices\":[{\"index\""
    );
    assert_eq!(relay.on_bytes(Bytes::from_static(b":0")), ":0");
    assert_eq!(relay.on_bytes(Bytes::from_static(b"}]}\n")), "}]}\n");
    assert_eq!(relay.on_bytes(Bytes::from_static(b"\ndata")), "\n");
}

#[test]
fn a_beginning_over_the_limit_is_let_go() {
    let mut relay = StreamRelay::new(1, UsageChunk::Hidden);
    let long = format!("data: {{\"x\":\"{}", "y".repeat(HELD_BYTES_MAX));
    assert_eq!(relay.on_bytes(Bytes::from(long.clone())), long);
}

#[test]
fn comments_around_a_dropped_chunk_stay() {
    let commented = format!(": a\r\n: b\n{USAGE}");
    assert_eq!(
        hidden(&[FINISH, &commented, DONE]),
        format!("{FINISH}: a\r\n: b\n{DONE}")
    );
}

#[test]
fn a_line_feed_in_the_next_read_shares_the_fate_of_its_frame() {
    let usage = USAGE.replace('\n', "\r\n");
    let (front, line_feed) = usage.split_at(usage.len() - 1);
    assert_eq!(
        hidden(&[FINISH, front, line_feed, DONE]),
        [FINISH, DONE].concat()
    );
    let ping = "data: {\"choices\":[{}]}\r\n\r\n";
    let (front, line_feed) = ping.split_at(ping.len() - 1);
    assert_eq!(
        hidden(&[front, line_feed, FINISH, DONE]),
        [ping, FINISH, DONE].concat()
    );
}

#[test]
fn a_missing_done_is_made_up_after_the_finish() {
    assert_eq!(
        hidden(&[TEXT, FINISH, USAGE]),
        [TEXT, FINISH, DONE].concat()
    );
    assert_eq!(
        relayed(UsageChunk::Shown, &[TEXT.as_bytes(), FINISH.as_bytes()]).0,
        [TEXT, FINISH, DONE].concat()
    );
}

#[test]
fn a_last_frame_without_its_blank_line_is_completed() {
    let stream = [TEXT, FINISH.trim_end()].concat();
    assert_eq!(hidden(&[&stream]), [TEXT, FINISH, DONE].concat());
    let dropped = [TEXT, FINISH, USAGE.trim_end()].concat();
    let (written, outcome) = relayed(UsageChunk::Hidden, &[dropped.as_bytes()]);
    assert_eq!(written, [TEXT, FINISH, DONE].concat());
    assert!(outcome.usage.is_some());
    assert_eq!(
        relayed(UsageChunk::Shown, &[dropped.as_bytes()]).0,
        [TEXT, FINISH, USAGE, DONE].concat()
    );
}

#[test]
fn a_stream_that_breaks_off_ends_with_an_error_and_without_done() {
    for usage_chunk in [UsageChunk::Shown, UsageChunk::Hidden] {
        let (written, outcome) = relayed(usage_chunk, &[TEXT.as_bytes()]);
        let tail = written.strip_prefix(TEXT).unwrap();
        assert!(tail.starts_with("data: {\"error\":{"), "{tail}");
        assert!(tail.contains("upstream_failed") && !tail.contains("DONE"));
        assert_eq!(outcome.end(), StreamEnd::Truncated);
    }
}

#[test]
fn an_aborted_stream_says_why_unless_it_was_complete() {
    let timeout = ErrorBody::new(ErrorCode::UpstreamTimeout, "too slow");
    let mut relay = StreamRelay::new(1, UsageChunk::Hidden);
    relay.on_bytes(Bytes::from_static(b"data: {\"choices\":[{"));
    let (tail, _) = relay.abort(&timeout);
    assert_eq!(tail, [b"\n\n", timeout.to_stream_frame().as_ref()].concat());

    let mut relay = StreamRelay::new(1, UsageChunk::Hidden);
    relay.on_bytes(Bytes::from([FINISH, DONE].concat()));
    assert!(relay.abort(&timeout).0.is_empty());
}

#[test]
fn a_providers_own_error_is_passed_on_and_not_followed() {
    let error = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
    let (written, outcome) = relayed(UsageChunk::Hidden, &[TEXT.as_bytes(), error.as_bytes()]);
    assert_eq!(written, [TEXT, error].concat());
    assert_eq!(outcome.end(), StreamEnd::Failed);
}

proptest! {
    #[test]
    fn any_cut_writes_what_the_whole_writes(
        picks in prop::collection::vec(0..6_usize, 0..12),
        size in 1..60_usize,
        line_end in prop::sample::select(vec!["\n", "\r\n", "\r"]),
        cut_off in 0..4_usize,
    ) {
        let frames = [TEXT, FINISH, USAGE, AZURE, DONE, PING];
        let stream: String = picks.iter().map(|pick| frames[*pick]).collect();
        let stream = stream.replace('\n', line_end);
        let bytes = &stream.as_bytes()[..stream.len().saturating_sub(cut_off)];
        let reads: Vec<&[u8]> = bytes.chunks(size).collect();
        for usage_chunk in [UsageChunk::Shown, UsageChunk::Hidden] {
            prop_assert_eq!(relayed(usage_chunk, &reads), relayed(usage_chunk, &[bytes]));
        }
    }

    #[test]
    fn all_but_the_usage_chunk_arrives_byte_for_byte(
        picks in prop::collection::vec(0..5_usize, 0..12),
        size in 1..60_usize,
    ) {
        let frames = [TEXT, USAGE, AZURE, PING, FINISH];
        let sent = |wanted: &dyn Fn(&str) -> bool| -> String {
            picks.iter().map(|pick| frames[*pick]).filter(|frame| wanted(frame)).chain([FINISH, DONE]).collect()
        };
        let stream = sent(&|_| true);
        let reads: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
        prop_assert_eq!(relayed(UsageChunk::Hidden, &reads).0, sent(&|frame| frame != USAGE));
    }
}
