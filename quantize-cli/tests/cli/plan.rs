//! What becomes of tensors: by their roles, by rules, by the names of formats that people type.

use quantize_cli::plan::role::{Role, Roles};

use super::*;

/// Roles of names and shapes, each for itself.
const ROLES: &[(&str, &[usize], Role)] = &[
    ("transformer.output_layer.weight", &[4096, 64], Role::Embedding),
    ("lm_head.linear.weight", &[4096, 64], Role::Embedding),
    ("lm_head.dense.weight", &[64, 64], Role::Linear),
    ("decoder.weight", &[4096, 64], Role::Embedding),
    ("lm_loss.weight", &[4096, 64], Role::Embedding),
    ("multi_modal_projector.mm_input_projection_weight", &[96, 64], Role::Parameter),
    ("encoder.layers.0.self_attn.in_proj_weight", &[192, 64], Role::Linear),
    ("encoder.layers.0.self_attn.relative_k_proj.weight", &[64, 64], Role::Linear),
    ("model.layers.0.self_attn.q_proj.weight", &[64, 64], Role::Linear),
    ("model.layers.0.mlp.gate_proj.weight", &[64, 64], Role::Linear),
    ("model.layers.0.mlp.gate.weight", &[8, 64], Role::Router),
    ("model.layers.0.mlp.gate.wg.weight", &[8, 64], Role::Router),
    ("model.layers.0.mlp.router.weight", &[8, 64], Role::Router),
    ("model.layers.0.router.proj.weight", &[8, 64], Role::Router),
    ("model.layers.0.mlp.router.classifier.weight", &[8, 64], Role::Router),
    ("encoder.layers.0.mlp.router.layer.weight", &[8, 64], Role::Router),
    ("model.layers.0.block_sparse_moe.router.layer.weight", &[40, 64], Role::Router),
    ("model.layers.0.block_sparse_moe.gate.weight", &[8, 64], Role::Router),
    ("model.layers.0.feed_forward.router.weight", &[16, 64], Role::Router),
    ("model.layers.0.mlp.shared_expert_gate.weight", &[1, 64], Role::Router),
    // The gate of a feed-forward network has more outputs than a mixture has experts.
    ("layers.0.ffn.gate.weight", &[4096, 64], Role::Linear),
    ("model.layers.0.block_sparse_moe.input_linear.weight", &[4, 64, 64], Role::Experts),
    ("model.layers.0.block_sparse_moe.output_linear.weight", &[4, 64, 32], Role::Experts),
    ("model.layers.0.mlp.experts.gate_up_proj", &[4, 64, 64], Role::Experts),
    ("model.layers.0.mlp.experts.3.up_proj.weight", &[64, 64], Role::Linear),
    ("model.embed_tokens.weight", &[500, 64], Role::Embedding),
    ("gpt_neox.embed_in.weight", &[500, 64], Role::Embedding),
    ("embed_out.weight", &[500, 64], Role::Embedding),
    ("transformer.wte.weight", &[500, 64], Role::Embedding),
    ("shared.weight", &[500, 64], Role::Embedding),
    ("backbone.embeddings.weight", &[500, 64], Role::Embedding),
    ("bert.embeddings.word_embeddings.weight", &[500, 64], Role::Embedding),
    ("model.embed_tokens_per_layer.weight", &[500, 64], Role::Embedding),
    ("tok_embeddings.weight", &[500, 64], Role::Embedding),
    ("lm_head.weight", &[500, 64], Role::Embedding),
    ("output.weight", &[500, 64], Role::Embedding),
    ("cls.predictions.decoder.weight", &[500, 64], Role::Embedding),
    ("bert.encoder.layer.0.attention.output.dense.weight", &[64, 64], Role::Linear),
    ("encoder.embedding_hidden_mapping_in.weight", &[64, 64], Role::Linear),
    ("model.per_layer_model_projection.weight", &[64, 64], Role::Linear),
    ("model.decoder.embed_positions.weight", &[500, 64], Role::Positions),
    ("vision.pos_embed", &[1, 500, 64], Role::Positions),
    ("bert.embeddings.position_embeddings.weight", &[500, 64], Role::Positions),
    ("bert.embeddings.token_type_embeddings.weight", &[2, 64], Role::Positions),
    ("transformer.wpe.weight", &[500, 64], Role::Positions),
    ("deberta.encoder.rel_embeddings.weight", &[500, 64], Role::Positions),
    ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", &[32, 64], Role::Positions),
    ("deberta.encoder.layer.0.attention.self.pos_proj.weight", &[64, 64], Role::Linear),
    ("model.layers.0.input_layernorm.weight", &[64], Role::Vector),
    ("model.layers.0.mlp.experts.gate_up_proj_bias", &[32, 64], Role::Bias),
    ("backbone.layers.0.mixer.A_log", &[64, 64], Role::State),
    ("backbone.layers.0.mixer.A_log", &[64], Role::State),
    ("backbone.layers.0.mixer.D", &[64], Role::State),
    ("backbone.layers.0.mixer.dt_bias", &[64], Role::State),
    ("rwkv.blocks.0.attention.time_maa_w1", &[64, 160], Role::State),
    ("backbone.layers.0.mixer.conv1d.weight", &[64, 1, 4], Role::Convolution),
    ("model.layers.0.conv.conv.weight", &[64, 1, 3], Role::Convolution),
    ("model.layers.0.conv.in_proj.weight", &[192, 64], Role::Linear),
    ("vision.patch_embed.proj.weight", &[64, 3, 14, 14], Role::Convolution),
    ("resampler.latents", &[64, 64], Role::Parameter),
    ("visual.attn_pool.in_proj_weight", &[192, 64], Role::Linear),
    ("model.layers.0.self_attn.causal_mask", &[64, 64], Role::Mask),
    ("transformer.h.0.attn.masked_bias", &[1], Role::Mask),
    ("model.mask_emb", &[64, 64], Role::Parameter),
    ("model.mask_token", &[1, 1, 64], Role::Parameter),
    ("model.masked_spec_embed", &[64], Role::Vector),
    ("segmenter.mask.weight", &[64, 64], Role::Linear),
    ("model.layers.0.self_attn.rotary_emb.inv_freq", &[32], Role::Vector),
    ("x.weight", &[8, 64], Role::Tiny),
];

