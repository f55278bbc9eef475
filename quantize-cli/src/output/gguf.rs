//! GGUF: one file with the network's description and its tokenizer, for llama.cpp and the programs
//! that build on it.

use std::fs::File;
use std::io;
use std::path::Path;

use kernels::Format;
use qruntime::gguf::{self, About, ElementType, Gguf, Value as Metadata};
use qruntime::names::Part;
use qruntime::names_of;
use serde_json::Value;

use super::{Output, Recipe, Sink};
use crate::error::{Context, ErrorKind, Result, bail};
use crate::layout::{Action, Form, Layout};
use crate::plan::{Plan, Step};
use crate::report::quoted;
use crate::source::{Dtype, Regrouped, Source, TensorInfo};

/// The key under which the recipe is kept, as JSON; it marks files that this program wrote.
const RECIPE: &str = "qruntime.recipe";

/// A GGUF file.
#[derive(Debug)]
pub struct GgufFile;

impl Output for GgufFile {
    fn is_meant_by(&self, at: &Path) -> bool {
        at.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
    }

    fn is_folder(&self, _: &Path) -> bool {
        false
    }

    fn arrange(&self, source: Box<dyn Source>) -> Result<Box<dyn Source>> {
        let Some(config) = source.companions().config() else {
            bail!(
                ErrorKind::Request,
                "{}: no config.json, which a GGUF file is made of: give the folder of the model",
                quoted(source.path())
            );
        };
        let config = config.to_string();
        Ok(Box::new(Regrouped::new(source, config.as_bytes())?))
    }

    fn stored(&self, tensor: &TensorInfo, action: Action) -> Option<Layout> {
        let rows = |format: Format| {
            let blocks = tensor.cols().is_multiple_of(format.block_len()) && tensor.shape().len() > 1;
            let bytes = format.row_bytes(tensor.cols()).filter(|_| blocks)?.checked_mul(tensor.rows())?;
            Some(Layout { form: Form::Rows(format), bytes, padding: 0 })
        };
        match (action, tensor.stored()) {
            (Action::Pack(format), _) => rows(format).filter(|_| format.ggml_type().is_some()),
            (Action::Keep, crate::source::Stored::Blocks(format)) => rows(format),
            (Action::Keep, _) => {
                let dtype = tensor.kept_dtype();
                ElementType::Plain(dtype).ggml()?;
                let bytes = tensor.elements().checked_mul(dtype.bitsize() / 8)?;
                Some(Layout { form: Form::Plain(dtype), bytes, padding: 0 })
            }
        }
    }

    fn config(&self, _: &Value, _: &Plan) -> Option<String> {
        None
    }

    fn create(&self, at: &Path, plan: &Plan, recipe: &Recipe, source: &dyn Source) -> Result<Box<dyn Sink>> {
        let companions = source.companions();
        let read = |name: &str| companions.read(name);
        let model_type = companions.model_type().unwrap_or_default();
        let names = names_of(model_type).with_context(ErrorKind::Request, || {
            format!("{}: a family that GGUF does not have: {model_type:?}", quoted(source.path()))
        })?;
        let described = gguf::metadata_of(&read, &about(source, plan))?;
        let mut metadata = described.values;
        let embeddings = plan
            .steps
            .iter()
            .find(|step| names.parse(&step.name).is_some_and(|name| name.part == Part::TokenEmbedding && !name.bias));
        let embeddings = embeddings.map_or(0, |step| step.shape[0]);
        let architecture = metadata.iter().find(|(key, _)| key == "general.architecture");
        if let Some((_, Metadata::Text(architecture))) = architecture {
            metadata.extend(gguf::tokenizer_metadata(&read, architecture, embeddings)?);
        }
        let recipe = recipe.to_value().to_string();
        metadata.push((RECIPE.into(), Metadata::Text(recipe)));
        let extra = described.tensors.into_iter();
        let extra: Vec<(String, Vec<f32>)> = extra.map(|(name, values)| (name.to_owned(), values)).collect();
        let mut tensors: Vec<(String, ElementType, Vec<usize>)> = extra
            .iter()
            .map(|(name, values)| (name.clone(), ElementType::Plain(Dtype::F32), vec![values.len()]))
            .collect();
        for step in &plan.steps {
            let name = source.tensors()[step.tensor].name_in_gguf().map(str::to_owned);
            let name = name.with_context(ErrorKind::Request, || format!("{:?}: GGUF has no name for it", step.name))?;
            let element_type = match step.layout.form {
                Form::Rows(format) | Form::Panels(format) => ElementType::Blocks(format),
                Form::Plain(dtype) => ElementType::Plain(dtype),
            };
            tensors.push((name, element_type, step.shape.clone()));
        }
        let context = || format!("cannot write {}", quoted(at));
        let file = File::create(at).with_context(ErrorKind::Output, context)?;
        let mut writer = gguf::Writer::new(file, &metadata, &tensors).with_context(ErrorKind::Output, context)?;
        for (_, values) in &extra {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            writer.write(&bytes).with_context(ErrorKind::Output, context)?;
        }
        Ok(Box::new(GgufSink { writer, order: (0..plan.steps.len()).collect() }))
    }

