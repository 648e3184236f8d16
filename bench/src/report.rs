//! The tables that a run ends with.

use aimq_lab::stats::{median, percentile};

use crate::callers::Call;
use crate::contestants::Key;
use crate::figures::{self, Rounds, distinct, middle, number, ratio};
use crate::results::{Background, Results, Throughput};

/// What stands before a figure's ratio to its baseline.
const RATIO: &str = "in brackets: times the same without a trigger, median of the rounds' pairs";

/// Prints every table that there is something for.
pub(crate) fn print(results: &Results) {
    println!("\n{}", results.about.line());
    println!("{}", rounds(results));
    by_clients(results, true, "Commits per second by clients, one listener");
    by_clients(results, false, "The same with synchronous_commit off");
    by_listeners(results);
    for (background, title) in [
        (Background::Idle, "Wake-up, one message at a time on an idle queue"),
        (Background::Steady, "Wake-up under 16 producers at the same steady rate, one channel"),
        (Background::SteadyApart, "The same, a channel of its own"),
        (Background::Saturated, "Wake-up under 16 producers as fast as they can, one channel"),
    ] {
        latency(results, background, title);
    }
    wakeups(results);
    batches(results);
    growth(results);
    interval(results);
    reads(results);
    lateness(results);
    blocked(results);
    polling(results);
    crowd(results);
    instructions(results);
}

/// How much the figures are worth.
pub(crate) fn rounds(results: &Results) -> String {
    let rounds = results.about.rounds;
    let plural = if rounds == 1 { "" } else { "s" };
    if results.about.quick || rounds < 7 {
        format!("a look, no measurement: {rounds} round{plural} instead of at least 7")
    } else {
        format!("medians of {rounds} rounds, interleaved in rotating order")
    }
}

fn title(text: &str, note: &str) {
    println!("\n{text}");
    if !note.is_empty() {
        println!("({note})");
    }
    println!();
}

fn header(first: &str, columns: &[String], width: usize) {
    print!("  {first:30}");
    for column in columns {
        print!("{column:>width$}");
    }
    println!();
}

/// A row of figures with their ratio to another row's.
fn row(name: &str, cells: &[(Rounds, Rounds)], width: usize) {
    print!("  {name:30}");
    for (ours, baseline) in cells {
        let cell = match (middle(ours), ratio(ours, baseline)) {
            (Some(figure), Some(ratio)) => format!("{} ({:.2})", number(figure), ratio.median),
            (Some(figure), None) => format!("{}       ", number(figure)),
            _ => "–       ".into(),
        };
        print!("{cell:>width$}");
    }
    println!();
}

fn by_clients(results: &Results, synchronous_commit: bool, text: &str) {
    let ours = || {
        let all = results.throughput.iter();
        all.filter(|it| it.listeners == 1 && it.synchronous_commit == synchronous_commit)
    };
    let clients = distinct(ours().map(|it| it.clients));
    if clients.is_empty() {
        return;
    }
    title(text, RATIO);
    let columns: Vec<String> = clients.iter().map(|n| format!("{n}       ")).collect();
    header("clients", &columns, 16);
    for key in figures::contestants(ours().map(|it| it.contestant)) {
        let of = |key: Key, clients: u32| {
            figures::throughput(results, key, clients, 1, synchronous_commit)
        };
        let cells: Vec<_> = clients.iter().map(|n| (of(key, *n), of(key.baseline(), *n))).collect();
        row(key.title(), &cells, 16);
    }
    if synchronous_commit {
        per_message(results, "Notifications sent per message", &clients, |it| {
            it.notifications as f64 / it.messages.max(1) as f64
        });
    }
}

fn per_message(results: &Results, text: &str, clients: &[u32], of: fn(&Throughput) -> f64) {
    title(text, "");
    let columns: Vec<String> = clients.iter().map(ToString::to_string).collect();
    header("clients", &columns, 12);
    let ours = || results.throughput.iter().filter(|it| it.listeners == 1 && it.synchronous_commit);
    for key in figures::contestants(ours().map(|it| it.contestant).filter(|key| key.wakes())) {
        print!("  {:30}", key.title());
        for clients in clients {
            let values: Vec<f64> = ours()
                .filter(|it| it.contestant == key && it.clients == *clients)
                .map(of)
                .collect();
            print!("{:>12.3}", median(&values));
        }
        println!();
    }
}

