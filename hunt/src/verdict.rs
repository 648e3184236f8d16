//! The observer's decision, from data alone: was everybody woken for a message that became readable?

use crate::clock::{Micros, SECOND};
use crate::excuses::{Excuses, Place};
use crate::hearing::{Calls, Hearing};

/// How long a loss is watched before it is told, so that what comes too late can be told too.
const AFTERWARDS: Micros = 3 * SECOND;

/// What may be late, and by how much.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// A notification.
    pub(crate) slack: Micros,
    /// A session that blocks.
    pub(crate) blocked: Micros,
}

/// A message that became readable: from now on everybody is to be woken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    pub(crate) id: i64,
    pub(crate) vt: Micros,
    pub(crate) reads: i32,
    /// It became readable at this time or later…
    pub(crate) earliest: Micros,
    /// … and was readable at this time.
    pub(crate) latest: Micros,
    /// Whether `earliest` is the time itself, known from the commit or the visibility time.
    pub(crate) is_exact: bool,
    /// The queue, as its trigger names it.
    pub(crate) queue: String,
    /// Where it may be announced: more than one if the channel was changed meanwhile.
    pub(crate) channels: Vec<String>,
    /// When it was still seen, before it was read, deleted, or its queue was no longer realtime.
    pub(crate) gone: Option<Micros>,
}

impl Demand {
    /// Since when it counts.
    fn since(&self) -> Micros {
        if self.is_exact { self.earliest } else { self.latest }
    }
}

/// What happened to a demand, for one consumer that is to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Not known yet.
    Open,
    /// Woken, at this time.
    Woken(Micros),
    /// Nobody needed to be woken: the message was gone in time, or the session was not there.
    Exempt,
    /// Not woken in time. The wake-up that came after it, if any.
    Lost(Option<Micros>),
}

/// Whether a listener heard of a message.
pub(crate) fn heard(
    demand: &Demand,
    hearing: &Hearing,
    place: Place,
    excuses: &Excuses,
    limits: Limits,
    now: Micros,
) -> Outcome {
    let is_listening = demand.channels.iter().all(|channel| hearing.channels.contains(channel));
    // A listener that comes later reads first, as every worker does.
    let Some(stay) = hearing.stay_at(demand.earliest).filter(|_| is_listening) else {
        return Outcome::Exempt;
    };
    if excuses.is_forgiven(place, demand.earliest, demand.latest) {
        return Outcome::Exempt;
    }
    let since = demand.since();
    let counted = |to: Micros| excuses.outside(place, since, to.max(since));
    let end = [demand.gone, stay.until].into_iter().flatten().fold(now, Micros::min);
    let woken = hearing.of(&demand.channels, &demand.queue, demand.earliest).map(|wake| wake.at);
    let woken = woken.take_while(|at| stay.until.is_none_or(|until| *at <= until)).next();
    match woken {
        Some(at) if counted(at) <= limits.slack => Outcome::Woken(at),
        Some(at) if counted(end.min(at)) > limits.slack => Outcome::Lost(Some(at)),
        Some(_) => Outcome::Exempt,
        None if counted(end) <= limits.slack && end < now => Outcome::Exempt,
        None if counted(end) > limits.slack && counted(now) > limits.slack + AFTERWARDS => {
            Outcome::Lost(None)
        }
        None => Outcome::Open,
    }
}

