//! Keys and values of one head.
//!
//! They lie in **panels** of 64 positions, in the order in which attention reads them: one
//! sequential stream.
//!
//! ```text
//! keys     for each dimension: that of 64 positions                     a lane is a position: scores need no sum across lanes
//! values   for each 64 dimensions: for each position: those of it       a lane is a dimension
//! ```
//!
//! Four vectors of 16 lanes at a time are enough sums that none waits for itself, even for one
//! query.

use core::ops::Range;

use crate::activations::scale_and_inverse;
use crate::format::PANEL_ROWS;
use crate::isa::{Isa, Kernel, Simd};
use crate::math::ROUND;
use crate::vector::padded;

/// Elements in a vector.
pub(crate) const LANES: usize = PANEL_ROWS;

/// Vectors that meet a query together: those of a dimension of a panel's keys, and of a group of a
/// value's dimensions.
pub(crate) const VECTORS: usize = 4;

/// Positions in a panel.
pub(crate) const POSITIONS: usize = VECTORS * LANES;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// binary16, rounded to nearest, ties to even. Magnitudes from 65520 on become infinite.
    F16,
    /// 8-bit codes with a scale for each key and each value: `absmax / 127` in `f32`.
    Q8,
}

/// Keys and values of one head of one sequence, in the order of positions.
///
/// ```
/// use kernels::{AttentionOptions, AttentionScratch, Isa, KvFormat, KvHead, attend};
///
/// let isa = Isa::best();
/// let mut kv = KvHead::new(KvFormat::F16, 64);
/// kv.push(isa, &[0.5; 64], &[1.0; 64]);
/// kv.push(isa, &[0.5; 64], &[3.0; 64]); // a key like the first one: both count the same
///
/// let options = AttentionOptions { scale: 0.125, softcap: None };
/// let mut out = [f32::NAN; 64];
/// attend(isa, &kv, &[0.25; 64], &[0..2], options, &mut AttentionScratch::default(), &mut out);
/// assert_eq!(out, [2.0; 64]);
/// ```
#[derive(Clone, Debug)]
pub struct KvHead {
    pub(crate) dim: usize,
    pub(crate) len: usize,
    pub(crate) stored: Stored,
}

#[derive(Clone, Debug)]
pub(crate) enum Stored {
    F16(Store<Halves>),
    Q8(Store<Codes>),
}

/// Keys and values as vectors of 16 elements.
///
/// Invariant: there are keys, values and scales for all positions of all panels that are begun.
#[derive(Clone, Debug)]
pub(crate) struct Store<V> {
    /// Returns the keys of a panel, one element for each dimension.
    keys: Vec<[V; VECTORS]>,
    /// Iterates over the values of a panel in groups of up to 64 dimensions; a group holds the
    /// vectors of 64 positions, one position after the other.
    values: Vec<V>,
    /// Returns the scales of the keys of a panel, if there are any.
    key_scales: Vec<f32>,
    value_scales: Vec<f32>,
}

impl<V> Store<V> {
    fn new() -> Self {
        Self { keys: vec![], values: vec![], key_scales: vec![], value_scales: vec![] }
    }

    fn bytes(&self) -> usize {
        let Self { keys, values, key_scales, value_scales } = self;
        size_of_val(&keys[..])
            + size_of_val(&values[..])
            + size_of_val(&key_scales[..])
            + size_of_val(&value_scales[..])
    }

    /// Grows or shrinks to this many panels.
    fn resize(&mut self, panels: usize, dim: usize)
    where
        V: Vector,
    {
        self.keys.resize(panels * dim, [V::default(); VECTORS]);
        self.values.resize(panels * POSITIONS * dim.div_ceil(LANES), V::default());
        if V::SCALED {
            self.key_scales.resize(panels * POSITIONS, 0.0);
            self.value_scales.resize(panels * POSITIONS, 0.0);
        }
    }

