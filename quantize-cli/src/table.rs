//! Tables and paragraphs for a terminal, no line wider than it.
//!
//! A pipe or a file gets every column at its full width, one line for each row, so that `grep` and
//! `awk` see whole names. In a terminal a table that is too wide gives way step by step: long names
//! lose their middle, long texts wrap inside their column, columns that matter less are left out
//! (and named below the table).

use std::fmt;
#[cfg(feature = "cli")]
use std::io::{self, IsTerminal};

#[cfg(feature = "cli")]
use terminal_size::{Width, terminal_size_of};

/// The width of a terminal that does not say its own.
#[cfg(feature = "cli")]
const USUAL_WIDTH: usize = 80;

/// Blanks between two columns.
const GAP: usize = 2;

/// Down to this width, shortened names are still told apart easily; columns are left out before
/// they become narrower.
const COMFORTABLE_NAME: usize = 30;

/// The same for texts that wrap.
const COMFORTABLE_TEXT: usize = 20;

/// No column is made narrower than this.
const NARROWEST: usize = 12;

/// The width of the terminal that stdout is, in columns; `None` if stdout is a pipe or a file.
#[cfg(feature = "cli")]
#[must_use]
pub fn terminal_width() -> Option<usize> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let said = terminal_size_of(&stdout).map(|(Width(width), _)| usize::from(width));
    Some(said.filter(|&width| width > 0).unwrap_or(USUAL_WIDTH))
}

/// The width of the terminal that stdout is: without the feature `cli` none is asked.
#[cfg(not(feature = "cli"))]
#[must_use]
pub fn terminal_width() -> Option<usize> {
    None
}

/// How a column gives way in a terminal that is too narrow for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Narrow {
    /// It stays as wide as its widest cell.
    Never,
    /// Cells lose their middle.
    Shorten,
    /// Cells continue on further lines.
    Wrap,
    /// The column is left out.
    Drop,
}

/// A column of a [`Table`]: its heading, its alignment, and how it gives way.
#[derive(Clone, Debug)]
pub struct Column {
    heading: String,
    right: bool,
    narrow: Narrow,
}

impl Column {
    /// Makes a column aligned to the left. A heading may have several lines.
    #[must_use]
    pub fn left(heading: &str) -> Self {
        Self { heading: heading.into(), right: false, narrow: Narrow::Never }
    }

    /// Makes a column aligned to the right, for figures.
    #[must_use]
    pub fn right(heading: &str) -> Self {
        Self { right: true, ..Self::left(heading) }
    }

    /// Cuts the middle out of long cells where space is short: for names.
    #[must_use]
    pub fn shortened(self) -> Self {
        Self { narrow: Narrow::Shorten, ..self }
    }

    /// Continues long cells on further lines where space is short: for prose.
    #[must_use]
    pub fn wrapped(self) -> Self {
        Self { narrow: Narrow::Wrap, ..self }
    }

    /// Leaves the column out where space is short; of several the rightmost goes first.
    #[must_use]
    pub fn optional(self) -> Self {
        Self { narrow: Narrow::Drop, ..self }
    }
}

