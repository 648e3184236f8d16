//! What the notifier must show, and whether it did.

use aimq_lab::stats::{median, percentile};

use crate::callers::Call;
use crate::contestants::Key;
use crate::figures::{
    self, Ratio, best_in_transaction, latencies, ratio, throughput, tps, wake_p50,
};
use crate::report;
use crate::results::{Background, Blocked, Polling, Results};
use crate::worker::Way;

/// One line of the table.
struct Line {
    what: String,
    wanted: String,
    found: Option<Found>,
}

struct Found {
    figure: String,
    from: String,
    passed: bool,
}

/// Prints the table. Nothing fails: it is up to the reader to judge it.
pub(crate) fn print(results: &Results) {
    let lines = lines(results);
    if lines.iter().all(|line| line.found.is_none()) {
        return;
    }
    println!("\nWhat the notifier must show\n");
    println!("    {:72}{:>10}{:>13}  from", "", "wanted", "found");
    for Line { what, wanted, found } in &lines {
        match found {
            Some(Found { figure, from, passed }) => {
                let mark = if *passed { '✓' } else { '✗' };
                println!("  {mark} {what:72}{wanted:>10}{figure:>13}  {from}");
            }
            None => println!("  – {what:72}{wanted:>10}{:>13}", "not measured"),
        }
    }
    println!("\n  {}", report::rounds(results));
}

fn at_least(what: String, bound: f64, found: Option<Ratio>) -> Line {
    let found = found.map(|it| Found {
        figure: format!("{:.3}", it.median),
        from: format!("{} pair{}", it.pairs, if it.pairs == 1 { "" } else { "s" }),
        passed: it.median >= bound,
    });
    Line { what, wanted: format!("≥ {bound}"), found }
}

fn at_most(what: String, bound: f64, found: Option<Ratio>) -> Line {
    let found = found.map(|it| Found {
        figure: format!("{:.3}", it.median),
        from: format!("{} pair{}", it.pairs, if it.pairs == 1 { "" } else { "s" }),
        passed: it.median <= bound,
    });
    Line { what, wanted: format!("≤ {bound}"), found }
}

