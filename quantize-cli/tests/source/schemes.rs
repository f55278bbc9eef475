//! Weights that other programs quantized: each scheme's codes are packed here as its own program
//! packs them, and read back.

use std::collections::BTreeMap;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::{Tensor, f32s, file, folder, noise, read};
use half::f16;
use quantize_cli::source::{self, Source};

const ROWS: usize = 64;
const COLS: usize = 96;
const GROUP: usize = 32;
const GROUPS: usize = COLS / GROUP;

/// Codes below `2^bits` without a pattern.
fn codes(count: usize, bits: u32) -> Vec<u32> {
    noise(count).into_iter().map(|x| ((x + 1.0) / 2.0 * f32::from(1u16 << bits)) as u32).collect()
}

/// Scales that are exact in half precision.
fn scales(count: usize) -> Vec<f32> {
    noise(count).into_iter().map(|x| f16::from_f32(x / 16.0 + 0.1).to_f32()).collect()
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()
}

/// Puts codes one after the other into 32-bit words, the lowest bits first, bit by bit.
fn stream(codes: impl IntoIterator<Item = u32>, bits: usize) -> Vec<u32> {
    let bits = codes.into_iter().flat_map(|code| (0..bits).map(move |bit| code >> bit & 1));
    let bits: Vec<u32> = bits.collect();
    bits.chunks(32).map(|word| word.iter().enumerate().map(|(i, bit)| bit << i).sum()).collect()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Turns `[a, b]` into `[b, a]`.
fn transposed<T: Copy>(values: &[T], b: usize) -> Vec<T> {
    (0..b).flat_map(|j| values.chunks(b).map(move |row| row[j])).collect()
}

/// A folder with these tensors of a layer, opened; or the error.
fn open(config: &Value, tensors: &[(&str, Tensor)]) -> Result<(tempfile::TempDir, Box<dyn Source>), String> {
    let named: Vec<(String, Tensor)> =
        tensors.iter().map(|(name, tensor)| (format!("model.layers.0.mlp.up_proj.{name}"), tensor.clone())).collect();
    let named: Vec<(&str, Tensor)> = named.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let config = config.to_string().into_bytes();
    let folder = folder(&[("config.json", config), ("model.safetensors", file(&named))]);
    let source = source::open(folder.path()).map_err(|error| error.to_string())?;
    Ok((folder, source))
}

/// Checks the one weight of a layer, as a whole and in pieces that begin and end anywhere.
#[track_caller]
fn check(config: &Value, tensors: &[(&str, Tensor)], shape: &[usize], expected: impl Fn(usize, usize) -> f32) {
    let (_folder, source) = open(config, tensors).unwrap();
    let name = "model.layers.0.mlp.up_proj.weight";
    assert_eq!(source.tensors().len(), 1, "{:?}", source.tensors());
    let info = &source.tensors()[0];
    assert_eq!((info.name(), info.shape()), (name, shape));
    assert!(info.is_float() && source.warnings()[0].starts_with("1 weights are quantized by"));
    let cols = info.cols();
    let expected: Vec<f32> = (0..info.elements()).map(|i| expected(i / cols, i % cols)).collect();
    let found = read(&*source, name);
    for i in 0..found.len() {
        assert_eq!(
            found[i].to_bits(),
            expected[i].to_bits(),
            "[{}, {}]: {} {}",
            i / cols,
            i % cols,
            found[i],
            expected[i]
        );
    }
    for range in [0..1, 5..cols + 5, cols - 1..3 * cols, 17 * cols..18 * cols, found.len() - 3..found.len(), 7..7] {
        let mut piece = vec![f32::NAN; range.len()];
        source.read_f32(0, range.clone(), &mut piece).unwrap();
        assert_eq!(piece, expected[range]);
    }
    assert!(source.read_f32(0, found.len()..found.len() + 1, &mut [0.0]).is_err());
}

fn quantization(fields: Value) -> Value {
    json!({"quantization_config": fields})
}

#[test]
fn gptq_of_all_widths_and_versions() {
    for (bits, version, offset) in
        [(4, "gptq", 1), (4, "gptq_v2", 0), (2, "gptq", 1), (3, "gptq", 1), (8, "gptq_v2", 0)]
    {
        let q = codes(ROWS * COLS, bits);
        // A stored zero point of version 1 is one less.
        let zeros: Vec<u32> = codes(ROWS * GROUPS, bits).into_iter().map(|zero| zero.max(1)).collect();
        let s = scales(GROUPS * ROWS);
        let width = bits as usize;
        // `[inputs, outputs]`: every output has a stream of its own.
        let columns: Vec<Vec<u32>> = q.chunks(COLS).map(|row| stream(row.iter().copied(), width)).collect();
        let packed = transposed(&columns.concat(), COLS * width / 32);
        let packed_zeros: Vec<u32> =
            zeros.chunks(ROWS).flat_map(|zeros| stream(zeros.iter().map(|zero| zero - offset), width)).collect();
        // Every group has columns everywhere.
        let order: Vec<u32> = (0..COLS).map(|col| (col * 7 % GROUPS) as u32).collect();
        for order in [None, Some(order)] {
            let mut tensors = vec![
                ("qweight", (Dtype::I32, vec![COLS * width / 32, ROWS], words(&packed))),
                ("qzeros", (Dtype::I32, vec![GROUPS, ROWS * width / 32], words(&packed_zeros))),
                ("scales", (Dtype::F16, vec![GROUPS, ROWS], halves(&s))),
            ];
            if let Some(order) = &order {
                tensors.push(("g_idx", (Dtype::I32, vec![COLS], words(order))));
            }
            let config =
                json!({"quant_method": "gptq", "bits": bits, "group_size": GROUP, "checkpoint_format": version});
            check(&quantization(config), &tensors, &[ROWS, COLS], |row, col| {
                let group = order.as_ref().map_or(col / GROUP, |order| order[col] as usize);
                let zero = zeros[group * ROWS + row] as f32;
                (q[row * COLS + col] as f32 - zero) * s[group * ROWS + row]
            });
        }
    }
}

#[test]
fn awq_has_outputs_in_its_own_order() {
    const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
    let pack = |values: &[u32]| -> Vec<u32> {
        let word = |eight: &[u32]| ORDER.iter().enumerate().map(|(nibble, &i)| eight[i] << (4 * nibble)).sum();
        values.chunks(8).map(word).collect()
    };
    let (q, zeros, s) = (codes(COLS * ROWS, 4), codes(GROUPS * ROWS, 4), scales(GROUPS * ROWS));
    let tensors = [
        ("qweight", (Dtype::I32, vec![COLS, ROWS / 8], words(&pack(&q)))),
        ("qzeros", (Dtype::I32, vec![GROUPS, ROWS / 8], words(&pack(&zeros)))),
        ("scales", (Dtype::F16, vec![GROUPS, ROWS], halves(&s))),
    ];
    let expected = |row: usize, col: usize| {
        let group = col / GROUP * ROWS + row;
        (q[col * ROWS + row] as f32 - zeros[group] as f32) * s[group]
    };
    let config = json!({"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": true, "version": "gemm"});
    check(&quantization(config.clone()), &tensors, &[ROWS, COLS], expected);
    check(&json!({}), &tensors, &[ROWS, COLS], expected);
    for (key, value, expected) in [
        ("version", json!("gemv"), "expected \"gemm\""),
        ("bits", json!(8), "codes of 4 bits, but the config says 8"),
        ("group_size", json!(48), "3 groups of 48 columns, but 96 columns"),
        ("quant_method", json!("marlin"), "already quantized by marlin"),
        ("group_size", json!("all"), "expected a positive whole number"),
    ] {
        let mut config = config.clone();
        config[key] = value;
        let error = open(&quantization(config), &tensors).map(drop).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn compressed_tensors_packed_and_plain() {
    let s = scales(ROWS * GROUPS);
    let shape = (Dtype::I64, vec![2], [ROWS as i64, COLS as i64].iter().flat_map(|n| n.to_le_bytes()).collect());
    for bits in [4, 8] {
        let width = bits as usize;
        let (q, zeros) = (codes(ROWS * COLS, bits), codes(ROWS * GROUPS, bits));
        let packed: Vec<u32> = q.chunks(COLS).flat_map(|row| stream(row.iter().copied(), width)).collect();
        let mut tensors = vec![
            ("weight_packed", (Dtype::I32, vec![ROWS, COLS * width / 32], words(&packed))),
            ("weight_scale", (Dtype::F16, vec![ROWS, GROUPS], halves(&s))),
            ("weight_shape", shape.clone()),
        ];
        let config = quantization(json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}));
        let value =
            |zero: f32, row: usize, col: usize| (q[row * COLS + col] as f32 - zero) * s[row * GROUPS + col / GROUP];
        check(&config, &tensors, &[ROWS, COLS], |row, col| value((1 << (bits - 1)) as f32, row, col));
        // Zero points are packed along the rows.
        let columns: Vec<u32> =
            (0..GROUPS).flat_map(|group| stream((0..ROWS).map(|row| zeros[row * GROUPS + group]), width)).collect();
        let packed_zeros = transposed(&columns, ROWS * width / 32);
        tensors.push(("weight_zero_point", (Dtype::I32, vec![ROWS * width / 32, GROUPS], words(&packed_zeros))));
        check(&config, &tensors, &[ROWS, COLS], |row, col| value(zeros[row * GROUPS + col / GROUP] as f32, row, col));
    }
    let q: Vec<i8> = codes(ROWS * COLS, 8).into_iter().map(|code| (code as i32 - 128) as i8).collect();
    let s = scales(ROWS);
    let tensors = [
        ("weight", (Dtype::I8, vec![ROWS, COLS], q.iter().map(|&q| q as u8).collect())),
        ("weight_scale", (Dtype::F32, vec![ROWS, 1], f32s(s.clone()))),
        ("input_scale", (Dtype::F32, vec![1], f32s([1.0]))),
    ];
    let config = quantization(json!({"quant_method": "compressed-tensors", "format": "int-quantized"}));
    check(&config, &tensors, &[ROWS, COLS], |row, col| f32::from(q[row * COLS + col]) * s[row]);
}

/// The values of E2M1, from its bits.
fn e2m1(code: u32) -> f32 {
    let (sign, exponent, mantissa) = (code >> 3, code >> 1 & 3, (code & 1) as f32);
    let magnitude = if exponent == 0 { mantissa / 2.0 } else { (1.0 + mantissa / 2.0) * (1 << (exponent - 1)) as f32 };
    if sign == 1 { -magnitude } else { magnitude }
}

#[test]
fn floats_of_4_bits() {
    let q = codes(ROWS * COLS, 4);
    let packed: Vec<u8> = q.chunks(2).map(|pair| (pair[0] | pair[1] << 4) as u8).collect();
    // Finite and positive scales of E4M3, 16 columns each.
    let bytes: Vec<u8> = codes(ROWS * COLS / 16, 6).into_iter().map(|code| code as u8 + 8).collect();
    let scale = |row: usize, col: usize| crate::e4m3(bytes[row * (COLS / 16) + col / 16]) as f32;
    let scales = (Dtype::F8_E4M3, vec![ROWS, COLS / 16], bytes.clone());
    let nvfp4 = |divisor: bool| {
        let codes = (Dtype::U8, vec![ROWS, COLS / 2], packed.clone());
        let global = (Dtype::F32, vec![1], f32s([if divisor { 300.0 } else { 0.003 }]));
        match divisor {
            true => [("weight_packed", codes), ("weight_scale", scales.clone()), ("weight_global_scale", global)],
            false => [("weight", codes), ("weight_scale", scales.clone()), ("weight_scale_2", global)],
        }
    };
    let config = quantization(json!({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}));
    check(&config, &nvfp4(true), &[ROWS, COLS], |row, col| e2m1(q[row * COLS + col]) * (scale(row, col) / 300.0));
    let config = quantization(json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}));
    check(&config, &nvfp4(false), &[ROWS, COLS], |row, col| e2m1(q[row * COLS + col]) * (scale(row, col) * 0.003));

    // gpt-oss: experts, and exponents for scales.
    let exponents: Vec<u8> = codes(ROWS * GROUPS, 4).into_iter().map(|code| code as u8 + 118).collect();
    let folder = folder(&[(
        "model.safetensors",
        file(&[
            ("experts.down_proj_blocks", (Dtype::U8, vec![4, ROWS / 4, GROUPS, 16], packed)),
            ("experts.down_proj_scales", (Dtype::U8, vec![4, ROWS / 4, GROUPS], exponents.clone())),
        ]),
    )]);
    let source = source::open(folder.path()).unwrap();
    assert_eq!(source.tensors()[0].shape(), [4, ROWS / 4, COLS]);
    for (i, x) in read(&*source, "experts.down_proj").into_iter().enumerate() {
        let scale = 2f32.powi(i32::from(exponents[i / 32]) - 127);
        assert_eq!(x.to_bits(), (e2m1(q[i]) * scale).to_bits(), "{i}");
    }
}

