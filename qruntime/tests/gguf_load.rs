//! GGUF models in memory: the same tensors, to the byte, and the same logits, to the bit, as a
//! Hugging Face folder with the same blocks.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::path::Path;

use kernels::{Encoding, Format, Isa, Matrix, Rounding, panel};
use qruntime::container::Storage;
use qruntime::gguf::{ElementType, Foreign, Gguf, RowOrder};
use qruntime::{CausalLm, Dtype, Error, FileErrorKind, Model, Network, NetworkKind};
use serde_json::{Value, json};
use support::expected::shared;
use support::gguf::GgufFile;
use support::{Random, Tensor, written};
use tempfile::TempDir;

const HIDDEN: usize = 256;
const VOCABULARY: usize = 40;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD: usize = HIDDEN / HEADS;

/// The matrices of a tiny Llama with one layer: names in checkpoints and in GGUF, rows, and in how
/// many heads rows are interleaved.
const MATRICES: [(&str, &str, usize, Option<usize>); 8] = [
    ("model.embed_tokens", "token_embd", VOCABULARY, None),
    ("model.layers.0.self_attn.q_proj", "blk.0.attn_q", HIDDEN, Some(HEADS)),
    ("model.layers.0.self_attn.k_proj", "blk.0.attn_k", KV_HEADS * HEAD, Some(KV_HEADS)),
    ("model.layers.0.self_attn.v_proj", "blk.0.attn_v", KV_HEADS * HEAD, None),
    ("model.layers.0.self_attn.o_proj", "blk.0.attn_output", HIDDEN, None),
    ("model.layers.0.mlp.gate_proj", "blk.0.ffn_gate", HIDDEN, None),
    ("model.layers.0.mlp.up_proj", "blk.0.ffn_up", HIDDEN, None),
    ("model.layers.0.mlp.down_proj", "blk.0.ffn_down", HIDDEN, None),
];

const NORMS: [(&str, &str); 3] = [
    ("model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"),
    ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
    ("model.norm.weight", "output_norm.weight"),
];

/// Returns the metadata of the tiny Llama.
fn metadata() -> GgufFile {
    GgufFile::default()
        .text("general.architecture", "llama")
        .number("llama.embedding_length", HIDDEN as u32)
        .number("llama.block_count", 1)
        .number("llama.attention.head_count", HEADS as u32)
        .number("llama.attention.head_count_kv", KV_HEADS as u32)
        .number("llama.feed_forward_length", HIDDEN as u32)
        .number("llama.context_length", 64)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .float("llama.rope.freq_base", 1e4)
}

