//! Carries a plan out: reads, encodes on every core, writes in order. Memory does not depend on the
//! size of the model.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use kernels::panel::{self, PANEL_ROWS};
use kernels::{Distortion, Format, Isa};
use rayon::prelude::*;

use crate::disk::check_space;
use crate::error::{Context, Error, ErrorKind, Result, bail};
use crate::finite;
use crate::layout::{Action, Form};
use crate::output::{Output, Recipe, Sink, parent};
use crate::plan::{Plan, Step};
use crate::progress::Progress;
use crate::report::percent;
use crate::round::{Place, RoundPanel, Rounder};
use crate::source::{Dtype, Source, plain_bytes};

/// Bytes that a batch takes at most, see [`Job::memory`]; more only where a single panel takes
/// more.
const BATCH_BYTES: usize = 128 << 20;

/// Relative RMS error above which packing has kept next to nothing of a tensor: without the tensor
/// it is 1.
const LOST: f64 = 0.5;

/// Most tensors with such a loss that are named.
const NAMED: usize = 5;

/// Bytes of `f32` that a job has at most; more only where a single panel has more.
const F32_PER_JOB: usize = 4 << 20;

/// A conversion: what is read, what becomes of it, and how.
///
/// Encoding uses rayon's current pool; the bytes do not depend on the number of threads. When
/// `cancelled` becomes true, the conversion stops with an error.
#[derive(Clone, Copy, Debug)]
pub struct Conversion<'a> {
    /// The checkpoint.
    pub source: &'a dyn Source,
    /// What becomes of its tensors.
    pub plan: &'a Plan,
    /// The ways of rounding that the plan names.
    pub rounders: &'a [&'a dyn Rounder],
    /// The instruction set that encodes.
    pub isa: Isa,
    /// Where progress is shown.
    pub progress: &'a dyn Progress,
    /// Set by another thread to stop the conversion.
    pub cancelled: &'a AtomicBool,
}

/// What packing cost each tensor of a plan; nothing for those that are kept.
pub type Distortions = Vec<Option<Distortion>>;

impl<'a> Conversion<'a> {
    /// Writes a model at `at`: into a folder that is there, with the files that belong to it, or to
    /// a single file.
    ///
    /// # Errors
    /// If the disk is too full, a companion cannot be copied, or as [`run`](Self::run).
    pub fn write(&self, output: &dyn Output, at: &Path, recipe: &Recipe) -> Result<Distortions> {
        if at.is_dir() {
            let companions = self.source.companions();
            check_space(at, self.plan.bytes() + companions.bytes())?;
            let config = companions.config().and_then(|config| output.config(config, self.plan));
            companions.copy(at, config.as_deref(), self.cancelled)?;
        } else {
            check_space(parent(at), self.plan.bytes())?;
        }
        self.run(output.create(at, self.plan, recipe, self.source)?)
    }