fn lines(results: &Results) -> Vec<Line> {
    let mut lines = Vec::new();
    for key in [Key::Notifier, Key::NotifierPlain] {
        let server = if key.preloaded() { "" } else { ", no preload" };
        for clients in [1, 16, 64] {
            let found =
                ratio(&tps(results, key, clients, 1), &tps(results, key.baseline(), clients, 1));
            let what = format!("commits, {}: times no trigger{server}", clients_of(clients));
            lines.push(at_least(what, 0.95, found));
        }
    }
    for clients in [1, 16, 64] {
        let of = |key| throughput(results, key, clients, 1, false);
        let what =
            format!("commits, {}: times no trigger, synchronous_commit off", clients_of(clients));
        lines.push(at_least(what, 0.93, ratio(&of(Key::Notifier), &of(Key::None))));
    }
    for (clients, listeners, bound) in [(16, 1, 2.5), (64, 1, 2.5), (16, 200, 4.0)] {
        let best = best_in_transaction(results, clients, listeners);
        let found = best.and_then(|best| {
            ratio(
                &tps(results, Key::Notifier, clients, listeners),
                &tps(results, best, clients, listeners),
            )
        });
        let plural = if listeners == 1 { "" } else { "s" };
        let rival = best.map_or("the best in the transaction", Key::title);
        let what =
            format!("commits, {clients} clients, {listeners} listener{plural}: times {rival}");
        lines.push(at_least(what, bound, found));
    }
    let p50 = |key, background| wake_p50(results, key, background);
    for key in [Key::Notifier, Key::NotifierPlain] {
        let server = if key.preloaded() { "" } else { ", no preload" };
        lines.push(at_most(
            format!("wake-up p50, idle: times aimq transaction{server}"),
            1.3,
            ratio(&p50(key, Background::Idle), &p50(Key::Transaction, Background::Idle)),
        ));
    }
    for (background, name) in [
        (Background::Steady, "16 producers at a steady rate"),
        (Background::SteadyApart, "the same, a channel of its own"),
        (Background::Saturated, "16 producers as fast as they can"),
    ] {
        let (ours, theirs) = (
            latencies(results, Key::Notifier, background).wake,
            latencies(results, Key::Transaction, background).wake,
        );
        for (part, called) in [(0.5, "p50"), (0.99, "p99")] {
            let (ours_ms, theirs_ms) = (percentile(&ours, part), percentile(&theirs, part));
            let found = (!ours.is_empty() && !theirs.is_empty()).then(|| Found {
                figure: format!("{ours_ms:.2} ms"),
                from: format!("{} and {} samples", ours.len(), theirs.len()),
                passed: ours_ms < theirs_ms,
            });
            let wanted =
                if theirs.is_empty() { "below".into() } else { format!("< {theirs_ms:.2}") };
            let what = format!("wake-up {called}, {name}: below aimq transaction's");
            lines.push(Line { what, wanted, found });
        }
    }
    let most = results.growth.iter().map(|it| it.queues).max().unwrap_or(1000);
    let cost = |queues| figures::growth_cost(results, Key::Notifier, queues);
    lines.push(at_most(
        format!("cost of an enqueue among {most} queues: times one queue's"),
        1.05,
        ratio(&cost(most), &cost(1)),
    ));
    for size in [1, 100] {
        let of = |key| figures::reads(results, key, size);
        let what = format!("reads of {size}: times no trigger");
        lines.push(at_least(what, 0.97, ratio(&of(Key::Notifier), &of(Key::None))));
    }
    let late = figures::lateness(results, Way::Notifier, false);
    for (part, called, bound) in [(0.5, "p50", 12.0), (0.99, "p99", 25.0)] {
        let found = (!late.is_empty()).then(|| percentile(&late, part)).map(|ms| Found {
            figure: format!("{ms:.2} ms"),
            from: format!("{} messages", figures::number(late.len() as f64)),
            passed: ms <= bound,
        });
        let what = format!("lateness of delayed messages, {called}");
        lines.push(Line { what, wanted: format!("≤ {bound}"), found });
    }
    lines.push(unfinished(results));
    lines.extend(blocking(results));
    lines.push(lost_by_workers(results));
    lines.push(lost_in_payloads(results));
    lines.push(unheard(results));
    lines
}

fn clients_of(clients: u32) -> String {
    if clients == 1 { "1 client".into() } else { format!("{clients} clients") }
}

fn lost_by_workers(results: &Results) -> Line {
    let ours = || results.wakeups.iter().filter(|it| it.contestant.is_notifier());
    let lost: u64 = ours().map(|it| it.lost).sum();
    let sent: u64 = ours().map(|it| it.sent).sum();
    let found = (sent > 0).then(|| Found {
        figure: lost.to_string(),
        from: format!("{} messages", figures::number(sent as f64)),
        passed: lost == 0,
    });
    Line { what: "messages lost to a worker without polling".into(), wanted: "0".into(), found }
}

/// Delayed messages that nobody finished, workers killed or not.
fn unfinished(results: &Results) -> Line {
    let ours = || results.lateness.iter().filter(|it| it.way == Way::Notifier);
    let left: u64 = ours().map(|it| it.messages - it.finished).sum();
    let sent: u64 = ours().map(|it| it.messages).sum();
    let killed: usize = ours().map(|it| it.killed).sum();
    let found = (sent > 0).then(|| Found {
        figure: left.to_string(),
        from: format!("{} messages, {killed} workers killed", figures::number(sent as f64)),
        passed: left == 0,
    });
    let what = "delayed messages that no worker finished, without a poll".into();
    Line { what, wanted: "0".into(), found }
}

