//! Folders as people have them, each with its right outcome; and the same kinds made here, so that
//! they are tested anywhere.

use super::*;

/// The folders, or `None` with a word about it.
fn cases() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases");
    if folder.is_dir() {
        return Some(folder);
    }
    eprintln!("NOT RUN: {} is not there", folder.display());
    None
}

/// What `convert` says of a folder it must refuse, and of the file in it.
const REFUSED: &[(&str, &str)] = &[
    ("bnb_4bit_old", "codes of bitsandbytes without quant_state"),
    ("lora_adapter", "a LoRA adapter without the model that it changes"),
    ("lfs_pointer", "a Git LFS pointer in place of the file itself"),
    ("nan_in_norm", "cannot keep \"model.norm.weight\": element [3] is NaN"),
];

#[test]
fn what_is_no_checkpoint_is_refused_by_name() {
    let Some(cases) = cases() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    for (case, expected) in REFUSED {
        let case = cases.join(case);
        let file = fs::read_dir(&case).unwrap().map(|entry| entry.unwrap().path());
        let file = file.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "safetensors")).unwrap();
        for source in [&case, &file] {
            let message = refused(&["convert", text(source), text(&out)]);
            assert!(message.contains(expected), "{message}");
            assert!(listing(folder.path()).is_empty(), "{}", source.display());
        }
        if !expected.contains("element") && !expected.contains("quant_state") {
            let message = refused(&["run", text(&case), "--prompt", "a", "--max-tokens", "1"]);
            assert!(message.contains(expected), "{message}");
        }
    }
    let message = refused(&["convert", text(&cases.join("dangling_config")), text(&out)]);
    let expected = ["config.json\": a link to \"", "config.json\": the text of a link in place of the file"];
    assert!(expected.iter().any(|expected| message.contains(expected)), "{message}");
}

/// Weights that other programs quantized: what `run` says, and what `convert` warns of.
const QUANTIZED: &[(&str, &str, &str)] = &[
    ("gptq_quantize_config", "GPTQ (quantize_config.json)", "1 weights are quantized by GPTQ (4 bits, groups of 8)"),
    ("mlx_4bit", "MLX (quantization)", "weights are quantized by MLX (affine, 4 bits, groups of 32)"),
];

#[test]
fn what_others_quantized_is_converted_with_a_warning_and_not_run() {
    let Some(cases) = cases() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (case, method, warning) in QUANTIZED {
        let (case, out) = (cases.join(case), folder.path().join(case));
        let message = refused(&["run", text(&case), "--prompt", "a", "--max-tokens", "1"]);
        let expected = format!("already quantized by {method}, which only `quantize convert` reads");
        assert!(message.contains(&expected), "{message}");
        let output = quantize(&["convert", text(&case), text(&out), "--to", "q8_0", "-q"]);
        assert!(output.status.success() && stderr(&output).contains(warning), "{}", stderr(&output));
        let config = fs::read_to_string(out.join("config.json")).unwrap();
        assert!(config.contains(r#""quant_method": "qruntime""#) && !config.contains("group_size"), "{config}");
    }
}

#[test]
fn what_transformers_loads_with_a_warning_is_converted_with_one() {
    let Some(cases) = cases() else { return };
    let folder = tempfile::tempdir().unwrap();
    let convert = |case: &str| {
        let out = folder.path().join(case);
        let output = quantize(&["convert", text(&cases.join(case)), text(&out), "--to", "q8_0", "-q"]);
        assert_eq!(output.status.code(), Some(0), "{case}: {}", stderr(&output));
        (fs::read(out.join("model.safetensors")).unwrap(), stderr(&output))
    };
    let (plain, silence) = convert("plain");
    assert_eq!(silence, "");
    let (stale, warning) = convert("stale_index");
    assert!(plain == stale, "the single file is read");
    assert!(
        warning.starts_with("warning: ") && warning.contains("model.safetensors.index.json\": ignored"),
        "{warning}"
    );
}

#[test]
fn weights_that_underflow_are_a_warning() {
    let Some(cases) = cases() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (case, out) = (cases.join("values_beyond_f16"), folder.path().join("out"));
    let output = quantize(&["convert", text(&case), text(&out), "--to", "q8_0", "-q"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = "warning: q8_0 keeps next to nothing of \"model.layers.0.self_attn.o_proj.weight\": relative RMS";
    assert!(stderr(&output).contains(expected), "{}", stderr(&output));
}

#[test]
fn experts_of_published_granite_mixtures_are_packed() {
    let Some(cases) = cases() else { return };
    for case in ["granite_moe", "networks/lm-granitemoe-hub-names"] {
        let plan = json(&["convert", text(&cases.join(case)), "unwritten", "--to", "q4_0", "--dry-run", "--json"]);
        let mut experts = 0;
        for tensor in plan["tensors"].as_array().unwrap() {
            let (name, action) = (tensor["name"].as_str().unwrap(), tensor["action"].as_str().unwrap());
            let is_expert = name.contains("put_linear");
            let expected = match name {
                _ if is_expert || name.contains("_proj") => "q4_0",
                "model.embed_tokens.weight" => "q8_0",
                _ => "keep",
            };
            assert_eq!(action, expected, "{name}");
            experts += usize::from(is_expert);
        }
        assert!(experts >= 2, "{plan}");
    }
}
