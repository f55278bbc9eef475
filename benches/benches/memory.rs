//! The speed of weights in different kinds of memory: `cargo bench -p benches --bench memory`.
//!
//! Compares one file of weights, larger than any cache, as a map ([`Model::map`]), on the heap, and
//! in huge pages ([`Model::read`]). Reads each, and multiplies it by one row, with one thread and
//! with all; contestants take turns, and the table shows medians.

#![allow(clippy::print_stdout, reason = "prints a table")]

use std::fs::File;
use std::hint::black_box;
use std::time::Duration;

use benches::{COLD_BYTES, ColdMatrices, is_test, numbers, side};
use kernels::{Format, Isa};
use ndarray::{Array2, ArrayView2};
use qruntime::container::{Storage, Writer};
use qruntime::{Bytes, Linear, Model, Pages, SharedWeight, Workspace};
use quantize_cli::measure::{Contestant, read_all, take_turns};
use rayon::ThreadPool;
use rayon::prelude::*;

fn main() {
    let side = side();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pools = [1, threads].map(|n| rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads"));
    println!("GB/s of weights, {side} x {side}\n");
    println!("{:8} {:>7} | {:>22} | {:>22}", "", "", "read", "one row");
    println!("{:8} {:>7} | {:>10} {:>11} | {:>10} {:>11}", "format", "memory", "1 thread", "all", "1 thread", "all");
    for format in [Format::Q8_0, Format::Q4_0] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let mut cold = ColdMatrices::new(format, side);
        let bytes = cold.turn().as_bytes().len();
        let layers = if is_test() { 2 } else { COLD_BYTES.div_ceil(bytes) };
        let tensors = (0..layers).map(|i| (format!("{i}.weight"), Storage::Packed(format), vec![side, side]));
        let file = File::create(&path).expect("a file");
        let mut writer = Writer::new(file, tensors.collect(), serde_json::Value::Null).expect("a header");
        for _ in 0..layers {
            writer.write(cold.turn().as_bytes()).expect("a tensor");
        }
        writer.finish().expect("the whole file");
        drop(cold);

        // SAFETY: the file lies in a temporary folder of this process, which does not change it.
        #[expect(unsafe_code, reason = "measures the map")]
        let mapped = unsafe { Model::map(&path) }.expect("a model");
        let read = Model::read(&path).expect("a model");
        let layers_of = |model: &Model| -> Vec<Linear> {
            (0..layers).map(|i| model.linear(&i.to_string()).expect("a layer").with_isa(Isa::best())).collect()
        };
        let mapped = layers_of(&mapped);
        let copy = |layer: &Linear| {
            // Small pages, as an allocator's.
            let bytes = Bytes::copy(layer.weight().as_bytes(), Pages::Usual).expect("memory");
            let range = 0..bytes.len();
            Linear::new(SharedWeight::packed(bytes, range, format, side, side).expect("a copy"), Isa::best())
        };
        let heap = mapped.iter().map(copy).collect();
        let places = [("map", mapped), ("heap", heap), ("huge", layers_of(&read))];

        let x = numbers(side);
        let x = ArrayView2::from_shape((1, side), &x).expect("one row");
        let mut contestants = vec![];
        for (_, layers) in &places {
            contestants.extend(pools.iter().map(|pool| Contestant::new(move || read_in(pool, layers))));
            contestants.extend(pools.iter().map(|pool| {
                let (mut workspace, mut y) = (Workspace::default(), Array2::zeros((1, side)));
                Contestant::new(move || {
                    pool.install(|| {
                        for layer in layers {
                            layer.forward_into(x, &mut workspace, y.view_mut()).expect("shapes agree");
                        }
                    });
                    black_box(&mut y);
                })
            }));
        }
        let seconds = take_turns(&mut contestants, Duration::from_secs(if is_test() { 0 } else { 8 }));
        for ((place, _), seconds) in places.iter().zip(seconds.chunks(4)) {
            let speed = |i: usize| (layers * bytes) as f64 / seconds[i] / 1e9;
            let [read, reads, row, rows] = [0, 1, 2, 3].map(speed);
            println!("{:8} {place:>7} | {read:10.1} {reads:11.1} | {row:10.1} {rows:11.1}", format.name());
        }
    }
}

/// Reads all matrices, each thread in its own stream.
fn read_in(pool: &ThreadPool, layers: &[Linear]) {
    pool.install(|| {
        if rayon::current_num_threads() == 1 {
            layers.iter().for_each(|layer| read_all(layer.weight().as_bytes()));
        } else {
            layers.par_iter().for_each(|layer| read_all(layer.weight().as_bytes()));
        }
    });
}