fn role(roles: &Roles<'_>, name: &str, shape: &[usize]) -> Role {
    roles.of(name, Dtype::F16, shape)
}

/// The names of families that run, and the words of which names consist, say the same.
#[test]
fn a_family_that_is_known_changes_no_role() {
    let mut known = 0;
    for family in ["llama", "gemma3", "phi3", "mixtral", "granitemoe", "qwen2_moe", "bert"] {
        for &(name, shape, _) in ROLES {
            known += usize::from(qruntime::names_of(family).unwrap().parse(name).is_some());
            let found = role(&Roles::new([(name, shape)], Some(family)), name, shape);
            assert_eq!(found, role(&Roles::new([(name, shape)], None), name, shape), "{family}: {name}");
        }
    }
    assert!(known > 50, "{known}");
}

#[test]
fn names_have_roles() {
    let all = ROLES.iter().map(|(name, shape, _)| (*name, *shape));
    let roles = Roles::new(all, None);
    for &(name, shape, expected) in ROLES {
        assert_eq!(role(&roles, name, shape), expected, "{name} {shape:?}");
    }
    let integers = roles.of("bert.embeddings.position_ids", Dtype::I64, &[1, 512]);
    assert_eq!(integers, Role::Integer);
}

#[test]
fn tensors_that_lie_turned_are_recognized_by_what_lies_beside_them() {
    // The biases of a matrix and the other half of experts tell; a square matrix is as its siblings
    // are.
    let gpt2: &[(&str, &[usize])] = &[
        ("h.0.attn.c_attn.weight", &[64, 192]),
        ("h.0.attn.c_attn.bias", &[192]),
        ("h.0.attn.c_proj.weight", &[64, 64]),
        ("h.0.attn.c_proj.bias", &[64]),
        ("h.0.mlp.c_fc.weight", &[64, 256]),
        ("h.0.mlp.c_fc.bias", &[256]),
    ];
    let starcoder: &[(&str, &[usize])] = &[
        ("h.0.attn.c_attn.weight", &[192, 64]),
        ("h.0.attn.c_attn.bias", &[192]),
        ("h.0.attn.c_proj.weight", &[64, 64]),
        ("h.0.attn.c_proj.bias", &[64]),
    ];
    let gpt_oss: &[(&str, &[usize])] =
        &[("layers.0.mlp.experts.gate_up_proj", &[4, 64, 96]), ("layers.0.mlp.experts.down_proj", &[4, 48, 64])];
    let mixtral: &[(&str, &[usize])] =
        &[("layers.0.mlp.experts.gate_up_proj", &[4, 96, 64]), ("layers.0.mlp.experts.down_proj", &[4, 64, 48])];
    // As wide inside as outside: only the pair tells.
    let square: &[(&str, &[usize])] =
        &[("layers.0.mlp.experts.gate_up_proj", &[4, 64, 128]), ("layers.0.mlp.experts.down_proj", &[4, 64, 64])];
    let dbrx: &[(&str, &[usize])] = &[("blocks.0.ffn.experts.mlp.w2", &[256, 64])];
    for (tensors, expected) in [
        (gpt2, Role::Transposed),
        (starcoder, Role::Linear),
        (gpt_oss, Role::Transposed),
        (mixtral, Role::Experts),
        (square, Role::Transposed),
        (dbrx, Role::Transposed),
    ] {
        let roles = Roles::new(tensors.iter().copied(), None);
        for (name, shape) in tensors.iter().filter(|(_, shape)| shape.len() > 1) {
            assert_eq!(role(&roles, name, shape), expected, "{name} {shape:?}");
        }
    }
    let alone = ("layers.0.feed_forward.experts.gate_up_proj", &[4, 64, 64][..]);
    assert_eq!(role(&Roles::new([alone], Some("llama4_text")), alone.0, alone.1), Role::Transposed);
    assert_eq!(role(&Roles::new([alone], Some("qwen3_moe")), alone.0, alone.1), Role::Experts);
}

