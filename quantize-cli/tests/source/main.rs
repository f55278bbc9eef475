//! Reading checkpoints: what is read, and what is refused and how.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests, which clippy.toml lets do both")]

mod foreign;
mod fp8;
mod gguf;
mod refusals;
mod schemes;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use quantize_cli::source::{self, Source};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Dtype, shape, bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// The bytes of a file, by the format's own writer.
fn file(tensors: &[(&str, Tensor)]) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (*name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, None).unwrap()
}

/// The bytes of a file with this header, right or wrong.
fn raw(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

fn folder(files: &[(&str, Vec<u8>)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

fn index(weight_map: &[(&str, &str)]) -> Vec<u8> {
    let weight_map: BTreeMap<_, _> = weight_map.iter().copied().collect();
    json!({"metadata": {"total_size": 1}, "weight_map": weight_map}).to_string().into_bytes()
}

fn f32s(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

/// Four f32 elements.
fn small(first: f32) -> Tensor {
    (Dtype::F32, vec![2, 2], f32s((0..4).map(|i| first + i as f32)))
}

/// Numbers without a pattern that any block size would share; fractions in -1..1 of 16 bits.
fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 16) as f32 - 32768.0) / 32768.0
    })
    .take(n)
    .collect()
}

/// NaN where nothing was written.
fn read(source: &dyn Source, name: &str) -> Vec<f32> {
    let position = source.position(name).unwrap();
    let mut out = vec![f32::NAN; source.tensors()[position].elements()];
    source.read_f32(position, 0..out.len(), &mut out).unwrap();
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

/// The value of an E4M3FN code, as the paper that defines it (arXiv 2209.05433) says it.
fn e4m3(code: u8) -> f64 {
    let sign = if code & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => sign * 2f64.powi(-6) * (mantissa / 8.0),
        _ => sign * 2f64.powi(exponent - 7) * (1.0 + mantissa / 8.0),
    }
}

#[test]
fn every_float_type_converts() {
    // More than one piece of 64 KiB in every type, and no multiple of anything.
    const N: usize = 70_001;
    let mut values = noise(N);
    values[..8].copy_from_slice(&[0.0, -0.0, 1e-7, -6e-8, 65504.0, f32::MIN_POSITIVE, f32::INFINITY, 1e-40]);
    let wide: Vec<f64> = values.iter().map(|&x| f64::from(x) * 1.000_000_03).collect();
    let codes: Vec<u8> = (0..N).map(|i| (i * 7) as u8).collect();
    let shape = vec![N];
    let bytes = file(&[
        ("f64", (Dtype::F64, shape.clone(), wide.iter().flat_map(|x| x.to_le_bytes()).collect())),
        ("f32", (Dtype::F32, shape.clone(), f32s(values.clone()))),
        ("f16", (Dtype::F16, shape.clone(), values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect())),
        ("bf16", (Dtype::BF16, shape.clone(), values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect())),
        ("f8", (Dtype::F8_E4M3, shape, codes.clone())),
    ]);
    let folder = folder(&[("model.safetensors", bytes)]);
    let source = source::open(folder.path()).unwrap();

    let expect = |name: &str, convert: &dyn Fn(usize) -> f32| {
        let expected: Vec<f32> = (0..N).map(convert).collect();
        let found = read(&*source, name);
        for i in 0..N {
            let equal = found[i].to_bits() == expected[i].to_bits() || found[i].is_nan() && expected[i].is_nan();
            assert!(equal, "{name}[{i}]: {} instead of {}", found[i], expected[i]);
        }
    };
    expect("f64", &|i| wide[i] as f32);
    expect("f32", &|i| values[i]);
    expect("f16", &|i| f16::from_f32(values[i]).to_f32());
    expect("bf16", &|i| bf16::from_f32(values[i]).to_f32());
    expect("f8", &|i| e4m3(codes[i]) as f32);
}