    /// Returns the keys of a panel, one element for each dimension.
    #[inline(always)]
    pub(crate) fn keys(&self, panel: usize, dim: usize) -> &[[V; VECTORS]] {
        &self.keys[panel * dim..][..dim]
    }

    /// Returns the scales of the keys of a panel, if there are any.
    #[inline(always)]
    pub(crate) fn key_scales(&self, panel: usize) -> Option<&[[f32; LANES]]> {
        self.key_scales.as_chunks().0.get(panel * VECTORS..(panel + 1) * VECTORS)
    }

    /// Iterates over the values of a panel in groups of dimensions: the vectors of 64 positions,
    /// one after the other.
    #[inline(always)]
    pub(crate) fn values(&self, panel: usize, dim: usize) -> impl Iterator<Item = &[V]> {
        let len = POSITIONS * dim.div_ceil(LANES);
        self.values[panel * len..][..len].chunks(POSITIONS * VECTORS)
    }

    /// Returns the scales of the values at some positions.
    #[inline(always)]
    pub(crate) fn value_scales(&self, positions: Range<usize>) -> &[f32] {
        &self.value_scales[positions]
    }
}

/// 16 binary16 elements.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(32))]
pub(crate) struct Halves([u8; 2 * LANES]);

/// 16 codes.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(16))]
pub(crate) struct Codes([u8; LANES]);

/// 16 elements in memory.
pub(crate) trait Lanes: Copy {
    /// Widens the elements. Is `#[inline(always)]`.
    fn load<S: Simd>(&self, simd: S) -> S::F32;

    /// Prefetches the cache line of the elements.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, simd: S) {
        simd.prefetch(core::ptr::from_ref(self).cast());
    }
}

impl Lanes for [f32; LANES] {
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::F32 {
        simd.load_f32(self)
    }
}

impl Lanes for Halves {
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::F32 {
        simd.load_f16(&self.0)
    }
}

impl Lanes for Codes {
    #[inline(always)]
    fn load<S: Simd>(&self, simd: S) -> S::F32 {
        simd.to_f32(simd.load_i8(&self.0))
    }
}

/// 16 elements of a key or a value as they are stored.
pub(crate) trait Vector: Lanes + Default {
    /// Whether the elements are codes, with scales.
    const SCALED: bool;

    /// Rounds elements. A code is the integer nearest to the element times `inverse`, ties to even.
    /// Is `#[inline(always)]`.
    fn round<S: Simd>(simd: S, numbers: &[f32; LANES], inverse: f32) -> Self;

    /// Copies one element of `other`.
    fn set(&mut self, lane: usize, other: &Self, other_lane: usize);
}

impl Vector for Halves {
    const SCALED: bool = false;

    #[inline(always)]
    fn round<S: Simd>(simd: S, numbers: &[f32; LANES], _: f32) -> Self {
        let mut halves = Self::default();
        simd.store_f16(simd.load_f32(numbers), &mut halves.0);
        halves
    }

    #[inline(always)]
    fn set(&mut self, lane: usize, other: &Self, other_lane: usize) {
        self.0.as_chunks_mut::<2>().0[lane] = other.0.as_chunks::<2>().0[other_lane];
    }
}

impl Vector for Codes {
    const SCALED: bool = true;

    #[inline(always)]
    fn round<S: Simd>(_: S, numbers: &[f32; LANES], inverse: f32) -> Self {
        let mut codes = Self::default();
        for (code, number) in codes.0.iter_mut().zip(numbers) {
            *code = (number * inverse + ROUND).to_bits() as u8;
        }
        codes
    }

    #[inline(always)]
    fn set(&mut self, lane: usize, other: &Self, other_lane: usize) {
        self.0[lane] = other.0[other_lane];
    }
}