    /// Reads, encodes and writes all tensors in the order of the sink, and finishes it.
    ///
    /// # Errors
    /// If the source cannot be read, a weight is not finite (masks, which are kept, may be
    /// infinite), or the output fails.
    pub fn run(&self, mut sink: Box<dyn Sink>) -> Result<Distortions> {
        let order = sink.order().to_vec();
        let mut distortions = vec![None; self.plan.steps.len()];
        let threads = rayon::current_num_threads();
        // Two jobs for every thread, of which none takes more than twice its `f32`.
        let f32_per_job = (BATCH_BYTES / (4 * threads)).min(F32_PER_JOB);
        let mut jobs = order.iter().flat_map(|&step| self.jobs(step, f32_per_job / size_of::<f32>())).peekable();

        // Of no capacity: two batches of output are alive, one that is written and one that is
        // encoded or waits.
        let (sender, receiver) = mpsc::sync_channel::<Vec<Done>>(0);
        thread::scope(|scope| {
            let writing = scope.spawn(move || {
                for done in receiver.into_iter().flatten() {
                    sink.write(&done.bytes).context(ErrorKind::Output, "cannot write the output")?;
                }
                Ok::<_, Error>(sink)
            });
            let mut encode = || {
                loop {
                    let mut batch: Vec<Job<'_>> = vec![];
                    let mut bytes = 0;
                    while let Some(job) = jobs.next_if(|job| {
                        bytes += job.as_ref().map_or(0, Job::memory);
                        batch.is_empty() || (batch.len() < 2 * threads && bytes <= BATCH_BYTES)
                    }) {
                        batch.push(job?);
                    }
                    if batch.is_empty() {
                        return Ok(());
                    }
                    if self.cancelled.load(Ordering::Relaxed) {
                        bail!(ErrorKind::Cancelled, "interrupted; nothing was written");
                    }
                    // All of them first, so that of several errors always the same one is reported.
                    let done: Vec<Result<Done>> =
                        batch.par_iter().map(|job| job.run(self.source, self.isa, f32_per_job)).collect();
                    let done: Vec<Done> = done.into_iter().collect::<Result<_>>()?;
                    for (job, done) in batch.iter().zip(&done) {
                        if let Some(distortion) = done.distortion {
                            *distortions[job.position].get_or_insert_default() += distortion;
                        }
                        self.progress.advance(done.read, &job.step.name);
                    }
                    if sender.send(done).is_err() {
                        // The writer stopped: its error says why.
                        return Ok(());
                    }
                }
            };
            let encoded = encode();
            drop(sender);
            let panicked = |_| Error::new(ErrorKind::Output, "the writing thread panicked");
            let written = writing.join().map_err(panicked)?;
            encoded?;
            written?.finish().context(ErrorKind::Output, "cannot write the output")?;
            Ok(distortions)
        })
    }

    /// The jobs of one step, in the order of its bytes.
    fn jobs(&self, position: usize, elements_per_job: usize) -> Vec<Result<Job<'a>>> {
        let step = &self.plan.steps[position];
        let job = |work| Ok(Job { position, step, work });
        let pieces = |len: usize, piece: usize| {
            (0..len).step_by(piece.max(1)).map(move |start| start..len.min(start + piece.max(1)))
        };
        // The panels of every matrix in turn, some of them in each job.
        let panels = |matrices: &[usize], rows: usize, cols: usize| {
            let each = (elements_per_job / (PANEL_ROWS * cols)).max(1);
            (0..matrices.iter().product())
                .flat_map(move |matrix| pieces(rows.div_ceil(PANEL_ROWS), each).map(move |panels| (matrix, panels)))
        };
        match (step.layout.form, step.shape.as_slice()) {
            (Form::Panels(format) | Form::Rows(format), &[ref matrices @ .., rows, cols])
                if step.action == Action::Keep =>
            {
                panels(matrices, rows, cols)
                    .map(|(matrix, panels)| job(Work::Repack { format, rows, cols, matrix, panels }))
                    .collect()
            }
            (Form::Panels(format) | Form::Rows(format), &[ref matrices @ .., rows, cols]) => {
                let round: Arc<dyn RoundPanel + 'a> =
                    match self.rounder(step).and_then(|r| r.tensor(&step.name, format, cols)) {
                        Ok(round) => Arc::from(round),
                        Err(error) => return vec![Err(error)],
                    };
                panels(matrices, rows, cols)
                    .map(|(matrix, panels)| {
                        let round = Arc::clone(&round);
                        job(Work::Pack { round, format, rows, cols, matrix, panels })
                    })
                    .collect()
            }
            (Form::Plain(dtype), _) if !self.source.tensors()[step.tensor].is_plain(dtype) => {
                pieces(step.elements(), elements_per_job).map(|elements| job(Work::Decode(dtype, elements))).collect()
            }
            // Whole numbers of elements, the longest of which have 8 bytes.
            _ => pieces(step.layout.bytes, elements_per_job.next_multiple_of(2) * size_of::<f32>())
                .map(Work::Copy)
                .map(job)
                .collect(),
        }
    }

    fn rounder(&self, step: &Step) -> Result<&'a dyn Rounder> {
        let found = self.rounders.iter().copied().find(|rounder| rounder.name() == step.rounder);
        found.with_context(ErrorKind::Request, || format!("no rounding {:?}", step.rounder))
    }
}

