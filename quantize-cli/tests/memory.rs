//! The limit on a conversion's memory, whatever the number of threads. A program of its own: what
//! is measured is the most that it ever had.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use kernels::{Format, Isa};
use quantize_cli::convert::Conversion;
use quantize_cli::output::{Output, Panels, Sink};
use quantize_cli::plan::{Plan, Request};
use quantize_cli::progress::Silent;
use quantize_cli::round::rounder;
use quantize_cli::source;

/// Takes its time, as a disk does, so that batches wait for it.
struct Slow(Vec<usize>);

impl Sink for Slow {
    fn order(&self) -> &[usize] {
        &self.0
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        std::thread::sleep(std::time::Duration::from_nanos(bytes.len() as u64));
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        Ok(())
    }
}

/// A file of `count` F16 tensors of zeros, which take no place on a disk.
fn zeros(path: &Path, count: usize, shape: [usize; 2]) {
    let bytes = 2 * shape[0] * shape[1];
    let entry = |i| {
        let (start, end) = (i * bytes, (i + 1) * bytes);
        format!(r#""{i}.weight":{{"dtype":"F16","shape":{shape:?},"data_offsets":[{start},{end}]}}"#)
    };
    let header = format!("{{{}}}", (0..count).map(entry).collect::<Vec<_>>().join(","));
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + count * bytes) as u64).unwrap();
}

/// The most memory that this process ever had, in bytes.
fn peak() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap()
}

#[test]
fn memory_is_bounded_with_many_threads() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::env::var("QUANTIZE_TEST_TENSORS").map_or(20, |count| count.parse().unwrap());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(64).build().unwrap();
    for (shape, rule) in [([32, 200_000], None), ([2625, 4000], Some("*=keep"))] {
        let path = folder.path().join("source.safetensors");
        zeros(&path, count, shape);
        let source = source::open(&path).unwrap();
        let rules: Vec<_> = rule.iter().map(|rule| rule.parse().unwrap()).collect();
        let rounder = rounder("nearest").unwrap();
        let request = Request { to: Format::Q8_0.into(), rules: &rules, rounding: rounder.name() };
        let plan = Plan::new(source.tensors(), None, request, &|t, a| Panels.stored(t, a)).unwrap();
        let conversion = Conversion {
            source: &*source,
            plan: &plan,
            rounders: &[rounder],
            isa: Isa::from_env().unwrap(),
            progress: &Silent,
            cancelled: &false.into(),
        };
        let sink = Box::new(Slow((0..plan.steps.len()).collect()));
        pool.install(|| conversion.run(sink)).unwrap();
        let limit = 4 * shape[0] * shape[1] + 256_000_000;
        println!("{shape:?}: at most {} MB of {} MB", peak() / 1_000_000, limit / 1_000_000);
        assert!(peak() < limit);
    }
}
