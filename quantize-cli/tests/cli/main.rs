//! The commands as a person or a script meets them: what they print, what they leave behind, how
//! they end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
#![allow(clippy::print_stderr, reason = "says what did not run")]

mod bench;
mod bytes;
mod cases;
mod eval;
mod gguf;
mod gguf_output;
mod hostile;
mod mix;
mod network;
mod output;
mod place;
mod plan;
mod program;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod terminal;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use half::f16;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

/// Runs the program.
fn quantize(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quantize")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs the program, expects it to succeed, and returns what it printed.
fn ok(args: &[&str]) -> String {
    let output = quantize(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// Runs the program, expects it not to be able to run, and returns its complaint.
fn refused(args: &[&str]) -> String {
    let output = quantize(args);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stdout(&output));
    assert!(output.stdout.is_empty(), "{args:?}: stdout is for results");
    stderr(&output)
}

fn json(args: &[&str]) -> Value {
    let value: Value = serde_json::from_str(&ok(args)).unwrap();
    assert_eq!(value["schema"], 1);
    value
}

const TINY: &[(&str, &[usize])] = &[
    ("model.embed_tokens.weight", &[40, 64]),
    ("model.layers.0.mlp.up_proj.weight", &[48, 64]),
    ("model.layers.0.mlp.down_proj.weight", &[64, 48]),
    ("model.layers.0.mlp.gate.weight", &[16, 64]),
    ("model.layers.0.input_layernorm.weight", &[64]),
    ("model.layers.0.mlp.experts.gate_up_proj", &[3, 32, 64]),
];

fn numbers(name: &str, len: usize) -> Vec<f16> {
    let seed = name.len();
    (0..len).map(|i| f16::from_f32(((i * 37 + seed * 11) % 251) as f32 / 125.0 - 1.0)).collect()
}

/// Writes a safetensors file of some of the tensors of [`TINY`], changed by `edit`.
fn write(path: &Path, tensors: &[&(&str, &[usize])], edit: impl Fn(&str, &mut Vec<f16>)) {
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, shape)| {
            let mut numbers = numbers(name, shape.iter().product());
            edit(name, &mut numbers);
            ((*name).to_owned(), shape.to_vec(), numbers.iter().flat_map(|n| n.to_le_bytes()).collect())
        })
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(Dtype::F16, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// A folder with a checkpoint of one file.
fn checkpoint(folder: &Path, edit: impl Fn(&str, &mut Vec<f16>)) -> PathBuf {
    let path = folder.join("source");
    fs::create_dir(&path).unwrap();
    write(&path.join("model.safetensors"), &TINY.iter().collect::<Vec<_>>(), edit);
    fs::write(path.join("config.json"), r#"{"model_type": "llama", "hidden_size": 64}"#).unwrap();
    fs::write(path.join("tokenizer.json"), "{}").unwrap();
    path
}

fn unchanged(_: &str, _: &mut Vec<f16>) {}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Everything in a folder, hidden files too.
fn listing(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_folder_becomes_a_folder_that_verifies_and_compares() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out");
    let printed = ok(&["convert", text(&source), text(&out), "--to", "q4_0"]);
    let last = printed.lines().last().unwrap();
    assert!(last.starts_with(&format!("wrote {}: 6 tensors (2 keep, 3 q4_0, 1 q8_0)", out.display())), "{last}");
    assert!(last.contains("bits/weight") && last.contains("worst model.layers.0.mlp."), "{last}");
    assert_eq!(listing(&out), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(listing(folder.path()), ["out", "source"], "nothing temporary is left");
    let config: Value = serde_json::from_str(&fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "llama");
    assert_eq!(config["quantization_config"]["format"], "q4_0");

    assert!(ok(&["verify", text(&out)]).starts_with("whole: 6 tensors, 6 checksums"));
    let inspected = json(&["inspect", text(&out), "--json"]);
    let formats: HashMap<&str, &str> = inspected["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["name"].as_str().unwrap(), t["storage"].as_str().unwrap()))
        .collect();
    assert_eq!(formats["model.embed_tokens.weight"], "q8_0");
    assert_eq!(formats["model.layers.0.mlp.down_proj.weight"], "q4_0");
    assert_eq!(formats["model.layers.0.mlp.experts.gate_up_proj"], "q4_0");
    assert_eq!(formats["model.layers.0.mlp.gate.weight"], "f16");
    assert_eq!(formats["model.layers.0.input_layernorm.weight"], "f16");

    let compared = json(&["compare", text(&source), text(&out), "--json"]);
    let packed = compared["packed"].as_array().unwrap();
    assert_eq!((packed.len(), compared["identical"].as_u64()), (4, Some(2)));
    let errors: Vec<f64> = packed.iter().map(|t| t["relative_rms"].as_f64().unwrap()).collect();
    assert!(errors.is_sorted_by(|a, b| a >= b), "worst first: {errors:?}");
    // Evenly spread weights: a step of a seventh or so, half a step at most.
    assert!(errors.iter().all(|e| (0.001..0.1).contains(e)), "{errors:?}");
    for t in packed {
        for product in ["product_random", "product_realistic"] {
            assert!((0.001..0.2).contains(&t[product].as_f64().unwrap()), "{t}");
        }
    }
}

#[test]
fn the_bytes_do_not_depend_on_the_number_of_threads_nor_on_shards() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let sharded = folder.path().join("sharded");
    fs::create_dir(&sharded).unwrap();
    let (first, second) = TINY.split_at(3);
    write(&sharded.join("model-00001-of-00002.safetensors"), &first.iter().collect::<Vec<_>>(), unchanged);
    write(&sharded.join("model-00002-of-00002.safetensors"), &second.iter().collect::<Vec<_>>(), unchanged);
    let shard = |i: usize| format!("model-0000{}-of-00002.safetensors", 1 + usize::from(i >= 3));
    let map: HashMap<&str, String> = TINY.iter().enumerate().map(|(i, (name, _))| (*name, shard(i))).collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(sharded.join("model.safetensors.index.json"), index).unwrap();

    let mut checksums = vec![];
    for (source, threads) in [(&source, "1"), (&source, "2"), (&source, "7"), (&sharded, "3")] {
        let out = folder.path().join(format!("out{}", checksums.len()));
        ok(&["convert", text(source), text(&out), "--to", "q8_0", "--threads", threads, "-q"]);
        let bytes = fs::read(out.join("model.safetensors")).unwrap();
        let inspected = json(&["inspect", text(&out), "--json"]);
        checksums.push((bytes, inspected["tensors"].clone()));
    }
    assert!(checksums[..3].windows(2).all(|pair| pair[0].0 == pair[1].0), "threads");
    // The order within the file may differ between shards and one file; the tensors do not.
    assert_eq!(checksums[0].1, checksums[3].1);
    let compared = json(&["compare", text(&sharded), text(&folder.path().join("out0")), "--json"]);
    assert_eq!(compared["mismatches"], serde_json::json!([]));
}

#[test]
fn a_dry_run_writes_nothing_and_tells_the_true_size() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out.safetensors");
    let args = ["convert", text(&source), text(&out), "--to", "q4_0", "--json"];
    let planned = json(&[&args[..], &["--dry-run"]].concat());
    assert_eq!(listing(folder.path()), ["source"]);
    let done = json(&args);
    assert_eq!(listing(folder.path()), ["out.safetensors", "source"]);
    assert_eq!(planned["bytes"], done["bytes"]);
    let header = fs::read(&out).unwrap();
    let header = u64::from_le_bytes(header[..8].try_into().unwrap()) + 8;
    assert_eq!(fs::metadata(&out).unwrap().len(), header + done["bytes"].as_u64().unwrap());
}

#[test]
fn rules_decide_and_the_last_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let rules =
        ["--rule", "*mlp*=keep", "--rule", "*.up_proj.*=q8_0", "--rule", "*embed*=q4_0", "--rule", "*.gate.*=q4_0"];
    let args = [&["convert", text(&source), "unwritten", "--to", "q4_0", "--dry-run", "--json"], &rules[..]].concat();
    let plan = json(&args);
    let actions: HashMap<&str, &str> = plan["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|t| (t["name"].as_str().unwrap(), t["action"].as_str().unwrap()))
        .collect();
    assert_eq!(actions["model.embed_tokens.weight"], "q4_0");
    assert_eq!(actions["model.layers.0.mlp.up_proj.weight"], "q8_0");
    assert_eq!(actions["model.layers.0.mlp.down_proj.weight"], "keep");
    assert_eq!(actions["model.layers.0.mlp.gate.weight"], "q4_0");
}

#[test]
fn short_rows_take_short_blocks_unless_a_rule_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    // Rows of 64 columns: a block of 256 would be three quarters padding.
    let short = [
        ("q4_k", "q4_1"),
        ("q5_k", "q8_0"),
        ("q6_k", "q8_0"),
        ("iq4_xs", "iq4_nl"),
        ("q3_k", "iq4_nl"),
        ("q2_k", "iq4_nl"),
        ("q5_0", "q5_0"),
        ("mxfp4", "mxfp4"),
    ];
    for (to, becomes) in short {
        let plan = json(&["convert", text(&source), "unwritten", "--to", to, "--dry-run", "--json"]);
        let tensor = |plan: &Value, name: &str| {
            let tensors = plan["tensors"].as_array().unwrap();
            tensors.iter().find(|t| t["name"].as_str().unwrap().contains(name)).unwrap().clone()
        };
        let up_proj = tensor(&plan, ".up_proj");
        assert_eq!(up_proj["action"], becomes, "{to}");
        assert_eq!(up_proj["why"].as_str().unwrap().contains("smaller than"), to != becomes, "{up_proj}");
        // 48 columns are no whole number of blocks in any format.
        let why = tensor(&plan, ".down_proj")["why"].to_string();
        assert!(why.contains("rows of 48 filled up to 64"), "{why}");

        let rule = format!("*.up_proj.*={to}");
        let plan = json(&["convert", text(&source), "unwritten", "--rule", &rule, "--dry-run", "--json"]);
        assert_eq!(tensor(&plan, ".up_proj")["action"], to);
    }
    // The default format, and what a person is told of padding: 4.5 bits have become 18.
    let out = folder.path().join("out");
    let printed = ok(&["convert", text(&source), text(&out), "--rule", "*experts*=q4_k"]);
    assert!(printed.contains("rows of 64 filled up to 256") && printed.contains(" % padding"), "{printed}");
    assert!(printed.contains("(2 keep, 2 q4_1, 1 q4_k, 1 q8_0)"), "{printed}");
    ok(&["verify", text(&out)]);
    let compared = json(&["compare", text(&source), text(&out), "--json"]);
    assert_eq!(compared["mismatches"], serde_json::json!([]));
    let inspected = json(&["inspect", text(&out), "--json"]);
    let experts = inspected["tensors"].as_array().unwrap().iter().find(|t| t["storage"] == "q4_k").unwrap();
    assert_eq!(experts["bits_per_weight"], 18.0);
}

#[test]
fn every_format_converts_verifies_and_compares() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    for format in kernels::Format::ALL {
        let out = folder.path().join(format.name());
        let rule = format!("*_proj*={format}");
        ok(&["convert", text(&source), text(&out), "--to", format.name(), "--rule", &rule, "-q"]);
        ok(&["verify", text(&out)]);
        // Evenly spread weights, of which a quarter of the range is one code of two bits.
        let most = if *format == kernels::Format::Q2K { "0.4" } else { "0.2" };
        let compared = json(&["compare", text(&source), text(&out), "--max-error", most, "--json"]);
        let packed = compared["packed"].as_array().unwrap();
        assert!(packed.iter().filter(|t| t["format"] == format.name()).count() >= 3, "{format}");
    }
    let help = ok(&["convert", "--help"]);
    assert!(kernels::Format::ALL.iter().all(|format| help.contains(format.name())), "{help}");
}

#[test]
fn what_cannot_be_done_is_said_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), |name, numbers| {
        if name.contains("down_proj") {
            numbers[48 * 17 + 5] = f16::NAN;
        }
    });
    let (source, out) = (text(&source), folder.path().join("out"));
    let out = text(&out);
    let convert = |more: &[&str]| refused(&[&["convert", source, out, "--to", "q4_0"], more].concat());

    let message = convert(&[]);
    assert!(message.contains("down_proj.weight") && message.contains("weight [17, 5] is NaN"), "{message}");
    let message = convert(&["--rule", "*norm*=q4_0"]);
    assert!(message.contains("cannot pack") && message.contains("input_layernorm"), "{message}");
    let message = convert(&["--rule", "*=q5_9"]);
    assert!(
        message.contains("unknown format \"q5_9\"") && message.contains("q8_0, q4_0, ") && message.contains(", keep"),
        "{message}"
    );
    let message = refused(&["convert", source, out, "--to", "q3"]);
    assert!(message.contains("q8_0, q4_0"), "{message}");
    let message = refused(&["convert", "no-such-folder", out, "--to", "q4_0"]);
    assert!(message.contains("no-such-folder"), "{message}");
    assert_eq!(listing(folder.path()), ["source"], "no attempt left anything");

    // Kept, the tensor would be NaN all the same.
    let message = convert(&["--rule", "*down_proj*=keep"]);
    let expected = "cannot keep \"model.layers.0.mlp.down_proj.weight\": element [17, 5] is NaN";
    assert!(message.contains(expected), "{message}");
    assert_eq!(listing(folder.path()), ["source"], "no attempt left anything");
    write(&Path::new(source).join("model.safetensors"), &TINY.iter().collect::<Vec<_>>(), unchanged);
    ok(&["convert", source, out, "--to", "q4_0"]);
    let message = refused(&["convert", source, out, "--to", "q4_0"]);
    assert!(message.contains("exists already; --force replaces it"), "{message}");
    ok(&["convert", source, out, "--to", "q8_0", "--force"]);
    assert_eq!(listing(folder.path()), ["out", "source"]);
    write(&Path::new(source).join("model.safetensors"), &TINY.iter().collect::<Vec<_>>(), |_, numbers| {
        numbers[5] = f16::NAN;
    });
    // A failed conversion leaves the old output as it was.
    let before = fs::read(Path::new(out).join("model.safetensors")).unwrap();
    refused(&["convert", source, out, "--to", "q4_0", "--force"]);
    assert_eq!(fs::read(Path::new(out).join("model.safetensors")).unwrap(), before);
    assert_eq!(listing(folder.path()), ["out", "source"]);
}

