//! How figures, names and paths are written for people.

use std::fmt::{self, Write as _};
use std::path::Path;

use crate::table::{Column, Table};

/// Version of the JSON that commands print.
pub const SCHEMA: u32 = 1;

/// Formats a table without columns that give way (see [`Table`]). Columns whose heading begins with
/// `>` are aligned to the right.
#[must_use]
pub fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let column = |heading: &&str| match heading.strip_prefix('>') {
        Some(heading) => Column::right(heading),
        None => Column::left(heading),
    };
    Table::new(heading.iter().map(column)).with_rows(rows.iter().cloned()).to_string()
}

/// Text with what is invisible or steers a terminal escaped, line ends and tabs too; quotes and
/// letters of every script stay as they are.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if steers(c) { c.escape_debug().to_string() } else { c.to_string() }).collect()
}

/// Escapes a text of several lines, which may have tabs, in the same way.
#[must_use]
pub fn printable_lines(text: &str) -> String {
    let stays = |c: char| matches!(c, '\n' | '\t') || !steers(c);
    text.chars().map(|c| if stays(c) { c.to_string() } else { c.escape_debug().to_string() }).collect()
}

/// Whether a character is an instruction to a terminal: a control character, or one of the
/// invisible characters that change the order of others.
pub(crate) fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}' | '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// A path as messages show it: as it is or, if that could be misread, in quotes and escaped. Every
/// path that reaches a terminal goes through this.
#[must_use]
pub fn quoted(path: &Path) -> Quoted<'_> {
    Quoted(path)
}

/// See [`quoted`].
#[derive(Clone, Copy, Debug)]
pub struct Quoted<'a>(&'a Path);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string_lossy();
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '\'' | ',' | ';');
        if !text.is_empty() && text.chars().all(plain) && printable(&text) == text {
            return f.write_str(&text);
        }
        f.write_char('"')?;
        for c in text.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                c if steers(c) => c.escape_debug().fmt(f)?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// Formats bytes with a unit: powers of 1000, three digits.
#[must_use]
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" { format!("{n} B") } else { format!("{} {unit}", three_digits(value)) };
        }
        value /= 1000.0;
    }
    format!("{} TB", three_digits(value))
}

/// Formats a positive number with three significant digits where it has a fraction.
#[must_use]
pub fn three_digits(value: f64) -> String {
    match value {
        v if v >= 99.95 => format!("{v:.0}"),
        v if v >= 9.995 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// A number of any size with so many significant digits; those below a ten-thousandth with an
/// exponent. NaN is `not a number`.
#[must_use]
pub fn digits(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "not a number".into();
    }
    if !value.is_finite() || value == 0.0 {
        return value.to_string();
    }
    let exponent = libm::floor(libm::log10(value.abs())) as i32;
    if exponent < -4 {
        return format!("{value:.*e}", digits.saturating_sub(1));
    }
    format!("{value:.*}", (digits as i32 - 1 - exponent).max(0) as usize)
}

/// Formats a fraction in percent, three digits.
#[must_use]
pub fn percent(fraction: f64) -> String {
    format!("{} %", three_digits(100.0 * fraction))
}

/// Formats a shape: `4096 x 4096`.
#[must_use]
pub fn shape(shape: &[usize]) -> String {
    let dimensions: Vec<String> = shape.iter().map(ToString::to_string).collect();
    if dimensions.is_empty() { "scalar".into() } else { dimensions.join(" x ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_quoted_where_they_could_be_misread() {
        for (path, shown) in [
            ("models/a-b_c.safetensors", "models/a-b_c.safetensors"),
            ("naïve/模型", "naïve/模型"),
            ("my model", "\"my model\""),
            ("", "\"\""),
            ("a\u{1b}[31mb", "\"a\\u{1b}[31mb\""),
            ("a\nb", "\"a\\nb\""),
            ("a \"b\\", "\"a \\\"b\\\\\""),
            ("हिन्दी e\u{301}", "\"हिन्दी e\u{301}\""),
        ] {
            assert_eq!(quoted(Path::new(path)).to_string(), shown);
        }
    }
}