#[test]
fn mlx_of_all_widths() {
    for bits in [2, 3, 4, 5, 6, 8] {
        let width = bits as usize;
        let q = codes(ROWS * COLS, bits);
        let (s, b) = (scales(ROWS * GROUPS), scales(ROWS * GROUPS));
        let packed: Vec<u32> = q.chunks(COLS).flat_map(|row| stream(row.iter().copied(), width)).collect();
        let tensors = [
            ("weight", (Dtype::U32, vec![ROWS, COLS * width / 32], words(&packed))),
            ("scales", (Dtype::F16, vec![ROWS, GROUPS], halves(&s))),
            ("biases", (Dtype::F16, vec![ROWS, GROUPS], halves(&b))),
        ];
        let expected = |row: usize, col: usize| {
            let group = row * GROUPS + col / GROUP;
            q[row * COLS + col] as f32 * s[group] + b[group]
        };
        check(&json!({"quantization": {"bits": bits, "group_size": GROUP}}), &tensors, &[ROWS, COLS], expected);
        // A layer may differ from the rest.
        let own = json!({"bits": bits, "group_size": GROUP});
        let config = json!({"quantization": {"bits": 16, "group_size": 64, "model.layers.0.mlp.up_proj": own}});
        check(&config, &tensors, &[ROWS, COLS], expected);
        let wrong = json!({"quantization": {"bits": bits + 1, "group_size": GROUP}});
        let error = open(&wrong, &tensors).map(drop).unwrap_err();
        assert!(error.contains("do not fit quantization with mode \"affine\""), "{error}");
    }
    let q = codes(ROWS * COLS, 4);
    let packed: Vec<u32> = q.chunks(COLS).flat_map(|row| stream(row.iter().copied(), 4)).collect();
    let exponents: Vec<u8> = codes(ROWS * GROUPS, 4).into_iter().map(|code| code as u8 + 118).collect();
    let tensors = [
        ("weight", (Dtype::U32, vec![ROWS, COLS / 8], words(&packed))),
        ("scales", (Dtype::U8, vec![ROWS, GROUPS], exponents.clone())),
    ];
    let config = json!({"quantization": {"bits": 4, "group_size": 32, "mode": "mxfp4"}});
    check(&config, &tensors, &[ROWS, COLS], |row, col| {
        e2m1(q[row * COLS + col]) * 2f32.powi(i32::from(exponents[row * GROUPS + col / GROUP]) - 127)
    });
}

