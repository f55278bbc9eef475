//! A checkpoint in several formats, all of them open at once: what `report` and `demo` measure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kernels::{Format, Isa};
use qruntime::{CausalLm, Network, Session};

use super::open_network;
use crate::command::bar::Bar;
use crate::convert::Conversion;
use crate::eval::bf16;
use crate::measure::{Contestant, race};
use crate::output::{Output, Panels, Recipe, Temporary};
use crate::plan::{Plan, Request};
use crate::progress::{Progress, Silent};
use crate::round;
use crate::source::Source;

/// A model for as long as it is measured.
pub(super) struct Trial {
    pub(super) name: String,
    pub(super) lm: CausalLm,
    /// Seconds that the conversion took.
    pub(super) seconds: f64,
    /// Packed tensors and the relative RMS errors of their weights, the worst first.
    pub(super) worst: Vec<(String, f64)>,
    /// Goes when the trial does.
    folder: Temporary,
}

impl Trial {
    /// Converts to a format.
    pub(super) fn new(source: &dyn Source, format: Format, isa: Isa, cancelled: &AtomicBool) -> Result<Self> {
        let (output, rounder) = (&Panels, round::DEFAULT);
        let request = Request { to: format.into(), rules: &[], rounding: rounder.name() };
        let plan =
            &Plan::new(source.tensors(), source.companions().model_type(), request, &|t, a| output.stored(t, a))?;
        let folder = temporary()?;
        let start = Instant::now();
        let conversion = Conversion { source, plan, rounders: &[rounder], isa, progress: &Silent, cancelled };
        let recipe = Recipe::new(source, plan, &[]);
        let distortions = conversion.write(output, folder.path(), &recipe)?;
        let seconds = start.elapsed().as_secs_f64();
        let packed = plan.steps.iter().zip(distortions);
        let packed = packed.filter_map(|(step, found)| Some((step.name.clone(), found?.relative_rms())));
        let mut worst: Vec<(String, f64)> = packed.collect();
        worst.sort_by(|a, b| b.1.total_cmp(&a.1));
        let lm = language_model(open_network(folder.path())?)?;
        Ok(Self { name: format.name().into(), lm, seconds, worst, folder })
    }

    /// The original with its weights rounded to bfloat16, if that changes anything.
    pub(super) fn rounded(source: &dyn Source, cancelled: &AtomicBool) -> Result<Option<Self>> {
        if !bf16::rounds(source) {
            return Ok(None);
        }
        let folder = temporary()?;
        bf16::write_rounded(source, folder.path(), cancelled)?;
        let lm = language_model(open_network(folder.path())?)?;
        Ok(Some(Self { name: "bf16".into(), lm, seconds: 0.0, worst: vec![], folder }))
    }

    /// Seconds to open it anew: the middle of five times.
    pub(super) fn load_seconds(&self) -> Result<f64> {
        load_seconds(self.folder.path())
    }
}

fn temporary() -> Result<Temporary> {
    Temporary::folder(&std::env::temp_dir().join("quantize-trial"))
        .context("TMPDIR in the environment names another folder")
}

/// Returns a network that is a language model.
pub(super) fn language_model(network: Network) -> Result<CausalLm> {
    match network {
        Network::CausalLm(lm) => Ok(lm),
        Network::Encoder(_) => bail!("this is a sentence encoder, expected a language model: see quantize eval"),
        _ => bail!("this is no language model"),
    }
}

/// Seconds to open a model anew: the middle of five times.
pub(super) fn load_seconds(folder: &std::path::Path) -> Result<f64> {
    let mut times = vec![];
    for _ in 0..5 {
        let start = Instant::now();
        let network = open_network(folder)?;
        times.push(start.elapsed().as_secs_f64());
        drop(network);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[2])
}

/// Tokens per second.
#[derive(Clone, Copy)]
pub(super) struct Speed {
    /// Token generation.
    pub(super) generation: f64,
    /// Half of the rounds lie within so large a part of it.
    pub(super) generation_spread: f64,
    /// Prompt processing.
    pub(super) prompt: f64,
    /// As for generation.
    pub(super) prompt_spread: f64,
}

/// Tokens of a text that are the prompt, and tokens that are fed one by one behind it.
pub(super) const PROMPT: usize = 256;
pub(super) const GENERATED: usize = 32;

/// Measures prompt processing and token generation of models, in turns.
pub(super) fn speeds(
    models: &[&CausalLm],
    tokens: &[u32],
    budget: Duration,
    cancelled: &AtomicBool,
) -> Result<Vec<Speed>> {
    let prompt = &tokens[..PROMPT.min(tokens.len() / 2)];
    let behind = &tokens[prompt.len()..tokens.len().min(prompt.len() + GENERATED)];
    ensure!(!prompt.is_empty() && !behind.is_empty(), "too few tokens to measure speed");
    let mut failed = None;
    let mut sessions: Vec<Session> = vec![];
    for lm in models {
        let mut session = lm.session();
        session.feed(prompt)?;
        sessions.push(session);
    }
    let errors = std::cell::RefCell::new(&mut failed);
    let keep = |result: Result<(), qruntime::Error>| {
        if let Err(error) = result {
            **errors.borrow_mut() = Some(error);
        }
    };
    let interrupted = || cancelled.load(Ordering::Relaxed);
    let progress = Bar::steps(2);
    progress.advance(0, "speed of prompts");
    let reading = models.iter().map(|lm| {
        Contestant::new(|| {
            if !interrupted() {
                keep(lm.session().feed(prompt).map(drop));
            }
        })
    });
    let prompts = race(&mut reading.collect::<Vec<_>>(), budget);
    progress.advance(1, "speed of generation");
    let going_on = sessions.iter_mut().map(|session| {
        Contestant::new(|| {
            session.rewind(prompt.len());
            if !interrupted() {
                keep(behind.iter().try_for_each(|&token| session.feed(&[token]).map(drop)));
            }
        })
    });
    let generated = race(&mut going_on.collect::<Vec<_>>(), budget);
    progress.finish();
    if let Some(error) = failed {
        return Err(error.into());
    }
    ensure!(!interrupted(), "interrupted");
    let speed = |(prompts, generated): (&crate::measure::Timing, &crate::measure::Timing)| Speed {
        generation: behind.len() as f64 / generated.seconds,
        generation_spread: generated.spread,
        prompt: prompt.len() as f64 / prompts.seconds,
        prompt_spread: prompts.spread,
    };
    Ok(prompts.iter().zip(&generated).map(speed).collect())
}
