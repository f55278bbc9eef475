//! Progress of long work, for whoever shows it.

use std::fmt;

/// Is told how far long work is.
pub trait Progress: fmt::Debug + Send + Sync {
    /// Counts what is done (bytes, tokens or steps), and names what is worked on.
    fn advance(&self, amount: u64, what: &str);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn advance(&self, _: u64, _: &str) {}
}
