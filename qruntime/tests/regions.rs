//! Several products at once give the bits of each alone, with any number of threads.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use kernels::{Format, Isa, Matrix, Rounding};
use ndarray::{Array2, ArrayView2, s};
use qruntime::container::Storage;
use qruntime::{Bytes, CausalLm, Dtype, Error, Experts, Linear, Model, Pages, SharedWeight, Workspace};
use rayon::{ThreadPool, ThreadPoolBuilder};
use serde_json::Value;
use support::{Random, packed, written};

fn pools() -> [ThreadPool; 4] {
    [1, 2, 3, 7].map(|threads| ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
}

fn random(seed: u64, rows: usize, cols: usize) -> Array2<f32> {
    let mut random = Random(seed);
    Array2::from_shape_simple_fn((rows, cols), || random.unit() * 3.0)
}

fn encode(seed: u64, format: Format, rows: usize, cols: usize) -> Matrix {
    let weights = random(seed, rows, cols);
    Matrix::encode(Isa::best(), format, Rounding::Nearest, weights.as_slice().unwrap(), rows, cols).unwrap()
}

fn layer_of(format: Format, rows: usize, cols: usize, bytes: &[u8]) -> Linear {
    let memory = Bytes::copy(bytes, Pages::Usual).unwrap();
    Linear::new(SharedWeight::packed(memory, 0..bytes.len(), format, rows, cols).unwrap(), Isa::best())
}

fn same_bits(a: ArrayView2<'_, f32>, b: ArrayView2<'_, f32>) -> bool {
    a.dim() == b.dim() && a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Multiplies each expert's rows by its layer alone, on this thread.
fn one_by_one(experts: &Experts, x: ArrayView2<'_, f32>, counts: &[usize]) -> Array2<f32> {
    let one = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    let mut y = Array2::from_elem((x.nrows(), experts.out_features()), f32::NAN);
    let mut first = 0;
    for (layer, &count) in experts.layers().iter().zip(counts) {
        let rows = s![first..first + count, ..];
        y.slice_mut(rows).assign(&one.install(|| layer.forward(x.slice(rows))).unwrap());
        first += count;
    }
    y
}

#[test]
fn experts_have_the_bits_of_their_layers_alone() {
    let pools = pools();
    // The first is large enough to be split for a single row, the second has a last panel with
    // padding, and padding in its blocks.
    for (outputs, inputs) in [(930, 1024), (172, 172)] {
        for &format in Format::ALL {
            let matrices: Vec<Matrix> = (0..8).map(|seed| encode(seed, format, outputs, inputs)).collect();
            let mut layers: Vec<_> = matrices.iter().map(|matrix| Linear::new(matrix.clone(), Isa::best())).collect();
            layers[3] = layers[3].clone().with_bias(vec![0.5; outputs]).unwrap();
            let experts = Experts::new(layers).unwrap();
            for exact in [false, true] {
                let experts = experts.clone().with_exact_activations(exact);
                let mut workspace = Workspace::default();
                for counts in [
                    [1, 2, 3, 70, 0, 16, 33, 5],
                    [0, 0, 0, 1, 0, 0, 0, 0],
                    [0, 0, 0, 0, 0, 0, 0, 65],
                    [1; 8],
                    [70, 0, 0, 0, 0, 0, 0, 1],
                    [0; 8],
                ] {
                    let x = random(99, counts.iter().sum(), inputs);
                    let expected = one_by_one(&experts, x.view(), &counts);
                    for pool in &pools {
                        let mut y = Array2::from_elem(expected.dim(), f32::NAN);
                        let result =
                            pool.install(|| experts.forward_into(x.view(), &counts, &mut workspace, y.view_mut()));
                        result.unwrap();
                        let threads = pool.current_num_threads();
                        assert!(
                            same_bits(y.view(), expected.view()),
                            "{format} {outputs} x {inputs}, {counts:?}, {threads} threads, exact: {exact}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn rows_of_experts_come_and_go_in_views_of_any_strides() {
    let matrices = [1, 2, 3].map(|seed| encode(seed, Format::Q4_0, 50, 40));
    let experts = Experts::new(matrices.iter().map(|m| Linear::new(m.clone(), Isa::best())).collect()).unwrap();
    let (x, counts) = (random(4, 9, 40), [4, 0, 5]);
    let expected = one_by_one(&experts, x.view(), &counts);
    let transposed = x.t().as_standard_layout().into_owned();
    let mut buffer = Array2::from_elem((101, 19), 7.0);
    let mut y = buffer.slice_mut(s![1..;2, 1..;2]).reversed_axes();
    experts.forward_into(transposed.t(), &counts, &mut Workspace::default(), y.view_mut()).unwrap();
    assert!(same_bits(y.view(), expected.view()));
    y.fill(7.0);
    assert!(buffer.iter().all(|&y| y == 7.0));
}

#[test]
fn experts_that_do_not_fit_together_are_refused() {
    let layer = |format, rows, cols| Linear::new(encode(1, format, rows, cols), Isa::best());
    let first = layer(Format::Q8_0, 20, 64);
    let refused = |other: Linear| Experts::new(vec![first.clone(), other]).unwrap_err().to_string();
    assert_eq!(Experts::new(vec![]).unwrap_err().to_string(), "experts: found 0, expected 1");
    assert_eq!(refused(layer(Format::Q8_0, 20, 63)), "columns of an expert: found 63, expected 64");
    assert_eq!(refused(layer(Format::Q8_0, 19, 64)), "rows of an expert: found 19, expected 20");
    assert_eq!(
        refused(first.clone().with_exact_activations(true)),
        "exact activations of an expert (0 or 1): found 1, expected 0"
    );
    // Formats may differ.
    Experts::new(vec![first, layer(Format::Q4_0, 20, 64)]).unwrap();
}

#[test]
fn counts_that_do_not_agree_are_refused_and_nothing_is_written() {
    let matrix = encode(1, Format::Q4_0, 20, 64);
    let experts = Experts::new(vec![Linear::new(matrix.clone(), Isa::best()); 3]).unwrap();
    for (x, counts, y, what) in [
        ((3, 64), &[1, 2][..], (3, 20), "counts of rows, one for each expert: found 2, expected 3"),
        ((3, 64), &[1, 2, 0, 0], (3, 20), "counts of rows, one for each expert: found 4, expected 3"),
        ((3, 64), &[1, 1, 0], (3, 20), "rows of all experts: found 2, expected 3"),
        ((3, 64), &[1, 1, 2], (3, 20), "rows of all experts: found 4, expected 3"),
        ((3, 63), &[1, 1, 1], (3, 20), "columns of the activations: found 63, expected 64"),
        ((3, 64), &[1, 1, 1], (2, 20), "rows of the output: found 2, expected 3"),
        ((3, 64), &[1, 1, 1], (3, 21), "columns of the output: found 21, expected 20"),
    ] {
        let mut y = Array2::from_elem(y, 7.0);
        let x = Array2::zeros(x);
        let error = experts.forward_into(x.view(), counts, &mut Workspace::default(), y.view_mut()).unwrap_err();
        assert!(matches!(error, Error::Shape(_)));
        assert_eq!(error.to_string(), what);
        assert!(y.iter().all(|&y| y == 7.0));
    }
    let huge = experts.forward(Array2::zeros((1, 64)).view(), &[usize::MAX, 2, 0]).unwrap_err();
    assert_eq!(huge.to_string(), format!("rows of all experts: found {}, expected 1", usize::MAX));
}

#[test]
fn a_model_hands_out_the_matrices_of_a_tensor_as_experts() {
    let plain = || Storage::Plain(Dtype::F32);
    for &format in Format::ALL {
        let bytes = packed(&mut Random(1), format, &[3, 20, 40]);
        let tensors = [
            ("experts.up".to_owned(), Storage::Packed(format), vec![3, 20, 40], bytes.clone()),
            ("experts.down.weight".to_owned(), Storage::Packed(format), vec![3, 20, 40], bytes.clone()),
            ("single.weight".to_owned(), Storage::Packed(format), vec![20, 40], bytes[..bytes.len() / 3].to_vec()),
            ("plain".to_owned(), plain(), vec![1], vec![0; 4]),
        ];
        let model = Model::from_bytes(&written(&tensors, Value::Null)).unwrap();
        let (x, counts) = (random(2, 6, 40), [1, 3, 2]);
        let layers = bytes.chunks_exact(bytes.len() / 3);
        let layers = layers.map(|b| layer_of(format, 20, 40, b)).collect();
        let expected = one_by_one(&Experts::new(layers).unwrap(), x.view(), &counts);
        for name in ["experts.up", "experts.down", "experts.down.weight"] {
            let experts = model.experts(name).unwrap();
            assert_eq!((experts.in_features(), experts.out_features(), experts.layers().len()), (40, 20, 3));
            assert!(same_bits(experts.forward(x.view(), &counts).unwrap().view(), expected.view()), "{name}");
        }
        assert_eq!(model.experts("single").unwrap().layers().len(), 1);
        assert!(matches!(model.experts("plain"), Err(Error::WrongKind { .. })));
        assert!(matches!(model.experts("none"), Err(Error::NoSuchTensor { name }) if name == "none.weight"));
    }
}

#[test]
fn layers_on_the_same_rows_have_the_bits_of_each_alone() {
    let query = encode(1, Format::Q4_0, 930, 1024);
    let key = encode(2, Format::Q8_0, 33, 1024);
    let value = encode(3, Format::Q4_0, 1, 1024);
    let query = Linear::new(query.clone(), Isa::best());
    let key = Linear::new(key.clone(), Isa::best()).with_bias(vec![-1.0; 33]).unwrap();
    let value = Linear::new(value.clone(), Isa::best());
    let exact = query.clone().with_exact_activations(true);
    let groups: [&[&Linear]; 4] =
        [&[], &[&key], &[&query, &key, &value], &[&value, &exact, &exact, &query, &exact, &key]];
    let mut workspace = Workspace::default();
    for pool in pools() {
        for rows in [0, 1, 2, 65] {
            let x = random(5, rows, 1024);
            for layers in groups {
                let mut ys: Vec<Array2<f32>> =
                    layers.iter().map(|layer| Array2::from_elem((rows, layer.out_features()), f32::NAN)).collect();
                let mut outputs: Vec<_> = ys.iter_mut().map(|y| y.view_mut()).collect();
                pool.install(|| Linear::forward_each(layers, x.view(), &mut workspace, &mut outputs)).unwrap();
                for (i, (layer, y)) in layers.iter().zip(&ys).enumerate() {
                    let same = same_bits(y.view(), layer.forward(x.view()).unwrap().view());
                    assert!(same, "{layers:?}, layer {i}, {rows} rows, {} threads", pool.current_num_threads());
                }
            }
        }
    }
}

#[test]
fn layers_whose_outputs_do_not_fit_are_refused_and_nothing_is_written() {
    let matrix = encode(1, Format::Q4_0, 20, 64);
    let layer = Linear::new(matrix.clone(), Isa::best());
    let x = Array2::zeros((3, 64));
    for (cols, what) in [
        (&[20][..], "outputs of layers: found 1, expected 2"),
        (&[20, 19], "columns of the output: found 19, expected 20"),
    ] {
        let mut ys: Vec<Array2<f32>> = cols.iter().map(|&cols| Array2::from_elem((3, cols), 7.0)).collect();
        let mut outputs: Vec<_> = ys.iter_mut().map(|y| y.view_mut()).collect();
        let layers = [&layer, &layer];
        let error = Linear::forward_each(&layers, x.view(), &mut Workspace::default(), &mut outputs).unwrap_err();
        assert_eq!(error.to_string(), what);
        assert!(ys.iter().flatten().all(|&y| y == 7.0));
    }
}

#[test]
fn products_run_inside_other_parallel_work() {
    let matrix = encode(1, Format::Q8_0, 930, 1024);
    let layer = Linear::new(matrix.clone(), Isa::best());
    let x = random(2, 2, 1024);
    let expected = layer.forward(x.view()).unwrap();
    for pool in pools() {
        let product = |_| layer.forward(x.view()).unwrap();
        let ys: Vec<Array2<f32>> = pool.install(|| {
            use rayon::prelude::*;
            (0..20).into_par_iter().map(product).collect()
        });
        assert!(ys.iter().all(|y| same_bits(y.view(), expected.view())));
    }
    // Outside any pool, several callers at once.
    std::thread::scope(|scope| {
        let callers = [(); 3].map(|()| scope.spawn(|| layer.forward(x.view()).unwrap()));
        for caller in callers {
            assert!(same_bits(caller.join().unwrap().view(), expected.view()));
        }
    });
}

#[test]
fn keeping_threads_awake_changes_nothing_but_time() {
    let matrix = encode(1, Format::Q8_0, 930, 1024);
    let layer = Linear::new(matrix.clone(), Isa::best());
    let x = random(2, 2, 1024);
    let expected = layer.forward(x.view()).unwrap();
    let forward = || qruntime::keep_awake(|| layer.forward(x.view()).unwrap());
    for pool in pools() {
        for _ in 0..50 {
            assert!(same_bits(pool.install(forward).view(), expected.view()));
        }
        let nested = pool.install(|| qruntime::keep_awake(forward));
        assert!(same_bits(nested.view(), expected.view()));
        let panicked = pool.install(|| {
            let nothing = std::panic::catch_unwind(|| qruntime::keep_awake(|| std::panic::resume_unwind(Box::new(7))));
            nothing.unwrap_err().downcast_ref::<i32>().copied()
        });
        assert_eq!(panicked, Some(7));
        // Threads that are kept awake also do other work.
        assert_eq!(pool.install(|| qruntime::keep_awake(|| rayon::join(|| 1, || 2))), (1, 2));
    }
    assert!(same_bits(forward().view(), expected.view()));
}

/// Runs `work` on a separate thread, which must end.
fn ends(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    // Far longer than it takes, on any machine: a failure is a deadlock or a panic.
    wait.recv_timeout(Duration::from_secs(120)).expect("comes to an end");
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
}

/// A caller that holds a lock must not run another job of the pool while it waits: that job may
/// want the lock.
#[test]
fn jobs_of_a_pool_may_hold_a_lock_while_they_multiply() {
    ends(|| {
        let matrix = encode(1, Format::Q8_0, 2048, 1024);
        let x = random(2, 2, 1024);
        let lock = Mutex::new(Linear::new(matrix.clone(), Isa::best()));
        pool(3).scope(|scope| {
            for _ in 0..200 {
                scope.spawn(|_| {
                    let layer = lock.lock().unwrap();
                    layer.forward(x.view()).unwrap();
                    qruntime::keep_awake(|| layer.forward(x.view()).unwrap());
                });
            }
        });
    });
}

/// The same holds for a whole network; the batch has a prompt to quantize and attention to split.
#[test]
fn jobs_of_a_pool_may_hold_a_lock_while_they_feed() {
    let lm = CausalLm::open(concat!(env!("CARGO_MANIFEST_DIR"), "/../models/storyteller-6m")).unwrap();
    ends(move || {
        let session = Mutex::new(lm.session());
        let tokens: Vec<u32> = (0..200).map(|token| token % 4096).collect();
        pool(3).scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|_| {
                    let mut session = session.lock().unwrap();
                    session.rewind(0);
                    session.feed(&tokens).unwrap();
                });
            }
        });
    });
}

/// A caller needs no thread of the pool: all of them may wait for a lock that it holds, wherever it
/// is called from.
#[test]
fn a_product_needs_no_thread_of_the_pool() {
    ends(|| {
        let matrix = encode(1, Format::Q8_0, 2048, 1024);
        let layer = Linear::new(matrix.clone(), Isa::best());
        let x = random(2, 2, 1024);
        let expected = layer.forward(x.view()).unwrap();
        let threads = 3;
        ThreadPoolBuilder::new().num_threads(threads).build_global().ok();
        let (blocked, unblock) = (Arc::new(Barrier::new(rayon::current_num_threads() + 1)), Arc::new(Mutex::new(())));
        let held = unblock.lock().unwrap();
        for _ in 0..rayon::current_num_threads() {
            let (blocked, unblock) = (Arc::clone(&blocked), Arc::clone(&unblock));
            rayon::spawn(move || {
                blocked.wait();
                drop(unblock.lock());
            });
        }
        blocked.wait();
        for _ in 0..10 {
            assert!(same_bits(layer.forward(x.view()).unwrap().view(), expected.view()));
            let awake = qruntime::keep_awake(|| layer.forward(x.view()).unwrap());
            assert!(same_bits(awake.view(), expected.view()));
        }
        drop(held);
    });
}