/// Which names have other roles than matrices, of checkpoints that people run; names with numbers
/// as `N`.
#[test]
fn names_of_published_checkpoints_have_roles() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/configs");
    let Ok(folders) = fs::read_dir(&folder) else {
        eprintln!("NOT RUN: {} is not there", folder.display());
        return;
    };
    let mut seen = 0;
    for entry in folders.map(|entry| entry.unwrap().path().join("model.safetensors.index.json")) {
        let index: Value = serde_json::from_slice(&fs::read(&entry).unwrap()).unwrap();
        let names = index["weight_map"].as_object().unwrap();
        let roles = Roles::new(names.keys().map(|name| (name.as_str(), &[64, 64][..])), None);
        for name in names.keys() {
            let module = name.trim_end_matches(".weight").rsplit('.').next().unwrap();
            // An index has no shapes: vectors and kernels are told by their names here.
            let (shape, expected): (&[usize], Role) = match module {
                "embed_tokens" | "lm_head" => (&[500, 64], Role::Embedding),
                "gate" | "shared_expert_gate" => (&[64, 64], Role::Router),
                "A_log" | "dt_bias" => (&[64], Role::State),
                "conv1d" => (&[64, 1, 4], Role::Convolution),
                "inv_freq" => (&[64], Role::Vector),
                norm if norm.contains("norm") => (&[64], Role::Vector),
                _ => (&[64, 64], Role::Linear),
            };
            assert_eq!(role(&roles, name, shape), expected, "{name} in {}", entry.display());
            seen += 1;
        }
    }
    assert!(seen > 20_000, "{seen} names");
}

