//! Folders and files that are something else than a checkpoint of plain weights: each is named,
//! with what shows it and what to do, by the converter and by the runtime alike.

use std::fs;
use std::path::Path;

use qruntime::{CausalLm, Encoder, FileErrorKind};
use quantize_cli::source;
use safetensors::Dtype;
use serde_json::{Value, json};

use crate::{Tensor, f32s, file, folder, small};

const MODEL: &str = "model.safetensors";

/// A small Llama's `config.json`, with more fields.
fn config(more: &Value) -> Vec<u8> {
    let mut config = json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "vocab_size": 40, "max_position_embeddings": 16
    });
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    config.to_string().into_bytes()
}

/// A tensor of zeros.
fn zeros(dtype: Dtype, shape: &[usize]) -> Tensor {
    (dtype, shape.to_vec(), vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8])
}

/// The refusals of a path by the converter and by the runtime.
fn complaints(path: &Path) -> [String; 2] {
    let converter = source::open(path).map(drop).unwrap_err();
    let runtime = CausalLm::open(path).map(drop).unwrap_err();
    [converter.to_string(), runtime.to_string()]
}

#[track_caller]
fn check(path: &Path, expected: &[&str]) {
    for complaint in complaints(path) {
        for part in expected {
            assert!(complaint.contains(part), "{complaint}\n    expected: {part}");
        }
    }
}

