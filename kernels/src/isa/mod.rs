//! Instruction sets: which ones exist, which one this processor has, and the operations each
//! supplies.
//!
//! Kernels are written once, generic over [`Simd`]: some fifty operations on **16 logical lanes**:
//! rows of a panel of weights, elements of a vector, positions or dimensions. An instruction set is
//! one file that supplies them and one line in the [`isas!`] table.

use core::fmt;
use core::str::FromStr;

use crate::activations::{Block, Group};
use crate::error::IsaError;

/// Environment variable that forces an instruction set by name, see [`Isa::from_env`].
pub const ISA_VARIABLE: &str = "QRUNTIME_ISA";

/// Work that runs on whichever instruction set it is given: the visitor that takes a run-time
/// [`Isa`] to a compile-time [`Simd`].
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, as must everything generic below it: a call that is left out of
    /// line loses the instruction set and costs an order of magnitude (`ci/codegen.sh` checks).
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The vector operations that kernels need, on 16 logical lanes.
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
    /// 16 lanes of whole numbers in `-128..=127`, as [`dot_halves`](Self::dot_halves) takes them.
    type Factor: Copy;
    /// 16 lanes of a sum of products that is being made.
    type Half: Copy;
    /// 16 lanes of `f32`.
    type F32: Copy;
    /// Whether the accumulators of four rows of activations have no room in registers beside a
    /// tile's weights.
    const FEW_REGISTERS: bool;
    /// Whether 16 vectors of sums of `f32` have room in registers beside their operands, rather
    /// than 4 to 6.
    const MANY_SUMS: bool;

    /// Loads 64 bytes.
    fn load(self, src: &[u8; 64]) -> Self::Bytes;

    /// Asks for the cache line at an address, which need not be one's own, to be brought near:
    /// nothing is read. May do nothing.
    fn prefetch(self, address: *const u8);

    /// Bits `from..` of every byte, as many as `mask` keeps, moved to `to..`; either and their
    /// number are at most 8 together.
    fn bits(self, w: Self::Bytes, from: u32, mask: u8, to: u32) -> Self::Bytes;

    /// The bits of both.
    fn or(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;

    /// The entries of `table` that bytes below 16 name.
    fn lookup_bytes(self, table: &[i8; 16], index: Self::Bytes) -> Self::Bytes;

    /// `Σ w·x` of each row of `x`, exact, for weights `w` in `0..=15`.
    ///
    /// `F`, here and below, is the format: a product has functions of its own for each, called once
    /// for quads of rows, and functions that are called once are always inlined.
    fn dot_u4<const R: usize, F>(self, w: &[Self::Bytes; 8], x: &Block<R>) -> [Self::I32; R];

    /// `Σ w·x` of each row of `x`, exact, for weights `w` in `0..=31`.
    fn dot_u5<const R: usize, F>(self, w: &[Self::Bytes; 8], x: &Block<R>) -> [Self::I32; R];

    /// `factors[0]·Σ (w - 32)·x` over columns 0..16 `+ factors[1]·Σ (w - 32)·x` over columns 16..32
    /// of each row of `x`, exact, for weights `w` in `0..=63`.
    fn dot_halves<const R: usize, F>(
        self,
        w: &[Self::Bytes; 8],
        factors: &[Self::Factor; 2],
        x: &Block<R>,
    ) -> [Self::I32; R];

    /// A sum that [`add_to_half`](Self::add_to_half) makes and [`add_half`](Self::add_half) takes:
    /// of four such calls, for 16 columns of one row, the whole of what
    /// [`dot_halves`](Self::dot_halves) makes of a half. It begins with the half's `offsets_32`.
    fn half(self, offsets: [i16; 2]) -> Self::Half;

    /// `sum + w·x` for weights `w` in `0..=63` of four columns.
    fn add_to_half(self, sum: Self::Half, w: Self::Bytes, x: Group) -> Self::Half;

    /// `dot + factor·sum`.
    fn add_half(self, dot: Self::I32, sum: Self::Half, factor: Self::Factor) -> Self::I32;

    /// Factors from whole numbers in `-128..=127`.
    fn factor(self, a: Self::I32) -> Self::Factor;

    /// `Σ w·x` of each row of `x`, exact, for any signed bytes `w`.
    fn dot_i8<const R: usize, F>(self, w: &Self::Signed, x: &Block<R>) -> [Self::I32; R];

    /// Multiplies 64 pairs of bytes and adds the products to sums, by the fewest instructions there
    /// are for it, every time it is asked. For [`peak`](crate::peak) only: whether bytes are
    /// signed, and where and how wide the sums are, is up to the instruction set.
    fn multiply_bytes(self, sums: Self::I32, w: Self::Bytes, x: Self::Bytes) -> Self::I32;

    /// Makes signed bytes ready for products.
    fn signed(self, w: &[Self::Bytes; 8]) -> Self::Signed;

    /// The bytes that were given to [`signed`](Self::signed).
    fn signed_codes(self, w: &Self::Signed) -> [Self::Bytes; 8];

    /// Byte `j` (0..4) of every lane, sign-extended.
    fn byte(self, w: Self::Bytes, j: u32) -> Self::I32;

    /// Bits `from..` of every lane of 32 bits, as many as `mask` keeps, as whole numbers.
    fn bits_i32(self, w: Self::Bytes, from: u32, mask: i32) -> Self::I32;

    /// The same of 16 numbers of 16 bits (little-endian).
    fn bits_of_u16(self, src: &[u8; 32], from: u32, mask: i32) -> Self::I32;

    /// `2^(e - 128)` of 16 bytes `e`; 255 counts as 254 + 1, as GGUF has it.
    fn load_e8m0(self, src: &[u8; 16]) -> Self::F32;

    /// The low bytes of four vectors, lane by lane: column `J` of the result is from `columns[J]`.
    fn pack(self, columns: [Self::I32; 4]) -> Self::Bytes;

    /// Writes 64 bytes.
    fn store_bytes(self, v: Self::Bytes, dst: &mut [u8; 64]);

    /// Adds `b` to every lane, modulo 2³².
    fn add_i32(self, a: Self::I32, b: i32) -> Self::I32;

    /// Converts to `f32`; exact for magnitudes up to 2²⁴.
    fn to_f32(self, a: Self::I32) -> Self::F32;

    /// Converts whole numbers of magnitude up to 2²⁴; exact. What others become is open.
    fn to_i32(self, a: Self::F32) -> Self::I32;

    /// Widens 16 binary16 numbers (little-endian).
    fn load_f16(self, src: &[u8; 32]) -> Self::F32;

    /// Widens 16 bfloat16 numbers (little-endian).
    fn load_bf16(self, src: &[u8; 32]) -> Self::F32;

    /// Rounds to binary16 (ties to even, too large becomes infinite) and writes it, little-endian.
    fn store_f16(self, v: Self::F32, dst: &mut [u8; 32]);

    /// Loads 16 numbers.
    fn load_f32(self, src: &[f32; 16]) -> Self::F32;

    /// Loads 16 numbers from their bytes (little-endian).
    fn load_f32_bytes(self, src: &[u8; 64]) -> Self::F32;

    /// Sign-extends 16 bytes.
    fn load_i8(self, src: &[u8; 16]) -> Self::I32;

    /// The same number in every lane.
    fn splat(self, v: f32) -> Self::F32;

    /// `a + b`, rounded.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `a - b`, rounded.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `a / b`, rounded.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// The smaller of two numbers. Which zero of two with different signs is open, and so is the
    /// result for NaN: nothing that is kept may depend on either.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// The larger of two numbers; the same is open as in [`min`](Self::min).
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// Clears the sign.
    fn abs(self, a: Self::F32) -> Self::F32;

    /// Rounds to a whole number towards zero.
    fn trunc(self, a: Self::F32) -> Self::F32;

    /// Rounds to the nearest whole number, halves away from zero.
    fn round(self, a: Self::F32) -> Self::F32;

    /// `x` where `a > b`, else `y`.
    fn where_greater(self, a: Self::F32, b: Self::F32, x: Self::F32, y: Self::F32) -> Self::F32;

    /// `a · b`, rounded.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `a · b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;

    /// `2^n`, for n in `-126..=127`; for others any number.
    fn power_of_two(self, n: Self::I32) -> Self::F32;

    /// The sum of all lanes: lanes 8..16 are added to lanes 0..8, of the sums the upper four to the
    /// lower four, then two, then one.
    fn sum(self, a: Self::F32) -> f32;

    /// Writes the lanes in order.
    fn store(self, v: Self::F32, dst: &mut [f32; 16]);

    /// In each lane the entry of `table` that the low four bits of `index` name.
    fn lookup(self, table: &[f32; 16], index: Self::I32) -> Self::F32;
}

