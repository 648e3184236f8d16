//! The wire format: one JSON object for each notification.
//!
//! ```json
//! {"event":"job_enqueued","queues":{"emails":{"count":3},"reports":{"count":1,"visible_at":"2026-11-21T03:00:00.123Z"}}}
//! ```
//!
//! Where `queues` would not fit, or holds a name that is not UTF-8 (but see [`set_wide`]), it is left out, and that
//! means "check all your queues". Contents of messages never travel. Ids do where a queue asks for them: `"ids":[7,8]`,
//! some of them, and `"more":true` where there are others.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use indexmap::IndexMap;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::ids::Ids;
use crate::memory::{OutOfMemory, push};
use crate::route::Route;
use crate::timestamp::Timestamp;

/// The longest payload that `NOTIFY` takes, in bytes: it must be shorter than
/// `BLCKSZ - NAMEDATALEN - 128` (commands/async.c), which is 8000 in a server built with the usual
/// sizes.
pub const PAYLOAD_MAX_BYTES: usize = 7999;

/// A notification to be sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Notification<'a> {
    /// Where to.
    pub channel: &'a CStr,
    /// JSON of at most [`PAYLOAD_MAX_BYTES`] bytes without NUL; empty where not even the event fits.
    pub payload: String,
}

/// What happens to a message later: the events beside the enqueue's own.
pub mod event {
    use std::ffi::CStr;

    /// It was read.
    pub const STARTED: &CStr = c"job_started";
    /// It was archived.
    pub const ARCHIVED: &CStr = c"job_archived";
    /// It was deleted, and not archived.
    pub const DELETED: &CStr = c"job_deleted";
    /// All of them.
    pub const ALL: [&CStr; 3] = [STARTED, ARCHIVED, DELETED];
}

/// What is new on one queue: a part of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part<'a> {
    /// The queue's name as `pgmq.meta` has it.
    pub queue: &'a CStr,
    /// How many messages.
    pub count: u64,
    /// The earliest visibility time, where that is still to come.
    pub visible_at: Option<Timestamp>,
    /// Which messages; said only where the route asks for ids.
    pub ids: Option<&'a Ids>,
}

/// A payload as a consumer sees it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Payload {
    /// The event of the queues below.
    pub event: String,
    /// What is new; `None` means "check all your queues".
    #[serde(default)]
    pub queues: Option<BTreeMap<String, QueueNews>>,
}

/// What a consumer learns of one queue.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct QueueNews {
    /// How many messages.
    pub count: u64,
    /// ISO 8601 in UTC: when the earliest of them can be read, if not yet.
    #[serde(default)]
    pub visible_at: Option<String>,
    /// Which of them, where the queue asks for that.
    #[serde(default)]
    pub ids: Vec<i64>,
    /// There are more messages than these.
    #[serde(default)]
    pub more: bool,
}

#[derive(Serialize)]
struct Outgoing<'a> {
    event: Text<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<Queues<'a>>,
}

/// Whether a text has a character for each byte, U+0000 to U+00FF: then the sender makes bytes of them. This is for
/// servers with an encoding other than UTF-8, which the payload must have too.
static IS_WIDE: AtomicBool = AtomicBool::new(false);

/// For this process, as its server's encoding has it.
pub fn set_wide(is_wide: bool) {
    IS_WIDE.store(is_wide, Relaxed);
}

/// Bytes as a text; what is not UTF-8 becomes U+FFFD, as `to_string_lossy` has it, but without a copy.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if IS_WIDE.load(Relaxed) {
            return self.0.iter().try_for_each(|byte| f.write_char(char::from(*byte)));
        }
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(self.0) {
            Ok(text) if text.is_ascii() || !IS_WIDE.load(Relaxed) => serializer.serialize_str(text),
            _ => serializer.collect_str(self),
        }
    }
}

/// Queues whose names are UTF-8, each with whether it asks for ids.
struct Queues<'a> {
    parts: &'a [(Part<'a>, bool)],
    has_room_for_ids: bool,
}

#[derive(Serialize)]
struct OutgoingNews<'a> {
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    visible_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "<[i64]>::is_empty")]
    ids: &'a [i64],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

