//! What is refused, and what is said about it.

use std::error::Error as _;

use quantize_cli::source::{self, SourceError, SourceErrorKind};
use safetensors::Dtype;

use crate::{Tensor, f32s, file, folder, index, raw, small};

/// An error with its causes, as a command line prints it.
fn chain(error: &SourceError) -> String {
    error.source().map_or(error.to_string(), |cause| format!("{error}: {cause}"))
}

#[test]
fn broken_checkpoints_are_refused() {
    const MODEL: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    let good = || file(&[("a", small(0.0))]);
    let entry = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let one = |dtype: &str, shape: &str, offsets: &str, data: usize| {
        vec![(MODEL, raw(&format!("{{{}}}", entry("x", dtype, shape, offsets)), data))]
    };
    let two = |a: (&str, &str), b: (&str, &str)| {
        let entries = [a, b].map(|(name, offsets)| entry(name, "U8", "[4]", offsets)).join(",");
        vec![(MODEL, raw(&format!("{{{entries}}}"), 8))]
    };
    let fp8 = |shape: Vec<usize>, scale: Tensor| {
        let n = shape.iter().product();
        vec![(MODEL, file(&[("x.weight", (Dtype::F8_E4M3, shape, vec![0; n])), ("x.weight_scale", scale)]))]
    };
    let pair = |map: &[(&str, &str)], first: &[(&str, Tensor)], second: &[(&str, Tensor)]| {
        vec![(INDEX, index(map)), ("1.safetensors", file(first)), ("2.safetensors", file(second))]
    };
    let with = |name: &'static str, text: &str| vec![(MODEL, good()), (name, text.as_bytes().to_vec())];
    let a = || ("a", small(0.0));
    let b = || ("b", small(0.0));
    let both = [("a", "1.safetensors"), ("b", "2.safetensors")];

    let rows = [
        // Folders.
        (vec![], "an empty folder, expected a checkpoint: config.json and .safetensors files"),
        (
            vec![("x.safetensors", good()), ("y.safetensors", good())],
            r#"which of 2 .safetensors files belong together: ["x.s"#,
        ),
        (vec![("m-00001-of-00002.safetensors", good())], "is one shard of several"),
        (with("config.json", "{,}"), "config.json\": not the JSON that is expected here: key must be a string"),
        (with("config.json", "\u{feff}{}"), "begins with a UTF-8 byte order mark: save the file without it"),
        (with("config.json", &" ".repeat((4 << 20) + 1)), "4194305 bytes, expected at most 4194304"),
        (with("modules.json", &" ".repeat((4 << 20) + 1)), "4194305 bytes, expected at most 4194304"),
        (with("modules.json", r#"[{"path":"../1_Up"}]"#), r#"module path "../1_Up", expected the name of a folder"#),
        (
            with("config.json", r#"{"quantization_config":{"weight_block_size":[128,0]}}"#),
            "config.json\": quantization_config.weight_block_size is [128,0], expected two positive integers",
        ),
        // Index and shards.
        (vec![(INDEX, b"{}".to_vec())], "missing field `weight_map`"),
        (vec![(INDEX, index(&[]))], "lists no shards"),
        (
            vec![(INDEX, index(&both)), ("1.safetensors", file(&[a()]))],
            r#"index.json": tensor "b": shard "2.safetensors" is missing"#,
        ),
        (
            vec![(INDEX, index(&[("a", "../up.safetensors")]))],
            r#"tensor "a": shard "../up.safetensors", expected the name of a file in the same folder"#,
        ),
        (
            vec![(INDEX, index(&[("a", "/etc/passwd")]))],
            r#"shard "/etc/passwd", expected the name of a file in the same folder"#,
        ),
        (vec![(INDEX, index(&[("a", "..")]))], r#"shard "..", expected the name of a file"#),
        (vec![(INDEX, index(&[("a", "x\\y")]))], r#"shard "x\\y", expected the name of a file"#),
        (vec![(INDEX, index(&[("a\n", "")]))], r#"tensor "a\n": shard "", expected the name of a file"#),
        (pair(&both, &[a(), b()], &[]), r#"tensor "b": found in "1.safetensors", expected in "2.safetensors""#),
        (pair(&both, &[a()], &[a(), b()]), r#"2.safetensors": tensor "a": also in "1.safetensors""#),
        (pair(&both, &[a(), ("c", small(0.0))], &[b()]), r#"1.safetensors": tensor "c": not in the index"#),
        (
            pair(&[both[0], both[1], ("c", "1.safetensors")], &[a()], &[b()]),
            r#"tensor "c": not in any shard, expected in "1.safetensors""#,
        ),
        // Files.
        (vec![(MODEL, vec![])], "0 bytes, shorter than the length of its header, expected at least 8"),
        (
            vec![(MODEL, u64::MAX.to_le_bytes().to_vec())],
            "header of 18446744073709551615 bytes, expected at most 100000000",
        ),
        (vec![(MODEL, 100u64.to_le_bytes().to_vec())], "header of 100 bytes, of which 0 are there"),
        (vec![(MODEL, raw("{}", 0))], "no tensors"),
        (vec![(MODEL, raw("[]", 0))], "expected a map of tensors"),
        (vec![(MODEL, raw("{\"\u{7}", 0))], "not a whole safetensors file: header: control character"),
        (
            vec![(MODEL, good()[..good().len() - 1].to_vec())],
            "tensor \"a\": bytes 0..16 of the data, of which 15 are there",
        ),
        (vec![(MODEL, [good(), vec![0]].concat())], "its tensors end at byte 16 of 17 bytes of data"),
        (one("F32", "[2]", "[0,7]", 7), r#"tensor "x": 7 bytes, expected 8 for F32 [2]"#),
        (one("F4", "[3]", "[0,1]", 1), "F4 [3], expected a whole number of bytes"),
        (one("F32", "[2]", "[8,0]", 8), "bytes 8..0 of the data, expected to begin at 0"),
        (one("F99", "[2]", "[0,8]", 8), "tensor \"x\": unknown variant `F99`"),
        (one("F32", "[-2]", "[0,8]", 8), "tensor \"x\": invalid value: integer `-2`"),
        (
            one("U8", "[4294967296,4294967296,0]", "[0,0]", 0),
            "U8 [4294967296, 4294967296, 0], expected a whole number of bytes, of a representable size",
        ),
        (
            one("F64", "[2305843009213693952]", "[0,0]", 0),
            "F64 [2305843009213693952], expected a whole number of bytes, of a representable size",
        ),
        (
            one("U8", "[1]", "[0,18446744073709551615]", 0),
            "bytes 0..18446744073709551615 of the data, of which 0 are there",
        ),
        (two(("x", "[0,4]"), ("y", "[3,7]")), r#"tensor "y": bytes 3..7 of the data, expected to begin at 4"#),
        (two(("x", "[0,4]"), ("y", "[5,9]")), r#"tensor "y": bytes 5..9 of the data, expected to begin at 4"#),
        (two(("x", "[0,4]"), ("x", "[4,8]")), r#"tensor "x": there twice"#),
        // Scales.
        (
            fp8(vec![300, 200], (Dtype::F32, vec![2, 2], f32s([1.0; 4]))),
            r#"tensor "x.weight_scale": scales of shape [2, 2] for "x.weight" of shape [300, 200], expected [], [1], [300], [300, 1], [3, 2] (blocks of 128 x 128)"#,
        ),
        (
            fp8(vec![2, 3, 4], (Dtype::F32, vec![2, 1], f32s([1.0; 2]))),
            "expected [], [1], [6], [2, 3, 1], [2, 1, 1] (blocks of 128 x 128)",
        ),
        (fp8(vec![2, 2], (Dtype::F64, vec![], vec![0; 8])), "F64 scales, expected F32, BF16, F16 or F8_E8M0"),
        (fp8(vec![2, 2], (Dtype::F32, vec![2], f32s([1.0, f32::NAN]))), "scale 1 is NaN, expected a finite number"),
        (fp8(vec![2, 2], (Dtype::F16, vec![], vec![0, 0x7c])), "scale 0 is inf, expected a finite number"),
        (
            vec![(
                MODEL,
                file(&[
                    ("x", (Dtype::F8_E4M3, vec![1], vec![0])),
                    ("x_scale", small(0.0)),
                    ("x_scale_inv", small(0.0)),
                ]),
            )],
            r#"tensor "x": both "x_scale_inv" and "x_scale" lie beside it, expected one"#,
        ),
    ];
    let mut failures = Vec::new();
    for (files, expected) in rows {
        let folder = folder(&files);
        match source::open(folder.path()) {
            Ok(_) => failures.push(format!("opened, expected: {expected}")),
            Err(error) => {
                let message = chain(&error);
                if !message.contains(expected) || error.kind() != SourceErrorKind::Checkpoint {
                    failures.push(format!("{message}\n    expected: {expected}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A byte changed anywhere either does not matter or is refused; what opens can be read.
#[test]
fn changed_bytes_never_panic() {
    let scale = (Dtype::F32, vec![2], f32s([1.0; 2]));
    let good = file(&[("a", small(0.0)), ("b", (Dtype::F8_E4M3, vec![2, 3], vec![0; 6])), ("b_scale", scale)]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut opened = 0;
    for i in 0..good.len() {
        for change in [b'0', b'9', b'"', 0xff, good[i] ^ 1] {
            let mut bytes = good.clone();
            bytes[i] = change;
            std::fs::write(&path, &bytes).unwrap();
            let Ok(source) = source::open(&path) else { continue };
            opened += 1;
            for (i, tensor) in source.tensors().iter().enumerate().filter(|(_, tensor)| tensor.is_float()) {
                source.read_f32(i, 0..tensor.elements(), &mut vec![0.0; tensor.elements()]).unwrap();
            }
        }
    }
    assert!(opened > 0, "changes of the data are not seen");
}

#[test]
fn what_cannot_be_read_is_an_error_of_the_system() {
    let folder = folder(&[("model.bin", vec![]), ("model.safetensors/x", vec![])]);
    let absent = source::open(&folder.path().join("absent")).unwrap_err();
    assert_eq!((absent.kind(), absent.path()), (SourceErrorKind::Io, Some(&*folder.path().join("absent"))));
    assert!(absent.source().is_some() && absent.to_string().ends_with("absent\""));
    let other = source::open(&folder.path().join("model.bin")).unwrap_err();
    assert!(other.to_string().ends_with("expected a .safetensors file or a folder with one"), "{other}");
    let not_a_file = source::open(folder.path()).unwrap_err();
    assert_eq!(not_a_file.kind(), SourceErrorKind::Io);
    assert!(chain(&not_a_file).contains("model.safetensors\": not an ordinary file"), "{not_a_file}");
}

#[test]
fn impossible_requests_are_errors_of_the_caller() {
    let tensors = [("a", small(0.0)), ("i", (Dtype::I32, vec![1], vec![0; 4]))];
    let folder = folder(&[("model.safetensors", file(&tensors))]);
    let source = source::open(folder.path()).unwrap();
    let (a, i) = (source.position("a").unwrap(), source.position("i").unwrap());
    let mut out = [0.0; 2];
    #[expect(clippy::reversed_empty_ranges, reason = "it is the mistake")]
    let rows = [
        (source.read_f32(a, 3..5, &mut out), "\"a\": elements 3..5 of 4 into a buffer of 2"),
        (source.read_f32(a, 0..3, &mut out), "elements 0..3 of 4 into a buffer of 2"),
        (source.read_f32(a, 2..0, &mut out), "elements 2..0 of 4 into a buffer of 2"),
        (source.read_f32(i, 0..1, &mut out[..1]), "\"i\": I32 elements, expected a floating-point type"),
        (source.read_stored(i, 3..5, &mut [0; 2]), "bytes 3..5 of 4 into a buffer of 2"),
        (source.read_f32(2, 0..2, &mut out), "no tensor 2, expected one of 2"),
    ];
    for (result, expected) in rows {
        let error = result.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}\n    expected: {expected}");
        assert_eq!(error.kind(), SourceErrorKind::Request);
        assert_eq!(error.tensor().is_none(), expected.starts_with("no tensor"));
    }
}
