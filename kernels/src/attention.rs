//! Attention of rows of queries to the keys and values of one head.
//!
//! ```text
//! for block of 16 to 64 rows of queries:
//!     for panel of 64 positions, quad of 4 rows:
//!         for d in 0..dim:                                      keys: a lane is a position
//!             for row in 0..4, i in 0..4:
//!                 sum[row][i] = fma(query[row][d], key[d][i], sum[row][i])
//!         scores[row][panel] = finish(sum[row])                 scales, softcap
//!     for row: weights[row] = exp(scores[row] - max)            softmax, but for the division
//!     for panel, group of 64 dimensions, quad of 4 rows:
//!         for position that all four rows see:                  values: a lane is a dimension
//!             sum[row][i] = fma(weights[row][position], value[position][i], sum[row][i])
//!     out[row] = sum[row] / Σ weights[row]
//!
//! lane          0          1               15
//! key[d][i]     k(p)[d]    k(p + 1)[d] ... k(p + 15)[d]     one dimension of 16 positions
//! value[p][i]   v(p)[d]    v(p)[d + 1] ... v(p)[d + 15]     16 dimensions of one position
//! ```
//!
//! Each key or value that is loaded is used for the four rows of a quad. For more than one quad,
//! keys and values are first widened into the first-level cache. A result depends only on its query
//! and on the keys and values that it sees: `docs/quantization.md` defines the order of operations.

use core::ops::Range;

use crate::isa::{Isa, Kernel, Simd};
use crate::kv::{KvHead, LANES, Lanes, POSITIONS, Store, Stored, VECTORS, Vector};
use crate::math;
use crate::vector::{exp_and_sum, largest};

/// Rows that meet a key or a value together.
const QUAD: usize = 4;

/// Vectors of a panel's keys that are widened at a time.
const HALF: usize = VECTORS / 2;

/// Most scores in a block of rows: they stay in the second-level cache.
const SCORES: usize = 1 << 16;

/// Fewest and most rows in a block.
const ROWS: [usize; 2] = [16, 64];

/// How scores are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionOptions {
    /// Factor of the products of queries and keys, most often `1 / √dim`.
    pub scale: f32,
    /// `cap`, if scores become `cap·tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Buffers that [`attend`] reuses between calls; they grow to what the largest call needs.
#[derive(Clone, Debug, Default)]
pub struct AttentionScratch {
    /// Queries of quads, their rows interleaved.
    queries: Vec<[f32; QUAD]>,
    /// Some keys or values of a panel, widened.
    widened: Vec<[f32; LANES]>,
    /// Computes the scores of all rows and panels. Scores of positions that a row does not see are
    /// undefined.
    scores: Vec<f32>,
    /// Sums of the values of a block of rows.
    sums: Vec<[f32; LANES]>,
    /// The inverse of the sum of each row's exponentials.
    inverses: Vec<f32>,
}

/// Computes attention of rows of queries to the positions that each of them sees:
/// `out = softmax(scores)·values`.
///
/// `queries` and `out` are rows of [`KvHead::dim`] elements, in any order: the tokens of a prompt
/// times the heads that share these keys and values. Row `r` sees the positions `visible[r]`. A row
/// that sees none becomes zeros. Rows in which neighbours see nearly the same are faster.
///
/// # Panics
/// If the lengths do not agree or a row sees positions that are not there.
pub fn attend(
    isa: Isa,
    kv: &KvHead,
    queries: &[f32],
    visible: &[Range<usize>],
    options: AttentionOptions,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    assert!(queries.len() == visible.len() * kv.dim && out.len() == queries.len(), "lengths of queries and outputs");
    assert!(visible.iter().all(|range| range.end <= kv.len), "a row that sees positions beyond the last");
    let dim = kv.dim;
    let layout = Layout::new(visible);
    scratch.grow(dim, layout);
    match &kv.stored {
        Stored::F16(store) => {
            isa.run_without_dots(Attend { dim, layout, store, queries, visible, options, scratch, out });
        }
        Stored::Q8(store) => {
            isa.run_without_dots(Attend { dim, layout, store, queries, visible, options, scratch, out });
        }
    }
}

/// How the rows are cut into blocks.
#[derive(Clone, Copy)]
struct Layout {
    /// Rows in a block.
    rows: usize,
    /// From the scores of one row to those of the next. No multiple of 64 bytes: broadcasts from
    /// four rows would meet in one bank of the cache.
    stride: usize,
}