/// Rows of cells under headings. Displayed, it fits the terminal that stdout is.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table of these columns, without rows.
    #[must_use]
    pub fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self { columns: columns.into_iter().collect(), rows: vec![] }
    }

    /// Adds a row; it needs one cell for each column, and what is missing is empty.
    pub fn push(&mut self, mut row: Vec<String>) {
        row.resize(self.columns.len(), String::new());
        self.rows.push(row);
    }

    /// Returns the same table with more rows.
    #[must_use]
    pub fn with_rows(mut self, rows: impl IntoIterator<Item = Vec<String>>) -> Self {
        rows.into_iter().for_each(|row| self.push(row));
        self
    }

    /// The table as text, each line ended. With a `width` no line has more characters than that,
    /// unless the columns that cannot give way are wider together; without one, every cell is whole
    /// and on one line.
    #[must_use]
    pub fn fit(&self, width: Option<usize>) -> String {
        let widths = self.widths(width);
        let mut text = String::new();
        let headings: Vec<Vec<&str>> = self.columns.iter().map(|column| column.heading.lines().collect()).collect();
        let lines = headings.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..lines {
            // Headings stand on the bottom line.
            self.push_line(&mut text, &widths, |column| {
                let heading = &headings[column];
                (line + heading.len()).checked_sub(lines).map_or("", |at| heading[at]).to_owned()
            });
        }
        for row in &self.rows {
            let cells: Vec<Vec<String>> = (0..row.len()).map(|i| self.cell(i, &row[i], widths[i])).collect();
            for line in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
                self.push_line(&mut text, &widths, |column| cells[column].get(line).cloned().unwrap_or_default());
            }
        }
        let dropped = self.columns.iter().zip(&widths).filter(|(_, width)| width.is_none());
        let dropped: Vec<String> = dropped.map(|(column, _)| column.heading.replace('\n', " ")).collect();
        if !dropped.is_empty() {
            let note = format!("(a wider terminal or --json also shows: {})", dropped.join(", "));
            text.push_str(&paragraph("", &note, width));
        }
        text
    }

    /// A cell as the lines that it takes.
    fn cell(&self, column: usize, text: &str, width: Option<usize>) -> Vec<String> {
        let Some(width) = width else { return vec![] };
        match self.columns[column].narrow {
            Narrow::Shorten => vec![shorten(text, width)],
            Narrow::Wrap => wrap(text, width),
            Narrow::Never | Narrow::Drop => vec![text.to_owned()],
        }
    }

    fn push_line(&self, text: &mut String, widths: &[Option<usize>], cell: impl Fn(usize) -> String) {
        let mut line = String::new();
        for (i, (column, width)) in self.columns.iter().zip(widths).enumerate() {
            let Some(width) = *width else { continue };
            let cell = cell(i);
            let cell = if column.right { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
            line.push_str(&cell);
            line.push_str(&" ".repeat(GAP));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }

    /// The width of every column, `None` for one that is left out.
    fn widths(&self, limit: Option<usize>) -> Vec<Option<usize>> {
        let natural = |(i, column): (usize, &Column)| {
            let cells = self.rows.iter().map(|row| row[i].as_str()).chain(column.heading.lines());
            Some(cells.map(|cell| cell.chars().count()).max().unwrap_or(0))
        };
        let mut widths: Vec<Option<usize>> = self.columns.iter().enumerate().map(natural).collect();
        let Some(limit) = limit else { return widths };
        loop {
            let mut fitted = widths.clone();
            self.narrow(&mut fitted, Narrow::Shorten, COMFORTABLE_NAME, limit);
            self.narrow(&mut fitted, Narrow::Wrap, COMFORTABLE_TEXT, limit);
            if total(&fitted) <= limit {
                return fitted;
            }
            let droppable = |&i: &usize| self.columns[i].narrow == Narrow::Drop && widths[i].is_some();
            match (0..widths.len()).rev().find(droppable) {
                Some(column) => widths[column] = None,
                None => {
                    self.narrow(&mut fitted, Narrow::Shorten, NARROWEST, limit);
                    self.narrow(&mut fitted, Narrow::Wrap, NARROWEST, limit);
                    return fitted;
                }
            }
        }
    }

    /// Takes from columns of a kind what is over the limit, down to a width that is left to each.
    fn narrow(&self, widths: &mut [Option<usize>], kind: Narrow, least: usize, limit: usize) {
        for i in (0..widths.len()).filter(|&i| self.columns[i].narrow == kind) {
            let over = total(widths).saturating_sub(limit);
            let heading = self.columns[i].heading.lines().map(|line| line.chars().count()).max().unwrap_or(0);
            if let Some(width) = &mut widths[i] {
                *width -= over.min(width.saturating_sub(least.max(heading)));
            }
        }
    }
}

/// The characters of a line.
fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten();
    shown.clone().sum::<usize>() + GAP * shown.count().saturating_sub(1)
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.fit(terminal_width()))
    }
}

/// Shortens a text to at most `width` characters: the middle gives way to an ellipsis.
#[must_use]
pub fn shorten(text: &str, width: usize) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= width {
        return text.to_owned();
    }
    let kept = width.saturating_sub(1);
    let (head, tail) = (kept / 2, kept - kept / 2);
    let head = characters[..head].iter();
    head.chain(&['…']).chain(&characters[characters.len() - tail..]).collect()
}

