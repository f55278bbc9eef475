//! Mixes: names for a whole model under which each tensor gets a format by what it does and in
//! which layer.
//!
//! The names and the choices are those of llama.cpp, where `q4_k_m` means that values and the last
//! matrices of MLPs have 6 bits in half of the layers, and so on. So a model has the types that a
//! GGUF file of this name has.

use kernels::Format;
use qruntime::names::{Part, TensorName};
use qruntime::names_of;

use self::Which::{All, Eighth, First, Sensitive, Shared, Sixteenth};
use crate::source::TensorInfo;

/// A mix of formats.
#[derive(Debug, PartialEq)]
pub struct Mix {
    name: &'static str,
    /// The format of what nothing else is said of.
    base: Format,
    /// The format of the output head, and of embeddings that are the head, too.
    head: Format,
    /// The formats of the matrices that compute values; the first that applies.
    values: &'static [(Which, Format)],
    /// The formats of the last matrices of MLPs.
    down: &'static [(Which, Format)],
    /// The format of the output matrices of attention, and the one in mixtures of eight experts.
    attention_output: [Format; 2],
    /// The format of experts.
    experts: Option<Format>,
}

/// Some of the layers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Which {
    All,
    /// So many from the first on.
    First(usize),
    /// The first eighth.
    Eighth,
    /// The first sixteenth.
    Sixteenth,
    /// The first and the last eighth, and every third one between.
    Sensitive,
    /// All, if at least four heads of queries share a head of keys and values.
    Shared,
}