impl<'a> OutgoingNews<'a> {
    fn of(part: &'a Part<'_>, wants_ids: bool, has_room_for_ids: bool) -> Self {
        let ids = part.ids.filter(|_| wants_ids && has_room_for_ids);
        let ids = ids.map_or(&[][..], |ids| &ids.some);
        // Counted apart from the ids, which may come a moment earlier.
        let more =
            wants_ids && (part.ids.is_none_or(|ids| ids.more) || (ids.len() as u64) < part.count);
        Self { count: part.count, visible_at: part.visible_at, ids, more }
    }
}

fn as_text<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}

impl Serialize for Queues<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.parts.len()))?;
        for (part, wants_ids) in self.parts {
            let news = OutgoingNews::of(part, *wants_ids, self.has_room_for_ids);
            map.serialize_entry(&Text(part.queue.to_bytes()), &news)?;
        }
        map.end()
    }
}

/// The notifications that say `parts`: one for each channel and event, in the order of first use. What happens to
/// messages later comes last.
pub fn notifications<'a, 'e>(
    parts: impl IntoIterator<Item = (Route<'a>, Part<'e>)>,
) -> Result<Vec<Notification<'a>>, OutOfMemory> {
    let mut groups: IndexMap<(&CStr, &CStr), Vec<(Part<'_>, bool)>> = IndexMap::new();
    for (route, part) in parts {
        let wants_ids = route.options().ids;
        groups.try_reserve(1)?;
        let group = groups.entry((route.channel, route.event)).or_default();
        // Two tables may say the same queue. Of the ids it is enough to say that there are more.
        match group.iter_mut().find(|(other, _)| other.queue == part.queue) {
            Some((other, _)) => {
                other.count = other.count.saturating_add(part.count);
                let at = (other.visible_at, part.visible_at);
                other.visible_at =
                    if let (Some(one), Some(two)) = at { Some(one.min(two)) } else { None };
            }
            None => push(group, (part, wants_ids))?,
        }
    }
    let mut all = Vec::new();
    all.try_reserve_exact(groups.len())?;
    // The events of a message come in the order in which they happen: a page that shows jobs hears of one before it is
    // gone. There is a walk for each event, because sorting takes memory that can't be asked for.
    let later = |name| event::ALL.iter().position(|it| *it == name);
    for turn in std::iter::once(None).chain((0..event::ALL.len()).map(Some)) {
        for ((channel, event), parts) in groups.iter().filter(|((_, it), _)| later(*it) == turn) {
            all.push(Notification { channel, payload: encode(event, parts)? });
        }
    }
    Ok(all)
}

