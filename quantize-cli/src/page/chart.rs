//! The pictures of a report. Each is drawn twice, for wide and for narrow screens, so that its
//! letters are of one size.

use std::fmt::Write as _;

use super::Entry;
use crate::eval::statistics::percentile;
use crate::report::digits;
use crate::svg::{FONT, Rect, escape, line, number, place, step, text};

/// Models by something that is better or worse, against their divergence.
pub(super) struct Scatter {
    pub(super) title: String,
    pub(super) caption: String,
    /// Whether less of it is better.
    pub(super) less_is_better: bool,
    pub(super) unit: &'static str,
    pub(super) spots: Vec<Spot>,
}

pub(super) struct Spot {
    pub(super) label: String,
    pub(super) x: f64,
    /// How far it spreads to each side.
    pub(super) x_error: f64,
    /// Mean divergence.
    pub(super) y: f64,
    /// Its standard error.
    pub(super) y_error: f64,
    /// Whether it is the noise floor.
    pub(super) floor: bool,
}

/// Above 0 on a logarithmic scale; what is less or no number is drawn there.
const LEAST: f64 = 1e-9;

impl Scatter {
    pub(super) fn draw(&self, narrow: bool) -> String {
        let (width, height) = if narrow { (330.0, 300.0) } else { (500.0, 330.0) };
        let area = Rect { x: 52.0, y: 12.0, width: width - 52.0 - 20.0, height: height - 12.0 - 48.0 };
        let bottom = area.y + area.height;
        let described: Vec<String> = self.spots.iter().map(|spot| self.describe(spot)).collect();
        let mut svg = open(width, height, &self.title, &described.join("; "));

        let most = self
            .spots
            .iter()
            .map(|spot| spot.x + spot.x_error)
            .filter(|x| x.is_finite())
            .fold(f64::MIN_POSITIVE, f64::max);
        let step = step(1.06 * most / if narrow { 4.0 } else { 6.0 });
        let right = (1.06 * most / step).ceil() * step;
        let x_of = |x: f64| area.x + (x / right).clamp(0.0, 1.0) * area.width;
        for i in 0..=(right / step).round() as usize {
            let x = i as f64 * step;
            line(&mut svg, "grid", (x_of(x), area.y), (x_of(x), bottom));
            text(&mut svg, x_of(x), bottom + 18.0, "soft", "middle", &number(x));
        }
        text(&mut svg, area.x + area.width / 2.0, bottom + 38.0, "soft", "middle", self.unit);

        let scale = Logarithmic::around(self.spots.iter().map(|spot| spot.y), 2.0);
        let y_of = |y: f64| bottom - scale.of(y) * area.height;
        for y in scale.ticks() {
            line(&mut svg, "grid", (area.x, y_of(y)), (area.x + area.width, y_of(y)));
            text(&mut svg, area.x - 8.0, y_of(y) + 4.0, "soft", "end", &short(y));
        }

        self.draw_frontier(&mut svg, &x_of, &y_of);
        let mut taken: Vec<Rect> =
            self.spots.iter().map(|spot| Rect::around(x_of(spot.x), y_of(spot.y), 7.0)).collect();
        for spot in &self.spots {
            let (x, y) = (x_of(spot.x), y_of(spot.y));
            let (label, anchor) = place(&spot.label, (x, y), &area, &taken, &[]);
            taken.push(label);
            if let Some(anchor) = anchor {
                line(&mut svg, "leader", (x, y), anchor);
            }
            text(&mut svg, label.x + 2.0, label.y + FONT - 1.0, "label", "start", &spot.label);
        }
        for spot in &self.spots {
            let (x, y) = (x_of(spot.x), y_of(spot.y));
            let (left, right) = (x_of(spot.x - spot.x_error), x_of(spot.x + spot.x_error));
            let (low, high) = (y_of(spot.y - spot.y_error), y_of(spot.y + spot.y_error));
            // What is within the point is not drawn.
            if right - left > 12.0 {
                line(&mut svg, "spread", (left, y), (right, y));
            }
            if low - high > 12.0 {
                line(&mut svg, "spread", (x, low), (x, high));
            }
        }
        for (spot, described) in self.spots.iter().zip(&described) {
            let class = if spot.floor { "floor" } else { "dot" };
            let (x, y) = (x_of(spot.x), y_of(spot.y));
            let described = escape(described);
            let _ = writeln!(
                svg,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\"><title>{described}</title></circle>"
            );
        }
        svg.push_str("</svg>");
        svg
    }