impl Layout {
    fn new(visible: &[Range<usize>]) -> Self {
        let longest = visible.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let rows = (SCORES / (longest + 1)).clamp(ROWS[0], ROWS[1]) / QUAD * QUAD;
        let panels = visible.chunks(rows).map(|visible| panels(visible).len()).max().unwrap_or(0);
        Self { rows: rows.min(visible.len()), stride: panels * POSITIONS + QUAD }
    }
}

/// Returns the range of panels in which some row sees a position.
#[inline(always)]
fn panels(visible: &[Range<usize>]) -> Range<usize> {
    let (mut start, mut end) = (usize::MAX, 0);
    for visible in visible {
        if visible.start < visible.end {
            start = start.min(visible.start / POSITIONS);
            end = end.max(visible.end.div_ceil(POSITIONS));
        }
    }
    start.min(end)..end
}

impl AttentionScratch {
    /// Grows the buffers to what this layout needs.
    fn grow(&mut self, dim: usize, layout: Layout) {
        fn grow<T: Clone>(memory: &mut Vec<T>, len: usize, zero: T) {
            if memory.len() < len {
                memory.resize(len, zero);
            }
        }
        let Layout { rows, stride } = layout;
        grow(&mut self.queries, rows / QUAD * dim, [0.0; QUAD]);
        grow(&mut self.widened, (dim * HALF).max(POSITIONS * VECTORS), [0.0; LANES]);
        grow(&mut self.scores, rows * stride, 0.0);
        grow(&mut self.sums, rows * dim.div_ceil(LANES), [0.0; LANES]);
        grow(&mut self.inverses, rows, 0.0);
    }
}

struct Attend<'a, V> {
    dim: usize,
    layout: Layout,
    store: &'a Store<V>,
    queries: &'a [f32],
    visible: &'a [Range<usize>],
    options: AttentionOptions,
    scratch: &'a mut AttentionScratch,
    out: &'a mut [f32],
}

impl<V: Vector> Kernel for Attend<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { dim, layout: Layout { rows, stride }, store, queries, visible, options, scratch, out } = self;
        if visible.is_empty() {
            return;
        }
        let blocks = queries.chunks(rows * dim).zip(out.chunks_mut(rows * dim)).zip(visible.chunks(rows));
        for ((queries, out), visible) in blocks {
            let mut block = QueryBlock { dim, store, visible, panels: panels(visible), stride, scratch };
            block.scores(simd, queries, options);
            block.softmax(simd);
            block.values(simd);
            block.finish(out);
        }
    }
}

/// Rows whose scores are in memory together.
struct QueryBlock<'a, V> {
    dim: usize,
    store: &'a Store<V>,
    visible: &'a [Range<usize>],
    panels: Range<usize>,
    stride: usize,
    scratch: &'a mut AttentionScratch,
}

