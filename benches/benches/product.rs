//! Products of packed weights that are not in a cache, with one thread, beside products in `f32`
//! and beside a plain read of the same bytes.
//!
//! Ids: `product/{format}/{instruction set}/{side}x{side}x{rows}`. With one row the throughput is
//! bytes of weights, to compare with `read`; with more it is operations (two for a multiply-add),
//! to compare with `f32`.

use std::hint::black_box;

use benches::{COLD_BYTES, ColdMatrices, ROWS, activations, is_test, numbers, side};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kernels::{Format, Isa};
use ndarray::Array2;
use quantize_cli::measure::read_all;

fn products(c: &mut Criterion) {
    let side = side();
    let mut group = c.benchmark_group("product");
    group.sample_size(10);
    for &format in Format::ALL {
        let mut cold = ColdMatrices::new(format, side);
        let bytes = cold.turn().as_bytes().len() as u64;
        group.throughput(Throughput::Bytes(bytes));
        group.bench_function(format!("{format}/read/{side}x{side}x1"), |b| b.iter(|| read_all(cold.turn().as_bytes())));
        for rows in ROWS {
            let x = activations(rows, side);
            let mut y = vec![[0.0; 16]; rows * side.div_ceil(16)];
            // The reference is for comparing bits, not times.
            let isas = Isa::available().filter(|&isa| isa != Isa::SCALAR || rows == 1);
            for isa in isas {
                let operations = 2 * (rows * side * side) as u64;
                let throughput = if rows == 1 { Throughput::Bytes(bytes) } else { Throughput::Elements(operations) };
                group.throughput(throughput);
                group.bench_function(format!("{format}/{isa}/{side}x{side}x{rows}"), |b| {
                    b.iter(|| {
                        kernels::multiply(isa, cold.turn(), x.group(0), &mut y).expect("lengths agree");
                        black_box(&mut y);
                    });
                });
            }
        }
    }
    group.finish();
}

fn single_precision(c: &mut Criterion) {
    let side = side();
    let copies = if is_test() { 1 } else { COLD_BYTES.div_ceil(side * side * size_of::<f32>()) };
    let weights = Array2::from_shape_vec((side, side), numbers(side * side)).expect("a square");
    let copies = vec![weights; copies];
    let mut turn = 0;
    let mut group = c.benchmark_group("product");
    group.sample_size(10);
    for rows in ROWS {
        let x = Array2::from_shape_vec((rows, side), numbers(rows * side)).expect("rows of the side");
        let throughput = match rows {
            1 => Throughput::Bytes((side * side * size_of::<f32>()) as u64),
            _ => Throughput::Elements(2 * (rows * side * side) as u64),
        };
        group.throughput(throughput);
        group.bench_function(format!("f32/ndarray/{side}x{side}x{rows}"), |b| {
            b.iter(|| {
                turn = (turn + 1) % copies.len();
                black_box(x.dot(&copies[turn].t()))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, products, single_precision);
criterion_main!(benches);
