//! Outputs: the kinds of model that a conversion writes, and how a finished one gets its place.
//!
//! A kind of model has one line in the table [`OUTPUTS`].

mod check;
mod gguf;
mod leftover;
mod panels;
mod place;
mod recipe;

use std::fmt;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::error::{Context, ErrorKind, Result};
use crate::layout::{Action, Layout};
use crate::plan::Plan;
use crate::report::quoted;
use crate::source::{Source, TensorInfo};

pub(crate) use self::check::parent;
pub use self::check::{check_apart, check_destination, check_place, places};
pub use self::gguf::GgufFile;
pub use self::leftover::{check_aside, sweep};
pub use self::panels::{MODEL, Panels};
pub use self::place::Temporary;
pub use self::recipe::Recipe;

/// A kind of model.
pub trait Output: fmt::Debug + Send + Sync {
    /// Whether a model of this kind is meant by a path, as its ending tells.
    fn is_meant_by(&self, at: &Path) -> bool;

    /// Whether its model at a path is a folder, with the files that belong to the model.
    fn is_folder(&self, at: &Path) -> bool;

    /// Arranges the tensors of a checkpoint as the model has them: in most kinds as they are.
    ///
    /// # Errors
    /// If the model cannot be of this kind.
    fn arrange(&self, source: Box<dyn Source>) -> Result<Box<dyn Source>> {
        Ok(source)
    }

    /// Returns how it stores a tensor; `None` if it cannot store it so.
    fn stored(&self, tensor: &TensorInfo, action: Action) -> Option<Layout>;

    /// Returns the `config.json` of a model whose original has `config`; `None` if it stays as it
    /// is.
    fn config(&self, config: &Value, plan: &Plan) -> Option<String>;

    /// Begins a model of a source at `at`, a folder that is there or the name of a file.
    ///
    /// # Errors
    /// If it cannot be written there, or cannot say what belongs to the source.
    fn create(&self, at: &Path, plan: &Plan, recipe: &Recipe, source: &dyn Source) -> Result<Box<dyn Sink>>;

    /// Replaces the recipe of the finished model at `at` by one that fits into its room.
    ///
    /// # Errors
    /// If the model cannot be changed, or the recipe is longer than its room.
    fn amend(&self, at: &Path, recipe: &Recipe) -> Result<()>;
}

/// A model that is being written.
pub trait Sink: Send {
    /// Returns the steps of the plan, in the order in which their tensors are to be written.
    fn order(&self) -> &[usize];

    /// Appends bytes to the current tensor; when it has all of its bytes the next one begins.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Completes the model, which is then on the disk.
    ///
    /// # Errors
    /// If that fails, or tensors lack bytes.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// The kinds of model; the first that a path means is written there.
pub const OUTPUTS: &[&dyn Output] = &[&GgufFile, &Panels];

/// Returns the kind of model that a path means.
///
/// # Errors
/// If its ending is that of files which are not written.
pub fn output(at: &Path) -> Result<&'static dyn Output> {
    OUTPUTS.iter().copied().find(|output| output.is_meant_by(at)).with_context(ErrorKind::Request, || {
        let ending = at.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        format!(
            "{}: files of the kind .{ending} are not written; name a folder, or a file that ends in .safetensors or .gguf",
            quoted(at)
        )
    })
}
