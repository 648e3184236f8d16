//! Lines with their names at their ends: listeners, growth.

use crate::contestants::Key;
use crate::figures::{self, Rounds, distinct, middle, number, ratio, tps};
use crate::picture::svg::{Anchor, Scale, Svg, apart};
use crate::picture::{colour, footer};
use crate::results::Results;

const WIDTH: f64 = 980.0;
const TOP: f64 = 96.0;

/// One panel: lines over the same columns.
struct Panel<'a> {
    title: &'a str,
    below: &'a str,
    columns: Vec<String>,
    lines: Vec<(Key, Vec<Option<f64>>)>,
    unit: &'a str,
}

impl Panel<'_> {
    fn draw(&self, svg: &mut Svg, x: f64, width: f64, height: f64, scale: Scale) {
        svg.text(x, TOP - 14.0, "panel", Anchor::Start, self.title);
        let end = x + width;
        let ticks = if scale.logarithmic {
            scale.ticks()
        } else {
            (0..=4).map(|part| scale.values.1 / 4.0 * f64::from(part)).collect()
        };
        for tick in ticks {
            let y = scale.at(tick);
            svg.line((x, y), (end, y), "grid");
            let label = number(tick).replace(".00", "").replace(".0", "");
            svg.text(x - 8.0, y + 4.0, "tick", Anchor::End, &label);
        }
        let bottom = TOP + height;
        svg.line((x, bottom), (end, bottom), "axis");
        let step = (width - 40.0) / (self.columns.len().max(2) - 1) as f64;
        let at = |column: usize| x + 20.0 + step * column as f64;
        for (column, name) in self.columns.iter().enumerate() {
            svg.text(at(column), bottom + 17.0, "tick", Anchor::Middle, name);
        }
        svg.text(x + width / 2.0, bottom + 36.0, "note", Anchor::Middle, self.below);
        let last = |values: &[Option<f64>]| values.iter().rev().flatten().next().copied();
        let ends: Vec<f64> = self
            .lines
            .iter()
            .map(|(_, values)| scale.at(last(values).unwrap_or(scale.values.0)))
            .collect();
        let labels = apart(&ends, 16.0);
        // Ours on top of the others.
        let mut order: Vec<_> = self.lines.iter().zip(labels).collect();
        order.sort_by_key(|((key, _), _)| (key.is_aimq(), key.is_notifier()));
        for ((key, values), label) in order {
            let points: Vec<(f64, f64)> = values
                .iter()
                .enumerate()
                .filter_map(|(column, value)| Some((at(column), scale.at((*value)?))))
                .collect();
            let class = colour(*key);
            let thin = if class == "rival" { "thin " } else { "" };
            svg.path(&points, &format!("line {thin}{class}"));
            for (x, y) in &points {
                svg.dot(*x, *y, 3.5, class);
            }
            let strong = if key.is_notifier() { "strong" } else { "" };
            if let (Some((from, height)), Some(value)) = (points.last(), last(values)) {
                svg.line((from + 6.0, *height), (end + 4.0, label), "grid");
                let text = format!("{} {}{}", key.title(), number(value), self.unit);
                svg.text(end + 8.0, label + 4.0, strong, Anchor::Start, &text);
            }
        }
    }

    fn values(&self) -> Vec<f64> {
        self.lines.iter().flat_map(|(_, values)| values.iter().flatten().copied()).collect()
    }
}

/// Commits per second by the number of listening connections.
pub(crate) fn listeners(results: &Results) -> Option<String> {
    let ours = || results.throughput.iter().filter(|it| it.clients == 16 && it.synchronous_commit);
    let listeners = distinct(ours().map(|it| it.listeners));
    if listeners.len() < 2 {
        return None;
    }
    let keys = figures::contestants(ours().map(|it| it.contestant).filter(|key| key.preloaded()));
    let of = |key: Key| -> Vec<Option<f64>> {
        listeners.iter().map(|n| middle(&tps(results, key, 16, *n)).map(f64::round)).collect()
    };
    let panel = Panel {
        title: "commits per second, logarithmic",
        below: "listening connections",
        columns: listeners.iter().map(ToString::to_string).collect(),
        lines: keys.into_iter().map(|key| (key, of(key))).collect(),
        unit: "/s",
    };
    let mut svg = Svg::new(
        WIDTH,
        "Commits per second of 16 clients, by number of listening connections",
        "each notification wakes every listening session of its database; the higher the better",
    );
    let height = 340.0;
    let scale = Scale::over(&panel.values(), (TOP + height, TOP));
    panel.draw(&mut svg, 80.0, 620.0, height, scale);
    Some(svg.finish(TOP + height + 80.0, &footer(&results.about)))
}

/// Cost by the number of queues.
pub(crate) fn growth(results: &Results) -> Option<String> {
    let queues = distinct(results.growth.iter().map(|it| it.queues));
    if queues.is_empty() {
        return None;
    }
    let columns: Vec<String> = queues.iter().map(ToString::to_string).collect();
    let realtime = figures::growing(results);
    let one = |queues: &u32| {
        let none = figures::growth(results, Key::None, *queues);
        ratio(&figures::growth(results, realtime, *queues), &none).map(|it| it.median)
    };
    let left = Panel {
        title: "one of them in each transaction",
        below: "queues",
        columns: columns.clone(),
        lines: vec![(realtime, queues.iter().map(one).collect())],
        unit: "",
    };
    let wide = |key: Key, queues: u32| -> Rounds {
        let ours = results.wide.iter().filter(|it| (it.contestant, it.queues) == (key, queues));
        ours.map(|it| (it.round, it.ms)).collect()
    };
    // Times, not speeds: the other way round.
    let all = |key, queues| ratio(&wide(Key::None, queues), &wide(key, queues)).map(|it| it.median);
    let keys = figures::contestants(results.wide.iter().map(|it| it.contestant));
    let right = Panel {
        title: "all of them in each transaction",
        below: "queues",
        columns,
        lines: keys
            .into_iter()
            .filter(|key| key.wakes())
            .map(|key| (key, queues.iter().map(|n| all(key, *n)).collect()))
            .collect(),
        unit: "",
    };
    let mut svg = Svg::new(
        WIDTH,
        "Speed of enqueues by number of realtime queues",
        "share of the speed of as many queues without a trigger; the higher the better",
    );
    let height = 240.0;
    let most = left.values().into_iter().chain(right.values()).fold(1.0, f64::max);
    let values = (0.0, if most > 1.0 { 1.2 } else { 1.0 });
    let scale = Scale { values, pixels: (TOP + height, TOP), logarithmic: false };
    left.draw(&mut svg, 60.0, 270.0, height, scale);
    right.draw(&mut svg, 530.0, 270.0, height, scale);
    Some(svg.finish(TOP + height + 80.0, &footer(&results.about)))
}
