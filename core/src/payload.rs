//! The wire format: one JSON object for each notification.
//!
//! ```json
//! {"event":"job_enqueued","queues":{"emails":{"count":3},"reports":{"count":1,"visible_at":"2026-11-21T03:00:00.123Z"}}}
//! ```
//!
//! Where `queues` would not fit, or holds a name that is not UTF-8, it is left out, and that means
//! "check all your queues". Contents of messages never travel. Ids do where a queue asks for them: `"ids":[7,8]`, some of
//! them, and `"more":true` where there are others.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::CStr;

use indexmap::IndexMap;
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};

use crate::ids::Ids;
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

/// What befalls a message, where nothing else is said of it than the enqueue's own event.
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

/// What is new on one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The queue's name as `pgmq.meta` has it.
    pub queue: &'a CStr,
    /// How many messages.
    pub count: u64,
    /// The earliest visibility time, where that is still to come.
    pub visible_at: Option<Timestamp>,
    /// Which messages; said only where the route asks for ids.
    pub ids: Option<Box<Ids>>,
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
    /// There are others than these.
    #[serde(default)]
    pub more: bool,
}

#[derive(Serialize)]
struct Outgoing<'a> {
    event: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queues: Option<Queues<'a>>,
}

struct Queues<'a>(Vec<(&'a str, OutgoingNews<'a>)>);

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
    fn of(entry: &'a Entry<'_>, wants_ids: bool, has_room_for_ids: bool) -> Self {
        let ids = entry.ids.as_ref().filter(|_| wants_ids && has_room_for_ids);
        let ids = ids.map_or(&[][..], |ids| &ids.some);
        // Counted apart from the ids, which may come a moment earlier.
        let more = wants_ids
            && (entry.ids.as_ref().is_none_or(|ids| ids.more) || (ids.len() as u64) < entry.count);
        Self { count: entry.count, visible_at: entry.visible_at, ids, more }
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
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (queue, news) in &self.0 {
            map.serialize_entry(queue, news)?;
        }
        map.end()
    }
}

/// The notifications that say `entries`: one for each channel and event, in the order of first use, but what befalls
/// messages later behind that.
pub fn notifications<'a>(
    entries: impl IntoIterator<Item = (Route<'a>, Entry<'a>)>,
) -> Vec<Notification<'a>> {
    let mut groups: IndexMap<(&CStr, &CStr), Vec<(Entry<'_>, bool)>> = IndexMap::new();
    for (route, entry) in entries {
        let wants_ids = route.options().ids;
        groups.entry((route.channel, route.event)).or_default().push((entry, wants_ids));
    }
    // What befalls a message in the order in which it does: whoever shows jobs hears of one before it is gone.
    groups.sort_by_cached_key(|(_, name), _| event::ALL.iter().position(|it| it == name));
    let groups = groups.into_iter();
    groups
        .map(|((channel, event), entries)| Notification {
            channel,
            payload: encode(event, &entries),
        })
        .collect()
}