impl KvHead {
    /// Makes an empty head of keys and values with `dim` elements each.
    ///
    /// # Panics
    /// If `dim` is 0.
    #[must_use]
    pub fn new(format: KvFormat, dim: usize) -> Self {
        assert!(dim > 0, "a head of no dimensions");
        let stored = match format {
            KvFormat::F16 => Stored::F16(Store::new()),
            KvFormat::Q8 => Stored::Q8(Store::new()),
        };
        Self { dim, len: 0, stored }
    }

    /// Returns how keys and values are stored.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        match self.stored {
            Stored::F16(_) => KvFormat::F16,
            Stored::Q8(_) => KvFormat::Q8,
        }
    }

    /// Returns the head dimension: the elements of a key, and of a value.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Returns the number of positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no positions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the bytes of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.stored {
            Stored::F16(store) => store.bytes(),
            Stored::Q8(store) => store.bytes(),
        }
    }

    /// Removes the positions from `len` on, if there are any. Keeps the memory.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.resize();
    }

    /// Appends positions: the keys and the values of any number of them, one after the other.
    /// Memory grows by doubling.
    ///
    /// # Panics
    /// If the lengths differ or are no multiple of [`dim`](Self::dim).
    pub fn push(&mut self, isa: Isa, keys: &[f32], values: &[f32]) {
        assert!(keys.len() == values.len() && keys.len().is_multiple_of(self.dim), "lengths of keys and values");
        let (dim, first) = (self.dim, self.len);
        self.len += keys.len() / dim;
        self.resize();
        match &mut self.stored {
            Stored::F16(store) => isa.run_without_dots(Push { dim, first, keys, values, store }),
            Stored::Q8(store) => isa.run_without_dots(Push { dim, first, keys, values, store }),
        }
    }

    /// Grows or shrinks to the panels of the positions.
    fn resize(&mut self) {
        let panels = self.len.div_ceil(POSITIONS);
        match &mut self.stored {
            Stored::F16(store) => store.resize(panels, self.dim),
            Stored::Q8(store) => store.resize(panels, self.dim),
        }
    }
}

/// Writes keys and values from position `first` on, for which there is room.
struct Push<'a, V> {
    dim: usize,
    first: usize,
    keys: &'a [f32],
    values: &'a [f32],
    store: &'a mut Store<V>,
}

impl<V: Vector> Kernel for Push<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { dim, first, keys, values, store } = self;
        let positions = first..first + keys.len() / dim;
        for (position, (key, value)) in positions.zip(keys.chunks_exact(dim).zip(values.chunks_exact(dim))) {
            let (panel, within) = (position / POSITIONS, position % POSITIONS);
            let (scale, inverse) = scale_of::<V>(key);
            for (columns, key) in store.keys[panel * dim..][..dim].chunks_mut(LANES).zip(key.chunks(LANES)) {
                let rounded = V::round(simd, &padded(key, 0.0), inverse);
                for (lane, column) in columns.iter_mut().enumerate() {
                    column[within / LANES].set(within % LANES, &rounded, lane);
                }
            }
            if V::SCALED {
                store.key_scales[position] = scale;
            }
            let (scale, inverse) = scale_of::<V>(value);
            let len = POSITIONS * dim.div_ceil(LANES);
            let groups = store.values[panel * len..][..len].chunks_mut(POSITIONS * VECTORS);
            for (vectors, value) in groups.zip(value.chunks(VECTORS * LANES)) {
                let vectors = &mut vectors[within * value.len().div_ceil(LANES)..];
                for (vector, value) in vectors.iter_mut().zip(value.chunks(LANES)) {
                    *vector = V::round(simd, &padded(value, 0.0), inverse);
                }
            }
            if V::SCALED {
                store.value_scales[position] = scale;
            }
        }
    }
}

/// Returns the scale of a key or a value and its inverse: scale NaN if an element is not finite,
/// and 0 if all are too small to have an inverse.
#[inline(always)]
fn scale_of<V: Vector>(numbers: &[f32]) -> (f32, f32) {
    if !V::SCALED {
        return (1.0, 1.0);
    }
    scale_and_inverse(numbers)
}
