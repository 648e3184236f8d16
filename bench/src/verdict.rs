//! What the notifier must show, and whether it did.

use std::fmt;

use aimq_lab::stats::percentile;

use crate::callers::Call;
use crate::contestants::Key;
use crate::figures::{
    self, Ratio, best_in_transaction, latencies, middle, number, ratio, throughput, tps, wake_p50,
};
use crate::report;
use crate::results::{Background, Blocked, Polling, Results};
use crate::table::Table;
use crate::worker::Way;

/// One line of the table.
struct Line {
    what: String,
    wanted: Wanted,
    found: Option<Found>,
}

/// What a figure is held against.
#[derive(Clone, Copy)]
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
    /// Not a number where the other was not measured.
    Below(f64),
    None,
}

struct Found {
    value: f64,
    shown: String,
    from: String,
}

impl Wanted {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
            Self::Below(bound) => value < bound,
            Self::None => value == 0.0,
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
            Self::Below(bound) if bound.is_nan() => write!(f, "below"),
            Self::Below(bound) => write!(f, "< {bound:.2}"),
            Self::None => write!(f, "0"),
        }
    }
}

/// The table; empty if nothing of it was measured. Nothing fails: it is up to the reader to judge it.
pub(crate) fn text(results: &Results) -> String {
    let lines = lines(results);
    if lines.iter().all(|line| line.found.is_none()) {
        return String::new();
    }
    let mut table = Table::new("What the notifier must show", "", &["", "wanted", "found", "from"]);
    table.words.push(3);
    for Line { what, wanted, found } in lines {
        let (mark, found, from) = match found {
            Some(Found { value, shown, from }) => {
                (if wanted.is_met(value) { '✓' } else { '✗' }, shown, from)
            }
            None => ('–', "not measured".into(), String::new()),
        };
        table.row(&format!("{mark} {what}"), [wanted.to_string(), found, from]);
    }
    table.below = report::rounds(results);
    table.to_string()
}

fn of_pairs(what: impl Into<String>, wanted: Wanted, found: Option<Ratio>) -> Line {
    let found = found.map(|it| Found {
        value: it.median,
        shown: format!("{:.3}", it.median),
        from: format!("{} pair{}", it.pairs, if it.pairs == 1 { "" } else { "s" }),
    });
    Line { what: what.into(), wanted, found }
}

/// None may be lost; `from` is none if there was nothing to lose.
fn no_message(what: &str, lost: u64, from: Option<String>) -> Line {
    let found = from.map(|from| Found { value: lost as f64, shown: lost.to_string(), from });
    Line { what: what.into(), wanted: Wanted::None, found }
}

fn messages(sent: u64) -> Option<String> {
    (sent > 0).then(|| format!("{} messages", number(sent as f64)))
}

/// A percentile in milliseconds.
fn of_ms(what: String, wanted: Wanted, sorted: &[f64], part: f64, from: String) -> Line {
    let value = percentile(sorted, part);
    let found = (!value.is_nan()).then(|| Found { value, shown: format!("{value:.2} ms"), from });
    Line { what, wanted, found }
}

