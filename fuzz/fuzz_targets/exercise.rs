//! What a program may do with a file that opened: read everything, and multiply by what is not too
//! large.

use ndarray::Array2;
use qruntime::{Experts, Linear, Model, Workspace};

/// Weights that are multiplied at most: a small file can hold no more than about twice as many as
/// it has bytes.
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
        if entry.elements() <= MOST_WEIGHTS {
            if let Some(name) = entry.name().strip_suffix(".weight")
                && let Ok(layer) = model.linear(name)
            {
                multiply(&layer);
            }
            mix(&model.experts(entry.name()).expect("packed"));
        }
    }
    Some(model)
}

/// Rows of activations: small whole numbers.
fn activations(rows: usize, cols: usize) -> Array2<f32> {
    Array2::from_shape_fn((rows, cols), |(r, i)| (r + i) as f32 % 5.0 - 2.0)
}

/// A layer alone, and twice on the same rows, with activations in 8 bits and exact.
fn multiply(layer: &Linear) {
    let exact = layer.clone().with_exact_activations(true);
    let x = activations(1, layer.in_features());
    let alone = [layer, &exact].map(|layer| layer.forward(x.view()).expect("the shapes agree"));
    let [mut y, mut z] = [(); 2].map(|()| Array2::zeros((1, layer.out_features())));
    let outputs = &mut [y.view_mut(), z.view_mut()];
    Linear::forward_each(&[layer, &exact], x.view(), &mut Workspace::default(), outputs).expect("the shapes agree");
    assert!(same(&y, &alone[0]) && same(&z, &alone[1]));
}

/// Rows for the first and the last expert: a group for each, which are as the layer alone gives
/// them.
fn mix(experts: &Experts) {
    let layers = experts.layers();
    let mut counts = vec![0; layers.len()];
    counts[0] += 1;
    counts[layers.len() - 1] += 5;
    let x = activations(6, experts.in_features());
    let y = experts.forward(x.view(), &counts).expect("the shapes agree");
    let first = layers[0].forward(x.slice(ndarray::s![..1, ..])).expect("the shapes agree");
    assert!(same(&y.slice(ndarray::s![..1, ..]).to_owned(), &first));
    let last = layers[layers.len() - 1].forward(x.slice(ndarray::s![1.., ..])).expect("the shapes agree");
    assert!(same(&y.slice(ndarray::s![1.., ..]).to_owned(), &last));
}

/// Equal to the bit; one NaN is as good as another.
fn same(a: &Array2<f32>, b: &Array2<f32>) -> bool {
    a.dim() == b.dim() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan()))
}