    fn describe(&self, spot: &Spot) -> String {
        let spread = if spot.x_error > 0.0 { format!(" ± {}", digits(spot.x_error, 2)) } else { String::new() };
        let (y, x) = (digits(spot.y, 3), digits(spot.x, 4));
        format!("{}: KL divergence {y} at {x}{spread} {}", spot.label, self.unit)
    }

    /// A line through those that no other beats in both.
    fn draw_frontier(&self, svg: &mut String, x_of: &dyn Fn(f64) -> f64, y_of: &dyn Fn(f64) -> f64) {
        let sign = if self.less_is_better { 1.0 } else { -1.0 };
        let mut spots: Vec<&Spot> = self.spots.iter().filter(|spot| !spot.floor && spot.y.is_finite()).collect();
        spots.sort_by(|a, b| (sign * a.x).total_cmp(&(sign * b.x)).then(a.y.total_cmp(&b.y)));
        let mut least = f64::INFINITY;
        spots.retain(|spot| {
            let better = spot.y < least;
            least = least.min(spot.y);
            better
        });
        let points: Vec<String> = spots.iter().map(|spot| format!("{:.1},{:.1}", x_of(spot.x), y_of(spot.y))).collect();
        let _ = writeln!(svg, "<polyline class=\"frontier\" points=\"{}\"/>", points.join(" "));
    }
}

/// A logarithmic scale from 0 to 1.
struct Logarithmic {
    least: f64,
    most: f64,
}

