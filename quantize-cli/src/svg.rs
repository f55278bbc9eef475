//! What pictures are drawn with: lines, text, places for labels, round numbers.

use std::fmt::Write as _;

/// Height of labels.
pub(crate) const FONT: f64 = 13.0;

/// A rectangle that nothing else may cover.
#[derive(Clone, Copy)]
pub(crate) struct Rect {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Rect {
    pub(crate) fn around(x: f64, y: f64, radius: f64) -> Self {
        Self { x: x - radius, y: y - radius, width: 2.0 * radius, height: 2.0 * radius }
    }

    pub(crate) fn overlap(&self, other: &Self) -> f64 {
        let along = |a: f64, a_len: f64, b: f64, b_len: f64| ((a + a_len).min(b + b_len) - a.max(b)).max(0.0);
        along(self.x, self.width, other.x, other.width) * along(self.y, self.height, other.y, other.height)
    }
}

/// Where a label lies: as near as possible to its point, covering nothing that is taken and lines
/// only if it must. Away from its point a leader goes there, whose end is returned, too.
pub(crate) fn place(
    label: &str,
    (x, y): (f64, f64),
    area: &Rect,
    taken: &[Rect],
    lines: &[Rect],
) -> (Rect, Option<(f64, f64)>) {
    let (width, height) = (7.2 * label.chars().count() as f64 + 4.0, FONT + 3.0);
    let own = Rect::around(x, y, 7.0);
    let mut best = (f64::INFINITY, own, None);
    for distance in [12.0, 20.0, 30.0, 42.0, 56.0, 72.0, 90.0, 110.0] {
        for direction in 0..16 {
            let (sine, cosine) = (f64::from(direction) * std::f64::consts::TAU / 16.0).sin_cos();
            let end = (x + distance * cosine, y + distance * sine);
            // The label touches the end of the leader with the side that is next to it.
            let left = end.0 - width / 2.0 + cosine * width / 2.0;
            let place = Rect { x: left, y: end.1 - height / 2.0 + sine * height / 2.0, width, height };
            let outside = place.overlap(area) < 0.999 * width * height;
            let covered = |rects: &[Rect]| rects.iter().map(|rect| place.overlap(rect)).sum::<f64>();
            // How much of the leader, between its own point and its end, runs through other points
            // and labels.
            let crossed: f64 = (1..10)
                .map(|i| {
                    let part = f64::from(i) / 10.0;
                    let at = Rect::around(x + (end.0 - x) * part, y + (end.1 - y) * part, 2.0);
                    taken.iter().map(|rect| (rect.overlap(&at) - own.overlap(&at)).max(0.0)).sum::<f64>()
                })
                .sum();
            let cost = distance
                + 40.0 * covered(taken)
                + 1.5 * covered(lines)
                + 20.0 * crossed
                + if outside { 1e6 } else { 0.0 };
            if cost < best.0 {
                best = (cost, place, (distance > 12.0).then_some(end));
            }
        }
    }
    (best.1, best.2)
}

/// The round number next above: 1, 2 or 5 times a power of ten.
pub(crate) fn step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|&step| step >= least).unwrap_or(10.0 * power)
}

/// A number with as many digits as it needs.
pub(crate) fn number(value: f64) -> String {
    let digits = if value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    let text = format!("{value:.digits$}");
    if digits == 0 { text } else { text.trim_end_matches('0').trim_end_matches('.').into() }
}

pub(crate) fn line(svg: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

pub(crate) fn text(svg: &mut String, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
    let text = escape(text);
    let _ = writeln!(svg, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

/// Text as XML takes it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (least, expected) in [(0.7, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (60.0, 100.0)] {
            assert!((step(least) - expected).abs() < 1e-9, "{least}");
        }
    }

    #[test]
    fn labels_cover_neither_points_nor_each_other() {
        let area = Rect { x: 0.0, y: 0.0, width: 400.0, height: 300.0 };
        let mut taken: Vec<Rect> =
            (0..9).map(|i| Rect::around(200.0 + f64::from(i % 3) * 9.0, 150.0 + f64::from(i) * 4.0, 7.0)).collect();
        let points: Vec<Rect> = taken.clone();
        for point in points {
            let (rect, _) = place("iq4_nl", (point.x + 7.0, point.y + 7.0), &area, &taken, &[]);
            assert!(taken.iter().all(|other| rect.overlap(other) == 0.0));
            taken.push(rect);
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escape("a<b & \"c\"\u{7}"), "a&lt;b &amp; &quot;c&quot;\u{fffd}");
    }
}
