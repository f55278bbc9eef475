//! Carries a plan out: reads, encodes on every core, writes in order. Memory does not depend on the
//! size of the model.

use std::cell::RefCell;
use std::io::{Seek, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use half::bf16;
use kernels::panel::PANEL_ROWS;
use kernels::{Distortion, Encoding, Format, Isa, Rounding};
use qruntime::container::{Storage, Writer};
use rayon::prelude::*;
use serde_json::{Value, json};

use crate::finite;
use crate::plan::{Action, Plan, PlannedTensor};
use crate::progress::Progress;
use crate::report::percent;
use crate::source::{Source, SourceTensor};

/// Bytes that a batch takes at most, see [`Job::memory`]; more only where a single panel takes
/// more.
const BATCH_BYTES: usize = 128 << 20;

/// Relative RMS error above which packing has kept next to nothing of a tensor: without the tensor
/// it is 1.
const LOST: f64 = 0.5;

/// How many of the tensors that lost so much are named.
const NAMED: usize = 5;

/// Bytes of `f32` that a job has at most; more only where a single panel has more.
const F32_PER_JOB: usize = 4 << 20;

/// Converts `source` as `plan` says, into `out`. Returns the output, and for every tensor of the
/// plan what packing cost it.
///
/// Encoding uses rayon's current pool; the bytes do not depend on the number of threads. When
/// `cancelled` becomes true, the conversion stops with an error.
///
/// # Errors
/// If the source cannot be read, a weight is not finite (masks, which are kept, may be infinite),
/// or the output fails.
pub fn convert<W: Write + Seek + Send>(
    source: &Source,
    plan: &Plan,
    isa: Isa,
    out: W,
    progress: &Progress,
    cancelled: &AtomicBool,
) -> Result<(W, Vec<Option<Distortion>>)> {
    let tensors = plan.tensors.iter().map(|t| (t.name.clone(), t.storage.clone(), t.shape.clone())).collect();
    let mut writer = Writer::new(out, tensors, recipe(source, plan, " ".repeat(plan.room).into()))
        .context("cannot write the output")?;
    let order = writer.order().to_vec();
    let mut distortions = vec![None; plan.tensors.len()];
    let threads = rayon::current_num_threads();
    // Two jobs for every thread, of which none takes more than twice its `f32`.
    let f32_per_job = (BATCH_BYTES / (4 * threads)).min(F32_PER_JOB);
    let mut jobs = order.iter().flat_map(|&t| jobs(plan, t, f32_per_job / size_of::<f32>())).peekable();

    // Of no capacity: two batches of output are alive, one that is written and one that is encoded
    // or waits.
    let (sender, receiver) = mpsc::sync_channel::<Vec<Done>>(0);
    thread::scope(|scope| {
        let writing = scope.spawn(move || {
            for done in receiver.into_iter().flatten() {
                writer.write(&done.bytes).context("cannot write the output")?;
            }
            Ok::<_, anyhow::Error>(writer)
        });
        let mut encode = || {
            loop {
                let mut batch: Vec<Job<'_>> = vec![];
                let mut bytes = 0;
                while let Some(job) = jobs.next_if(|job| {
                    bytes += job.memory();
                    batch.is_empty() || (batch.len() < 2 * threads && bytes <= BATCH_BYTES)
                }) {
                    batch.push(job);
                }
                if batch.is_empty() {
                    return Ok(());
                }
                if cancelled.load(Ordering::Relaxed) {
                    bail!("interrupted; nothing was written");
                }
                // All of them first, so that of several errors always the same one is reported.
                let done: Vec<Result<Done>> =
                    batch.par_iter().map(|job| job.run(source, plan.rounding, isa, f32_per_job)).collect();
                let done: Vec<Done> = done.into_iter().collect::<Result<_>>()?;
                for (job, done) in batch.iter().zip(&done) {
                    if let Some(distortion) = done.distortion {
                        *distortions[job.tensor].get_or_insert_default() += distortion;
                    }
                    progress.advance(done.read, &job.planned.name);
                }
                if sender.send(done).is_err() {
                    // The writer stopped: its error says why.
                    return Ok(());
                }
            }
        };
        let encoded = encode();
        drop(sender);
        let written = writing.join().map_err(|_| anyhow!("the writing thread panicked"))?;
        encoded?;
        let out = written?.finish().context("cannot write the output")?;
        Ok((out, distortions))
    })
}

/// Sentences about the tensors of which packing kept next to nothing, as where weights are below
/// the smallest scale of the format; the worst first.
#[must_use]
pub fn losses(plan: &Plan, distortions: &[Option<Distortion>]) -> Vec<String> {
    let errors = plan.tensors.iter().zip(distortions);
    let errors = errors.filter_map(|(planned, distortion)| Some((planned, distortion.as_ref()?.relative_rms())));
    let mut lost: Vec<(&PlannedTensor, f64)> = errors.filter(|&(_, error)| error > LOST).collect();
    lost.sort_by(|a, b| b.1.total_cmp(&a.1));
    let sentence = |&(planned, error): &(&PlannedTensor, f64)| {
        format!(
            "{} keeps next to nothing of \"{}\": relative RMS error {}; keep the tensor as it is: --rule '{}=keep'",
            planned.action,
            planned.name.escape_debug(),
            percent(error),
            globset::escape(&planned.name)
        )
    };
    let mut sentences: Vec<String> = lost.iter().take(NAMED).map(sentence).collect();
    if lost.len() > NAMED {
        sentences.push(format!("and so with {} more tensors: --json names all, with their errors", lost.len() - NAMED));
    }
    sentences
}

/// What the output says of how it was made. `evaluation` is what was measured with it; nothing if
/// that is an empty text.
#[must_use]
pub fn recipe(source: &Source, plan: &Plan, evaluation: Value) -> Value {
    let mut recipe = json!({
        "created_by": concat!("quantize ", env!("CARGO_PKG_VERSION")),
        "to": plan.to.name(),
        "rounding": plan.rounding.name(),
        "rules": plan.rules,
        "source": {"tensors": source.tensors().len(), "bytes": source.total_bytes()},
    });
    if !plan.companions.is_empty() {
        // With `--force` these files of the folder may be replaced, and no others.
        recipe["companions"] = plan.companions.iter().map(|path| path.to_string_lossy()).collect();
    }
    if evaluation != "" {
        recipe["evaluation"] = evaluation;
    }
    recipe
}

/// A part of a tensor: what one thread does at a time.
struct Job<'a> {
    tensor: usize,
    planned: &'a PlannedTensor,
    work: Work,
}

