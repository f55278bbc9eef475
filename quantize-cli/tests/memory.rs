//! The limit on a conversion's memory, whatever the number of threads. A program of its own: what
//! is measured is the most that it ever had.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use kernels::{Format, Isa, Rounding};
use quantize_cli::convert::convert;
use quantize_cli::plan::Plan;
use quantize_cli::progress::Progress;
use quantize_cli::source::Source;

/// Takes its time, as a disk does, so that batches wait for it.
struct Slow;

impl Write for Slow {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::thread::sleep(std::time::Duration::from_nanos(bytes.len() as u64));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Slow {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Ok(0)
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
        let source = Source::open(&path).unwrap();
        let rules: Vec<_> = rule.iter().map(|rule| rule.parse().unwrap()).collect();
        let plan = Plan::new(&source, Format::Q8_0, &rules, Rounding::Nearest).unwrap();
        let isa = Isa::from_env().unwrap();
        pool.install(|| convert(&source, &plan, isa, Slow, &Progress::silent(), &false.into())).unwrap();
        let limit = 4 * shape[0] * shape[1] + 256_000_000;
        println!("{shape:?}: at most {} MB of {} MB", peak() / 1_000_000, limit / 1_000_000);
        assert!(peak() < limit);
    }
}