fn by_listeners(results: &Results) {
    let ours = || results.throughput.iter().filter(|it| it.clients == 16 && it.synchronous_commit);
    let listeners = distinct(ours().map(|it| it.listeners));
    if listeners.len() < 2 {
        return;
    }
    title("Commits per second by listeners, 16 clients", RATIO);
    let columns: Vec<String> = listeners.iter().map(|n| format!("{n}       ")).collect();
    header("listeners", &columns, 16);
    let keys = figures::contestants(ours().map(|it| it.contestant));
    let preloaded = || keys.iter().filter(|key| key.preloaded());
    for key in preloaded() {
        let of = |key: Key, listeners: u32| figures::tps(results, key, 16, listeners);
        let cells: Vec<_> =
            listeners.iter().map(|n| (of(*key, *n), of(key.baseline(), *n))).collect();
        row(key.title(), &cells, 16);
    }
    title("Processor time of the whole server, µs per message, 16 clients", "");
    let columns: Vec<String> = listeners.iter().map(ToString::to_string).collect();
    header("listeners", &columns, 12);
    for key in preloaded() {
        print!("  {:30}", key.title());
        for listeners in &listeners {
            let ours = ours().filter(|it| it.contestant == *key && it.listeners == *listeners);
            print!("{:>12}", number(median(&ours.map(|it| it.cpu_us).collect::<Vec<_>>())));
        }
        println!();
    }
}

fn latency(results: &Results, background: Background, text: &str) {
    let ours = || results.latency.iter().filter(|it| it.background == background);
    let keys = figures::contestants(ours().map(|it| it.contestant));
    if keys.is_empty() {
        return;
    }
    let rate = ours().find_map(|it| it.rate).map(|rate| format!("; {} per second", number(rate)));
    let note = "ms from sending the statement to the listener's receipt; on the right its own time";
    title(text, &format!("{note}{}", rate.unwrap_or_default()));
    let columns = ["samples", "p50", "p95", "p99", "max", "unheard", "own p50", "own p99"];
    header("", &columns.map(String::from), 10);
    for key in keys {
        let found = figures::latencies(results, key, background);
        print!("  {:30}{:>10}", key.title(), found.wake.len());
        for part in [0.5, 0.95, 0.99, 1.0] {
            print!("{:>10}", number(percentile(&found.wake, part)));
        }
        print!("{:>10}", found.missed);
        for part in [0.5, 0.99] {
            print!("{:>10}", number(percentile(&found.statement, part)));
        }
        println!();
    }
}

fn wakeups(results: &Results) {
    let keys = figures::contestants(results.wakeups.iter().map(|it| it.contestant));
    if keys.is_empty() {
        return;
    }
    title("Messages that a worker without polling never learned of", "bursts of four producers");
    let columns = ["messages", "wake-ups", "lost", "bursts", "with loss"];
    header("", &columns.map(String::from), 12);
    for key in keys {
        let ours = || results.wakeups.iter().filter(|it| it.contestant == key);
        let (bursts, with_loss) =
            ours().fold((0, 0), |(all, with), it| (all + it.bursts, with + it.bursts_with_loss));
        println!(
            "  {:30}{:>12}{:>12}{:>12}{:>12}{:>12}",
            key.title(),
            ours().map(|it| it.sent).sum::<u64>(),
            ours().map(|it| it.wake_ups).sum::<u64>(),
            ours().map(|it| it.lost).sum::<u64>(),
            bursts,
            with_loss
        );
    }
}

fn batches(results: &Results) {
    let sizes = distinct(results.batches.iter().map(|it| it.size));
    if sizes.is_empty() {
        return;
    }
    title("Rows per second of send_batch, one client, one listener", RATIO);
    let columns: Vec<String> = sizes
        .iter()
        .map(|n| format!("{}       ", number(f64::from(*n)).replace(".00", "")))
        .collect();
    header("messages in a batch", &columns, 18);
    for key in figures::contestants(results.batches.iter().map(|it| it.contestant)) {
        let of = |key: Key, size: u32| -> Rounds {
            let ours = results.batches.iter().filter(|it| (it.contestant, it.size) == (key, size));
            ours.map(|it| (it.round, it.rows_per_second)).collect()
        };
        let cells: Vec<_> = sizes.iter().map(|n| (of(key, *n), of(key.baseline(), *n))).collect();
        row(key.title(), &cells, 18);
    }
}

fn growth(results: &Results) {
    let queues = distinct(results.growth.iter().map(|it| it.queues));
    if queues.is_empty() {
        return;
    }
    let columns: Vec<String> = queues.iter().map(|n| format!("{n}       ")).collect();
    title("Commits per second to one of many queues, 4 clients, one listener", RATIO);
    header("queues", &columns, 16);
    let mut keys = figures::contestants(results.growth.iter().map(|it| it.contestant));
    for key in &keys {
        let of = |key: Key, queues: u32| figures::growth(results, key, queues);
        let cells: Vec<_> = queues.iter().map(|n| (of(*key, *n), of(Key::None, *n))).collect();
        row(key.title(), &cells, 16);
    }
    title("One message to each of many queues in one transaction, ms", RATIO);
    header("queues", &columns, 16);
    keys = figures::contestants(results.wide.iter().map(|it| it.contestant));
    for key in &keys {
        let of = |key: Key, queues: u32| -> Rounds {
            let ours = results.wide.iter().filter(|it| (it.contestant, it.queues) == (key, queues));
            ours.map(|it| (it.round, it.ms)).collect()
        };
        let cells: Vec<_> = queues.iter().map(|n| (of(*key, *n), of(Key::None, *n))).collect();
        row(key.title(), &cells, 16);
    }
}

