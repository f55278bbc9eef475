//! 8-bit floating point with its scales, against a naive computation.

use half::{bf16, f16};
use quantize_cli::source;
use safetensors::Dtype;
use serde_json::json;

use crate::{Tensor, e4m3, f32s, file, folder, noise, read, small};

#[test]
fn every_8_bit_code_has_its_value() {
    let folder = folder(&[("model.safetensors", file(&[("codes", (Dtype::F8_E4M3, vec![256], (0..=255).collect()))]))]);
    let source = source::open(folder.path()).unwrap();
    for (code, found) in (0..=255u8).zip(read(&*source, "codes")) {
        let expected = e4m3(code);
        assert_eq!(f64::from(found).to_bits() << 1 >> 1, expected.to_bits() << 1 >> 1, "magnitude of code {code:#04x}");
        assert!(found.is_nan() || found.is_sign_negative() == (code >= 0x80), "sign of code {code:#04x}");
    }
    assert_eq!(e4m3(0x7e), 448.0, "the largest");
    assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan() && e4m3(0x78) == 256.0, "no infinities");
}

/// Opens a folder with one 8-bit matrix and compares it with codes times `scale(row, col)`.
#[track_caller]
fn check_scaled(
    config: serde_json::Value,
    shape: [usize; 2],
    scales: (&str, Tensor),
    scale: impl Fn(usize, usize) -> f32,
) {
    let [rows, cols] = shape;
    let codes: Vec<u8> = (0..rows * cols).map(|i| (i * 31 % 127 + i % 2 * 128) as u8).collect();
    let (name, tensor) = scales;
    let folder = folder(&[
        ("config.json", config.to_string().into_bytes()),
        (
            "model.safetensors",
            file(&[
                ("up.weight", (Dtype::F8_E4M3, shape.to_vec(), codes.clone())),
                (name, tensor),
                ("up.input_scale", (Dtype::F32, vec![], f32s([3.0]))),
                ("up.activation_scale", (Dtype::BF16, vec![], vec![0, 0])),
                ("logit_scale", small(0.0)),
            ]),
        ),
    ]);
    let source = source::open(folder.path()).unwrap();
    let names: Vec<&str> = source.tensors().iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names, ["logit_scale", "up.weight"], "scales are absorbed");
    assert_eq!(source.dropped(), ["up.activation_scale", "up.input_scale"]);
    assert!(source.position(name).is_none());
    let found = read(&*source, "up.weight");
    for row in 0..rows {
        for col in 0..cols {
            let expected = e4m3(codes[row * cols + col]) as f32 * scale(row, col);
            assert_eq!(found[row * cols + col].to_bits(), expected.to_bits(), "[{row}, {col}]");
        }
    }
}

#[test]
fn block_scales_reach_the_edges() {
    let values = noise(12);
    let (m, n) = (3, 4);
    let scales = || (Dtype::F32, vec![m, n], f32s(values.clone()));
    // By default 128 x 128, and the last block of each direction is cut.
    check_scaled(json!({}), [300, 400], ("up.weight_scale_inv", scales()), |r, c| values[r / 128 * n + c / 128]);
    check_scaled(
        json!({"quantization_config": {"weight_block_size": null}}),
        [257, 512],
        ("up.weight_scale", scales()),
        |r, c| values[r / 128 * n + c / 128],
    );
    let config = json!({"quantization_config": {"quant_method": "fp8", "weight_block_size": [3, 5]}});
    check_scaled(config, [7, 16], ("up.weight_scale_inv", scales()), |r, c| values[r / 3 * n + c / 5]);
}

#[test]
fn row_and_tensor_scales_apply() {
    let values = noise(37);
    let halves: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
    let brains: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
    let shape = [37, 19];
    check_scaled(json!({}), shape, ("up.weight_scale", (Dtype::F32, vec![37], f32s(values.clone()))), |r, _| values[r]);
    let bytes = halves.iter().flat_map(|x| x.to_le_bytes()).collect();
    check_scaled(json!({}), shape, ("up.weight_scale", (Dtype::F16, vec![37, 1], bytes)), |r, _| halves[r].to_f32());
    let bytes = brains[5].to_le_bytes().to_vec();
    check_scaled(json!({}), shape, ("up.weight_scale_inv", (Dtype::BF16, vec![], bytes)), |_, _| brains[5].to_f32());
    check_scaled(json!({}), shape, ("up.weight_scale", (Dtype::F32, vec![1], f32s([0.0]))), |_, _| 0.0);
}