/// Sentences about the tensors of which packing kept next to nothing, as where weights are below
/// the smallest scale of the format; the worst first.
#[must_use]
pub fn losses(plan: &Plan, distortions: &[Option<Distortion>]) -> Vec<String> {
    let errors = plan.steps.iter().zip(distortions);
    let errors = errors.filter_map(|(planned, distortion)| Some((planned, distortion.as_ref()?.relative_rms())));
    let mut lost: Vec<(&Step, f64)> = errors.filter(|&(_, error)| error > LOST).collect();
    lost.sort_by(|a, b| b.1.total_cmp(&a.1));
    let sentence = |&(planned, error): &(&Step, f64)| {
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

/// A part of a tensor that one thread processes at a time.
struct Job<'a> {
    /// The step's place in the plan.
    position: usize,
    step: &'a Step,
    work: Work<'a>,
}

enum Work<'a> {
    /// Encode these panels of one matrix of `rows x cols`.
    Pack {
        round: Arc<dyn RoundPanel + 'a>,
        format: Format,
        rows: usize,
        cols: usize,
        matrix: usize,
        panels: Range<usize>,
    },
    /// Interleave the blocks of these panels of one matrix of `rows x cols`, which stay what they
    /// are.
    Repack { format: Format, rows: usize, cols: usize, matrix: usize, panels: Range<usize> },
    /// Copy these bytes.
    Copy(Range<usize>),
    /// Write these elements, 8-bit floats with their scales or blocks, as BF16 or F32.
    Decode(Dtype, Range<usize>),
}

struct Done {
    bytes: Vec<u8>,
    distortion: Option<Distortion>,
    /// Bytes of the source that this took.
    read: u64,
}

