//! Tokens per second: everybody in turn, in one process.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cpu_time::ProcessTime;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use crate::ours::Ours;
use crate::{Arguments, CONTESTANTS, Network};

/// Before each turn, so that the threads of the one before fall asleep.
const PAUSE: Duration = Duration::from_millis(200);

/// Sequences on which logits are compared, and their length.
const SAMPLES: (usize, usize) = (8, 16);

/// Relative RMS error of logits that no right network exceeds: a random model of 22 layers with
/// 4-bit weights has some tenths.
const WRONG: f64 = 0.8;

/// What one contestant did.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Raced {
    /// The format of the weights.
    pub(crate) format: String,
    /// Threads that everybody had.
    pub(crate) threads: usize,
    /// Who.
    pub(crate) contestant: String,
    /// Tokens of a prompt in a second; median.
    pub(crate) prompt: f64,
    /// Tokens one after the other in a second; median.
    pub(crate) generate: f64,
    /// Rounds that the medians are of.
    pub(crate) rounds: usize,
    /// Relative RMS error of logits beside those of the unquantized model.
    pub(crate) error: f64,
}

/// Lets everybody take turns.
pub(crate) fn run(arguments: &Arguments, format: &str, threads: usize) -> Result<Vec<Raced>> {
    let mut racers = Vec::new();
    for contestant in CONTESTANTS {
        if contestant != "ours, mapped" && arguments.takes_part(contestant, format) {
            let network = arguments.open(contestant, format, threads)?;
            racers.push(Racer { contestant, network, prompt: Vec::new(), generate: Vec::new() });
        }
    }
    let errors = errors(arguments, &mut racers)?;
    let vocabulary = racers.first_mut().context("nobody takes part")?.logits(&[1])?.len() as u32;
    let prompt = tokens(1, arguments.prompt, vocabulary);
    let generated = tokens(2, arguments.generate, vocabulary);
    for round in 0..arguments.rounds {
        for turn in 0..racers.len() {
            let count = racers.len();
            let racer = &mut racers[(turn + round) % count];
            std::thread::sleep(PAUSE);
            racer.network.reset();
            let time = timed(threads, || racer.network.feed(&prompt).map(drop))?;
            racer.prompt.push(prompt.len() as f64 / time);
            std::thread::sleep(PAUSE);
            racer.logits(&[1])?;
            let time = timed(threads, || generated.iter().try_for_each(|&t| racer.network.feed(&[t]).map(drop)))?;
            racer.generate.push(generated.len() as f64 / time);
        }
    }
    let result = |(racer, error): (Racer, f64)| Raced {
        format: format.into(),
        threads,
        contestant: racer.contestant.into(),
        prompt: median(racer.prompt),
        generate: median(racer.generate),
        rounds: arguments.rounds,
        error,
    };
    Ok(racers.into_iter().zip(errors).map(result).collect())
}

/// A contestant, and its tokens per second in every round.
struct Racer {
    contestant: &'static str,
    network: Box<dyn Network>,
    prompt: Vec<f64>,
    generate: Vec<f64>,
}

impl Racer {
    /// After these tokens and no others.
    fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.network.reset();
        self.network.feed(tokens)
    }
}

/// The same for everybody.
pub(crate) fn tokens(seed: u64, count: usize, vocabulary: u32) -> Vec<u32> {
    let mut random = Pcg64::seed_from_u64(seed);
    (0..count).map(|_| random.random_range(0..vocabulary)).collect()
}

/// Seconds: of processor time with one thread, in which strangers on the machine do not count, of
/// the clock on the wall with more.
fn timed(threads: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    work()?;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu.elapsed().as_secs_f64());
    ensure!(cpu < 1.1 * wall * threads as f64, "more than {threads} threads were at work");
    Ok(if threads == 1 { cpu } else { wall })
}

/// How far everybody's logits are from those of the unquantized weights, which our exact layers
/// compute.
fn errors(arguments: &Arguments, racers: &mut [Racer]) -> Result<Vec<f64>> {
    let mut reference = Ours::map(&arguments.folder.join("f16"), SAMPLES.1)?;
    let vocabulary = reference.feed(&[1])?.len() as u32;
    let (mut errors, mut signal) = (vec![0.0; racers.len()], 0.0);
    for sample in 0..SAMPLES.0 {
        let tokens = tokens(100 + sample as u64, SAMPLES.1, vocabulary);
        reference.reset();
        let expected = reference.feed(&tokens)?;
        signal += expected.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        for (racer, error) in racers.iter_mut().zip(&mut errors) {
            let logits = racer.logits(&tokens)?;
            ensure!(logits.len() == expected.len(), "{}: {} logits", racer.contestant, logits.len());
            *error += logits.iter().zip(&expected).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum::<f64>();
        }
    }
    for (racer, error) in racers.iter().zip(&mut errors) {
        *error = (*error / signal).sqrt();
        ensure!(*error < WRONG, "{}: not the same network, its logits are {error:.3} away", racer.contestant);
    }
    Ok(errors)
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
