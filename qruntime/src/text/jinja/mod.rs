//! An interpreter of the Jinja in chat templates, with the semantics of Jinja2 and Python as
//! transformers uses them: `ImmutableSandboxedEnvironment` with `trim_blocks`, `lstrip_blocks`,
//! loop controls, its own `tojson`, `raise_exception`, `strftime_now`, and `{% generation %}`,
//! which changes nothing.
//!
//! Templates are untrusted, so everything has a bound, stated below: the length of a template, the
//! nesting of its text and its values, the steps and the memory of a rendering. Parsing and
//! rendering run on a separate thread, whose stack suffices for the deepest nesting that the bounds
//! allow. Where there are no threads (wasm32), they run on the caller's small stack, and fewer
//! levels are allowed.

mod ast;
mod attributes;
#[cfg(test)]
mod bounds;
mod calls;
mod digits;
mod eval;
mod expression;
mod filters;
mod format;
mod lexer;
mod operators;
mod parser;
mod print;
mod select;
mod strings;
mod tests;
mod value;

use std::fmt;

use serde_json::{Map, Value as Json};

use super::date::Date;

/// The longest template, in bytes. The longest known ones have 50 KB.
pub(crate) const MAX_TEMPLATE: usize = 1 << 20;

/// Most nested levels of statements, brackets, `not`, signs and `else` of conditions.
pub(crate) const MAX_NESTING: usize = if cfg!(target_family = "wasm") { 32 } else { 64 };

/// Most nested levels of expressions, statements and macros during a rendering.
pub(crate) const MAX_DEPTH: usize = if cfg!(target_family = "wasm") { 60 } else { 1000 };

/// Most nested levels of a value, such as lists within lists.
pub(crate) const MAX_VALUE_DEPTH: usize = if cfg!(target_family = "wasm") { 64 } else { 200 };

/// Most steps of a rendering, about a second. A step is an operation, a value that it touches, or
/// 32 bytes of text.
pub(crate) const MAX_STEPS: u64 = 20_000_000;

/// Most bytes of all values and text that a rendering makes, kept or not, including its output.
pub(crate) const MAX_BYTES: usize = 256 << 20;

/// The bounds of a rendering.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    steps: u64,
    bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { steps: MAX_STEPS, bytes: MAX_BYTES }
    }
}

/// The stack of the thread that parses and renders.
#[cfg(not(target_family = "wasm"))]
const STACK: usize = 32 << 20;

/// An error of a template, or its own refusal.
#[derive(Debug)]
pub(crate) struct Fault {
    message: String,
    /// The line; 0 if it is not known yet.
    line: usize,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: 0 }
    }

    fn at(line: usize, message: impl Into<String>) -> Self {
        Self { message: message.into(), line }
    }

    /// Sets the line if it is not known yet.
    fn in_line(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.message),
            line => write!(f, "{} (line {line})", self.message),
        }
    }
}

/// A parsed template.
#[derive(Debug)]
pub(crate) struct Template(ast::Tree);

impl Template {
    /// Parses a template.
    pub(crate) fn parse(source: &str) -> Result<Self, Fault> {
        with_stack(|| parser::parse(source).map(Self))
    }

    /// Renders a template with these variables. Without a date, there is no `strftime_now`.
    pub(crate) fn render(&self, variables: &Map<String, Json>, date: Option<Date>) -> Result<String, Fault> {
        self.render_within(variables, date, Limits::default())
    }

    fn render_within(
        &self,
        variables: &Map<String, Json>,
        date: Option<Date>,
        limits: Limits,
    ) -> Result<String, Fault> {
        with_stack(|| eval::render(&self.0, variables, date, limits))
    }
}

/// Runs `work` on a stack that is large enough. If the interpreter panics, the template is
/// refused.
#[cfg(not(target_family = "wasm"))]
fn with_stack<T: Send>(work: impl FnOnce() -> Result<T, Fault> + Send) -> Result<T, Fault> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("chat template".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work);
        let thread = thread.map_err(|error| Fault::new(format!("cannot start a thread for it: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(Fault::new("the interpreter panicked")))
    })
}

#[cfg(target_family = "wasm")]
fn with_stack<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    work()
}

#[cfg(test)]
#[test]
fn a_panic_is_a_fault() {
    let fault = with_stack::<()>(|| panic!("as the test wants")).unwrap_err();
    assert_eq!(fault.to_string(), "the interpreter panicked");
}