#[test]
fn any_range_equals_a_slice_of_the_whole() {
    let (rows, cols) = (190, 333);
    let n = rows * cols;
    let half: Vec<u8> = noise(n).into_iter().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect();
    let codes: Vec<u8> = noise(n).into_iter().map(|x| (x * 126.0) as i8 as u8).collect();
    let folder = folder(&[(
        "model.safetensors",
        file(&[
            ("half", (Dtype::F16, vec![rows, cols], half.clone())),
            ("block.weight", (Dtype::F8_E4M3, vec![rows, cols], codes.clone())),
            ("block.weight_scale_inv", (Dtype::F32, vec![2, 3], f32s(noise(6)))),
            ("row.weight", (Dtype::F8_E4M3, vec![rows, cols], codes)),
            ("row.weight_scale", (Dtype::F32, vec![rows, 1], f32s(noise(rows)))),
        ]),
    )]);
    let source = source::open(folder.path()).unwrap();
    let ranges = [0..n, 0..0, n..n, 0..1, n - 1..n, 5..6, 1..n, 40_000..n, 332..334, 42_623..42_700, 42_624..63_000];
    for name in ["half", "block.weight", "row.weight"] {
        let tensor = source.position(name).unwrap();
        let whole = read(&*source, name);
        for range in ranges.clone() {
            let mut part = vec![f32::NAN; range.len()];
            source.read_f32(tensor, range.clone(), &mut part).unwrap();
            assert_eq!(bits(&part), bits(&whole[range.clone()]), "{name} {range:?}");
        }
    }
    let mut part = vec![0xaa; 1001];
    source.read_stored(source.position("half").unwrap(), 777..1778, &mut part).unwrap();
    assert_eq!(part, half[777..1778]);
    // Codes without their scales are no tensor.
    let codes = source.read_stored(source.position("block.weight").unwrap(), 0..4, &mut [0; 4]).unwrap_err();
    assert!(codes.to_string().contains("bytes of codes that have scales"), "{codes}");
}

#[test]
fn threads_read_the_same() {
    let folder = folder(&[("model.safetensors", file(&[("x", (Dtype::F32, vec![400, 500], f32s(noise(200_000))))]))]);
    let source = source::open(folder.path()).unwrap();
    let whole = read(&*source, "x");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..20).for_each(|_| assert_eq!(read(&*source, "x"), whole)));
        }
    });
}

#[test]
fn tensors_come_in_the_order_of_their_data() {
    let header = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},
        "empty":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"scalar":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#;
    let folder = folder(&[("any name.safetensors", raw(header, 6))]);
    for path in [folder.path().to_path_buf(), folder.path().join("any name.safetensors")] {
        let source = source::open(&path).unwrap();
        let names: Vec<&str> = source.tensors().iter().map(|tensor| tensor.name()).collect();
        assert_eq!(names, ["scalar", "empty", "b"]);
        assert_eq!((source.path(), source.total_bytes()), (&*path, 6));
        assert_eq!(source.files(), [folder.path().join("any name.safetensors")]);
        assert!(source.companions().config().is_none() && source.companions().paths().is_empty());

        let [scalar, empty, b] = source.tensors() else { unreachable!() };
        assert_eq!((scalar.rows(), scalar.cols(), scalar.elements(), scalar.bytes()), (1, 1, 1, 4));
        assert_eq!((empty.rows(), empty.cols(), empty.elements(), empty.bytes()), (0, 7, 0, 0));
        assert_eq!((b.rows(), b.cols(), b.dtype(), b.is_float()), (1, 2, Dtype::U8, false));
        assert_eq!(read(&*source, "empty"), [0.0; 0]);
    }
}