pub(super) fn planned(source: &Path, more: &[&str]) -> HashMap<String, (String, String)> {
    let plan = json(&[&["convert", text(source), "unwritten", "--dry-run", "--json"], more].concat());
    let field = |tensor: &Value, name: &str| tensor[name].as_str().unwrap().to_owned();
    let tensors = plan["tensors"].as_array().unwrap().iter();
    tensors.map(|t| (field(t, "name"), (field(t, "action"), field(t, "why")))).collect()
}

#[test]
fn roles_decide_what_is_packed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensors: &[(&str, &[usize])] = &[
        ("model.embed_in.weight", &[40, 64]),
        ("model.decoder.embed_positions.weight", &[32, 64]),
        ("model.layers.0.block_sparse_moe.router.layer.weight", &[16, 64]),
        ("model.layers.0.block_sparse_moe.input_linear.weight", &[16, 64, 64]),
        ("model.layers.0.block_sparse_moe.output_linear.weight", &[16, 64, 32]),
        ("model.layers.0.mlp.experts.gate_up_proj", &[2, 64, 96]),
        ("model.layers.0.mlp.experts.down_proj", &[2, 48, 64]),
        ("model.layers.0.mixer.A_log", &[64, 64]),
        ("model.layers.0.self_attn.q_proj.weight", &[64, 64]),
    ];
    write(&path, &tensors.iter().collect::<Vec<_>>(), unchanged);
    let plan = planned(&path, &["--to", "q4_0"]);
    let actions: Vec<&str> = tensors.iter().map(|(name, _)| plan[*name].0.as_str()).collect();
    assert_eq!(actions, ["q8_0", "keep", "keep", "q4_0", "q4_0", "keep", "keep", "keep", "q4_0"]);
    let why = &plan["model.layers.0.mlp.experts.down_proj"].1;
    assert!(why.contains("stored as inputs x outputs"), "{why}");
    // A rule that names it in full means it; one for many does not.
    let name = "model.layers.0.mlp.experts.down_proj";
    assert_eq!(planned(&path, &["--rule", &format!("{name}=q4_0")])[name].0, "q4_0");
    assert_eq!(planned(&path, &["--rule", "*=q4_0"])[name].0, "keep");
}