/// A text in lines of at most `width` characters, broken at blanks; words longer than a line are
/// broken inside. A text that fits is left as it is.
#[must_use]
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines: Vec<String> = vec![];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => {
                let characters: Vec<char> = word.chars().collect();
                lines.extend(characters.chunks(width).map(|part| part.iter().collect::<String>()));
                if characters.is_empty() {
                    lines.push(String::new());
                }
            }
        }
    }
    lines
}

/// A text behind a label, its further lines below its first: for the facts above a table. Without a
/// width it is one line.
#[must_use]
pub fn paragraph(label: &str, text: &str, width: Option<usize>) -> String {
    let indent = label.chars().count();
    let lines = match width {
        Some(width) => wrap(text, width.saturating_sub(indent).max(NARROWEST)),
        None => vec![text.to_owned()],
    };
    let blank = " ".repeat(indent);
    let line = |(i, line): (usize, &String)| {
        let line = format!("{}{line}", if i == 0 { label } else { &blank });
        line.trim_end().to_owned() + "\n"
    };
    lines.iter().enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<String> {
        cells.iter().map(ToString::to_string).collect()
    }

    fn table() -> Table {
        let columns = [
            Column::left("tensor").shortened(),
            Column::left("shape").optional(),
            Column::right("size"),
            Column::left("because").wrapped(),
        ];
        Table::new(columns).with_rows([
            row(&["model.layers.10.mlp.experts.127.down_proj.weight", "4096 x 14336", "33.0 MB", "matrix"]),
            row(&["lm_head.weight", "151936 x 4096", "661 MB", "matrix; smaller than q4_k with rows of 384"]),
        ])
    }

    #[test]
    fn a_pipe_gets_whole_cells() {
        let expected = "\
tensor                                            shape             size  because
model.layers.10.mlp.experts.127.down_proj.weight  4096 x 14336   33.0 MB  matrix
lm_head.weight                                    151936 x 4096   661 MB  matrix; smaller than q4_k with rows of 384
";
        assert_eq!(table().fit(None), expected);
        assert_eq!(table().fit(Some(120)), expected);
    }

    #[test]
    fn names_lose_their_middle_then_texts_wrap() {
        let found = table().fit(Some(105));
        assert!(found.contains("because\nmodel.layers.10.ml…7.down_proj.weight  4096"), "{found}");
        assert!(found.lines().all(|line| line.chars().count() <= 105) && found.lines().count() == 3, "{found}");
        let found = table().fit(Some(80));
        assert!(found.lines().all(|line| line.chars().count() <= 80), "{found}");
        assert!(found.contains("661 MB  matrix; smaller than\n"), "{found}");
    }

    #[test]
    fn columns_that_matter_less_are_left_out_and_named() {
        let found = table().fit(Some(64));
        assert!(!found.contains("4096 x 14336"), "{found}");
        assert!(found.ends_with("(a wider terminal or --json also shows: shape)\n"), "{found}");
        for width in 44..140 {
            let found = table().fit(Some(width));
            assert!(found.lines().all(|line| line.chars().count() <= width), "{width}\n{found}");
            assert!(found.contains("33.0 MB") && found.contains("661 MB"), "{found}");
        }
    }

    #[test]
    fn headings_of_several_lines_stand_on_the_bottom() {
        let table = Table::new([Column::left("format"), Column::right("same\ntoken")]);
        let table = table.with_rows([row(&["q8_0", "98.7 %"]), row(&["q4_0"])]);
        assert_eq!(table.fit(Some(80)), "          same\nformat   token\nq8_0    98.7 %\nq4_0\n");
    }

    #[test]
    fn a_name_is_shortened_in_its_middle() {
        assert_eq!(shorten("model.norm.weight", 17), "model.norm.weight");
        assert_eq!(shorten("model.norm.weight", 12), "model…weight");
        assert_eq!(shorten("äöüäöü", 4), "ä…öü");
        assert_eq!((shorten("ab", 1), shorten("ab", 0)), ("…".into(), "…".into()));
    }

    #[test]
    fn a_text_wraps_at_blanks() {
        assert_eq!(wrap("one two  three", 7), ["one two", " three"]);
        assert_eq!(wrap("abcdefghij k", 4), ["abcd", "efgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(paragraph("text  ", "one two three", Some(18)), "text  one two\n      three\n");
        assert_eq!(paragraph("text  ", "one two three", None), "text  one two three\n");
    }
}
