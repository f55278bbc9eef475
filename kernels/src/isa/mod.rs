//! Instruction sets: their detection, and the operations that each provides.
//!
//! Kernels are written once, generic over [`Simd`]: some fifty operations on **16 logical lanes**:
//! rows of a panel of weights, elements of a vector, positions or dimensions. An instruction set is
//! one file that supplies them and one line in the [`isas!`] table.

use core::fmt;
use core::str::FromStr;

use crate::block::{Group, RowBlock};

/// Environment variable that forces an instruction set by name, see [`Isa::from_env`].
pub const ISA_VARIABLE: &str = "QRUNTIME_ISA";

/// An operation that runs on any instruction set: the visitor that leads from a run-time [`Isa`] to
/// a compile-time [`Simd`].
pub(crate) trait Kernel {
    type Output;

    /// Runs on an instruction set. Must be `#[inline(always)]`, as must everything generic below
    /// it: a call that is not inlined loses the instruction set and costs an order of magnitude
    /// (`ci/codegen.sh` checks).
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The vector operations that kernels use, on 16 logical lanes.
///
/// Every operation is exact or correctly rounded and hence gives the same bits on every instruction
/// set.
pub(crate) trait Simd: Copy {
    /// 64 bytes: in each of 16 lanes (rows), 4 consecutive columns.
    type Bytes: Copy;
    /// 32 columns of signed bytes, as [`dot_i8`](Self::dot_i8) takes them.
    type Signed: Copy;
    /// 16 lanes of `i32`.
    type I32: Copy;
    /// 16 lanes of whole numbers in `-128..=127`, as [`dot_two_factors`](Self::dot_two_factors)
    /// takes them.
    type Factor: Copy;
    /// 16 lanes of an unfinished sum of products.
    type Partial: Copy;
    /// 16 lanes of `f32`.
    type F32: Copy;
    /// Whether registers cannot hold the accumulators of four rows of activations beside a tile's
    /// weights.
    const FEW_REGISTERS: bool;
    /// Whether registers hold 16 vectors of `f32` sums beside their operands, rather than 4 to 6.
    const MANY_SUMS: bool;
    /// Whether short code counts more than speed. An operation that is a loop over lanes is long
    /// code, of which every unrolled step and every special case makes another copy.
    const SHORT_CODE: bool = false;

    /// Loads 64 bytes.
    fn load(self, src: &[u8; 64]) -> Self::Bytes;

    /// Prefetches the cache line at an address, which need not be valid. May do nothing.
    fn prefetch(self, address: *const u8);

    /// Moves bits `from..` of every byte, as many as `mask` keeps, to `to..`. Either position plus
    /// the number of bits is at most 8.
    fn bits(self, w: Self::Bytes, from: u32, mask: u8, to: u32) -> Self::Bytes;

    /// Returns the bitwise or.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;

    /// Spreads bits `4·group..4·group + 4` of every 32-bit lane over its four bytes: each becomes
    /// bit 4 of a byte whose other bits are 0. `group` is below 8.
    fn spread_bits(self, w: Self::Bytes, group: u32) -> Self::Bytes;

    /// Looks up bytes below 16 in `table`.
    fn lookup_bytes(self, table: &[i8; 16], index: Self::Bytes) -> Self::Bytes;

    /// Computes `Σ w·x` for each row of `x`, exactly, for weights `w` in `0..=15`.
    ///
    /// `F`, here and below, is the format: a product has functions of its own for each, called once
    /// for quads of rows, and functions that are called once are always inlined.
    fn dot_u4<const R: usize, F>(self, w: &[Self::Bytes; 8], x: &RowBlock<R>) -> [Self::I32; R];

    /// Computes `Σ w·x` for each row of `x`, exactly, for weights `w` in `0..=31`.
    fn dot_u5<const R: usize, F>(self, w: &[Self::Bytes; 8], x: &RowBlock<R>) -> [Self::I32; R];

    /// Computes `factors[0]·Σ (w - 32)·x` over columns 0..16 `+ factors[1]·Σ (w - 32)·x` over
    /// columns 16..32 for each row of `x`, exactly, for weights `w` in `0..=63`.
    fn dot_two_factors<const R: usize, F>(
        self,
        w: &[Self::Bytes; 8],
        factors: &[Self::Factor; 2],
        x: &RowBlock<R>,
    ) -> [Self::I32; R];

    /// Begins a sum from a half's `offsets_32`. Four calls of
    /// [`add_to_partial`](Self::add_to_partial) complete it for 16 columns of one row, and
    /// [`add_partial`](Self::add_partial) adds it: together one half of
    /// [`dot_two_factors`](Self::dot_two_factors).
    fn partial(self, offsets: [i16; 2]) -> Self::Partial;

