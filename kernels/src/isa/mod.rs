//! Instruction sets: which ones exist, which one this processor has, and the operations each supplies.
//!
//! Kernels are written once, generic over [`Simd`]: a dozen operations on **16 logical lanes**, one lane per weight row.
//! An instruction set is one file that supplies them and one line in the [`isas!`] table.

use core::fmt;
use core::str::FromStr;

use crate::activations::Group;
use crate::error::IsaError;

/// Environment variable that forces an instruction set by name, see [`Isa::from_env`].
pub const ISA_VARIABLE: &str = "QRUNTIME_ISA";

/// Work that runs on whichever instruction set it is given: the visitor that takes a run-time [`Isa`] to a compile-time [`Simd`].
pub(crate) trait Kernel {
    type Output;

    /// Must be `#[inline(always)]`, as must everything generic below it: a call that is left out of line loses the
    /// instruction set and costs an order of magnitude (`ci/codegen.sh` checks).
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// The vector operations that kernels need, on 16 logical lanes.
///
/// Every operation is exact or correctly rounded and hence gives the same bits on every instruction set.
pub(crate) trait Simd: Copy {
    /// 64 bytes: in each of 16 lanes (rows), 4 consecutive columns.
    type Bytes: Copy;
    /// 16 lanes of `i32`.
    type I32: Copy;
    /// 16 lanes of `f32`.
    type F32: Copy;
    /// Whether the accumulators of 8 rows of activations fit the registers, rather than of 4.
    const WIDE: bool;

    /// Loads 64 bytes.
    fn load(self, src: &[u8; 64]) -> Self::Bytes;

    /// Splits each byte into its low and its high four bits.
    fn nibbles(self, packed: Self::Bytes) -> [Self::Bytes; 2];

    /// `offset + Σ w·x` over the `4·N` columns, exact, for weights `w` in `0..=15`.
    ///
    /// `N` is at most 8: then sums of 16 columns, at most `16·15·127 = 30480`, fit 16 bits.
    fn dot_u4<const N: usize>(self, w: &[Self::Bytes; N], x: &[Group; N], offset: i32) -> Self::I32;

    /// `Σ w·x` over the `4·N` columns, exact, for any signed bytes `w`. `x_sum` is `Σ x`.
    fn dot_i8<const N: usize>(self, w: &[Self::Bytes; N], x: &[Group; N], x_sum: i32) -> Self::I32;

    /// Byte `J` (0..4) of every lane, sign-extended.
    fn byte<const J: usize>(self, w: Self::Bytes) -> Self::I32;

    /// The low bytes of four vectors, lane by lane: column `J` of the result is from `columns[J]`.
    fn pack(self, columns: [Self::I32; 4]) -> Self::Bytes;

    /// Writes 64 bytes.
    fn store_bytes(self, v: Self::Bytes, dst: &mut [u8; 64]);

    /// Adds `b` to every lane.
    fn add_i32(self, a: Self::I32, b: i32) -> Self::I32;

    /// Converts to `f32`; exact for magnitudes up to 2²⁴.
    fn to_f32(self, a: Self::I32) -> Self::F32;

    /// Converts whole numbers of magnitude up to 2²⁴; exact.
    fn to_i32(self, a: Self::F32) -> Self::I32;

    /// Widens 16 binary16 numbers (little-endian).
    fn load_f16(self, src: &[u8; 32]) -> Self::F32;

    /// Rounds to binary16 (ties to even, too large becomes infinite) and writes it, little-endian.
    fn store_f16(self, v: Self::F32, dst: &mut [u8; 32]);

    /// Loads 16 numbers.
    fn load_f32(self, src: &[f32; 16]) -> Self::F32;

    /// The same number in every lane.
    fn splat(self, v: f32) -> Self::F32;

    /// `a + b`, rounded.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `a - b`, rounded.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// `a / b`, rounded.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// The smaller of two numbers that are not NaN.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;

    /// The larger of two numbers that are not NaN.
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

    /// Writes the lanes in order.
    fn store(self, v: Self::F32, dst: &mut [f32; 16]);
}

/// Puts a list of features on a function. A macro of its own because the list and the functions repeat at different depths.
macro_rules! with_features {
    (($($feature:tt)+) $item:item) => {
        $(#[target_feature(enable = $feature)])+
        $item
    };
}
pub(crate) use with_features;

/// Defines an instruction set from its feature list and its operations.
///
/// The list is written once; detection, the gateway and every operation are made from it, so they cannot drift apart. The
/// operations are safe functions with those features enabled: one that needs a feature the list lacks does not compile.
macro_rules! define_isa {
    (
        $(#[$doc:meta])*
        $isa:ident, $detected:ident $features:tt;
        type Bytes = $bytes:ty;
        type I32 = $i32:ty;
        type F32 = $f32:ty;
        const WIDE: bool = $wide:literal;
        $(
            $(#[$fn_attr:meta])*
            fn $name:ident $(<const $n:ident: usize>)? ($($arg:ident: $arg_ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
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
                // SAFETY: `gateway` enables exactly the listed features, which the invariant of `self` says are present.
                unsafe { gateway(kernel, self) }
            }
        }

        impl $crate::isa::Simd for $isa {
            type Bytes = $bytes;
            type I32 = $i32;
            type F32 = $f32;
            const WIDE: bool = $wide;

            $(
                #[inline(always)]
                fn $name $(<const $n: usize>)? (self, $($arg: $arg_ty),*) $(-> $ret)? {
                    $crate::isa::with_features! { $features
                        #[inline]
                        $(#[$fn_attr])*
                        fn operation $(<const $n: usize>)? ($($arg: $arg_ty),*) $(-> $ret)? $body
                    }
                    // SAFETY: `operation` enables exactly the listed features, which the invariant of `self` says are present.
                    unsafe { operation $(::<$n>)? ($($arg),*) }
                }
            )+
        }
    };
}

/// `is_x86_feature_detected!("a") && is_x86_feature_detected!("b") && ...`
macro_rules! all_detected {
    ($detected:ident ($($feature:tt)+)) => { $(std::arch::$detected!($feature))&&+ };
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) use all_detected;

/// The table of instruction sets, best first. From it come [`Isa`], its names, detection and dispatch.
macro_rules! isas {
    ($($(#[cfg($cfg:meta)])? $isa:ident = $name:literal in $module:ident: $needs:literal;)+) => {
        $($(#[cfg($cfg)])? mod $module;)+

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        enum Token {
            $($(#[cfg($cfg)])? $isa($module::$isa),)+
        }

        /// All instruction sets this library knows, on any architecture: name and what the processor must have.
        pub const KNOWN_ISAS: &[(&str, &str)] = &[$(($name, $needs)),+];

        impl Isa {
            /// The instruction sets this processor has, best first. Never empty: `scalar` is always there.
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
        }
    };
}

/// Proof that this processor has an instruction set.
///
/// A value can only be had from detection, so holding one is what makes it safe to run that instruction set's code.
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

isas! {
    #[cfg(target_arch = "x86_64")] Avx512Vnni = "avx512-vnni" in avx512_vnni: "AVX-512 F, BW, VL and VNNI, AVX2, FMA, F16C";
    #[cfg(target_arch = "x86_64")] Avx2 = "avx2" in avx2: "AVX2, FMA, F16C";
    #[cfg(target_arch = "aarch64")] NeonDot = "neon-dotprod" in neon_dot: "AArch64 NEON with dot product";
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

    /// The one that the environment variable [`ISA_VARIABLE`] names, or the best one if it is unset or empty.
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
