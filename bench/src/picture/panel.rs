//! What all pictures are made of: panels with a scale, its grid, and named marks.

use crate::contestants::Key;
use crate::figures::number;
use crate::picture::svg::{Anchor, Scale, Svg, WIDTH, apart};

/// A picture before it is drawn.
pub(crate) struct Picture {
    pub(crate) title: &'static str,
    pub(crate) note: &'static str,
    pub(crate) panels: Vec<Panel>,
    /// How much room there is below the lowest panel.
    pub(crate) below: f64,
}

/// Marks along one scale.
pub(crate) struct Panel {
    pub(crate) title: String,
    /// Its pixels run to the right where there are rows, and upwards where there are lines.
    pub(crate) scale: Scale,
    /// Where the grid is, and what stands there.
    pub(crate) ticks: Vec<(f64, String)>,
    /// A value that the others are held against.
    pub(crate) goal: Option<(f64, &'static str)>,
    pub(crate) marks: Marks,
}

pub(crate) enum Marks {
    Rows { top: f64, height: f64, rows: Vec<Row> },
    Lines { left: f64, width: f64, below: &'static str, columns: Vec<u32>, lines: Vec<Line> },
}

/// A name, and what is known of it.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) class: &'static str,
    pub(crate) is_strong: bool,
    pub(crate) mark: Option<Mark>,
}

pub(crate) enum Mark {
    /// From the beginning of the scale to a value.
    Bar { to: f64, label: String },
    /// From p50 to p99.
    Range { p50: f64, p99: f64, samples: usize },
}

/// A contestant's values, by column, with its name and the last value at the end; ` unit` follows that.
pub(crate) struct Line {
    pub(crate) key: Key,
    pub(crate) values: Vec<Option<f64>>,
    pub(crate) unit: &'static str,
}

impl Picture {
    pub(crate) fn draw(&self, footer: &str) -> String {
        let mut svg = Svg::new(self.title, self.note);
        self.panels.iter().for_each(|panel| panel.draw(&mut svg));
        let bottom = self.panels.iter().map(Panel::bottom).fold(0.0, f64::max);
        svg.finish(bottom + self.below, footer)
    }
}

impl Row {
    pub(crate) fn of(key: Key, mark: Option<Mark>) -> Self {
        let (name, class) = (key.title().to_owned(), colour(key));
        Self { name, class, is_strong: key.is_notifier(), mark }
    }
}

/// The class that a contestant's marks have.
fn colour(key: Key) -> &'static str {
    match key {
        Key::Notifier => "notifier",
        Key::NotifierPlain => "plain",
        Key::Transaction => "transaction",
        Key::None | Key::NonePlain => "none",
        _ => "rival",
    }
}

fn weight(is_strong: bool) -> &'static str {
    if is_strong { "strong" } else { "" }
}

impl Panel {
    pub(crate) fn bottom(&self) -> f64 {
        match &self.marks {
            Marks::Rows { top, height, rows } => top + height * rows.len() as f64,
            Marks::Lines { .. } => self.scale.pixels.0,
        }
    }

    fn draw(&self, svg: &mut Svg) {
        match &self.marks {
            Marks::Rows { top, height, rows } => self.draw_rows(svg, *top, *height, rows),
            Marks::Lines { left, width, below, columns, lines } => {
                self.draw_columns(svg, *left, *width, columns, below);
                self.draw_lines(svg, *left, *width, columns.len(), lines);
            }
        }
    }