impl<V: Vector> QueryBlock<'_, V> {
    /// Computes the scores of all rows and panels. Scores of positions that a row does not see are
    /// undefined.
    #[inline(always)]
    fn scores<S: Simd>(&mut self, simd: S, queries: &[f32], options: AttentionOptions) {
        let (dim, stride) = (self.dim, self.stride);
        let AttentionScratch { queries: quads, widened, scores, .. } = &mut *self.scratch;
        let (in_quads, singles) = queries.split_at(queries.len() / (QUAD * dim) * (QUAD * dim));
        let quads = &mut quads[..in_quads.len() / QUAD];
        for (queries, quad) in in_quads.chunks_exact(QUAD * dim).zip(quads.chunks_exact_mut(dim)) {
            for (row, query) in queries.chunks_exact(dim).enumerate() {
                quad.iter_mut().zip(query).for_each(|(quad, query)| quad[row] = *query);
            }
        }
        let (quad_scores, single_scores) = scores.split_at_mut(in_quads.len() / dim * stride);
        for (i, panel) in self.panels.clone().enumerate() {
            let keys = self.store.keys(panel, dim);
            let ahead = self.store.keys(next(panel, &self.panels), dim);
            let finish = Finish { options, scales: self.store.key_scales(panel), from: 0, ahead };
            let at = i * POSITIONS;
            if quads.len() > dim {
                // Half a panel at a time: it shares the first-level cache with queries and scores.
                for from in [0, HALF] {
                    let widened = widened[..dim * HALF].as_chunks_mut::<HALF>().0;
                    for (widened, keys) in widened.iter_mut().zip(keys) {
                        widen(simd, &keys[from..][..HALF], widened);
                    }
                    for (quad, scores) in quads.chunks_exact(dim).zip(quad_scores.chunks_exact_mut(QUAD * stride)) {
                        quad_of_scores(simd, quad, widened, Finish { from, ..finish }, &mut scores[at..], stride);
                    }
                }
            } else if quads.len() == dim {
                quad_of_scores(simd, quads, keys, finish, &mut quad_scores[at..], stride);
            }
            for (query, scores) in singles.chunks_exact(dim).zip(single_scores.chunks_exact_mut(stride)) {
                let query = query.as_chunks::<1>().0;
                tile_of_scores::<S, V, V, 1, VECTORS, VECTORS>(simd, query, keys, 0, finish, &mut scores[at..], stride);
            }
        }
    }

    /// Turns scores into the factors of the values at their positions.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, simd: S) {
        let AttentionScratch { scores, inverses, .. } = &mut *self.scratch;
        let first = self.panels.start * POSITIONS;
        for ((scores, visible), inverse) in scores.chunks_exact_mut(self.stride).zip(self.visible).zip(inverses) {
            if visible.is_empty() {
                continue;
            }
            // Whole vectors, so that the lane of an exponential is that of its position.
            let start = visible.start / LANES * LANES;
            let scores = &mut scores[start - first..visible.end.next_multiple_of(LANES) - first];
            scores[..visible.start - start].fill(f32::NEG_INFINITY);
            scores[visible.end - start..].fill(f32::NEG_INFINITY);
            let most = largest(simd, scores);
            *inverse = 1.0 / exp_and_sum(simd, scores, most);
            if V::SCALED {
                let scales = self.store.value_scales(visible.clone());
                scores[visible.start - start..].iter_mut().zip(scales).for_each(|(score, scale)| *score *= scale);
            }
        }
    }

    /// Sums the values of every row, each times its factor.
    #[inline(always)]
    fn values<S: Simd>(&mut self, simd: S) {
        let (dim, stride, chunks) = (self.dim, self.stride, self.dim.div_ceil(LANES));
        let AttentionScratch { widened, scores, sums, .. } = &mut *self.scratch;
        let wide = self.visible.len() >= 2 * QUAD;
        sums[..self.visible.len() * chunks].fill([0.0; LANES]);
        for (i, panel) in self.panels.clone().enumerate() {
            let mut ahead = self.store.values(next(panel, &self.panels), dim);
            for (group, values) in self.store.values(panel, dim).enumerate() {
                let ahead = ahead.next().unwrap_or(values);
                if wide {
                    widen(simd, values, widened);
                }
                for (quad, visible) in self.visible.chunks(QUAD).enumerate() {
                    let row = quad * QUAD;
                    let at = i * POSITIONS;
                    let common = common(visible);
                    // What single rows see before what all four of them see, that, and what single
                    // rows see behind.
                    for after in [false, true] {
                        for (row, visible) in (row..).zip(visible) {
                            let seen = match after {
                                false => visible.start..visible.end.min(common.start),
                                true => visible.start.max(common.end)..visible.end,
                            };
                            let sums = ValueSums { sums: &mut sums[row * chunks + group * VECTORS..], stride: chunks };
                            let values = Values { values, ahead };
                            let weights = Weights { weights: &scores[row * stride + at..], stride };
                            rows_of_values::<S, V, V, 1>(simd, values, within(panel, seen), weights, sums);
                        }
                        let seen = within(panel, common.clone());
                        let weights = Weights { weights: &scores[row * stride + at..], stride };
                        let sums = ValueSums { sums: &mut sums[row * chunks + group * VECTORS..], stride: chunks };
                        if !after && wide {
                            let values = Values { values: &widened[..values.len()], ahead };
                            rows_of_values::<S, V, _, QUAD>(simd, values, seen, weights, sums);
                        } else if !after {
                            let values = Values { values, ahead };
                            rows_of_values::<S, V, V, QUAD>(simd, values, seen, weights, sums);
                        }
                    }
                }
            }
        }
    }

    /// Divides each row's sums by the sum of its exponentials.
    #[inline(always)]
    fn finish(self, out: &mut [f32]) {
        let AttentionScratch { sums, inverses, .. } = self.scratch;
        let chunks = self.dim.div_ceil(LANES);
        for (row, out) in out.chunks_exact_mut(self.dim).enumerate() {
            if self.visible[row].is_empty() {
                out.fill(0.0);
                continue;
            }
            let (sums, inverse) = (sums[row * chunks..][..chunks].as_flattened(), inverses[row]);
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum * inverse;
            }
        }
    }
}