/// Puts a list of features on a function. A macro of its own because the list and the functions
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

/// Defines an instruction set from its feature list and its operations.
///
/// The list is written once; detection, the gateway and every operation are made from it, so they
/// cannot drift apart. The operations are safe functions with those features enabled: one that
/// needs a feature the list lacks does not compile.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! define_isa {
    (
        $(#[$doc:meta])*
        $isa:ident, $detected:ident $features:tt;
        type Bytes = $bytes:ty;
        type Signed = $signed:ty;
        type I32 = $i32:ty;
        type Factor = $factor:ty;
        type Half = $half:ty;
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
        pub(crate) struct $isa(());

        impl $isa {
            /// The proof that this processor has the instruction set, if it has.
            pub(crate) fn detect() -> Option<Self> {
                $crate::isa::all_detected!($detected $features).then_some(Self(()))
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
            type Half = $half;
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

/// `is_x86_feature_detected!("a") && is_x86_feature_detected!("b") && ...`
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! all_detected {
    ($detected:ident ($($feature:tt)+)) => { $(std::arch::$detected!($feature))&&+ };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use all_detected;

/// The table of instruction sets, best first, with those that they extend by dot products alone.
/// From it come [`Isa`], its names, detection and dispatch.
macro_rules! isas {
    ($(
        $(#[cfg($cfg:meta)])?
        $isa:ident = $name:literal in $module:ident $(extends $base:ident in $base_module:ident)?: $needs:literal;
    )+) => {
        $($(#[cfg($cfg)])? mod $module;)+

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Token {
            $($(#[cfg($cfg)])? $isa($module::$isa),)+
        }

        /// All instruction sets this library knows, on any architecture: name and what the
        /// processor must have.
        pub const KNOWN_ISAS: &[(&str, &str)] = &[$(($name, $needs)),+];

        impl Isa {
            /// The instruction sets this processor has, best first. Never empty: `scalar` is always
            /// there.
            pub fn available() -> impl Iterator<Item = Self> {
                [$($(#[cfg($cfg)])? $module::$isa::detect().map(Token::$isa),)+].into_iter().flatten().map(Self)
            }

            /// The name, as [`FromStr`] and the environment variable take it.
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

            /// The same for a kernel without dot products: on the instruction set that this one
            /// extends, where they are all that it adds. The code is the same, and compiled once.
            pub(crate) fn run_without_dots<K: Kernel>(self, kernel: K) -> K::Output {
                match self.0 {
                    $($(#[cfg($cfg)])? Token::$isa(isa) => base!(isa $($base_module::$base)?).run(kernel),)+
                }
            }
        }
    };
}

/// What an instruction set extends, or itself.
macro_rules! base {
    ($isa:ident) => {
        $isa
    };
    ($isa:ident $module:ident::$base:ident) => {{
        let _ = $isa;
        $module::$base::detect().expect("a processor with an extension has what it extends")
    }};
}

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
    AvxVnni = "avx-vnni" in avx_vnni extends Avx2 in avx2:
        "AVX-VNNI, AVX2, FMA, F16C";
    #[cfg(target_arch = "x86_64")] Avx2 = "avx2" in avx2: "AVX2, FMA, F16C";
    #[cfg(target_arch = "aarch64")]
    NeonI8mm = "neon-i8mm" in neon_i8mm extends Neon in neon:
        "AArch64 NEON with dot product and matrix multiplication";
    #[cfg(target_arch = "aarch64")]
    NeonDot = "neon-dotprod" in neon_dot extends Neon in neon:
        "AArch64 NEON with dot product";
    #[cfg(target_arch = "aarch64")] Neon = "neon" in neon: "AArch64 NEON";
    Scalar = "scalar" in scalar: "any processor";
}

impl Isa {
    /// The best instruction set this processor has.
    #[must_use]
    pub fn best() -> Self {
        Self::available().next().unwrap_or(Self::SCALAR)
    }

    /// The portable reference, which every processor has.
    pub const SCALAR: Self = Self(Token::Scalar(scalar::Scalar));

    /// The one that the environment variable [`ISA_VARIABLE`] names, or the best one if it is unset
    /// or empty.
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