    fn draw_rows(&self, svg: &mut Svg, top: f64, height: f64, rows: &[Row]) {
        let (left, bottom) = (self.scale.pixels.0, self.bottom());
        if !self.title.is_empty() {
            svg.text(left, top - 10.0, "panel", Anchor::Start, &self.title);
        }
        for (value, label) in &self.ticks {
            let x = self.scale.at(*value);
            svg.line((x, top), (x, bottom), if *value == 0.0 { "axis" } else { "grid" });
            svg.text(x, bottom + (height / 6.0 + 11.0).round(), "tick", Anchor::Middle, label);
        }
        let goal = self.goal.map(|(value, label)| (self.scale.at(value), label));
        if let Some((x, label)) = goal {
            svg.line((x, top - 4.0), (x, bottom), "mark");
            svg.text(x + 5.0, top - 6.0, "note", Anchor::Start, label);
        }
        for (at, Row { name, class, is_strong, mark }) in rows.iter().enumerate() {
            let top = top + height * at as f64;
            let (base, strong) = (top + (height / 2.0 + 4.0).round(), weight(*is_strong));
            let gap = if let Some(Mark::Bar { .. }) | None = mark { 8.0 } else { 10.0 };
            svg.text(left - gap, base, strong, Anchor::End, name);
            match mark {
                Some(Mark::Bar { to, label }) => {
                    let end = self.scale.at(*to);
                    let gap = (height / 6.0).floor();
                    svg.rect(left, top + gap, end - left, height - 2.0 * gap, class);
                    // Clear of the line of what it is held against.
                    let from = goal.map_or(end, |(goal, _)| if end < goal { goal } else { end });
                    svg.text(from + 6.0, base, strong, Anchor::Start, label);
                }
                Some(Mark::Range { p50, p99, samples }) => {
                    let (from, to) = (self.scale.at(*p50), self.scale.at(*p99));
                    let middle = top + height / 2.0;
                    svg.line((from, middle), (to, middle), &format!("line {class}"));
                    svg.dot(to, middle, 4.5, "ground");
                    svg.dot(to, middle, 4.0, &format!("line thin {class}"));
                    svg.dot(from, middle, 5.0, class);
                    let label = format!("{} … {} ms", number(*p50), number(*p99));
                    svg.text(WIDTH - 208.0, base, strong, Anchor::Start, &label);
                    let samples = format!("n = {}", number(*samples as f64).replace(".0", ""));
                    svg.text(WIDTH - 24.0, base, "tick", Anchor::End, &samples);
                }
                None => {}
            }
        }
    }

    fn draw_columns(&self, svg: &mut Svg, x: f64, width: f64, columns: &[u32], below: &str) {
        let (bottom, top) = self.scale.pixels;
        svg.text(x, top - 14.0, "panel", Anchor::Start, &self.title);
        for (value, label) in &self.ticks {
            let y = self.scale.at(*value);
            svg.line((x, y), (x + width, y), "grid");
            svg.text(x - 8.0, y + 4.0, "tick", Anchor::End, label);
        }
        svg.line((x, bottom), (x + width, bottom), "axis");
        for (at, name) in columns.iter().enumerate() {
            let x = column(at, columns.len(), x, width);
            svg.text(x, bottom + 17.0, "tick", Anchor::Middle, &name.to_string());
        }
        svg.text(x + width / 2.0, bottom + 36.0, "note", Anchor::Middle, below);
    }

    fn draw_lines(&self, svg: &mut Svg, left: f64, width: f64, columns: usize, lines: &[Line]) {
        let last = |line: &Line| line.values.iter().rev().flatten().next().copied();
        let height = |line| self.scale.at(last(line).unwrap_or(self.scale.values.0));
        let labels = apart(&lines.iter().map(height).collect::<Vec<_>>(), 16.0);
        // Ours on top of the others.
        let mut order: Vec<_> = lines.iter().zip(labels).collect();
        order.sort_by_key(|(line, _)| (line.key.is_aimq(), line.key.is_notifier()));
        for (line, label) in order {
            let points = line.values.iter().enumerate();
            let points: Vec<(f64, f64)> = points
                .filter_map(|(at, value)| {
                    Some((column(at, columns, left, width), self.scale.at((*value)?)))
                })
                .collect();
            let class = colour(line.key);
            let thin = if class == "rival" { "thin " } else { "" };
            svg.path(&points, &format!("line {thin}{class}"));
            for (x, y) in &points {
                svg.dot(*x, *y, 3.5, class);
            }
            if let (Some((from, height)), Some(value)) = (points.last(), last(line)) {
                let end = left + width;
                svg.line((from + 6.0, *height), (end + 4.0, label), "grid");
                let text = format!("{} {}{}", line.key.title(), number(value), line.unit);
                let strong = weight(line.key.is_notifier());
                svg.text(end + 8.0, label + 4.0, strong, Anchor::Start, &text);
            }
        }
    }
}

/// Where a column is.
fn column(at: usize, columns: usize, left: f64, width: f64) -> f64 {
    left + 20.0 + (width - 40.0) / (columns.max(2) - 1) as f64 * at as f64
}
