//! Markdown.

use std::collections::BTreeSet;
use std::io::{Result, Write};

use crate::contest::Measured;
use crate::elsewhere::{FIGURES, SOURCE};

/// A table for every size and number of threads, and the figures from elsewhere.
pub(crate) fn write(out: &mut dyn Write, measured: &[Measured]) -> Result<()> {
    let parts: BTreeSet<_> = measured.iter().map(|m| (m.outputs, m.inputs, m.threads)).collect();
    for part in parts {
        let (outputs, inputs, threads) = part;
        writeln!(out, "### {outputs} x {inputs}, {threads} thread{}\n", if threads == 1 { "" } else { "s" })?;
        let of_part = || measured.iter().filter(|m| (m.outputs, m.inputs, m.threads) == part);
        summary(out, &of_part().collect::<Vec<_>>())?;
        writeln!(
            out,
            "| format | rows | contestant | by processor time | by the wall | ours is | product error | of it arithmetic |"
        )?;
        writeln!(out, "|---|---|---|---|---|---|---|---|")?;
        for m in of_part() {
            let beside = of_part().filter(|other| other.format == m.format && other.rows == m.rows);
            let (ratio, bold) = ratio(m, beside);
            let processor = if threads == 1 { speed(m, m.cpu) } else { String::new() };
            writeln!(
                out,
                "| `{}` | {} | {bold}{}{bold} | {processor} | {} | {ratio} | {} | {} |",
                m.format,
                m.rows,
                m.contestant,
                speed(m, m.wall),
                percent(m.error),
                percent(m.arithmetic_error),
            )?;
        }
        writeln!(out)?;
    }
    writeln!(out, "### Not measured here\n\n{SOURCE}.\n")?;
    writeln!(out, "| format | 1 row | 512 rows |\n|---|---|---|")?;
    for figure in FIGURES {
        let ((one, gb), (many, gop)) = (figure.one_row, figure.rows_512);
        writeln!(out, "| `{}` | {gb:.1} GB/s (`{one}`) | {gop:.0} GOP/s (`{many}`) |", figure.format)?;
    }
    Ok(())
}

/// Bytes of weights where those must be read for one row, operations (two for a multiply-add) where
/// there are more.
fn speed(m: &Measured, seconds: f64) -> String {
    if m.rows == 1 {
        format!("{:.1} GB/s", m.bytes as f64 / seconds / 1e9)
    } else {
        format!("{:.0} GOP/s", 2.0 * (m.outputs * m.inputs * m.rows) as f64 / seconds / 1e9)
    }
}

/// Nothing where there is no product.
fn percent(error: Option<f64>) -> String {
    match error {
        Some(error) if error < 1e-4 => "< 0.01 %".into(),
        Some(error) => format!("{:.2} %", 100.0 * error),
        None => String::new(),
    }
}

/// Ours beside the fastest of the others, a line for each format.
fn summary(out: &mut dyn Write, measured: &[&Measured]) -> Result<()> {
    let rows: BTreeSet<_> = measured.iter().map(|m| m.rows).collect();
    let heading: Vec<_> = rows.iter().map(|&rows| format!("{rows} row{}", if rows == 1 { "" } else { "s" })).collect();
    writeln!(out, "| format | ours, {} | product error, theirs |", heading.join(" | "))?;
    writeln!(out, "|---|{}---|", "---|".repeat(rows.len()))?;
    for ours in measured.iter().filter(|m| m.ours && Some(&m.rows) == rows.first()) {
        let mut cells = vec![format!("`{}`", ours.format)];
        let mut errors = (ours.error, None);
        for rows in &rows {
            let group = || measured.iter().copied().filter(|m| m.format == ours.format && m.rows == *rows);
            let Some(ours) = group().find(|m| m.ours) else { continue };
            let mut cell = speed(ours, time(ours));
            if let Some(best) = fastest_peer(group()) {
                cell += &format!(", {:.2} x {}", time(best) / time(ours), best.contestant);
                errors = (ours.error, best.error);
            }
            cells.push(cell);
        }
        cells.push(format!("{}, {}", percent(errors.0), percent(errors.1)));
        writeln!(out, "| {} |", cells.join(" | "))?;
    }
    writeln!(out)
}

/// One thread's own time is what a shared machine leaves nearly untouched.
fn time(m: &Measured) -> f64 {
    if m.threads == 1 { m.cpu } else { m.wall }
}

/// Of those that multiply: a plain read has no error.
fn fastest_peer<'a>(group: impl Iterator<Item = &'a Measured>) -> Option<&'a Measured> {
    group.filter(|m| !m.ours && m.error.is_some()).min_by(|a, b| time(a).total_cmp(&time(b)))
}

/// How many times as fast ours is: as the contestant, and ours as the fastest of the others. And
/// how to print ours.
fn ratio<'a>(m: &Measured, group: impl Iterator<Item = &'a Measured> + Clone) -> (String, &'static str) {
    let Some(ours) = group.clone().find(|m| m.ours) else { return (String::new(), "") };
    if !m.ours {
        return (format!("{:.2} x", time(m) / time(ours)), "");
    }
    let best = fastest_peer(group);
    (best.map_or(String::new(), |best| format!("**{:.2} x the fastest**", time(best) / time(ours))), "**")
}
