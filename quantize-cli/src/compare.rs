//! Compares a model with the checkpoint it was made from, tensor by tensor.

use std::ops::Range;

use kernels::panel::PANEL_ROWS;
use kernels::{Activations, Distortion, Isa, MatrixRef};
use qruntime::container::Storage;
use qruntime::{Model, PackedTensor};
use rand::SeedableRng;
use rand::seq::index;
use rand_distr::{Distribution, LogNormal, StandardNormal, StudentT};
use rand_pcg::Pcg64;
use rayon::prelude::*;
use serde::Serialize;

use crate::error::{Context, ErrorKind, Result, bail};
use crate::finite;
use crate::progress::Progress;
use crate::source::{Dtype, Source, Stored, TensorInfo, plain_bytes};

/// Rows of activations of each kind.
const X_ROWS: usize = 8;

/// Elements of the source that one thread holds at a time.
const ELEMENTS_PER_JOB: usize = 1 << 18;

/// The error that packing caused in one tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorError {
    /// The tensor.
    pub name: String,
    /// Its format.
    pub format: &'static str,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Relative RMS error of the weights.
    pub relative_rms: f64,
    /// Signal to quantization noise of the weights, in decibels; infinite, in JSON null, where
    /// nothing differs.
    pub sqnr_db: f64,
    /// Relative RMS error of the product with random activations, as the runtime computes it.
    pub product_random: f64,
    /// Relative RMS error of the product with activations shaped like those of language models.
    pub product_realistic: f64,
}

impl TensorError {
    fn is_finite(&self) -> bool {
        [self.relative_rms, self.product_random, self.product_realistic].iter().all(|error| error.is_finite())
    }
}

/// A model compared with its source.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The packed tensors, worst first.
    pub packed: Vec<TensorError>,
    /// Kept tensors whose bytes are those of the source.
    pub identical: usize,
    /// Kept tensors whose elements were widened or narrowed (8-bit floats), not compared.
    pub converted: Vec<String>,
    /// Mismatches: tensors that are missing, new, of another shape, kept but changed or not
    /// finite, or packed with an error that is not finite.
    pub mismatches: Vec<String>,
}

/// Compares every tensor.
///
/// # Errors
/// If the source cannot be read.
pub fn compare(source: &dyn Source, model: &Model, progress: &dyn Progress) -> Result<Comparison> {
    let mut comparison = Comparison { packed: vec![], identical: 0, converted: vec![], mismatches: vec![] };
    for (position, tensor) in source.tensors().iter().enumerate() {
        let name = tensor.name();
        match model.tensor(name) {
            None => comparison.mismatches.push(format!("{name}: missing in the model")),
            Some(entry) if entry.shape() != tensor.shape() => {
                let (found, expected) = (entry.shape(), tensor.shape());
                comparison.mismatches.push(format!("{name}: shape {found:?} in the model, {expected:?} in the source"));
            }
            Some(entry) => match entry.storage() {
                Storage::Packed(_) => {
                    let error = compare_packed(source, position, model.packed(name)?, model.isa(), progress)?;
                    if !error.is_finite() {
                        comparison.mismatches.push(format!("{name}: NaN or infinity in the source or in the model"));
                    }
                    comparison.packed.push(error);
                }
                Storage::Plain(dtype) if !tensor.is_plain(*dtype) && !is_decoded(tensor, *dtype) => {
                    comparison.converted.push(name.into());
                }
                Storage::Plain(_) => {
                    let kept = model.plain(name)?;
                    if identical(source, position, kept.as_bytes())? {
                        comparison.identical += 1;
                        let complaint = finite::complaint(name, kept.dtype(), kept.shape(), kept.as_bytes(), 0);
                        comparison.mismatches.extend(complaint.map(|complaint| format!("{name}: {complaint}")));
                    } else {
                        comparison.mismatches.push(format!("{name}: kept, but not as it is in the source"));
                    }
                }
            },
        }
    }
    let new = model.tensors().filter(|entry| source.position(entry.name()).is_none());
    comparison.mismatches.extend(new.map(|entry| format!("{}: not in the source", entry.name())));
    // Either NaN is the worst of all.
    let key = |t: &TensorError| if t.relative_rms.is_nan() { f64::INFINITY } else { t.relative_rms };
    comparison.packed.sort_by(|a, b| key(b).total_cmp(&key(a)));
    Ok(comparison)
}

/// Whether a tensor that the source decodes was kept exactly.
fn is_decoded(tensor: &TensorInfo, kept: Dtype) -> bool {
    matches!(tensor.stored(), Stored::Decoded(_)) && kept == Dtype::F32
}

