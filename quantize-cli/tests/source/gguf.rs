//! GGUF files as checkpoints: names, rows, elements and bytes.

#[allow(dead_code, unreachable_pub, reason = "shared with the tests of qruntime, which use all of it")]
#[path = "../../../qruntime/tests/support/gguf.rs"]
mod file;

use kernels::{Foreign, Format};
use qruntime::gguf::ElementType;
use quantize_cli::source::{SourceErrorKind, Stored};

use self::file::GgufFile;
use super::*;

/// Columns of the network, and rows of its heads.
const COLS: usize = 256;
const HEAD: usize = 64;

/// A network of one layer without matrices.
fn network(architecture: &str) -> GgufFile {
    let key = |suffix: &str| format!("{architecture}.{suffix}");
    GgufFile::default()
        .text("general.architecture", architecture)
        .number(&key("context_length"), 64)
        .number(&key("embedding_length"), COLS as u32)
        .number(&key("block_count"), 1)
        .number(&key("feed_forward_length"), 256)
        .number(&key("attention.head_count"), 4)
        .number(&key("attention.head_count_kv"), 2)
        .float(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .plain("token_embd.weight", &[3, COLS], &noise(3 * COLS))
}

/// Bytes without a pattern.
fn bytes(len: usize) -> Vec<u8> {
    noise(len).iter().map(|x| (x * 32768.0) as i32 as u8).collect()
}

/// The row of the file that is a row of the checkpoint: halves of a head take turns.
fn interleaved(row: usize) -> usize {
    let (head, half, i) = (row / HEAD, row % HEAD / (HEAD / 2), row % (HEAD / 2));
    head * HEAD + 2 * i + half
}

#[test]
fn rows_of_every_type_are_read_in_the_order_of_checkpoints() {
    let types = Format::ALL.iter().map(|&format| ElementType::Blocks(format));
    let types = types.chain(Foreign::ALL.iter().map(|&foreign| ElementType::Foreign(foreign)));
    let plain = [Dtype::F32, Dtype::F16, Dtype::BF16].map(ElementType::Plain);
    for element_type in types.chain(plain) {
        let row_bytes = element_type.row_bytes(COLS).unwrap();
        let blocks = bytes(4 * HEAD * row_bytes);
        let number = element_type.ggml().unwrap();
        let shape = [4 * HEAD, COLS];
        let file = network("llama").tensor("blk.0.attn_q.weight", &shape, number, blocks.clone()).tensor(
            "blk.0.attn_output.weight",
            &shape,
            number,
            blocks.clone(),
        );
        let folder = folder(&[("model.gguf", file.bytes())]);
        let source = source::open(&folder.path().join("model.gguf")).unwrap();
        let mut decoded = vec![0.0; 4 * HEAD * COLS];
        match element_type {
            ElementType::Blocks(format) => format.decode(&blocks, &mut decoded).unwrap(),
            ElementType::Foreign(foreign) => foreign.decode(&blocks, &mut decoded).unwrap(),
            ElementType::Plain(dtype) => {
                for (x, bytes) in decoded.iter_mut().zip(blocks.chunks(dtype.bitsize() / 8)) {
                    *x = match dtype {
                        Dtype::F32 => f32::from_le_bytes(bytes.try_into().unwrap()),
                        Dtype::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
                        _ => bf16::from_le_bytes(bytes.try_into().unwrap()).to_f32(),
                    };
                }
            }
        }
        for (name, row_of) in [("q_proj", interleaved as fn(usize) -> usize), ("o_proj", |row| row)] {
            let name = format!("model.layers.0.self_attn.{name}.weight");
            let position = source.position(&name).unwrap();
            let info = &source.tensors()[position];
            assert_eq!((info.shape(), info.bytes(), info.is_float()), (&shape[..], blocks.len(), true));
            let rows = (0..4 * HEAD).map(row_of);
            let expected: Vec<f32> = rows.clone().flat_map(|row| &decoded[row * COLS..][..COLS]).copied().collect();
            assert!(equal(&read(&*source, &name), &expected), "{element_type} {name}");
            // A range that begins and ends within blocks.
            let mut part = vec![0.0; 1000];
            source.read_f32(position, 333..1333, &mut part).unwrap();
            assert!(equal(&part, &expected[333..1333]), "{element_type} {name}");
            let mut stored = vec![0; blocks.len()];
            let found = source.read_stored(position, 0..blocks.len(), &mut stored);
            if let ElementType::Foreign(_) = element_type {
                assert_eq!(found.unwrap_err().kind(), SourceErrorKind::Request);
                assert_eq!(info.stored(), Stored::Decoded(element_type));
                continue;
            }
            let expected: Vec<u8> = rows.flat_map(|row| &blocks[row * row_bytes..][..row_bytes]).copied().collect();
            assert!(stored == expected, "{element_type} {name}");
            source.read_stored(position, 7..1007, &mut stored[..1000]).unwrap();
            assert!(stored[..1000] == expected[7..1007], "{element_type} {name}");
        }
    }
}

/// Whether numbers have the same bits, all NaN alike.
fn equal(a: &[f32], b: &[f32]) -> bool {
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    a.len() == b.len() && a.iter().zip(b).all(same)
}

#[test]
fn what_is_added_to_norms_is_taken_off_and_factors_are_applied() {
    let norm: Vec<f32> = noise(COLS).iter().map(|x| 1.0 + x / 2.0).collect();
    let matrix = bytes(4 * HEAD * Foreign::Nvfp4.row_bytes(COLS).unwrap());
    let file = network("gemma3")
        .number("gemma3.attention.sliding_window", 16)
        .number("gemma3.attention.key_length", HEAD as u32)
        .plain("blk.0.attn_norm.weight", &[COLS], &norm)
        .tensor("blk.0.attn_output.weight", &[4 * HEAD, COLS], Foreign::Nvfp4.ggml(), matrix.clone())
        .plain("blk.0.attn_output.scale", &[1], &[0.375])
        .plain("something.else", &[2], &[1.0, 2.0]);
    let folder = folder(&[("model.gguf", file.bytes())]);
    let source = source::open(&folder.path().join("model.gguf")).unwrap();
    let expected: Vec<f32> = norm.iter().map(|x| x - 1.0).collect();
    assert_eq!(bits(&read(&*source, "model.layers.0.input_layernorm.weight")), bits(&expected));
    let mut decoded = vec![0.0; 4 * HEAD * COLS];
    Foreign::Nvfp4.decode(&matrix, &mut decoded).unwrap();
    decoded.iter_mut().for_each(|x| *x *= 0.375);
    assert!(equal(&read(&*source, "model.layers.0.self_attn.o_proj.weight"), &decoded));
    assert_eq!(source.warnings(), ["left out \"something.else\": tensors that such a network does not use"]);
    let config = source.companions().config().unwrap();
    assert_eq!((&config["model_type"], &config["hidden_size"]), (&json!("gemma3_text"), &json!(COLS)));
}

/// A model in two files.
fn split() -> [(&'static str, GgufFile); 2] {
    let part = |file: GgufFile, number: u32| {
        let file = file.value("split.no", 2, &(number as u16).to_le_bytes()).value("split.count", 2, &[2, 0]);
        file.value("split.tensors.count", file::I32, &2i32.to_le_bytes())
    };
    let second = GgufFile::default().plain("blk.0.attn_v.weight", &[2 * HEAD, COLS], &noise(2 * HEAD * COLS));
    [("m-00001-of-00002.gguf", part(network("llama"), 0)), ("m-00002-of-00002.gguf", part(second, 1))]
}

#[test]
fn a_split_model_is_one_checkpoint_whichever_file_is_named() {
    let folder = folder(&split().map(|(name, file)| (name, file.bytes())));
    for (name, _) in split() {
        let source = source::open(&folder.path().join(name)).unwrap();
        assert_eq!(source.files().len(), 2);
        let names: Vec<&str> = source.tensors().iter().map(|tensor| tensor.name()).collect();
        assert_eq!(names, ["model.embed_tokens.weight", "model.layers.0.self_attn.v_proj.weight"]);
        assert_eq!(bits(&read(&*source, names[1])), bits(&noise(2 * HEAD * COLS)));
        assert_eq!(source.total_bytes() as usize, 4 * COLS * (3 + 2 * HEAD));
    }
}

#[test]
fn a_file_that_changes_or_ends_is_noticed() {
    let folder = folder(&split().map(|(name, file)| (name, file.bytes())));
    let source = source::open(&folder.path().join(split()[0].0)).unwrap();
    source.check_unchanged().unwrap();
    let second = folder.path().join(split()[1].0);
    let bytes = fs::read(&second).unwrap();
    fs::write(&second, &bytes[..bytes.len() - 4096]).unwrap();
    let mut out = vec![0.0; 2 * HEAD * COLS];
    let error = source.read_f32(1, 0..out.len(), &mut out).unwrap_err();
    assert!(error.to_string().contains("blk.0.attn_v.weight") && error.to_string().contains("cut off"), "{error}");
    assert_eq!(error.kind(), SourceErrorKind::Checkpoint);
    let error = source.check_unchanged().unwrap_err().to_string();
    assert!(error.contains("m-00002-of-00002.gguf"), "{error}");
}

#[test]
fn what_cannot_be_converted_is_named() {
    let refused = |file: GgufFile, expected: &[&str]| {
        let folder = folder(&[("model.gguf", file.bytes())]);
        let error = source::open(&folder.path().join("model.gguf")).map(drop).unwrap_err();
        assert_eq!(error.kind(), SourceErrorKind::Checkpoint, "{error}");
        for expected in expected.iter().chain(&["model.gguf"]) {
            assert!(error.to_string().contains(expected), "{error}\n    expected: {expected}");
        }
    };
    let nothing = || GgufFile::default().text("general.architecture", "llama");
    refused(network("starcoder3"), &["general.architecture", "starcoder3", "llama"]);
    refused(GgufFile::default().plain("token_embd.weight", &[1, 2], &[0.0; 2]), &["general.architecture", "missing"]);
    refused(nothing().plain("token_embd.weight", &[1, 2], &[0.0; 2]), &["head_count", "missing"]);
    refused(nothing().number("llama.attention.head_count", 1), &["no tensors"]);
    // Rows that are no halves of heads, and experts that are not as many as the file says.
    refused(
        network("llama").plain("blk.0.attn_q.weight", &[6, COLS], &[0.0; 6 * COLS]),
        &["blk.0.attn_q.weight", "heads"],
    );
    let experts = network("llama").number("llama.expert_count", 3);
    refused(experts.plain("blk.0.ffn_up_exps.weight", &[2, 1, COLS], &[0.0; 2 * COLS]), &["ffn_up_exps", "[3, rows"]);
    // A part alone.
    let [(name, first), _] = split();
    let folder = folder(&[(name, first.bytes())]);
    let error = source::open(&folder.path().join(name)).map(drop).unwrap_err().to_string();
    assert!(error.contains("file 2 of 2 of this model is missing"), "{error}");
}

#[test]
fn a_tokenizer_that_is_not_read_is_left_out() {
    let folder = folder(&[("model.gguf", network("llama").text("tokenizer.ggml.model", "klingon").bytes())]);
    let source = source::open(&folder.path().join("model.gguf")).unwrap();
    let [warning] = source.warnings() else { panic!("{:?}", source.warnings()) };
    assert!(warning.starts_with("left out the tokenizer: ") && warning.contains("klingon"), "{warning}");
    assert!(!source.companions().paths().iter().any(|path| path.ends_with("tokenizer.json")));
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let matrix = bytes(HEAD * Format::Q4K.row_bytes(COLS).unwrap());
    let file = network("llama").blocks("blk.0.attn_output.weight", &[HEAD, COLS], Format::Q4K, matrix.clone());
    let file = file.tensor("blk.0.attn_v.weight", &[1, 2], 24, vec![1, 2]);
    let folder = folder(&[("model.gguf", file.bytes())]);
    let source = source::open(&folder.path().join("model.gguf")).unwrap();
    let (mut out, mut stored) = (vec![0.0; 8], vec![0; 8]);
    let (elements, all) = (HEAD * COLS, matrix.len());
    for error in [
        source.read_f32(9, 0..8, &mut out),
        source.read_f32(1, elements - 7..elements + 1, &mut out),
        source.read_f32(1, 0..7, &mut out),
        source.read_f32(2, 0..2, &mut out[..2]),
        source.read_stored(9, 0..8, &mut stored),
        source.read_stored(1, all - 7..all + 1, &mut stored),
        source.read_stored(1, 0..7, &mut stored),
    ] {
        assert_eq!(error.unwrap_err().kind(), SourceErrorKind::Request);
    }
    source.read_stored(2, 0..2, &mut stored[..2]).unwrap();
    assert_eq!(stored[..2], [1, 2]);
}

#[test]
fn a_real_file_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/stories260K/stories260K-f16.gguf");
    if !path.exists() {
        println!("NOT RUN: there is no {}", path.display());
        return;
    }
    let source = source::open(&path).unwrap();
    assert_eq!((source.tensors().len(), source.companions().model_type()), (48, Some("llama")));
    let files: Vec<&str> = source.companions().paths().iter().filter_map(|path| path.to_str()).collect();
    for expected in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        assert!(files.contains(&expected), "{files:?}");
    }
    let name = "model.layers.0.self_attn.q_proj.weight";
    assert!(read(&*source, name).iter().all(|x| x.is_finite() && x.abs() < 10.0));
}
