//! GGUF files: converted with their blocks as they are, requantized, compared, inspected.

#[allow(dead_code, unreachable_pub, reason = "shared with the tests of qruntime, which use all of it")]
#[path = "../../../qruntime/tests/support/gguf.rs"]
mod file;

use kernels::{Foreign, Format, Isa, Matrix, Rounding, panel};
use qruntime::Model;
use qruntime::container::Storage;
use quantize_cli::source;

use self::file::GgufFile;
use super::*;

const COLS: usize = 256;

fn weights(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + seed * 11) % 251) as f32 / 125.0 - 1.0).collect()
}

/// Rows of blocks of a format.
fn blocks(format: Format, seed: usize, rows: usize) -> Vec<u8> {
    let weights = weights(seed, rows * COLS);
    let matrix = Matrix::encode(Isa::best(), format, Rounding::Nearest, &weights, rows, COLS).unwrap();
    let view = matrix.view();
    let mut blocks = vec![];
    for first in (0..rows).step_by(16) {
        let mut rows = vec![0; 16.min(rows - first) * format.row_bytes(COLS).unwrap()];
        panel::unpack(format, COLS, view.panels(first / 16..first / 16 + 1).as_bytes(), &mut rows).unwrap();
        blocks.extend(rows);
    }
    blocks
}

/// Rows of blocks of a format that begins with a half-precision scale, and is only read.
fn foreign(format: Foreign, rows: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..rows * format.row_bytes(COLS).unwrap()).map(|i| (i * i / 7 + i) as u8).collect();
    for block in bytes.chunks_mut(format.block_bytes()) {
        block[1] = 0x20 | block[1] & 3;
    }
    bytes
}

/// A network without matrices in its layers.
fn network(layers: usize) -> GgufFile {
    GgufFile::default()
        .text("general.architecture", "llama")
        .text("general.name", "Tiny \u{1b}[31m")
        .number("llama.context_length", 64)
        .number("llama.embedding_length", COLS as u32)
        .number("llama.block_count", layers as u32)
        .number("llama.feed_forward_length", 256)
        .number("llama.attention.head_count", 4)
        .number("llama.attention.head_count_kv", 2)
        .float("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .plain("output_norm.weight", &[COLS], &weights(1, COLS))
        .tensor(
            "token_embd.weight",
            &[40, COLS],
            1,
            weights(2, 40 * COLS).iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        )
}

/// A network whose layers have a matrix of every format each, of a number of rows that is no
/// multiple of a panel's, and queries, whose rows change places.
fn every_format() -> GgufFile {
    let mut file = network(Format::ALL.len());
    for (layer, &format) in Format::ALL.iter().enumerate() {
        file = file
            .blocks(&format!("blk.{layer}.ffn_up.weight"), &[37, COLS], format, blocks(format, layer, 37))
            .blocks(&format!("blk.{layer}.attn_q.weight"), &[COLS, COLS], format, blocks(format, layer, COLS));
    }
    file
}

fn written(folder: &Path, file: &GgufFile) -> PathBuf {
    let path = folder.join("model.gguf");
    fs::write(&path, file.bytes()).unwrap();
    path
}

#[test]
fn blocks_stay_as_they_are_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let model = written(folder.path(), &every_format());
    let out = folder.path().join("out");
    let args = ["convert", text(&model), text(&out), "--json"];
    let planned = json(&[&args[..], &["--dry-run"]].concat());
    let done = json(&args);
    assert_eq!((&planned["bytes"], &planned["warnings"]), (&done["bytes"], &serde_json::json!([])));
    ok(&["verify", text(&out)]);

    // Every weight is that of the source, which reads the file by itself.
    let source = source::open(&model).unwrap();
    let converted = Model::read(&out).unwrap();
    let mut packed = 0;
    for (position, tensor) in source.tensors().iter().enumerate() {
        let entry = converted.tensor(tensor.name()).unwrap();
        assert_eq!(entry.shape(), tensor.shape());
        let mut expected = vec![0.0; tensor.elements()];
        source.read_f32(position, 0..expected.len(), &mut expected).unwrap();
        let Storage::Packed(format) = entry.storage() else { continue };
        assert_eq!(format.name(), tensor.stored().to_string());
        let packed_tensor = converted.packed(tensor.name()).unwrap();
        let matrix = packed_tensor.matrix(0);
        let mut row = vec![0.0; COLS];
        for (i, expected) in expected.chunks(COLS).enumerate() {
            matrix.decode_row(i, &mut row).unwrap();
            let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&row), bits(expected), "{} row {i}", tensor.name());
        }
        packed += 1;
    }
    assert_eq!(packed, 2 * Format::ALL.len());

    let compared = json(&["compare", text(&model), text(&out), "--json"]);
    assert_eq!((&compared["mismatches"], &compared["identical"]), (&serde_json::json!([]), &serde_json::json!(2)));
    let errors = compared["packed"].as_array().unwrap();
    assert!(errors.len() == packed && errors.iter().all(|tensor| tensor["relative_rms"] == 0.0), "{compared}");
    let config: Value = serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert_eq!((&config["hidden_size"], &config["quantization_config"]["format"]), (&COLS.into(), &"keep".into()));
    let recipe = json(&["inspect", text(&out), "--json"])["recipe"].clone();
    assert_eq!(recipe["to"], "keep");

    // A compare that finds a difference: another source.
    let mut other = every_format();
    let last = other.tensors.last_mut().unwrap();
    last.data[40] ^= 1;
    fs::write(&model, other.bytes()).unwrap();
    let compared = json(&["compare", text(&model), text(&out), "--json"]);
    assert_eq!(compared["packed"].as_array().unwrap().iter().filter(|tensor| tensor["relative_rms"] != 0.0).count(), 1);
}

