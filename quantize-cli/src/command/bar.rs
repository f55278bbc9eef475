//! A progress bar: on stderr, and only when that is a terminal.
//!
//! Figures come first and the bar takes what is left of the line, so that a narrow terminal cuts
//! the bar and never a figure.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use terminal_size::{Width, terminal_size_of};

use crate::progress::Progress;
use crate::report::three_digits;
use crate::table::shorten;

/// Columns for what is worked on, so that the bar behind it does not jump.
const MESSAGE: usize = 30;

/// How the line of each kind of work looks.
const BYTES: &str = "{percent:>3} %  {msg:30}  {binary_bytes_per_sec}  {eta} left  {wide_bar}";
const STEPS: &str = "{pos} of {len}  {msg:30}  {wide_bar}";
const ITEMS: &str = "{percent:>3} %  {msg:30}  {rate}  {eta} left  {wide_bar}";

/// A terminal of fewer columns gets [`NARROW`].
const NARROWEST: u16 = 72;

/// How the line of any work looks where there is little room.
const NARROW: &str = "{percent:>3} %  {wide_msg}";

/// A bar that counts bytes.
#[derive(Clone, Debug)]
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Makes a bar up to `total` bytes; silent if `quiet` or if stderr is no terminal.
    #[must_use]
    pub(super) fn new(total: u64, quiet: bool) -> Self {
        Self::styled(total, quiet, BYTES)
    }

    /// Makes a bar of `total` steps, which [`advance`](Self::advance) counts instead of bytes.
    #[must_use]
    pub(super) fn steps(total: usize) -> Self {
        Self::styled(total as u64, false, STEPS)
    }

    /// Makes a bar up to `total` tokens or sentences; silent if `quiet` or if stderr is no
    /// terminal.
    #[must_use]
    pub(super) fn items(total: usize, quiet: bool) -> Self {
        Self::styled(total as u64, quiet, ITEMS)
    }

    fn styled(total: u64, quiet: bool, template: &str) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(total);
        let width = terminal_size_of(std::io::stderr()).map_or(NARROWEST, |(Width(width), _)| width);
        bar.set_style(style(template, width));
        Self(bar)
    }

    /// Removes the bar.
    pub(super) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Progress for Bar {
    fn advance(&self, amount: u64, what: &str) {
        let what = shorten(&what.escape_debug().to_string(), MESSAGE);
        if self.0.message() != what {
            self.0.set_message(what);
        }
        self.0.inc(amount);
    }
}

/// The look of a bar in a terminal of this width; 0 stands for one that does not say.
fn style(template: &str, width: u16) -> ProgressStyle {
    let template = if (1..NARROWEST).contains(&width) { NARROW } else { template };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        let _ = write!(out, "{}/s", three_digits(state.per_sec()));
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::{ProgressDrawTarget, TermLike};

    use super::*;

    /// A terminal that keeps what is written to it.
    #[derive(Clone, Debug)]
    struct Paper(u16, Arc<Mutex<String>>);

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            self.0
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.1.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            self.1.lock().unwrap().clear();
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a terminal of this width shows.
    fn shown(template: &str, width: u16, message: &str) -> String {
        let paper = Paper(width, Arc::default());
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let bar = ProgressBar::with_draw_target(Some(1_000_000), target);
        bar.set_style(style(template, width));
        let progress = Bar(bar);
        progress.advance(500_000, message);
        progress.0.force_draw();
        let shown = paper.1.lock().unwrap().clone();
        assert!(shown.trim_end().chars().count() <= width.into(), "{shown:?}");
        shown
    }

    #[test]
    fn figures_are_whole_in_80_columns() {
        let line = shown(ITEMS, 80, "KL divergence so far 0.00123");
        assert!(line.starts_with(" 50 %  KL divergence so far 0.00123 "), "{line}");
        assert!(line.contains("/s  ") && line.contains(" left  "), "{line}");
        let line = shown(ITEMS, 40, "KL divergence so far 0.00123");
        assert!(line.starts_with(" 50 %  KL divergence so far 0.00123"), "{line}");
        let line = shown(BYTES, 80, "model.layers.10.mlp.experts.127.down_proj.weight");
        assert!(line.starts_with(" 50 %  model.layers.1…own_proj.weight  "), "{line}");
        assert!(line.contains(" left  "), "{line}");
        let line = shown(STEPS, 80, "converting to q4_k");
        assert!(line.starts_with("500000 of 1000000  converting to q4_k "), "{line}");
    }
}
