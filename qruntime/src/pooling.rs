//! Pools the vectors of a text's tokens into one.

/// How the vectors of a text's tokens become the vector of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// The mean.
    Mean,
    /// The vector of the first token.
    Cls,
    /// The maximum of each element.
    Max,
    /// The sum, divided by the square root of the number of tokens.
    MeanSqrtLen,
    /// The mean weighted by position: 1 for the first token, 2 for the second, and so on.
    WeightedMean,
    /// The vector of the last token.
    LastToken,
}

impl Pooling {
    /// Pools the vectors of tokens, given with their positions; there is at least one.
    pub(crate) fn apply<'a>(self, rows: impl ExactSizeIterator<Item = (usize, &'a [f32])> + Clone, vector: &mut [f32]) {
        let count = rows.len() as f32;
        let weights: f32 = rows.clone().map(|(position, _)| weight(position)).sum();
        let rest = rows.len().saturating_sub(1);
        let mut rows = rows.skip(if self == Self::LastToken { rest } else { 0 });
        let Some((position, first)) = rows.next() else { return };
        vector.copy_from_slice(first);
        match self {
            Self::Cls | Self::LastToken => {}
            Self::Max => {
                for (_, row) in rows {
                    vector.iter_mut().zip(row).for_each(|(most, x)| *most = most.max(*x));
                }
            }
            Self::Mean | Self::MeanSqrtLen => {
                for (_, row) in rows {
                    vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
                }
                let divisor = if self == Self::Mean { count } else { count.sqrt() };
                vector.iter_mut().for_each(|sum| *sum /= divisor);
            }
            Self::WeightedMean => {
                vector.iter_mut().for_each(|sum| *sum *= weight(position));
                for (position, row) in rows {
                    vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight(position) * x);
                }
                vector.iter_mut().for_each(|sum| *sum /= weights);
            }
        }
    }
}

/// Returns the weight of a position in [`Pooling::WeightedMean`].
fn weight(position: usize) -> f32 {
    (position + 1) as f32
}
