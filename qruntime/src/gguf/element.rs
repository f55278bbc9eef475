//! Types of elements, by their numbers in GGUF.

use std::fmt;

use kernels::{Foreign, Format};
use safetensors::Dtype;

use crate::error::FileErrorKind;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// Plain elements.
    Plain(Dtype),
    /// Blocks of a format that is multiplied as it is.
    Blocks(Format),
    /// Blocks of a format that is read, but not multiplied.
    Foreign(Foreign),
}

/// The numbers of plain types.
const PLAIN: &[(u32, Dtype)] = &[
    (0, Dtype::F32),
    (1, Dtype::F16),
    (24, Dtype::I8),
    (25, Dtype::I16),
    (26, Dtype::I32),
    (27, Dtype::I64),
    (28, Dtype::F64),
    (30, Dtype::BF16),
];

/// The numbers of types that are not read: the first and last of each group, its names, and why.
const REFUSED: &[(u32, u32, &str, &str)] = &[
    (4, 4, "Q4_2", REMOVED),
    (5, 5, "Q4_3", REMOVED),
    (9, 9, "Q8_1", ACTIVATIONS),
    (15, 15, "Q8_K", ACTIVATIONS),
    (31, 33, "Q4_0_4_4, Q4_0_4_8 or Q4_0_8_8", REPACKED),
    (36, 38, "IQ4_NL_4_4, IQ4_NL_4_8 or IQ4_NL_8_8", REPACKED),
    (133, 133, "Q6_0", IK),
    (134, 136, "IQ1_BN, IQ2_BN or Q8_K64", IK),
    (137, 141, "IQ2_K to IQ6_K", IK),
    (142, 158, "such as IQ4_KS or IQ4_KT", IK),
    (200, 399, "rows interleaved by four or eight", IK),
];

const REMOVED: &str = "which was removed from GGUF: convert the original checkpoint again";
const REPACKED: &str =
    "rows interleaved for one processor, which was removed from GGUF: give the Q4_0 or IQ4_NL file that it was made of";
const ACTIVATIONS: &str = "which is for activations, not for weights";
const IK: &str = "a type of ik_llama.cpp, which only that program reads: give a file of llama.cpp's types";

impl ElementType {
    /// Returns the type with this number.
    ///
    /// # Errors
    /// A sentence about a number that is not the number of a type that is read.
    pub fn from_ggml(number: u32) -> Result<Self, UnreadType> {
        if let Some(&(_, dtype)) = PLAIN.iter().find(|(ggml, _)| *ggml == number) {
            return Ok(Self::Plain(dtype));
        }
        if let Some(&format) = Format::ALL.iter().find(|format| format.ggml_type() == Some(number)) {
            return Ok(Self::Blocks(format));
        }
        Foreign::from_ggml(number).map(Self::Foreign).ok_or(UnreadType { number })
    }

    /// Returns the number of the type, if GGUF has the type.
    #[must_use]
    pub fn ggml(self) -> Option<u32> {
        match self {
            Self::Plain(dtype) => PLAIN.iter().find(|(_, plain)| *plain == dtype).map(|(ggml, _)| *ggml),
            Self::Blocks(format) => format.ggml_type(),
            Self::Foreign(foreign) => Some(foreign.ggml()),
        }
    }

    /// Returns the number of elements in a block; 1 for plain elements.
    #[must_use]
    pub fn block_len(self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Blocks(format) => format.block_len(),
            Self::Foreign(foreign) => foreign.block_len(),
        }
    }

    /// Returns the bytes of a block; of an element, for plain elements.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Plain(dtype) => dtype.bitsize() / 8,
            Self::Blocks(format) => format.block_bytes(),
            Self::Foreign(foreign) => foreign.block_bytes(),
        }
    }

    /// Returns the format of a matrix whose blocks cannot be multiplied as they are: the same if it
    /// is only for a factor beside them; for a foreign format, the smallest that adds much less
    /// error than the format itself has cost; otherwise `q8_0`.
    #[must_use]
    pub fn stand_in(self) -> Format {
        match self {
            Self::Blocks(format) => format,
            Self::Foreign(foreign) => {
                STAND_INS.iter().find(|(found, _)| *found == foreign).map_or(Format::Q8_0, |&(_, format)| format)
            }
            Self::Plain(_) => Format::Q8_0,
        }
    }

    /// Returns the bytes of a row of `cols` elements; `None` if these are not whole blocks, or too
    /// many.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let whole = cols.is_multiple_of(self.block_len());
        (cols / self.block_len()).checked_mul(self.block_bytes()).filter(|_| whole)
    }
}

/// For each foreign format the smallest format that adds a relative RMS error of less than 3 %.
const STAND_INS: &[(Foreign, Format)] = &[
    (Foreign::Iq1S, Format::Q4K),
    (Foreign::Iq1M, Format::Q5K),
    (Foreign::Iq2Xxs, Format::Q4K),
    (Foreign::Iq2Xs, Format::Q5K),
    (Foreign::Iq2S, Format::Q5K),
    (Foreign::Iq3Xxs, Format::Q4K),
    (Foreign::Iq3S, Format::Q4K),
    (Foreign::Tq1_0, Format::Q4_0),
    (Foreign::Tq2_0, Format::Q4_0),
    (Foreign::Nvfp4, Format::Q6K),
    (Foreign::Q1_0, Format::Q4_0),
    (Foreign::Q2_0, Format::Q4_0),
];

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(dtype) => write!(f, "{dtype:?}"),
            Self::Blocks(format) => format.fmt(f),
            Self::Foreign(foreign) => f.write_str(foreign.name()),
        }
    }
}

/// The number of a type that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnreadType {
    /// The number.
    pub number: u32,
}

impl UnreadType {
    fn known(self) -> Option<(&'static str, &'static str)> {
        let row = REFUSED.iter().find(|(first, last, ..)| (*first..=*last).contains(&self.number));
        row.map(|&(_, _, name, why)| (name, why))
    }

    pub(super) fn kind(self) -> FileErrorKind {
        match self.known() {
            Some(_) => FileErrorKind::Foreign,
            None => FileErrorKind::Version,
        }
    }
}

impl fmt::Display for UnreadType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number;
        match self.known() {
            Some((name, why)) => write!(f, "type {number} ({name}), {why}"),
            None => write!(f, "type {number}, which is not known: the file is damaged or newer than this library"),
        }
    }
}

impl std::error::Error for UnreadType {}
