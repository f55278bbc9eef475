//! From nothing to the first token, and the memory it takes: one contestant in a process of its
//! own.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::race::tokens;
use crate::{Arguments, CONTESTANTS};

/// Tokens of the prompt before the first token.
const PROMPT: usize = 16;

/// What it took.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Started {
    /// The format of the weights.
    pub(crate) format: String,
    /// Threads that it had.
    pub(crate) threads: usize,
    /// Who.
    pub(crate) contestant: String,
    /// Seconds until the model was open.
    pub(crate) open: f64,
    /// Seconds until the logits after a prompt of [`PROMPT`] tokens were there, opening included.
    pub(crate) first_token: f64,
    /// The most memory that the process had, the long prompt included: bytes. Pages of mapped files
    /// count.
    pub(crate) peak: u64,
    /// What it had in the end of memory of its own, mapped files not counted: bytes.
    pub(crate) own: u64,
}

/// Opens the model, and feeds it.
pub(crate) fn run(arguments: &Arguments, format: &str, threads: usize) -> Result<Started> {
    let wanted = |name: &&str| match arguments.only[0].as_str() {
        "mapped" => *name == "ours, mapped",
        only => *name == only,
    };
    let contestant = CONTESTANTS.into_iter().find(wanted).context("a contestant")?;
    let start = Instant::now();
    let mut network = arguments.open(contestant, format, threads)?;
    let open = start.elapsed().as_secs_f64();
    // Small numbers are in every vocabulary.
    network.feed(&tokens(1, PROMPT, 100))?;
    let first_token = start.elapsed().as_secs_f64();
    network.reset();
    network.feed(&tokens(1, arguments.prompt, 100))?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let (peak, own) = (kib(&status, "VmHWM:")? << 10, kib(&status, "RssAnon:")? << 10);
    Ok(Started { format: format.into(), threads, contestant: contestant.into(), open, first_token, peak, own })
}

/// A number of kibibytes from what Linux says of a process.
fn kib(status: &str, field: &str) -> Result<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(field)).context("memory in /proc/self/status")?;
    Ok(value.trim().trim_end_matches(" kB").parse()?)
}
