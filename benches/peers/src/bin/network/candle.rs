//! candle's quantized Llama. Its threads are fixed when it first runs: `CANDLE_NUM_THREADS`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Result;
use candle_core::quantized::gguf_file::Content;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::ModelWeights;

use crate::Network;

/// What it can read of what we can write.
pub(crate) const FORMATS: &[&str] = &["f16", "q8_0", "q4_0", "q4_1", "q4_k", "q5_k", "q6_k"];

/// A model and what it has been fed.
pub(crate) struct Candle {
    model: ModelWeights,
    fed: usize,
}

impl Candle {
    /// Reads a GGUF file.
    pub(crate) fn open(gguf: &Path) -> Result<Self> {
        let mut file = BufReader::new(File::open(gguf)?);
        let content = Content::read(&mut file)?;
        Ok(Self { model: ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?, fed: 0 })
    }
}

impl Network for Candle {
    fn reset(&mut self) {
        self.model.clear_kv_cache();
        self.fed = 0;
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let logits = self.model.forward(&Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?, self.fed)?;
        self.fed += tokens.len();
        Ok(logits.flatten_all()?.to_vec1()?)
    }
}
