//! What a program may do with a file that opened: read everything, and multiply by what is not too large.

use ndarray::Array2;
use qruntime::Model;

/// Weights that are multiplied at most: a small file can hold no more than about twice as many as it has bytes.
const MOST_WEIGHTS: usize = 1 << 16;

/// Opens a file and reads all of it. Work is bounded by the size of the file.
pub(crate) fn exercise(file: &[u8]) -> Option<Model> {
    let model = Model::from_bytes(file).ok()?;
    for entry in model.tensors() {
        model.verify(entry.name()).expect("the tensor is there");
        let Ok(tensor) = model.packed(entry.name()) else {
            let numbers = model.plain(entry.name()).expect("packed or plain").to_f32();
            assert!(numbers.map_or(true, |numbers| numbers.len() == entry.elements()));
            continue;
        };
        for i in [0, tensor.matrix_count() - 1] {
            let matrix = tensor.matrix(i);
            let mut row = vec![0.0; matrix.cols()];
            for r in [0, matrix.rows() - 1] {
                matrix.decode_row(r, &mut row).expect("the row is there");
            }
        }
        if let Some(name) = entry.name().strip_suffix(".weight")
            && entry.elements() <= MOST_WEIGHTS
            && let Ok(layer) = model.linear(name)
        {
            let x = Array2::from_shape_fn((1, layer.in_features()), |(_, i)| i as f32 % 5.0 - 2.0);
            for exact in [false, true] {
                let y = layer.clone().with_exact_activations(exact).forward(x.view()).expect("the shapes agree");
                assert_eq!(y.dim(), (1, layer.out_features()));
            }
        }
    }
    Some(model)
}