#[test]
fn damage_is_found_and_the_answer_is_no() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out.safetensors");
    ok(&["convert", text(&source), text(&out), "--to", "q4_0"]);
    let whole = fs::read(&out).unwrap();

    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&out, &damaged).unwrap();
    let answer = quantize(&["verify", text(&out)]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(stdout(&answer).contains("does not have its checksum"), "{}", stdout(&answer));
    let answer = quantize(&["compare", text(&source), text(&out)]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(stdout(&answer).contains("kept, but not as it is in the source"), "{}", stdout(&answer));

    fs::write(&out, &whole[..whole.len() - 1]).unwrap();
    let answer = quantize(&["verify", text(&out), "--json"]);
    assert_eq!(answer.status.code(), Some(1));
    let report: Value = serde_json::from_str(&stdout(&answer)).unwrap();
    assert_eq!(report["whole"], false);
    assert!(report["structure"].as_str().unwrap().contains("out.safetensors"), "{report}");
    refused(&["verify", "no-such-file"]);
    let answer = quantize(&["verify", text(&source)]);
    assert_eq!(answer.status.code(), Some(1));
    assert_eq!(stdout(&answer), "no checksums: not a model that quantize wrote\n");
    refused(&["inspect", text(&out)]);
}

#[test]
fn several_models_are_verified_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let [a, b] = ["a.safetensors", "b.safetensors"].map(|name| folder.path().join(name));
    for out in [&a, &b] {
        ok(&["convert", text(&source), text(out), "--to", "q4_0"]);
    }
    let printed = ok(&["verify", text(&a), text(&b)]);
    assert!(printed.lines().all(|line| line.contains(".safetensors: whole: 6 tensors")), "{printed}");
    assert_eq!(printed.lines().count(), 2);

    let mut damaged = fs::read(&b).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&b, damaged).unwrap();
    let answer = quantize(&["verify", text(&a), text(&b)]);
    assert_eq!(answer.status.code(), Some(1), "one of them is damaged");
    let answer = quantize(&["verify", text(&b), "no-such-file", text(&a), "--json"]);
    assert_eq!(answer.status.code(), Some(2), "one of them could not be checked, which is worse");
    let report: Value = serde_json::from_str(&stdout(&answer)).unwrap();
    let models = report["models"].as_array().unwrap();
    let whole: Vec<&Value> = models.iter().map(|model| &model["whole"]).collect();
    assert_eq!((whole, &report["whole"]), (vec![&Value::from(false), &false.into(), &true.into()], &false.into()));
    assert_eq!(models[2]["path"], text(&a));
    assert!(models[1]["error"].as_str().unwrap().contains("no-such-file"), "{report}");
    let answer = quantize(&["verify", "no-such-file", text(&a)]);
    assert_eq!(answer.status.code(), Some(2), "as with that file alone");
    assert!(stdout(&answer).starts_with("no-such-file: error: "), "{}", stdout(&answer));
    assert!(refused(&["verify"]).contains("MODEL"));
}

