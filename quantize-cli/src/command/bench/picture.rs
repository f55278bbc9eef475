//! The picture of `quantize bench`: the speeds of generation and of prompts against the error.

use super::{Report, threads};
use crate::bench::{Row, Speed};
use crate::plot::{self, Panel, Plot, Point};

pub(super) fn draw(report: &Report) -> String {
    let most = report.threads.iter().copied().max().unwrap_or(1);
    let mut panels = vec![];
    if report.rows.contains(&1) {
        panels.push(Panel {
            title: "Generating: one row".into(),
            axis: "tokens per second of a model of 7 billion parameters, at most".into(),
            points: points(report, 1, most, |row, speed| {
                1e9 * speed.gigabytes_per_second / (7e9 * row.bits_per_weight / 8.0)
            }),
        });
    }
    if let Some(&rows) = report.rows.iter().rev().find(|&&n| n > 1) {
        panels.push(Panel {
            title: format!("Reading a prompt: {rows} rows"),
            axis: "billion operations per second".into(),
            points: points(report, rows, most, |_, speed| speed.gigaops_per_second),
        });
    }
    let load = &report.load;
    let mut warnings = vec![];
    if load.busy {
        warnings.push("Measured while this machine did other work: speeds are too low, ratios uncertain.".to_owned());
    }
    if load.disturbed > 0 {
        warnings.push("Dashed points are above what is possible: their limits or they were disturbed.".to_owned());
    }
    if !report.from_memory {
        warnings.push("Weights may have come from caches, faster than from memory.".to_owned());
    }
    let machine = &report.machine;
    let commit = report.commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    plot::draw(&Plot {
        title: "Speed against error".into(),
        subtitle: format!("{}, {}", machine.processor, report.instruction_set),
        warnings,
        legend: [threads(most), threads(1)],
        notes: vec![
            format!("Errors of {}, as {}.", report.weights, report.size),
            format!("{}; quantize {}{commit}; {}.", report.date, report.version, machine.system),
        ],
        panels,
    })
}

/// A point for each format that has these figures.
fn points(report: &Report, rows: usize, threads: usize, of: impl Fn(&Row, &Speed) -> f64) -> Vec<Point> {
    let point = |row: &Row| {
        let (all, one) = (row.speed(rows, threads)?, row.speed(rows, 1));
        Some(Point {
            label: row.format.into(),
            error: row.relative_rms,
            speed: of(row, all),
            spread: all.spread,
            single: one.filter(|_| threads > 1).map(|one| of(row, one)),
            disturbed: all.disturbed || one.is_some_and(|one| one.disturbed),
        })
    };
    report.formats.iter().filter_map(point).collect()
}
