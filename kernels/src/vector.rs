//! The vector functions of networks: norms, activation functions, softmax, rotary positions.
//!
//! All have one order of operations, defined in `docs/quantization.md`, and so the same bits on
//! every instruction set. A sum over a vector is taken in 16 lanes: lane `l` adds the elements `l`,
//! `l + 16`, ..., in ascending order, and the lanes are added in halves.

use crate::format::PANEL_ROWS;
use crate::isa::{Isa, Kernel, Simd};
use crate::math;

/// Elements that are processed at a time.
const LANES: usize = PANEL_ROWS;

/// A function that is applied to every element between two linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activation {
    /// `x / (1 + e⁻ˣ)`, also called swish ([Elfwing et al.
    /// 2017](https://arxiv.org/abs/1702.03118)).
    Silu,
    /// `x·Φ(x)` by its approximation with tanh ([Hendrycks and Gimpel
    /// 2016](https://arxiv.org/abs/1606.08415)).
    GeluTanh,
    /// `x·Φ(x)`, with Φ the normal distribution.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// Computes root mean square normalization
/// ([Zhang and Sennrich 2019](https://arxiv.org/abs/1910.07467)):
/// `out = x / √(mean(x²) + eps) · weight`.
///
/// Where the sum of squares overflows (elements from about 10¹⁹ on) the result is 0, as it is with
/// any implementation in `f32`.
///
/// # Panics
/// If the lengths differ.
pub fn rms_norm(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "lengths of a norm");
    isa.run_without_dots(RmsNorm { x, weight, eps, out });
}

/// Computes layer normalization ([Ba et al. 2016](https://arxiv.org/abs/1607.06450)):
/// `out = (x - mean) / √(variance + eps) · weight + bias`.
///
/// Where the sum of squares overflows (elements from about 10¹⁹ on) the result is `bias`.
///
/// # Panics
/// If the lengths differ.
pub fn layer_norm(isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let len = x.len();
    assert!(len == weight.len() && len == bias.len() && len == out.len(), "lengths of a norm");
    isa.run_without_dots(LayerNorm { x, weight, bias, eps, out });
}

/// Divides by the root of the sum of squares, or by 10⁻¹² where that is less. If the sum overflows
/// (elements from about 10¹⁹ on) the result is 0.
pub fn normalize_l2(isa: Isa, x: &mut [f32]) {
    isa.run_without_dots(NormalizeL2(x));
}

/// Applies an activation function: `x = f(x)`. NaN becomes NaN.
pub fn activate(isa: Isa, f: Activation, x: &mut [f32]) {
    match f {
        Activation::Silu => isa.run_without_dots(Map { f: Silu, x }),
        Activation::GeluTanh => isa.run_without_dots(Map { f: GeluTanh, x }),
        Activation::Gelu => isa.run_without_dots(Map { f: Gelu, x }),
        Activation::Relu => isa.run_without_dots(Map { f: Relu, x }),
    }
}

/// Computes a gated linear unit ([Shazeer 2020](https://arxiv.org/abs/2002.05202)):
/// `gate = f(gate)·up`.
///
/// # Panics
/// If the lengths differ.
pub fn activate_gated(isa: Isa, f: Activation, gate: &mut [f32], up: &[f32]) {
    assert!(gate.len() == up.len(), "lengths of a gated activation");
    match f {
        Activation::Silu => isa.run_without_dots(MapGated { f: Silu, gate, up }),
        Activation::GeluTanh => isa.run_without_dots(MapGated { f: GeluTanh, gate, up }),
        Activation::Gelu => isa.run_without_dots(MapGated { f: Gelu, gate, up }),
        Activation::Relu => isa.run_without_dots(MapGated { f: Relu, gate, up }),
    }
}

/// Computes `x = cap·tanh(x / cap)`, which keeps elements within `±cap`.
pub fn softcap(isa: Isa, x: &mut [f32], cap: f32) {
    isa.run_without_dots(Map { f: Softcap(cap), x });
}

/// Computes `x = eˣ / Σ eˣ`. If an element is NaN or +∞, or all are -∞, every result is NaN.
pub fn softmax(isa: Isa, x: &mut [f32]) {
    isa.run_without_dots(Softmax(x));
}

/// Rotates one head by its position ([Su et al. 2021](https://arxiv.org/abs/2104.09864)): the pairs
/// `(x[i], x[i + n])`, `i < n = cos.len()`, by the angles whose cosines and sines are given.
/// Elements after the first `2·n` stay.
///
/// # Panics
/// If `sin` is not as long as `cos`, or `x` shorter than twice that.
pub fn rotate(isa: Isa, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    assert!(cos.len() == sin.len() && x.len() / 2 >= cos.len(), "lengths of a rotation");
    isa.run_without_dots(Rotate { x, cos, sin });
}

