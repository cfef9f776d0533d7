//! Records read back as they were written, in this version and in those before.

use mode_envoy_model::object::Name;

use super::super::{Asked, Try};
use super::*;

fn dims() -> Dims {
    Dims {
        tenant: Name::from("acme"),
        model: Name::from("fast"),
        ..Dims::empty()
    }
}

fn closed(dims: &Dims) -> Closed<'_> {
    Closed {
        status: 429,
        cut: true,
        usage_source: UsageSource::Estimated,
        input_uncached: 3,
        output: 7,
        nano_usd: 9,
        priced: true,
        price_version: 4,
        latency_us: 1_000,
        ttft_us: Some(250),
        ..Closed::of(CallId([7; 16]), 2, dims)
    }
}

#[test]
fn a_close_reads_back_as_it_was_written() {
    let (dims, mut out) = (dims(), [0; RECORD_MAX]);
    let len = closed(&dims).encode_into(&mut out).unwrap();
    let Record::Close(head, encoded) = Record::parse(CLOSE, VERSION, &out[..len]).unwrap() else {
        panic!("not a close");
    };
    assert_eq!(head, closed(&dims).head());
    assert_eq!(encoded.decode().unwrap(), dims);
    assert_eq!(head.status_class(), 4);
    assert_eq!(head.ttft_us(), Some(250));
    assert!(head.cut() && head.estimated() && head.priced() && head.answered());
    assert!(!head.rejected() && !head.presumed_one());
}

fn asked() -> Asked<'static> {
    Asked {
        started_ms: 1_700_000_000_000,
        revision: 12,
        request_id: "order-17",
        method: "POST",
        path: "/v1/chat/completions",
    }
}

fn opened(dims: &Dims) -> Opened<'_> {
    Opened {
        call: CallId([1; 16]),
        attempt: 0,
        dims,
        asked: asked(),
        reserved_input: 40,
        bytes_in: 160,
        takes: &Takes::NONE,
    }
}

fn tried(number: u16, endpoint: &str, status: u16, outcome: &'static str) -> Try {
    Try {
        number,
        endpoint: Some(endpoint.into()),
        status,
        outcome,
        latency_us: 900,
    }
}

fn read_trail(version: u8, payload: &[u8]) -> Trail<'_> {
    let encoded = Record::trail_of(CLOSE, version, payload).unwrap();
    encoded.unwrap().read().unwrap()
}

#[test]
fn an_open_reads_back_and_a_presumed_close_takes_what_it_reserved() {
    let (dims, mut out) = (dims(), [0; RECORD_MAX]);
    let len = opened(&dims).encode_into(&mut out).unwrap();
    let payload = &out[..len];
    let Record::Open(head, encoded) = Record::parse(OPEN, VERSION, payload).unwrap() else {
        panic!("not an open");
    };
    let trail = Record::trail_of(OPEN, VERSION, payload).unwrap();
    let mut again = [0; RECORD_MAX];
    let (version, len) = CloseHead::presumed(&head, true)
        .encode_with((&Takes::NONE, trail), encoded, &mut again)
        .unwrap();
    let Record::Close(close, encoded) = Record::parse(CLOSE, version, &again[..len]).unwrap()
    else {
        panic!("not a close");
    };
    assert_eq!(encoded.decode().unwrap(), dims);
    assert_eq!(
        (close.input_uncached, close.bytes_in, close.output),
        (40, 160, 0)
    );
    assert!(close.presumed_one() && close.answered());
    assert_eq!(close.status_class(), 5);
    let trail = read_trail(version, &again[..len]);
    assert_eq!((trail.path, trail.revision), ("/v1/chat/completions", 12));
    assert_eq!(
        (trail.reason, trail.request_id),
        (PRESUMED_REASON, "order-17")
    );
}