/// Returns the positions that all rows of a quad see. For fewer rows than a quad the range is empty
/// and lies beyond all positions.
#[inline(always)]
fn common(visible: &[Range<usize>]) -> Range<usize> {
    if visible.len() < QUAD {
        return usize::MAX..usize::MAX;
    }
    let start = visible.iter().map(|visible| visible.start).max().unwrap_or(0);
    let end = visible.iter().map(|visible| visible.end).min().unwrap_or(0);
    start..end.max(start)
}

/// Returns the panel after `panel`, or the last one again.
#[inline(always)]
fn next(panel: usize, panels: &Range<usize>) -> usize {
    (panel + 1).min(panels.end - 1)
}

/// Clips a range to a panel, counted from the panel's first position.
#[inline(always)]
fn within(panel: usize, range: Range<usize>) -> Range<usize> {
    let first = panel * POSITIONS;
    range.start.saturating_sub(first)..range.end.saturating_sub(first).min(POSITIONS)
}

/// Widens keys or values.
#[inline(always)]
fn widen<S: Simd, V: Lanes>(simd: S, from: &[V], to: &mut [[f32; LANES]]) {
    for (from, to) in from.iter().zip(to) {
        simd.store(from.load(simd), to);
    }
}

/// How products of queries and keys become scores.
#[derive(Clone, Copy)]
struct Finish<'a, V> {
    options: AttentionOptions,
    /// The scales of the panel's keys, if they have any.
    scales: Option<&'a [[f32; LANES]]>,
    /// The vector of the panel with which the keys that are given begin.
    from: usize,
    /// The keys to come, which are fetched meanwhile: where several rows are multiplied, memory
    /// would have nothing to do.
    ahead: &'a [[V; VECTORS]],
}

impl<V> Finish<'_, V> {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, vector: usize, mut score: S::F32) -> S::F32 {
        if let Some(scales) = self.scales {
            score = simd.mul(score, simd.load_f32(&scales[vector]));
        }
        score = simd.mul(score, simd.splat(self.options.scale));
        if let Some(cap) = self.options.softcap {
            let cap = simd.splat(cap);
            score = simd.mul(cap, math::tanh(simd, simd.div(score, cap)));
        }
        score
    }
}

/// Computes the scores of a quad, whose queries are interleaved, for keys of `N` vectors. The
/// scores of a row start with those of the panel, `stride` elements after those of the row before.
#[inline(always)]
fn quad_of_scores<S: Simd, V: Vector, K: Lanes, const N: usize>(
    simd: S,
    quad: &[[f32; QUAD]],
    keys: &[[K; N]],
    finish: Finish<'_, V>,
    scores: &mut [f32],
    stride: usize,
) {
    if S::MANY_SUMS {
        for vector in (0..N).step_by(2) {
            tile_of_scores::<S, V, K, QUAD, N, 2>(simd, quad, keys, vector, finish, scores, stride);
        }
    } else {
        for vector in 0..N {
            tile_of_scores::<S, V, K, QUAD, N, 1>(simd, quad, keys, vector, finish, scores, stride);
        }
    }
}

