//! Tokenizers and chat templates from hostile files: one row for each way to do harm.
#![cfg(feature = "text")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod support;
#[path = "hostile_text/templates.rs"]
mod templates;
#[path = "hostile_text/tokenizers.rs"]
mod tokenizers;