/// Copies up to `N` elements and fills the rest with `fill`.
#[inline(always)]
pub(crate) fn padded<T: Copy, const N: usize>(numbers: &[T], fill: T) -> [T; N] {
    let mut all = [fill; N];
    all[..numbers.len()].copy_from_slice(numbers);
    all
}

/// A function of every element.
trait Elementwise: Copy {
    /// Applies the function. Is `#[inline(always)]`.
    fn apply<S: Simd>(self, simd: S, x: S::F32) -> S::F32;
}

#[derive(Clone, Copy)]
struct Silu;

impl Elementwise for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        math::times_sigmoid(simd, x, x)
    }
}

#[derive(Clone, Copy)]
struct GeluTanh;

impl Elementwise for GeluTanh {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        // (1 + tanh v) / 2 is 1 / (1 + e⁻²ᵛ). 2·√(2/π), and that times 0.044715.
        let square = simd.mul_add(simd.mul(x, x), simd.splat(0.071_354_814), simd.splat(1.595_769_2));
        math::times_sigmoid(simd, x, simd.mul(square, x))
    }
}

#[derive(Clone, Copy)]
struct Gelu;

impl Elementwise for Gelu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        simd.mul(x, math::normal(simd, x))
    }
}

#[derive(Clone, Copy)]
struct Relu;

impl Elementwise for Relu {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        simd.where_greater(simd.splat(0.0), x, simd.splat(0.0), x)
    }
}

#[derive(Clone, Copy)]
struct Softcap(f32);

impl Elementwise for Softcap {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        let cap = simd.splat(self.0);
        simd.mul(cap, math::tanh(simd, simd.div(x, cap)))
    }
}

struct Map<'a, F> {
    f: F,
    x: &'a mut [f32],
}

impl<F: Elementwise> Kernel for Map<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (chunks, rest) = self.x.as_chunks_mut::<LANES>();
        for x in chunks {
            simd.store(self.f.apply(simd, simd.load_f32(x)), x);
        }
        let mut last: [f32; LANES] = padded(rest, 0.0);
        simd.store(self.f.apply(simd, simd.load_f32(&last)), &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

struct MapGated<'a, F> {
    f: F,
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl<F: Elementwise> Kernel for MapGated<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (gates, gate_rest) = self.gate.as_chunks_mut::<LANES>();
        let (ups, up_rest) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            simd.store(simd.mul(self.f.apply(simd, simd.load_f32(gate)), simd.load_f32(up)), gate);
        }
        let mut last: [f32; LANES] = padded(gate_rest, 0.0);
        let up = simd.load_f32(&padded(up_rest, 0.0));
        simd.store(simd.mul(self.f.apply(simd, simd.load_f32(&last)), up), &mut last);
        gate_rest.copy_from_slice(&last[..gate_rest.len()]);
    }
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl Kernel for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let ((a, a_rest), (b, b_rest)) = (self.0.as_chunks::<LANES>(), self.1.as_chunks::<LANES>());
        let mut sums = simd.splat(0.0);
        for (a, b) in a.iter().zip(b) {
            sums = simd.mul_add(simd.load_f32(a), simd.load_f32(b), sums);
        }
        let (a, b) = (padded(a_rest, 0.0), padded(b_rest, 0.0));
        simd.sum(simd.mul_add(simd.load_f32(&a), simd.load_f32(&b), sums))
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, weight, eps, out } = self;
        let squares = Dot(x, x).run(simd);
        let inverse = 1.0 / (squares / x.len() as f32 + eps).sqrt();
        let scale = simd.splat(inverse);
        let ((chunks, rest), (weights, _)) = (x.as_chunks::<LANES>(), weight.as_chunks::<LANES>());
        let (outs, out_rest) = out.as_chunks_mut::<LANES>();
        for ((x, weight), out) in chunks.iter().zip(weights).zip(outs) {
            simd.store(simd.mul(simd.mul(simd.load_f32(x), scale), simd.load_f32(weight)), out);
        }
        let weight_rest = &weight[weight.len() - rest.len()..];
        for ((x, weight), out) in rest.iter().zip(weight_rest).zip(out_rest) {
            *out = x * inverse * weight;
        }
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self { x, weight, bias, eps, out } = self;
        let len = x.len() as f32;
        let (chunks, rest) = x.as_chunks::<LANES>();
        let mut sums = simd.splat(0.0);
        for x in chunks {
            sums = simd.add(sums, simd.load_f32(x));
        }
        let mean = simd.sum(simd.add(sums, simd.load_f32(&padded(rest, 0.0)))) / len;
        let (outs, out_rest) = out.as_chunks_mut::<LANES>();
        let mut squares = simd.splat(0.0);
        for (x, out) in chunks.iter().zip(outs) {
            let centred = simd.sub(simd.load_f32(x), simd.splat(mean));
            simd.store(centred, out);
            squares = simd.mul_add(centred, centred, squares);
        }
        for (x, out) in rest.iter().zip(&mut *out_rest) {
            *out = x - mean;
        }
        let last = simd.load_f32(&padded(out_rest, 0.0));
        let variance = simd.sum(simd.mul_add(last, last, squares)) / len;
        let inverse = 1.0 / (variance + eps).sqrt();
        let scale = simd.splat(inverse);
        let ((weights, weight_rest), (biases, bias_rest)) = (weight.as_chunks::<LANES>(), bias.as_chunks::<LANES>());
        let (outs, out_rest) = out.as_chunks_mut::<LANES>();
        for ((out, weight), bias) in outs.iter_mut().zip(weights).zip(biases) {
            let normal = simd.mul(simd.load_f32(out), scale);
            simd.store(simd.mul_add(normal, simd.load_f32(weight), simd.load_f32(bias)), out);
        }
        for ((out, weight), bias) in out_rest.iter_mut().zip(weight_rest).zip(bias_rest) {
            *out = (*out * inverse).mul_add(*weight, *bias);
        }
    }
}