enum Work {
    /// Encode these panels of one matrix of `rows x cols`.
    Pack { format: Format, rows: usize, cols: usize, matrix: usize, panels: Range<usize> },
    /// Copy these bytes.
    Copy(Range<usize>),
    /// Write these numbers, 8-bit floats with their scales, as BF16.
    Bf16(Range<usize>),
}

struct Done {
    bytes: Vec<u8>,
    distortion: Option<Distortion>,
    /// Bytes of the source that this took.
    read: u64,
}

/// The jobs of one tensor, in the order of its bytes.
fn jobs(plan: &Plan, tensor: usize, elements_per_job: usize) -> Vec<Job<'_>> {
    let planned = &plan.tensors[tensor];
    let job = |work| Job { tensor, planned, work };
    let pieces = |len: usize, piece: usize| {
        (0..len).step_by(piece.max(1)).map(move |start| start..len.min(start + piece.max(1)))
    };
    match (planned.action, &planned.storage, planned.shape.as_slice()) {
        (Action::Pack(format), _, &[ref matrices @ .., rows, cols]) => {
            let panels_per_job = (elements_per_job / (PANEL_ROWS * cols)).max(1);
            (0..matrices.iter().product())
                .flat_map(|matrix| {
                    pieces(rows.div_ceil(PANEL_ROWS), panels_per_job).map(move |panels| Work::Pack {
                        format,
                        rows,
                        cols,
                        matrix,
                        panels,
                    })
                })
                .map(job)
                .collect()
        }
        (_, Storage::Plain(dtype), _) if *dtype != planned.dtype => {
            pieces(planned.elements(), elements_per_job).map(Work::Bf16).map(job).collect()
        }
        // Whole numbers of elements, the longest of which have 8 bytes.
        _ => pieces(planned.bytes, elements_per_job.next_multiple_of(2) * size_of::<f32>())
            .map(Work::Copy)
            .map(job)
            .collect(),
    }
}