#[test]
fn bitsandbytes_with_plain_and_nested_scales() {
    let q = codes(ROWS * COLS, 4);
    // The first of two codes is in the high half of a byte.
    let packed: Vec<u8> = q.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect();
    let map = noise(16);
    // Blocks run over the ends of rows.
    let blocks = ROWS * COLS / 64;
    let state = |more: Value| {
        let mut state = json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [ROWS, COLS]});
        state.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let text = state.to_string().into_bytes();
        (Dtype::U8, vec![text.len()], text)
    };
    let absmax = scales(blocks);
    let config = quantization(json!({"quant_method": "bitsandbytes", "load_in_4bit": true}));
    let mut tensors: BTreeMap<&str, Tensor> = BTreeMap::from([
        ("weight", (Dtype::U8, vec![ROWS * COLS / 2, 1], packed)),
        ("weight.absmax", (Dtype::F32, vec![blocks], f32s(absmax.clone()))),
        ("weight.quant_map", (Dtype::F32, vec![16], f32s(map.clone()))),
        ("weight.quant_state.bitsandbytes__nf4", state(json!({}))),
    ]);
    let list = |tensors: &BTreeMap<&'static str, Tensor>| -> Vec<(&str, Tensor)> {
        tensors.iter().map(|(name, tensor)| (*name, tensor.clone())).collect()
    };
    let value = |scale: &dyn Fn(usize) -> f32, row: usize, col: usize| {
        let i = row * COLS + col;
        map[q[i] as usize] * scale(i / 64)
    };
    check(&config, &list(&tensors), &[ROWS, COLS], |row, col| value(&|block| absmax[block], row, col));

    let (nested_map, nested_codes, nested) = (noise(256), codes(blocks, 8), scales(blocks.div_ceil(32)));
    let bytes = nested_codes.iter().map(|&code| code as u8).collect();
    tensors.insert("weight.absmax", (Dtype::U8, vec![blocks], bytes));
    tensors.insert("weight.nested_absmax", (Dtype::F32, vec![nested.len()], f32s(nested.clone())));
    tensors.insert("weight.nested_quant_map", (Dtype::F32, vec![256], f32s(nested_map.clone())));
    let more = state(json!({"nested_blocksize": 32, "nested_offset": 0.25, "nested_dtype": "float32"}));
    tensors.insert("weight.quant_state.bitsandbytes__nf4", more);
    let scale = |block: usize| nested_map[nested_codes[block] as usize] * nested[block / 32] + 0.25;
    check(&config, &list(&tensors), &[ROWS, COLS], |row, col| value(&scale, row, col));

    tensors.remove("weight.nested_quant_map");
    let error = open(&config, &list(&tensors)).map(drop).unwrap_err();
    assert!(error.contains("codes without \"model.layers.0.mlp.up_proj.weight.nested_quant_map\""), "{error}");

    let q: Vec<i8> = codes(ROWS * COLS, 8).into_iter().map(|code| (code as i32 - 128) as i8).collect();
    let s = scales(ROWS);
    let tensors = [
        ("weight", (Dtype::I8, vec![ROWS, COLS], q.iter().map(|&q| q as u8).collect())),
        ("SCB", (Dtype::F32, vec![ROWS], f32s(s.clone()))),
        ("weight_format", (Dtype::U8, vec![], vec![0])),
    ];
    let config = quantization(json!({"quant_method": "bitsandbytes", "load_in_8bit": true}));
    check(&config, &tensors, &[ROWS, COLS], |row, col| (1.0 / 127.0) * (f32::from(q[row * COLS + col]) * s[row]));
}