/// The payload that says `parts` under `event`, each with whether it asks for ids; without these where they would not
/// fit, and without `queues` where those would not.
pub fn encode(event: &CStr, parts: &[(Part<'_>, bool)]) -> Result<String, OutOfMemory> {
    let is_utf8 =
        IS_WIDE.load(Relaxed) || parts.iter().all(|(part, _)| part.queue.to_str().is_ok());
    let event = event.to_bytes();
    for has_room_for_ids in [true, false] {
        let queues = is_utf8.then_some(Queues { parts, has_room_for_ids });
        let whole = to_json(&Outgoing { event: Text(event), queues })?;
        if whole.len() <= PAYLOAD_MAX_BYTES {
            return Ok(whole);
        }
    }
    let short = to_json(&Outgoing { event: Text(event), queues: None })?;
    // Only a trigger made by hand has an event that long: what a consumer can't parse is a wake-up too.
    Ok(if short.len() <= PAYLOAD_MAX_BYTES { short } else { String::new() })
}

/// What a broadcast says of one queue, as AIMQ's workers know it.
pub fn broadcast(part: &Part<'_>, wants_ids: bool) -> Result<String, OutOfMemory> {
    #[derive(Serialize)]
    struct Broadcast<'a> {
        queue: Text<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        job_id: Option<i64>,
        #[serde(flatten)]
        news: OutgoingNews<'a>,
    }
    let newest = part.ids.map(|ids| ids.newest);
    to_json(&Broadcast {
        queue: Text(part.queue.to_bytes()),
        job_id: newest.filter(|id| *id != 0),
        news: OutgoingNews::of(part, wants_ids, true),
    })
}

/// A text that grows as long as there is memory. It returns no error of its own: serde_json would put that
/// into a box, and there may be no memory for the box either.
#[derive(Default)]
struct Growing {
    bytes: Vec<u8>,
    has_failed: bool,
}

impl io::Write for Growing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.has_failed = self.has_failed || self.bytes.try_reserve(bytes.len()).is_err();
        if !self.has_failed {
            self.bytes.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// JSON of a value whose keys are strings and whose `Serialize` is ours: that fails only if memory runs out. Should it
/// ever fail otherwise, the empty text is still a wake-up, because consumers take what they can't parse for one.
fn to_json(payload: &impl Serialize) -> Result<String, OutOfMemory> {
    let mut text = Growing::default();
    // As serde_json begins by itself.
    text.bytes.try_reserve(128)?;
    let written = serde_json::to_writer(&mut text, payload);
    if text.has_failed {
        return Err(OutOfMemory);
    }
    Ok(written.ok().and_then(|()| String::from_utf8(text.bytes).ok()).unwrap_or_default())
}

/// Whether `event` leaves room for what a notification must be able to say: one queue of the longest
/// name, with a count and a visibility time.
pub fn event_fits(event: &str) -> Result<bool, OutOfMemory> {
    /// `"queues":{"…":{"count":…,"visible_at":"…"}}` with 63 bytes of name, each of which may need
    /// six for its escape, 20 digits and 28 characters of time.
    const ROOM_FOR_ONE_QUEUE: usize = 63 * 6 + 20 + 28 + 64;
    let alone = to_json(&Outgoing { event: Text(event.as_bytes()), queues: None })?;
    Ok(alone.len() + ROOM_FOR_ONE_QUEUE <= PAYLOAD_MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;

    fn part<'a>(queue: &'a CStr, count: u64, visible_at: Option<i64>) -> Part<'a> {
        Part { queue, count, visible_at: visible_at.map(Timestamp), ids: None }
    }

    fn encode_plain<'a>(event: &CStr, parts: impl IntoIterator<Item = Part<'a>>) -> String {
        encode(event, &parts.into_iter().map(|part| (part, false)).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn ids_are_said_where_they_are_asked_for() {
        let mut news = part(c"q", 3, None);
        let mut ids = Ids::one(7);
        ids.add(8);
        news.ids = Some(&ids);
        let said = |wants_ids| encode(c"e", &[(news, wants_ids)]).unwrap();
        assert_eq!(said(false), r#"{"event":"e","queues":{"q":{"count":3}}}"#);
        let both = r#"{"event":"e","queues":{"q":{"count":3,"ids":[7,8],"more":true}}}"#;
        assert_eq!(said(true), both);
        news.count = 2;
        let both = r#"{"event":"e","queues":{"q":{"count":2,"ids":[7,8]}}}"#;
        assert_eq!(encode(c"e", &[(news, true)]).unwrap(), both);
        assert_eq!(broadcast(&news, false).unwrap(), r#"{"queue":"q","job_id":8,"count":2}"#);
        assert_eq!(
            broadcast(&part(c"q", 1, None), true).unwrap(),
            r#"{"queue":"q","count":1,"more":true}"#
        );
    }

    #[test]
    fn two_tables_of_one_queue_are_said_once() {
        let route = |relation| Route::new(c"c", c"e", c"q").of(relation);
        let said = |first, second| {
            let all = [(route(1), part(c"q", 2, first)), (route(2), part(c"q", 3, second))];
            let mut said = notifications(all).unwrap();
            assert_eq!(said.len(), 1);
            said.remove(0).payload
        };
        assert_eq!(said(None, Some(7)), r#"{"event":"e","queues":{"q":{"count":5}}}"#);
        assert!(said(Some(2_000), Some(1_000)).contains("00.001Z"), "the earlier one");
    }

    #[test]
    fn ids_that_do_not_fit_are_more() {
        let mut ids = Ids::default();
        (0..32).for_each(|id| ids.add(i64::MAX - id));
        let names: Vec<_> = (0..40).map(|at| CString::new(format!("queue{at}")).unwrap()).collect();
        let news = |name| Part { ids: Some(&ids), ..part(name, 32, None) };
        let all: Vec<_> = names.iter().map(|name| (news(name), true)).collect();
        let said: Payload = serde_json::from_str(&encode(c"e", &all).unwrap()).unwrap();
        let said = said.queues.unwrap();
        assert_eq!(said.len(), 40);
        assert!(said.values().all(|news| news.ids.is_empty() && news.more));
    }

    #[test]
    fn the_example_of_the_documents() {
        let at = (1_795_230_000_123 - 946_684_800_000) * 1000;
        let payload = encode_plain(
            c"job_enqueued",
            [part(c"emails", 3, None), part(c"reports", 1, Some(at))],
        );
        assert_eq!(
            payload,
            r#"{"event":"job_enqueued","queues":{"emails":{"count":3},"reports":{"count":1,"visible_at":"2026-11-21T03:00:00.123Z"}}}"#
        );
    }

    #[test]
    fn a_name_that_is_not_utf8_means_check_all() {
        let latin1 = CString::new(vec![b'q', 0xe9]).unwrap();
        let payload = encode_plain(c"e", [part(c"plain", 1, None), part(&latin1, 1, None)]);
        assert_eq!(payload, r#"{"event":"e"}"#);
    }

    #[test]
    fn fits_to_the_byte() {
        // {"event":"e","queues":{"":{"count":1}}} is 39 bytes without the name.
        let longest = CString::new("q".repeat(PAYLOAD_MAX_BYTES - 39)).unwrap();
        assert_eq!(encode_plain(c"e", [part(&longest, 1, None)]).len(), PAYLOAD_MAX_BYTES);
        let longer = CString::new("q".repeat(PAYLOAD_MAX_BYTES - 38)).unwrap();
        assert_eq!(encode_plain(c"e", [part(&longer, 1, None)]), r#"{"event":"e"}"#);
    }

    #[test]
    fn an_event_that_is_too_long_is_still_a_wake_up() {
        let event = CString::new("e".repeat(PAYLOAD_MAX_BYTES)).unwrap();
        assert_eq!(encode_plain(&event, [part(c"q", 1, None)]), "");
    }

    proptest! {
        #[test]
        fn consumers_read_what_was_said_or_check_all(
            event in "[^\0]{0,40}",
            queues in prop::collection::btree_map("[^\0]{1,63}", (any::<u64>(), any::<Option<i64>>()), 0..120),
        ) {
            let names: Vec<_> = queues
                .iter()
                .map(|(name, (count, at))| (CString::new(name.as_str()).unwrap(), *count, *at))
                .collect();
            let all: Vec<_> = names.iter().map(|(name, count, at)| part(name, *count, *at)).collect();
            let text = encode_plain(&CString::new(event.as_str()).unwrap(), all);
            prop_assert!(text.len() <= PAYLOAD_MAX_BYTES);
            prop_assert!(!text.contains('\0'));
            let read: Payload = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&read.event, &event);
            match read.queues {
                Some(said) => {
                    prop_assert_eq!(said.len(), queues.len());
                    for (name, (count, at)) in &queues {
                        prop_assert_eq!(said[name].count, *count);
                        prop_assert_eq!(&said[name].visible_at, &at.map(|at| Timestamp(at).to_string()));
                    }
                }
                None => prop_assert!(queues.len() > 10, "left out though it would have fitted"),
            }
        }

        #[test]
        fn an_event_that_fits_never_pushes_one_queue_out(event in "\\PC{0,7900}", name in "[^\0]{1,15}", at in any::<i64>()) {
            prop_assume!(event_fits(&event).unwrap());
            let name = CString::new(name).unwrap();
            let text = encode_plain(&CString::new(event).unwrap(), [part(&name, u64::MAX, Some(at))]);
            prop_assert!(text.contains("\"queues\""));
        }
    }
}
