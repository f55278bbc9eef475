//! What a program may do with a GGUF file that was parsed: read every key with every reader, and
//! every tensor's bytes.

use qruntime::gguf::{Array, Gguf, Value};

/// Parses a file and reads all of it.
pub(crate) fn read_gguf(file: &[u8]) -> bool {
    let Ok(gguf) = Gguf::parse(file) else { return false };
    let metadata = gguf.metadata();
    for (key, value) in metadata.iter() {
        let read = [
            metadata.text(key).is_ok(),
            metadata.size(key, 0..=usize::MAX).is_ok(),
            metadata.number(key).is_ok(),
            metadata.flag(key).is_ok(),
            metadata.texts(key).is_ok(),
            metadata.sizes(key).is_ok(),
            metadata.integers(key).is_ok(),
            metadata.numbers(key).is_ok(),
            metadata.flags(key).is_ok(),
        ];
        let is_lists = matches!(value, Value::Array(Array::Arrays(_)));
        let is_finite = !matches!(value, Value::Float(number) if !number.is_finite());
        assert!(read.contains(&true) || is_lists || !is_finite, "{key}: {value}");
    }
    let mut end = 0;
    for tensor in gguf.tensors() {
        let range = tensor.range();
        assert!(end <= range.start && range.start < range.end && range.end <= file.len() as u64);
        let row = tensor.element_type().row_bytes(tensor.shape().last().copied().unwrap_or(1));
        assert_eq!(row.map(|row| row * tensor.rows()), Some((range.end - range.start) as usize));
        end = range.end;
    }
    true
}