#[test]
fn a_format_packs_what_has_another_one_and_says_what_that_means() {
    let folder = tempfile::tempdir().unwrap();
    let model = written(folder.path(), &every_format());
    let out = folder.path().join("out");
    let done = json(&["convert", text(&model), text(&out), "--to", "q6_k", "--json"]);
    let [warning] = &done["warnings"].as_array().unwrap()[..] else { panic!("{done}") };
    let warning = warning.as_str().unwrap();
    assert!(warning.starts_with("the source is quantized already (q8_0, ") && warning.contains("q4_k"), "{warning}");
    let action = |tensor: &Value| tensor["action"].as_str().unwrap().to_owned();
    let mut actions: Vec<String> = done["tensors"].as_array().unwrap().iter().map(action).collect();
    actions.sort();
    actions.dedup();
    // The norm; what is of the format already; the embedding, which has no fewer than 8 bits.
    assert_eq!(actions, ["keep", "keep q6_k", "q6_k", "q8_0"]);
    // A plain source has a default.
    let plain = network(1).plain("blk.0.ffn_up.weight", &[32, COLS], &weights(3, 32 * COLS));
    fs::write(&model, plain.bytes()).unwrap();
    let done = json(&["convert", text(&model), text(&out), "--json", "--force"]);
    let mut actions: Vec<String> = done["tensors"].as_array().unwrap().iter().map(action).collect();
    actions.sort();
    assert_eq!(
        (actions, &done["warnings"]),
        (vec!["keep".into(), "q4_k".into(), "q8_0".into()], &serde_json::json!([]))
    );
}