#[test]
fn a_limit_on_the_error_decides_the_exit_status() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out");
    ok(&["convert", text(&source), text(&out), "--to", "q4_0"]);
    ok(&["compare", text(&source), text(&out), "--max-error", "0.5"]);
    let answer = quantize(&["compare", text(&source), text(&out), "--max-error", "0.001"]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(stdout(&answer).contains("over the limit of 0.10 %"), "{}", stdout(&answer));
}

#[test]
fn an_error_that_is_no_number_is_a_mismatch() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out");
    ok(&["convert", text(&source), text(&out), "--to", "q4_0"]);
    for number in [f16::NAN, -f16::NAN, f16::INFINITY] {
        write(&source.join("model.safetensors"), &TINY.iter().collect::<Vec<_>>(), |name, numbers| {
            if name.contains("down_proj") {
                numbers[7] = number;
            }
        });
        for limit in [&[][..], &["--max-error", "0.5"], &["--max-error", "inf"]] {
            let answer = quantize(&[&["compare", text(&source), text(&out), "--json"], limit].concat());
            assert_eq!(answer.status.code(), Some(1), "{number} {limit:?}");
            let report: Value = serde_json::from_str(&stdout(&answer)).unwrap();
            assert_eq!(report["within"], false);
            assert!(report["packed"][0]["name"].as_str().unwrap().contains("down_proj"), "worst first");
            assert!(report["mismatches"][0].as_str().unwrap().contains("NaN or infinity"), "{report}");
        }
    }
}