/// Whether a session slept in a call beside a message that could be read. `Lost` tells when the call ended, if it did.
pub(crate) fn slept_beside(
    demand: &Demand,
    calls: &Calls,
    place: Place,
    excuses: &Excuses,
    limits: Limits,
    now: Micros,
) -> Outcome {
    let end = demand.gone.unwrap_or(now);
    // The calls are one after the other.
    let first = calls.calls.partition_point(|call| call.until.is_some_and(|it| it < demand.latest));
    for call in &calls.calls[first..] {
        let from = call.from.max(demand.latest);
        let to = call.until.unwrap_or(now).min(end);
        if from < to && excuses.outside(place, from, to) > limits.blocked + calls.more {
            return Outcome::Lost(call.until);
        }
    }
    if demand.gone.is_some() { Outcome::Exempt } else { Outcome::Open }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::excuses::Scope;
    use crate::hearing::{Stay, Wake};

    const HERE: Place = Place { database: 0, table: 7 };
    const LIMITS: Limits = Limits { slack: SECOND, blocked: SECOND };

    /// Readable at 10 s, seen 50 ms later.
    fn demand() -> Demand {
        Demand {
            id: 1,
            vt: 10 * SECOND,
            reads: 0,
            earliest: 10 * SECOND,
            latest: 10 * SECOND + 50_000,
            is_exact: true,
            queue: "a".into(),
            channels: vec!["jobs".into()],
            gone: None,
        }
    }

    fn hearing(wakes: &[(Micros, &str)]) -> Hearing {
        let wake = |(at, queue): &(Micros, &str)| Wake {
            at: *at,
            channel: "jobs".into(),
            queues: (*queue != "*").then(|| vec![(*queue).to_owned()]),
        };
        Hearing {
            name: "ear".into(),
            channels: vec!["jobs".into(), "others".into()],
            stays: vec![Stay { from: 0, until: None }],
            wakes: wakes.iter().map(wake).collect(),
        }
    }

    fn judge(demand: &Demand, hearing: &Hearing, now: Micros) -> Outcome {
        heard(demand, hearing, HERE, &Excuses::default(), LIMITS, now)
    }

    #[test]
    fn a_message_that_nobody_is_woken_for_is_lost() {
        // One too early, and one of another queue.
        let hearing = hearing(&[(10 * SECOND - 1, "a"), (10 * SECOND + 1, "b")]);
        assert_eq!(judge(&demand(), &hearing, 11 * SECOND), Outcome::Open);
        assert_eq!(judge(&demand(), &hearing, 15 * SECOND), Outcome::Lost(None));
    }

    #[test]
    fn a_wake_up_that_names_the_queue_or_nothing_will_do() {
        let soon = 10 * SECOND + 3;
        for name in ["a", "*"] {
            assert_eq!(judge(&demand(), &hearing(&[(soon, name)]), soon), Outcome::Woken(soon));
        }
        let mut elsewhere = hearing(&[(soon, "a")]);
        elsewhere.wakes[0].channel = "others".into();
        assert_eq!(judge(&demand(), &elsewhere, 15 * SECOND), Outcome::Lost(None));
        let mut moved = demand();
        moved.channels.push("others".into());
        assert_eq!(judge(&moved, &elsewhere, 15 * SECOND), Outcome::Woken(soon));
    }

    #[test]
    fn lateness_counts_from_the_time_itself_where_that_is_known() {
        let limits = Limits { slack: 90_000, blocked: SECOND };
        let at = 10 * SECOND + 100_000;
        let outcome = |demand: &Demand| {
            heard(demand, &hearing(&[(at, "a")]), HERE, &Excuses::default(), limits, at)
        };
        assert_eq!(outcome(&demand()), Outcome::Lost(Some(at)));
        // It was seen 50 ms later than it may have been there.
        assert_eq!(outcome(&Demand { is_exact: false, ..demand() }), Outcome::Woken(at));
    }

    #[test]
    fn what_comes_too_late_is_told_with_the_loss() {
        let late = 12 * SECOND;
        assert_eq!(judge(&demand(), &hearing(&[(late, "a")]), late), Outcome::Lost(Some(late)));
    }

    #[test]
    fn a_message_that_is_gone_in_time_needs_no_wake_up_and_one_that_stood_does() {
        let mut gone = demand();
        gone.gone = Some(10 * SECOND + 500_000);
        assert_eq!(judge(&gone, &hearing(&[]), 11 * SECOND), Outcome::Exempt);
        assert_eq!(judge(&gone, &hearing(&[(12 * SECOND, "a")]), 12 * SECOND), Outcome::Exempt);
        gone.gone = Some(12 * SECOND);
        assert_eq!(judge(&gone, &hearing(&[]), 12 * SECOND), Outcome::Open);
        assert_eq!(judge(&gone, &hearing(&[]), 15 * SECOND), Outcome::Lost(None));
    }

    #[test]
    fn time_that_is_excused_does_not_count() {
        let mut excuses = Excuses::default();
        excuses.add(Scope::Server, 10 * SECOND, 13 * SECOND, "");
        let late = 14 * SECOND;
        let heard =
            |hearing: &Hearing, now| super::heard(&demand(), hearing, HERE, &excuses, LIMITS, now);
        assert_eq!(heard(&hearing(&[(late, "a")]), late), Outcome::Woken(late));
        assert_eq!(heard(&hearing(&[]), 16 * SECOND), Outcome::Open);
        assert_eq!(heard(&hearing(&[]), 18 * SECOND), Outcome::Lost(None));
    }

    #[test]
    fn who_was_not_there_is_not_asked() {
        let mut hearing = hearing(&[]);
        hearing.stays = vec![Stay { from: 10 * SECOND + 1, until: None }];
        assert_eq!(judge(&demand(), &hearing, 15 * SECOND), Outcome::Exempt);
        hearing.stays = vec![Stay { from: 0, until: Some(10 * SECOND + 100_000) }];
        assert_eq!(judge(&demand(), &hearing, 15 * SECOND), Outcome::Exempt);
        // It was there for as long as a wake-up may take.
        hearing.stays = vec![Stay { from: 0, until: Some(12 * SECOND) }];
        assert_eq!(judge(&demand(), &hearing, 15 * SECOND), Outcome::Lost(None));
        hearing.stays = vec![Stay { from: 0, until: None }];
        hearing.channels = vec!["others".into()];
        assert_eq!(judge(&demand(), &hearing, 15 * SECOND), Outcome::Exempt);
    }

    #[test]
    fn who_sleeps_beside_a_message_has_lost_it() {
        let calls = |from, until| Calls {
            name: "reader".into(),
            table: "q_a".into(),
            more: 0,
            calls: vec![Stay { from: 0, until: Some(5 * SECOND) }, Stay { from, until }],
        };
        let judge = |demand: &Demand, calls: &Calls, now| {
            slept_beside(demand, calls, HERE, &Excuses::default(), LIMITS, now)
        };
        let asleep = calls(5 * SECOND, None);
        assert_eq!(judge(&demand(), &asleep, 11 * SECOND), Outcome::Open);
        assert_eq!(judge(&demand(), &asleep, 12 * SECOND), Outcome::Lost(None));
        let woke = calls(5 * SECOND, Some(12 * SECOND));
        assert_eq!(judge(&demand(), &woke, 13 * SECOND), Outcome::Lost(Some(12 * SECOND)));
        let in_time = calls(5 * SECOND, Some(10 * SECOND + 2_000));
        assert_eq!(judge(&demand(), &in_time, 13 * SECOND), Outcome::Open);
        let mut gone = demand();
        gone.gone = Some(10 * SECOND + 60_000);
        assert_eq!(judge(&gone, &asleep, 13 * SECOND), Outcome::Exempt);
    }
}
