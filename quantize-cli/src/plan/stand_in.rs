//! Formats that stand in for those that are only read.

use super::{Step, Target};
use crate::layout::Action;
use crate::source::{Stored, TensorInfo};

/// Says what it means that formats stand in for others, if no format was asked for.
pub(super) fn warning(steps: &[Step], tensors: &[TensorInfo], to: Target) -> Option<String> {
    if to != Target::Kept {
        return None;
    }
    let mut pairs: Vec<(String, usize)> = vec![];
    for step in steps {
        let (Action::Pack(format), Stored::Decoded(element_type)) = (step.action, tensors[step.tensor].stored()) else {
            continue;
        };
        let pair = format!("{element_type} becomes {format}");
        match pairs.iter_mut().find(|(found, _)| *found == pair) {
            Some((_, count)) => *count += 1,
            None => pairs.push((pair, 1)),
        }
    }
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(pair, count)| format!("{pair} in {count} tensor{}", if *count == 1 { "" } else { "s" }))
        .collect();
    (!pairs.is_empty()).then(|| {
        format!(
            "formats that are only read are packed anew: {}. The model has the accuracy of the source, less an error \
             that the table below names, and the size of its new formats; --rule 'GLOB=FORMAT' names others",
            pairs.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use kernels::{Encoding, Foreign, Isa, Rounding};
    use qruntime::gguf::ElementType;

    /// Random blocks with scales as they occur.
    fn blocks(foreign: Foreign, count: usize) -> Vec<u8> {
        let mut state = 7u64;
        let mut bytes = vec![0; count * foreign.block_bytes()];
        for byte in &mut bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 33) as u8;
        }
        for block in bytes.chunks_mut(foreign.block_bytes()) {
            match foreign {
                Foreign::Nvfp4 => block[..4].iter_mut().for_each(|scale| *scale = 0x38 + *scale % 24),
                // A scale of four quarters: 0x2c00.
                Foreign::Iq1M => {
                    for (i, quarter) in [0, 0, 0xc0, 0x20].into_iter().enumerate() {
                        block[49 + 2 * i] = block[49 + 2 * i] & 15 | quarter;
                    }
                }
                _ => {
                    let at = match foreign {
                        Foreign::Tq1_0 => 52,
                        Foreign::Tq2_0 => 64,
                        _ => 0,
                    };
                    block[at + 1] = 0x20 | block[at + 1] & 3;
                }
            }
        }
        bytes
    }

    #[test]
    fn what_stands_in_for_a_format_adds_little() {
        let (rows, cols) = (16, 2048);
        for &foreign in Foreign::ALL {
            let format = ElementType::Foreign(foreign).stand_in();
            let blocks = blocks(foreign, rows * cols / foreign.block_len());
            let mut weights = vec![0.0; rows * cols];
            foreign.decode(&blocks, &mut weights).expect("whole blocks");
            let mut panels = vec![0; format.matrix_bytes(rows, cols).expect("a small matrix")];
            let encoding = Encoding { isa: Isa::best(), format, rounding: Rounding::Search, importance: None };
            let error = encoding.encode(&weights, cols, &mut panels).expect("finite weights").relative_rms();
            assert!(error < 0.03, "{foreign} as {format}: {error}");
        }
    }
}