#[test]
fn a_close_tells_its_story() {
    let (dims, mut out) = (dims(), [0; RECORD_MAX]);
    let earlier = [tried(1, "http://a:1", 0, "no_connection")];
    let last = tried(2, "http://b:1", 503, "answered");
    let close = Closed {
        asked: asked(),
        story: Story {
            error: "upstream_failed",
            reason: "provider_status",
            earlier: &earlier,
            last: Some(&last),
            refused: None,
        },
        ..closed(&dims)
    };
    let len = close.encode_into(&mut out).unwrap();
    let trail = read_trail(VERSION, &out[..len]);
    assert_eq!(
        (trail.error, trail.reason),
        ("upstream_failed", "provider_status")
    );
    let told: Vec<_> = trail
        .attempts
        .iter()
        .map(|t| (t.number, t.endpoint, t.status, t.outcome, t.latency_us))
        .collect();
    assert_eq!(
        told,
        [
            (1, "http://a:1", 0, "no_connection", 900),
            (2, "http://b:1", 503, "answered", 900)
        ]
    );
}

#[test]
fn the_longest_record_fits_its_room() {
    let long = "é".repeat(300);
    let name = || Name::from("n".repeat(256));
    let dims = Dims {
        tenant: name(),
        team: name(),
        consumer: name(),
        key: name(),
        route: name(),
        api: name(),
        model: name(),
        provider: name(),
        upstream_model: name(),
    };
    let earlier: Vec<_> = (1..9)
        .map(|n| tried(n, &long, 0, "first_byte_timeout"))
        .collect();
    let close = Closed {
        asked: Asked {
            request_id: &long,
            method: &long,
            path: &long,
            ..asked()
        },
        story: Story {
            error: "auth_dependency_unavailable",
            reason: "provider_error_in_answer",
            earlier: &earlier,
            last: earlier.last(),
            refused: None,
        },
        ..closed(&dims)
    };
    let mut out = [0; RECORD_MAX];
    let len = close.encode_into(&mut out).unwrap();
    let trail = read_trail(VERSION, &out[..len]);
    assert_eq!((trail.path.len(), trail.attempts.len()), (256, 4));
}

/// Version 1 is version 2 without the trail.
fn golden_of_version_1() -> Vec<u8> {
    let mut golden = vec![7; 16];
    golden.push(2);
    golden.extend(0b110_1101_u16.to_le_bytes());
    golden.extend(429_u16.to_le_bytes());
    for word in [3_u64, 0, 0, 7, 0, 9, 4, 0, 0, 1_000, 250] {
        golden.extend(word.to_le_bytes());
    }
    golden.extend(golden_dims());
    golden
}

fn golden_dims() -> Vec<u8> {
    let texts = ["acme", "", "", "", "", "", "fast", "", ""];
    texts.into_iter().flat_map(golden_text).collect()
}

fn golden_text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

#[test]
fn a_record_of_version_1_is_read_as_it_was_shipped() {
    let golden = golden_of_version_1();
    let Record::Close(head, encoded) = Record::parse(CLOSE, BARE, &golden).unwrap() else {
        panic!("not a close");
    };
    assert_eq!(head, closed(&dims()).head());
    assert_eq!(encoded.decode().unwrap(), dims());
    let trail = Record::trail_of(CLOSE, BARE, &golden).unwrap();
    assert!(trail.is_none());
    let open = OpenHead {
        call: CallId([1; 16]),
        attempt: 0,
        reserved_input: 4,
        bytes_in: 5,
    };
    let mut out = [0; RECORD_MAX];
    let presumed =
        CloseHead::presumed(&open, true).encode_with((&Takes::NONE, None), encoded, &mut out);
    let (version, len) = presumed.unwrap();
    assert_eq!(version, BARE);
    assert!(Record::parse(CLOSE, version, &out[..len]).is_ok());
}

/// Everything that a Close of versions 2 and 3 tells.
fn told_in_full<'a>(dims: &'a Dims, last: &'a Try) -> Closed<'a> {
    Closed {
        asked: asked(),
        story: Story {
            error: "limited",
            reason: "limit",
            earlier: &[],
            last: Some(last),
            refused: None,
        },
        ..closed(dims)
    }
}

