//! Attention with grouped heads of keys and values (Vaswani et al., 2017; Ainslie et al., 2023).

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};

use kernels::{AttentionOptions, AttentionScratch, Isa, KvFormat, KvHead, attend};
use ndarray::{ArrayViewMut2, Axis};

use super::batch::{Piece, Place};
use super::norm::{ELEMENT, Norm};
use super::rope::Rope;
use super::spec::{AttentionSpec, Mask};
use super::tap::Products;
use super::weights::Weights;
use super::{largest, rows, rows_mut, sized};
use crate::error::Error;
use crate::linear::Linear;
use crate::names::Part;
use crate::parallel;

/// The attention of one layer.
pub(crate) struct Attention {
    spec: AttentionSpec,
    isa: Isa,
    /// Queries, keys and values; or all in one.
    inputs: Vec<Linear>,
    output: Linear,
    /// The norms of query and of key heads.
    head_norms: Option<[Norm; 2]>,
}

/// Scratch memory of attention, kept between calls.
#[derive(Default)]
pub(crate) struct AttentionState {
    /// Queries, keys and values of every row.
    qkv: Vec<f32>,
    attended: Vec<f32>,
    /// Scratch of each thread.
    scratch: Vec<Scratch>,
}

#[derive(Default)]
struct Scratch {
    kernel: AttentionScratch,
    queries: Vec<f32>,
    visible: Vec<Range<usize>>,
    out: Vec<f32>,
}

/// The attention of some rows of one sequence for one head of keys and values.
struct Task<'a> {
    kv: &'a KvHead,
    /// The index of the head.
    head: usize,
    /// The index of the first row among all rows.
    row: usize,
    /// The position of that row.
    position: usize,
    out: ArrayViewMut2<'a, f32>,
}

/// Most queries of a task, over all heads of its group: enough to reuse many times what is read
/// from the cache.
const QUERIES: usize = 64;

impl Attention {
    /// Makes the layer from the tensors in `weights`.
    pub(crate) fn new(weights: &Weights, hidden: usize, spec: AttentionSpec) -> Result<Self, Error> {
        let [queries, keys, values] = spec.widths();
        let inputs: &[(Part, usize)] = match spec.fused {
            true => &[(Part::QueryKeyValue, queries + keys + values)],
            false => &[(Part::Query, queries), (Part::Key, keys), (Part::Value, values)],
        };
        let input = |&(part, width)| weights.linear(part, width, hidden, spec.inputs_bias);
        let head_norm = |norm| {
            let named = |part| weights.rms_norm(part, spec.head_dim, norm);
            Ok::<_, Error>([named(Part::QueryNorm)?, named(Part::KeyNorm)?])
        };
        Ok(Self {
            spec,
            isa: weights.isa(),
            inputs: inputs.iter().map(input).collect::<Result<_, _>>()?,
            output: weights.linear(Part::AttentionOutput, hidden, queries, spec.output_bias)?,
            head_norms: spec.head_norm.map(head_norm).transpose()?,
        })
    }

    /// Returns the shape of attention, for which caches are made.
    pub(crate) fn spec(&self) -> &AttentionSpec {
        &self.spec
    }

