//! `quantize eval`: how far are a model's answers from the original's?

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qruntime::{CausalLm, Encoder, Network};
use serde::Serialize;

use super::{cancel_on_signal, open_network, pool};
use crate::args::{EvalArgs, ProtocolArgs};
use crate::command::answer::Answer;
use crate::command::bar::Bar;
use crate::disk::synchronize;
use crate::eval::bf16;
use crate::eval::causal::{Predicted, Reference, evaluate, perplexity};
use crate::eval::encoder::{Cosines, Embedder, Labelled, cosines, cut_texts};
use crate::eval::gate::{few_predictions, few_texts};
use crate::eval::limits::Limits;
use crate::eval::logits_file::{Form, LogitsReader, LogitsWriter};
use crate::eval::size::Size;
use crate::eval::statistics::{Perplexity, Summary};
use crate::eval::text::{self, Described, Protocol};
use crate::eval::windows::{Score, Windows};
use crate::output::Temporary;
use crate::place::{self, Destination};
use crate::report::{bytes, digits, printable, quoted, table, three_digits};
use crate::source;
use crate::table::{paragraph, terminal_width};

/// Tokens of a window, unless told otherwise.
const CTX: usize = 512;

#[derive(Serialize)]
struct Report {
    model_path: String,
    /// Empty if the model is measured alone.
    reference_path: String,
    text: Option<String>,
    #[serde(flatten)]
    size: Size,
    instruction_set: &'static str,
    threads: usize,
    #[serde(flatten)]
    figures: Figures,
    limits: Limits,
    /// The limits that were exceeded, in words; figures that are not numbers, too.
    exceeded: Vec<String>,
    /// What speaks against trusting the figures.
    warning: Option<String>,
    within: bool,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Figures {
    LanguageModel {
        #[serde(flatten)]
        protocol: Described,
        #[serde(flatten)]
        summary: Box<Summary>,
        /// The reference with its weights rounded to bfloat16.
        noise_floor: Option<Box<Summary>>,
        /// Why there is no noise floor.
        no_noise_floor: Option<String>,
        tokens_per_second: f64,
        reference_tokens_per_second: Option<f64>,
    },
    /// A language model without a reference.
    Perplexity {
        #[serde(flatten)]
        protocol: Described,
        model: Perplexity,
        /// Predictions at which the model's logits are not numbers.
        not_a_number: usize,
        tokens_per_second: f64,
    },
    Encoder {
        cosine: Option<Cosines>,
        /// Lines that are longer than the encoder reads, which sees their beginning only.
        texts_cut: usize,
        noise_floor: Option<Cosines>,
        no_noise_floor: Option<String>,
        sts: Option<Ranking>,
        sentences_per_second: f64,
        reference_sentences_per_second: f64,
    },
}

/// Rank correlations with people's scores.
#[derive(Serialize)]
struct Ranking {
    pairs: usize,
    correlation: f64,
    reference_correlation: f64,
}

pub(super) fn run(args: &EvalArgs) -> Result<Answer> {
    pool(args.threads)?.install(|| measure(args))
}

fn measure(args: &EvalArgs) -> Result<Answer> {
    let network = open_network(&args.model)?;
    let (max_kld, max_ppl_ratio) = (args.max_kld, args.max_ppl_ratio);
    let limits = Limits { max_kld, max_ppl_ratio, max_ppl: args.max_ppl, min_cosine: args.min_cosine };
    limits.check(&network)?;
    check_protocol(&args.protocol, &network)?;
    let figures = match &network {
        Network::CausalLm(lm) if args.reference.is_none() && args.reference_logits.is_none() => alone(args, lm)?,
        Network::CausalLm(lm) => language_model(args, lm)?,
        Network::Encoder(encoder) => sentence_encoder(args, encoder)?,
        _ => bail!("{} is neither a language model nor an encoder", quoted(&args.model)),
    };
    let (exceeded, warning) = match &figures {
        Figures::LanguageModel { summary, .. } => (limits.exceeded_by(summary), few_predictions(summary.predictions)),
        Figures::Perplexity { protocol, model, not_a_number, .. } => {
            let exceeded = limits.exceeded_by_perplexity(*model, *not_a_number, protocol.predictions);
            (exceeded, few_predictions(protocol.predictions))
        }
        Figures::Encoder { cosine: Some(cosine), .. } => (limits.exceeded_by_cosine(cosine), few_texts(cosine.texts)),
        Figures::Encoder { cosine: None, .. } => {
            ensure!(limits.min_cosine.is_none(), "--min-cosine needs --text");
            (vec![], None)
        }
    };
    let reference = args.reference.as_ref().or(args.reference_logits.as_ref());
    let report = Report {
        model_path: args.model.display().to_string(),
        reference_path: reference.map(|path| path.display().to_string()).unwrap_or_default(),
        text: args.text.as_deref().map(text_path),
        size: Size::of(network.model()),
        instruction_set: network.model().isa().name(),
        threads: rayon::current_num_threads(),
        figures,
        limits,
        within: exceeded.is_empty(),
        exceeded,
        warning,
    };
    Answer::of(&report, args.json, report.within, to_text)
}

/// A text's path, as figures quote it.
fn text_path(path: &Path) -> String {
    if path == Path::new("-") { text::name(path) } else { path.display().to_string() }
}

/// Refuses a protocol that means nothing for this kind of network.
pub(super) fn check_protocol(args: &ProtocolArgs, network: &Network) -> Result<()> {
    let for_models = args.ctx.is_some() || args.score.is_some() || args.documents.is_some();
    ensure!(
        matches!(network, Network::CausalLm(_)) || !for_models,
        "--ctx, --score and --documents are for language models; of a sentence encoder's text every line counts"
    );
    Ok(())
}

/// Says how many lines an encoder embeds.
pub(super) fn sentences(count: usize, cut: usize) -> String {
    let cut = if cut == 0 { String::new() } else { format!(", {cut} of them cut to the length that the model reads") };
    format!("{count} lines{cut}")
}

/// The protocol that was asked for, for a model of this context.
pub(super) fn protocol(args: &ProtocolArgs, lm: &CausalLm) -> Protocol {
    let score = match args.score.as_deref() {
        Some("half") => Score::Half,
        Some(_) => Score::All,
        None if args.documents.is_some() => Score::All,
        None => Score::Half,
    };
    Protocol {
        ctx: args.ctx.map_or_else(|| CTX.min(lm.config().default_context), |ctx| ctx as usize),
        score,
        documents: args.documents.clone(),
        limit: args.windows.map(|n| n as usize),
    }
}

/// A language model's perplexity, without a reference.
fn alone(args: &EvalArgs, lm: &CausalLm) -> Result<Figures> {
    let Some(path) = &args.text else { bail!("--text is missing") };
    let protocol = protocol(&args.protocol, lm);
    let windows = protocol.windows(lm, &text::read(path)?)?;
    let cancelled = cancel_on_signal();
    let progress = Bar::items(windows.fed(), args.json);
    let Predicted { perplexity, not_a_number, time } = perplexity(lm, &windows, &progress, &cancelled)?;
    progress.finish();
    Ok(Figures::Perplexity {
        protocol: protocol.describe(&windows),
        model: perplexity,
        not_a_number,
        tokens_per_second: per_second(windows.fed(), time),
    })
}

fn language_model(args: &EvalArgs, lm: &CausalLm) -> Result<Figures> {
    ensure!(args.sts.is_none(), "--sts is for sentence encoders");
    let cancelled = cancel_on_signal();
    if let Some(path) = &args.reference_logits {
        let mut reader = LogitsReader::open(path)?;
        let mut windows = reader.windows().clone();
        if reader.form() == Form::LlamaCpp
            && let Some(bos) = lm.tokenizer()?.beginning()
        {
            // As llama.cpp does: the file has the text's own tokens.
            windows.begin_with(bos);
        }
        let progress = Bar::items(windows.fed(), args.json);
        let mut outcome = evaluate(Reference::File(&mut reader), &[lm], &windows, None, &progress, &cancelled)?;
        progress.finish();
        let measured = outcome.models.remove(0);
        return Ok(Figures::LanguageModel {
            protocol: Described::of_file(&windows),
            summary: Box::new(measured.statistics.summary()),
            noise_floor: None,
            no_noise_floor: Some("the reference's weights are not here".into()),
            tokens_per_second: per_second(windows.fed(), measured.time),
            reference_tokens_per_second: None,
        });
    }
    let (Some(path), Some(text)) = (&args.reference, &args.text) else { bail!("--text is missing") };
    let Network::CausalLm(reference) = open_network(path)? else { bail!("{} is no language model", quoted(path)) };
    let destination = args.save_logits.as_deref().map(|path| save_to(args, path)).transpose()?;
    let protocol = protocol(&args.protocol, lm);
    let windows = protocol.windows(&reference, &text::read(text)?)?;
    let rounded = if args.no_noise_floor { Err("not asked for".into()) } else { rounded(path, &cancelled)? };
    let rounded = match &rounded {
        Ok(folder) => match open_network(folder.path())? {
            Network::CausalLm(lm) => Ok(lm),
            _ => bail!("{} is no language model", quoted(path)),
        },
        Err(why) => Err(why.clone()),
    };
    let mut save = destination.map(|destination| Save::create(destination, &reference, &windows)).transpose()?;
    let models: Vec<&CausalLm> = std::iter::once(lm).chain(&rounded).collect();
    let progress = Bar::items(windows.fed() * (1 + models.len()), args.json);
    let writer = save.as_mut().map(|save| &mut save.writer);
    let outcome = evaluate(Reference::Model(&reference), &models, &windows, writer, &progress, &cancelled)?;
    progress.finish();
    save.map_or(Ok(()), Save::finish)?;
    let mut summaries = outcome.models.iter().map(|measured| Box::new(measured.statistics.summary()));
    let summary = summaries.next().context("a model")?;
    Ok(Figures::LanguageModel {
        protocol: protocol.describe(&windows),
        summary,
        noise_floor: summaries.next(),
        no_noise_floor: rounded.err(),
        tokens_per_second: per_second(windows.fed(), outcome.models[0].time),
        reference_tokens_per_second: outcome.reference.map(|time| per_second(windows.fed(), time)),
    })
}

/// Checks where the logits go.
fn save_to(args: &EvalArgs, path: &Path) -> Result<Destination> {
    let inputs = [Some(&args.model), args.reference.as_ref(), args.text.as_ref()];
    let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
    Ok(Destination::new(path, &place::LOGITS, &inputs, args.force)?)
}

/// A file of logits that appears whole or not at all.
struct Save {
    destination: Destination,
    temporary: Temporary,
    writer: LogitsWriter,
}

impl Save {
    fn create(destination: Destination, reference: &CausalLm, windows: &Windows) -> Result<Self> {
        let temporary = destination.temporary()?;
        let vocabulary = reference.config().vocab_size;
        let writer = LogitsWriter::create(temporary.path(), Form::of(destination.path()), vocabulary, windows)?;
        Ok(Self { destination, temporary, writer })
    }

