//! The file in `docs/file-format.md` is what the page says it is, and what the writer writes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fmt::Write;

use kernels::{Format, Isa, Matrix, Rounding};
use qruntime::container::Storage;
use qruntime::{Dtype, Model};
use serde_json::json;
use support::written;

const PAGE: &str = include_str!("../../docs/file-format.md");

/// Reads the code block in the form of `hexdump -C`: lines of `#` are comments, a line of `*`
/// repeats the one before.
fn file_of_the_page() -> Vec<u8> {
    let (_, block) = PAGE.split_once("```hexdump\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    let mut file: Vec<u8> = Vec::new();
    for line in block.lines().filter(|line| !line.starts_with(['#', '*'])) {
        let mut words = line.split('|').next().unwrap().split_whitespace();
        let offset = usize::from_str_radix(words.next().unwrap(), 16).unwrap();
        while file.len() < offset {
            file.extend_from_within(file.len() - 16..);
        }
        assert_eq!(file.len(), offset, "{line}");
        file.extend(words.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    file
}

/// The code block for a file, without comments.
fn hexdump(file: &[u8]) -> String {
    let mut dump = String::new();
    let mut last = None;
    for (i, line) in file.chunks(16).enumerate() {
        if last.replace(line) == Some(line) {
            if !dump.ends_with("*\n") {
                dump.push_str("*\n");
            }
            continue;
        }
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            line.iter().map(|&b| if b.is_ascii_graphic() || b == b' ' { char::from(b) } else { '.' }).collect();
        writeln!(dump, "{:04x}  {:47}  |{text}|", 16 * i, hex.join(" ")).unwrap();
    }
    dump
}

fn weights() -> [[f32; 32]; 2] {
    let mut rows = [[0.0; 32]; 2];
    rows[0] = std::array::from_fn(|col| (col % 16) as f32 * 0.5 - 4.0);
    rows[1][0] = 1.0;
    rows
}

const BIAS: [f32; 2] = [0.25, -1.0];

#[test]
fn the_file_of_the_page_has_the_tensors_that_the_page_says() {
    let model = Model::from_bytes(&file_of_the_page()).unwrap();
    let matrix = model.packed("w").unwrap().matrix(0);
    assert_eq!((matrix.format(), matrix.rows(), matrix.cols()), (Format::Q4_0, 2, 32));
    for (row, expected) in weights().iter().enumerate() {
        let mut found = [f32::NAN; 32];
        matrix.decode_row(row, &mut found).unwrap();
        assert_eq!(&found, expected, "row {row}");
    }
    assert_eq!(model.plain("b").unwrap().to_f32().unwrap(), BIAS);
    assert_eq!(model.recipe(), &json!({"rounding": "nearest"}));
    for name in ["w", "b"] {
        assert_eq!(model.verify(name).unwrap(), Some(true), "{name}");
    }
}

#[test]
fn the_writer_writes_the_file_of_the_page() {
    let weights = weights();
    let matrix = Matrix::encode(Isa::best(), Format::Q4_0, Rounding::Nearest, weights.as_flattened(), 2, 32).unwrap();
    let tensors = [
        ("b".into(), Storage::Plain(Dtype::F32), vec![2], BIAS.iter().flat_map(|x| x.to_le_bytes()).collect()),
        ("w".into(), Storage::Packed(Format::Q4_0), vec![2, 32], matrix.view().as_bytes().to_vec()),
    ];
    let file = written(&tensors, json!({"rounding": "nearest"}));
    assert!(file == file_of_the_page(), "the writer writes\n{}", hexdump(&file));
}