thread_local! {
    /// Each thread's weights, kept between jobs.
    static WEIGHTS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

impl Job<'_> {
    /// Bytes that it takes: its elements as `f32` and the rounder's scratch while it runs, and its
    /// output twice, since two batches of that are alive.
    fn memory(&self) -> usize {
        match &self.work {
            Work::Pack { round, format, cols, panels, .. } => {
                let f32_bytes = PANEL_ROWS * cols * size_of::<f32>();
                let panel_bytes = format.panel_bytes(*cols).unwrap_or(f32_bytes);
                panels.len() * (f32_bytes + 2 * panel_bytes) + round.memory()
            }
            Work::Repack { format, cols, panels, .. } => {
                panels.len() * 3 * format.panel_bytes(*cols).unwrap_or_default() + cols * size_of::<f32>()
            }
            Work::Decode(dtype, elements) => elements.len() * (size_of::<f32>() + 2 * dtype.bitsize() / 8),
            Work::Copy(bytes) => 2 * bytes.len(),
        }
    }

    fn run(&self, source: &dyn Source, isa: Isa, f32_per_job: usize) -> Result<Done> {
        let index = self.step.tensor;
        let tensor = &source.tensors()[index];
        match &self.work {
            Work::Copy(range) => {
                let mut bytes = vec![0; range.len()];
                source.read_stored(index, range.clone(), &mut bytes)?;
                let start = range.start * 8 / tensor.dtype().bitsize();
                if let Some(complaint) = finite::complaint(tensor.name(), tensor.dtype(), tensor.shape(), &bytes, start)
                {
                    return Err(self.not_finite(&complaint));
                }
                Ok(Done { bytes, distortion: None, read: range.len() as u64 })
            }
            Work::Decode(dtype, range) => with_weights(source, index, range.clone(), f32_per_job, |weights| {
                if let Some(i) = weights.iter().position(|weight| !weight.is_finite()) {
                    let at = finite::at(&self.step.shape, range.start + i, weights[i].into());
                    return Err(self.not_finite(&at));
                }
                Ok(Done { bytes: plain_bytes(*dtype, weights), distortion: None, read: range.len() as u64 })
            }),
            &Work::Repack { format, rows, cols, matrix, ref panels } => {
                let row_bytes = tensor.bytes() / tensor.rows();
                let (first_row, end_row) = (panels.start * PANEL_ROWS, rows.min(panels.end * PANEL_ROWS));
                let mut blocks = vec![0; (end_row - first_row) * row_bytes];
                let first_byte = (matrix * rows + first_row) * row_bytes;
                source.read_stored(index, first_byte..first_byte + blocks.len(), &mut blocks)?;
                self.check_finite(format, cols, matrix * rows + first_row, &blocks)?;
                if self.is_by_rows() {
                    let read = blocks.len() as u64;
                    return Ok(Done { bytes: blocks, distortion: None, read });
                }
                let bytes = format.matrix_bytes(end_row - first_row, cols);
                let mut bytes = vec![0; bytes.context(ErrorKind::Weights, "panels too large")?];
                let panel_bytes = format.panel_bytes(cols).context(ErrorKind::Weights, "panels too large")?;
                for (rows, panel) in blocks.chunks(PANEL_ROWS * row_bytes).zip(bytes.chunks_mut(panel_bytes)) {
                    panel::pack(format, cols, rows, panel)?;
                }
                Ok(Done { bytes, distortion: None, read: blocks.len() as u64 })
            }
            &Work::Pack { ref round, format, rows, cols, matrix, ref panels } => {
                let first_row = panels.start * PANEL_ROWS;
                let end_row = rows.min(panels.end * PANEL_ROWS);
                let elements = (matrix * rows + first_row) * cols..(matrix * rows + end_row) * cols;
                let read = (elements.len() as u64) * (tensor.bytes() as u64) / (tensor.elements().max(1) as u64);
                with_weights(source, index, elements, f32_per_job, |weights| {
                    let bytes = format.matrix_bytes(end_row - first_row, cols);
                    let mut bytes = vec![0; bytes.context(ErrorKind::Weights, "panels too large")?];
                    let distortion = round
                        .encode(isa, Place { matrix, row: first_row }, weights, &mut bytes)
                        .map_err(|error| error.in_panel(panels.start))
                        .with_context(ErrorKind::Weights, || self.describe(matrix))?;
                    if self.is_by_rows() {
                        bytes = by_rows(format, cols, end_row - first_row, &bytes)?;
                    }
                    Ok(Done { bytes, distortion: Some(distortion), read })
                })
            }
        }
    }

    /// Whether blocks lie row by row rather than in panels.
    fn is_by_rows(&self) -> bool {
        matches!(self.step.layout.form, Form::Rows(_))
    }

    /// Refuses rows of blocks, from row `first` on, of which a weight is not finite.
    fn check_finite(&self, format: Format, cols: usize, first: usize, blocks: &[u8]) -> Result<()> {
        let mut weights = vec![0.0; cols];
        let row_bytes = format.row_bytes(cols).context(ErrorKind::Weights, "rows too long")?;
        for (row, blocks) in blocks.chunks_exact(row_bytes).enumerate() {
            format.decode(blocks, &mut weights)?;
            if let Some(col) = weights.iter().position(|weight| !weight.is_finite()) {
                let at = finite::at(&self.step.shape, (first + row) * cols + col, weights[col].into());
                return Err(self.not_finite(&at));
            }
        }
        Ok(())
    }

    fn describe(&self, matrix: usize) -> String {
        let name = self.step.name.escape_debug();
        match self.step.shape.len() {
            2 => format!("cannot pack \"{name}\""),
            _ => format!("cannot pack matrix {matrix} of \"{name}\""),
        }
    }

    /// Makes the error for a kept tensor with an element that is not finite.
    fn not_finite(&self, complaint: &str) -> Error {
        let name = self.step.name.escape_debug();
        let message = format!(
            "cannot keep \"{name}\": {complaint}, expected finite numbers; the checkpoint is damaged, or training diverged"
        );
        Error::new(ErrorKind::Weights, message)
    }
}

/// Returns the blocks of so many rows, row by row, of panels.
fn by_rows(format: Format, cols: usize, rows: usize, panels: &[u8]) -> Result<Vec<u8>> {
    let row_bytes = format.row_bytes(cols).context(ErrorKind::Weights, "rows too long")?;
    let mut blocks = vec![0; rows * row_bytes];
    let panels = panels.chunks_exact(PANEL_ROWS * row_bytes);
    for (panel, rows) in panels.zip(blocks.chunks_mut(PANEL_ROWS * row_bytes)) {
        panel::unpack(format, cols, panel, rows)?;
    }
    Ok(blocks)
}

