//! A checkpoint whose rows are grouped into the tensors of a GGUF file: experts stacked, rows of
//! queries and keys in llama.cpp's order, 1 added to norms that are stored so.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

use qruntime::gguf::{self, ElementType, StoredPart};
use qruntime::names::Names;

use super::{Companions, Dtype, Source, SourceError, Stored, TensorInfo};

/// A checkpoint, seen as the tensors of a GGUF file. They have the names that checkpoints give to
/// the first tensor of each, so that rules and roles apply.
#[derive(Debug)]
pub(crate) struct Regrouped {
    inner: Box<dyn Source>,
    tensors: Vec<TensorInfo>,
    /// For each of `tensors` what it is made of.
    groups: Vec<gguf::Stored>,
    dropped: Vec<String>,
    warnings: Vec<String>,
}

impl Regrouped {
    /// Groups the tensors of a checkpoint. `config` is its `config.json`.
    ///
    /// # Errors
    /// If the network is of a family that GGUF does not have, or a tensor does not fit it.
    pub(crate) fn new(inner: Box<dyn Source>, config: &[u8]) -> Result<Self, SourceError> {
        let tensors: Vec<(&str, &[usize])> = inner.tensors().iter().map(|info| (info.name(), info.shape())).collect();
        let (groups, unused) = gguf::stored(config, &tensors)?;
        let names = inner.companions().model_type().and_then(qruntime::names_of);
        let mut used = BTreeSet::new();
        let infos = groups.iter().map(|group| {
            let first = group.parts.first().map_or("", |part| inner.tensors()[part.tensor].name());
            // Two tensors of the file may begin with the same tensor.
            let name = match used.insert(first) {
                true => first.to_owned(),
                false => usual_name(names, &group.name).unwrap_or_else(|| group.name.clone()),
            };
            describe(&*inner, group, &name)
        });
        let infos = infos.collect();
        let unused: Vec<String> = unused.into_iter().map(|tensor| inner.tensors()[tensor].name().to_owned()).collect();
        let mut warnings = inner.warnings().to_vec();
        if let [first, ..] = unused.as_slice() {
            let count = unused.len();
            warnings.push(format!("{count} tensors are left out, which GGUF has no place for: {first:?} and the like"));
        }
        let dropped = inner.dropped().iter().cloned().chain(unused).collect();
        Ok(Self { tensors: infos, groups, dropped, warnings, inner })
    }

    /// Calls `read` for runs of rows that follow each other in a tensor of the checkpoint: the
    /// tensor, its rows, and where they begin among `rows`.
    fn runs(
        &self,
        tensor: usize,
        rows: Range<usize>,
        mut read: impl FnMut(usize, Range<usize>, usize) -> Result<(), SourceError>,
    ) -> Result<(), SourceError> {
        let mut start = 0;
        for part in &self.groups[tensor].parts {
            let len = part.rows.len();
            let (from, to) = (rows.start.max(start), rows.end.min(start + len));
            let mut row = from;
            while row < to {
                let first = self.row(part, row - start);
                let mut end = row + 1;
                while end < to && self.row(part, end - start) == first + (end - row) {
                    end += 1;
                }
                read(part.tensor, first..first + (end - row), row - rows.start)?;
                row = end;
            }
            start += len;
        }
        Ok(())
    }

    /// Returns which row of its tensor is a row of a part.
    fn row(&self, part: &StoredPart, row: usize) -> usize {
        part.rows.start + part.order.row_in_checkpoint(row, part.rows.len())
    }

    /// Returns the elements of a row; those of a vector are rows.
    fn row_len(&self, tensor: usize) -> usize {
        let info = &self.tensors[tensor];
        if info.shape().len() < 2 { 1 } else { info.cols() }
    }

    fn request(&self, problem: String) -> SourceError {
        SourceError::request(self.inner.path(), None, problem)
    }
}

/// Describes a tensor of the file.
fn describe(inner: &dyn Source, group: &gguf::Stored, name: &str) -> TensorInfo {
    let parts = || group.parts.iter().map(|part| &inner.tensors()[part.tensor]);
    let first = parts().next();
    let stored = first.map(TensorInfo::stored).filter(|stored| {
        let is_same = parts().all(|info| info.stored() == *stored);
        is_same && group.add == 0.0 && (!group.single || *stored == Stored::Plain(Dtype::F32))
    });
    // What has to be in single precision is decoded to that.
    let stored = stored.unwrap_or(Stored::Decoded(ElementType::Plain(Dtype::F32)));
    let bytes = |part: &StoredPart| {
        let info = &inner.tensors()[part.tensor];
        let rows = if info.shape().len() < 2 { info.elements() } else { info.rows() };
        info.bytes() / rows.max(1) * part.rows.len()
    };
    let bytes = group.parts.iter().map(bytes).sum();
    TensorInfo::new(name, &group.shape, stored, bytes).named_in_gguf(&group.name)
}

