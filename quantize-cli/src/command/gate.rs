//! The gate of `quantize convert`: no model takes its place that is worse than was asked for.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Result, ensure};
use kernels::Distortion;
use qruntime::Network;
use qruntime::gguf::Gguf;
use serde::Serialize;
use serde_json::json;

use super::eval::{check_protocol, protocol, sentences};
use super::open_network;
use crate::args::ConvertArgs;
use crate::command::bar::Bar;
use crate::convert::Conversion;
use crate::eval::blame::{Blamed, blame};
use crate::eval::gate::{Figures, Gate};
use crate::eval::limits::Limits;
use crate::eval::text;
use crate::output::{Output, Recipe};
use crate::plan::Plan;
use crate::report::{digits, percent, printable};
use crate::table::{Column, Table, paragraph, terminal_width};

/// Bytes of the recipe that are kept for the figures.
pub(super) const ROOM: usize = 4096;

/// Most tensors that are restored to measure their share of the divergence.
const CANDIDATES: usize = 8;

/// How many predictions or sentences decide that, about.
const BRIEF: usize = 2048;

/// The questions that a converted model is asked before it takes its place.
pub(super) struct Question<'a> {
    args: &'a ConvertArgs,
    original: Network,
    limits: Limits,
    path: &'a PathBuf,
    text: String,
}

/// The answer.
#[derive(Serialize)]
pub(super) struct Evaluation {
    text: String,
    #[serde(flatten)]
    figures: Figures,
    limits: Limits,
    /// The limits that were exceeded, in words.
    exceeded: Vec<String>,
    /// A reason to distrust the figures.
    warning: Option<String>,
    /// If any: the tensors with the largest share of the divergence, on the beginning of the text.
    worst_tensors: Vec<Blamed>,
    /// The time that measuring took.
    pub(super) seconds: f64,
}

impl<'a> Question<'a> {
    /// Nothing is asked without a text.
    pub(super) fn new(args: &'a ConvertArgs, output: &dyn Output) -> Result<Option<Self>> {
        let Some(path) = &args.eval_text else { return Ok(None) };
        // A GGUF file holds what else a folder does.
        let is_whole = args.source.is_dir() || Gguf::is_gguf(&args.source);
        let folders = is_whole && output.is_folder(&args.out);
        ensure!(folders, "--eval-text needs folders, with config.json and a tokenizer beside the weights");
        let (max_kld, max_ppl_ratio, min_cosine) = (args.max_kld, args.max_ppl_ratio, args.min_cosine);
        let limits = Limits { max_kld, max_ppl_ratio, max_ppl: None, min_cosine };
        let original = open_network(&args.source)?;
        limits.check(&original)?;
        check_protocol(&args.protocol, &original)?;
        let question = Self { args, original, limits, path, text: text::read(path)? };
        // What is wrong with the text is said before the work, not after it.
        question.gate()?;
        Ok(Some(question))
    }