#[test]
fn a_rule_for_many_packs_what_can_be_packed() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let norm = "model.layers.0.input_layernorm.weight";
    for rule in ["*=q8_0", "model.layers.[0-2].*=q8_0", "model.layers.0.*=Q8_0"] {
        let plan = planned(&source, &["--to", "q4_0", "--rule", rule]);
        assert_eq!(plan["model.layers.0.mlp.up_proj.weight"].0, "q8_0", "{rule}");
        assert_eq!(plan["model.layers.0.mlp.gate.weight"].0, "q8_0", "{rule}");
        assert_eq!(plan[norm], ("keep".into(), format!("vector: not packed by rule {rule}")), "{rule}");
    }
    let plan = |rule: &str| refused(&["convert", text(&source), "unwritten", "--dry-run", "--rule", rule]);
    for rule in [format!("{norm}=q4_0"), "*norm*=q4_0".into()] {
        let message = plan(&rule);
        assert!(message.contains("cannot pack") && message.contains(norm), "{message}");
    }
    // What matches nothing is worth a word, and no more.
    let output = quantize(&["convert", text(&source), "unwritten", "--dry-run", "--json", "--rule", "*nothing*=keep"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let expected = "rule \"*nothing*=keep\" matches no tensor; names are like model.";
    assert!(stderr(&output).starts_with(&format!("warning: {expected}")), "{}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(report["warnings"][0].as_str().unwrap().starts_with(expected), "{report}");
}

#[test]
fn names_of_formats_are_taken_in_any_case_and_those_of_others_explained() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    for (option, name, becomes) in [
        ("--to", "Q4_0", "q4_0"),
        ("--to", "IQ4_nl", "iq4_nl"),
        ("--format", "MXFP4", "mxfp4"),
        ("--format", "q8_0", "q8_0"),
    ] {
        let plan = planned(&source, &[option, name]);
        assert_eq!(plan["model.layers.0.mlp.up_proj.weight"].0, becomes, "{name}");
    }
    for (name, expected) in [
        ("int8", "the format of 8 bits is q8_0"),
        ("Q5", "q5_k, q5_1 and q5_0"),
        ("q2", "the format of 2 bits is q2_k"),
        ("Q8", "the format of 8 bits is q8_0"),
        ("int4", "the formats of 4 bits are q4_k"),
        ("bf16", "a rule can keep tensors"),
        ("q9", "expected q8_0, q4_0"),
    ] {
        let message = refused(&["convert", text(&source), "unwritten", "--dry-run", "--to", name]);
        assert!(message.contains(&format!("unknown format \"{name}\"")) && message.contains(expected), "{message}");
        let message = refused(&["convert", text(&source), "unwritten", "--rule", &format!("*={name}")]);
        assert!(message.contains(expected), "{message}");
    }
    // A mix is for a whole model.
    let message = refused(&["convert", text(&source), "unwritten", "--rule", "*=Q4_K_M"]);
    assert!(message.contains("q4_k_m is a mix for a whole model (--to q4_k_m), expected q8_0,"), "{message}");
    let message = refused(&["convert", text(&source), "unwritten", "--to", "q4_k_x"]);
    assert!(message.contains("q5_k_m"), "{message}");
}

#[test]
fn a_dry_run_refuses_what_a_real_run_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let there = folder.path().join("there");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("notes.txt"), "mine").unwrap();
    // What an interrupted run put aside would be put back, and be there then.
    let aside = folder.path().join(".aside.1-0.old");
    fs::create_dir(&aside).unwrap();
    ok(&["convert", text(&source), text(&aside.join("aside")), "--to", "q8_0", "-q"]);
    let mut outs = vec![
        (there.clone(), "exists already"),
        (source.clone(), "choose another output"),
        (folder.path().join("no/such/folder"), "cannot find the folder"),
        (there.join("notes.txt/out"), "is no folder"),
        (PathBuf::from("."), ". is no name of a file or folder"),
        (there.join(".."), "is no name of a file or folder"),
        (PathBuf::from("/"), "/ is no name of a file or folder"),
        (folder.path().join("model.gguf"), "\"num_attention_heads\": missing"),
        (folder.path().join("model.onnx"), "files of the kind .onnx are not written; name a folder"),
        (folder.path().join("pytorch_model.bin"), "files of the kind .bin are not written"),
    ];
    if cfg!(target_os = "linux") {
        outs.push((folder.path().join("n".repeat(250)), "cannot create"));
        // Whatever it holds, nothing can take its place.
        outs.push((PathBuf::from("/proc"), "/proc is a mount point"));
    }
    for (out, expected) in outs {
        let args = ["convert", text(&source), text(&out), "--to", "q4_0"];
        let messages = [refused(&[&args[..], &["--dry-run"]].concat()), refused(&args)];
        assert!(messages[0].contains(expected), "{}", messages[0]);
        assert_eq!(messages[0], messages[1]);
    }
    // A dry run leaves alone what is beside the output.
    let partial = folder.path().join(".aside.1-1.partial");
    fs::create_dir(&partial).unwrap();
    let aside = folder.path().join("aside");
    let dry = ["convert", text(&source), text(&aside), "--to", "q4_0", "--dry-run"];
    if cfg!(unix) {
        let message = refused(&dry);
        assert!(message.contains("exists already, as ") && message.contains(".aside.1-0.old"), "{message}");
    }
    ok(&[&dry[..], &["--force"]].concat());
    assert_eq!(listing(folder.path()), [".aside.1-0.old", ".aside.1-1.partial", "source", "there"]);
    // A real run puts it back, and refuses then, before any work.
    if cfg!(unix) {
        assert!(refused(&dry[..5]).contains("exists already; --force replaces it"));
        assert_eq!(listing(folder.path()), ["aside", "source", "there"]);
    }
    // A point in a folder's name is no kind of file.
    ok(&["convert", text(&source), text(&folder.path().join("model-v1.5")), "--to", "q4_0", "-q"]);
}

