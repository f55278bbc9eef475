//! Timing that can be trusted on a shared machine: contestants take turns, and medians count.

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::{Isa, peak};

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

/// The time that a contestant took.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Median of the rounds.
    pub seconds: f64,
    /// Half the rounds lie within an interval of twice this fraction of the median: between the
    /// quartiles.
    pub spread: f64,
    /// How many times it ran.
    pub rounds: usize,
}

/// Runs every contestant once to warm up, then all of them in turn until `budget` is spent, at
/// least three times. Returns the median seconds of each.
pub fn take_turns(contestants: &mut [Contestant<'_>], budget: Duration) -> Vec<f64> {
    race(contestants, budget).into_iter().map(|timing| timing.seconds).collect()
}

/// Times contestants as [`take_turns`] does, and returns how far apart the rounds were.
pub fn race(contestants: &mut [Contestant<'_>], budget: Duration) -> Vec<Timing> {
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
    contestants.iter_mut().map(|contestant| timing(&mut contestant.times)).collect()
}

fn timing(times: &mut [Duration]) -> Timing {
    times.sort_unstable();
    let rounds = times.len();
    let [low, median, high] = [rounds / 4, rounds / 2, rounds - 1 - rounds / 4].map(|i| times[i].as_secs_f64());
    Timing { seconds: median, spread: (high - low) / (2.0 * median), rounds }
}

/// Reads every byte once, in order, with the widest loads that this processor has: the limit for
/// anything that must read them.
pub fn read_all(bytes: &[u8]) {
    match Isa::best() {
        Isa::SCALAR => read_words(bytes),
        isa => peak::read(isa, bytes),
    }
}

fn read_words(bytes: &[u8]) {
    let mut sums = [0u64; 16];
    let (lines, rest) = bytes.as_chunks::<128>();
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    black_box((sums, rest));
}
