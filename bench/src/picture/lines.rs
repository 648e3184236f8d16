//! Lines with their names at their ends: listeners, growth.

use crate::contestants::Key;
use crate::figures::{self, Rounds, distinct, middle, number, ratio, tps};
use crate::picture::panel::{Line, Marks, Panel, Picture};
use crate::picture::svg::Scale;
use crate::results::Results;

const TOP: f64 = 96.0;
const BELOW: f64 = 80.0;

fn values(lines: &[Line]) -> Vec<f64> {
    lines.iter().flat_map(|line| line.values.iter().flatten().copied()).collect()
}

/// A panel over these columns.
fn panel(
    title: &str,
    (left, width): (f64, f64),
    scale: Scale,
    (columns, below): (&[u32], &'static str),
    lines: Vec<Line>,
) -> Panel {
    let title = title.into();
    let ticks = scale.labelled(|tick| number(tick).replace(".00", "").replace(".0", ""));
    let marks = Marks::Lines { left, width, below, columns: columns.into(), lines };
    Panel { title, scale, ticks, goal: None, marks }
}

/// Commits per second by the number of listening connections.
pub(crate) fn listeners(results: &Results) -> Option<Picture> {
    let ours = || results.throughput.iter().filter(|it| it.clients == 16 && it.synchronous_commit);
    let listeners = distinct(ours().map(|it| it.listeners));
    let keys = figures::contestants(ours().map(|it| it.contestant).filter(|key| key.preloaded()));
    let of = |key: Key, n: u32| middle(&tps(results, key, 16, n)).map(f64::round);
    let line = |key| {
        let values = listeners.iter().map(|n| of(key, *n)).collect();
        Line { key, values, unit: "/s" }
    };
    let lines: Vec<Line> = keys.into_iter().map(line).collect();
    let scale = Scale::over(&values(&lines), (TOP + 340.0, TOP));
    let columns = (&listeners[..], "listening connections");
    let title = "commits per second, logarithmic";
    (listeners.len() > 1).then(|| Picture {
        title: "Commits per second of 16 clients, by number of listening connections",
        note: "each notification wakes every listening session of its database; \
               the higher the better",
        panels: vec![panel(title, (80.0, 620.0), scale, columns, lines)],
        below: BELOW,
    })
}

/// Cost by the number of queues.
pub(crate) fn growth(results: &Results) -> Option<Picture> {
    let queues = distinct(results.growth.iter().map(|it| it.queues));
    let realtime = figures::growing(results);
    let one = |queues: &u32| {
        let of = |key| figures::growth(results, key, *queues);
        ratio(&of(realtime), &of(Key::None)).map(|it| it.median)
    };
    let wide = |key: Key, queues: u32| -> Rounds {
        let ours = results.wide.iter().filter(|it| (it.contestant, it.queues) == (key, queues));
        ours.map(|it| (it.round, it.ms)).collect()
    };
    // Times, not speeds: the other way round.
    let all = |key, queues| ratio(&wide(Key::None, queues), &wide(key, queues)).map(|it| it.median);
    let keys = figures::contestants(results.wide.iter().map(|it| it.contestant));
    let keys = keys.into_iter().filter(|key| key.wakes());
    let line = |key, values| Line { key, values, unit: "" };
    let left = vec![line(realtime, queues.iter().map(one).collect())];
    let right: Vec<Line> =
        keys.map(|key| line(key, queues.iter().map(|n| all(key, *n)).collect())).collect();
    let most = values(&left).into_iter().chain(values(&right)).fold(1.0, f64::max);
    let to = if most > 1.0 { 1.2 } else { 1.0 };
    let scale = Scale { values: (0.0, to), pixels: (TOP + 240.0, TOP), logarithmic: false };
    let columns = (&queues[..], "queues");
    (!queues.is_empty()).then(|| Picture {
        title: "Speed of enqueues by number of realtime queues",
        note: "share of the speed of as many queues without a trigger; the higher the better",
        panels: vec![
            panel("one of them in each transaction", (60.0, 270.0), scale, columns, left),
            panel("all of them in each transaction", (530.0, 270.0), scale, columns, right),
        ],
        below: BELOW,
    })
}
