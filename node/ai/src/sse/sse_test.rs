//! The splitter finds the frames that the standard and real providers mean, in any cut.

use proptest::prelude::*;

use super::*;

const LIMIT: usize = 64;

/// The frames of a stream that arrives in these reads; empty frames left out.
fn frames(reads: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let mut found = Vec::new();
    let mut splitter = Splitter::new(LIMIT);
    let mut keep = |frame: Frame<'_>| match frame.payload {
        Payload::Data(data) => found.push(Some(data.to_vec())),
        Payload::TooLong => found.push(None),
        Payload::Nothing => {}
    };
    for read in reads {
        splitter.push(read, &mut keep);
    }
    splitter.finish(&mut keep);
    found
}

fn texts(stream: &str) -> Vec<String> {
    let found = frames(&[stream.as_bytes()]);
    let text = |frame: Option<Vec<u8>>| String::from_utf8(frame.unwrap()).unwrap();
    found.into_iter().map(text).collect()
}

#[test]
fn all_three_line_ends_end_a_line() {
    for end in ["\n", "\r\n", "\r"] {
        let stream = format!("data: a{end}{end}data:b{end}{end}");
        assert_eq!(texts(&stream), ["a", "b"], "{end:?}");
    }
}

#[test]
fn comments_and_other_fields_are_skipped() {
    assert_eq!(
        texts(": ping\n\nevent: x\nid: 1\ndata: a\n\n: OPENROUTER\ndata: b\n\n"),
        ["a", "b"]
    );
    assert_eq!(texts("database: x\n\n"), Vec::<String>::new());
}

#[test]
fn a_payload_that_looks_like_a_comment_is_data() {
    assert_eq!(texts("data: : keepalive\n\n"), [": keepalive"]);
}

#[test]
fn several_data_lines_are_joined() {
    assert_eq!(texts("data: a\ndata:\ndata\ndata:  b\n\n"), ["a\n\n\n b"]);
}

#[test]
fn a_byte_order_mark_is_ignored_at_the_start_only() {
    assert_eq!(texts("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
    assert_eq!(
        frames(&[b"\xef", b"\xbb", b"\xbfdata: a\n\n"]),
        [Some(b"a".to_vec())]
    );
}

#[test]
fn a_last_frame_without_its_blank_line_counts() {
    assert_eq!(texts("data: a\n\ndata: b"), ["a", "b"]);
    assert_eq!(texts("data: a\n\ndata: b\n"), ["a", "b"]);
}

#[test]
fn a_carriage_return_and_its_line_feed_may_come_in_two_reads() {
    assert_eq!(
        frames(&[b"data: a\r", b"\ndata: b\r", b"\n\r", b"\ndata: c\r\n\r\n"]),
        [Some(b"a\nb".to_vec()), Some(b"c".to_vec())]
    );
}

#[test]
fn a_frame_over_the_limit_is_given_up_and_the_next_one_is_not() {
    let long = format!("data: {}\n\ndata: b\n\n", "x".repeat(LIMIT + 1));
    assert_eq!(frames(&[long.as_bytes()]), [None, Some(b"b".to_vec())]);

    let lines = format!("{}\ndata: b\n\n", "data: 12345678\n".repeat(LIMIT / 8));
    assert_eq!(frames(&[lines.as_bytes()]), [None, Some(b"b".to_vec())]);
}

#[test]
fn a_frame_says_where_it_ends() {
    let mut ends = Vec::new();
    let mut splitter = Splitter::default();
    splitter.push(b"data: a\n\n: c\r\n\r\ndata", |frame| ends.push(frame.end));
    assert_eq!(ends, [9, 16]);
    assert!(!splitter.at_boundary());
    splitter.push(b": b\n\n", |frame| ends.push(frame.end));
    assert_eq!(ends, [9, 16, 5]);
    assert!(splitter.at_boundary());
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("data: ".to_owned()),
        Just("data".to_owned()),
        Just(":".to_owned()),
        Just("\n".to_owned()),
        Just("\r".to_owned()),
        Just("\r\n".to_owned()),
        Just("\n\n".to_owned()),
        Just("\u{feff}".to_owned()),
        Just("😀é".to_owned()),
        "[a-z{}\" ]{0,40}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn any_cut_gives_the_frames_of_the_whole(stream in stream(), sizes in prop::collection::vec(0..12_usize, 0..80)) {
        let mut rest = stream.as_slice();
        let mut reads = Vec::new();
        for size in sizes {
            let (read, behind) = rest.split_at(size.min(rest.len()));
            reads.push(read);
            rest = behind;
        }
        reads.push(rest);
        prop_assert_eq!(frames(&reads), frames(&[&stream]));

        let bytewise: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(frames(&bytewise), frames(&[&stream]));
    }
}
