//! Conversion of half-precision weights in memory with one thread: widens and encodes them and
//! measures the error. Throughput is bytes of `f16`.

use std::hint::black_box;

use benches::{numbers, side};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use half::slice::HalfFloatSliceExt;
use kernels::panel::PANEL_ROWS;
use kernels::{Encoding, Format, Isa, Rounding};

fn encode(c: &mut Criterion) {
    let cols = side();
    let numbers = numbers(PANEL_ROWS * cols * 16);
    let mut source = vec![f16::ZERO; numbers.len()];
    source.convert_from_f32_slice(&numbers);
    let mut weights = vec![0.0; PANEL_ROWS * cols];
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Bytes(size_of_val(source.as_slice()) as u64));
    group.sample_size(10);
    for &format in Format::ALL {
        let mut panel = vec![0; format.panel_bytes(cols).expect("small")];
        for &rounding in Rounding::ALL {
            for isa in Isa::available().filter(|&isa| isa != Isa::SCALAR) {
                group.bench_function(format!("{format}/{rounding}/{isa}"), |b| {
                    b.iter(|| {
                        for source in source.chunks_exact(PANEL_ROWS * cols) {
                            source.convert_to_f32_slice(&mut weights);
                            let encoding = Encoding { isa, format, rounding, importance: None };
                            let cost = encoding.encode(&weights, cols, &mut panel);
                            black_box(cost.expect("finite numbers"));
                        }
                    });
                });
            }
        }
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);