fn lines(results: &Results) -> Vec<Line> {
    use Wanted::{AtLeast, AtMost, Below};
    let mut lines = Vec::new();
    for key in [Key::Notifier, Key::NotifierPlain] {
        for clients in [1, 16, 64] {
            let of = |key| tps(results, key, clients, 1);
            let what =
                format!("commits, {}: times {}", clients_of(clients), key.baseline().title());
            lines.push(of_pairs(what, AtLeast(0.95), ratio(&of(key), &of(key.baseline()))));
        }
    }
    for clients in [1, 16, 64] {
        let of = |key| throughput(results, key, clients, 1, false);
        let what =
            format!("commits, {}: times no trigger, synchronous_commit off", clients_of(clients));
        lines.push(of_pairs(what, AtLeast(0.93), ratio(&of(Key::Notifier), &of(Key::None))));
    }
    for (clients, listeners, bound) in [(16, 1, 2.5), (64, 1, 2.5), (16, 200, 4.0)] {
        let best = best_in_transaction(results, clients, listeners);
        let of = |key| tps(results, key, clients, listeners);
        let found = best.and_then(|best| ratio(&of(Key::Notifier), &of(best)));
        let plural = if listeners == 1 { "" } else { "s" };
        let rival = best.map_or("the best in the transaction", Key::title);
        let what =
            format!("commits, {clients} clients, {listeners} listener{plural}: times {rival}");
        lines.push(of_pairs(what, AtLeast(bound), found));
    }
    for (key, server) in [(Key::Notifier, ""), (Key::NotifierPlain, ", no preload")] {
        let p50 = |key| wake_p50(results, key, Background::Idle);
        let what = format!("wake-up p50, idle: times aimq transaction{server}");
        lines.push(of_pairs(what, AtMost(1.3), ratio(&p50(key), &p50(Key::Transaction))));
    }
    for (background, name) in [
        (Background::Steady, "16 producers at a steady rate"),
        (Background::SteadyApart, "the same, a channel of its own"),
        (Background::Saturated, "16 producers as fast as they can"),
    ] {
        let [ours, theirs] =
            [Key::Notifier, Key::Transaction].map(|key| latencies(results, key, background).wake);
        for (part, called) in [(0.5, "p50"), (0.99, "p99")] {
            let what = format!("wake-up {called}, {name}: below aimq transaction's");
            let from = format!("{} and {} samples", ours.len(), theirs.len());
            let bound = percentile(&theirs, part);
            let ours = if bound.is_nan() { &[][..] } else { &ours };
            lines.push(of_ms(what, Below(bound), ours, part, from));
        }
    }
    let most = results.growth.iter().map(|it| it.queues).max().unwrap_or(1000);
    let cost = |queues| figures::growth_cost(results, Key::Notifier, queues);
    let what = format!("cost of an enqueue among {most} queues: times one queue's");
    lines.push(of_pairs(what, AtMost(1.05), ratio(&cost(most), &cost(1))));
    for size in [1, 100] {
        let of = |key| figures::reads(results, key, size);
        let what = format!("reads of {size}: times no trigger");
        lines.push(of_pairs(what, AtLeast(0.97), ratio(&of(Key::Notifier), &of(Key::None))));
    }
    let late = figures::lateness(results, Way::Notifier, false);
    for (part, called, bound) in [(0.5, "p50", 12.0), (0.99, "p99", 25.0)] {
        let what = format!("lateness of delayed messages, {called}");
        let from = format!("{} messages", number(late.len() as f64));
        lines.push(of_ms(what, AtMost(bound), &late, part, from));
    }
    lines.push(unfinished(results));
    lines.extend(blocking(results));
    lines.extend([lost_by_workers(results), lost_in_payloads(results), unheard(results)]);
    lines
}

fn clients_of(clients: u32) -> String {
    if clients == 1 { "1 client".into() } else { format!("{clients} clients") }
}

fn lost_by_workers(results: &Results) -> Line {
    let ours = || results.wakeups.iter().filter(|it| it.contestant.is_notifier());
    let (lost, sent) = (ours().map(|it| it.lost).sum(), ours().map(|it| it.sent).sum());
    no_message("messages lost to a worker without polling", lost, messages(sent))
}

/// Delayed messages that nobody finished, workers killed or not.
fn unfinished(results: &Results) -> Line {
    let ours = || results.lateness.iter().filter(|it| it.way == Way::Notifier);
    let left = ours().map(|it| it.messages - it.finished).sum();
    let killed: usize = ours().map(|it| it.killed).sum();
    let what = "delayed messages that no worker finished, without a poll";
    let sent = ours().map(|it| it.messages).sum();
    no_message(what, left, messages(sent).map(|all| format!("{all}, {killed} workers killed")))
}