#[test]
fn a_record_of_version_2_is_read_as_it_was_shipped() {
    let mut trail = Vec::new();
    trail.extend(1_700_000_000_000_u64.to_le_bytes());
    trail.extend(12_u64.to_le_bytes());
    for text in [
        "order-17",
        "POST",
        "/v1/chat/completions",
        "limited",
        "limit",
    ] {
        trail.extend(golden_text(text));
    }
    trail.extend(1_u64.to_le_bytes());
    trail.extend(1_u16.to_le_bytes());
    trail.extend(golden_text("http://a:1"));
    trail.extend(200_u16.to_le_bytes());
    trail.extend(golden_text("answered"));
    trail.extend(900_u64.to_le_bytes());
    let bare = golden_of_version_1();
    let (head, encoded_dims) = bare.split_at(CLOSE_HEAD);
    let mut golden = head.to_vec();
    golden.extend(u16::try_from(trail.len()).unwrap().to_le_bytes());
    golden.extend(trail);
    golden.extend(encoded_dims);
    let Record::Close(head, encoded) = Record::parse(CLOSE, FIXED, &golden).unwrap() else {
        panic!("not a close");
    };
    let (dims, last) = (dims(), tried(1, "http://a:1", 200, "answered"));
    assert_eq!(head, told_in_full(&dims, &last).head());
    assert_eq!(encoded.decode().unwrap(), dims);
    let mut now = [0; RECORD_MAX];
    let len = told_in_full(&dims, &last).encode_into(&mut now).unwrap();
    assert_eq!(read_trail(FIXED, &golden), read_trail(VERSION, &now[..len]));
    assert!(2 * len < golden.len(), "{len} of {}", golden.len());
}

#[test]
fn an_open_of_version_2_is_presumed_in_version_2() {
    let mut golden = vec![1; 16];
    golden.push(0);
    golden.extend([40_u64.to_le_bytes(), 160_u64.to_le_bytes()].concat());
    let mut trail = 1_700_000_000_000_u64.to_le_bytes().to_vec();
    trail.extend(12_u64.to_le_bytes());
    for text in ["order-17", "POST", "/v1/chat/completions"] {
        trail.extend(golden_text(text));
    }
    golden.extend(u16::try_from(trail.len()).unwrap().to_le_bytes());
    golden.extend(trail);
    golden.extend(golden_dims());
    let Record::Open(head, encoded) = Record::parse(OPEN, FIXED, &golden).unwrap() else {
        panic!("not an open");
    };
    let (trail, mut out) = (Record::trail_of(OPEN, FIXED, &golden), [0; RECORD_MAX]);
    let (version, len) = CloseHead::presumed(&head, true)
        .encode_with((&Takes::NONE, trail.unwrap()), encoded, &mut out)
        .unwrap();
    assert_eq!(version, FIXED);
    let Record::Close(close, encoded) = Record::parse(CLOSE, version, &out[..len]).unwrap() else {
        panic!("not a close");
    };
    assert_eq!((close.input_uncached, close.bytes_in), (40, 160));
    assert_eq!(encoded.decode().unwrap(), dims());
    let trail = read_trail(version, &out[..len]);
    assert_eq!(
        (trail.request_id, trail.reason),
        ("order-17", PRESUMED_REASON)
    );
}

/// A text behind its length in one byte.
fn short_text(text: &str) -> Vec<u8> {
    let mut out = vec![u8::try_from(text.len()).unwrap()];
    out.extend(text.as_bytes());
    out
}

#[test]
fn the_bytes_of_version_3_stay_as_they_were_shipped() {
    let (dims, last) = (dims(), tried(1, "http://a:1", 200, "answered"));
    let mut out = [0; RECORD_MAX];
    let len = told_in_full(&dims, &last).encode_into(&mut out).unwrap();
    // A number below 251 is a byte; 251 to 253 say that two, four or eight bytes follow.
    let two = |number: u16| [&[251][..], &number.to_le_bytes()].concat();
    let mut golden = vec![7; 16];
    golden.push(2);
    golden.push(0b110_1101);
    golden.extend(two(429));
    golden.extend([3, 0, 0, 7, 0, 9, 4, 0, 0]);
    golden.extend(two(1_000));
    golden.push(250);
    // Nothing of limits is taken, and at the trail's end: none refused it.
    golden.push(0);
    let mut trail = vec![253];
    trail.extend(1_700_000_000_000_u64.to_le_bytes());
    trail.push(12);
    for text in [
        "order-17",
        "POST",
        "/v1/chat/completions",
        "limited",
        "limit",
    ] {
        trail.extend(short_text(text));
    }
    trail.extend([1, 1]);
    trail.extend(short_text("http://a:1"));
    trail.push(200);
    trail.extend(short_text("answered"));
    trail.extend(two(900));
    trail.push(0);
    golden.extend(u16::try_from(trail.len()).unwrap().to_le_bytes());
    golden.extend(trail);
    let texts = ["acme", "", "", "", "", "", "fast", "", ""];
    golden.extend(texts.into_iter().flat_map(short_text));
    assert_eq!(&out[..len], golden);
}

