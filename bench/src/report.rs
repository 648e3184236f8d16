//! The tables that a run ends with.

use aimq_lab::stats::median;

use crate::callers::Call;
use crate::contestants::Key;
use crate::figures::{self, Rounds, distinct, middle, number, percentiles, ratio};
use crate::results::{Background, Blocked, Lateness, Polling, Results, Throughput, Wakeups};
use crate::table::Table;

/// What stands before a figure's ratio to its baseline.
const RATIO: &str = "in brackets: times the same without a trigger, median of the rounds' pairs";

/// A figure of a table: whose, in which column, of which round.
type Figure = (Key, u32, usize, f64);

/// Every table that there is something for, below what was measured on and how often.
pub(crate) fn text(results: &Results) -> String {
    let tables = [
        by_clients(results, true, "Commits per second by clients, one listener"),
        notifications(results),
        by_clients(results, false, "The same with synchronous_commit off"),
        by_listeners(results),
        processor(results),
        latency(results, Background::Idle),
        latency(results, Background::Steady),
        latency(results, Background::SteadyApart),
        latency(results, Background::Saturated),
        wakeups(results),
        batches(results),
        growth(results),
        wide(results),
        interval(results),
        reads(results),
        lateness(results),
        blocked(results),
        polling(results),
        crowd(results),
        instructions(results),
    ];
    let tables: String = tables.iter().flatten().map(ToString::to_string).collect();
    format!("\n{}\n{}\n{tables}", results.about.line(), rounds(results))
}

/// How much the figures are worth.
pub(crate) fn rounds(results: &Results) -> String {
    if results.about.is_a_look() {
        format!("a look, no measurement: {} instead of at least 7", rounds_of(results.about.rounds))
    } else {
        format!("medians of {} rounds, interleaved in rotating order", results.about.rounds)
    }
}

pub(crate) fn rounds_of(number: usize) -> String {
    format!("{number} round{}", if number == 1 { "" } else { "s" })
}

/// A row for each contestant, and a column for each of what the figures differ in besides. `cell` gets the rounds of
/// both and of the contestant's baseline.
fn grid(
    title: &str,
    note: &str,
    what: &str,
    figures: impl Iterator<Item = Figure>,
    cell: impl Fn(&Rounds, &Rounds) -> String,
) -> Option<Table> {
    let figures: Vec<Figure> = figures.collect();
    let columns = distinct(figures.iter().map(|it| it.1));
    let of = |key: Key, column: u32| -> Rounds {
        let ours = figures.iter().filter(|it| (it.0, it.1) == (key, column));
        ours.map(|it| (it.2, it.3)).collect()
    };
    let mut table = Table::new(title, note, &[what]);
    table.columns.extend(columns.iter().map(|it| figures::whole(f64::from(*it))));
    for key in figures::contestants(figures.iter().map(|it| it.0)) {
        let cells = columns.iter().map(|it| cell(&of(key, *it), &of(key.baseline(), *it)));
        table.row(key.title(), cells);
    }
    table.filled()
}

/// The same with each figure's ratio to its baseline's.
fn ratios(title: &str, what: &str, figures: impl Iterator<Item = Figure>) -> Option<Table> {
    grid(title, RATIO, what, figures, with_ratio)
}

fn with_ratio(ours: &Rounds, baseline: &Rounds) -> String {
    let ratio = ratio(ours, baseline).map(|it| format!(" ({:.2})", it.median));
    shown(middle(ours)) + &ratio.unwrap_or_default()
}

fn shown(figure: Option<f64>) -> String {
    number(figure.unwrap_or(f64::NAN))
}

/// The middle of the samples' figures.
fn middle_of<'a, T: 'a>(samples: impl Iterator<Item = &'a T>, of: impl Fn(&T) -> f64) -> String {
    number(median(&samples.map(of).collect::<Vec<_>>()))
}

