//! Modules of this crate use each other in one direction: none is above another and below it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// For every module of a crate those that it names as `crate::module`.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Adds what a file or the files of a folder name.
fn read(path: &Path, module: &str, uses: &mut Uses) {
    if path.is_dir() {
        path.read_dir().unwrap().for_each(|entry| read(&entry.unwrap().path(), module, uses));
        return;
    }
    for line in fs::read_to_string(path).unwrap().lines() {
        let code = line.split("//").next().unwrap();
        for path in code.split("crate::").skip(1) {
            let name: String = path.chars().take_while(|&c| c.is_ascii_lowercase() || c == '_').collect();
            if !name.is_empty() && name != module {
                uses.entry(module.into()).or_default().insert(name);
            }
        }
    }
}

/// A way from a module back to itself, if there is one.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    /// Appends to `way` what leads from its last module to its first.
    fn returns(uses: &Uses, way: &mut Vec<String>, seen: &mut BTreeSet<String>) -> bool {
        let last = way.last().unwrap().clone();
        for next in uses.get(&last).into_iter().flatten() {
            if *next == way[0] {
                return true;
            }
            if seen.insert(next.clone()) {
                way.push(next.clone());
                if returns(uses, way, seen) {
                    return true;
                }
                way.pop();
            }
        }
        false
    }
    uses.keys().find_map(|module| {
        let mut way = vec![module.clone()];
        returns(uses, &mut way, &mut BTreeSet::new()).then_some(way)
    })
}

#[test]
fn modules_use_each_other_in_one_direction() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut uses = Uses::new();
    for entry in source.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let module = path.file_stem().unwrap().to_str().unwrap();
        if module != "lib" {
            read(&path, module, &mut uses);
        }
    }
    assert!(uses["session"].contains("lm") && uses["nn"].contains("model"), "{uses:?}");
    assert_eq!(circle(&uses), None);
}

#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let source = "use crate::b::{B, C};\n// crate::comment\nfn f() -> crate::c::D { crate::Error }\n";
    fs::write(folder.path().join("a.rs"), source).unwrap();
    let mut uses = Uses::new();
    read(folder.path(), "a", &mut uses);
    assert_eq!(uses["a"].iter().collect::<Vec<_>>(), ["b", "c"]);
    uses.insert("b".into(), ["d".into(), "e".into()].into());
    assert_eq!(circle(&uses), None);
    uses.insert("e".into(), ["a".into()].into());
    assert_eq!(circle(&uses).unwrap(), ["a", "b", "e"]);
}
