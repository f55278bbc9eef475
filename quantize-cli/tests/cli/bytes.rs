//! Conversions give the bytes that they gave before: of three real models in every format, by the
//! hashes in `bytes.txt`.
//!
//! Whoever changes a format, an encoder or the container on purpose writes the table anew and says
//! why in the commit:
//!
//! ```sh
//! BLESS=1 cargo test -p quantize-cli --test cli bytes
//! ```
//!
//! `QRUNTIME_ISA` chooses the instruction set, as for every command; the hashes are the same for
//! all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kernels::Format;
use xxhash_rust::xxh3::xxh3_64;

use super::ok;

/// The models: a name, and a folder relative to this crate. Those outside the repository may be
/// absent.
const MODELS: [(&str, &str); 3] = [
    ("storyteller-6m", "../models/storyteller-6m"),
    ("stories260K", "../../shared/data/stories260K/hf-float32"),
    ("all-MiniLM-L6-v2", "../../shared/data/all-MiniLM-L6-v2"),
];

/// Hashes of one output file: its header (for other files than safetensors 0) and everything after
/// it.
type Hashes = (u64, u64);

fn hashes(file: &Path) -> Hashes {
    let bytes = fs::read(file).unwrap();
    if file.extension().is_none_or(|extension| extension != "safetensors") {
        return (0, xxh3_64(&bytes));
    }
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    (xxh3_64(&bytes[..header]), xxh3_64(&bytes[header..]))
}

/// The files that the program writes of its own, below a folder: what it copies is compared
/// elsewhere.
fn written(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap();
            name == "config.json" || path.extension().is_some_and(|extension| extension == "safetensors")
        })
        .collect();
    files.sort();
    files
}

#[test]
fn conversions_give_the_same_bytes_as_before() {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/bytes.txt");
    let expected: BTreeMap<String, String> = fs::read_to_string(&table)
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .map(|(file, hashes)| (file.to_owned(), hashes.to_owned()))
        .collect();
    let mut found = BTreeMap::new();
    let mut absent = Vec::new();
    for (name, folder) in MODELS {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        if !source.exists() {
            eprintln!("skipped: no {}", source.display());
            absent.push(name);
            continue;
        }
        let outputs = tempfile::tempdir().unwrap();
        for format in Format::ALL {
            let out = outputs.path().join(format.name());
            ok(&["convert", source.to_str().unwrap(), out.to_str().unwrap(), "--to", format.name(), "--quiet"]);
            for file in written(&out) {
                let (header, data) = hashes(&file);
                let file = file.file_name().unwrap().to_str().unwrap();
                found.insert(format!("{name} {} {file}", format.name()), format!("{header:016x} {data:016x}"));
            }
        }
    }
    if std::env::var_os("BLESS").is_some() {
        assert!(absent.is_empty(), "all models are needed, without {absent:?}");
        let lines: String = found.iter().map(|(file, hashes)| format!("{file}: {hashes}\n")).collect();
        fs::write(&table, lines).unwrap();
        return;
    }
    let expected: BTreeMap<String, String> =
        expected.into_iter().filter(|(file, _)| !absent.iter().any(|name| file.starts_with(name))).collect();
    assert!(expected.len() >= Format::ALL.len(), "{}", table.display());
    assert_eq!(found, expected);
}
