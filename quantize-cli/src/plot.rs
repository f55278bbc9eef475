//! Speed against error, drawn as SVG. Colours follow the reader's preference for light or dark.

use std::fmt::Write as _;

use crate::svg::{FONT, Rect, escape, line, number, place, step, text};
use crate::version::VERSION;

/// A picture of panels side by side.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows.
    pub title: String,
    /// On which machine.
    pub subtitle: String,
    /// What to beware of, a line each.
    pub warnings: Vec<String>,
    /// What the points are: with all threads, and with one.
    pub legend: [String; 2],
    /// Small print: of which weights, when, with which program; a line each.
    pub notes: Vec<String>,
    /// The panels.
    pub panels: Vec<Panel>,
}

/// Points above their errors.
#[derive(Clone, Debug)]
pub struct Panel {
    /// What it shows.
    pub title: String,
    /// The unit of the speeds.
    pub axis: String,
    /// The points. One without error becomes a line across: a reference.
    pub points: Vec<Point>,
}

/// A format.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its name.
    pub label: String,
    /// Relative RMS error, a fraction.
    pub error: f64,
    /// Speed with all threads.
    pub speed: f64,
    /// Half of the rounds had a speed within so large a part of it.
    pub spread: f64,
    /// Speed with one thread, if that is something else.
    pub single: Option<f64>,
    /// Whether the speed is more than is possible, because other work disturbed the measurement.
    pub disturbed: bool,
}

const PANEL_WIDTH: f64 = 520.0;
const PLOT_HEIGHT: f64 = 340.0;
/// Above and left of the area of the points, and what is below and right of it.
const TOP: f64 = 128.0;
/// Of small print.
const LINE: f64 = 16.0;
const LEFT: f64 = 56.0;
const BOTTOM: f64 = 108.0;
const RIGHT: f64 = 24.0;

