//! What an output may replace, and what is left beside it.

use super::*;

/// Every file below a folder with its bytes.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = vec![];
    for name in listing(folder) {
        let path = folder.join(name);
        if path.is_dir() { found.extend(contents(&path)) } else { found.push((path.clone(), fs::read(path).unwrap())) }
    }
    found
}

#[test]
fn force_never_costs_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (parent, other) = (folder.join("parent"), folder.join("other"));
    fs::create_dir(&parent).unwrap();
    fs::create_dir(&other).unwrap();
    let source = checkpoint(&parent, unchanged);
    let model = source.join("model.safetensors");
    // A model of ours, which may be replaced as such, though not when the source is in it.
    ok(&["convert", text(&source), text(&parent.join("model.safetensors")), "--to", "q8_0"]);
    let mut pairs = vec![
        (source.clone(), source.clone()),
        (model.clone(), source.clone()),
        (source.clone(), model.clone()),
        (model.clone(), model.clone()),
        (source.clone(), parent.clone()),
        (model.clone(), parent.clone()),
        (source.clone(), parent.join("../parent/source")),
        (source.clone(), source.join("../../parent")),
        (source.clone(), source.join("config.json")),
    ];
    #[cfg(unix)]
    {
        let link = other.join("link");
        std::os::unix::fs::symlink(&source, &link).unwrap();
        // As in a cache of downloads: a folder of links into another one.
        let linked = other.join("linked");
        fs::create_dir(&linked).unwrap();
        std::os::unix::fs::symlink(&model, linked.join("model.safetensors")).unwrap();
        pairs.extend([
            (link.clone(), link.clone()),
            (source.clone(), link.clone()),
            (link.clone(), parent.clone()),
            (link, source),
            (linked, parent),
        ]);
    }
    let before = contents(folder);
    for (source, out) in pairs {
        let message = refused(&["convert", text(&source), text(&out), "--to", "q4_0", "--force"]);
        assert!(message.contains("choose another output"), "{} -> {}: {message}", source.display(), out.display());
        assert!(contents(folder) == before, "{} -> {}", source.display(), out.display());
    }
}

#[test]
fn force_replaces_only_what_the_program_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let convert = |out: &Path| ["convert", text(&source), text(out), "--to", "q4_0", "--force"].map(str::to_owned);
    let refused = |out: &Path| {
        let message = refused(&convert(out).each_ref().map(String::as_str));
        assert!(message.contains("is not a model that quantize wrote: remove it yourself"), "{message}");
    };
    let replaced = |out: &Path| {
        ok(&convert(out).each_ref().map(String::as_str));
        ok(&["verify", text(out)]);
    };

    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let again = checkpoint(&other, unchanged);
    refused(&other);
    refused(&again);
    refused(&again.join("model.safetensors"));
    refused(&again.join("config.json"));

    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let file = folder.path().join("file.safetensors");
    for out in [&empty, &file] {
        replaced(out);
        replaced(out);
    }
    // A folder takes the place of a file, and a file that of a folder.
    let plain = folder.path().join("plain");
    fs::rename(&file, &plain).unwrap();
    replaced(&plain);
    fs::rename(&plain, &file).unwrap();
    replaced(&file);
    assert_eq!(listing(folder.path()), ["empty", "file.safetensors", "other", "source"], "nothing temporary is left");
}

#[cfg(unix)]
#[test]
fn a_failure_leaves_nothing_but_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), |_, numbers| numbers[0] = f16::NAN);
    // Whatever another run left or writes at this moment.
    fs::create_dir(folder.path().join(".out.1-0.partial")).unwrap();
    let out = folder.path().join("out");
    refused(&["convert", text(&source), text(&out), "--to", "q4_0"]);
    assert_eq!(listing(folder.path()), [".out.1-0.partial", "source"]);
}

#[test]
fn threads_have_a_limit() {
    let message = refused(&["convert", "a", "b", "--to", "q4_0", "--threads", "513"]);
    assert!(message.contains("513 is not in 1..=512"), "{message}");
}
