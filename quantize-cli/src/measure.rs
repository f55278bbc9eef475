//! Timing that can be trusted on a shared machine: contestants take turns, and medians count.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// One of several pieces of work that are timed in turn.
pub struct Contestant<'a> {
    run: Box<dyn FnMut() + 'a>,
    times: Vec<Duration>,
}

impl<'a> Contestant<'a> {
    /// Something to time.
    pub fn new(run: impl FnMut() + 'a) -> Self {
        Self { run: Box::new(run), times: vec![] }
    }
}

impl std::fmt::Debug for Contestant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contestant({:?})", self.times)
    }
}

/// Runs every contestant once to warm up, then all of them in turn until `budget` is spent, at least three times. Returns
/// the median seconds of each.
pub fn take_turns(contestants: &mut [Contestant<'_>], budget: Duration) -> Vec<f64> {
    for contestant in contestants.iter_mut() {
        (contestant.run)();
    }
    let start = Instant::now();
    let mut rounds = 0;
    while rounds < 3 || start.elapsed() < budget {
        for contestant in contestants.iter_mut() {
            let start = Instant::now();
            (contestant.run)();
            contestant.times.push(start.elapsed());
        }
        rounds += 1;
    }
    contestants.iter_mut().map(|contestant| median(&mut contestant.times).as_secs_f64()).collect()
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Reads every byte once, in order: the limit for anything that must read them.
pub fn read_all(bytes: &[u8]) {
    let mut sums = [0u64; 16];
    let (lines, rest) = bytes.as_chunks::<128>();
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    black_box((sums, rest));
}
