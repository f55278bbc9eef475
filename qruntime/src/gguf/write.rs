//! Writes a GGUF file, version 3, as a stream: metadata and descriptions of tensors, then their
//! bytes in the same order.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};

use super::{Array, ElementType, Value};

/// What every tensor begins at a multiple of, in bytes.
const ALIGNMENT: usize = 32;

/// The one list whose integers are bytes.
const BYTES: &str = "tokenizer.ggml.precompiled_charsmap";

/// Writes one file, tensor by tensor.
pub struct Writer<W> {
    out: W,
    /// The bytes of every tensor, in order.
    sizes: Vec<u64>,
    current: usize,
    /// The bytes of the current tensor that are written.
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the metadata and the descriptions of tensors: name, type, and shape with the length
    /// of a row last.
    ///
    /// Integers are written with 32 bits, or with 64 if they need them; other numbers with 32. The
    /// list `tokenizer.ggml.precompiled_charsmap` consists of bytes.
    ///
    /// # Errors
    /// If the output fails; if a key or the name of a tensor is used twice; if a tensor is empty,
    /// its rows are not whole blocks, or its size overflows.
    pub fn new(
        mut out: W,
        metadata: &[(String, Value)],
        tensors: &[(String, ElementType, Vec<usize>)],
    ) -> io::Result<Self> {
        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        let mut keys = BTreeSet::new();
        for (key, value) in metadata {
            if !keys.insert(key) {
                return Err(misuse(format!("key {key:?} is there twice")));
            }
            text(&mut header, key);
            match value {
                Value::Array(Array::Integers(list)) if key == BYTES => put_bytes(&mut header, list),
                value => put(&mut header, value),
            }
        }
        let (mut names, mut sizes, mut offset) = (BTreeSet::new(), vec![], 0u64);
        for (name, element_type, shape) in tensors {
            let bytes = bytes_of(*element_type, shape);
            let (Some(bytes), Some(number), true) = (bytes, element_type.ggml(), names.insert(name)) else {
                return Err(misuse(format!(
                    "tensor \"{}\": cannot write {element_type} {shape:?}, or there is one of this name",
                    name.escape_debug()
                )));
            };
            text(&mut header, name);
            header.extend((shape.len() as u32).to_le_bytes());
            shape.iter().rev().for_each(|&size| header.extend((size as u64).to_le_bytes()));
            header.extend(number.to_le_bytes());
            header.extend(offset.to_le_bytes());
            let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(ALIGNMENT as u64));
            offset = end.ok_or_else(|| misuse("the tensors' sizes overflow".into()))?;
            sizes.push(bytes);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&header)?;
        let mut writer = Self { out, sizes, current: 0, written: 0 };
        writer.skip_finished()?;
        Ok(writer)
    }

    /// Appends bytes to the current tensor. When it is complete, pads it and begins the next one.
    ///
    /// # Errors
    /// If the output fails, or `bytes` exceed the end of the tensor.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let left = self.sizes.get(self.current).map_or(0, |size| size - self.written);
        if bytes.len() as u64 > left {
            return Err(misuse(format!("{} bytes for a tensor that lacks {left}", bytes.len())));
        }
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        self.skip_finished()
    }

    /// Advances to the next tensor that lacks bytes.
    fn skip_finished(&mut self) -> io::Result<()> {
        while self.sizes.get(self.current) == Some(&self.written) {
            let padding = self.written.next_multiple_of(ALIGNMENT as u64) - self.written;
            self.out.write_all(&[0; ALIGNMENT][..padding as usize])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Flushes and returns the output.
    ///
    /// # Errors
    /// If the output fails, or a tensor lacks bytes.
    pub fn finish(mut self) -> io::Result<W> {
        if let Some(size) = self.sizes.get(self.current) {
            return Err(misuse(format!("tensor {} has {} of {size} bytes", self.current, self.written)));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Writer({} of {} tensors written)", self.current, self.sizes.len())
    }
}

/// Returns the bytes of a tensor; `None` if its rows are not whole blocks, or if they overflow.
fn bytes_of(element_type: ElementType, shape: &[usize]) -> Option<u64> {
    let cols = shape.last().copied().unwrap_or(1);
    let rows = shape.split_last().map_or(Some(1), |(_, rest)| rest.iter().try_fold(1usize, |n, &m| n.checked_mul(m)));
    let row = cols.is_multiple_of(element_type.block_len()).then(|| cols / element_type.block_len())?;
    let bytes = row.checked_mul(element_type.block_bytes())?.checked_mul(rows?)?;
    (shape.len() <= 4 && !shape.contains(&0)).then_some(bytes as u64)
}

/// Appends a text.
fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// The numbers of the types that are written.
mod number {
    pub(super) const U8: u32 = 0;
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
    pub(super) const U64: u32 = 10;
    pub(super) const I64: u32 = 11;
}

/// Appends a list of bytes with its type. Integers beyond them are cut to their lowest byte.
fn put_bytes(out: &mut Vec<u8>, list: &[i64]) {
    out.extend(number::ARRAY.to_le_bytes());
    out.extend(number::U8.to_le_bytes());
    out.extend((list.len() as u64).to_le_bytes());
    out.extend(list.iter().map(|&value| value as u8));
}

/// Appends a value with its type.
fn put(out: &mut Vec<u8>, value: &Value) {
    let mut typed = |number: u32, bytes: &[u8]| {
        out.extend(number.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::Unsigned(value) => match u32::try_from(*value) {
            Ok(value) => typed(number::U32, &value.to_le_bytes()),
            Err(_) => typed(number::U64, &value.to_le_bytes()),
        },
        Value::Signed(value) => match i32::try_from(*value) {
            Ok(value) => typed(number::I32, &value.to_le_bytes()),
            Err(_) => typed(number::I64, &value.to_le_bytes()),
        },
        Value::Float(value) => typed(number::F32, &(*value as f32).to_le_bytes()),
        Value::Bool(value) => typed(number::BOOL, &[u8::from(*value)]),
        Value::Text(value) => {
            typed(number::TEXT, &[]);
            text(out, value);
        }
        Value::Array(array) => {
            typed(number::ARRAY, &[]);
            put_array(out, array);
        }
    }
}

/// Appends the type of a list's values, their number and the values.
fn put_array(out: &mut Vec<u8>, array: &Array) {
    let fits = |list: &[i64]| list.iter().all(|&value| i32::try_from(value).is_ok());
    let number = match array {
        Array::Integers(list) if fits(list) => number::I32,
        Array::Integers(_) => number::I64,
        Array::Floats(_) => number::F32,
        Array::Bools(_) => number::BOOL,
        Array::Texts(_) => number::TEXT,
        Array::Arrays(_) => number::ARRAY,
    };
    out.extend(number.to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::Integers(list) if number == number::I32 => {
            list.iter().for_each(|&value| out.extend((value as i32).to_le_bytes()));
        }
        Array::Integers(list) => list.iter().for_each(|value| out.extend(value.to_le_bytes())),
        Array::Floats(list) => list.iter().for_each(|value| out.extend(value.to_le_bytes())),
        Array::Bools(list) => out.extend(list.iter().map(|&value| u8::from(value))),
        Array::Texts(list) => list.iter().for_each(|value| text(out, value)),
        Array::Arrays(list) => list.iter().for_each(|array| put_array(out, array)),
    }
}

/// Makes the error of a caller's mistake.
fn misuse(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

#[cfg(test)]
mod tests {
    use kernels::Format;
    use safetensors::Dtype;

    use super::*;
    use crate::gguf::Gguf;

    #[test]
    fn what_is_written_is_read_again() {
        let metadata = [
            ("general.architecture", Value::Text("llama".into())),
            ("a.unsigned", Value::Unsigned(7)),
            ("a.long", Value::Unsigned(1 << 40)),
            ("a.signed", Value::Signed(-7)),
            ("a.number", Value::Float(0.5)),
            ("a.truth", Value::Bool(true)),
            ("a.texts", Value::Array(Array::Texts(vec!["x".into(), "".into()]))),
            ("a.integers", Value::Array(Array::Integers(vec![-1, 2]))),
            ("a.longs", Value::Array(Array::Integers(vec![1 << 40]))),
            ("a.numbers", Value::Array(Array::Floats(vec![1.5, -2.0]))),
        ];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value));
        let tensors = [
            ("b".to_owned(), ElementType::Blocks(Format::Q4_0), vec![3, 64]),
            ("a".to_owned(), ElementType::Plain(Dtype::F32), vec![5]),
        ];
        let mut writer = Writer::new(vec![], &metadata, &tensors).expect("a valid file");
        writer.write(&[1; 100]).expect("room");
        writer.write(&[2; 8]).expect("room");
        assert!(writer.write(&[3; 21]).is_err(), "more than the tensor has");
        writer.write(&[3; 20]).expect("room");
        let file = writer.finish().expect("complete");
        let gguf = Gguf::parse(&file).expect("a file");
        for (key, value) in &metadata {
            assert_eq!(gguf.metadata().get(key), Some(value), "{key}");
        }
        let found: Vec<_> = gguf.tensors().iter().map(|t| (t.name(), t.element_type(), t.shape().to_vec())).collect();
        let expected: Vec<_> = tensors.iter().map(|(name, ty, shape)| (name.as_str(), *ty, shape.clone())).collect();
        assert_eq!(found, expected);
        let bytes = |i: usize| {
            let range = gguf.tensors()[i].range();
            file[range.start as usize..range.end as usize].to_vec()
        };
        assert_eq!(bytes(0), [[1; 100].as_slice(), &[2; 8]].concat());
        assert_eq!(bytes(1), [3; 20]);
    }

    #[test]
    fn what_cannot_be_written_is_refused() {
        let tensor = |name: &str, shape: &[usize]| (name.to_owned(), ElementType::Blocks(Format::Q4K), shape.to_vec());
        for tensors in [
            vec![tensor("a", &[2, 128])],
            vec![tensor("a", &[2, 256]), tensor("a", &[2, 256])],
            vec![tensor("a", &[usize::MAX, 256])],
            vec![tensor("a", &[1, 1, 1, 1, 256])],
            vec![tensor("a", &[0, 256])],
        ] {
            assert!(Writer::new(vec![], &[], &tensors).is_err(), "{tensors:?}");
        }
        let twice = [("a".to_owned(), Value::Bool(true)), ("a".to_owned(), Value::Bool(false))];
        assert!(Writer::new(vec![], &twice, &[]).is_err());
        let writer = Writer::new(vec![], &[], &[tensor("a", &[1, 256])]).expect("a valid file");
        assert!(writer.finish().is_err(), "a tensor lacks its bytes");
    }
}