#[test]
fn quantized_tensors_are_recognized_without_a_word_in_the_config() {
    use Dtype::{BF16, F4, F16, F32, I8, I16, I32, I64, U8, U32};
    let up = |end: &str| format!("model.layers.0.mlp.up_proj.{end}");
    /// The method, what the converter says (nothing if it decodes the weights), the tensors.
    type Row = (&'static str, Option<&'static str>, Vec<(String, Tensor)>);
    let rows: Vec<Row> = vec![
        (
            "MLX",
            Some("group_size"),
            vec![
                (up("weight"), zeros(U32, &[32, 4])),
                (up("scales"), zeros(BF16, &[32, 1])),
                (up("biases"), zeros(BF16, &[32, 1])),
            ],
        ),
        (
            "GPTQ",
            None,
            vec![
                (up("qweight"), zeros(I32, &[8, 64])),
                (up("qzeros"), zeros(I32, &[2, 8])),
                (up("scales"), zeros(F16, &[2, 64])),
                (up("g_idx"), zeros(I32, &[64])),
            ],
        ),
        (
            "GPTQ or AWQ",
            None,
            vec![
                (up("qweight"), zeros(I32, &[64, 8])),
                (up("qzeros"), zeros(I32, &[2, 8])),
                (up("scales"), zeros(F16, &[2, 64])),
            ],
        ),
        (
            "bitsandbytes",
            Some("without quant_state"),
            vec![(up("weight"), zeros(U8, &[64, 1])), (up("weight.absmax"), zeros(F32, &[2]))],
        ),
        ("bitsandbytes", None, vec![(up("weight"), zeros(I8, &[64, 32])), (up("SCB"), zeros(F32, &[64]))]),
        (
            "bitsandbytes",
            Some("already quantized by bitsandbytes"),
            vec![(up("weight"), zeros(U8, &[64, 1])), (up("weight.quant_state.bitsandbytes__nf4"), zeros(U8, &[90]))],
        ),
        (
            "compressed-tensors",
            Some("expected codes of 4 or 8 bits"),
            vec![(up("weight_packed"), zeros(I32, &[64, 4])), (up("weight_scale"), zeros(BF16, &[64, 1]))],
        ),
        (
            "NVFP4",
            None,
            vec![
                (up("weight"), zeros(U8, &[64, 16])),
                (up("weight_scale"), zeros(Dtype::F8_E4M3, &[64, 2])),
                (up("weight_scale_2"), (F32, vec![], f32s([1.0]))),
            ],
        ),
        (
            "quanto",
            Some("already quantized by quanto (tensor"),
            vec![(up("weight._data"), zeros(I8, &[64, 32])), (up("weight._scale"), zeros(F32, &[64, 1]))],
        ),
        (
            "HQQ",
            Some("already quantized by HQQ (tensor"),
            vec![(up("W_q"), zeros(U8, &[32, 32])), (up("scale"), zeros(F16, &[64, 1]))],
        ),
        (
            "EETQ",
            Some("already quantized by EETQ (tensor"),
            vec![(up("weight"), zeros(I8, &[32, 64])), (up("weight_scales"), zeros(F16, &[64]))],
        ),
        (
            "AQLM",
            Some("already quantized by AQLM (tensor"),
            vec![(up("codes"), zeros(I16, &[64, 4, 1])), (up("codebooks"), zeros(F16, &[1, 16, 1, 8]))],
        ),
        (
            "QuIP#",
            Some("already quantized by QuIP# (tensor"),
            vec![(up("Qidxs"), zeros(I64, &[64, 4])), (up("SU"), zeros(F16, &[32]))],
        ),
        (
            "EXL2",
            Some("already quantized by EXL2 (tensor"),
            vec![(up("q_weight"), zeros(I32, &[8, 64])), (up("q_invperm"), zeros(I16, &[32]))],
        ),
        (
            "torchao",
            Some("already quantized by torchao (tensor"),
            vec![(up("_weight_qdata"), zeros(I8, &[64, 32])), (up("_weight_scale"), zeros(F32, &[64]))],
        ),
        (
            "MXFP4",
            None,
            vec![
                ("model.layers.0.mlp.experts.gate_up_proj_blocks".into(), zeros(U8, &[2, 64, 2, 16])),
                ("model.layers.0.mlp.experts.gate_up_proj_scales".into(), zeros(U8, &[2, 64, 2])),
            ],
        ),
        // Not known by name, and yet no numbers.
        (
            "a method with whole numbers for weights",
            Some("already quantized by a method with whole numbers"),
            vec![(up("weight"), zeros(I8, &[64, 32])), (up("factors"), zeros(F32, &[64]))],
        ),
        (
            "a method with floats of 4 or 6 bits",
            Some("already quantized by a method with floats"),
            vec![(up("weight"), zeros(F4, &[64, 32]))],
        ),
    ];
    for (method, converter, tensors) in rows {
        let tensors: Vec<(&str, Tensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).chain([("x", small(0.0))]).collect();
        let folder = folder(&[("config.json", config(&json!({}))), (MODEL, file(&tensors))]);
        let message = CausalLm::open(folder.path()).map(drop).unwrap_err().to_string();
        for expected in [&format!("already quantized by {method} (tensor"), "up_proj", "give the original checkpoint"] {
            assert!(message.contains(expected), "{message}");
        }
        // The file alone shows it, too.
        for path in [folder.path(), &folder.path().join(MODEL)] {
            match (source::open(path), converter) {
                (Ok(source), None) => assert_eq!(source.tensors().len(), 2, "{method}: {:?}", source.tensors()),
                (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (found, expected) => panic!("{method}: {found:?}, expected {expected:?}"),
            }
        }
        // A person may look into it all the same.
        assert_eq!(qruntime::Model::read(folder.path()).unwrap().tensors().count(), tensors.len());
    }
}

#[test]
fn quantization_that_only_the_config_or_a_file_beside_it_tells_is_recognized() {
    let section = |value: Value| json!({"quantization_config": value});
    let bits = json!({"bits": 4, "group_size": 64});
    let beside = |name: &'static str, value: Value| Some((name, value.to_string().into_bytes()));
    let rows = [
        (json!({"quantization": bits}), None, "MLX (quantization)"),
        (
            json!({"text_config": {"quantization_config": {"quant_method": "awq"}}}),
            None,
            "AWQ (text_config.quantization_config.quant_",
        ),
        (
            section(json!({"quant_method": "gptq", "bits": 4})),
            None,
            r#"GPTQ (quantization_config.quant_method is "gptq")"#,
        ),
        (section(json!({"quant_method": "torchao"})), None, "torchao"),
        (section(json!({"quant_method": "new_one"})), None, "new_one"),
        (section(json!({"load_in_4bit": true})), None, "bitsandbytes (quantization_config.load_in_4bit)"),
        (section(json!({"load_in_8bit": true, "quant_method": null})), None, "bitsandbytes"),
        (section(bits.clone()), None, "a method without a name (quantization_config.bits)"),
        (section(json!({"quant_method": "modelopt", "quant_algo": "NVFP4"})), None, "ModelOpt"),
        (json!({"compression_config": {"quant_method": "compressed-tensors"}}), None, "compressed-tensors"),
        (json!({}), beside("quantize_config.json", bits.clone()), "GPTQ (quantize_config.json)"),
        (json!({}), beside("quant_config.json", bits), "AWQ (quant_config.json)"),
        (json!({}), beside("quanto_qmap.json", json!({})), "quanto"),
        (
            json!({}),
            beside("hf_quant_config.json", json!({"quantization": {"quant_algo": "NVFP4"}})),
            "ModelOpt (quant_algo is",
        ),
    ];
    for (more, beside, expected) in rows {
        let mut files = vec![("config.json", config(&more)), (MODEL, file(&[("x.weight", small(0.0))]))];
        files.extend(beside);
        let folder = folder(&files);
        check(folder.path(), &[expected, "already quantized by", "give the original checkpoint"]);
        check(&folder.path().join(MODEL), &[expected]);
    }
    // What is said of plain weights, and of 8-bit floats, is no obstacle to the converter.
    let plain = [
        section(Value::Null),
        section(json!({})),
        section(json!({"load_in_4bit": false, "load_in_8bit": false})),
        section(json!({"quant_method": "fp8", "weight_block_size": [128, 128]})),
        section(json!({"quant_method": "modelopt", "quant_algo": "FP8"})),
    ];
    for more in plain {
        let folder = folder(&[("config.json", config(&more)), (MODEL, file(&[("x.weight", small(0.0))]))]);
        source::open(folder.path()).unwrap();
    }
}

#[test]
fn folders_that_are_no_checkpoints_have_a_sentence_each() {
    let good = || file(&[("x.weight", small(0.0))]);
    let lora = || file(&[("base_model.model.q_proj.lora_A.weight", small(0.0))]);
    let adapter = || json!({"peft_type": "LORA", "base_model_name_or_path": "some/base"}).to_string().into_bytes();
    let lfs = || b"version https://git-lfs.github.com/spec/v1\noid sha256:abab\nsize 123456789\n".to_vec();
    let html = || b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title>".to_vec();
    let with_config = |name: &'static str, bytes: Vec<u8>| vec![("config.json", config(&json!({}))), (name, bytes)];
    type Files = Vec<(&'static str, Vec<u8>)>;
    let rows: Vec<(Files, &str)> = vec![
        (vec![], "an empty folder, expected a checkpoint"),
        (
            vec![("adapter_config.json", adapter()), ("adapter_model.safetensors", lora())],
            r#"a LoRA adapter without the model that it changes: merge it into "some/base""#,
        ),
        (vec![("adapter_config.json", adapter()), ("adapter_model.bin", vec![])], "a LoRA adapter without the model"),
        (with_config("adapter.safetensors", lora()), "a LoRA adapter without the model that it changes"),
        (with_config(MODEL, lfs()), "a Git LFS pointer in place of the file itself: run `git lfs pull`"),
        (with_config(MODEL, html()), "an HTML page in place of the file"),
        (with_config(MODEL, b"<HTML><body>404</body></HTML>".to_vec()), "an HTML page in place of the file"),
        (
            with_config(MODEL, b"Invalid username or password.".to_vec()),
            r#"text that begins "Invalid username or password.""#,
        ),
        (with_config(MODEL, br#"{"error":"Repository not found"}"#.to_vec()), "JSON text"),
        (with_config(MODEL, [b"GGUF\x03\0\0\0", &[0; 40][..]].concat()), "a GGUF file"),
        (with_config(MODEL, [b"PK\x03\x04\0\0\x08\x08", &[0; 40][..]].concat()), "as torch.save writes it"),
        (
            with_config(MODEL, vec![0; 64]),
            "header of 0 bytes: the file was perhaps not written or downloaded to its end",
        ),
        (
            with_config("pytorch_model.bin", vec![0]),
            r#"no .safetensors file, but PyTorch weights ("pytorch_model.bin"): load the"#,
        ),
        (with_config("consolidated.00.pth", vec![0]), "PyTorch weights"),
        (with_config("tf_model.h5", vec![0]), "TensorFlow weights"),
        (with_config("flax_model.msgpack", vec![0]), "Flax weights"),
        (with_config("model.onnx", vec![0]), "an ONNX model"),
        (with_config("model-q4_k_m.GGUF", vec![0]), "a GGUF file"),
        (with_config("model.safetensors.incomplete", vec![0]), "an unfinished download"),
        (
            with_config("tokenizer.json", vec![]),
            "no model.safetensors.index.json, model.safetensors or other .safetensors file",
        ),
        (
            vec![("refs/main", vec![]), ("snapshots/abc/model.safetensors", good())],
            r#"in "snapshots/abc": give that folder"#,
        ),
        (vec![("config.json", lfs()), (MODEL, good())], "config.json\": a Git LFS pointer"),
        (vec![("config.json", html()), (MODEL, good())], "config.json\": an HTML page"),
        (
            vec![("config.json", b"../../blobs/0123456789abcdef".to_vec()), (MODEL, good())],
            "config.json\": the text of a link",
        ),
    ];
    for (files, expected) in rows {
        let folder = folder(&files);
        check(folder.path(), &[expected]);
        // Where there is a file to open, an encoder has missed its own configuration before.
        if !files.iter().any(|(name, _)| [MODEL, "adapter.safetensors"].contains(name)) {
            let encoder = Encoder::open(folder.path()).map(drop).unwrap_err().to_string();
            assert!(encoder.contains(expected), "{encoder}\n    expected: {expected}");
        }
    }
    // Files that are named themselves.
    let folder = folder(&[("m.pt", [b"PK\x03\x04\0\0\x08\x08", &[0; 9][..]].concat())]);
    let error = |name: &str| source::open(&folder.path().join(name)).map(drop).unwrap_err().to_string();
    assert!(error("m.pt").contains("as torch.save writes it"), "{}", error("m.pt"));
}

#[cfg(unix)]
#[test]
fn links_to_nowhere_are_named() {
    use std::os::unix::fs::symlink;
    let good = file(&[("x.weight", small(0.0))]);
    for name in ["config.json", MODEL, "model.safetensors.index.json", "other.safetensors"] {
        let folder = folder(&[]);
        let (other, bytes) =
            if name == "config.json" { (MODEL, good.clone()) } else { ("config.json", config(&json!({}))) };
        fs::write(folder.path().join(other), bytes).unwrap();
        symlink("../../blobs/missing", folder.path().join(name)).unwrap();
        check(folder.path(), &[name, r#"a link to "../../blobs/missing", which is missing"#, "download it again"]);
    }
    // A companion is as good as lost, too.
    let folder = folder(&[("config.json", config(&json!({}))), (MODEL, good)]);
    symlink("../../blobs/missing", folder.path().join("tokenizer.json")).unwrap();
    let error = source::open(folder.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json\": a link to \"../../blobs/missing\""), "{error}");
}

#[test]
fn a_single_file_wins_over_an_index_with_a_warning() {
    let index = |shard: &str| json!({"weight_map": {"a.weight": shard, "b.weight": shard}}).to_string().into_bytes();
    let rows: [(Vec<u8>, Option<&str>); 4] = [
        // Shards that are not there, shards that are, an index of the file itself, and one that
        // cannot be read.
        (
            index("model-00001-of-00002.safetensors"),
            Some("ignored, with the files that it lists (\"model-00001-of-00002"),
        ),
        (
            index("1.safetensors"),
            Some("(\"1.safetensors\"): model.safetensors beside it is read, as transformers does"),
        ),
        (index(MODEL), None),
        (b"broken".to_vec(), None),
    ];
    for (index, expected) in rows {
        let folder = folder(&[
            (MODEL, file(&[("a.weight", small(1.0))])),
            ("1.safetensors", file(&[("a.weight", small(10.0)), ("b.weight", small(20.0))])),
            ("model.safetensors.index.json", index),
        ]);
        let source = source::open(folder.path()).unwrap();
        assert_eq!(crate::read(&*source, "a.weight")[0], 1.0);
        let model = qruntime::Model::read(folder.path()).unwrap();
        assert_eq!(model.warnings(), source.warnings());
        match (expected, source.warnings()) {
            (None, []) => {}
            (Some(expected), [warning]) => assert!(warning.contains(expected), "{warning}"),
            other => panic!("{other:?}"),
        }
    }
    let folder = folder(&[(MODEL, file(&[("a.weight", small(1.0))])), ("adapter_config.json", b"{}".to_vec())]);
    let source = source::open(folder.path()).unwrap();
    assert!(source.warnings()[0].contains("an adapter lies beside the model and is not applied"));
}

#[test]
fn scales_of_8_bit_floats_are_found_under_their_names_or_missed() {
    let e4m3 = |shape: &[usize]| (Dtype::F8_E4M3, shape.to_vec(), vec![0x38; shape.iter().product()]);
    let scale =
        |shape: &[usize]| (Dtype::F32, shape.to_vec(), f32s((1..).map(|i| i as f32).take(shape.iter().product())));
    let open = |tensors: &[(&str, Tensor)]| {
        let folder = folder(&[(MODEL, file(tensors))]);
        let source = source::open(folder.path()).map_err(|error| error.to_string())?;
        let first = tensors[0].0;
        let names = source.tensors().len();
        assert_eq!(names, 1, "scales are absorbed");
        Ok::<_, String>(crate::read(&*source, first))
    };
    // 0x38 is 1, so every element is its scale.
    for name in ["up.weight_scale", "up.weight_scale_inv", "up.scale_weight", "up.scale"] {
        assert_eq!(
            open(&[("up.weight", e4m3(&[2, 3])), (name, scale(&[2, 1]))]),
            Ok(vec![1.0, 1.0, 1.0, 2.0, 2.0, 2.0]),
            "{name}"
        );
    }
    for name in ["experts.up_proj_scale", "experts.up_proj_scale_inv", "experts.up_proj_weight_scale"] {
        let experts = ("experts.up_proj", e4m3(&[2, 2, 2]));
        let rows: [(&[usize], [f32; 8]); 5] = [
            (&[2], [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]),
            (&[2, 1, 1], [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]),
            (&[2, 2, 1], [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]),
            (&[2, 1, 2], [1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]),
            (&[4], [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]),
        ];
        for (shape, expected) in rows {
            assert_eq!(open(&[experts.clone(), (name, scale(shape))]), Ok(expected.to_vec()), "{name} {shape:?}");
        }
    }
    // Powers of two, and floats with five bits of exponent.
    let powers = (Dtype::F8_E8M0, vec![2], vec![127, 130]);
    assert_eq!(open(&[("up.weight", e4m3(&[2, 1])), ("up.scale", powers)]), Ok(vec![1.0, 8.0]));
    let e5m2 = (Dtype::F8_E5M2, vec![1, 3], vec![0x3c, 0xbc, 0x40]);
    assert_eq!(open(&[("up.weight", e5m2), ("up.weight_scale", scale(&[1]))]), Ok(vec![1.0, -1.0, 2.0]));
    // Marks and scales of activations go.
    let others = [
        ("up.weight", e4m3(&[1, 1])),
        ("up.scale_weight", scale(&[])),
        ("up.scale_input", scale(&[])),
        ("scaled_fp8", (Dtype::F8_E4M3, vec![0], vec![])),
        ("attn.k_scale", scale(&[])),
    ];
    assert_eq!(open(&others), Ok(vec![1.0]));

    let missing = open(&[("up.weight", e4m3(&[2, 3]))]).unwrap_err();
    assert!(
        missing.contains("tensor \"up.weight\": F8_E4M3 without scales, expected one of up.weight_scale_inv"),
        "{missing}"
    );
    let unknown =
        open(&[("up.weight", e4m3(&[2, 3])), ("up.weight_scale", scale(&[])), ("up.weight_scale_3", scale(&[]))]);
    let unknown = unknown.unwrap_err();
    assert!(
        unknown.contains("tensor \"up.weight_scale_3\": lies beside the 8-bit floats of \"up.weight\""),
        "{unknown}"
    );
    let both =
        open(&[("up.weight", e4m3(&[2, 3])), ("up.weight_scale", scale(&[])), ("up.scale", scale(&[]))]).unwrap_err();
    assert!(both.contains("lie beside it, expected one"), "{both}");
    // The runtime does not read them at all.
    let config = config(&json!({}));
    let folder = folder(&[
        ("config.json", config),
        (MODEL, file(&[("up.weight", e4m3(&[2, 3])), ("up.weight_scale", scale(&[]))])),
    ]);
    match CausalLm::open(folder.path()) {
        Err(qruntime::Error::File(error)) => {
            assert_eq!(error.kind(), FileErrorKind::Foreign);
            assert!(error.to_string().contains("8-bit floats, which only `quantize convert` reads"), "{error}");
        }
        other => panic!("{other:?}"),
    }
}