fn identical(source: &dyn Source, tensor: usize, kept: &[u8]) -> Result<bool> {
    let is_decoded = is_decoded(&source.tensors()[tensor], Dtype::F32);
    let (mut buffer, mut weights) = (vec![0; 1 << 20], vec![]);
    for (i, kept) in kept.chunks(1 << 20).enumerate() {
        let bytes = &mut buffer[..kept.len()];
        let start = i << 20;
        if is_decoded {
            weights.resize(kept.len() / size_of::<f32>(), 0.0);
            let start = start / size_of::<f32>();
            source.read_f32(tensor, start..start + weights.len(), &mut weights)?;
            bytes.copy_from_slice(&plain_bytes(Dtype::F32, &weights));
        } else {
            source.read_stored(tensor, start..start + kept.len(), bytes)?;
        }
        if bytes != kept {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The three figures of a tensor, or of a part of it.
#[derive(Clone, Copy, Default)]
struct Sums {
    weights: Distortion,
    products: [Distortion; 2],
}

fn compare_packed(
    source: &dyn Source,
    position: usize,
    packed: PackedTensor<'_>,
    isa: Isa,
    progress: &dyn Progress,
) -> Result<TensorError> {
    let tensor = &source.tensors()[position];
    let (rows, cols) = match packed.shape() {
        [.., rows, cols] => (*rows, *cols),
        _ => bail!(ErrorKind::Model, "{} is no matrix", packed.name().escape_debug()),
    };
    let x = [random(tensor.name(), cols), realistic(tensor.name(), cols)];
    let per_job = (ELEMENTS_PER_JOB / (PANEL_ROWS * cols)).max(1);
    let panels = rows.div_ceil(PANEL_ROWS);
    let jobs: Vec<(usize, Range<usize>)> = (0..packed.matrix_count())
        .flat_map(|m| (0..panels).step_by(per_job).map(move |p| (m, p..panels.min(p + per_job))))
        .collect();
    let mut sums = Sums::default();
    for batch in jobs.chunks(4 * rayon::current_num_threads()) {
        let parts: Vec<Sums> = batch
            .par_iter()
            .map(|(m, panels)| {
                let first = m * rows + panels.start * PANEL_ROWS;
                compare_panels(source, position, packed.matrix(*m).panels(panels.clone()), first, &x, isa)
            })
            .collect::<Result<_>>()?;
        for part in parts {
            sums.weights += part.weights;
            for (sum, part) in sums.products.iter_mut().zip(part.products) {
                *sum += part;
            }
        }
        progress.advance((tensor.bytes() * batch.len() / jobs.len()) as u64, tensor.name());
    }
    let [product_random, product_realistic] = sums.products.map(Distortion::relative_rms);
    Ok(TensorError {
        name: packed.name().into(),
        format: packed.format().name(),
        shape: packed.shape().to_vec(),
        relative_rms: sums.weights.relative_rms(),
        sqnr_db: sums.weights.sqnr_db(),
        product_random,
        product_realistic,
    })
}

/// Compares some panels whose first row is `first` in the source.
fn compare_panels(
    source: &dyn Source,
    tensor: usize,
    panels: MatrixRef<'_>,
    first: usize,
    x: &[Vec<f32>; 2],
    isa: Isa,
) -> Result<Sums> {
    let cols = panels.cols();
    let mut weights = vec![0.0; panels.rows() * cols];
    source.read_f32(tensor, first * cols..(first + panels.rows()) * cols, &mut weights)?;
    let mut sums = Sums::default();
    let mut decoded = vec![0.0; cols];
    for (row, weights) in weights.chunks_exact(cols).enumerate() {
        panels.decode_row(row, &mut decoded)?;
        for (&w, &q) in weights.iter().zip(&decoded) {
            sums.weights.error += (f64::from(w) - f64::from(q)).powi(2);
            sums.weights.signal += f64::from(w).powi(2);
        }
    }
    for (x, sum) in x.iter().zip(&mut sums.products) {
        let mut y = vec![[0.0; PANEL_ROWS]; panels.panel_count() * X_ROWS];
        let mut activations = Activations::default();
        activations.quantize(isa, x, cols, &[X_ROWS])?;
        kernels::multiply(isa, panels, activations.group(0), &mut y).context(ErrorKind::Model, "product")?;
        for (row, weights) in weights.chunks_exact(cols).enumerate() {
            for (i, x) in x.chunks_exact(cols).enumerate() {
                let exact = dot(weights, x);
                let found = y[row / PANEL_ROWS * X_ROWS + i][row % PANEL_ROWS];
                sum.error += (f64::from(found) - exact).powi(2);
                sum.signal += exact.powi(2);
            }
        }
    }
    Ok(sums)
}

/// The product of two rows in binary64, in eight strands so that it runs at a decent speed.
fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f64::from(a) * f64::from(b);
        }
    }
    sums.iter().sum()
}

/// A generator that depends on the tensor's name only, so that a figure can be had again.
fn generator(name: &str) -> Pcg64 {
    Pcg64::seed_from_u64(
        name.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)),
    )
}

/// Independent standard normal activations.
fn random(name: &str, cols: usize) -> Vec<f32> {
    StandardNormal.sample_iter(generator(name)).take(X_ROWS * cols).collect()
}

/// Activations shaped like hidden states of language models, see `docs/quantization.md`.
fn realistic(name: &str, cols: usize) -> Vec<f32> {
    let mut generator = generator(name);
    let spread = LogNormal::new(0.0, 0.5).expect("a valid deviation");
    let mut channels: Vec<f32> = spread.sample_iter(&mut generator).take(cols).collect();
    for outlier in index::sample(&mut generator, cols, cols.div_ceil(100)) {
        channels[outlier] *= 20.0;
    }
    let tails = StudentT::new(5.0f32).expect("valid degrees of freedom");
    let mut x: Vec<f32> = tails.sample_iter(&mut generator).take(X_ROWS * cols).collect();
    for x in x.chunks_exact_mut(cols) {
        for (x, channel) in x.iter_mut().zip(&channels) {
            *x *= channel;
        }
    }
    x
}