fn by_clients(results: &Results, synchronous_commit: bool, title: &str) -> Option<Table> {
    let ours = results.throughput.iter();
    let ours = ours.filter(|it| it.listeners == 1 && it.synchronous_commit == synchronous_commit);
    ratios(title, "clients", ours.map(|it| (it.contestant, it.clients, it.round, it.tps)))
}

fn notifications(results: &Results) -> Option<Table> {
    let ours = results.throughput.iter().filter(|it| it.listeners == 1 && it.synchronous_commit);
    let figures = ours.filter(|it| it.contestant.wakes()).map(|it| {
        let each = it.notifications as f64 / it.messages.max(1) as f64;
        (it.contestant, it.clients, it.round, each)
    });
    grid("Notifications sent per message", "", "clients", figures, |ours, _| {
        format!("{:.3}", middle(ours).unwrap_or(f64::NAN))
    })
}

/// What was measured with more than one number of listeners.
fn listened(results: &Results, of: fn(&Throughput) -> f64) -> impl Iterator<Item = Figure> {
    let ours = results
        .throughput
        .iter()
        .filter(|it| it.clients == 16 && it.synchronous_commit && it.contestant.preloaded());
    let listeners = distinct(ours.clone().map(|it| it.listeners));
    let ours = ours.filter(move |_| listeners.len() > 1);
    ours.map(move |it| (it.contestant, it.listeners, it.round, of(it)))
}

fn by_listeners(results: &Results) -> Option<Table> {
    let title = "Commits per second by listeners, 16 clients";
    ratios(title, "listeners", listened(results, |it| it.tps))
}

fn processor(results: &Results) -> Option<Table> {
    let title = "Processor time of the whole server, µs per message, 16 clients";
    let figures = listened(results, |it| it.cpu_us);
    grid(title, "", "listeners", figures, |ours, _| shown(middle(ours)))
}

fn latency(results: &Results, background: Background) -> Option<Table> {
    let ours = || results.latency.iter().filter(|it| it.background == background);
    let rate = ours().find_map(|it| it.rate).map(|rate| format!("; {} per second", number(rate)));
    let note = "ms from sending the statement to the listener's receipt; on the right its own time";
    let note = format!("{note}{}", rate.unwrap_or_default());
    let title = match background {
        Background::Idle => "Wake-up, one message at a time on an idle queue",
        Background::Steady => "Wake-up under 16 producers at the same steady rate, one channel",
        Background::SteadyApart => "The same, a channel of its own",
        Background::Saturated => "Wake-up under 16 producers as fast as they can, one channel",
    };
    let columns = ["", "samples", "p50", "p95", "p99", "max", "unheard", "own p50", "own p99"];
    let mut table = Table::new(title, note, &columns);
    for key in figures::contestants(ours().map(|it| it.contestant)) {
        let found = figures::latencies(results, key, background);
        let [p50, _, p99, _] = percentiles(&found.statement);
        let samples = std::iter::once(found.wake.len().to_string());
        let wake = samples.chain(percentiles(&found.wake));
        table.row(key.title(), wake.chain([found.missed.to_string(), p50, p99]));
    }
    table.filled()
}

fn wakeups(results: &Results) -> Option<Table> {
    let title = "Messages that a worker without polling never learned of";
    let columns = ["", "messages", "wake-ups", "lost", "bursts", "with loss"];
    let mut table = Table::new(title, "bursts of four producers", &columns);
    for key in figures::contestants(results.wakeups.iter().map(|it| it.contestant)) {
        let sums: [fn(&Wakeups) -> u64; 5] = [
            |it| it.sent,
            |it| it.wake_ups,
            |it| it.lost,
            |it| u64::from(it.bursts),
            |it| u64::from(it.bursts_with_loss),
        ];
        let ours = || results.wakeups.iter().filter(|it| it.contestant == key);
        table.row(key.title(), sums.map(|of| ours().map(of).sum::<u64>().to_string()));
    }
    table.filled()
}

fn batches(results: &Results) -> Option<Table> {
    let title = "Rows per second of send_batch, one client, one listener";
    let figures = results.batches.iter();
    let figures = figures.map(|it| (it.contestant, it.size, it.round, it.rows_per_second));
    ratios(title, "messages in a batch", figures)
}

