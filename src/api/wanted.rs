//! What a user wants of a queue: checked, and what he should hear about it.

use std::cell::Cell;
use std::ffi::CStr;

use aimq_core::options::Options;
use aimq_core::payload::{event as events_of, event_fits};
use aimq_core::route::CHANNEL_MAX_BYTES;
use pgrx::datum::Array;

use crate::catalog::pgmq::{self, Queue};
use crate::catalog::triggers::{Kind, Setting};
use crate::error::{Advice, Error, Warning};
use crate::pg::text::{self, Text};
use crate::settings::{self, Delivery};
use crate::shared;

pub(super) fn present<'a>(
    argument: &'static str,
    value: Option<&'a str>,
) -> Result<&'a str, Error> {
    match value {
        None => Err(Error::NullArgument { argument }),
        Some("") => Err(Error::EmptyArgument { argument }),
        Some(value) => Ok(value),
    }
}

/// What a queue is to tell, and where.
pub(super) struct Wanted<'a> {
    pub(super) channel: &'a str,
    event: &'a str,
    pub(super) options: Options,
    /// What happens to its messages later.
    events: Vec<&'static CStr>,
    /// What of it is new, for any of the queues that were changed.
    pub(super) news: Cell<News>,
}

/// What somebody who has made a queue realtime, or changed it, may want advice about.
#[derive(Clone, Copy, Default)]
pub(super) struct News {
    /// Listeners have to wait on another channel.
    pub(super) channel: bool,
    /// Listeners hear nothing any more.
    pub(super) silence: bool,
    /// It was not realtime.
    pub(super) realtime: bool,
}

impl<'a> Wanted<'a> {
    /// Nothing but the enqueue, by NOTIFY.
    pub(super) fn plain(channel: &'a str, event: &'a str) -> Result<Self, Error> {
        if text::bytes(channel) > CHANNEL_MAX_BYTES {
            return Err(Error::ChannelTooLong { bytes: text::bytes(channel) });
        }
        Ok(Self {
            channel,
            event,
            options: Options::default(),
            events: Vec::new(),
            news: Cell::default(),
        })
    }

    pub(super) fn checked(
        channel: Option<&'a str>,
        event: Option<&'a str>,
        sink: Option<&str>,
        events: Option<Array<'_, Text>>,
        ids: Option<bool>,
    ) -> Result<Self, Error> {
        let channel = present("channel", channel)?;
        let event = present("event", event)?;
        if text::bytes(channel) > CHANNEL_MAX_BYTES {
            return Err(Error::ChannelTooLong { bytes: text::bytes(channel) });
        }
        if !event_fits(event)? {
            return Err(Error::EventTooLong { bytes: text::bytes(event) });
        }
        for (argument, value) in [("channel", channel), ("event", event)] {
            if !text::is_known(value) {
                return Err(Error::UnknownEncoding { argument });
            }
        }
        if events_of::ALL.iter().any(|it| it.to_bytes() == event.as_bytes()) {
            return Err(Error::ReservedEvent { event: event.into() });
        }
        let (notifies, broadcasts) = match present("sink", sink)? {
            "notify" => (true, false),
            "supabase" => (false, true),
            "both" => (true, true),
            other => {
                let choices = "notify, supabase, both";
                return Err(Error::NoSuchValue { argument: "sink", value: other.into(), choices });
            }
        };
        let ids = ids.ok_or(Error::NullArgument { argument: "ids" })?;
        let options = Options { notifies, broadcasts, ids };
        let events = checked_events(event, events)?;
        Ok(Self { channel, event, options, events, news: Cell::default() })
    }

    /// What a kind of trigger of the queue is to say. `None` if there is to be none.
    pub(super) fn setting(&self, queue: &Queue, kind: &Kind) -> Option<Setting> {
        let event = match kind.event {
            None => self.event,
            Some(event) if self.events.contains(&event) => event.to_str().unwrap_or_default(),
            Some(_) => return None,
        };
        Some(Setting::new(self.channel, event, &queue.name, self.options))
    }

    /// Says what will keep broadcasts of these queues from being sent, and what listeners should know.
    pub(super) fn warn(&self, queues: &[Queue]) {
        let news = self.news.get();
        if news.silence {
            Advice::NoListeners.report();
        } else if news.channel && text::needs_quotes(self.channel) {
            Advice::NeedsQuotes { channel: self.channel.to_owned() }.report();
        }
        if news.realtime && is_slow() {
            Advice::SlowMode.report();
        }
        if self.options.broadcasts {
            let of_archive = self.events.contains(&events_of::ARCHIVED);
            let kinds = if of_archive { &[false, true][..] } else { &[false] };
            let all = queues.iter().flat_map(|queue| kinds.iter().map(move |kind| (queue, *kind)));
            let tables: Vec<_> = all
                .filter(|(queue, kind)| queue.is_superusers(*kind))
                .map(|(queue, kind)| queue.table_for(kind).0.to_owned())
                .collect();
            if shared::here().is_none() {
                Warning::SinkWithoutNotifier.report();
            }
            if !pgmq::has_realtime_send() {
                Warning::NoRealtimeSend.report();
            }
            if !tables.is_empty() {
                Warning::BroadcastAsSuperuser { tables }.report();
            }
        }
    }
}

fn checked_events(own: &str, events: Option<Array<'_, Text>>) -> Result<Vec<&'static CStr>, Error> {
    let events = events.ok_or(Error::NullArgument { argument: "events" })?;
    let mut wanted = Vec::new();
    let mut has_own = false;
    for event in events.iter() {
        let event = event.ok_or(Error::NullArgument { argument: "events" })?;
        // The enqueue's own event may be said by its name too.
        if &*event == "job_enqueued" || &*event == own {
            has_own = true;
        } else {
            let known = events_of::ALL.into_iter().find(|it| it.to_bytes() == event.as_bytes());
            let choices = "job_enqueued, job_started, job_archived, job_deleted";
            let value = event.0;
            wanted.push(known.ok_or(Error::NoSuchValue { argument: "events", value, choices })?);
        }
    }
    if has_own { Ok(wanted) } else { Err(Error::EventsWithoutEnqueued) }
}

/// Whether there is no notifier because this server cannot have one as it is, and nobody chose that: before PostgreSQL
/// 17 only preloading brings a notifier.
fn is_slow() -> bool {
    let is_chosen = settings::delivery() == Delivery::Transaction;
    cfg!(not(any(feature = "pg17", feature = "pg18"))) && !shared::is_preloaded() && !is_chosen
}