#[test]
fn what_was_quantized_by_others_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let compressed = |kind: &str, bits: u32| {
        serde_json::json!({
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": {"type": kind, "num_bits": bits}}}
        })
    };
    let plan = |quantization: Value| {
        let config = serde_json::json!({"quantization_config": quantization}).to_string();
        fs::write(source.join("config.json"), config).unwrap();
        quantize(&["convert", text(&source), "unwritten", "--to", "q4_0", "--dry-run"])
    };
    let gptq = serde_json::json!({"quant_method": "gptq", "bits": 4});
    for (quantization, method) in
        [(gptq, "GPTQ"), (compressed("int", 8), "compressed-tensors"), (compressed("float", 4), "compressed-tensors")]
    {
        let output = plan(quantization);
        assert_eq!(output.status.code(), Some(2));
        let expected = format!("config.json\": already quantized by {method} (quantization_config.quant_method is");
        assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    }
    for quantization in [serde_json::json!({"quant_method": "fp8"}), compressed("float", 8), Value::Null] {
        assert!(plan(quantization).status.success());
    }

    fs::remove_file(source.join("config.json")).unwrap();
    let out = folder.path().join("out");
    ok(&["convert", text(&source), text(&out), "--to", "q8_0"]);
    let message = refused(&["convert", text(&out), "unwritten", "--to", "q4_0", "--dry-run"]);
    assert!(message.contains("already quantized by qruntime"), "{message}");
}

