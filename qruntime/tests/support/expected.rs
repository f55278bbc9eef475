//! Results of other implementations, in safetensors files made by `ci/families.sh` and
//! `ci/references.sh`.

#![allow(clippy::print_stderr, reason = "a test says that it did not run")]

use std::path::{Path, PathBuf};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// A file of expected results.
pub struct Expected(Vec<u8>);

impl Expected {
    pub fn read(path: impl AsRef<Path>) -> Self {
        Self(std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display())))
    }

    pub fn has(&self, name: &str) -> bool {
        self.parsed().tensor(name).is_ok()
    }

    /// Reads a tensor of floating-point numbers that `f32` holds.
    pub fn numbers(&self, name: &str) -> Vec<f32> {
        self.with(name, |tensor| match tensor.dtype() {
            Dtype::F32 => tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            other => panic!("{name} is {other:?}"),
        })
    }

    /// Reads a tensor of one binary64 number.
    pub fn number(&self, name: &str) -> f64 {
        self.with(name, |tensor| f64::from_le_bytes(tensor.data().try_into().unwrap()))
    }

    /// Reads a tensor of integers.
    pub fn integers(&self, name: &str) -> Vec<u32> {
        self.with(name, |tensor| match tensor.dtype() {
            Dtype::U16 => tensor.data().as_chunks().0.iter().map(|bytes| u16::from_le_bytes(*bytes).into()).collect(),
            Dtype::I64 => {
                let numbers = tensor.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
                numbers.map(|number| number.try_into().unwrap()).collect()
            }
            other => panic!("{name} is {other:?}"),
        })
    }

    /// Reads token IDs: one sequence in each of `input_ids.0`, `input_ids.1`, ..., or all in `ids`
    /// with the lengths in `lengths`.
    pub fn sequences(&self) -> Vec<Vec<u32>> {
        if !self.has("ids") {
            let names = (0..).map(|i| format!("input_ids.{i}"));
            return names.take_while(|name| self.has(name)).map(|name| self.integers(&name)).collect();
        }
        let mut ids = self.integers("ids").into_iter();
        let lengths = self.integers("lengths");
        let sequences = lengths.into_iter().map(|length| ids.by_ref().take(length as usize).collect()).collect();
        assert_eq!(ids.next(), None, "ids are left over");
        sequences
    }

    fn with<T>(&self, name: &str, read: impl FnOnce(TensorView<'_>) -> T) -> T {
        read(self.parsed().tensor(name).unwrap_or_else(|error| panic!("{name}: {error}")))
    }

    fn parsed(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }
}

/// Returns a file or folder of `../shared/data`, which is not part of the project. If it is absent,
/// says so and returns `None`.
pub fn shared(name: &str) -> Option<PathBuf> {
    beside_the_project("data", name)
}

/// Does the same for `../shared/cases`: inputs that once broke the product, with the right
/// results.
pub fn cases(name: &str) -> Option<PathBuf> {
    beside_the_project("cases", name)
}

fn beside_the_project(folder: &str, name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(folder).join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: no {}", path.display());
    None
}