    fn finish(self) -> Result<()> {
        self.writer.finish()?;
        synchronize(self.temporary.path())?;
        Ok(self.destination.commit(self.temporary)?)
    }
}

/// The checkpoint with its weights rounded to bfloat16, in a folder that goes when this is dropped;
/// or why there is none.
fn rounded(path: &Path, cancelled: &AtomicBool) -> Result<Result<Temporary, String>> {
    // Without its folder it would be no network.
    if path.is_file() {
        return Ok(Err("the reference was given as a file, not as its folder".into()));
    }
    let source = match source::open(path) {
        Ok(source) => source,
        Err(_) => return Ok(Err("the reference is not an original checkpoint".into())),
    };
    if !bf16::rounds(&*source) {
        return Ok(Err("the reference's weights are bfloat16 already".into()));
    }
    let elsewhere = "TMPDIR in the environment names another folder, and --no-noise-floor does without";
    let folder = Temporary::folder(&std::env::temp_dir().join("quantize-eval")).context(elsewhere)?;
    bf16::write_rounded(&*source, folder.path(), cancelled).context(elsewhere)?;
    Ok(Ok(folder))
}

fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn sentence_encoder(args: &EvalArgs, encoder: &Encoder) -> Result<Figures> {
    let Some(path) = &args.reference else { bail!("a sentence encoder needs --reference") };
    let Network::Encoder(reference) = open_network(path)? else { bail!("{} is no encoder", quoted(path)) };
    let stdin = |path: &Option<PathBuf>| path.as_deref() == Some(Path::new("-"));
    ensure!(!(stdin(&args.text) && stdin(&args.sts)), "--text and --sts cannot both be read from stdin");
    ensure!(args.save_logits.is_none(), "a sentence encoder has no logits to save");
    let text = args.text.as_deref().map(text::read).transpose()?;
    let cancelled = cancel_on_signal();
    let limit = args.protocol.windows.map_or(usize::MAX, |n| n as usize);
    let lines = text.iter().flat_map(|text| text.lines()).map(str::trim).filter(|line| !line.is_empty());
    let lines: Vec<&str> = lines.take(limit).collect();
    ensure!(args.text.is_none() || !lines.is_empty(), "no lines of text");
    let sts = args.sts.as_deref().map(Labelled::read).transpose()?;
    let rounded =
        if args.no_noise_floor || lines.is_empty() { Err("not asked for".into()) } else { rounded(path, &cancelled)? };
    let rounded = match &rounded {
        Ok(folder) => match open_network(folder.path())? {
            Network::Encoder(encoder) => Ok(encoder),
            _ => bail!("{} is no encoder", quoted(path)),
        },
        Err(why) => Err(why.clone()),
    };

    let sentences = lines.len() + sts.as_ref().map_or(0, |sts| 4 * sts.len());
    let progress = Bar::items(sentences, args.json);
    let mut teacher = Embedder::new(&reference);
    let mut students: Vec<Embedder<'_>> = std::iter::once(encoder).chain(&rounded).map(Embedder::new).collect();
    let found = cosines(&mut teacher, &mut students, &lines, &progress, &cancelled)?;
    let mut found = found.iter().filter(|cosines| !cosines.is_empty()).map(|cosines| Cosines::of(cosines));
    let (cosine, noise_floor) = (found.next(), found.next());
    let sts = match &sts {
        None => None,
        Some(sts) => Some(Ranking {
            pairs: sts.len(),
            correlation: sts.correlation(&mut students[0], &progress, &cancelled)?,
            reference_correlation: sts.correlation(&mut teacher, &progress, &cancelled)?,
        }),
    };
    progress.finish();
    let embedded = lines.len() + sts.as_ref().map_or(0, |sts| 2 * sts.pairs);
    Ok(Figures::Encoder {
        cosine,
        texts_cut: cut_texts(encoder, &lines)?,
        noise_floor,
        no_noise_floor: rounded.as_ref().err().cloned(),
        sts,
        sentences_per_second: per_second(embedded, students[0].time),
        reference_sentences_per_second: per_second(embedded, teacher.time),
    })
}

fn to_text(report: &Report) -> String {
    let size = &report.size;
    let width = terminal_width();
    let mut text = String::new();
    let mut fact =
        |label: &str, fact: &str| text.push_str(&paragraph(&format!("{label:<11}"), &printable(fact), width));
    let bits =
        format!("{:.2} bits/weight in the layers, {:.2} in the file", size.layer_bits_per_weight, size.bits_per_weight);
    let model = quoted(Path::new(&report.model_path));
    fact("model", &format!("{model}, {}, {bits}", bytes(size.file_bytes)));
    if !report.reference_path.is_empty() {
        fact("reference", &quoted(Path::new(&report.reference_path)).to_string());
    }
    let on = format!("{} on {} threads", report.instruction_set, report.threads);
    let read = report.text.as_deref();
    match &report.figures {
        Figures::LanguageModel { protocol, tokens_per_second, reference_tokens_per_second, .. } => {
            let reference = reference_tokens_per_second
                .map_or_else(String::new, |speed| format!(", the reference {}", three_digits(speed)));
            fact("text", &format!("{}: {}", read.unwrap_or("that of the file"), protocol.protocol));
            fact("", &protocol.counts());
            fact("speed", &format!("{} tokens/s while evaluating{reference}; {on}", three_digits(*tokens_per_second)));
        }
        Figures::Perplexity { protocol, tokens_per_second, .. } => {
            fact("text", &format!("{}: {}", read.unwrap_or("none"), protocol.protocol));
            fact("", &protocol.counts());
            fact("speed", &format!("{} tokens/s while evaluating; {on}", three_digits(*tokens_per_second)));
        }
        Figures::Encoder { cosine, texts_cut, sentences_per_second, reference_sentences_per_second, .. } => {
            let lines = cosine.as_ref().map(|cosine| format!(": {}", sentences(cosine.texts, *texts_cut)));
            fact("text", &format!("{}{}", read.unwrap_or("none"), lines.unwrap_or_default()));
            let speeds = [sentences_per_second, reference_sentences_per_second].map(|speed| three_digits(*speed));
            fact("speed", &format!("{} sentences/s, the reference {}; {on}", speeds[0], speeds[1]));
        }
    }
    text.push('\n');
    match &report.figures {
        Figures::LanguageModel { summary, noise_floor, .. } => {
            text.push_str(&summary_table(summary, noise_floor.as_deref()));
        }
        Figures::Perplexity { model, .. } => {
            let figure = with_error(model.value, model.error);
            text.push_str(&format!("perplexity  {figure}\nmean NLL    {}\n", digits(model.nll, 5)));
        }
        Figures::Encoder { cosine, noise_floor, sts, .. } => {
            text.push_str(&cosine_table(cosine.as_ref(), noise_floor.as_ref(), sts.as_ref()));
        }
    }
    let no_noise_floor = match &report.figures {
        Figures::LanguageModel { no_noise_floor, .. } => no_noise_floor.as_deref(),
        Figures::Encoder { no_noise_floor, cosine: Some(_), .. } => no_noise_floor.as_deref(),
        Figures::Perplexity { .. } => Some("there is no reference; --reference SOURCE compares with the original"),
        Figures::Encoder { .. } => None,
    };
    if let Some(why) = no_noise_floor {
        text.push('\n');
        text.push_str(&paragraph("", &format!("no noise floor: {why}"), width));
    }
    if let Some(warning) = &report.warning {
        text.push('\n');
        text.push_str(&paragraph("", &format!("warning: {warning}"), width));
    }
    for limit in &report.exceeded {
        text.push('\n');
        text.push_str(&paragraph("", &format!("over the limit: {limit}"), width));
    }
    text
}

/// A figure and its standard error.
fn with_error(value: f64, error: f64) -> String {
    if value.is_nan() { digits(value, 5) } else { format!("{} ± {}", digits(value, 5), digits(error, 2)) }
}

fn summary_table(summary: &Summary, noise_floor: Option<&Summary>) -> String {
    let both = |f: &dyn Fn(&Summary) -> String| -> Vec<String> {
        std::iter::once(summary).chain(noise_floor).map(f).collect()
    };
    let percents = |value: f64, error: f64| match value.is_nan() {
        true => digits(value, 3),
        false => format!("{:.3} ± {:.3} %", 100.0 * value, 100.0 * error),
    };
    let ratio = |s: &Summary| match s.ratio.is_nan() {
        true => digits(s.ratio, 5),
        false => format!("{:.5} ± {:.5}", s.ratio, s.ratio_error),
    };
    let rows = [
        ("perplexity", both(&|s| with_error(s.model.value, s.model.error))),
        ("  of the reference", both(&|s| with_error(s.reference.value, s.reference.error))),
        ("  ratio", both(&ratio)),
        ("KL divergence, mean", both(&|s| with_error(s.kld.mean, s.kld.error))),
        ("  median", both(&|s| digits(s.kld.median, 4))),
        ("  90 %", both(&|s| digits(s.kld.p90, 4))),
        ("  95 %", both(&|s| digits(s.kld.p95, 4))),
        ("  99 %", both(&|s| digits(s.kld.p99, 4))),
        ("  99.9 %", both(&|s| digits(s.kld.p999, 4))),
        ("  maximum", both(&|s| digits(s.kld.max, 4))),
        ("same top-1 token", both(&|s| percents(s.same_top, s.same_top_error))),
        ("change of probability, RMS", both(&|s| percents(s.rms_change, s.rms_change_error))),
        ("  mean", both(&|s| percents(s.mean_change, s.mean_change_error))),
    ];
    let mut heading = vec!["", ">model"];
    heading.extend(noise_floor.map(|_| ">noise floor\n(reference in bf16)"));
    let row = |(name, figures): &(&str, Vec<String>)| {
        std::iter::once((*name).to_owned()).chain(figures.iter().cloned()).collect()
    };
    table(&heading, &rows.iter().map(row).collect::<Vec<_>>())
}

fn cosine_table(cosine: Option<&Cosines>, noise_floor: Option<&Cosines>, sts: Option<&Ranking>) -> String {
    let mut heading = vec!["", ">model"];
    heading.extend(noise_floor.map(|_| ">noise floor\n(reference in bf16)"));
    let mut rows = vec![];
    if let Some(cosine) = cosine {
        let both = |name: &str, f: &dyn Fn(&Cosines) -> f64| {
            let figures = std::iter::once(cosine).chain(noise_floor).map(|cosines| match f(cosines) {
                cosine if cosine.is_nan() => digits(cosine, 6),
                cosine => format!("{cosine:.6}"),
            });
            std::iter::once(name.to_owned()).chain(figures).collect::<Vec<String>>()
        };
        rows.push(both("cosine to the reference, mean", &|c| c.mean));
        rows.push(both("  worst 1 %", &|c| c.worst_percent));
        rows.push(both("  least", &|c| c.min));
    }
    let mut text = if rows.is_empty() { String::new() } else { table(&heading, &rows) };
    if let Some(Ranking { pairs, correlation, reference_correlation }) = sts {
        let difference = correlation - reference_correlation;
        let ranks = format!(
            "rank correlation with people's scores of {pairs} pairs: {correlation:.4}, the reference \
             {reference_correlation:.4} ({difference:+.4})"
        );
        text.push_str(&paragraph("", &ranks, terminal_width()));
    }
    text
}
