//! `cargo run --release -p qruntime --example decode MODEL OUT.safetensors`: writes a model's
//! tensors as a plain safetensors file, for tools that do not know packed ones. Packed tensors are
//! decoded to F32, exactly; plain ones are copied. One row is in memory at a time.

use std::cmp::Reverse;
use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};

use qruntime::container::Storage;
use qruntime::{Dtype, Model};
use serde_json::{Map, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, out] = arguments.as_slice() else {
        return Err("usage: decode MODEL OUT.safetensors".into());
    };
    // SAFETY: this program only reads the model: its output is a file that did not exist. Nothing
    // else may change it meanwhile.
    let model = unsafe { Model::map(model)? };
    let mut out = BufWriter::new(File::create_new(out)?);

    // The header places tensors with the widest elements first, so that each is aligned to its
    // elements.
    let dtype = |storage: &Storage| match storage {
        Storage::Packed(_) => Dtype::F32,
        Storage::Plain(dtype) => *dtype,
    };
    let mut entries: Vec<_> = model.tensors().collect();
    entries.sort_by_key(|entry| Reverse(dtype(entry.storage()).bitsize()));
    let (mut header, mut offset) = (Map::new(), 0);
    for entry in &entries {
        let dtype = dtype(entry.storage());
        let end = offset + entry.elements() * dtype.bitsize() / 8;
        let place = json!({"dtype": dtype, "shape": entry.shape(), "data_offsets": [offset, end]});
        header.insert(entry.name().into(), place);
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;

    for entry in entries {
        if let Storage::Plain(_) = entry.storage() {
            out.write_all(model.plain(entry.name())?.as_bytes())?;
            continue;
        }
        let packed = model.packed(entry.name())?;
        for matrix in (0..packed.matrix_count()).map(|i| packed.matrix(i)) {
            let mut weights = vec![0.0f32; matrix.cols()];
            for row in 0..matrix.rows() {
                matrix.decode_row(row, &mut weights)?;
                for weight in &weights {
                    out.write_all(&weight.to_le_bytes())?;
                }
            }
        }
    }
    out.into_inner()?.sync_all()?;
    Ok(())
}