struct NormalizeL2<'a>(&'a mut [f32]);

impl Kernel for NormalizeL2<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let squares = Dot(self.0, self.0).run(simd);
        let norm = squares.sqrt();
        // NaN is less than nothing, and stays.
        let inverse = 1.0 / if norm < 1e-12 { 1e-12 } else { norm };
        Map { f: Scale(inverse), x: self.0 }.run(simd);
    }
}

#[derive(Clone, Copy)]
struct Scale(f32);

impl Elementwise for Scale {
    #[inline(always)]
    fn apply<S: Simd>(self, simd: S, x: S::F32) -> S::F32 {
        simd.mul(x, simd.splat(self.0))
    }
}

/// Returns the largest element; -∞ if there are none. If an element is NaN the result is
/// unspecified.
#[inline(always)]
pub(crate) fn largest<S: Simd>(simd: S, x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut most = simd.load_f32(&padded(rest, f32::NEG_INFINITY));
    for x in chunks {
        most = simd.max(most, simd.load_f32(x));
    }
    let mut lanes = [0.0; LANES];
    simd.store(most, &mut lanes);
    let mut most = lanes[0];
    for lane in lanes {
        most = if lane > most { lane } else { most };
    }
    most
}

/// Replaces elements by `e^(x - most)` and returns their sum.
#[inline(always)]
pub(crate) fn exp_and_sum<S: Simd>(simd: S, x: &mut [f32], most: f32) -> f32 {
    let most = simd.splat(most);
    let mut sums = simd.splat(0.0);
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for x in chunks {
        let exp = math::exp(simd, simd.sub(simd.load_f32(x), most));
        simd.store(exp, x);
        sums = simd.add(sums, exp);
    }
    if !rest.is_empty() {
        let mut last: [f32; LANES] = padded(rest, f32::NEG_INFINITY);
        let exp = math::exp(simd, simd.sub(simd.load_f32(&last), most));
        simd.store(exp, &mut last);
        rest.copy_from_slice(&last[..rest.len()]);
        sums = simd.add(sums, exp);
    }
    simd.sum(sums)
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let most = largest(simd, self.0);
        let sum = exp_and_sum(simd, self.0, most);
        Map { f: Scale(1.0 / sum), x: self.0 }.run(simd);
    }
}

struct Rotate<'a> {
    x: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let half = self.cos.len();
        let (a, b) = self.x[..2 * half].split_at_mut(half);
        let ((a_chunks, a_rest), (b_chunks, b_rest)) = (a.as_chunks_mut::<LANES>(), b.as_chunks_mut::<LANES>());
        let ((cosines, cos_rest), (sines, sin_rest)) = (self.cos.as_chunks::<LANES>(), self.sin.as_chunks::<LANES>());
        for ((a, b), (cos, sin)) in a_chunks.iter_mut().zip(b_chunks).zip(cosines.iter().zip(sines)) {
            let (x, y, cos, sin) = (simd.load_f32(a), simd.load_f32(b), simd.load_f32(cos), simd.load_f32(sin));
            simd.store(simd.sub(simd.mul(x, cos), simd.mul(y, sin)), a);
            simd.store(simd.add(simd.mul(y, cos), simd.mul(x, sin)), b);
        }
        for ((a, b), (cos, sin)) in a_rest.iter_mut().zip(b_rest).zip(cos_rest.iter().zip(sin_rest)) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
}