/// The payload that says `entries` under `event`, each with whether it asks for ids; without these where they would not
/// fit, and without `queues` where those would not.
pub fn encode(event: &CStr, entries: &[(Entry<'_>, bool)]) -> String {
    let event = event.to_string_lossy();
    for has_room_for_ids in [true, false] {
        let queues: Option<Vec<_>> = entries
            .iter()
            .map(|(entry, wants_ids)| {
                let about = OutgoingNews::of(entry, *wants_ids, has_room_for_ids);
                entry.queue.to_str().ok().map(|queue| (queue, about))
            })
            .collect();
        let whole = to_json(&Outgoing { event: event.clone(), queues: queues.map(Queues) });
        if whole.len() <= PAYLOAD_MAX_BYTES {
            return whole;
        }
    }
    let short = to_json(&Outgoing { event, queues: None });
    // Only a trigger made by hand has an event that long: what a consumer can't parse is a wake-up too.
    if short.len() <= PAYLOAD_MAX_BYTES { short } else { String::new() }
}

/// What a broadcast says of one queue, as AIMQ's workers know it.
pub fn broadcast(entry: &Entry<'_>, wants_ids: bool) -> String {
    #[derive(Serialize)]
    struct Broadcast<'a> {
        queue: Cow<'a, str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        job_id: Option<i64>,
        #[serde(flatten)]
        news: OutgoingNews<'a>,
    }
    let newest = entry.ids.as_ref().map(|ids| ids.newest);
    to_json(&Broadcast {
        queue: entry.queue.to_string_lossy(),
        job_id: newest.filter(|id| *id != 0),
        news: OutgoingNews::of(entry, wants_ids, true),
    })
}

/// JSON of a value whose keys are strings and whose `Serialize` is ours: that cannot fail. Should it
/// ever, the empty text is still a wake-up, since consumers take what they can't parse for one.
fn to_json(payload: &impl Serialize) -> String {
    serde_json::to_string(payload).unwrap_or_default()
}

/// Whether `event` leaves room for what a notification must be able to say: one queue of the longest
/// name, with a count and a visibility time.
pub fn event_fits(event: &str) -> bool {
    /// `"queues":{"…":{"count":…,"visible_at":"…"}}` with 63 bytes of name, each of which may need
    /// six for its escape, 20 digits and 28 characters of time.
    const ROOM_FOR_ONE_QUEUE: usize = 63 * 6 + 20 + 28 + 64;
    let alone = to_json(&Outgoing { event: event.into(), queues: None });
    alone.len() + ROOM_FOR_ONE_QUEUE <= PAYLOAD_MAX_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::CString;

    fn entry<'a>(queue: &'a CStr, count: u64, visible_at: Option<i64>) -> Entry<'a> {
        Entry { queue, count, visible_at: visible_at.map(Timestamp), ids: None }
    }

    fn encode_plain<'a>(event: &CStr, entries: impl IntoIterator<Item = Entry<'a>>) -> String {
        encode(event, &entries.into_iter().map(|entry| (entry, false)).collect::<Vec<_>>())
    }

    #[test]
    fn ids_are_said_where_they_are_asked_for() {
        let mut news = entry(c"q", 3, None);
        let mut ids = Ids::one(7);
        ids.add(8);
        news.ids = Some(Box::new(ids));
        let said = |wants_ids| encode(c"e", &[(news.clone(), wants_ids)]);
        assert_eq!(said(false), r#"{"event":"e","queues":{"q":{"count":3}}}"#);
        let both = r#"{"event":"e","queues":{"q":{"count":3,"ids":[7,8],"more":true}}}"#;
        assert_eq!(said(true), both);
        news.count = 2;
        let both = r#"{"event":"e","queues":{"q":{"count":2,"ids":[7,8]}}}"#;
        assert_eq!(encode(c"e", &[(news.clone(), true)]), both);
        assert_eq!(broadcast(&news, false), r#"{"queue":"q","job_id":8,"count":2}"#);
        assert_eq!(
            broadcast(&entry(c"q", 1, None), true),
            r#"{"queue":"q","count":1,"more":true}"#
        );
    }

    #[test]
    fn ids_that_do_not_fit_are_more() {
        let mut ids = Ids::default();
        (0..32).for_each(|id| ids.add(i64::MAX - id));
        let names: Vec<_> = (0..40).map(|at| CString::new(format!("queue{at}")).unwrap()).collect();
        let news = |name| Entry { ids: Some(Box::new(ids.clone())), ..entry(name, 32, None) };
        let all: Vec<_> = names.iter().map(|name| (news(name), true)).collect();
        let said: Payload = serde_json::from_str(&encode(c"e", &all)).unwrap();
        let said = said.queues.unwrap();
        assert_eq!(said.len(), 40);
        assert!(said.values().all(|news| news.ids.is_empty() && news.more));
    }

    #[test]
    fn the_example_of_the_documents() {
        let at = (1_795_230_000_123 - 946_684_800_000) * 1000;
        let payload = encode_plain(
            c"job_enqueued",
            [entry(c"emails", 3, None), entry(c"reports", 1, Some(at))],
        );
        assert_eq!(
            payload,
            r#"{"event":"job_enqueued","queues":{"emails":{"count":3},"reports":{"count":1,"visible_at":"2026-11-21T03:00:00.123Z"}}}"#
        );
    }

    #[test]
    fn a_name_that_is_not_utf8_means_check_all() {
        let latin1 = CString::new(vec![b'q', 0xe9]).unwrap();
        let payload = encode_plain(c"e", [entry(c"plain", 1, None), entry(&latin1, 1, None)]);
        assert_eq!(payload, r#"{"event":"e"}"#);
    }

    #[test]
    fn fits_to_the_byte() {
        // {"event":"e","queues":{"":{"count":1}}} is 39 bytes without the name.
        let longest = CString::new("q".repeat(PAYLOAD_MAX_BYTES - 39)).unwrap();
        assert_eq!(encode_plain(c"e", [entry(&longest, 1, None)]).len(), PAYLOAD_MAX_BYTES);
        let longer = CString::new("q".repeat(PAYLOAD_MAX_BYTES - 38)).unwrap();
        assert_eq!(encode_plain(c"e", [entry(&longer, 1, None)]), r#"{"event":"e"}"#);
    }

    #[test]
    fn an_event_that_is_too_long_is_still_a_wake_up() {
        let event = CString::new("e".repeat(PAYLOAD_MAX_BYTES)).unwrap();
        assert_eq!(encode_plain(&event, [entry(c"q", 1, None)]), "");
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
            let all: Vec<_> = names.iter().map(|(name, count, at)| entry(name, *count, *at)).collect();
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
            prop_assume!(event_fits(&event));
            let name = CString::new(name).unwrap();
            let text = encode_plain(&CString::new(event).unwrap(), [entry(&name, u64::MAX, Some(at))]);
            prop_assert!(text.contains("\"queues\""));
        }
    }
}