    /// Attends from every row of `x` to the visible rows of its sequence, and appends keys and
    /// values to the `layer` of the cache.
    ///
    /// If one of these cannot be stored, because it is not finite or too large, returns its
    /// magnitude; the content of `y` is then unspecified.
    pub(crate) fn forward(
        &self,
        x: &[f32],
        pieces: &mut [Piece<'_>],
        layer: usize,
        (ropes, places): (&[Rope], &[Place]),
        (state, products): (&mut AttentionState, &mut Products<'_>),
        y: &mut [f32],
    ) -> Result<Option<f32>, Error> {
        let [queries, keys, values] = self.spec.widths();
        let (count, hidden, cols) = (places.len(), self.output.out_features(), queries + keys + values);
        let AttentionState { qkv, attended, scratch } = state;
        let qkv = sized(qkv, count * cols);
        let attended = sized(attended, count * queries);

        let all = rows_mut(qkv, cols);
        let inputs: Vec<&Linear> = self.inputs.iter().collect();
        if self.inputs.len() == 1 {
            products.each(&inputs, rows(x, hidden), &mut [all])?;
        } else {
            let (q, kv) = all.split_at(Axis(1), queries);
            let (k, v) = kv.split_at(Axis(1), keys);
            products.each(&inputs, rows(x, hidden), &mut [q, k, v])?;
        }
        self.place(qkv, ropes, places);
        if let Some(found) = self.remember(qkv, pieces, layer) {
            return Ok(Some(found));
        }
        self.attend(qkv, pieces, layer, attended, scratch);
        products.one(&self.output, rows(attended, queries), rows_mut(y, hidden))?;
        Ok(None)
    }

    /// Normalizes and rotates the heads of queries and keys.
    fn place(&self, qkv: &mut [f32], ropes: &[Rope], places: &[Place]) {
        let rope = self.spec.rope.map(|rope| &ropes[rope]);
        if rope.is_none() && self.head_norms.is_none() {
            return;
        }
        let head_dim = self.spec.head_dim;
        let [queries, keys, values] = self.spec.widths();
        let cost = (queries + keys) * ELEMENT;
        parallel::rows(cost, qkv.chunks_mut(queries + keys + values).zip(places), |(row, place)| {
            let (q, rest) = row.split_at_mut(queries);
            let k = &mut rest[..keys];
            if let Some([of_queries, of_keys]) = &self.head_norms {
                let mut head = [0.0; MAX_HEAD_DIM];
                let head = &mut head[..head_dim];
                for (heads, norm) in [(&mut *q, of_queries), (&mut *k, of_keys)] {
                    for x in heads.chunks_exact_mut(head_dim) {
                        head.copy_from_slice(x);
                        norm.row(head, x);
                    }
                }
            }
            if let Some(rope) = rope {
                rope.rotate(q, head_dim, place.position, place.context);
                rope.rotate(k, head_dim, place.position, place.context);
            }
        });
    }

    /// Appends keys and values to the cache. Returns the largest magnitude if that cannot be
    /// stored.
    fn remember(&self, qkv: &[f32], pieces: &mut [Piece<'_>], layer: usize) -> Option<f32> {
        let head_dim = self.spec.head_dim;
        let [queries, keys, values] = self.spec.widths();
        let cols = queries + keys + values;
        let threads = parallel::threads(qkv.len() / cols * (keys + values) * ELEMENT);
        // Non-negative floats are ordered as their bits are.
        let beyond = AtomicU32::new(0);
        let mut rest = qkv;
        let heads = pieces.iter_mut().flat_map(|piece| {
            let (rows, others) = rest.split_at(piece.rows * cols);
            rest = others;
            piece.cache.layer(layer).iter_mut().enumerate().map(move |(head, kv)| (rows, head, kv))
        });
        parallel::each::<1, _, _>(heads, &mut vec![(); threads], |(rows, head, kv), ()| {
            for row in rows.chunks_exact(cols) {
                let key = &row[queries + head * head_dim..][..head_dim];
                let value = &row[queries + keys + head * head_dim..][..head_dim];
                let found = largest(key).to_bits().max(largest(value).to_bits());
                if found >= limit(kv.format()).to_bits() {
                    beyond.fetch_max(found, Ordering::Relaxed);
                }
                kv.push(self.isa, key, value);
            }
        });
        Some(f32::from_bits(beyond.into_inner())).filter(|&found| found != 0.0)
    }

    /// Attends from all rows to the cache.
    fn attend(&self, qkv: &[f32], pieces: &mut [Piece<'_>], layer: usize, out: &mut [f32], scratch: &mut Vec<Scratch>) {
        let width = self.spec.group() * self.spec.head_dim;
        let rows_at_once = (QUERIES / self.spec.group()).max(1);
        let (mut tasks, mut work, mut row) = (Vec::new(), 0usize, 0);
        let mut rest = rows_mut(out, self.spec.heads * self.spec.head_dim);
        for piece in pieces {
            let (mut heads, others) = rest.split_at(Axis(0), piece.rows);
            rest = others;
            for (head, kv) in piece.cache.layer(layer).iter().enumerate() {
                let (mut of_head, others) = heads.split_at(Axis(1), width);
                heads = others;
                let (mut row, mut position) = (row, piece.start);
                while of_head.nrows() > 0 {
                    let n = of_head.nrows().min(rows_at_once);
                    let (out, others) = of_head.split_at(Axis(0), n);
                    of_head = others;
                    work = work.saturating_add(self.visible(position + n - 1, kv.len()).len() * 2 * width * n);
                    tasks.push(Task { kv, head, row, position, out });
                    (row, position) = (row + n, position + n);
                }
            }
            row += piece.rows;
        }
        let threads = parallel::threads(work).min(tasks.len().max(1));
        if scratch.len() < threads {
            scratch.resize_with(threads, Scratch::default);
        }
        parallel::each::<1, _, _>(tasks.into_iter(), &mut scratch[..threads], |task, scratch| {
            self.run(task, qkv, scratch);
        });
    }

    /// Returns the positions visible from `position` in a sequence of `len`.
    fn visible(&self, position: usize, len: usize) -> Range<usize> {
        match self.spec.mask {
            Mask::Causal => 0..position + 1,
            Mask::Window(window) => (position + 1).saturating_sub(window)..position + 1,
            Mask::Full => 0..len,
        }
    }

    fn run(&self, mut task: Task<'_>, qkv: &[f32], scratch: &mut Scratch) {
        let Scratch { kernel, queries, visible, out } = scratch;
        let group = self.spec.group();
        let (cols, width) = (self.spec.widths().iter().sum::<usize>(), group * self.spec.head_dim);
        queries.clear();
        visible.clear();
        for i in 0..task.out.nrows() {
            queries.extend_from_slice(&qkv[(task.row + i) * cols + task.head * width..][..width]);
            let range = self.visible(task.position + i, task.kv.len());
            visible.extend((0..group).map(|_| range.clone()));
        }
        let out = sized(out, queries.len());
        let options = AttentionOptions { scale: self.spec.scale, softcap: self.spec.softcap };
        attend(self.isa, task.kv, queries, visible, options, kernel, out);
        for (mut to, from) in task.out.outer_iter_mut().zip(out.chunks_exact(width)) {
            to.as_slice_mut().expect("a part of a row").copy_from_slice(from);
        }
    }
}

/// Returns the smallest magnitude that a format of keys and values cannot hold.
fn limit(format: KvFormat) -> f32 {
    match format {
        // Values nearer to 2^16 than to the largest finite value become infinite.
        KvFormat::F16 => 65520.0,
        KvFormat::Q8 => f32::INFINITY,
    }
}

/// The largest head dimension.
pub(crate) const MAX_HEAD_DIM: usize = 1024;
