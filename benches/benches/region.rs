//! The cost of splitting one product over several threads:
//! `cargo bench -p benches --bench region`.
//!
//! Prints microseconds for products of different sizes with one thread, with all threads asked from
//! within the pool, with all kept awake ([`qruntime::keep_awake`]), and with all asked from
//! outside, after pauses of different lengths; then the same for one product of medium size while
//! other processes occupy the cores. A region without any cost would take the time of one thread
//! divided by the number of threads. `-- --alone` omits the second table. It is necessary at a
//! real-time priority (`chrt -f 5`), because the processes that occupy the cores would inherit it.

#![allow(clippy::print_stdout, reason = "prints a table")]

use std::hint::black_box;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use benches::{is_test, numbers};
use kernels::{Format, Isa, Matrix, Rounding};
use ndarray::{Array2, Axis};
use qruntime::{Linear, Workspace};
use rayon::{ThreadPool, ThreadPoolBuilder};

/// The argument that makes this program keep a core busy and do nothing else.
const BUSY: &str = "--keep-a-core-busy";

/// Outputs of 1024 inputs in `q8_0`: one panel, too few to be split, then 0.3 to 4.5 MB of weights,
/// which the cache holds.
const OUTPUTS: [usize; 5] = [16, 96, 256, 1024, 4096];

const INPUTS: usize = 1024;

/// Pauses between two products.
const PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_micros(5),
    Duration::from_micros(20),
    Duration::from_micros(100),
    Duration::from_micros(1000),
];

fn main() {
    if std::env::args().any(|argument| argument == BUSY) {
        // Until it is killed, or whoever would do so is gone.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(60) {
            black_box((0..1 << 20).sum::<u64>());
        }
        return;
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let [one, all] = [1, threads].map(|n| ThreadPoolBuilder::new().num_threads(n).build().expect("threads"));

    println!("{threads} threads; microseconds: 10 %, median, 99 %\n");
    let heads =
        ["one thread", "inside the pool", "kept awake", "outside"].map(|head| format!("| {head:^27}")).join(" ");
    println!("{:>10} {:>8} {heads}", "weights", "pause");
    empty(&all);
    for outputs in OUTPUTS {
        let matrix = matrix(outputs);
        let mut layer = Product::new(&matrix);
        for pause in PAUSES {
            let rounds = if is_test() { 3 } else { 15_000 / (10 + outputs / 16 + pause.as_micros() as usize) };
            let inside = |pool: &ThreadPool, layer: &mut Product| {
                pool.install(|| Times::of(rounds, || wait(pause), || layer.run()))
            };
            let alone = inside(&one, &mut layer);
            let together = inside(&all, &mut layer);
            let awake = all.install(|| qruntime::keep_awake(|| Times::of(rounds, || wait(pause), || layer.run())));
            let outside = Times::of(rounds, || wait(pause), || all.install(|| layer.run()));
            row(&format!("{} KB", matrix.view().as_bytes().len() >> 10), pause, &[alone, together, awake, outside]);
        }
    }

    if std::env::args().any(|argument| argument == "--alone") {
        return;
    }
    let heads = ["one thread", "inside the pool", "kept awake"].map(|head| format!("| {head:^27}")).join(" ");
    println!("\n{:>10} {:>8} {heads}", "weights", "others");
    let matrix = matrix(4096);
    let mut layer = Product::new(&matrix);
    for others in 0..=threads.min(4) {
        let _busy: Vec<Busy> = (0..others).map(|_| Busy::new()).collect();
        // Turns, because the scheduler may favour one for a while.
        let [mut alone, mut together, mut awake] = [vec![], vec![], vec![]];
        for _ in 0..if is_test() { 1 } else { 20 } {
            let rounds = if is_test() { 3 } else { 200 };
            let mut run = || Times::of(rounds, || wait(PAUSES[1]), || layer.run()).0;
            alone.extend(one.install(&mut run));
            together.extend(all.install(&mut run));
            awake.extend(all.install(|| qruntime::keep_awake(&mut run)));
        }
        let times = [alone, together, awake].map(Times::sorted);
        let cells = times.map(|times| format!("| {times}")).join(" ");
        println!("{:>7} KB {others:>8} {cells}", matrix.view().as_bytes().len() >> 10);
    }
}

/// Runs a region without work: the cost of rayon itself.
fn empty(pool: &ThreadPool) {
    for pause in PAUSES {
        let rounds = if is_test() { 3 } else { 2000 };
        let join = || {
            rayon::join(|| black_box(()), || black_box(()));
        };
        let inside = pool.install(|| Times::of(rounds, || wait(pause), join));
        let outside = Times::of(rounds, || wait(pause), || pool.install(join));
        let awake = pool.install(|| qruntime::keep_awake(|| Times::of(rounds, || wait(pause), join)));
        row("nothing", pause, &[Times(vec![]), inside, awake, outside]);
    }
}

fn row(weights: &str, pause: Duration, times: &[Times; 4]) {
    let cells = times.each_ref().map(|times| format!("| {times}")).join(" ");
    println!("{weights:>10} {:>5} us {cells}", pause.as_micros());
}

fn matrix(outputs: usize) -> Matrix {
    let weights = numbers(outputs * INPUTS);
    Matrix::encode(Isa::best(), Format::Q8_0, Rounding::Nearest, &weights, outputs, INPUTS).expect("finite numbers")
}

/// A layer and what it needs to multiply one row.
struct Product {
    layer: Linear,
    x: Array2<f32>,
    workspace: Workspace,
    y: Array2<f32>,
}

impl Product {
    fn new(matrix: &Matrix) -> Self {
        let layer = Linear::new(matrix.clone(), Isa::best());
        let x = ndarray::Array1::from(numbers(INPUTS)).insert_axis(Axis(0));
        let y = Array2::zeros((1, layer.out_features()));
        Self { layer, x, workspace: Workspace::default(), y }
    }

    fn run(&mut self) {
        self.layer.forward_into(self.x.view(), &mut self.workspace, self.y.view_mut()).expect("shapes agree");
        black_box(&mut self.y);
    }
}

/// Keeps this thread busy, as the rest of a network would; sleeps for long pauses.
fn wait(pause: Duration) {
    if pause >= Duration::from_millis(1) {
        return std::thread::sleep(pause);
    }
    let start = Instant::now();
    while start.elapsed() < pause {
        std::hint::spin_loop();
    }
}

/// Microseconds, ascending.
struct Times(Vec<f64>);

impl Times {
    fn of(rounds: usize, mut before: impl FnMut(), mut run: impl FnMut()) -> Self {
        let time = |_| {
            before();
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e6
        };
        Self::sorted((0..rounds.max(3)).map(time).collect())
    }

    fn sorted(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(last) = self.0.len().checked_sub(1) else { return write!(f, "{:27}", "") };
        let [low, median, high] = [10, 50, 99].map(|percent| self.0[last * percent / 100]);
        write!(f, "{low:8.2} {median:8.2} {high:9.2}")
    }
}

/// Another process that keeps a core busy until this value is dropped.
struct Busy(Child);

impl Busy {
    fn new() -> Self {
        let program = std::env::current_exe().expect("this program");
        let child = Command::new(program).arg(BUSY).spawn().expect("another process");
        std::thread::sleep(Duration::from_millis(20));
        Self(child)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.kill().expect("a child of this process");
        self.0.wait().expect("a child of this process");
    }
}