/// Returns the usual name in checkpoints of a tensor of a GGUF file, or of its first expert.
fn usual_name(names: Option<&Names>, name: &str) -> Option<String> {
    let names = names?;
    let parsed = names.parse_gguf(name)?;
    let mut expert = parsed;
    expert.expert = Some(0);
    names.candidates(expert).next().or_else(|| names.candidates(parsed).next())
}

impl Source for Regrouped {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn files(&self) -> Vec<&Path> {
        self.inner.files()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|info| info.name() == name)
    }

    fn read_f32(&self, tensor: usize, elements: Range<usize>, out: &mut [f32]) -> Result<(), SourceError> {
        let info = self.tensors.get(tensor).ok_or_else(|| self.request(format!("no tensor {tensor}")))?;
        let len = self.row_len(tensor);
        let rows = elements.start / len..elements.end.div_ceil(len);
        if elements.start > elements.end || elements.end > info.elements() || elements.len() != out.len() {
            return Err(self.request(format!("elements {elements:?} of {} into {}", info.elements(), out.len())));
        }
        let skipped = elements.start - rows.start * len;
        self.runs(tensor, rows, |inner, rows, at| {
            // The part of these rows that is asked for.
            let (from, to) = ((at * len).max(skipped), ((at + rows.len()) * len).min(skipped + out.len()));
            let first = rows.start * len + (from - at * len);
            self.inner.read_f32(inner, first..first + (to - from), &mut out[from - skipped..to - skipped])
        })?;
        let add = self.groups[tensor].add;
        if add != 0.0 {
            out.iter_mut().for_each(|x| *x += add);
        }
        Ok(())
    }

    fn read_stored(&self, tensor: usize, bytes: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let info = self.tensors.get(tensor).ok_or_else(|| self.request(format!("no tensor {tensor}")))?;
        let all_rows = info.elements() / self.row_len(tensor).max(1);
        let len = info.bytes() / all_rows.max(1);
        if matches!(info.stored(), Stored::Decoded(_)) || bytes.end > info.bytes() || bytes.len() != out.len() {
            return Err(self.request(format!("bytes {bytes:?} of {} into {}", info.bytes(), out.len())));
        }
        let rows = bytes.start / len..bytes.end.div_ceil(len);
        let skipped = bytes.start - rows.start * len;
        self.runs(tensor, rows, |inner, rows, at| {
            let (from, to) = ((at * len).max(skipped), ((at + rows.len()) * len).min(skipped + out.len()));
            let first = rows.start * len + (from - at * len);
            self.inner.read_stored(inner, first..first + (to - from), &mut out[from - skipped..to - skipped])
        })
    }

    fn total_bytes(&self) -> u64 {
        self.inner.total_bytes()
    }

    fn companions(&self) -> &Companions {
        self.inner.companions()
    }

    fn check_unchanged(&self) -> Result<(), SourceError> {
        self.inner.check_unchanged()
    }

    fn dropped(&self) -> &[String] {
        &self.dropped
    }

    fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::source;

    /// Fused matrices of experts become two tensors of the file, and a tied embedding may be the
    /// head as well.
    #[test]
    fn tensors_have_names_of_their_own() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../qruntime/tests/data/families");
        for network in ["mixtral-fused", "granitemoe-fused", "granitemoe", "qwen2-moe", "llama", "gemma3"] {
            let source = source::open(&folder.join(network)).expect("a checkpoint");
            let mut config = source.companions().config().expect("a config").clone();
            config["tie_word_embeddings"] = (network == "qwen2-moe").into();
            let regrouped = Regrouped::new(source, config.to_string().as_bytes());
            let Ok(regrouped) = regrouped else {
                assert_eq!(network, "gemma3", "{regrouped:?}");
                continue;
            };
            let infos = regrouped.tensors();
            let names: BTreeSet<&str> = infos.iter().map(TensorInfo::name).collect();
            let in_gguf: BTreeSet<_> = infos.iter().map(|info| info.name_in_gguf().expect("a name")).collect();
            assert_eq!((names.len(), in_gguf.len()), (infos.len(), infos.len()), "{network}: {names:?}");
            for (i, info) in infos.iter().enumerate() {
                let mut values = vec![f32::NAN; info.elements()];
                regrouped.read_f32(i, 0..values.len(), &mut values).expect("elements");
                assert!(values.iter().all(|value| value.is_finite()), "{network}: {}", info.name());
                assert_eq!(regrouped.position(info.name()), Some(i));
            }
        }
    }
}
