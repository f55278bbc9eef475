//! Any shape, format and weights: encoded, written, opened and decoded, they are what encoding
//! alone makes of them, and every instruction set multiplies by them alike.

#![no_main]

use std::io::Cursor;

use kernels::{Format, Isa, Matrix, Rounding};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use ndarray::Array2;
use qruntime::container::{Storage, Writer};
use qruntime::{Dtype, Model};

#[derive(Arbitrary, Debug)]
struct Input {
    matrices: u8,
    rows: u8,
    cols: u8,
    format: u8,
    search: bool,
    /// Repeated until all matrices are full.
    weights: Vec<f32>,
    name: String,
    recipe: String,
    plain: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let (matrices, rows, cols) =
        (1 + input.matrices as usize % 3, 1 + input.rows as usize % 40, 1 + input.cols as usize * 2);
    let format = Format::ALL[input.format as usize % Format::ALL.len()];
    let rounding = if input.search { Rounding::Search } else { Rounding::Nearest };
    let mut weights = input.weights.iter().copied().chain([0.0]).cycle();
    let mut encoded = Vec::new();
    for _ in 0..matrices {
        let weights: Vec<f32> = weights.by_ref().take(rows * cols).collect();
        // Weights that are not finite or too large are refused.
        let Ok(matrix) = Matrix::encode(Isa::best(), format, rounding, &weights, rows, cols) else { return };
        let scalar = Matrix::encode(Isa::SCALAR, format, rounding, &weights, rows, cols).expect("as before");
        assert_eq!(matrix, scalar);
        encoded.push(matrix);
    }

    let tensors = vec![
        ("plain".to_owned(), Storage::Plain(Dtype::U8), vec![input.plain.len()]),
        (input.name.clone(), Storage::Packed(format), vec![matrices, rows, cols]),
    ];
    let recipe = serde_json::Value::from(input.recipe);
    let Ok(mut writer) = Writer::new(Cursor::new(Vec::new()), tensors, recipe.clone()) else {
        assert!(input.name == "plain" || input.name == "__metadata__");
        return;
    };
    for matrix in &encoded {
        writer.write(matrix.view().as_bytes()).expect("packed tensors come first");
    }
    writer.write(&input.plain).expect("plain tensors follow");
    let file = writer.finish().expect("all is written").into_inner();

    let model = Model::from_bytes(&file).expect("what the writer writes opens");
    assert_eq!(model.recipe(), &recipe);
    for name in [&input.name, "plain"] {
        assert_eq!(model.verify(name).expect("it is there"), Some(true));
    }
    assert_eq!(model.plain("plain").expect("it is there").as_bytes(), input.plain);
    let tensor = model.packed(&input.name).expect("it is there");
    for (i, matrix) in encoded.iter().enumerate() {
        let (mut found, mut expected) = (vec![f32::NAN; cols], vec![0.0; cols]);
        for row in 0..rows {
            tensor.matrix(i).decode_row(row, &mut found).expect("the row is there");
            matrix.view().decode_row(row, &mut expected).expect("the row is there");
            assert_eq!(found, expected);
        }
    }

    // The experts' rows are the weights themselves, whatever these are: 0, 5, 1 of them.
    let counts = [0, 5, 1];
    let numbers = weights.take(6 * cols).collect();
    let x = Array2::from_shape_vec((6, cols), numbers).expect("as many as rows and columns");
    let experts = model.experts(&input.name).expect("packed");
    let rows_of_x: usize = counts[..matrices].iter().sum();
    for exact in [false, true] {
        let experts = experts.clone().with_exact_activations(exact);
        let multiply = |isa: Isa| {
            let experts = experts.clone().with_isa(isa);
            experts.forward(x.slice(ndarray::s![..rows_of_x, ..]), &counts[..matrices]).expect("the shapes agree")
        };
        let expected = multiply(Isa::SCALAR);
        for isa in Isa::available() {
            let found = multiply(isa);
            let alike = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(found.iter().zip(&expected).all(alike), "{format} {isa} {exact}");
        }
    }
});