    /// Computes `sum + w·x` for weights `w` in `0..=63` of four columns.
    fn add_to_partial(self, sum: Self::Partial, w: Self::Bytes, x: Group) -> Self::Partial;

    /// Computes `dot + factor·sum`.
    fn add_partial(self, dot: Self::I32, sum: Self::Partial, factor: Self::Factor) -> Self::I32;

    /// Converts whole values in `-128..=127` to factors.
    fn factor(self, a: Self::I32) -> Self::Factor;

    /// Computes `Σ w·x` for each row of `x`, exactly, for any signed bytes `w`.
    fn dot_i8<const R: usize, F>(self, w: &Self::Signed, x: &RowBlock<R>) -> [Self::I32; R];

    /// Multiplies 64 pairs of bytes and adds the products to `sums`, with the fewest instructions,
    /// on every call. For [`peak`](crate::peak) only: the instruction set decides whether bytes are
    /// signed, and which and how wide the sums are.
    fn multiply_bytes(self, sums: Self::I32, w: Self::Bytes, x: Self::Bytes) -> Self::I32;

    /// Prepares signed bytes for products.
    fn signed(self, w: &[Self::Bytes; 8]) -> Self::Signed;

    /// Returns the bytes that were given to [`signed`](Self::signed).
    fn signed_codes(self, w: &Self::Signed) -> [Self::Bytes; 8];

    /// Sign-extends byte `j` (0..4) of every lane.
    fn byte(self, w: Self::Bytes, j: u32) -> Self::I32;

    /// Extracts bits `from..` of every 32-bit lane, as many as `mask` keeps.
    fn bits_i32(self, w: Self::Bytes, from: u32, mask: i32) -> Self::I32;

    /// Extracts bits `from..` of 16 little-endian 16-bit integers, as many as `mask` keeps.
    fn bits_of_u16(self, src: &[u8; 32], from: u32, mask: i32) -> Self::I32;

    /// Computes `2^(e - 128)` of 16 bytes `e`; 255 counts as 254 + 1, as in GGUF.
    fn load_e8m0(self, src: &[u8; 16]) -> Self::F32;

    /// Packs the low bytes of four vectors, lane by lane: column `J` of the result is from
    /// `columns[J]`.
    fn pack(self, columns: [Self::I32; 4]) -> Self::Bytes;

    /// Writes 64 bytes.
    fn store_bytes(self, v: Self::Bytes, dst: &mut [u8; 64]);

    /// Adds `b` to every lane, modulo 2³².
    fn add_i32(self, a: Self::I32, b: i32) -> Self::I32;

    /// Converts to `f32`; exact for magnitudes up to 2²⁴.
    fn to_f32(self, a: Self::I32) -> Self::F32;

    /// Converts whole values of magnitude up to 2²⁴, exactly. The result for others is unspecified.
    fn to_i32(self, a: Self::F32) -> Self::I32;

    /// Widens 16 little-endian binary16 values.
    fn load_f16(self, src: &[u8; 32]) -> Self::F32;

    /// Widens 16 little-endian bfloat16 values.
    fn load_bf16(self, src: &[u8; 32]) -> Self::F32;

    /// Rounds to binary16 (ties to even, overflow to infinity) and writes it, little-endian.
    fn store_f16(self, v: Self::F32, dst: &mut [u8; 32]);

    /// Loads 16 values.
    fn load_f32(self, src: &[f32; 16]) -> Self::F32;

    /// Loads 16 values from their little-endian bytes.
    fn load_f32_bytes(self, src: &[u8; 64]) -> Self::F32;

    /// Sign-extends 16 bytes.
    fn load_i8(self, src: &[u8; 16]) -> Self::I32;

    /// Copies a value into every lane.
    fn splat(self, v: f32) -> Self::F32;

    /// Returns `a + b`, rounded.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Returns `a - b`, rounded.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Returns `a / b`, rounded.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Returns the smaller value. Which of two zeros with different signs is returned is
    /// unspecified, and so is the result if either is NaN: no result that is kept may depend on it.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Returns the larger value; the same cases are unspecified as in [`min`](Self::min).
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Clears the sign.
    fn abs(self, a: Self::F32) -> Self::F32;

    /// Rounds to a whole number towards zero.
    fn trunc(self, a: Self::F32) -> Self::F32;

    /// Rounds to the nearest whole number, halves away from zero.
    fn round(self, a: Self::F32) -> Self::F32;

    /// Returns `x` where `a > b`, else `y`.
    fn where_greater(self, a: Self::F32, b: Self::F32, x: Self::F32, y: Self::F32) -> Self::F32;

    /// Returns `a · b`, rounded.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Returns `a · b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;

