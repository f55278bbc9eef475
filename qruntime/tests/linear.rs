//! Layers give the bits of the scalar reference, one row at a time, however the work is laid out
//! and split.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use kernels::{Activations, Format, Isa, Matrix, MatrixRef, Rounding, multiply, multiply_exact, panel};
use ndarray::{Array2, ArrayView2, s};
use qruntime::container::Storage;
use qruntime::{Bytes, Dtype, Error, Linear, Model, Pages, PlainType, SharedWeight, Weight};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::Value;
use support::{Random, Tensor, allocations, packed, written};

/// More than the 64 rows that are computed at a time.
const MANY: usize = 200;

/// Awkward shapes, and one that is large enough to be split for a single row of activations:
/// (outputs, inputs).
const SHAPES: [(usize, usize); 5] = [(1, 1), (15, 31), (16, 64), (172, 172), (930, 1024)];

fn batches() -> impl Iterator<Item = usize> {
    (1..=33).chain([63, 64, 65, MANY])
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

fn random(random: &mut Random, rows: usize, cols: usize) -> Array2<f32> {
    Array2::from_shape_simple_fn((rows, cols), || random.unit() * 3.0)
}

fn encode(seed: u64, format: Format, (rows, cols): (usize, usize)) -> Matrix {
    let weights = random(&mut Random(seed), rows, cols);
    Matrix::encode(Isa::SCALAR, format, Rounding::Nearest, weights.as_slice().unwrap(), rows, cols).unwrap()
}

/// Computes the expected result: each row alone, on the scalar path, on this thread.
fn reference(weight: MatrixRef<'_>, x: &Array2<f32>, bias: Option<&[f32]>, exact: bool) -> Array2<f32> {
    let mut y = Array2::from_elem((x.nrows(), weight.rows()), f32::NAN);
    let mut activations = Activations::default();
    let mut panels = vec![[f32::NAN; panel::PANEL_ROWS]; weight.panel_count()];
    for (x, mut y) in x.outer_iter().zip(y.outer_iter_mut()) {
        let x = x.to_slice().unwrap();
        if exact {
            multiply_exact(Isa::SCALAR, weight, x, 1, &mut panels).unwrap();
        } else {
            activations.quantize(Isa::SCALAR, x, x.len(), &[1]).unwrap();
            multiply(Isa::SCALAR, weight, activations.group(0), &mut panels).unwrap();
        }
        for (i, y) in y.iter_mut().enumerate() {
            let product = panels[i / panel::PANEL_ROWS][i % panel::PANEL_ROWS];
            *y = bias.map_or(product, |bias| product + bias[i]);
        }
    }
    y
}

fn same_bits(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> bool {
    a.dim() == b.dim() && a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn every_shape_and_batch_has_the_bits_of_single_rows_on_the_scalar_path() {
    let isas: Vec<Isa> = Isa::available().collect();
    println!("run: {isas:?}");
    for (seed, (shape, &format)) in
        SHAPES.iter().flat_map(|shape| Format::ALL.iter().map(move |f| (*shape, f))).enumerate()
    {
        let matrix = encode(seed as u64, format, shape);
        // The large shape is slow on the scalar path.
        let large = shape.0 > 500;
        let x = random(&mut Random(99), if large { 65 } else { MANY }, shape.1);
        let bias: Vec<f32> = random(&mut Random(98), 1, shape.0).into_iter().collect();
        for exact in [false, true] {
            let plain = Linear::new(matrix.clone(), Isa::best()).with_exact_activations(exact);
            let biased = plain.clone().with_bias(bias.clone()).unwrap();
            for layer in [plain, biased] {
                let expected = reference(matrix.view(), &x, layer.bias(), exact);
                for &isa in &isas {
                    let layer = layer.clone().with_isa(isa);
                    for rows in batches().filter(|rows| !large || [1, 2, 33, 65].contains(rows)) {
                        let y = layer.forward(x.slice(s![..rows, ..])).unwrap();
                        let same = same_bits(y.view(), expected.slice(s![..rows, ..]));
                        assert!(
                            same,
                            "{format} {shape:?} {isa}, {rows} rows, exact: {exact}, bias: {:?}",
                            layer.bias().is_some()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let pools = [1, 2, 3, 7].map(pool);
    for shape in [(172, 172), (930, 1024)] {
        for &format in Format::ALL {
            let matrix = encode(1, format, shape);
            let x = random(&mut Random(2), MANY, shape.1);
            let bias: Vec<f32> = random(&mut Random(3), 1, shape.0).into_iter().collect();
            for exact in [false, true] {
                let layer = Linear::new(matrix.clone(), Isa::best()).with_exact_activations(exact);
                let layer = layer.with_bias(bias.clone()).unwrap();
                let expected = reference(matrix.view(), &x, Some(&bias), exact);
                for pool in &pools {
                    for rows in [1, 2, 5, 64, MANY] {
                        let y = pool.install(|| layer.forward(x.slice(s![..rows, ..]))).unwrap();
                        let same = same_bits(y.view(), expected.slice(s![..rows, ..]));
                        let threads = pool.current_num_threads();
                        assert!(same, "{format} {shape:?}, {rows} rows, {threads} threads, exact: {exact}");
                    }
                }
            }
        }
    }
}

#[test]
fn views_of_any_strides_go_in_and_out_and_nothing_beside_them_is_written() {
    let (rows, outputs, inputs) = (70, 50, 40);
    let matrix = encode(1, Format::Q8_0, (outputs, inputs));
    let x = random(&mut Random(2), rows, inputs);
    let transposed_x = x.t().as_standard_layout().into_owned();
    let mut strided_x = Array2::from_elem((2 * rows, 3 * inputs), f32::NAN);
    strided_x.slice_mut(s![..;2, ..;3]).assign(&x);
    let mut reversed_x = x.slice(s![..;-1, ..;-1]).as_standard_layout().into_owned();
    reversed_x.invert_axis(ndarray::Axis(0));
    reversed_x.invert_axis(ndarray::Axis(1));
    let inputs = [x.view(), transposed_x.t(), strided_x.slice(s![..;2, ..;3]), reversed_x.view()];
    for exact in [false, true] {
        let layer = Linear::new(matrix.clone(), Isa::best()).with_exact_activations(exact);
        let expected = reference(matrix.view(), &x, None, exact);
        let mut workspace = qruntime::Workspace::default();
        for (i, input) in inputs.iter().enumerate() {
            assert_eq!(input, &x);
            // A sentinel that is not NaN: the outputs are NaN, and the elements between them are
            // not.
            let mut buffer = Array2::from_elem((2 * outputs + 1, 3 * rows + 1), 7.0);
            let mut y = buffer.slice_mut(s![1..;2, 1..;3]).reversed_axes();
            y.fill(f32::NAN);
            layer.forward_into(*input, &mut workspace, y.view_mut()).unwrap();
            assert!(same_bits(y.view(), expected.view()), "input {i}, exact: {exact}");
            y.fill(7.0);
            assert!(buffer.iter().all(|&y| y == 7.0), "input {i}, exact: {exact}");
        }
    }
}

#[test]
fn a_row_that_is_not_finite_spoils_no_other() {
    let matrix = encode(1, Format::Q4_0, (20, 64));
    let mut x = random(&mut Random(2), 3, 64);
    let layer = Linear::new(matrix.clone(), Isa::best());
    let good = layer.forward(x.view()).unwrap();
    for bad in [f32::NAN, f32::INFINITY] {
        x[[1, 5]] = bad;
        let y = layer.forward(x.view()).unwrap();
        assert!(y.row(1).iter().all(|y| y.is_nan()));
        assert!(same_bits(y.slice(s![..;2, ..]), good.slice(s![..;2, ..])));
    }
}

#[test]
fn no_rows_give_no_outputs() {
    let matrix = encode(1, Format::Q4_0, (20, 64));
    for exact in [false, true] {
        let layer = Linear::new(matrix.clone(), Isa::best()).with_exact_activations(exact);
        assert_eq!(layer.forward(Array2::zeros((0, 64)).view()).unwrap().dim(), (0, 20));
    }
}

#[test]
fn a_matrix_without_columns_gives_the_bias() {
    let bytes = Bytes::copy(&[], Pages::Usual).unwrap();
    let weight = SharedWeight::packed(bytes, 0..0, Format::Q8_0, 20, 0).unwrap();
    for exact in [false, true] {
        let layer =
            Linear::new(weight.clone(), Isa::best()).with_exact_activations(exact).with_bias(vec![1.5; 20]).unwrap();
        assert_eq!(layer.forward(Array2::zeros((3, 0)).view()).unwrap(), Array2::from_elem((3, 20), 1.5));
    }
}

#[test]
fn shapes_that_do_not_agree_are_refused_and_nothing_is_written() {
    let matrix = encode(1, Format::Q4_0, (20, 64));
    let layer = Linear::new(matrix.clone(), Isa::best());
    for ((x_rows, x_cols), (y_rows, y_cols), what) in [
        ((3, 63), (3, 20), "columns of the activations: found 63, expected 64"),
        ((3, 65), (3, 20), "columns of the activations: found 65, expected 64"),
        ((3, 64), (2, 20), "rows of the output: found 2, expected 3"),
        ((3, 64), (3, 19), "columns of the output: found 19, expected 20"),
        ((3, 64), (20, 3), "rows of the output: found 20, expected 3"),
    ] {
        let x = Array2::zeros((x_rows, x_cols));
        let mut y = Array2::from_elem((y_rows, y_cols), 7.0);
        let error = layer.forward_into(x.view(), &mut qruntime::Workspace::default(), y.view_mut()).unwrap_err();
        assert!(matches!(error, Error::Shape(_)));
        assert_eq!(error.to_string(), what);
        assert!(y.iter().all(|&y| y == 7.0));
    }
    assert!(matches!(layer.with_bias(vec![0.0; 19]), Err(Error::Shape(_))));
}

#[test]
fn the_second_call_does_not_allocate() {
    let matrix = encode(1, Format::Q4_0, (172, 172));
    let x = random(&mut Random(2), MANY, 172);
    pool(1).install(|| {
        for exact in [false, true] {
            let layer = Linear::new(matrix.clone(), Isa::best()).with_exact_activations(exact);
            let layer = layer.with_bias(vec![1.0; 172]).unwrap();
            let mut workspace = qruntime::Workspace::default();
            let mut y = Array2::zeros((172, MANY)).reversed_axes();
            let strided = x.slice(s![.., ..;-1]);
            layer.forward_into(strided, &mut workspace, y.view_mut()).unwrap();
            for x in [strided, x.view(), x.slice(s![..7, ..])] {
                let y = y.slice_mut(s![..x.nrows(), ..]);
                let (result, asked) = allocations::measure(|| layer.forward_into(x, &mut workspace, y));
                result.unwrap();
                assert_eq!(asked.allocations, 0, "exact: {exact}, {} rows", x.nrows());
            }
        }
    });
}

#[test]
fn a_row_of_a_packed_tensor_is_decoded_as_it_was_encoded() {
    let shape = [3, 20, 40];
    for &format in Format::ALL {
        let bytes = packed(&mut Random(1), format, &shape);
        let tensors = [("experts".to_owned(), Storage::Packed(format), shape.to_vec(), bytes.clone())];
        let model = Model::from_bytes(&written(&tensors, Value::Null)).unwrap();
        let tensor = model.packed("experts").unwrap();
        for (i, bytes) in bytes.chunks_exact(bytes.len() / 3).enumerate() {
            let encoded = MatrixRef::new(format, 20, 40, bytes).unwrap();
            for row in 0..20 {
                let (mut found, mut expected) = ([f32::NAN; 40], [0.0; 40]);
                tensor.matrix(i).decode_row(row, &mut found).unwrap();
                encoded.decode_row(row, &mut expected).unwrap();
                assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{format}, matrix {i}, row {row}");
            }
            assert!(tensor.matrix(i).decode_row(20, &mut [0.0; 40]).is_err());
        }
        assert!(matches!(model.linear("experts"), Err(Error::NoSuchTensor { name }) if name == "experts.weight"));
    }
}

#[test]
fn a_model_hands_out_its_layers_with_their_biases() {
    let mut random = Random(1);
    let floats = |x: &[f32]| x.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
    let weight = packed(&mut random, Format::Q4_0, &[2, 32]);
    let layer = |name: &str, shape: &[usize], bytes: &[u8]| -> Tensor {
        (format!("{name}.weight"), Storage::Packed(Format::Q4_0), shape.into(), bytes.into())
    };
    let bias = |name: &str, dtype: Dtype, bytes: &[u8]| -> Tensor {
        let shape = vec![bytes.len() * 8 / dtype.bitsize()];
        (format!("{name}.bias"), Storage::Plain(dtype), shape, bytes.into())
    };
    let tensors = [
        layer("bare", &[2, 32], &weight),
        layer("biased", &[2, 32], &weight),
        bias("biased", Dtype::F32, &floats(&[1.0, -2.0])),
        layer("half", &[2, 32], &weight),
        bias("half", Dtype::BF16, &[0x80, 0x3f, 0x00, 0xc0]),
        layer("long", &[2, 32], &weight),
        bias("long", Dtype::F32, &floats(&[0.0; 3])),
        layer("whole", &[2, 32], &weight),
        bias("whole", Dtype::I32, &[0; 8]),
        layer("experts", &[2, 2, 32], &weight.repeat(2)),
    ];
    let model = Model::from_bytes(&written(&tensors, Value::Null)).unwrap();
    let x = self::random(&mut random, 1, 32);
    let bare = model.linear("bare").unwrap();
    assert_eq!((bare.in_features(), bare.out_features(), bare.bias()), (32, 2, None));
    let y = bare.forward(x.view()).unwrap();
    for name in ["biased", "half"] {
        let layer = model.linear(name).unwrap();
        assert_eq!(layer.bias(), Some(&[1.0, -2.0][..]), "{name}");
        assert_eq!(layer.forward(x.view()).unwrap(), &y + &ndarray::arr2(&[[1.0, -2.0]]), "{name}");
    }
    assert!(matches!(model.linear("long"), Err(Error::Shape(_))));
    for name in ["whole", "experts"] {
        assert!(matches!(model.linear(name), Err(Error::WrongKind { .. })), "{name}");
    }
}

/// An application's struct: a model and some of its layers.
struct Owner {
    layers: Vec<Linear>,
    model: Model,
}

#[test]
fn a_model_and_its_layers_are_fields_of_one_struct_and_layers_outlive_the_model() {
    let owner = || {
        let weight = packed(&mut Random(1), Format::Q4_0, &[20, 64]);
        let tensors = [("a.weight".to_owned(), Storage::Packed(Format::Q4_0), vec![20, 64], weight)];
        let model = Model::from_bytes(&written(&tensors, Value::Null)).unwrap();
        Owner { layers: vec![model.linear("a").unwrap()], model }
    };
    let Owner { layers, model } = owner();
    let x = random(&mut Random(2), 3, 64);
    let before = layers[0].forward(x.view()).unwrap();
    let clone = model.clone();
    assert_eq!(layers[0].weight().as_bytes().as_ptr(), clone.packed("a.weight").unwrap().matrix(0).as_bytes().as_ptr());
    drop((model, clone));
    let after = std::thread::spawn(move || layers[0].forward(x.view()).unwrap()).join().unwrap();
    assert!(same_bits(before.view(), after.view()));
}

#[test]
fn a_weight_is_a_range_of_memory_that_is_checked_once() {
    let matrix = encode(1, Format::Q4_0, (20, 64));
    let bytes = matrix.view().as_bytes();
    let memory = std::sync::Arc::new(Bytes::copy(&[&[7; 64], bytes, &[7; 3]].concat(), Pages::Usual).unwrap());
    let range = 64..64 + bytes.len();
    let new = |range, cols| SharedWeight::packed(std::sync::Arc::clone(&memory), range, Format::Q4_0, 20, cols);
    assert_eq!(new(range.clone(), 64).unwrap().view(), Weight::Packed(matrix.view()));
    assert_eq!(SharedWeight::from(matrix.clone()).view(), Weight::Packed(matrix.view()));
    let len = memory.len();
    for (range, cols, what) in [
        (
            range.clone(),
            65,
            format!("bytes of a packed matrix: found {}, expected {}", range.len(), range.len() / 2 * 3),
        ),
        (64..len + 1, 64, format!("bytes up to the end of a matrix: found {len}, expected {}", len + 1)),
        (range.end..64, 64, format!("bytes before a matrix: found 64, expected {}", range.end)),
    ] {
        assert_eq!(new(range, cols).unwrap_err().to_string(), what);
    }
    let plain = |range| SharedWeight::plain(std::sync::Arc::clone(&memory), range, PlainType::F32, 2, 8);
    assert_eq!(plain(64..128).unwrap().view().as_bytes(), &bytes[..64]);
    assert!(plain(64..127).is_err());
}