/// Reads weights into this thread's buffer and hands them on. Of the buffer, `kept` bytes stay.
fn with_weights<T>(
    source: &dyn Source,
    tensor: usize,
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use kernels::EncodeError;

    use super::*;
    use crate::output::Panels;
    use crate::plan::Request;
    use crate::round;
    use crate::source::{self, Dtype};

    #[test]
    fn a_full_disk_is_told_of_before_a_file_without_a_folder_is_begun() -> Result<()> {
        let source = &*source::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m").as_ref())?;
        let request = Request { to: Format::Q8_0.into(), rules: &[], rounding: round::DEFAULT.name() };
        let mut plan = Plan::new(source.tensors(), None, request, &|t, a| Panels.stored(t, a))?;
        plan.steps[0].layout.bytes = usize::MAX / 2;
        let recipe = Recipe::new(source, &plan, &[]);
        let conversion = Conversion {
            source,
            plan: &plan,
            rounders: round::ROUNDERS,
            isa: Isa::best(),
            progress: &crate::progress::Silent,
            cancelled: &AtomicBool::new(false),
        };
        let written = conversion.write(&Panels, Path::new("no-room.safetensors"), &recipe);
        let error = written.expect_err("no disk is so large").to_string();
        assert!(error.contains("of free disk space"), "{error}");
        Ok(())
    }

    /// Notes which rows it is asked to encode.
    #[derive(Debug, Default)]
    struct Noted(Mutex<Vec<(Place, usize)>>);

    impl Rounder for Noted {
        fn name(&self) -> &'static str {
            "noted"
        }

        fn tensor<'a>(&'a self, _: &str, _: Format, _: usize) -> Result<Box<dyn RoundPanel + 'a>> {
            Ok(Box::new(NotedPanels(self)))
        }
    }

    #[derive(Debug)]
    struct NotedPanels<'a>(&'a Noted);

    impl RoundPanel for NotedPanels<'_> {
        fn memory(&self) -> usize {
            0
        }

        fn encode(&self, _: Isa, place: Place, weights: &[f32], _: &mut [u8]) -> Result<Distortion, EncodeError> {
            self.0.0.lock().expect("no thread panics").push((place, weights.len()));
            Ok(Distortion::default())
        }
    }

    #[test]
    fn a_rounder_knows_the_matrix_and_the_rows() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("experts.safetensors");
        // Several jobs for each matrix.
        let bytes = vec![0; 2 * 2 * 48 * (64 << 10)];
        let view = safetensors::tensor::TensorView::new(Dtype::BF16, vec![2, 48, 64 << 10], &bytes).expect("a tensor");
        let file = safetensors::serialize([("model.layers.0.mlp.experts.down_proj", view)], None).expect("a file");
        std::fs::write(&path, file)?;
        let source = &*source::open(&path)?;
        let noted = Noted::default();
        let rules = ["*=q8_0".parse().expect("a rule")];
        let request = Request { to: Format::Q8_0.into(), rules: &rules, rounding: noted.name() };
        let plan = Plan::new(source.tensors(), None, request, &|t, a| Panels.stored(t, a))?;
        let conversion = Conversion {
            source,
            plan: &plan,
            rounders: &[&noted],
            isa: Isa::best(),
            progress: &crate::progress::Silent,
            cancelled: &AtomicBool::new(false),
        };
        conversion.write(&Panels, &folder.path().join("out.safetensors"), &Recipe::new(source, &plan, &[]))?;
        let mut noted = noted.0.into_inner().expect("no thread panics");
        noted.sort_unstable_by_key(|(place, _)| (place.matrix, place.row));
        // Every row once, whatever the number of threads makes of the jobs.
        let mut next = Place { matrix: 0, row: 0 };
        for (place, len) in noted {
            assert_eq!(place, next);
            next.row += len / (64 << 10);
            if next.row == 48 {
                next = Place { matrix: place.matrix + 1, row: 0 };
            }
        }
        assert_eq!(next, Place { matrix: 2, row: 0 });
        Ok(())
    }
}