/// Plain rules, without variables: some programs that draw SVG know no others.
const STYLE: &str = "
  text { font-family: system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif; font-size: 13px; fill: #1f2328; }
  .label { stroke: #ffffff; stroke-width: 3; stroke-linejoin: round; paint-order: stroke; }
  .title { font-size: 20px; font-weight: 600; }
  .panel { font-size: 15px; font-weight: 600; }
  .soft { font-size: 12px; fill: #656d76; }
  .paper { fill: #ffffff; }
  .grid { stroke: #e6e9ed; }
  .leader { stroke: #aeb5bd; }
  .dot { fill: #0b6bcb; stroke: #ffffff; stroke-width: 1.5; }
  .disturbed { fill: #ffffff; stroke: #b35900; stroke-width: 1.5; stroke-dasharray: 3 2; }
  .single { fill: #ffffff; stroke: #9cc3ea; stroke-width: 2; }
  .range { stroke: #9cc3ea; stroke-width: 2; }
  .reference { stroke: #b35900; stroke-width: 1.5; stroke-dasharray: 6 4; }
  .mark { fill: #b35900; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .label { stroke: #0d1117; }
    .soft { fill: #8d96a0; }
    .paper { fill: #0d1117; }
    .grid { stroke: #262c34; }
    .leader { stroke: #57606a; }
    .dot { fill: #58a6ff; stroke: #0d1117; }
    .disturbed { fill: #0d1117; stroke: #e3933b; }
    .single { fill: #0d1117; stroke: #2c5a92; }
    .range { stroke: #2c5a92; }
    .reference { stroke: #e3933b; }
    .mark { fill: #e3933b; }
  }
";

/// Draws.
#[must_use]
pub fn draw(plot: &Plot) -> String {
    let width = PANEL_WIDTH * plot.panels.len().max(1) as f64;
    let warned = LINE * plot.warnings.len() as f64;
    let height = TOP + warned + PLOT_HEIGHT + BOTTOM;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>{title}</title>\n<metadata>quantize bench {VERSION}</metadata>\n<style>{STYLE}</style>\n\
         <rect width=\"{width}\" height=\"{height}\" class=\"paper\"/>\n",
        title = escape(&plot.title),
    );
    text(&mut svg, LEFT / 2.0, 36.0, "title", "start", &plot.title);
    text(&mut svg, LEFT / 2.0, 58.0, "soft", "start", &plot.subtitle);
    for (i, warning) in plot.warnings.iter().enumerate() {
        text(&mut svg, LEFT / 2.0, 58.0 + LINE * (i + 1) as f64, "mark", "start", warning);
    }
    for (i, note) in plot.notes.iter().rev().enumerate() {
        text(&mut svg, LEFT / 2.0, height - 16.0 - LINE * i as f64, "soft", "start", note);
    }
    if plot.panels.iter().flat_map(|panel| &panel.points).any(|point| point.single.is_some()) {
        let x = width - RIGHT - 180.0;
        for (i, (class, label)) in ["dot", "single"].into_iter().zip(&plot.legend).enumerate() {
            let x = x + 96.0 * i as f64;
            let _ = writeln!(svg, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"31\" r=\"5\"/>");
            text(&mut svg, x + 12.0, 35.0, "soft", "start", label);
        }
    }
    for (i, panel) in plot.panels.iter().enumerate() {
        draw_panel(&mut svg, panel, PANEL_WIDTH * i as f64, TOP + warned);
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw_panel(svg: &mut String, panel: &Panel, left: f64, above: f64) {
    let area = Rect { x: left + LEFT, y: above, width: PANEL_WIDTH - LEFT - RIGHT, height: PLOT_HEIGHT };
    let (right, bottom) = (area.x + area.width, area.y + area.height);
    text(svg, left + LEFT / 2.0, above - 36.0, "panel", "start", &panel.title);
    text(svg, left + LEFT / 2.0, above - 16.0, "soft", "start", &panel.axis);

    let speeds = panel.points.iter().flat_map(|point| [point.speed, point.single.unwrap_or_default()]);
    let fastest = speeds.fold(f64::MIN_POSITIVE, f64::max);
    let step = step(1.08 * fastest / 5.0);
    let top = (1.08 * fastest / step).ceil() * step;
    let y_of = |speed: f64| bottom - speed / top * area.height;
    for i in 0..=(top / step).round() as usize {
        let (speed, y) = (i as f64 * step, y_of(i as f64 * step));
        line(svg, "grid", (area.x, y), (right, y));
        text(svg, area.x - 8.0, y + 4.0, "soft", "end", &number(speed));
    }

    let errors = || panel.points.iter().map(|point| point.error).filter(|&error| error > 0.0);
    let least = errors().fold(f64::INFINITY, f64::min).min(0.05) / 1.4;
    let most = errors().fold(0.0, f64::max).max(0.05) * 1.4;
    let x_of = |error: f64| area.x + (error / least).ln() / (most / least).ln() * area.width;
    for decade in -6..2 {
        for digit in [1.0, 2.0, 5.0] {
            let error = digit * 10f64.powi(decade);
            if (least..=most).contains(&error) {
                line(svg, "grid", (x_of(error), area.y), (x_of(error), bottom));
                text(svg, x_of(error), bottom + 18.0, "soft", "middle", &format!("{} %", number(100.0 * error)));
            }
        }
    }
    text(
        svg,
        area.x + area.width / 2.0,
        bottom + 40.0,
        "soft",
        "middle",
        "relative RMS error of the weights (smaller is better)",
    );

    let (mut taken, mut lines) = (vec![], vec![]);
    for reference in panel.points.iter().filter(|point| point.error <= 0.0) {
        let y = y_of(reference.speed);
        line(svg, "reference", (area.x, y), (right, y));
        text(svg, area.x + 6.0, y - 6.0, "mark", "start", &reference.label);
        taken.push(Rect { x: area.x, y: y - 20.0, width: 7.0 * reference.label.len() as f64 + 12.0, height: 22.0 });
    }
    let points: Vec<&Point> = panel.points.iter().filter(|point| point.error > 0.0).collect();
    for point in &points {
        let (x, y) = (x_of(point.error), y_of(point.speed));
        taken.push(Rect::around(x, y, 7.0));
        if let Some(single) = point.single {
            line(svg, "range", (x, y), (x, y_of(single)));
            let _ = writeln!(svg, "<circle class=\"single\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"4\"/>", y_of(single));
            taken.push(Rect::around(x, y_of(single), 6.0));
            let height = (y_of(single) - y).abs();
            lines.push(Rect { x: x - 1.0, y: y.min(y_of(single)), width: 2.0, height });
        }
    }
    for point in &points {
        let (x, y) = (x_of(point.error), y_of(point.speed));
        let (label, anchor) = place(&point.label, (x, y), &area, &taken, &lines);
        taken.push(label);
        if let Some(anchor) = anchor {
            line(svg, "leader", (x, y), anchor);
        }
        text(svg, label.x + 2.0, label.y + FONT - 1.0, "label", "start", &point.label);
    }
    for point in &points {
        let (x, y) = (x_of(point.error), y_of(point.speed));
        let (speed, spread) = (number(point.speed), number(100.0 * point.spread));
        let (class, why) = match point.disturbed {
            true => ("disturbed", "; more than is possible: other work disturbed this"),
            false => ("dot", ""),
        };
        let _ = writeln!(
            svg,
            "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\"><title>{}: {speed} ± {spread} % at {:.2} % \
             error{why}</title></circle>",
            escape(&point.label),
            100.0 * point.error,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(label: &str, disturbed: bool) -> Point {
        Point { label: label.into(), error: 0.05, speed: 7.0, spread: 0.02, single: Some(4.0), disturbed }
    }

    fn plot(warnings: Vec<String>, points: Vec<Point>) -> String {
        draw(&Plot {
            title: "Speed".into(),
            subtitle: "a processor".into(),
            warnings,
            legend: ["2 threads".into(), "1 thread".into()],
            notes: vec!["one".into(), "two".into()],
            panels: vec![Panel { title: "One row".into(), axis: "GB/s".into(), points }],
        })
    }

    #[test]
    fn a_disturbed_point_is_drawn_as_such() {
        let quiet = plot(vec![], vec![point("q4_0", false)]);
        assert_eq!((quiet.matches("class=\"dot\"").count(), quiet.matches("class=\"disturbed\"").count()), (2, 0));
        let busy = plot(vec!["Busy.".into()], vec![point("q4_0", false), point("q8_0", true)]);
        assert_eq!((busy.matches("class=\"dot\"").count(), busy.matches("class=\"disturbed\"").count()), (2, 1));
        assert!(busy.contains(">Busy.</text>") && busy.contains("more than is possible"), "{busy}");
    }

    #[test]
    fn a_later_run_recognizes_the_picture() {
        let mark = crate::place::PICTURE.mark.unwrap();
        assert!(plot(vec![], vec![])[..4096.min(plot(vec![], vec![]).len())].contains(mark));
    }
}