fn config() -> Value {
    json!({"model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": HIDDEN,
        "num_hidden_layers": 1, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": true})
}

/// Returns rows in the order of a GGUF file.
fn in_file_order(rows: &[u8], count: usize, heads: Option<usize>) -> Vec<u8> {
    let Some(heads) = heads else { return rows.to_vec() };
    let bytes = rows.len() / count;
    let mut file = vec![0; rows.len()];
    for (row, from) in rows.chunks_exact(bytes).enumerate() {
        let to = RowOrder::Interleaved { heads }.row_in_file(row, count);
        file[to * bytes..][..bytes].copy_from_slice(from);
    }
    file
}

/// Returns the rows of blocks of random weights, and the same as panels.
fn blocks(random: &mut Random, format: Format, rows: usize) -> (Vec<u8>, Vec<u8>) {
    let weights: Vec<f32> = (0..rows * HIDDEN).map(|_| random.unit() * 0.1).collect();
    let matrix = Matrix::encode(Isa::best(), format, Rounding::Nearest, &weights, rows, HIDDEN).unwrap();
    let panels = matrix.view().as_bytes().to_vec();
    let row_bytes = format.row_bytes(HIDDEN).unwrap();
    let mut all = vec![0; rows * row_bytes];
    let each = panels.chunks_exact(format.panel_bytes(HIDDEN).unwrap());
    for (panel, rows) in each.zip(all.chunks_mut(panel::PANEL_ROWS * row_bytes)) {
        panel::unpack(format, HIDDEN, panel, rows).unwrap();
    }
    (all, panels)
}

/// Makes a file and the folder that it stands for.
fn both(format: Format) -> (GgufFile, Vec<Tensor>) {
    let mut random = Random(7);
    let (mut file, mut tensors) = (metadata(), vec![]);
    for (name, in_gguf, rows, heads) in MATRICES {
        let (all, panels) = blocks(&mut random, format, rows);
        file = file.blocks(&format!("{in_gguf}.weight"), &[rows, HIDDEN], format, in_file_order(&all, rows, heads));
        tensors.push((format!("{name}.weight"), Storage::Packed(format), vec![rows, HIDDEN], panels));
    }
    for (name, in_gguf) in NORMS {
        let norm: Vec<f32> = (0..HIDDEN).map(|_| 1.0 + 0.2 * random.unit()).collect();
        file = file.plain(in_gguf, &[HIDDEN], &norm);
        let bytes = norm.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((name.to_owned(), Storage::Plain(Dtype::F32), vec![HIDDEN], bytes));
    }
    (file, tensors)
}

fn folder(tensors: &[Tensor]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors"), written(tensors, Value::Null)).unwrap();
    fs::write(folder.path().join("config.json"), config().to_string()).unwrap();
    folder
}

/// Writes a file alone into a folder.
fn alone(file: &GgufFile) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.gguf"), file.bytes()).unwrap();
    folder
}

fn logits(path: &Path) -> Vec<u32> {
    let lm = CausalLm::open(path).unwrap();
    let mut session = lm.session();
    session.feed(&[1, 5, 39, 0, 17]).unwrap().iter().map(|x| x.to_bits()).collect()
}

/// Returns the bytes of all tensors, by name.
fn content(model: &Model) -> Vec<(String, Storage, Vec<usize>, Vec<u8>)> {
    let tensors = model.tensors().map(|entry| {
        let (name, storage, shape) = (entry.name().to_owned(), entry.storage().clone(), entry.shape().to_vec());
        let bytes = match &storage {
            Storage::Packed(_) => {
                let tensor = model.packed(&name).unwrap();
                (0..tensor.matrix_count()).flat_map(|i| tensor.matrix(i).as_bytes().to_vec()).collect()
            }
            Storage::Plain(_) => model.plain(&name).unwrap().as_bytes().to_vec(),
        };
        (name, storage, shape, bytes)
    });
    tensors.collect()
}

#[test]
fn every_format_gives_the_bits_of_a_folder_with_the_same_blocks() {
    for &format in Format::ALL.iter().filter(|format| format.ggml_type().is_some()) {
        let (file, tensors) = both(format);
        let (gguf, hf) = (alone(&file), folder(&tensors));
        let model = Model::read(gguf.path().join("model.gguf")).unwrap();
        assert!(content(&model) == content(&Model::read(hf.path()).unwrap()), "{format}: other bytes");
        assert_eq!(model.warnings(), [""; 0]);
        assert_eq!(model.file_bytes(), file.bytes().len() as u64);
        let expected = logits(hf.path());
        assert!(logits(gguf.path()) == expected, "{format}: other logits");
        assert!(logits(&gguf.path().join("model.gguf")) == expected, "{format}: other logits");
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_threads() {
    let (file, _) = both(Format::Q4K);
    let gguf = alone(&file);
    let load = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| content(&Model::read(gguf.path()).unwrap()))
    };
    let expected = load(1);
    assert!((2..=4).all(|threads| load(threads) == expected));
}

#[test]
fn files_say_what_kind_of_network_they_hold() {
    let (file, _) = both(Format::Q8_0);
    let gguf = alone(&file);
    assert_eq!(Network::kind(gguf.path()).unwrap(), NetworkKind::CausalLm { family: "llama" });
    let Network::CausalLm(lm) = Network::open(gguf.path()).unwrap() else { panic!("not a language model") };
    assert_eq!((lm.config().layers, lm.config().hidden, lm.config().vocab_size), (1, HIDDEN, VOCABULARY));
    assert_eq!(lm.folder(), Some(gguf.path().join("model.gguf").as_path()));
}

/// Elements in `f32` that are the same in both: rows of queries and keys are only moved.
#[test]
fn plain_tensors_are_copied_row_by_row() {
    let mut random = Random(11);
    for (number, dtype, width) in [(0, Dtype::F32, 4), (1, Dtype::F16, 2), (30, Dtype::BF16, 2)] {
        let (mut file, mut expected) = (metadata(), vec![]);
        for (name, in_gguf, rows, heads) in MATRICES {
            let bytes: Vec<u8> = (0..rows * HIDDEN * width).map(|_| random.bits() as u8).collect();
            let in_file = in_file_order(&bytes, rows, heads);
            file = file.tensor(&format!("{in_gguf}.weight"), &[rows, HIDDEN], number, in_file);
            expected.push((format!("{name}.weight"), Storage::Plain(dtype), vec![rows, HIDDEN], bytes));
        }
        // A vector of queries is moved, too.
        let bias: Vec<u8> = (0..HIDDEN * 4).map(|_| random.bits() as u8).collect();
        file = file.tensor("blk.0.attn_q.bias", &[HIDDEN], 0, in_file_order(&bias, HIDDEN, Some(HEADS)));
        let name = "model.layers.0.self_attn.q_proj.bias".to_owned();
        expected.push((name, Storage::Plain(Dtype::F32), vec![HIDDEN], bias));
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        let gguf = alone(&file);
        assert!(content(&Model::read(gguf.path()).unwrap()) == expected, "{dtype:?}");
    }
}

#[test]
fn foreign_formats_are_encoded_as_the_rule_says_with_a_warning() {
    let mut random = Random(13);
    for &foreign in Foreign::ALL {
        let (rows, cols) = (40, 512);
        let count = rows * cols / foreign.block_len();
        let mut bytes: Vec<u8> = (0..count * foreign.block_bytes()).map(|_| random.bits() as u8).collect();
        // Random scales may be infinite or NaN; bytes of small ones are not.
        bytes.iter_mut().for_each(|byte| *byte &= 0x2f);
        let mut weights = vec![0.0; rows * cols];
        foreign.decode(&bytes, &mut weights).unwrap();
        let file = metadata().tensor("blk.0.ffn_gate.weight", &[rows, cols], foreign.ggml(), bytes);
        let format = ElementType::Foreign(foreign).stand_in();
        let encoding = Encoding { isa: Isa::best(), format, rounding: Rounding::Search, importance: None };
        let mut panels = vec![0; format.matrix_bytes(rows, cols).unwrap()];
        encoding.encode(&weights, cols, &mut panels).unwrap();
        let gguf = alone(&file);
        let model = Model::read(gguf.path()).unwrap();
        let expected =
            ("model.layers.0.mlp.gate_proj.weight".to_owned(), Storage::Packed(format), vec![rows, cols], panels);
        assert!(content(&model) == [expected], "{foreign}");
        let [warning] = model.warnings() else { panic!("{foreign}: {:?}", model.warnings()) };
        assert!(warning.contains(&format!("1 tensors of {foreign} were encoded as {format}")), "{warning}");
    }
}

/// A factor beside a tensor is part of its elements.
#[test]
fn factors_are_applied() {
    let (all, _) = blocks(&mut Random(17), Format::Q8_0, 32);
    let name = "blk.0.ffn_gate";
    let load = |factor: f32| {
        let file = metadata().blocks(&format!("{name}.weight"), &[32, HIDDEN], Format::Q8_0, all.clone());
        let gguf = alone(&file.plain(&format!("{name}.scale"), &[1], &[factor]));
        let model = Model::read(gguf.path()).unwrap();
        let mut row = vec![0.0; HIDDEN];
        let layer = model.linear("model.layers.0.mlp.gate_proj").unwrap();
        layer.decode_row(5, &mut row).unwrap();
        row
    };
    let (once, doubled) = (load(1.0), load(2.0));
    assert!(once.iter().any(|x| *x != 0.0));
    assert!(once.iter().zip(doubled).all(|(once, doubled)| 2.0 * once == doubled));
}

/// Norms of Gemma are stored with 1 added.
#[test]
fn norms_lose_what_was_added_to_them() {
    let file = GgufFile::default().text("general.architecture", "gemma2").number("gemma2.attention.head_count", 1);
    let gguf = alone(&file.plain("output_norm.weight", &[3], &[1.0, 1.5, 0.25]));
    let model = Model::read(gguf.path()).unwrap();
    assert_eq!(model.plain("model.norm.weight").unwrap().to_f32().unwrap(), [0.0, 0.5, -0.75]);
}

#[test]
fn tensors_that_nothing_reads_are_named() {
    let mut file = metadata().plain("output_norm.weight", &[2], &[1.0, 2.0]);
    for i in 0..5 {
        file = file.plain(&format!("extra.{i}"), &[1], &[0.0]);
    }
    let model = Model::read(alone(&file).path()).unwrap();
    assert_eq!(model.tensors().count(), 1);
    assert_eq!(
        model.warnings(),
        ["tensors that such a network does not use were left out: \"extra.0\", \"extra.1\", \"extra.2\" and 2 more"]
    );
}

#[test]
fn a_split_model_opens_by_any_file_and_by_its_folder() {
    let (file, _) = both(Format::Q4_0);
    let whole = alone(&file);
    let parts = tempfile::tempdir().unwrap();
    let count = file.tensors.len();
    let part = |i: usize| parts.path().join(format!("tiny-{:05}-of-00003.gguf", i + 1));
    for i in 0..3 {
        let mut some = if i == 0 { metadata() } else { GgufFile::default() };
        some.tensors = file.tensors[i * count / 3..(i + 1) * count / 3].to_vec();
        let some = some.value("split.no", 2, &(i as u16).to_le_bytes()).value("split.count", 2, &3u16.to_le_bytes());
        fs::write(part(i), some.value("split.tensors.count", 5, &(count as i32).to_le_bytes()).bytes()).unwrap();
    }
    let expected = content(&Model::read(whole.path()).unwrap());
    for path in [parts.path().to_owned(), part(0), part(1), part(2)] {
        assert!(content(&Model::read(&path).unwrap()) == expected, "{path:?}");
    }
    assert!(logits(parts.path()) == logits(whole.path()));
}

#[test]
fn a_folder_is_what_it_is_without_doubt() {
    let (file, tensors) = both(Format::Q4_0);
    let gguf = alone(&file);
    fs::write(gguf.path().join("other.gguf"), file.bytes()).unwrap();
    match Model::read(gguf.path()).unwrap_err() {
        Error::File(error) => {
            assert_eq!(error.kind(), FileErrorKind::Shards, "{error}");
            assert!(error.to_string().contains("2 GGUF models, expected one: name a file"), "{error}");
            assert!(error.to_string().contains("[\"model.gguf\", \"other.gguf\"]"), "{error}");
        }
        error => panic!("{error}"),
    }
    // A folder with safetensors is one of Hugging Face's.
    let hf = folder(&tensors);
    fs::write(hf.path().join("model.gguf"), b"GGUF").unwrap();
    assert!(Model::read(hf.path()).unwrap().is_described());
    // The ending of a name does not matter.
    let renamed = tempfile::tempdir().unwrap();
    fs::write(renamed.path().join("blob"), file.bytes()).unwrap();
    assert!(Gguf::is_gguf(&renamed.path().join("blob")));
    assert!(!Model::read(renamed.path().join("blob")).unwrap().is_described());
}

#[test]
fn errors_name_the_file_that_would_be_there() {
    let file = GgufFile::default().text("general.architecture", "llama").number("llama.block_count", 0);
    let gguf = alone(&file.plain("token_embd.weight", &[3, 2], &[0.0; 6]));
    let error = CausalLm::open(gguf.path()).unwrap_err();
    assert!(error.to_string().contains("model.gguf"), "{error}");
    let (file, _) = both(Format::Q4_0);
    let lm = CausalLm::open(alone(&file).path()).unwrap();
    assert!(lm.config().eos.is_empty());
}

/// The file has matrices in half precision and, as all GGUF files, norms in single precision. Of
/// the folders, one has all in half precision, the other all in single.
#[test]
fn a_real_model_gives_the_logits_of_its_folder() {
    let [Some(gguf), Some(halves), Some(singles)] =
        ["stories260K-f16.gguf", "hf-float16", "hf-float32"].map(|name| shared(&format!("stories260K/{name}")))
    else {
        return;
    };
    let (halves_model, singles_model) = (Model::read(&halves).unwrap(), Model::read(&singles).unwrap());
    let tensors = halves_model.tensors().map(|entry| {
        let model = if entry.shape().len() > 1 { &halves_model } else { &singles_model };
        let tensor = model.plain(entry.name()).unwrap();
        let storage = Storage::Plain(tensor.dtype());
        (entry.name().to_owned(), storage, entry.shape().to_vec(), tensor.as_bytes().to_vec())
    });
    let folder = folder(&tensors.collect::<Vec<_>>());
    fs::copy(halves.join("config.json"), folder.path().join("config.json")).unwrap();

    let (ours, theirs) = (CausalLm::open(&gguf).unwrap(), CausalLm::open(folder.path()).unwrap());
    let ids: Vec<u32> = (0..200).map(|i| (i * i + 3 * i) % 512).collect();
    let bits = |lm: &CausalLm| {
        let mut bits = Vec::new();
        lm.session().feed_each(&ids, |_, logits| bits.extend(logits.iter().map(|x| x.to_bits()))).unwrap();
        bits
    };
    assert!(bits(&ours) == bits(&theirs));
    assert_eq!(bits(&ours).len(), 200 * 512);
    assert_eq!((ours.config().bos, ours.config().eos.clone()), (theirs.config().bos, theirs.config().eos.clone()));
}