#[test]
fn formats_that_are_only_read_become_others() {
    let folder = tempfile::tempdir().unwrap();
    let (shape, iq3, q1) = ([32, COLS], foreign(Foreign::Iq3S, 32), foreign(Foreign::Q1_0, 32));
    let file = network(2)
        .tensor("blk.0.ffn_up.weight", &shape, Foreign::Iq3S.ggml(), iq3.clone())
        .tensor("blk.1.ffn_up.weight", &shape, Foreign::Iq3S.ggml(), iq3)
        .tensor("blk.0.ffn_gate.weight", &shape, Foreign::Q1_0.ggml(), q1)
        .blocks("blk.1.ffn_gate.weight", &shape, Format::Q4K, blocks(Format::Q4K, 5, 32));
    let model = written(folder.path(), &file);
    let out = folder.path().join("out");
    let done = json(&["convert", text(&model), text(&out), "--rule", "*.1.mlp.up_proj*=keep", "--json"]);
    let [warning] = &done["warnings"].as_array().unwrap()[..] else { panic!("{done}") };
    let warning = warning.as_str().unwrap();
    assert!(warning.contains("iq3_s becomes q4_k in 1 tensor, q1_0 becomes q4_0 in 1 tensor"), "{warning}");
    let tensors = done["tensors"].as_array().unwrap();
    let of = |name: &str| tensors.iter().find(|tensor| tensor["name"].as_str().unwrap().contains(name)).unwrap();
    let action = |name: &str| of(name)["action"].as_str().unwrap();
    assert_eq!((action("0.mlp.up_proj"), action("0.mlp.gate_proj")), ("q4_k", "q4_0"));
    assert_eq!((action("1.mlp.gate_proj"), action("embed_tokens")), ("keep q4_k", "keep"));
    assert!((1e-6..0.03).contains(&of("0.mlp.up_proj")["relative_rms"].as_f64().unwrap()));
    // A rule that keeps one decodes it, exactly.
    assert_eq!((action("1.mlp.up_proj"), of("1.mlp.up_proj")["bytes"].as_u64()), ("keep", Some(4 * 32 * COLS as u64)));
    let compared = json(&["compare", text(&model), text(&out), "--json"]);
    assert_eq!((&compared["mismatches"], &compared["converted"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert_eq!(compared["identical"], 3);
}

#[test]
fn blocks_with_a_scale_that_is_not_finite_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Q8_0, Format::Q4K, Format::Q6K] {
        let mut damaged = blocks(format, 1, 37);
        // The scale of the last row's last block.
        let at = damaged.len() - if format == Format::Q6K { 2 } else { format.block_bytes() };
        damaged[at..at + 2].copy_from_slice(&f16::INFINITY.to_le_bytes());
        let file = network(1).blocks("blk.0.ffn_up.weight", &[37, COLS], format, damaged);
        let model = written(folder.path(), &file);
        let out = folder.path().join("out");
        let error = refused(&["convert", text(&model), text(&out), "-q"]);
        assert!(error.contains("mlp.up_proj.weight") && error.contains("element [36, "), "{error}");
        assert!(!out.exists());
    }
}

#[test]
fn inspect_says_what_a_file_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = every_format()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", &["a", "b", "c"])
        .text("tokenizer.chat_template", "{{ x }}");
    let model = written(folder.path(), &file);
    let report = json(&["inspect", text(&model), "--json"]);
    assert_eq!((&report["format"], &report["architecture"]), (&"GGUF, version 3".into(), &"llama".into()));
    assert_eq!((&report["context"], &report["tokenizer"]["tokens"]), (&64.into(), &3.into()));
    assert_eq!(report["tokenizer"]["kind"], "byte-level BPE (smollm)");
    let scheme = report["scheme"].as_array().unwrap();
    let of = |name: &str| scheme.iter().find(|kind| kind["storage"] == name).unwrap();
    for format in Format::ALL {
        assert_eq!(of(format.name())["tensors"], 2);
    }
    assert_eq!((&of("f16")["elements"], &of("f32")["bytes"]), (&(40 * COLS).into(), &(4 * COLS).into()));
    assert_eq!(report["file_bytes"], fs::metadata(&model).unwrap().len());
    let tensors = report["tensors"].as_array().unwrap();
    assert_eq!(tensors.len(), 2 + 2 * Format::ALL.len());
    let bytes: u64 = tensors.iter().map(|tensor| tensor["bytes"].as_u64().unwrap()).sum();
    let bits = 8.0 * bytes as f64 / report["elements"].as_f64().unwrap();
    assert!((report["bits_per_weight"].as_f64().unwrap() - bits).abs() < 1e-9);

    let printed = ok(&["inspect", text(&model)]);
    for expected in
        ["format: GGUF", "q6_k in 2 tensors", "context: 64 tokens", "3 tokens, chat template", "convert, compare"]
    {
        assert!(printed.contains(expected), "{printed}\n    expected: {expected}");
    }
    assert!(!printed.contains("blk.0") && !printed.contains('\u{1b}'), "{printed}");
    let listed = ok(&["inspect", text(&model), "--tensors"]);
    assert!(listed.contains("blk.0.attn_q.weight") && listed.ends_with(" bits/weight\n"), "{listed}");
    // A network that is not known is described all the same.
    fs::write(&model, GgufFile::default().text("general.architecture", "clip").plain("v.x", &[2], &[1.0; 2]).bytes())
        .unwrap();
    let printed = ok(&["inspect", text(&model)]);
    assert!(printed.contains("architecture: clip") && printed.contains("cannot: convert, compare"), "{printed}");
    // So are a checkpoint and a model of this program.
    let source = checkpoint(folder.path(), unchanged);
    let printed = ok(&["inspect", text(&source)]);
    assert!(
        printed.contains("architecture: llama") && printed.contains("can: convert, compare (a checkpoint)"),
        "{printed}"
    );
    let out = folder.path().join("out");
    ok(&["convert", text(&source), text(&out), "--to", "q4_0", "-q"]);
    let printed = ok(&["inspect", text(&out)]);
    assert!(printed.contains("packed by quantize") && printed.contains("can: verify, compare"), "{printed}");
}
