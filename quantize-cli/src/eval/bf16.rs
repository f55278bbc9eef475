//! A checkpoint with its weights rounded to bfloat16: what rounding of the kind that everybody
//! accepts does to a network's answers. Less than that is noise.

use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use qruntime::container::{Storage, Writer};
use serde_json::Value;

use crate::disk::check_space;
use crate::error::{Context, ErrorKind, Result, Within, bail};
use crate::output::MODEL;
use crate::report::quoted;
use crate::source::{Dtype, Source, TensorInfo, plain_bytes};

/// Bytes that are copied at a time, or elements that are rounded.
const PIECE: usize = 1 << 20;

/// Whether rounding changes anything: whether any tensor has floating-point elements that are not
/// bfloat16 already.
#[must_use]
pub fn rounds(source: &dyn Source) -> bool {
    source.tensors().iter().any(|tensor| tensor.is_float() && tensor.dtype() != Dtype::BF16)
}

/// Writes a checkpoint into a folder, its floating-point elements rounded to bfloat16, with the
/// files that belong to it.
///
/// # Errors
/// If the source cannot be read, or the folder not be written to; if `cancelled` became true.
pub fn write_rounded(source: &dyn Source, folder: &Path, cancelled: &AtomicBool) -> Result<()> {
    let context = || format!("cannot write into {}", quoted(folder));
    let tensors =
        source.tensors().iter().map(|tensor| if tensor.is_float() { 2 * tensor.elements() } else { tensor.bytes() });
    check_space(folder, tensors.map(|bytes| bytes as u64).sum::<u64>() + source.companions().bytes())?;
    source.companions().copy(folder, None, cancelled)?;
    let stored = |tensor: &TensorInfo| if tensor.is_float() { Dtype::BF16 } else { tensor.dtype() };
    let tensors = source
        .tensors()
        .iter()
        .map(|tensor| (tensor.name().to_owned(), Storage::Plain(stored(tensor)), tensor.shape().to_vec()));
    let file = File::create(folder.join(MODEL)).with_context(ErrorKind::Output, context)?;
    let mut writer =
        Writer::new(BufWriter::new(file), tensors.collect(), Value::Null).with_context(ErrorKind::Output, context)?;
    for i in writer.order().to_vec() {
        if cancelled.load(Ordering::Relaxed) {
            bail!(ErrorKind::Cancelled, "interrupted");
        }
        write_tensor(source, i, stored(&source.tensors()[i]), &mut writer).within(context)?;
    }
    writer.finish().with_context(ErrorKind::Output, context)?;
    Ok(())
}

/// Writes a tensor of a source: as it is, or converted to `dtype`, F32 or BF16, if it is something
/// else.
pub(super) fn write_tensor<W: Write + Seek>(
    source: &dyn Source,
    position: usize,
    dtype: Dtype,
    writer: &mut Writer<W>,
) -> Result<()> {
    let tensor = &source.tensors()[position];
    if tensor.is_plain(dtype) {
        let mut bytes = vec![0; PIECE.min(tensor.bytes())];
        for start in (0..tensor.bytes()).step_by(PIECE) {
            let bytes = &mut bytes[..PIECE.min(tensor.bytes() - start)];
            source.read_stored(position, start..start + bytes.len(), bytes)?;
            writer.write(bytes)?;
        }
        return Ok(());
    }
    let mut numbers = vec![0.0; PIECE.min(tensor.elements())];
    for start in (0..tensor.elements()).step_by(PIECE) {
        let numbers = &mut numbers[..PIECE.min(tensor.elements() - start)];
        source.read_f32(position, start..start + numbers.len(), numbers)?;
        writer.write(&plain_bytes(dtype, numbers))?;
    }
    Ok(())
}
