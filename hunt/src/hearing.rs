//! What a session that listens has heard, and when one that blocks was in a call: plain data, written by the consumers
//! and read by the observer.

use aimq_core::payload::Payload;

use crate::clock::Micros;

/// The event of the notifications that tell of something to read.
const ENQUEUED: &str = "job_enqueued";

/// A notification, when it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Wake {
    pub(crate) at: Micros,
    pub(crate) channel: String,
    /// `None`: all queues.
    pub(crate) queues: Option<Vec<String>>,
}

impl Wake {
    /// Whether it tells of a queue.
    pub(crate) fn is_of(&self, channels: &[String], queue: &str) -> bool {
        channels.contains(&self.channel)
            && self.queues.as_ref().is_none_or(|queues| queues.iter().any(|name| name == queue))
    }
}

/// The time that a session was there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stay {
    pub(crate) from: Micros,
    /// `None` while it lasts.
    pub(crate) until: Option<Micros>,
}

/// What one listener has heard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hearing {
    /// Who it is.
    pub(crate) name: String,
    /// What it listens to.
    pub(crate) channels: Vec<String>,
    /// From when LISTEN was committed, to the end of the connection.
    pub(crate) stays: Vec<Stay>,
    /// In the order in which they came.
    pub(crate) wakes: Vec<Wake>,
}

impl Hearing {
    /// Notes what was heard.
    pub(crate) fn note(&mut self, at: Micros, channel: &str, payload: &str) {
        let payload = serde_json::from_str::<Payload>(payload).ok();
        // What happens to a message later is no reason to read.
        if payload.as_ref().is_some_and(|payload| payload.event != ENQUEUED) {
            return;
        }
        let queues = payload.and_then(|payload| payload.queues);
        let queues = queues.map(|queues| queues.into_keys().collect());
        self.wakes.push(Wake { at, channel: channel.to_owned(), queues });
    }

    /// The session that listened at a time.
    pub(crate) fn stay_at(&self, at: Micros) -> Option<Stay> {
        let is_then = |stay: &&Stay| stay.from <= at && stay.until.is_none_or(|until| until > at);
        self.stays.iter().rev().find(is_then).copied()
    }

    /// Those that tell of a queue, from a time on.
    pub(crate) fn of<'a>(
        &'a self,
        channels: &'a [String],
        queue: &'a str,
        from: Micros,
    ) -> impl Iterator<Item = &'a Wake> {
        let first = self.wakes.partition_point(|wake| wake.at < from);
        self.wakes[first..].iter().filter(move |wake| wake.is_of(channels, queue))
    }
}

/// The calls of one session that blocks, on one queue.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    /// Who it is.
    pub(crate) name: String,
    /// The queue's table, without its schema.
    pub(crate) table: String,
    /// How much later than the others it may be.
    pub(crate) more: Micros,
    /// From before it was sent, to when it was answered.
    pub(crate) calls: Vec<Stay>,
}