/// Computes the scores of `R` rows for `P` of the `N` vectors of keys, from `first` on: as many
/// sums as fit in registers.
#[inline(always)]
fn tile_of_scores<S: Simd, V: Vector, K: Lanes, const R: usize, const N: usize, const P: usize>(
    simd: S,
    queries: &[[f32; R]],
    keys: &[[K; N]],
    first: usize,
    finish: Finish<'_, V>,
    scores: &mut [f32],
    stride: usize,
) {
    let mut sums = [[simd.splat(0.0); P]; R];
    for ((query, keys), ahead) in queries.iter().zip(keys).zip(finish.ahead) {
        prefetch(simd, &ahead[finish.from + first..][..P]);
        for (i, key) in keys[first..][..P].iter().enumerate() {
            let key = key.load(simd);
            for (sums, &query) in sums.iter_mut().zip(query) {
                sums[i] = simd.mul_add(simd.splat(query), key, sums[i]);
            }
        }
    }
    let first = finish.from + first;
    for (row, sums) in sums.into_iter().enumerate() {
        let scores = scores[row * stride + first * LANES..][..P * LANES].as_chunks_mut::<LANES>().0;
        for (i, (sum, scores)) in sums.into_iter().zip(scores).enumerate() {
            simd.store(finish.apply(simd, first + i, sum), scores);
        }
    }
}

/// Factors of the values, from some position of a row on; those of the next row are `stride`
/// elements further.
#[derive(Clone, Copy)]
struct Weights<'a> {
    weights: &'a [f32],
    stride: usize,
}

/// Values of a panel, some vectors for each position, and the values to prefetch meanwhile.
#[derive(Clone, Copy)]
struct Values<'a, K, V> {
    values: &'a [K],
    ahead: &'a [V],
}

/// Sums of a row, from some vector of dimensions on; those of the next row are `stride` vectors
/// further.
struct ValueSums<'a> {
    sums: &'a mut [[f32; LANES]],
    stride: usize,
}

/// Adds the values of a panel that `R` rows see to their sums.
#[inline(always)]
fn rows_of_values<S: Simd, V: Vector, K: Lanes, const R: usize>(
    simd: S,
    Values { values, ahead }: Values<'_, K, V>,
    seen: Range<usize>,
    weights: Weights<'_>,
    mut sums: ValueSums<'_>,
) {
    if seen.start >= seen.end {
        return;
    }
    let mut rows: [&[f32]; R] = [&[]; R];
    for (i, row) in rows.iter_mut().enumerate() {
        *row = &weights.weights[i * weights.stride..][seen.clone()];
    }
    let width = values.len() / POSITIONS;
    let vectors = seen.start * width..seen.end * width;
    let values = Values { values: &values[vectors.clone()], ahead: &ahead[vectors] };
    if width == VECTORS && (R == 1 || S::MANY_SUMS) {
        tile_of_values::<S, V, K, R, VECTORS>(simd, values, VECTORS, 0, rows, &mut sums);
    } else {
        for vector in 0..width {
            tile_of_values::<S, V, K, R, 1>(simd, values, width, vector, rows, &mut sums);
        }
    }
}

/// Does so for `C` of the `width` vectors of a position, from `first` on: as many sums as fit in
/// registers.
#[inline(always)]
fn tile_of_values<S: Simd, V: Vector, K: Lanes, const R: usize, const C: usize>(
    simd: S,
    Values { values, ahead }: Values<'_, K, V>,
    width: usize,
    first: usize,
    weights: [&[f32]; R],
    sums: &mut ValueSums<'_>,
) {
    let mut acc = [[simd.splat(0.0); C]; R];
    for (row, acc) in acc.iter_mut().enumerate() {
        for (acc, sum) in acc.iter_mut().zip(&sums.sums[row * sums.stride + first..][..C]) {
            *acc = simd.load_f32(sum);
        }
    }
    let mut ahead = ahead.chunks_exact(width);
    for (i, value) in values.chunks_exact(width).enumerate() {
        if let Some(ahead) = ahead.next() {
            prefetch(simd, &ahead[first..][..C]);
        }
        for (j, value) in value[first..][..C].iter().enumerate() {
            let value = value.load(simd);
            for (acc, weights) in acc.iter_mut().zip(&weights) {
                acc[j] = simd.mul_add(simd.splat(weights[i]), value, acc[j]);
            }
        }
    }
    for (row, acc) in acc.into_iter().enumerate() {
        for (acc, sum) in acc.into_iter().zip(&mut sums.sums[row * sums.stride + first..][..C]) {
            simd.store(acc, sum);
        }
    }
}

/// Prefetches the cache lines of vectors, two or more of which share a line.
#[inline(always)]
fn prefetch<S: Simd, V: Lanes>(simd: S, vectors: &[V]) {
    for vector in vectors.iter().step_by(2) {
        vector.prefetch(simd);
    }
}