/// The calls that block.
fn blocking(results: &Results) -> Vec<Line> {
    let of = |way, of| figures::blocked(results, way, of);
    let empty: Vec<f64> =
        of(Call::Blocks, figures::empty_wake_ups).iter().map(|(_, it)| *it).collect();
    let found = (!empty.is_empty()).then(|| median(&empty)).map(|it| Found {
        figure: format!("{it:.3}"),
        from: rounds_of(empty.len()),
        passed: it <= 0.1,
    });
    let what = "200 sessions in aimq.read: woken for nothing, for each message".into();
    let mut lines = vec![Line { what, wanted: "≤ 0.1".into(), found }];
    let p50: fn(&Blocked) -> f64 = |it| figures::p50(&it.handed_us);
    let cpu: fn(&Blocked) -> f64 = |it| it.cpu_us;
    for (what, of_each, bound) in
        [("p50 until one has the message", p50, 1.0), ("processor for each message", cpu, 0.1)]
    {
        let found = ratio(&of(Call::Blocks, of_each), &of(Call::Listens, of_each));
        lines.push(at_most(format!("the same: {what}, times LISTEN's"), bound, found));
    }
    let polling = |way, of: fn(&Polling) -> f64| -> Vec<(usize, f64)> {
        let ours = results.polling.iter().filter(|it| it.way == way);
        ours.map(|it| (it.round, of(it))).collect()
    };
    let p50: fn(&Polling) -> f64 = |it| figures::p50(&it.single_us);
    let idle: fn(&Polling) -> f64 = |it| it.idle_ms;
    for (what, of) in [("p50, single messages", p50), ("processor while idle", idle)] {
        let found = ratio(&polling(Call::Blocks, of), &polling(Call::Polls, of));
        let what = format!("16 workers in aimq.read: {what}, times read_with_poll's");
        lines.push(at_most(what, 1.0, found));
    }
    let crowd = |is_blocked| figures::crowd(results, false, is_blocked);
    let most = results.crowd.first().map_or(1000, |it| it.sessions);
    let what =
        format!("commits, 16 clients, {most} sessions that block elsewhere: times idle ones");
    lines.push(at_least(what, 0.95, ratio(&crowd(true), &crowd(false))));
    lines.push(unread(results));
    lines
}

fn rounds_of(number: usize) -> String {
    format!("{number} round{}", if number == 1 { "" } else { "s" })
}

/// Messages that no session read, though some blocked for them.
fn unread(results: &Results) -> Line {
    let blocked = || results.blocked.iter().filter(|it| it.way == Call::Blocks);
    let polling = || results.polling.iter().filter(|it| it.way == Call::Blocks);
    let crowd: u64 = results.crowd.iter().map(|it| it.unread).sum();
    let handed = blocked().map(|it| it.handed_us.len()).sum::<usize>()
        + polling().map(|it| it.single_us.len() + it.steady_us.len()).sum::<usize>();
    let lost = blocked().map(|it| it.missed).sum::<u64>()
        + polling().map(|it| it.missed).sum::<u64>()
        + crowd;
    let is_measured = handed > 0 || !results.crowd.is_empty();
    let found = is_measured.then(|| Found {
        figure: lost.to_string(),
        from: "all messages to sessions that block".into(),
        passed: lost == 0,
    });
    Line {
        what: "messages unread though sessions block for them".into(),
        wanted: "0".into(),
        found,
    }
}

/// The messages whose way was followed, and of which nothing was heard within seconds.
fn unheard(results: &Results) -> Line {
    let ours = || results.latency.iter().filter(|it| it.contestant.is_notifier());
    let lost: u64 = ours().map(|it| it.missed).sum();
    let sent: usize = ours().map(|it| it.statement_us.len()).sum();
    let found = (sent > 0).then(|| Found {
        figure: lost.to_string(),
        from: format!("{} messages", figures::number(sent as f64)),
        passed: lost == 0,
    });
    let what = "messages unheard of for 3 s, in all latency runs".into();
    Line { what, wanted: "0".into(), found }
}

/// The payloads' counts must add up to what was enqueued, in every run with a listener.
fn lost_in_payloads(results: &Results) -> Line {
    let runs = || {
        let all = results.throughput.iter().chain(results.interval.iter().map(|it| &it.run));
        all.filter(|it| it.contestant.is_notifier() && it.listeners > 0)
    };
    let lost: u64 = runs().map(|it| it.messages.saturating_sub(it.counted)).sum();
    let sent: u64 = runs().map(|it| it.messages).sum();
    let found = (sent > 0).then(|| Found {
        figure: lost.to_string(),
        from: format!("{} messages", figures::number(sent as f64)),
        passed: lost == 0,
    });
    let what = "messages that no payload told of, in all throughput runs".into();
    Line { what, wanted: "0".into(), found }
}