use Format::{Mxfp4, Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// Every mix. llama.cpp calls `q2_k_m` Q2_K.
pub const MIXES: &[Mix] = &[
    of("q5_k_m", Q5K, &[(Sensitive, Q6K)], &[(Sensitive, Q6K)], [Q5K; 2]),
    of("q5_k_s", Q5K, &[], &[], [Q5K; 2]),
    of("q4_k_m", Q4K, &[(Sensitive, Q6K)], &[(Sensitive, Q6K)], [Q4K, Q5K]),
    of("q4_k_s", Q4K, &[(First(4), Q5K)], &[(Eighth, Q5K)], [Q4K, Q5K]),
    of("q3_k_l", Q3K, &[(All, Q5K)], &[(All, Q5K)], [Q5K, Q3K]),
    of("q3_k_m", Q3K, &[(First(2), Q5K), (All, Q4K)], &[(Sixteenth, Q5K), (All, Q4K)], [Q4K, Q5K]),
    of("q3_k_s", Q3K, &[], &[], [Q3K, Q5K]),
    of("q2_k_m", Q2K, &[(Shared, Q4K), (All, Q3K)], &[(All, Q3K)], [Q3K, Q5K]),
    of("q2_k_s", Q2K, &[(Shared, Q4K)], &[(Eighth, Q4K)], [Q2K; 2]),
    Mix { head: Q8_0, experts: Some(Mxfp4), ..of("mxfp4_moe", Q8_0, &[], &[], [Q8_0; 2]) },
];

const fn of(
    name: &'static str,
    base: Format,
    values: &'static [(Which, Format)],
    down: &'static [(Which, Format)],
    attention_output: [Format; 2],
) -> Mix {
    Mix { name, base, head: Q6K, values, down, attention_output, experts: None }
}

impl Mix {
    /// Returns the name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A mix for the tensors of one network.
#[derive(Debug)]
pub(super) struct Mixture {
    mix: &'static Mix,
    model_type: Option<String>,
    layers: usize,
    /// The layers that compute values, ascending, and those with a last matrix of an MLP: some
    /// networks have layers without.
    with_values: Vec<usize>,
    with_down: Vec<usize>,
    experts: usize,
    /// Heads of queries for each head of keys and values.
    sharing: usize,
    tied: bool,
}

impl Mixture {
    /// Prepares a mix for the tensors of a network.
    pub(super) fn new(mix: &'static Mix, tensors: &[TensorInfo], model_type: Option<&str>) -> Self {
        let mut mixture = Self {
            mix,
            model_type: model_type.map(str::to_owned),
            layers: 0,
            with_values: vec![],
            with_down: vec![],
            experts: 0,
            sharing: 1,
            tied: true,
        };
        let (mut queries, mut keys, mut fused, mut heads) = (None, None, None, None);
        for tensor in tensors {
            let Some(TensorName { part, layer, expert, bias: false, .. }) = mixture.parse(tensor.name()) else {
                continue;
            };
            let layer = layer.unwrap_or(0);
            let &[ref leading @ .., rows, cols] = tensor.shape() else { continue };
            mixture.layers = mixture.layers.max(layer + 1);
            match part {
                Part::Head => mixture.tied = false,
                Part::Query => queries = queries.or(Some(rows)),
                Part::Key => keys = keys.or(Some(rows)),
                Part::AttentionOutput => heads = heads.or(Some(cols)),
                Part::QueryKeyValue => fused = fused.or(Some(rows)),
                _ => {}
            }
            match part {
                Part::Value | Part::QueryKeyValue => mixture.with_values.push(layer),
                Part::Down => mixture.with_down.push(layer),
                Part::ExpertDown => {
                    let experts = expert.map_or_else(|| leading.iter().product(), |expert| expert + 1);
                    mixture.experts = mixture.experts.max(experts);
                }
                _ => {}
            }
        }
        mixture.with_values.sort_unstable();
        mixture.with_down.sort_unstable();
        mixture.sharing = match (queries, keys, fused, heads) {
            (Some(queries), Some(keys), ..) if keys > 0 => queries / keys,
            // Queries, keys and values below each other; attention has as many outputs as queries.
            (_, _, Some(all), Some(queries)) if all > queries + 1 => queries / ((all - queries) / 2),
            _ => 1,
        };
        mixture
    }

    /// Returns what a tensor does. Unknown families are taken for kin of Llama.
    fn parse(&self, name: &str) -> Option<TensorName> {
        let known = self.model_type.as_deref().and_then(names_of);
        known.or_else(|| names_of("llama"))?.parse(name)
    }

    /// Chooses the format of a matrix.
    pub(super) fn format(&self, tensor: &TensorInfo) -> Format {
        let format = self.for_any_width(tensor);
        let cols = tensor.cols();
        if cols.is_multiple_of(format.block_len()) {
            return format;
        }
        match format {
            Q2K | Q3K => Q4_0,
            Q4K => Q5_0,
            Q5K => Q5_1,
            Q6K => Q8_0,
            other => other,
        }
    }

    /// Chooses the format where rows are whole blocks.
    fn for_any_width(&self, tensor: &TensorInfo) -> Format {
        let mix = self.mix;
        let Some(TensorName { part, layer, .. }) = self.parse(tensor.name()) else { return mix.base };
        let layer = layer.unwrap_or(0);
        let is_mixture = self.experts > 1;
        match part {
            Part::Head => self.head(tensor),
            Part::TokenEmbedding if self.tied => self.head(tensor),
            Part::ExpertGate | Part::ExpertUp | Part::ExpertGateUp | Part::ExpertDown if mix.experts.is_some() => {
                mix.experts.unwrap_or(mix.base)
            }
            _ if mix.experts.is_some() => mix.base,
            Part::Value | Part::QueryKeyValue => {
                let format = self.chosen(mix.values, rank(&self.with_values, layer), self.with_values.len());
                match format {
                    _ if self.experts == 8 => Q8_0,
                    // Of 70 billion weights: values are an eighth of queries.
                    Q3K | Q4K if self.layers == 80 && self.sharing > 1 => Q5K,
                    format => format,
                }
            }
            Part::Key if self.experts == 8 => Q8_0,
            Part::Down | Part::ExpertDown | Part::SharedDown => {
                let position = if is_mixture { layer } else { rank(&self.with_down, layer) };
                self.chosen(mix.down, position, self.layers)
            }
            Part::AttentionOutput => mix.attention_output[usize::from(self.experts == 8)],
            _ => mix.base,
        }
    }

    /// The format of the output head, which 8 bits replace where the others' blocks do not fit.
    fn head(&self, tensor: &TensorInfo) -> Format {
        if tensor.cols().is_multiple_of(self.mix.base.block_len()) { self.mix.head } else { Q8_0 }
    }

    /// The format of the first entry that applies to layer `i` of `n`.
    fn chosen(&self, choices: &[(Which, Format)], i: usize, n: usize) -> Format {
        let applies = |which: Which| match which {
            All => true,
            First(count) => i < count,
            Eighth => i < n / 8,
            Sixteenth => i < n / 16,
            Sensitive => i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2,
            Shared => self.sharing >= 4,
        };
        choices.iter().find(|(which, _)| applies(*which)).map_or(self.mix.base, |&(_, format)| format)
    }
}

/// Returns how many of the ascending `layers` come before `layer`.
fn rank(layers: &[usize], layer: usize) -> usize {
    layers.partition_point(|&other| other < layer)
}