    /// Nothing is added: the metadata of a finished file have no room.
    fn amend(&self, _: &Path, _: &Recipe) -> Result<()> {
        Ok(())
    }
}

/// A file that is being written.
#[derive(Debug)]
struct GgufSink {
    writer: gguf::Writer<File>,
    order: Vec<usize>,
}

impl Sink for GgufSink {
    fn order(&self) -> &[usize] {
        &self.order
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write(bytes)
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.writer.finish()?.sync_all()
    }
}

/// Returns what the folder of a model does not say about its GGUF file.
fn about(source: &dyn Source, plan: &Plan) -> About {
    let mut about = About::default();
    let path = source.path();
    let folder = if path.is_dir() { path.file_name() } else { path.file_stem() };
    about.name = folder.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    about.parameters = plan.elements();
    let experts = plan.steps.iter().filter(|step| step.name.contains("expert") && step.shape.len() == 3);
    about.expert_parameters = experts.map(|step| step.elements() as u64).sum();
    about.file_type = file_type(plan);
    about
}

/// llama.cpp's number for files of which most matrices have a type (`LlamaFileType` of PyPI's
/// `gguf`).
const FILE_TYPES: &[(ElementType, u32)] = &[
    (ElementType::Plain(Dtype::F32), 0),
    (ElementType::Plain(Dtype::F16), 1),
    (ElementType::Blocks(Format::Q4_0), 2),
    (ElementType::Blocks(Format::Q4_1), 3),
    (ElementType::Blocks(Format::Q8_0), 7),
    (ElementType::Blocks(Format::Q5_0), 8),
    (ElementType::Blocks(Format::Q5_1), 9),
    (ElementType::Blocks(Format::Q2K), 10),
    (ElementType::Blocks(Format::Q3K), 12),
    (ElementType::Blocks(Format::Q4K), 15),
    (ElementType::Blocks(Format::Q5K), 17),
    (ElementType::Blocks(Format::Q6K), 18),
    (ElementType::Blocks(Format::Iq4Nl), 25),
    (ElementType::Blocks(Format::Iq4Xs), 30),
    (ElementType::Plain(Dtype::BF16), 32),
    (ElementType::Blocks(Format::Mxfp4), 38),
];

/// Returns the number for the type that most elements of matrices have.
fn file_type(plan: &Plan) -> Option<u32> {
    let matrices = || plan.steps.iter().filter(|step| step.shape.len() > 1);
    let is_of = |step: &&Step, element_type: ElementType| match (step.layout.form, element_type) {
        (Form::Rows(a), ElementType::Blocks(b)) => a == b,
        (Form::Plain(a), ElementType::Plain(b)) => a == b,
        _ => false,
    };
    let elements = |of: ElementType| -> usize { matrices().filter(|step| is_of(step, of)).map(Step::elements).sum() };
    FILE_TYPES.iter().max_by_key(|(of, _)| elements(*of)).map(|(_, number)| *number)
}

/// Whether the file at a path is one that this program wrote.
pub(super) fn is_ours(path: &Path) -> bool {
    Gguf::is_gguf(path) && Gguf::open(path).is_ok_and(|gguf| gguf.metadata().get(RECIPE).is_some())
}
