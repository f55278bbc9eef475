//! The answer of `quantize bench` for people, no wider than their terminal.

use super::{Report, threads};
use crate::bench::{Cell, Comparison, LimitSpeed, Row, Speed};
use crate::report::{bytes, percent, three_digits};
use crate::table::{Column, Table, paragraph, terminal_width};

/// Characters that a table of products takes before its figures, and for the figures of one number
/// of rows.
const BEFORE: usize = 22;
const FIGURES: usize = 14;

pub(super) fn to_text(report: &Report) -> String {
    fit(report, terminal_width())
}

/// The answer in lines of at most `width` characters, or without a width in lines as long as they
/// are.
pub(super) fn fit(report: &Report, width: Option<usize>) -> String {
    let mut text = header(report, width);
    text.push_str(&limits_table(report).fit(width));
    for &n in &report.threads {
        for rows in report.rows.chunks(at_once(width, BEFORE, FIGURES)) {
            text.push_str(&format!("\n{}, {}\n", report.size, threads(n)));
            text.push_str(&products_table(report, rows, n, width));
        }
    }
    text.push('\n');
    text.push_str(&paragraph("error    ", "relative RMS error of the weights", width));
    text.push_str(&paragraph("of read  ", "beside reading as many bytes, in the same rounds", width));
    let of_peak = "beside arithmetic without memory, in the same rounds: with integers; for f32 (ndarray) and \
                   activations as they are with f32";
    text.push_str(&paragraph("of peak  ", of_peak, width));
    if report.load.disturbed > 0 {
        let busy = "more than is possible: other work disturbed the limit, which is too low";
        text.push_str(&paragraph("busy     ", busy, width));
    }
    text.push_str(&models_table(report, width));
    text.push_str(&report.comparison.as_ref().map(|found| comparison(report, found, width)).unwrap_or_default());
    text
}

/// How many numbers of rows have room beside each other, whose figures are so wide each.
fn at_once(width: Option<usize>, before: usize, figures: usize) -> usize {
    width.map_or(usize::MAX, |width| (width.saturating_sub(before) / figures).max(1))
}

/// A heading that in a terminal breaks at the bars; a pipe gets it in one line.
fn heading(text: &str, width: Option<usize>) -> Column {
    match width {
        Some(_) => Column::right(&text.split('|').map(str::trim_end).collect::<Vec<_>>().join("\n")),
        None => Column::right(&text.replace('|', "")),
    }
}

fn header(report: &Report, width: Option<usize>) -> String {
    let machine = &report.machine;
    let memory = machine.memory_bytes.map(|size| format!(", {} of memory", bytes(size))).unwrap_or_default();
    let pages = match (report.pages, &machine.huge_pages) {
        ("huge", _) => "huge, where the system has them".into(),
        (_, Some(mode)) => format!("as the system gives them (transparent huge pages: {mode})"),
        _ => "as the system gives them".into(),
    };
    let rounds = || report.formats.iter().flat_map(|row| &row.speeds).map(|speed| speed.rounds);
    let (least, most) = (rounds().min().unwrap_or(0), rounds().max().unwrap_or(0));
    let kernel = machine.kernel.as_ref().map(|kernel| format!(", {kernel}")).unwrap_or_default();
    let commit = report.commit.map(|commit| format!(" ({commit})")).unwrap_or_default();
    let load = &report.load;
    let mut facts = vec![
        ("date", report.date.clone()),
        ("program", format!("quantize {}{commit}", report.version)),
        ("system", format!("{}{kernel}", machine.system)),
        (
            "processor",
            format!(
                "{}, {}, {} of last-level cache{memory}",
                machine.processor,
                threads(machine.cores),
                bytes(machine.cache_bytes)
            ),
        ),
        ("instruction set", report.instruction_set.into()),
        ("pages", pages),
        ("weights", report.weights.clone()),
        ("activations", if report.activations == "exact" { "as they are, f32" } else { "rounded to 8 bits" }.into()),
        (
            "rounds",
            format!(
                "{least} to {most}, contestants in turns. Figures are medians; the quartiles lie within {} of them \
                 for half of the figures, within {} for nine in ten",
                percent(load.spread),
                percent(load.spread_nine_in_ten)
            ),
        ),
    ];
    if load.busy {
        let reasons = load.reasons.join("; ");
        let busy = format!("this machine did other work meanwhile: figures are too low, ratios uncertain. {reasons}");
        facts.push(("BUSY", busy));
    }
    if !report.from_memory {
        let caches = format!(
            "only {} pass through the caches between two turns: weights may have come from them, faster than from memory",
            bytes(report.cold_bytes as u64)
        );
        facts.push(("CACHES", caches));
    }
    let facts = facts.iter().map(|(name, value)| paragraph(&format!("{name:17}"), value, width));
    facts.chain(["\n".to_owned()]).collect()
}

fn limits_table(report: &Report) -> Table {
    let columns = [Column::left("limit"), Column::left("")];
    let table = Table::new(columns.into_iter().chain(report.threads.iter().map(|&n| Column::right(&threads(n)))));
    let rows = report.limits.iter().map(|limit| {
        let speeds = limit.speeds.iter().map(|LimitSpeed { speed, .. }| three_digits(*speed));
        [limit.name.to_owned(), limit.unit.to_owned()].into_iter().chain(speeds).collect()
    });
    table.with_rows(rows)
}