fn growth(results: &Results) -> Option<Table> {
    let title = "Commits per second to one of many queues, 4 clients, one listener";
    let figures = results.growth.iter().map(|it| (it.contestant, it.queues, it.round, it.tps));
    ratios(title, "queues", figures)
}

fn wide(results: &Results) -> Option<Table> {
    let title = "One message to each of many queues in one transaction, ms";
    let figures = results.wide.iter().map(|it| (it.contestant, it.queues, it.round, it.ms));
    ratios(title, "queues", figures)
}

fn interval(results: &Results) -> Option<Table> {
    let ours = || results.interval.iter().filter(|it| it.run.contestant == Key::Notifier);
    let columns = [
        "interval",
        "0 listeners",
        "200 listeners",
        "they cost",
        "to no trigger",
        "µs per message",
    ];
    let title =
        "aimq.notify_interval with 16 clients: commits per second, and what 200 listeners cost";
    let mut table = Table::new(title, "", &columns);
    let none = figures::interval(results, None, 200);
    let all = distinct(ours().map(|it| it.notify_interval_ms));
    for ms in all.iter().copied() {
        let with = figures::interval(results, Some(ms), 200);
        let without = figures::interval(results, Some(ms), 0);
        let cost = figures::interval_cost(results, ms);
        let listened = ours().filter(|it| (it.notify_interval_ms, it.run.listeners) == (ms, 200));
        table.row(
            &format!("{ms} ms"),
            [
                shown(middle(&without)),
                shown(middle(&with)),
                cost.map_or("–".into(), |it| format!("{it:.1} %")),
                shown(ratio(&with, &none).map(|it| it.median)),
                middle_of(listened, |it| it.run.cpu_us),
            ],
        );
    }
    let is_enough = |ms: &u32| figures::interval_cost(results, *ms).is_some_and(|cost| cost < 5.0);
    table.below = match all.into_iter().find(is_enough) {
        Some(ms) => format!("200 listeners cost less than 5 % from {ms} ms on"),
        None => "none of these brings the cost of 200 listeners under 5 %".into(),
    };
    table.filled()
}

fn reads(results: &Results) -> Option<Table> {
    let title = "pgmq.read per second, one reader, synchronous_commit off";
    let figures = results.reads.iter();
    let figures = figures.map(|it| (it.contestant, it.size, it.round, it.reads_per_second));
    ratios(title, "messages in a read", figures)
}

fn lateness(results: &Results) -> Option<Table> {
    let note = "ms from when a message could be read to when a worker had it; \
                µs of the server's processor for each";
    let columns = ["", "killed", "messages", "unfinished", "p50", "p95", "p99", "max", "µs"];
    let mut table = Table::new("Messages delayed by random times, six workers", note, &columns);
    for way in distinct(results.lateness.iter().map(|it| it.way)) {
        for killed in [false, true] {
            let all = results.lateness.iter();
            let ours = all.filter(|it| (it.way, it.killed > 0) == (way, killed));
            let sum = |of: fn(&Lateness) -> u64| ours.clone().map(of).sum::<u64>();
            if sum(|it| it.messages) == 0 {
                continue;
            }
            let counts: [fn(&Lateness) -> u64; 3] =
                [|it| it.killed as u64, |it| it.messages, |it| it.messages - it.finished];
            let late = percentiles(&figures::lateness(results, way, killed));
            let cells = counts.map(|of| sum(of).to_string()).into_iter().chain(late);
            table.row(way.title(), cells.chain([middle_of(ours.clone(), |it| it.cpu_us)]));
        }
    }
    table.filled()
}

