//! Tells the program the commit that it is built from. Without git, or outside of its repository,
//! it goes without.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let commit = commit().unwrap_or_default();
    if !commit.is_empty() {
        println!("cargo::rustc-env=QUANTIZE_COMMIT={commit}");
    }
    let suffix = if commit.is_empty() { commit } else { format!(" ({commit})") };
    println!("cargo::rustc-env=QUANTIZE_COMMIT_SUFFIX={suffix}");
}

/// The commit that is checked out, if this package is part of it, and not merely in somebody else's
/// repository.
fn commit() -> Option<String> {
    git(&["ls-files", "--error-unmatch", "Cargo.toml"])?;
    // The files that change with the commit. Those that are not there would have cargo build anew
    // every time.
    let branch = git(&["rev-parse", "--symbolic-full-name", "HEAD"]);
    for name in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