    /// Returns `2^n` for n in `-126..=127`; the result for other n is unspecified.
    fn power_of_two(self, n: Self::I32) -> Self::F32;

    /// Adds all lanes: lanes 8..16 to lanes 0..8, then the upper four of these to the lower four,
    /// then two, then one.
    fn sum(self, a: Self::F32) -> f32;

    /// Writes the lanes in order.
    fn store(self, v: Self::F32, dst: &mut [f32; 16]);

    /// Looks up the low four bits of each lane of `index` in `table`.
    fn lookup(self, table: &[f32; 16], index: Self::I32) -> Self::F32;
}

/// Enables a list of features on a function. A separate macro because the list and the functions
/// repeat at different depths.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! with_features {
    (($($feature:tt)+) $item:item) => {
        $(#[target_feature(enable = $feature)])+
        $item
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use with_features;

/// Defines an instruction set from its feature list and its operations, and from the instruction
/// set that it extends by dot products alone, if any.
///
/// The list is written once; detection, the gateway and every operation are made from it, so they
/// cannot drift apart. The operations are safe functions with those features enabled: one that
/// needs a feature the list lacks does not compile.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! define_isa {
    (
        $(#[$doc:meta])*
        $isa:ident $(extends $base:ident)?, $detected:ident $features:tt;
        type Bytes = $bytes:ty;
        type Signed = $signed:ty;
        type I32 = $i32:ty;
        type Factor = $factor:ty;
        type Partial = $partial:ty;
        type F32 = $f32:ty;
        const FEW_REGISTERS: bool = $few_registers:literal;
        const MANY_SUMS: bool = $many_sums:literal;
        $(
            $(#[$fn_attr:meta])*
            fn $name:ident $(<const $n:ident: usize, $f:ident>)? ($($arg:ident: $arg_ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
        )+
    ) => {
        $(#[$doc])*
        ///
        /// Invariant: a value exists only where all features of the list were detected.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) struct $isa($crate::isa::base!(type $($base)?));

        impl $isa {
            /// Returns the proof that this processor has the instruction set, if it has.
            pub(crate) fn detect() -> Option<Self> {
                let base = $crate::isa::base!(detect $($base)?)?;
                $crate::isa::all_detected!($detected $features).then_some(Self(base))
            }

            /// Runs a kernel that has no dot products, on the instruction set that this one
            /// extends.
            pub(crate) fn run_without_dots<K: $crate::isa::Kernel>(self, kernel: K) -> K::Output {
                $crate::isa::base!(of self $($base)?).run(kernel)
            }

            /// Runs `kernel` with the instruction set enabled.
            pub(crate) fn run<K: $crate::isa::Kernel>(self, kernel: K) -> K::Output {
                $crate::isa::with_features! { $features
                    fn gateway<K: $crate::isa::Kernel>(kernel: K, isa: $isa) -> K::Output {
                        kernel.run(isa)
                    }
                }
                // SAFETY: `gateway` enables exactly the listed features, which the invariant of
                // `self` says are present.
                unsafe { gateway(kernel, self) }
            }
        }

        impl $crate::isa::Simd for $isa {
            type Bytes = $bytes;
            type Signed = $signed;
            type I32 = $i32;
            type Factor = $factor;
            type Partial = $partial;
            type F32 = $f32;
            const FEW_REGISTERS: bool = $few_registers;
            const MANY_SUMS: bool = $many_sums;

            $(
                #[inline(always)]
                fn $name $(<const $n: usize, $f>)? (self, $($arg: $arg_ty),*) $(-> $ret)? {
                    $crate::isa::with_features! { $features
                        #[inline]
                        $(#[$fn_attr])*
                        fn operation $(<const $n: usize, $f>)? ($($arg: $arg_ty),*) $(-> $ret)? $body
                    }
                    // SAFETY: `operation` enables exactly the listed features, which the invariant
                    // of `self` says are present.
                    unsafe { operation $(::<$n, $f>)? ($($arg),*) }
                }
            )+
        }
    };
}

/// Expands to the type, the detection or the value of the instruction set that another one extends:
/// `()`, `Some(())` and the other one itself where it extends none.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! base {
    (type) => {
        ()
    };
    (type $base:ident) => {
        $base
    };
    (detect) => {
        Some(())
    };
    (detect $base:ident) => {
        $base::detect()
    };
    (of $isa:ident) => {
        $isa
    };
    (of $isa:ident $base:ident) => {
        $isa.0
    };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use base;

/// `is_x86_feature_detected!("a") && is_x86_feature_detected!("b") && ...`
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! all_detected {
    ($detected:ident ($($feature:tt)+)) => { $(std::arch::$detected!($feature))&&+ };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use all_detected;

/// Defines [`Isa`], its names, its detection and its dispatch from the table of instruction sets,
/// best first.
macro_rules! isas {
    ($(
        $(#[cfg($cfg:meta)])?
        $isa:ident = $name:literal in $module:ident: $needs:literal;
    )+) => {
        $($(#[cfg($cfg)])? mod $module;)+

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Token {
            $($(#[cfg($cfg)])? $isa($module::$isa),)+
        }

        /// All instruction sets that this library has, on any architecture: the name, and what the
        /// processor must have.
        pub const KNOWN_ISAS: &[(&str, &str)] = &[$(($name, $needs)),+];

        impl Isa {
            /// Iterates over the instruction sets that this processor has, best first. Never empty:
            /// `scalar` is always available.
            pub fn available() -> impl Iterator<Item = Self> {
                [$($(#[cfg($cfg)])? $module::$isa::detect().map(Token::$isa),)+].into_iter().flatten().map(Self)
            }

            /// Returns the name, as [`FromStr`] and the environment variable spell it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($(#[cfg($cfg)])? Token::$isa(_) => $name,)+
                }
            }

            /// Runs `kernel` on this instruction set.
            pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
                match self.0 {
                    $($(#[cfg($cfg)])? Token::$isa(isa) => isa.run(kernel),)+
                }
            }

            /// Runs a `kernel` without dot products: on the instruction set that this one extends,
            /// where dot products are all that it adds. The code is the same, and compiled once.
            pub(crate) fn run_without_dots<K: Kernel>(self, kernel: K) -> K::Output {
                match self.0 {
                    $($(#[cfg($cfg)])? Token::$isa(isa) => isa.run_without_dots(kernel),)+
                }
            }
        }
    };
}

/// An instruction set that is unknown or not available.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IsaError {
    /// No instruction set has this name.
    Unknown {
        /// The name.
        name: String,
    },
    /// This processor lacks it.
    Unavailable {
        /// The name.
        name: &'static str,
        /// What the processor would need.
        needs: &'static str,
    },
}

impl fmt::Display for IsaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { name } => {
                write!(f, "unknown instruction set {name:?}, expected one of")?;
                KNOWN_ISAS.iter().try_for_each(|(name, _)| write!(f, " {name}"))
            }
            Self::Unavailable { name, needs } => write!(f, "this processor lacks the instruction set {name} ({needs})"),
        }
    }
}

impl std::error::Error for IsaError {}

/// Proof that this processor has an instruction set.
///
/// A value can only be had from detection, so holding one is what makes it safe to run that
/// instruction set's code.
///
/// ```
/// use kernels::Isa;
///
/// println!("{} is the best of {:?}", Isa::best(), Isa::available().map(Isa::name).collect::<Vec<_>>());
/// assert_eq!("scalar".parse::<Isa>()?.name(), "scalar");
/// # Ok::<(), kernels::IsaError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Isa(Token);

#[cfg(target_arch = "x86_64")]
mod avx;

isas! {
    #[cfg(target_arch = "x86_64")] Avx512Vnni = "avx512-vnni" in avx512_vnni: "AVX-512 F, BW, VL and VNNI, AVX2, FMA, F16C";
    #[cfg(target_arch = "x86_64")]
    AvxVnni = "avx-vnni" in avx_vnni: "AVX-VNNI, AVX2, FMA, F16C";
    #[cfg(target_arch = "x86_64")] Avx2 = "avx2" in avx2: "AVX2, FMA, F16C";
    #[cfg(target_arch = "aarch64")]
    NeonI8mm = "neon-i8mm" in neon_i8mm: "AArch64 NEON with dot product and matrix multiplication";
    #[cfg(target_arch = "aarch64")]
    NeonDot = "neon-dotprod" in neon_dot: "AArch64 NEON with dot product";
    #[cfg(target_arch = "aarch64")] Neon = "neon" in neon: "AArch64 NEON";
    Scalar = "scalar" in scalar: "any processor";
}

impl Isa {
    /// Returns the best instruction set that this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::SCALAR)
    }

    /// The portable reference, which every processor has.
    pub const SCALAR: Self = Self(Token::Scalar(scalar::Scalar));

    /// Returns the instruction set that the environment variable [`ISA_VARIABLE`] names, or the
    /// best one if the variable is unset or empty.
    ///
    /// # Errors
    /// If it names an unknown instruction set, or one that this processor lacks.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var_os(ISA_VARIABLE) {
            Some(name) if !name.is_empty() => name.to_string_lossy().parse(),
            _ => Ok(Self::best()),
        }
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Self::available().find(|isa| isa.name() == name).ok_or_else(|| {
            match KNOWN_ISAS.iter().find(|known| known.0 == name) {
                Some((name, needs)) => IsaError::Unavailable { name, needs },
                None => IsaError::Unknown { name: name.into() },
            }
        })
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
