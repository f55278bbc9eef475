//! Progress of long work: on stderr, and only when that is a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that counts bytes.
#[derive(Clone, Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar up to `total` bytes; silent if `quiet` or if stderr is no terminal.
    #[must_use]
    pub fn new(total: u64, quiet: bool) -> Self {
        if quiet || !std::io::stderr().is_terminal() {
            return Self::silent();
        }
        let bar = ProgressBar::new(total);
        let style =
            ProgressStyle::with_template("{bar:30} {percent:>3} %  {binary_bytes_per_sec}  {eta} left  {wide_msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    /// A bar of so many steps, which [`advance`](Self::advance) counts instead of bytes.
    #[must_use]
    pub fn steps(total: usize) -> Self {
        let progress = Self::new(total as u64, false);
        let style = ProgressStyle::with_template("{bar:30} {pos} of {len}  {wide_msg}");
        progress.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        progress
    }

    /// A bar up to so many tokens or sentences; silent if `quiet` or if stderr is no terminal.
    #[must_use]
    pub fn items(total: usize, quiet: bool) -> Self {
        let progress = Self::new(total as u64, quiet);
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {per_sec}  {eta} left  {wide_msg}");
        progress.0.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        progress
    }

    /// No bar.
    #[must_use]
    pub fn silent() -> Self {
        Self(ProgressBar::hidden())
    }

    /// Counts bytes done, and names what is worked on.
    pub fn advance(&self, bytes: u64, what: &str) {
        let what = what.escape_debug().to_string();
        if self.0.message() != what {
            self.0.set_message(what);
        }
        self.0.inc(bytes);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