impl Logarithmic {
    /// With room for these numbers, and a factor below and above them.
    fn around(numbers: impl Iterator<Item = f64>, room: f64) -> Self {
        let numbers = numbers.filter(|x| x.is_finite()).map(|x| x.max(LEAST));
        let (least, most) = numbers.fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), x| (a.min(x), b.max(x)));
        if most == 0.0 { Self { least: 1e-3, most: 1.0 } } else { Self { least: least / room, most: most * room } }
    }

    fn of(&self, x: f64) -> f64 {
        let x = if x.is_nan() { self.most } else { x.clamp(self.least, self.most) };
        (x / self.least).ln() / (self.most / self.least).ln()
    }

    /// Powers of ten, and numbers between them where there are few.
    fn ticks(&self) -> Vec<f64> {
        let decades = (self.most / self.least).log10();
        let parts: &[f64] = if decades > 4.5 {
            &[1.0]
        } else if decades > 1.8 {
            &[1.0, 3.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        let ticks = (-10..3).flat_map(|decade| parts.iter().map(move |part| part * 10f64.powi(decade)));
        ticks.filter(|tick| (self.least..=self.most).contains(tick)).collect()
    }
}

/// For each model a hill: how many of its predictions have which divergence.
pub(super) fn hills(entries: &[Entry], narrow: bool) -> String {
    const BINS: usize = 96;
    let (width, row) = if narrow { (330.0, 46.0) } else { (1040.0, 54.0) };
    let (left, right, top) = (64.0, 20.0, 34.0);
    let height = top + row * entries.len() as f64 + 34.0;
    let described: Vec<String> = entries.iter().filter_map(describe_hill).collect();
    let mut svg = open(width, height, "Distribution of the KL divergence", &described.join("; "));

    let sorted: Vec<Vec<f32>> = entries
        .iter()
        .map(|entry| {
            let mut sorted: Vec<f32> = entry.divergences.iter().copied().filter(|x| x.is_finite()).collect();
            sorted.sort_unstable_by(f32::total_cmp);
            sorted
        })
        .collect();
    let ends = sorted.iter().flat_map(|sorted| [percentile(sorted, 0.02), percentile(sorted, 1.0)]);
    let scale = Logarithmic::around(ends, 1.3);
    let x_of = |x: f64| left + scale.of(x) * (width - left - right);
    let bottom = top + row * entries.len() as f64;
    let mut tails = String::new();
    let ticks = scale.ticks();
    // Where there is no room for all of them, every second one.
    for &tick in ticks.iter().step_by(if narrow && ticks.len() > 5 { 2 } else { 1 }) {
        line(&mut svg, "grid", (x_of(tick), top - 14.0), (x_of(tick), bottom));
        text(&mut svg, x_of(tick), bottom + 20.0, "soft", "middle", &short(tick));
    }
    for (i, (entry, sorted)) in entries.iter().zip(&sorted).enumerate() {
        let base = top + row * (i + 1) as f64;
        text(&mut svg, 0.0, base - 4.0, "", "start", &entry.name);
        if sorted.is_empty() {
            continue;
        }
        let mut bins = [0.0; BINS];
        for &x in sorted {
            let bin = (scale.of(x.into()) * BINS as f64) as usize;
            bins[bin.min(BINS - 1)] += 1.0;
        }
        let smooth = |bins: &[f64; BINS]| -> [f64; BINS] {
            std::array::from_fn(|i| {
                let at = |i: usize| bins.get(i).copied().unwrap_or(0.0);
                0.25 * at(i.wrapping_sub(1)) + 0.5 * at(i) + 0.25 * at(i + 1)
            })
        };
        let bins = smooth(&smooth(&bins));
        let highest = bins.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let bin_width = (width - left - right) / BINS as f64;
        let y_of = |count: f64| base - count / highest * (row + 8.0);
        let mut path = format!("M{left:.1},{base:.1}");
        for (i, &count) in bins.iter().enumerate() {
            let _ = write!(path, "L{:.1},{:.1}", left + bin_width * (i as f64 + 0.5), y_of(count));
        }
        let _ = write!(path, "L{:.1},{base:.1}Z", width - right);
        let described = escape(&describe_hill(entry).unwrap_or_default());
        let _ = writeln!(svg, "<path class=\"area\" d=\"{path}\"><title>{described}</title></path>");
        let height_at = |x: f64| y_of(bins[((scale.of(x) * BINS as f64) as usize).min(BINS - 1)]);
        let median = percentile(sorted, 0.5);
        line(&mut svg, "median", (x_of(median), base), (x_of(median), height_at(median)));
        let tail = x_of(percentile(sorted, 0.999));
        // On top of all hills: the next one would cover it.
        let _ = writeln!(
            tails,
            "<circle class=\"tail\" cx=\"{tail:.1}\" cy=\"{base:.1}\" r=\"4.5\"><title>{described}</title></circle>"
        );
    }
    svg.push_str(&tails);
    svg.push_str("</svg>");
    svg
}

fn describe_hill(entry: &Entry) -> Option<String> {
    let kld = &entry.summary.as_ref()?.kld;
    let [median, tail, max] = [kld.median, kld.p999, kld.max].map(|x| digits(x, 3));
    Some(format!("{}: median {median}, 99.9 % below {tail}, maximum {max}", entry.name))
}

/// A power of ten as such where it is small.
fn short(value: f64) -> String {
    if value >= 9.9e-4 {
        return number_of(value);
    }
    format!("{value:.0e}")
}

fn number_of(value: f64) -> String {
    let digits = if value < 0.0099 {
        3
    } else if value < 0.099 {
        2
    } else {
        1
    };
    format!("{value:.digits$}")
}

fn open(width: f64, height: f64, title: &str, description: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}. {}\">\n",
        escape(title),
        escape(description)
    )
}