thread_local! {
    /// Each thread's weights, kept between jobs.
    static WEIGHTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Job<'_> {
    /// Bytes that it takes: its numbers as `f32` while it runs, and its output twice, since two
    /// batches of that are alive.
    fn memory(&self) -> usize {
        match &self.work {
            Work::Pack { format, cols, panels, .. } => {
                let f32_bytes = PANEL_ROWS * cols * size_of::<f32>();
                panels.len() * (f32_bytes + 2 * format.panel_bytes(*cols).unwrap_or(f32_bytes))
            }
            Work::Bf16(elements) => elements.len() * (size_of::<f32>() + 2 * size_of::<bf16>()),
            Work::Copy(bytes) => 2 * bytes.len(),
        }
    }

    fn run(&self, source: &Source, rounding: Rounding, isa: Isa, f32_per_job: usize) -> Result<Done> {
        let tensor = &source.tensors()[self.planned.index];
        match &self.work {
            Work::Copy(range) => {
                let mut bytes = vec![0; range.len()];
                source.read_bytes(tensor, range.clone(), &mut bytes)?;
                let PlannedTensor { name, shape, .. } = self.planned;
                let start = range.start * 8 / tensor.dtype().bitsize();
                if let Some(complaint) = finite::complaint(name, tensor.dtype(), shape, &bytes, start) {
                    bail!(self.not_finite(&complaint));
                }
                Ok(Done { bytes, distortion: None, read: range.len() as u64 })
            }
            Work::Bf16(range) => with_weights(source, tensor, range.clone(), f32_per_job, |weights| {
                if let Some(i) = weights.iter().position(|weight| !weight.is_finite()) {
                    bail!(self.not_finite(&finite::at(&self.planned.shape, range.start + i, weights[i].into())));
                }
                let bytes = weights.iter().flat_map(|&w| bf16::from_f32(w).to_le_bytes()).collect();
                Ok(Done { bytes, distortion: None, read: range.len() as u64 })
            }),
            &Work::Pack { format, rows, cols, matrix, ref panels } => {
                let first_row = panels.start * PANEL_ROWS;
                let end_row = rows.min(panels.end * PANEL_ROWS);
                let elements = (matrix * rows + first_row) * cols..(matrix * rows + end_row) * cols;
                let read = (elements.len() as u64) * (tensor.bytes() as u64) / (tensor.elements().max(1) as u64);
                with_weights(source, tensor, elements, f32_per_job, |weights| {
                    let bytes = format.matrix_bytes(end_row - first_row, cols).context("panels too large")?;
                    let mut bytes = vec![0; bytes];
                    let distortion = Encoding { isa, format, rounding, importance: None }
                        .encode(weights, cols, &mut bytes)
                        .map_err(|e| e.in_panel(panels.start))
                        .with_context(|| self.describe(matrix))?;
                    Ok(Done { bytes, distortion: Some(distortion), read })
                })
            }
        }
    }

    fn describe(&self, matrix: usize) -> String {
        let name = self.planned.name.escape_debug();
        match self.planned.shape.len() {
            2 => format!("cannot pack \"{name}\""),
            _ => format!("cannot pack matrix {matrix} of \"{name}\""),
        }
    }

    /// What is wrong with a kept tensor.
    fn not_finite(&self, complaint: &str) -> String {
        let name = self.planned.name.escape_debug();
        format!(
            "cannot keep \"{name}\": {complaint}, expected finite numbers; the checkpoint is damaged, or training diverged"
        )
    }
}

/// Reads weights into this thread's buffer and hands them on. Of the buffer, `kept` bytes stay.
fn with_weights<T>(
    source: &Source,
    tensor: &SourceTensor,
    elements: Range<usize>,
    kept: usize,
    then: impl FnOnce(&[f32]) -> Result<T>,
) -> Result<T> {
    WEIGHTS.with_borrow_mut(|buffer| {
        if buffer.len() < elements.len() {
            buffer.resize(elements.len(), 0.0);
        }
        let weights = &mut buffer[..elements.len()];
        source.read_f32(tensor, elements, weights)?;
        let done = then(weights);
        // A panel wider than a job is not kept by every thread that ever met one.
        buffer.truncate(kept / size_of::<f32>());
        buffer.shrink_to(kept / size_of::<f32>());
        done
    })
}
