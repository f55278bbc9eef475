//! llama.cpp's network, with what its own programs do when nothing else is asked for: weights
//! rearranged for the processor where it can, keys and values in half precision, blocks of 512
//! tokens. The only module that calls it.

#![expect(unsafe_code, reason = "llama.cpp is a C library")]

use std::ffi::CString;
use std::path::Path;
use std::ptr::NonNull;

use anyhow::{Context as _, Result, ensure};
use llama_cpp_sys_2 as sys;

use crate::Network;

/// Its numbers for files in which all matrices have a format.
const KINDS: &[(&str, sys::llama_ftype)] = &[
    ("q8_0", sys::LLAMA_FTYPE_MOSTLY_Q8_0),
    ("q4_0", sys::LLAMA_FTYPE_MOSTLY_Q4_0),
    ("q4_1", sys::LLAMA_FTYPE_MOSTLY_Q4_1),
    ("q4_k", sys::LLAMA_FTYPE_MOSTLY_Q4_K_S),
    ("q5_k", sys::LLAMA_FTYPE_MOSTLY_Q5_K_S),
    ("q6_k", sys::LLAMA_FTYPE_MOSTLY_Q6_K),
    ("iq4_nl", sys::LLAMA_FTYPE_MOSTLY_IQ4_NL),
    ("iq4_xs", sys::LLAMA_FTYPE_MOSTLY_IQ4_XS),
];

/// Writes a GGUF file whose matrices have a format, and `q8_0` where tokens become vectors and
/// vectors tokens.
pub(crate) fn quantize(from: &Path, to: &Path, format: &str) -> Result<()> {
    let (_, kind) = KINDS.iter().find(|(name, _)| *name == format).context("a format that this knows of")?;
    // SAFETY: it takes nothing and returns numbers.
    let defaults = unsafe { sys::llama_model_quantize_default_params() };
    let parameters = sys::llama_model_quantize_params {
        ftype: *kind,
        pure_: true,
        token_embedding_type: sys::GGML_TYPE_Q8_0,
        output_tensor_type: sys::GGML_TYPE_Q8_0,
        ..defaults
    };
    let (from, to) = (c_string(from)?, c_string(to)?);
    // SAFETY: both names end in a zero; the parameters are the defaults but for numbers and a flag.
    let status = unsafe { sys::llama_model_quantize(from.as_ptr(), to.as_ptr(), &raw const parameters) };
    ensure!(status == 0, "llama.cpp could not quantize");
    Ok(())
}

fn c_string(path: &Path) -> Result<CString> {
    Ok(CString::new(path.to_str().context("a path in UTF-8")?)?)
}

/// A model with a context.
pub(crate) struct LlamaCpp {
    // Before the model that it uses, so that it is freed first.
    context: Context,
    model: Model,
}

struct Model(NonNull<sys::llama_model>);

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: it is owned, and the context that used it has been freed.
        unsafe { sys::llama_model_free(self.0.as_ptr()) };
    }
}

struct Context(NonNull<sys::llama_context>);

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is owned.
        unsafe { sys::llama_free(self.0.as_ptr()) };
    }
}

impl LlamaCpp {
    /// Loads a GGUF file, for sequences of so many tokens.
    pub(crate) fn open(gguf: &Path, context: usize, threads: usize) -> Result<Self> {
        let path = c_string(gguf)?;
        // SAFETY: it takes nothing and returns numbers.
        let parameters = unsafe { sys::llama_model_default_params() };
        // SAFETY: the name ends in a zero; the parameters are the defaults.
        let model = unsafe { sys::llama_model_load_from_file(path.as_ptr(), parameters) };
        let model = Model(NonNull::new(model).with_context(|| format!("llama.cpp cannot load {}", gguf.display()))?);
        // SAFETY: it takes nothing and returns numbers.
        let defaults = unsafe { sys::llama_context_default_params() };
        let (tokens, threads) = (u32::try_from(context)?, i32::try_from(threads)?);
        let parameters = sys::llama_context_params {
            n_ctx: tokens,
            n_batch: tokens,
            n_threads: threads,
            n_threads_batch: threads,
            ..defaults
        };
        // SAFETY: the model is alive; the parameters are the defaults but for numbers.
        let context = unsafe { sys::llama_init_from_model(model.0.as_ptr(), parameters) };
        Ok(Self { context: Context(NonNull::new(context).context("llama.cpp has no context")?), model })
    }
}

impl Network for LlamaCpp {
    fn reset(&mut self) {
        // SAFETY: the context is alive.
        let memory = unsafe { sys::llama_get_memory(self.context.0.as_ptr()) };
        // SAFETY: the memory belongs to the context.
        unsafe { sys::llama_memory_clear(memory, false) };
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut tokens = tokens.iter().map(|&token| token.try_into()).collect::<Result<Vec<i32>, _>>()?;
        let count = tokens.len().try_into()?;
        // SAFETY: so many tokens are there, and outlive the batch.
        let batch = unsafe { sys::llama_batch_get_one(tokens.as_mut_ptr(), count) };
        // SAFETY: the context is alive; llama.cpp compares tokens with the vocabulary and their
        // number with the context.
        let status = unsafe { sys::llama_decode(self.context.0.as_ptr(), batch) };
        ensure!(status == 0, "llama_decode: {status}");
        // SAFETY: the model is alive, and its vocabulary as long as it.
        let vocabulary = unsafe { sys::llama_model_get_vocab(self.model.0.as_ptr()) };
        // SAFETY: as above.
        let count = unsafe { sys::llama_vocab_n_tokens(vocabulary) };
        // SAFETY: the context is alive; it returns a null where there are no logits.
        let logits = unsafe { sys::llama_get_logits_ith(self.context.0.as_ptr(), -1) };
        let logits = NonNull::new(logits).context("llama.cpp has no logits")?;
        #[expect(clippy::disallowed_methods, reason = "numbers of a C library")]
        // SAFETY: there is a number for each token of the vocabulary, until the context is used
        // again.
        Ok(unsafe { std::slice::from_raw_parts(logits.as_ptr(), count.try_into()?) }.to_vec())
    }
}
