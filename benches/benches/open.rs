//! The time from opening a model file of about 1 GB, which is in the page cache, to the first
//! product.

use std::fs::File;
use std::hint::black_box;

use benches::{ColdMatrices, is_test, numbers, side};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::Format;
use ndarray::ArrayView2;
use qruntime::Model;
use qruntime::container::{Storage, Writer};

fn open(c: &mut Criterion) {
    let (side, format) = (side(), Format::Q4_0);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.safetensors");
    let mut cold = ColdMatrices::new(format, side);
    let layers = if is_test() { 2 } else { (1 << 30) / cold.turn().as_bytes().len() };
    let tensors = (0..layers).map(|i| (format!("layers.{i}.weight"), Storage::Packed(format), vec![side, side]));
    let file = File::create(&path).expect("a file");
    let mut writer = Writer::new(file, tensors.collect(), serde_json::Value::Null).expect("a header");
    for _ in 0..layers {
        writer.write(cold.turn().as_bytes()).expect("a tensor");
    }
    writer.finish().expect("the whole file");

    let x = numbers(side);
    let x = ArrayView2::from_shape((1, side), &x).expect("one row");
    let mut group = c.benchmark_group("open");
    group.sample_size(10);
    group.bench_function(format!("map, one product of {layers}"), |b| {
        b.iter(|| {
            // SAFETY: the file lies in a temporary folder of this process, which does not change
            // it.
            #[expect(unsafe_code, reason = "measures the map")]
            let model = unsafe { Model::map(&path) }.expect("a model");
            let y = model.linear("layers.0").expect("a layer").forward(x).expect("lengths agree");
            black_box(y);
        });
    });
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);
