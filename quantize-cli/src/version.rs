//! Which program this is.

/// The commit the program was built from, shortened, if it was built in its repository. Changes
/// that were not committed are not seen. Converted files have the version alone: the same input
/// gives the same bytes.
pub const COMMIT: Option<&str> = option_env!("QUANTIZE_COMMIT");

/// The version, with the commit if that is known: `0.1.0 (0123456789ab)`.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("QUANTIZE_COMMIT_SUFFIX"));