#[test]
fn a_kept_number_that_is_none_is_refused_and_found() {
    const NORM: &str = "model.layers.0.input_layernorm.weight";
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out");
    ok(&["convert", text(&source), text(&out), "--to", "q4_0", "-q"]);
    for (number, shown) in [(f16::NAN, "NaN"), (f16::INFINITY, "inf"), (f16::NEG_INFINITY, "-inf")] {
        write(&source.join("model.safetensors"), &TINY.iter().collect::<Vec<_>>(), |name, numbers| {
            if name == NORM {
                numbers[3] = number;
            }
        });
        let never = folder.path().join("never");
        let message = refused(&["convert", text(&source), text(&never), "--to", "q4_0"]);
        let expected = format!("cannot keep \"{NORM}\": element [3] is {shown}, expected finite numbers");
        assert!(message.contains(&expected), "{message}");
        assert!(!never.exists());
    }
    // A model that has it: whoever checks or compares is told.
    write(&source.join("model.safetensors"), &TINY.iter().collect::<Vec<_>>(), |name, numbers| {
        if name == NORM {
            numbers[3] = f16::NAN;
        }
    });
    let model = out.join("model.safetensors");
    patch(&model, NORM, 3, &f16::NAN.to_le_bytes());
    let answer = quantize(&["verify", text(&out)]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(
        stdout(&answer).contains(&format!("not finite: tensor \"{NORM}\": element [3] is NaN")),
        "{}",
        stdout(&answer)
    );
    let answer = quantize(&["compare", text(&source), text(&out)]);
    assert_eq!(answer.status.code(), Some(1));
    let expected = format!("mismatch: {NORM}: element [3] is NaN");
    assert!(stdout(&answer).contains(&expected), "{}", stdout(&answer));
}

#[test]
fn masks_may_hide_positions_and_hold_no_other_infinity() {
    let folder = tempfile::tempdir().unwrap();
    let masked = folder.path().join("masked.safetensors");
    let kept = folder.path().join("kept.safetensors");
    let write = |name: &str, last: f16| {
        write(&masked, &[&(name, &[4]), &("x.weight", &[64, 64])], |of, numbers| {
            if of == name {
                numbers[1..].copy_from_slice(&[f16::NEG_INFINITY, f16::NEG_INFINITY, last]);
            }
        });
    };
    let convert = ["convert", text(&masked), text(&kept), "--to", "q4_0", "-q", "--force"];
    for name in ["attn.causal_mask", "attn.masked_bias"] {
        write(name, f16::ZERO);
        ok(&convert);
        ok(&["verify", text(&kept)]);
        ok(&["compare", text(&masked), text(&kept)]);
        for (last, shown) in [(f16::NAN, "NaN"), (f16::INFINITY, "inf")] {
            write(name, last);
            let message = refused(&convert);
            assert!(message.contains(&format!("cannot keep \"{name}\": element [3] is {shown}")), "{message}");
        }
    }
    // A parameter that is trained hides nothing.
    for name in ["mask_emb", "decoder.mask_token", "encoder.masked_spec_embed"] {
        write(name, f16::ZERO);
        let message = refused(&convert);
        assert!(message.contains(&format!("cannot keep \"{name}\": element [1] is -inf")), "{message}");
    }
}

/// Overwrites an element of two bytes of a plain tensor; its checksum is then wrong.
fn patch(model: &Path, tensor: &str, element: usize, bytes: &[u8]) {
    let mut file = fs::read(model).unwrap();
    let len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + len]).unwrap();
    let start = header[tensor]["data_offsets"][0].as_u64().unwrap() as usize + 8 + len + 2 * element;
    file[start..start + bytes.len()].copy_from_slice(bytes);
    fs::write(model, file).unwrap();
}
