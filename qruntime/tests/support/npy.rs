//! Arrays as NumPy writes them, little-endian and in C order.

use std::path::Path;

/// Reads an array of `float32`.
pub fn floats(path: &Path) -> Vec<f32> {
    read(path, "<f4", |bytes: [u8; 4]| f32::from_le_bytes(bytes))
}

/// Reads an array of `int32`, none of them negative.
pub fn integers(path: &Path) -> Vec<u32> {
    read(path, "<i4", |bytes: [u8; 4]| i32::from_le_bytes(bytes).try_into().unwrap())
}

fn read<T, const N: usize>(path: &Path, kind: &str, element: impl Fn([u8; N]) -> T) -> Vec<T> {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(file.starts_with(b"\x93NUMPY\x01\x00"), "{}", path.display());
    let (header, data) = file[10..].split_at(usize::from(u16::from_le_bytes([file[8], file[9]])));
    let header = String::from_utf8_lossy(header);
    assert!(header.contains(kind) && header.contains("'fortran_order': False"), "{}: {header}", path.display());
    let (elements, rest) = data.as_chunks::<N>();
    assert!(rest.is_empty(), "{}", path.display());
    elements.iter().copied().map(element).collect()
}