/// The calls that block.
fn blocking(results: &Results) -> Vec<Line> {
    let of = |way, of| figures::blocked(results, way, of);
    let empty = of(Call::Blocks, figures::empty_wake_ups);
    let found = middle(&empty).map(|value| Found {
        value,
        shown: format!("{value:.3}"),
        from: report::rounds_of(empty.len()),
    });
    let what = "200 sessions in aimq.read: woken for nothing, for each message".into();
    let mut lines = vec![Line { what, wanted: Wanted::AtMost(0.1), found }];
    let p50: fn(&Blocked) -> f64 = |it| figures::p50(&it.handed_us);
    let cpu: fn(&Blocked) -> f64 = |it| it.cpu_us;
    for (what, of_each, bound) in
        [("p50 until one has the message", p50, 1.0), ("processor for each message", cpu, 0.1)]
    {
        let found = ratio(&of(Call::Blocks, of_each), &of(Call::Listens, of_each));
        let what = format!("the same: {what}, times LISTEN's");
        lines.push(of_pairs(what, Wanted::AtMost(bound), found));
    }
    let p50: fn(&Polling) -> f64 = |it| figures::p50(&it.single_us);
    let idle: fn(&Polling) -> f64 = |it| it.idle_ms;
    for (what, of) in [("p50, single messages", p50), ("processor while idle", idle)] {
        let polling = |way| figures::polling(results, way, of);
        let found = ratio(&polling(Call::Blocks), &polling(Call::Polls));
        let what = format!("16 workers in aimq.read: {what}, times read_with_poll's");
        lines.push(of_pairs(what, Wanted::AtMost(1.0), found));
    }
    let crowd = |is_blocked| figures::crowd(results, false, is_blocked);
    let most = results.crowd.first().map_or(1000, |it| it.sessions);
    let what =
        format!("commits, 16 clients, {most} sessions that block elsewhere: times idle ones");
    lines.push(of_pairs(what, Wanted::AtLeast(0.95), ratio(&crowd(true), &crowd(false))));
    lines.push(unread(results));
    lines
}

/// Messages that no session read, though some blocked for them.
fn unread(results: &Results) -> Line {
    let blocked = || results.blocked.iter().filter(|it| it.way == Call::Blocks);
    let polling = || results.polling.iter().filter(|it| it.way == Call::Blocks);
    let handed = blocked().map(|it| it.handed_us.len()).sum::<usize>()
        + polling().map(|it| it.single_us.len() + it.steady_us.len()).sum::<usize>();
    let lost = blocked().map(|it| it.missed).sum::<u64>()
        + polling().map(|it| it.missed).sum::<u64>()
        + results.crowd.iter().map(|it| it.unread).sum::<u64>();
    let is_measured = handed > 0 || !results.crowd.is_empty();
    let from = is_measured.then(|| "all messages to sessions that block".into());
    no_message("messages unread though sessions block for them", lost, from)
}

/// The messages whose way was followed, and of which nothing was heard within seconds.
fn unheard(results: &Results) -> Line {
    let ours = || results.latency.iter().filter(|it| it.contestant.is_notifier());
    let lost = ours().map(|it| it.missed).sum();
    let sent = ours().map(|it| it.statement_us.len() as u64).sum();
    no_message("messages unheard of for 3 s, in all latency runs", lost, messages(sent))
}

/// The payloads' counts must add up to what was enqueued, in every run with a listener.
fn lost_in_payloads(results: &Results) -> Line {
    let runs = || {
        let all = results.throughput.iter().chain(results.interval.iter().map(|it| &it.run));
        all.filter(|it| it.contestant.is_notifier() && it.listeners > 0)
    };
    let lost = runs().map(|it| it.messages.saturating_sub(it.counted)).sum();
    let sent = runs().map(|it| it.messages).sum();
    no_message("messages that no payload told of, in all throughput runs", lost, messages(sent))
}