#[test]
fn packing_that_keeps_next_to_nothing_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let [source, out] = ["source.safetensors", "out.safetensors"].map(|name| folder.path().join(name));
    // Below the smallest scale in half precision, and beside it weights of the usual size.
    let data = |factor: f32| -> Vec<u8> {
        numbers("x", 64 * 64).iter().flat_map(|n| (n.to_f32() * factor).to_le_bytes()).collect()
    };
    let tensors: Vec<(String, Vec<u8>)> = (0..7).map(|i| (format!("small.{i}.weight"), data(1e-10))).collect();
    let write = |tensors: &[(String, Vec<u8>)]| {
        let usual = ("usual.weight".to_owned(), data(1.0));
        let views = tensors.iter().chain([&usual]);
        let views = views.map(|(name, data)| (name, TensorView::new(Dtype::F32, vec![64, 64], data).unwrap()));
        fs::write(&source, safetensors::serialize(views, None).unwrap()).unwrap();
    };
    let convert = |more: &[&str]| {
        let args = ["convert", text(&source), text(&out), "--force", "--json", "--to"];
        let output = quantize(&[&args[..], more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        (stderr(&output), serde_json::from_slice::<Value>(&output.stdout).unwrap()["warnings"].clone())
    };

    write(&tensors[..1]);
    let (message, recorded) = convert(&["q8_0"]);
    let expected = "q8_0 keeps next to nothing of \"small.0.weight\": relative RMS error 100 %; \
                    keep the tensor as it is: --rule 'small.0.weight=keep'";
    assert_eq!((message, recorded), (format!("warning: {expected}\n"), serde_json::json!([expected])));
    // What it says helps, and so does a format whose scales are powers of two.
    for more in [&["q8_0", "--rule", "small.0.weight=keep"][..], &["mxfp4"]] {
        assert_eq!(convert(more), (String::new(), serde_json::json!([])), "{more:?}");
    }
    write(&tensors);
    let (message, recorded) = convert(&["q4_0"]);
    assert_eq!(recorded.as_array().unwrap().len(), 6, "{message}");
    assert!(message.ends_with("and so with 2 more tensors: --json names all, with their errors\n"), "{message}");
}

#[test]
fn of_several_errors_the_first_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), |_, numbers| numbers[3] = f16::NAN);
    let out = folder.path().join("out");
    for _ in 0..10 {
        let message = refused(&["convert", text(&source), text(&out), "--to", "q4_0", "--threads", "8"]);
        assert!(message.contains("cannot pack \"model.embed_tokens.weight"), "{message}");
    }
}

