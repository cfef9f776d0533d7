//! What an AI call costs beyond plain proxying: reading and rewriting its request, watching its
//! answer. Compare lines of one run with each other; machines differ.

use bytes::Bytes;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use mode_envoy_ai::embedded;
use mode_envoy_ai::openai::relay::{StreamRelay, UsageChunk};
use mode_envoy_ai::openai::request::ChatRequest;
use mode_envoy_ai::openai::response;
use mode_envoy_ai::openai::stream::StreamMeter;
use mode_envoy_ai::price::{self, Price};
use mode_envoy_ai::usage::Usage;

const FRAMES: usize = 1000;
const FRAME: &str = "data: {\"id\":\"chatcmpl-BhkAJ2OzT1v9hWDjYwfVbM4p3LqXe\",\"object\":\"chat.completion.chunk\",\"created\":1790000000,\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_34a54ae93c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" token\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";

fn main() {
    divan::main();
}

/// A request whose one message makes it `size` bytes long.
fn request(size: usize, stream: bool) -> Bytes {
    let around = format!(
        r#"{{"model":"fast","messages":[{{"role":"user","content":""}}],"temperature":0.7,"stream":{stream}}}"#
    );
    let text = "a line of prose\\n".repeat(size.saturating_sub(around.len()) / 17);
    let content = format!(r#""content":"{text}""#);
    Bytes::from(around.replace(r#""content":"""#, &content))
}

fn answer() -> Vec<u8> {
    let text = "a line of prose\\n".repeat(40);
    format!(r#"{{"id":"chatcmpl-BhkAJ2OzT1v9hWDjYwfVbM4p3LqXe","object":"chat.completion","created":1790000000,"model":"gpt-4o-mini-2024-07-18","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}","refusal":null,"annotations":[]}},"logprobs":null,"finish_reason":"stop"}}],"usage":{{"prompt_tokens":160,"completion_tokens":160,"total_tokens":320,"prompt_tokens_details":{{"cached_tokens":0,"audio_tokens":0}},"completion_tokens_details":{{"reasoning_tokens":0,"audio_tokens":0}}}}}}"#).into_bytes()
}

#[divan::bench(args = [500, 1_000, 1_000_000])]
fn request_read_and_rewritten(bencher: Bencher<'_, '_>, size: usize) {
    let body = request(size, true);
    bencher.counter(BytesCount::new(body.len())).bench(|| {
        ChatRequest::read(black_box(body.clone())).map(|read| read.rewrite("gpt-4o", true))
    });
}

#[divan::bench]
fn response_scanned_1_kb(bencher: Bencher<'_, '_>) {
    let body = answer();
    bencher
        .counter(BytesCount::new(body.len()))
        .bench(|| response::scan(black_box(&body)));
}

#[divan::bench]
fn stream_metered_per_frame(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(FRAMES)).bench(|| {
        let mut meter = StreamMeter::new(1);
        for _ in 0..FRAMES {
            meter.on_bytes(black_box(FRAME.as_bytes()));
        }
        meter.finish()
    });
}

#[divan::bench(args = [UsageChunk::Shown, UsageChunk::Hidden])]
fn stream_relayed_per_frame(bencher: Bencher<'_, '_>, usage_chunk: UsageChunk) {
    let frame = Bytes::from_static(FRAME.as_bytes());
    bencher.counter(ItemsCount::new(FRAMES)).bench(|| {
        let mut relay = StreamRelay::new(1, usage_chunk);
        for _ in 0..FRAMES {
            black_box(relay.on_bytes(black_box(frame.clone())));
        }
        relay.finish()
    });
}

#[divan::bench]
fn embedded_answer(bencher: Bencher<'_, '_>) {
    let body = request(500, false);
    bencher.bench(|| embedded::chat(black_box(body.clone()), 1_790_000_000));
}

#[divan::bench]
fn cost(bencher: Bencher<'_, '_>) {
    let usage = Usage {
        input_uncached: 1_000,
        output: 300,
        ..Usage::default()
    };
    let price = Price {
        input: "0.15".parse().unwrap_or_default(),
        output: "0.6".parse().unwrap_or_default(),
        ..Price::default()
    };
    bencher.bench(|| price::cost(black_box(&usage), black_box(&price)));
}