fn interval(results: &Results) {
    let of = |it: &&crate::results::Interval| it.run.contestant == Key::Notifier;
    let intervals = distinct(results.interval.iter().filter(of).map(|it| it.notify_interval_ms));
    if intervals.is_empty() {
        return;
    }
    title(
        "aimq.notify_interval with 16 clients: commits per second, and what 200 listeners cost",
        "",
    );
    let columns = ["0 listeners", "200 listeners", "they cost", "to no trigger", "µs per message"];
    header("interval", &columns.map(String::from), 16);
    let none = figures::interval(results, None, 200);
    let mut enough = None;
    for ms in intervals {
        let with = figures::interval(results, Some(ms), 200);
        let without = figures::interval(results, Some(ms), 0);
        let show = |value: Option<f64>| value.map_or("–".into(), number);
        let cost = ratio(&with, &without).map(|it| (1.0 - it.median) * 100.0);
        if cost.is_some_and(|cost| cost < 5.0) {
            enough = enough.or(Some(ms));
        }
        let cost = cost.map(|it| format!("{it:.1} %"));
        let cpu: Vec<f64> = results
            .interval
            .iter()
            .filter(of)
            .filter(|it| (it.notify_interval_ms, it.run.listeners) == (ms, 200))
            .map(|it| it.run.cpu_us)
            .collect();
        println!(
            "  {:30}{:>16}{:>16}{:>16}{:>16}{:>16}",
            format!("{ms} ms"),
            show(middle(&without)),
            show(middle(&with)),
            cost.unwrap_or("–".into()),
            show(ratio(&with, &none).map(|it| it.median)),
            number(median(&cpu))
        );
    }
    match enough {
        Some(ms) => println!("\n  200 listeners cost less than 5 % from {ms} ms on"),
        None => println!("\n  none of these brings the cost of 200 listeners under 5 %"),
    }
}

fn reads(results: &Results) {
    let sizes = distinct(results.reads.iter().map(|it| it.size));
    if sizes.is_empty() {
        return;
    }
    title("pgmq.read per second, one reader, synchronous_commit off", RATIO);
    let columns: Vec<String> = sizes.iter().map(|n| format!("{n}       ")).collect();
    header("messages in a read", &columns, 18);
    for key in figures::contestants(results.reads.iter().map(|it| it.contestant)) {
        let of = |key: Key, size: u32| figures::reads(results, key, size);
        let cells: Vec<_> = sizes.iter().map(|n| (of(key, *n), of(Key::None, *n))).collect();
        row(key.title(), &cells, 18);
    }
}

fn lateness(results: &Results) {
    let ways = distinct(results.lateness.iter().map(|it| it.way));
    if ways.is_empty() {
        return;
    }
    let note = "ms from when a message could be read to when a worker had it; µs of the server's processor for each";
    title("Messages delayed by random times, six workers", note);
    let columns = ["killed", "messages", "unfinished", "p50", "p95", "p99", "max", "µs"];
    header("", &columns.map(String::from), 11);
    for way in ways {
        for killed in [false, true] {
            let ours =
                || results.lateness.iter().filter(|it| (it.way, it.killed > 0) == (way, killed));
            let (messages, finished) =
                ours().fold((0, 0), |(all, done), it| (all + it.messages, done + it.finished));
            if messages == 0 {
                continue;
            }
            let late = figures::lateness(results, way, killed);
            print!("  {:30}{:>11}", way.title(), ours().map(|it| it.killed).sum::<usize>());
            print!("{messages:>11}{:>11}", messages - finished);
            for part in [0.5, 0.95, 0.99, 1.0] {
                print!("{:>11}", number(percentile(&late, part)));
            }
            println!("{:>11}", number(median(&ours().map(|it| it.cpu_us).collect::<Vec<_>>())));
        }
    }
}