/// Every tensor of every scheme is checked before anything is read by it.
#[test]
fn tensors_that_do_not_fit_are_named() {
    use Dtype::{BF16, F16, F32, I8, I32, I64, U8, U32};
    let zeros = |dtype: Dtype, shape: &[usize]| -> Tensor {
        (dtype, shape.to_vec(), vec![0; shape.iter().product::<usize>() * dtype.bitsize() / 8])
    };
    let gptq = |qweight: &[usize], qzeros: &[usize], scales: Tensor, g_idx: Option<Tensor>| {
        let mut tensors = vec![("qweight", zeros(I32, qweight)), ("qzeros", zeros(I32, qzeros)), ("scales", scales)];
        tensors.extend(g_idx.map(|g_idx| ("g_idx", g_idx)));
        tensors
    };
    let index = |groups: &[u32]| (I32, vec![groups.len()], words(groups));
    let mlx = json!({"quantization": {"group_size": 32, "bits": 4}});
    let huge = (I64, vec![2], [1i64 << 40, -1].iter().flat_map(|n| n.to_le_bytes()).collect());
    let state = |text: &str| (U8, vec![text.len()], text.as_bytes().to_vec());
    let four = |more: (&'static str, Tensor)| {
        vec![
            ("weight", zeros(U8, &[64, 1])),
            ("weight.absmax", zeros(F32, &[2])),
            ("weight.quant_map", zeros(F32, &[16])),
            more,
        ]
    };
    let bnb = "weight.quant_state.bitsandbytes__nf4";
    /// The config, the tensors, a part of the error.
    type Row = (Value, Vec<(&'static str, Tensor)>, &'static str);
    let rows: Vec<Row> = vec![
        (json!({}), vec![("qweight", zeros(I32, &[4, 64]))], "codes without"),
        (json!({}), gptq(&[4, 64], &[1, 8], zeros(F16, &[64]), None), "expected matrices"),
        (json!({}), gptq(&[4, 64], &[1, 8], zeros(F16, &[0, 64]), None), "codes without"),
        (json!({}), gptq(&[4, 64], &[2, 8], zeros(F16, &[1, 64]), None), "do not fit as GPTQ"),
        (json!({}), gptq(&[4, 64], &[1, 7], zeros(F16, &[1, 64]), None), "do not fit as GPTQ"),
        (json!({}), gptq(&[4, 64], &[1, 8], zeros(F16, &[1, 64]), Some(zeros(I32, &[31]))), "do not fit as GPTQ"),
        (
            json!({}),
            gptq(&[4, 64], &[1, 8], zeros(F16, &[1, 64]), Some(index(&[1; 32]))),
            "of group 1, expected one of 1",
        ),
        (json!({}), gptq(&[4, 64], &[1, 8], zeros(F16, &[1, 64]), Some(index(&[u32::MAX; 32]))), "of group -1"),
        (json!({}), gptq(&[64, 9], &[1, 8], zeros(F16, &[1, 64]), None), "do not fit as AWQ"),
        (json!({}), gptq(&[4, 64], &[33, 8], zeros(F16, &[33, 64]), None), "33 groups"),
        (
            json!({}),
            vec![
                ("weight_packed", zeros(I32, &[64, 4])),
                ("weight_scale", zeros(F16, &[64, 1])),
                ("weight_shape", huge),
            ],
            "negative or too large",
        ),
        (
            json!({}),
            vec![("weight_packed", zeros(I32, &[64, 4])), ("weight_scale", zeros(F16, &[63, 1]))],
            "expected codes of 4 or 8 bits",
        ),
        (json!({}), vec![("weight_packed", zeros(U8, &[64, 8]))], "codes without"),
        (
            json!({}),
            vec![
                ("weight_packed", zeros(U8, &[64, 8])),
                ("weight_scale", zeros(F32, &[64, 1])),
                ("weight_global_scale", zeros(F32, &[1])),
            ],
            "expected a positive number",
        ),
        (
            json!({}),
            vec![
                ("weight", zeros(I8, &[64, 8])),
                ("weight_scale", zeros(F32, &[64, 1])),
                ("weight_zero_point", zeros(I8, &[64, 2])),
            ],
            "128 zero points in I8, expected 64 in I8",
        ),
        (
            mlx.clone(),
            vec![
                ("weight", zeros(U32, &[64, 4])),
                ("scales", zeros(BF16, &[32, 1])),
                ("biases", zeros(BF16, &[32, 1])),
            ],
            "scales of shape [32, 1]",
        ),
        (
            mlx.clone(),
            vec![
                ("weight", zeros(U32, &[64, 4])),
                ("scales", zeros(BF16, &[64, 1])),
                ("biases", zeros(BF16, &[64, 2])),
            ],
            "do not fit quantization",
        ),
        (
            mlx,
            vec![("weight", zeros(U32, &[64, 4])), ("scales", zeros(I64, &[64, 1])), ("biases", zeros(BF16, &[64, 1]))],
            "scales of I64",
        ),
        (json!({}), four((bnb, state("{"))), "not a state of bitsandbytes"),
        (json!({}), four((bnb, state(r#"{"shape": [8, 16], "blocksize": 0}"#))), "blocks of no elements"),
        (json!({}), four((bnb, state(r#"{"shape": [8, 17], "blocksize": 64}"#))), "expected 68 of U8"),
        (json!({}), four((bnb, state(r#"{"shape": [8, 16], "blocksize": 32}"#))), "expected 4 of F32"),
        (json!({}), vec![("weight", zeros(I8, &[64, 8])), ("SCB", zeros(F32, &[8]))], "expected I8 [rows, columns]"),
    ];
    for (config, tensors, expected) in rows {
        let error = open(&config, &tensors).map(drop).unwrap_err();
        assert!(error.contains(expected), "{error}\n    expected: {expected}");
    }
}
