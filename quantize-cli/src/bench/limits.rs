//! The limits of a machine: reading memory, and arithmetic without memory.

use std::time::Instant;

use kernels::Isa;
use kernels::peak::{self, Chains};
use qruntime::{Bytes, Pages};
use rayon::ThreadPool;
use rayon::prelude::*;

use super::{INTEGER, Limit, LimitSpeed, Options, Pools};
use crate::error::{Context, ErrorKind, Result};
use crate::measure::{Contestant, Timing, race, read_all};

/// Seconds that a piece of arithmetic alone lasts.
const PEAK_SECONDS: f64 = 0.002;

/// Arithmetic without memory, for some milliseconds.
pub(super) struct Peak {
    isa: Isa,
    work: fn(Isa, Chains, usize) -> u64,
    chains: Chains,
    steps: usize,
}

impl Peak {
    pub(super) fn new(isa: Isa, work: fn(Isa, Chains, usize) -> u64) -> Self {
        const TRIAL: usize = 2000;
        let seconds = |chains| {
            let attempt = |_| {
                let start = Instant::now();
                let operations = work(isa, chains, TRIAL);
                start.elapsed().as_secs_f64() / operations as f64
            };
            (0..10).map(attempt).fold(f64::INFINITY, f64::min)
        };
        let [few, many] = Chains::ALL.map(|chains| (seconds(chains), chains));
        let (seconds, chains) = if few.0 < many.0 { few } else { many };
        let steps = PEAK_SECONDS / (seconds * work(isa, chains, 1) as f64);
        Self { isa, work, chains, steps: steps.ceil() as usize }
    }

    /// Runs on every thread of a pool.
    pub(super) fn run(&self, pool: &ThreadPool) {
        pool.broadcast(|_| (self.work)(self.isa, self.chains, self.steps));
    }

    /// Returns the operations that every thread has done then.
    pub(super) fn operations(&self) -> f64 {
        (self.work)(self.isa, self.chains, 1) as f64 * self.steps as f64
    }
}

/// Reads bytes, every thread a part of its own.
pub(super) fn read(pool: &ThreadPool, bytes: &[u8]) {
    pool.install(|| bytes.par_chunks(bytes.len().div_ceil(rayon::current_num_threads()).max(1)).for_each(read_all));
}

/// Measures reading and arithmetic. `mapped` are the bytes of a mapped file.
///
/// # Errors
/// If the system refuses the memory.
pub fn limits(options: &Options, pools: &Pools, mapped: &[u8]) -> Result<Vec<Limit>> {
    let copy = |pages| Bytes::copy(mapped, pages).context(ErrorKind::Resources, "not enough memory");
    let (small, huge) = (copy(Pages::Small)?, copy(Pages::Huge)?);
    let integer = Peak::new(options.isa, peak::integer);
    let float = Peak::new(options.isa, peak::float);

    let reads = [("read, small pages", &*small), ("read, huge pages", &*huge), ("read, mapped file", mapped)];
    let peaks = [(INTEGER, "GOP/s", &integer), ("f32 arithmetic", "GFLOP/s", &float)];
    let mut contestants = vec![];
    for (_, bytes) in reads {
        contestants.extend(pools.iter().map(|(_, pool)| Contestant::new(move || read(pool, bytes))));
    }
    for (.., peak) in peaks {
        contestants.extend(pools.iter().map(|(_, pool)| Contestant::new(move || peak.run(pool))));
    }
    let timings = race(&mut contestants, options.budget);
    let mut timings = timings.chunks(pools.len());
    let mut limit = |name, unit, work: &dyn Fn(usize) -> f64| {
        let speed = |(&(threads, _), timing): (&(usize, ThreadPool), &Timing)| LimitSpeed {
            threads,
            speed: work(threads) / timing.seconds / 1e9,
            spread: timing.spread,
            rounds: timing.rounds,
        };
        Limit { name, unit, speeds: pools.iter().zip(timings.next().unwrap_or_default()).map(speed).collect() }
    };
    let mut limits = vec![];
    limits.extend(reads.map(|(name, bytes)| limit(name, "GB/s", &|_| bytes.len() as f64)));
    limits.extend(peaks.map(|(name, unit, peak)| limit(name, unit, &|threads| peak.operations() * threads as f64)));
    Ok(limits)
}