fn products_table(report: &Report, rows: &[usize], threads: usize, width: Option<usize>) -> String {
    let mut columns = vec![Column::left("format"), heading("bits/|weight", width), Column::right("error")];
    columns.extend(rows.iter().flat_map(|&n| match n {
        1 => [heading("1 |row |GB/s", width), heading("of |read", width)],
        n => [heading(&format!("{n} |rows |GOP/s"), width), heading("of |peak", width)],
    }));
    let cells = |row: &Row| {
        let error = if row.relative_rms == 0.0 { "-".into() } else { percent(row.relative_rms) };
        let mut cells = vec![row.format.to_owned(), format!("{:.2}", row.bits_per_weight), error];
        for speed in rows.iter().filter_map(|&n| row.speed(n, threads)) {
            let Speed { gigabytes_per_second, gigaops_per_second, of_limit, disturbed, .. } = *speed;
            cells.push(three_digits(if speed.rows == 1 { gigabytes_per_second } else { gigaops_per_second }));
            cells.push(if disturbed { "busy".into() } else { format!("{:.0} %", 100.0 * of_limit) });
        }
        cells
    };
    Table::new(columns).with_rows(report.formats.iter().map(cells)).fit(width)
}

fn models_table(report: &Report, width: Option<usize>) -> String {
    let Some(first) = report.formats.first().filter(|row| !row.models.is_empty()) else { return String::new() };
    let mut columns = vec![Column::left("format")];
    columns.extend(first.models.iter().flat_map(|model| {
        let size = heading(&format!("{:.0}B |size", model.parameters / 1e9), width);
        [size, Column::right("token/s"), Column::right("prompt").optional()]
    }));
    let mut missing = false;
    let mut rows = vec![];
    for row in &report.formats {
        let mut cells = vec![row.format.to_owned()];
        for model in &row.models {
            let mark = if model.fits == Some(false) { "*" } else { "" };
            missing |= !mark.is_empty();
            cells.push(format!("{}{mark}", bytes(model.bytes as u64)));
            cells.push(three_digits(model.tokens_per_second));
            cells.push(model.prompt_tokens_per_second.map_or_else(|| "-".into(), three_digits));
        }
        rows.push(cells);
    }
    let n = report.threads.iter().copied().max().unwrap_or(1);
    let bounds = format!(
        "Models of 1, 7 and 70 billion parameters, {}: upper bounds in tokens per second, from the speeds above (a \
         token reads all weights once; the rest of the work, and attention, come on top)",
        threads(n)
    );
    let mut text = format!("\n{}{}", paragraph("", &bounds, width), Table::new(columns).with_rows(rows).fit(width));
    if missing {
        let note = "* larger than this machine's memory: it would not run at that speed here";
        text.push_str(&paragraph("", note, width));
    }
    text
}

/// The ratios to an earlier run.
fn comparison(report: &Report, found: &Comparison, width: Option<usize>) -> String {
    let from: Vec<&str> =
        [&found.version, &found.commit, &found.date].into_iter().flatten().map(String::as_str).collect();
    let from = if from.is_empty() { "an earlier version".into() } else { from.join(", ") };
    let title = format!("Speeds over those of the earlier run ({from}); ~ is within the spread of both");
    let mut text = format!("\n{}", paragraph("", &title, width));
    for warning in &found.warnings {
        text.push_str(&paragraph("  but ", warning, width));
    }
    let find = |cells: &[Cell], name: &str, rows: Option<usize>, threads: usize| {
        let cell = cells.iter().find(|cell| (cell.name.as_str(), cell.rows, cell.threads) == (name, rows, threads));
        let ratio = |cell: &Cell| format!("{:.2}{}", cell.ratio, if cell.within_spread { "~" } else { " " });
        cell.map_or_else(|| "- ".into(), ratio)
    };
    let mut columns = vec![Column::left("limit")];
    columns.extend(report.threads.iter().map(|&n| Column::right(&threads(n))));
    let limits = report.limits.iter().map(|limit| {
        let cells = report.threads.iter().map(|&n| find(&found.limits, limit.name, None, n));
        std::iter::once(limit.name.to_owned()).chain(cells).collect()
    });
    text.push_str(&Table::new(columns).with_rows(limits).fit(width));
    for &n in &report.threads {
        for rows in report.rows.chunks(at_once(width, "format".len(), "  4096 rows".len())) {
            let mut columns = vec![Column::left("format")];
            columns.extend(
                rows.iter().map(|&n| Column::right(&if n == 1 { "1 row".into() } else { format!("{n} rows") })),
            );
            let formats = report.formats.iter().map(|row| {
                let cells = rows.iter().map(|&rows| find(&found.formats, row.format, Some(rows), n));
                std::iter::once(row.format.to_owned()).chain(cells).collect()
            });
            text.push_str(&format!("\n{}\n{}", threads(n), Table::new(columns).with_rows(formats).fit(width)));
        }
    }
    text
}
