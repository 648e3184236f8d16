//! The payload: it fits, holds no NUL, is JSON that a consumer reads, and says each queue or none.

#![no_main]

use std::ffi::CStr;

use aimq_core::ids::Ids;
use aimq_core::payload::{self, Entry, PAYLOAD_MAX_BYTES, Payload};
use aimq_core::route::Route;
use aimq_core::timestamp::Timestamp;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((numbers, texts)) = bytes.split_first_chunk::<17>() else { return };
    let [is_wide, rest @ ..] = *numbers;
    let number = |at: usize| i64::from_le_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
    let (count, time) = (number(0).unsigned_abs(), number(8));
    payload::set_wide(is_wide & 1 == 1);
    let ids = Ids::one(time);
    let mut routes = Vec::new();
    let mut texts = texts;
    while let Some((route, rest)) = next(texts) {
        routes.push(route);
        texts = rest;
    }
    let entries = routes.iter().map(|route| {
        let visible_at = (is_wide & 2 == 2).then_some(Timestamp(time));
        let entry = Entry { queue: route.queue, count, visible_at, ids: Some(&ids) };
        (*route, entry)
    });
    for notification in payload::notifications(entries).expect("memory") {
        let text = &notification.payload;
        assert!(text.len() <= PAYLOAD_MAX_BYTES && !text.contains('\0'));
        if text.is_empty() {
            continue;
        }
        let said: Payload = serde_json::from_str(text).expect("JSON");
        let of_channel = |route: &&Route<'_>| {
            (route.channel, &*said.event) == (notification.channel, &*lossy(route.event, is_wide))
        };
        let expected: Vec<_> = routes.iter().filter(of_channel).collect();
        assert!(!expected.is_empty());
        for queue in said.queues.iter().flatten() {
            assert!(expected.iter().any(|route| lossy(route.queue, is_wide) == *queue.0));
        }
    }
});

/// As the payload has a text: a character for each byte, or what is UTF-8 of it.
fn lossy(text: &CStr, is_wide: u8) -> String {
    if is_wide & 1 == 1 {
        return text.to_bytes().iter().map(|byte| char::from(*byte)).collect();
    }
    text.to_string_lossy().into_owned()
}

/// A route of the next three texts, each with a NUL behind it.
fn next(bytes: &[u8]) -> Option<(Route<'_>, &[u8])> {
    let channel = CStr::from_bytes_until_nul(bytes).ok()?;
    let rest = &bytes[channel.count_bytes() + 1..];
    let event = CStr::from_bytes_until_nul(rest).ok()?;
    let rest = &rest[event.count_bytes() + 1..];
    let queue = CStr::from_bytes_until_nul(rest).ok()?;
    Some((Route::new(channel, event, queue), &rest[queue.count_bytes() + 1..]))
}
