//! The little of SVG that the pictures need. Colours are classes, so that one file serves light and dark
//! pages; the ground is always painted, since a page may be dark where the reader's system is light.

use std::fmt::Write as _;

/// Of every picture.
pub(crate) const WIDTH: f64 = 980.0;

/// Colours and type.
const STYLE: &str = "
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif; font-size: 12px; fill: #1f2328 }
  .ground { fill: #ffffff; stroke: #d1d9e0 }
  .title { font-size: 17px; font-weight: 600 }
  .panel { font-size: 13px; font-weight: 600 }
  .note, .tick { font-size: 11px; fill: #59636e }
  .strong { font-weight: 600 }
  .grid { stroke: #d1d9e0; stroke-width: 1 }
  .axis { stroke: #818b98; stroke-width: 1 }
  .mark { stroke: #b35900; stroke-width: 1.5; stroke-dasharray: 4 3 }
  .line { fill: none; stroke-width: 2.5; stroke-linejoin: round; stroke-linecap: round }
  .thin { stroke-width: 1.5 }
  .notifier { fill: #0969da } .line.notifier { stroke: #0969da }
  .plain { fill: #54aeff } .line.plain { stroke: #54aeff }
  .transaction { fill: #1a7f64 } .line.transaction { stroke: #1a7f64 }
  .none { fill: #8c959f } .line.none { stroke: #8c959f }
  .rival { fill: #d4915a } .line.rival { stroke: #d4915a }
  .line.notifier, .line.plain, .line.transaction, .line.none, .line.rival { fill: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .ground { fill: #0d1117; stroke: #3d444d }
    .note, .tick { fill: #9198a1 }
    .grid { stroke: #262c36 }
    .axis { stroke: #656c76 }
    .mark { stroke: #f0a35e }
    .notifier { fill: #4493f8 } .line.notifier { stroke: #4493f8 }
    .plain { fill: #1f6feb } .line.plain { stroke: #1f6feb }
    .transaction { fill: #3fb996 } .line.transaction { stroke: #3fb996 }
    .none { fill: #7d8590 } .line.none { stroke: #7d8590 }
    .rival { fill: #b87945 } .line.rival { stroke: #b87945 }
    .line.notifier, .line.plain, .line.transaction, .line.none, .line.rival { fill: none }
  }";

/// Where a text's anchor is.
#[derive(Clone, Copy)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture that is being drawn. Units are CSS pixels.
pub(crate) struct Svg {
    title: String,
    body: String,
}

impl Svg {
    /// The note stands below the title.
    pub(crate) fn new(title: &str, note: &str) -> Self {
        let mut svg = Self { title: title.into(), body: String::new() };
        svg.text(24.0, 34.0, "title", Anchor::Start, title);
        svg.text(24.0, 54.0, "note", Anchor::Start, note);
        svg
    }

    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, anchor: Anchor, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" class="{class}" text-anchor="{anchor}">{text}</text>"#
        );
    }

    pub(crate) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, class: &str) {
        let width = width.max(0.5);
        let _ = writeln!(
            self.body,
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="2" class="{class}"/>"#
        );
    }

    pub(crate) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.body,
            r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" class="{class}"/>"#
        );
    }

    pub(crate) fn path(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let points = points.join(" ");
        let _ = writeln!(self.body, r#"<polyline points="{points}" class="{class}"/>"#);
    }

    pub(crate) fn dot(&mut self, x: f64, y: f64, radius: f64, class: &str) {
        let _ = writeln!(
            self.body,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="{radius:.1}" class="{class}"/>"#
        );
    }

    /// The whole file, with a footer at the bottom.
    pub(crate) fn finish(mut self, height: f64, footer: &str) -> String {
        self.text(24.0, height - 14.0, "note", Anchor::Start, footer);
        let Self { title, body } = self;
        let title = escape(&title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
             width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{title}</title>\n\
             <style>{STYLE}\n</style>\n<rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" \
             class=\"ground\"/>\n{body}</svg>\n",
            WIDTH - 1.0,
            height - 1.0
        )
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// From values to pixels.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    pub(crate) values: (f64, f64),
    pub(crate) pixels: (f64, f64),
    pub(crate) logarithmic: bool,
}

impl Scale {
    pub(crate) fn at(&self, value: f64) -> f64 {
        let share = if self.logarithmic {
            let (from, to) = (self.values.0.ln(), self.values.1.ln());
            (value.max(self.values.0).ln() - from) / (to - from)
        } else {
            (value - self.values.0) / (self.values.1 - self.values.0)
        };
        self.pixels.0 + share.clamp(0.0, 1.0) * (self.pixels.1 - self.pixels.0)
    }

    /// A logarithmic scale over all of the values, from tick to tick.
    pub(crate) fn over(values: &[f64], pixels: (f64, f64)) -> Self {
        let positive = || values.iter().copied().filter(|value| *value > 0.0);
        let least = positive().fold(f64::INFINITY, f64::min);
        let most = positive().fold(0.0, f64::max);
        let all = steps();
        let from = all.iter().rev().find(|step| **step <= least).copied().unwrap_or(1.0);
        let to = all.iter().find(|step| **step >= most && **step > from).copied();
        Self { values: (from, to.unwrap_or(from * 10.0)), pixels, logarithmic: true }
    }

    /// Its ticks, each with a label.
    pub(crate) fn labelled(&self, label: impl Fn(f64) -> String) -> Vec<(f64, String)> {
        self.ticks().into_iter().map(|tick| (tick, label(tick))).collect()
    }

    /// Quarters; on a logarithmic scale 1, 2, 5, 10 and so on, or tens alone where there would be too many.
    fn ticks(&self) -> Vec<f64> {
        if !self.logarithmic {
            return (0..=4).map(|part| self.values.1 / 4.0 * f64::from(part)).collect();
        }
        let inside = |step: &f64| (self.values.0..=self.values.1).contains(step);
        let all: Vec<f64> = steps().into_iter().filter(inside).collect();
        if all.len() <= 9 {
            return all;
        }
        all.into_iter().filter(|step| step.log10().fract().abs() < 1e-9).collect()
    }
}

fn steps() -> Vec<f64> {
    (-3..8).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10.0_f64.powi(power))).collect()
}

/// Moves labels apart that would lie on each other; returns their heights in the order given.
pub(crate) fn apart(heights: &[f64], least: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..heights.len()).collect();
    order.sort_by(|a, b| heights[*a].total_cmp(&heights[*b]));
    let mut placed = heights.to_vec();
    // Down first, then back up by half of what was too much.
    for pair in 1..order.len() {
        let above = placed[order[pair - 1]];
        let here = &mut placed[order[pair]];
        *here = here.max(above + least);
    }
    let mut from = 0;
    while from < order.len() {
        let mut to = from;
        while to + 1 < order.len() && placed[order[to + 1]] - placed[order[to]] <= least + 1e-6 {
            to += 1;
        }
        let moved: f64 = (from..=to).map(|at| placed[order[at]] - heights[order[at]]).sum();
        let back = moved / (to - from + 1) as f64;
        let floor = if from == 0 { f64::NEG_INFINITY } else { placed[order[from - 1]] + least };
        let back = back.min(placed[order[from]] - floor);
        (from..=to).for_each(|at| placed[order[at]] -= back);
        from = to + 1;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logarithmic_scale_goes_from_tick_to_tick() {
        let scale = Scale::over(&[0.7, 33.0], (0.0, 100.0));
        assert_eq!(scale.values, (0.5, 50.0));
        assert_eq!(scale.at(0.5), 0.0);
        assert_eq!(scale.at(50.0), 100.0);
        assert_eq!(scale.at(5.0), 50.0);
        assert_eq!(scale.ticks(), [0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]);
    }

    #[test]
    fn labels_do_not_lie_on_each_other() {
        let placed = apart(&[100.0, 10.0, 101.0, 102.0], 14.0);
        let mut sorted = placed.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] >= 13.9), "{placed:?}");
        assert_eq!(placed[1], 10.0);
        assert!(placed[0] < placed[2] && placed[2] < placed[3]);
    }
}