#[test]
fn shards_are_read_as_their_index_says() {
    let folder = folder(&[
        (
            "model.safetensors.index.json",
            index(&[("a", "2.safetensors"), ("b", "1.safetensors"), ("c", "2.safetensors")]),
        ),
        ("1.safetensors", file(&[("b", small(10.0))])),
        ("2.safetensors", file(&[("a", small(20.0)), ("c", small(30.0))])),
        // The index does not list it.
        ("consolidated.safetensors", b"broken".to_vec()),
    ]);
    let source = source::open(folder.path()).unwrap();
    assert_eq!(source.files(), ["1.safetensors", "2.safetensors"].map(|name| folder.path().join(name)));
    let found: Vec<_> =
        source.tensors().iter().map(|tensor| (tensor.name(), read(&*source, tensor.name())[0])).collect();
    assert_eq!(found, [("b", 10.0), ("a", 20.0), ("c", 30.0)]);
    assert_eq!(source.total_bytes(), 48);
}

#[test]
fn companions_come_along() {
    // One of them often: its files come along once.
    let mut modules = vec![json!({"path": ""}), json!({"path": "1_Pooling"}), json!({"path": "3_Normalize"})];
    modules.extend(vec![json!({"path": "2_Dense"}); 300]);
    let modules = Value::from(modules);
    let some = b"some".to_vec();
    let folder = folder(&[
        ("config.json", b"{\"hidden_size\": 8}".to_vec()),
        ("model.safetensors", file(&[("a", small(0.0))])),
        ("tokenizer.json", some.clone()),
        ("modules.json", modules.to_string().into_bytes()),
        ("1_Pooling/config.json", some.clone()),
        ("2_Dense/config.json", some.clone()),
        ("2_Dense/model.safetensors", some.clone()),
        ("4_Other/config.json", some.clone()),
        ("LICENSE.txt", some.clone()),
        ("LICENSE", some.clone()),
        ("pytorch_model.bin", some),
    ]);
    let source = source::open(folder.path()).unwrap();
    let expected = "config.json tokenizer.json modules.json LICENSE LICENSE.txt \
         1_Pooling/config.json 2_Dense/config.json 2_Dense/model.safetensors";
    assert_eq!(source.companions().paths(), expected.split(' ').map(PathBuf::from).collect::<Vec<_>>());
    assert_eq!(source.companions().config().unwrap()["hidden_size"], 8);
}

/// The folder of real models, or `None`, and says so, where it is absent.
fn real(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("QUANTIZE_TEST_DATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"), PathBuf::from);
    let path = root.join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no {}", path.display());
    None
}

#[test]
fn real_language_model() {
    let Some([half, full]) = real("stories260K").map(|path| ["hf-float16", "hf-float32"].map(|name| path.join(name)))
    else {
        return;
    };
    let (half, full) = (source::open(&half).unwrap(), source::open(&full).unwrap());
    assert_eq!(full.companions().config().unwrap()["model_type"], "llama");
    assert_eq!(half.tensors().len(), full.tensors().len());
    assert_eq!(half.total_bytes() * 2, full.total_bytes());
    for tensor in full.tensors() {
        let rounded: Vec<f32> = read(&*full, tensor.name()).into_iter().map(|x| f16::from_f32(x).to_f32()).collect();
        assert_eq!(bits(&read(&*half, tensor.name())), bits(&rounded), "{}", tensor.name());
    }
}

#[test]
fn real_encoder() {
    let Some(path) = real("all-MiniLM-L6-v2") else { return };
    let source = source::open(&path).unwrap();
    let words = &source.tensors()[source.position("embeddings.word_embeddings.weight").unwrap()];
    assert_eq!((words.dtype(), words.rows(), words.cols()), (Dtype::F16, 30522, 384));
    assert!(read(&*source, words.name()).iter().all(|x| x.is_finite() && x.abs() < 2.0));
    for name in ["config.json", "tokenizer.json", "vocab.txt", "modules.json", "1_Pooling/config.json"] {
        assert!(source.companions().paths().contains(&PathBuf::from(name)), "{name}");
    }
}