fn blocked(results: &Results) {
    let ways = distinct(results.blocked.iter().map(|it| it.way));
    let Some(first) = results.blocked.first() else {
        return;
    };
    let text = format!("Single messages to {} idle sessions that all want them", first.sessions);
    let note = "ms from sending the statement to when a worker had the message; woken for nothing, all sessions' switches of context, µs of the server's processor: for each message";
    title(&text, note);
    let columns =
        ["messages", "unread", "p50", "p95", "p99", "max", "for nothing", "switches", "µs"];
    header("", &columns.map(String::from), 12);
    for way in ways {
        let ours = || results.blocked.iter().filter(|it| it.way == way);
        let handed = figures::sorted_ms(ours().flat_map(|it| &it.handed_us));
        let sent = ours().map(|it| it.sent).sum::<u64>();
        print!("  {:30}{sent:>12}{:>12}", way.title(), ours().map(|it| it.missed).sum::<u64>());
        for part in [0.5, 0.95, 0.99, 1.0] {
            print!("{:>12}", number(percentile(&handed, part)));
        }
        let per_message: [fn(&crate::results::Blocked) -> f64; 3] = [
            figures::empty_wake_ups,
            |it| it.switches as f64 / it.sent.max(1) as f64,
            |it| it.cpu_us,
        ];
        for of in per_message {
            let middle = middle(&figures::blocked(results, way, of));
            print!("{:>12}", number(middle.unwrap_or(f64::NAN)));
        }
        println!();
    }
}

fn polling(results: &Results) {
    let ways = distinct(results.polling.iter().map(|it| it.way));
    let Some(first) = results.polling.first() else {
        return;
    };
    let note = "ms from sending the statement to when a worker had the message";
    title(&format!("{} workers that block or poll", first.workers), note);
    let columns = ["messages", "unread", "p50", "p95", "p99", "max", "unarchived", "ms / s", "µs"];
    header("", &columns.map(String::from), 12);
    for way in ways {
        let ours = || results.polling.iter().filter(|it| it.way == way);
        let median = |of: fn(&crate::results::Polling) -> f64| -> f64 {
            median(&ours().map(of).collect::<Vec<_>>())
        };
        let missed = ours().map(|it| it.missed).sum::<u64>();
        let stuck = ours().map(|it| it.unarchived).sum::<u64>();
        let single = figures::sorted_ms(ours().flat_map(|it| &it.single_us));
        let steady = figures::sorted_ms(ours().flat_map(|it| &it.steady_us));
        let rate = format!("{} a second", number(median(|it| it.rate)));
        for (what, handed) in [("one at a time", single), (&rate, steady)] {
            let is_steady = what != "one at a time";
            print!("  {:30}{:>12}", format!("{}, {what}", short(way)), handed.len());
            print!("{:>12}", if is_steady { missed.to_string() } else { String::new() });
            for part in [0.5, 0.95, 0.99, 1.0] {
                print!("{:>12}", number(percentile(&handed, part)));
            }
            let cost = if is_steady { number(median(|it| it.cpu_us)) } else { String::new() };
            println!(
                "{:>12}{:>12}{cost:>12}",
                if is_steady { stuck.to_string() } else { String::new() },
                ""
            );
        }
        println!("  {:30}{:>96}", format!("{}, idle", short(way)), number(median(|it| it.idle_ms)));
    }
    println!(
        "\n  unread: of both; ms / s: of the server's processor while nothing is enqueued; µs: of it for each message"
    );
}

/// Without what the table's other rows say.
fn short(way: Call) -> &'static str {
    if way == Call::Polls { "read_with_poll" } else { way.title() }
}

fn crowd(results: &Results) {
    let Some(first) = results.crowd.first() else {
        return;
    };
    let text =
        format!("Messages per second beside {} connections that block or not", first.sessions);
    title(&text, "in brackets: times the same while they don't, median of the rounds' pairs");
    let columns = ["they block       ", "they don't       "];
    header("", &columns.map(String::from), 18);
    for (is_theirs, name) in [(false, "to a queue nobody waits for"), (true, "to their queues")] {
        let of = |is_blocked| figures::crowd(results, is_theirs, is_blocked);
        row(name, &[(of(true), of(false)), (of(false), Vec::new())], 18);
    }
    let unread: u64 = results.crowd.iter().map(|it| it.unread).sum();
    println!("\n  left unread by those who block: {unread}");
}

fn instructions(results: &Results) {
    let batches = distinct(results.instructions.iter().map(|it| it.batch));
    if batches.is_empty() {
        return;
    }
    title(
        "Instructions per message in the producer's session, counted by callgrind",
        "in brackets: times the same without a trigger",
    );
    let columns: Vec<String> = batches.iter().map(|n| format!("{n}       ")).collect();
    header("messages in a transaction", &columns, 18);
    for key in figures::contestants(results.instructions.iter().map(|it| it.contestant)) {
        let of = |key: Key, batch: u32| -> Rounds {
            let all = results.instructions.iter();
            let ours = all.filter(|it| (it.contestant, it.batch) == (key, batch));
            ours.map(|it| (0, it.per_message)).collect()
        };
        let cells: Vec<_> = batches.iter().map(|n| (of(key, *n), of(Key::None, *n))).collect();
        row(key.title(), &cells, 18);
    }
}