/// Counters from 1 up, in the order of the format.
fn ascending() -> Counters {
    let mut sum = Counters::default();
    for (at, field) in (1_u64..).zip([
        &mut sum.calls,
        &mut sum.errors,
        &mut sum.rejected,
        &mut sum.estimated,
        &mut sum.presumed,
        &mut sum.attempts,
        &mut sum.input_uncached,
        &mut sum.cache_read,
        &mut sum.cache_write,
        &mut sum.output,
        &mut sum.reasoning,
        &mut sum.nano_usd,
        &mut sum.unpriced,
        &mut sum.bytes_in,
        &mut sum.bytes_out,
    ]) {
        *field = at;
    }
    sum
}

#[test]
fn the_bytes_of_a_total_stay_as_they_were_shipped() {
    let head = TotalHead::new(7, 2, &ascending());
    let mut out = [0; RECORD_MAX];
    let len = head.encode_with(b"dims", &mut out).unwrap();
    let golden = [&[7, 2][..], &(1..=15).collect::<Vec<_>>(), b"dims"].concat();
    assert_eq!(&out[..len], golden);
    let mut before = Vec::from(7_u32.to_le_bytes());
    before.push(2);
    before.extend((1_u64..=15).flat_map(u64::to_le_bytes));
    before.extend(b"dims");
    for (version, bytes) in [(VERSION, &golden), (BARE, &before)] {
        let Ok(Record::Total(read, dims)) = Record::parse(TOTAL, version, bytes) else {
            panic!("not a total");
        };
        assert_eq!((read.counters(), dims.bytes), (ascending(), &b"dims"[..]));
    }
}

#[test]
fn an_unknown_kind_or_version_is_a_fault_and_so_is_a_short_record() {
    let fault = |kind, version, payload: &[u8]| Record::parse(kind, version, payload).err();
    let unknown = |fault| matches!(fault, Some(RecordFault::Unknown { .. }));
    let short = |fault| matches!(fault, Some(RecordFault::Short { .. }));
    assert!(unknown(fault(9, VERSION, &[])));
    assert!(unknown(fault(OPEN, VERSION + 1, &[])));
    assert!(unknown(fault(TOTAL, FIXED, &[])));
    assert!(short(fault(OPEN, FIXED, &[0; 5])));
    assert!(short(fault(OPEN, FIXED, &[0; OPEN_HEAD + 1])));
    let mut long_trail = [0; OPEN_HEAD + 10];
    long_trail[OPEN_HEAD] = 200;
    assert!(short(fault(OPEN, FIXED, &long_trail)));
    let undecodable = |fault| matches!(fault, Some(RecordFault::Undecodable { .. }));
    assert!(undecodable(fault(OPEN, VERSION, &[0; 5])));
    // Nothing is taken of limits.
    let (head, trail) = ([0; 16 + 1 + 2 + 1], [200, 0, 0]);
    assert!(short(fault(OPEN, VERSION, &head)));
    assert!(short(fault(OPEN, VERSION, &[&head[..], &trail].concat())));
}

#[test]
fn a_buffer_that_is_too_small_is_an_error_and_not_a_torn_record() {
    let dims = dims();
    let mut out = [0; RECORD_MAX];
    let len = closed(&dims).encode_into(&mut out).unwrap();
    for room in 0..len {
        assert!(closed(&dims).encode_into(&mut out[..room]).is_err());
    }
}