    fn gate(&self) -> Result<Gate<'_>> {
        let limit = self.args.protocol.windows.map(|n| n as usize);
        Ok(Gate::new(&self.original, &self.text, limit, |lm| protocol(&self.args.protocol, lm))?)
    }

    /// Measures the model in `folder`, and writes the figures into it or finds out whose fault they
    /// are.
    pub(super) fn ask(
        &self,
        conversion: &Conversion<'_>,
        output: &dyn Output,
        recipe: &Recipe,
        folder: &Path,
        distortions: &[Option<Distortion>],
    ) -> Result<Evaluation> {
        let &Conversion { source, plan, cancelled, .. } = conversion;
        let quiet = self.args.quiet || self.args.json;
        let start = Instant::now();
        let gate = self.gate()?;
        let progress = Bar::items(gate.steps(), quiet);
        let figures = gate.measure(&open_network(folder)?, &progress, cancelled)?;
        progress.finish();
        let exceeded = figures.beyond(&self.limits);
        let text = text::name(self.path);
        let warning = figures.warning();
        let worst_tensors = if exceeded.is_empty() {
            let mut evaluation = json!({"text": text});
            if let (Some(to), Some(from)) = (evaluation.as_object_mut(), json!(figures).as_object()) {
                to.extend(from.clone());
            }
            output.amend(folder, &recipe.clone().with_evaluation(evaluation))?;
            vec![]
        } else if figures.divergence().is_nan() {
            // A divergence that is not a number has no shares.
            vec![]
        } else {
            let brief = gate.shortened(BRIEF);
            let candidates = candidates(plan, distortions);
            let progress = Bar::items(brief.steps() * (1 + candidates.len()), quiet);
            let found = blame(&brief, source, folder, &open_network, &candidates, &progress, cancelled)?;
            progress.finish();
            found
        };
        let seconds = start.elapsed().as_secs_f64();
        Ok(Evaluation { text, figures, limits: self.limits, exceeded, warning, worst_tensors, seconds })
    }
}

/// The packed tensors with the largest part in the squared error of all weights, each weighted by
/// its own magnitude: relative error squared times size.
fn candidates(plan: &Plan, distortions: &[Option<Distortion>]) -> Vec<(String, f64)> {
    let packed = plan.steps.iter().zip(distortions).filter_map(|(step, distortion)| {
        let error = (*distortion)?.relative_rms();
        Some((error * error * step.elements() as f64, (step.name.clone(), error)))
    });
    let mut packed: Vec<_> = packed.collect();
    packed.sort_by(|a, b| b.0.total_cmp(&a.0));
    packed.into_iter().take(CANDIDATES).map(|(_, candidate)| candidate).collect()
}

impl Evaluation {
    /// Whether no limit is exceeded.
    pub(super) fn is_within(&self) -> bool {
        self.exceeded.is_empty()
    }

    /// The limits that were exceeded and what else is to be known of the figures, a line for each.
    pub(super) fn complaints(&self) -> String {
        let exceeded = self.exceeded.iter().map(|limit| format!("over the limit: {limit}\n"));
        exceeded.chain(self.warning.iter().map(|warning| format!("warning: {warning}\n"))).collect()
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = match &self.figures {
            Figures::LanguageModel { protocol, summary } => format!(
                "{}{}measured: KL divergence {} ± {}, perplexity ratio {} ± {},\n\
                 \x20         same top-1 token {}\n",
                paragraph("text:     ", &format!("{}: {}", printable(&self.text), protocol.protocol), terminal_width()),
                paragraph("          ", &protocol.counts(), terminal_width()),
                digits(summary.kld.mean, 4),
                digits(summary.kld.error, 2),
                digits(summary.ratio, 6),
                digits(summary.ratio_error, 2),
                percent(summary.same_top),
            ),
            Figures::Encoder { cosine, texts_cut } => format!(
                "text:     {}: {}\nmeasured: cosine {}, worst 1 % {}, least {}\n",
                printable(&self.text),
                sentences(cosine.texts, *texts_cut),
                digits(cosine.mean, 6),
                digits(cosine.worst_percent, 6),
                digits(cosine.min, 6),
            ),
        };
        text.push_str(&self.complaints());
        if !self.worst_tensors.is_empty() {
            let row = |blamed: &Blamed| {
                let share = format!("{:.1} %", 100.0 * blamed.share);
                vec![blamed.tensor.escape_debug().to_string(), percent(blamed.relative_rms), share]
            };
            let rows: Vec<Vec<String>> = self.worst_tensors.iter().map(row).collect();
            let columns = [Column::left("tensor").shortened(), Column::right("weight error"), Column::right("share")];
            text.push_str(&format!(
                "\ndivergence recovered by leaving one tensor unquantized, measured on the beginning\nof the text:\n{}\n",
                Table::new(columns).with_rows(rows)
            ));
        }
        text
    }
}