#[test]
fn a_full_disk_is_said_and_nothing_is_left() {
    // A file system of 64 kB, where this test may mount one.
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none", text(&small)]).output();
    if !mount.is_ok_and(|mount| mount.status.success()) {
        println!("NOT RUN: mounting a small file system needs privileges");
        return;
    }
    let source = folder.path().join("source.safetensors");
    write(&source, &[&("a.weight", &[512, 512])], unchanged);
    let message = refused(&["convert", text(&source), text(&small.join("out")), "--to", "q8_0"]);
    let left = listing(&small);
    assert!(Command::new("umount").arg(&small).status().unwrap().success());
    assert!(message.contains("of free disk space"), "{message}");
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_instruction_sets_are_listed_and_a_wrong_one_is_refused() {
    let printed = ok(&["isa"]);
    assert!(printed.lines().all(|line| line.chars().count() <= 80), "{printed}");
    let listed = json(&["isa", "--json"]);
    let available: Vec<&str> = listed["known"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|isa| isa["available"] == true)
        .map(|isa| isa["name"].as_str().unwrap())
        .collect();
    assert!(available.contains(&"scalar"));
    for (name, fragment) in [("sse9", "unknown instruction set"), ("neon", "lacks the instruction set neon")] {
        if available.contains(&name) {
            continue;
        }
        let program = Path::new(env!("CARGO_BIN_EXE_quantize"));
        let output = Command::new(program).arg("isa").env("QRUNTIME_ISA", name).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(fragment), "{}", stderr(&output));
    }
    let program = Path::new(env!("CARGO_BIN_EXE_quantize"));
    let output = Command::new(program).args(["isa", "--json"]).env("QRUNTIME_ISA", "scalar").output().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&stdout(&output)).unwrap()["chosen"], "scalar");
}

#[test]
fn every_instruction_set_writes_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let listed = json(&["isa", "--json"]);
    let mut files = vec![];
    for isa in listed["known"].as_array().unwrap().iter().filter(|isa| isa["available"] == true) {
        let name = isa["name"].as_str().unwrap();
        let out = folder.path().join(format!("{name}.safetensors"));
        let status = Command::new(env!("CARGO_BIN_EXE_quantize"))
            .args(["convert", text(&source), text(&out), "--to", "q4_0", "-q"])
            .env("QRUNTIME_ISA", name)
            .output()
            .unwrap();
        assert!(status.status.success(), "{}", stderr(&status));
        files.push(fs::read(out).unwrap());
    }
    assert!(files.windows(2).all(|pair| pair[0] == pair[1]));
}