fn blocked(results: &Results) -> Option<Table> {
    let sessions = results.blocked.first()?.sessions;
    let title = format!("Single messages to {sessions} idle sessions that all want them");
    let note = "ms from sending the statement to when a worker had the message; \
                woken for nothing, all sessions' switches of context, µs of the server's processor: for each message";
    let columns =
        ["", "messages", "unread", "p50", "p95", "p99", "max", "for nothing", "switches", "µs"];
    let mut table = Table::new(title, note, &columns);
    for way in distinct(results.blocked.iter().map(|it| it.way)) {
        let ours = || results.blocked.iter().filter(|it| it.way == way);
        let counts: [fn(&Blocked) -> u64; 2] = [|it| it.sent, |it| it.missed];
        let counts = counts.map(|of| ours().map(of).sum::<u64>().to_string());
        let handed = percentiles(&figures::sorted_ms(ours().flat_map(|it| &it.handed_us)));
        let per_message: [fn(&Blocked) -> f64; 3] = [
            figures::empty_wake_ups,
            |it| it.switches as f64 / it.sent.max(1) as f64,
            |it| it.cpu_us,
        ];
        let per_message = per_message.map(|of| middle_of(ours(), of));
        table.row(way.title(), counts.into_iter().chain(handed).chain(per_message));
    }
    table.filled()
}

fn polling(results: &Results) -> Option<Table> {
    let title = format!("{} workers that block or poll", results.polling.first()?.workers);
    let note = "ms from sending the statement to when a worker had the message";
    let columns =
        ["", "messages", "unread", "p50", "p95", "p99", "max", "unarchived", "ms / s", "µs"];
    let mut table = Table::new(title, note, &columns);
    for way in distinct(results.polling.iter().map(|it| it.way)) {
        let ours = || results.polling.iter().filter(|it| it.way == way);
        let sum = |of: fn(&Polling) -> u64| ours().map(of).sum::<u64>().to_string();
        // Without what the table's other rows say.
        let way = if way == Call::Polls { "read_with_poll" } else { way.title() };
        let mut row = |what: &str, us: fn(&Polling) -> &Vec<u32>, unread, rest: [String; 3]| {
            let handed = figures::sorted_ms(ours().flat_map(us));
            let cells = [handed.len().to_string(), unread].into_iter().chain(percentiles(&handed));
            table.row(&format!("{way}, {what}"), cells.chain(rest));
        };
        row("one at a time", |it| &it.single_us, String::new(), Default::default());
        let rate = format!("{} a second", middle_of(ours(), |it| it.rate));
        let cpu = middle_of(ours(), |it| it.cpu_us);
        let rest = [sum(|it| it.unarchived), String::new(), cpu];
        row(&rate, |it| &it.steady_us, sum(|it| it.missed), rest);
        let empty = std::iter::repeat_n(String::new(), columns.len() - 3);
        let idle = middle_of(ours(), |it| it.idle_ms);
        table.row(&format!("{way}, idle"), empty.chain([idle]));
    }
    table.below = "unread: of both; ms / s: of the server's processor while nothing is enqueued; \
                   µs: of it for each message"
        .into();
    table.filled()
}

fn crowd(results: &Results) -> Option<Table> {
    let sessions = results.crowd.first()?.sessions;
    let title = format!("Messages per second beside {sessions} connections that block or not");
    let note = "in brackets: times the same while they don't, median of the rounds' pairs";
    let mut table = Table::new(title, note, &["", "they block", "they don't"]);
    for (is_theirs, name) in [(false, "to a queue nobody waits for"), (true, "to their queues")] {
        let [block, dont] = [true, false].map(|it| figures::crowd(results, is_theirs, it));
        table.row(name, [with_ratio(&block, &dont), shown(middle(&dont))]);
    }
    let unread: u64 = results.crowd.iter().map(|it| it.unread).sum();
    table.below = format!("left unread by those who block: {unread}");
    table.filled()
}

fn instructions(results: &Results) -> Option<Table> {
    let title = "Instructions per message in the producer's session, counted by callgrind";
    let note = "in brackets: times the same without a trigger";
    let figures = results.instructions.iter();
    let figures = figures.map(|it| (it.contestant, it.batch, 0, it.per_message));
    grid(title, note, "messages in a transaction", figures, with_ratio)
}
