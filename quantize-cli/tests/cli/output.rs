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
    // Files of other outputs, or of nobody.
    let others = [".out.1-.partial", ".out.1-0.partial.txt", ".out2.1-0.partial", "out.1-0.partial"];
    others.iter().for_each(|name| fs::create_dir(folder.path().join(name)).unwrap());
    let out = folder.path().join("out");
    refused(&["convert", text(&source), text(&out), "--to", "q4_0"]);
    assert_eq!(listing(folder.path()), [&others[..], &["source"]].concat());
}

/// Runs a conversion that succeeds, and returns what it said on stderr.
fn said(args: &[&str]) -> String {
    let output = quantize(args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn force_keeps_what_others_put_into_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    fs::write(source.join("LICENSE.txt"), "as you like").unwrap();
    fs::write(source.join("modules.json"), r#"[{"path": ""}, {"path": "1_Pooling"}]"#).unwrap();
    fs::create_dir(source.join("1_Pooling")).unwrap();
    fs::write(source.join("1_Pooling/config.json"), "{}").unwrap();
    let out = folder.path().join("out");
    let again = ["convert", text(&source), text(&out), "--to", "q4_0", "--force"];
    ok(&again);
    ok(&again);

    let foreign = ["notes.txt", "README.md", "other.safetensors", "sub/deep.txt", "1_Pooling/mine.txt", "empty"];
    for name in foreign {
        let path = out.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if name == "empty" {
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, "mine").unwrap();
        }
        let before = contents(&out);
        let message = refused(&again);
        assert!(message.contains(&format!("{:?}", name.split("/deep").next().unwrap())), "{name}: {message}");
        assert!(message.contains("choose another output"), "{message}");
        assert!(contents(&out) == before && path.exists(), "{name}");
        if path.is_dir() {
            fs::remove_dir(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        let _ = fs::remove_dir(out.join("sub"));
    }
    ok(&again);
    assert_eq!(listing(folder.path()), ["out", "source"]);
}

#[test]
fn a_model_without_a_list_of_its_files_is_replaced_alone() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    // As earlier versions wrote it, and as a file is written: the recipe has no `companions`.
    let (file, out) = (folder.path().join("out.safetensors"), folder.path().join("out"));
    ok(&["convert", text(&source), text(&file), "--to", "q4_0"]);
    fs::create_dir(&out).unwrap();
    fs::rename(&file, out.join("model.safetensors")).unwrap();
    fs::write(out.join("config.json"), "{}").unwrap();
    let again = ["convert", text(&source), text(&out), "--to", "q4_0", "--force"];
    let before = contents(&out);
    let message = refused(&again);
    let expected =
        "holds what quantize did not write: \"config.json\", of whose files it has no list (earlier versions";
    assert!(message.contains(expected), "{message}");
    assert!(contents(&out) == before);
    fs::remove_file(out.join("config.json")).unwrap();
    ok(&again);
    assert_eq!(listing(&out), ["config.json", "model.safetensors", "tokenizer.json"]);
}

#[cfg(unix)]
#[test]
fn a_link_stays_and_what_it_leads_to_is_replaced() {
    use std::os::unix::fs::symlink;

    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let (target, link) = (folder.path().join("elsewhere/target"), folder.path().join("link"));
    fs::create_dir(folder.path().join("elsewhere")).unwrap();
    symlink("elsewhere/target", &link).unwrap();
    let convert = |format| ["convert", text(&source), text(&link), "--to", format, "--force"].map(str::to_owned);
    let convert = |format| convert(format).each_ref().map(|arg| arg.as_str().to_owned());
    let message = refused(&convert("q4_0").each_ref().map(String::as_str));
    assert!(message.contains("leads nowhere"), "{message}");
    fs::create_dir(&target).unwrap();
    for format in ["q4_0", "q8_0"] {
        ok(&convert(format).each_ref().map(String::as_str));
        assert!(link.is_symlink());
        assert_eq!(json(&["inspect", text(&target), "--json"])["recipe"]["to"], format);
    }
    assert_eq!(listing(folder.path()), ["elsewhere", "link", "source"]);
    assert_eq!(listing(&folder.path().join("elsewhere")), ["target"]);
}

#[cfg(unix)]
#[test]
fn leftovers_are_mentioned_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let out = folder.path().join("out");
    let convert = ["convert", text(&source), text(&out), "--to", "q4_0", "--force"];
    ok(&convert);
    // Killed while it wrote, and between the two steps of replacing where folders cannot be
    // exchanged.
    let partial = folder.path().join(".out.1-0.partial");
    fs::create_dir(&partial).unwrap();
    fs::write(partial.join("model.safetensors"), "half").unwrap();
    let old = folder.path().join(".out.1-7.old");
    fs::create_dir(&old).unwrap();
    fs::rename(&out, old.join("out")).unwrap();
    let message = said(&convert);
    assert!(message.contains(&format!("removed {}", partial.display())), "{message}");
    assert!(message.contains(&format!("put {} back", out.display())), "{message}");
    assert_eq!(listing(folder.path()), ["out", "source"]);
    // One that is being written has a lock.
    let partial = folder.path().join(".out.1-0.partial");
    fs::create_dir(&partial).unwrap();
    let lock = fs::File::open(&partial).unwrap();
    lock.lock().unwrap();
    assert_eq!(said(&convert), "");
    assert_eq!(listing(folder.path()), [".out.1-0.partial", "out", "source"]);
}

#[cfg(unix)]
#[test]
fn a_full_disk_is_noticed_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    // More than any disk of a machine that runs tests has free.
    let source = super::signals::endless(folder.path(), 15 << 40, 2);
    for out in ["out", "out.safetensors"] {
        let out = folder.path().join(out);
        let message = refused(&["convert", text(&source), text(&out), "--to", "q8_0"]);
        assert!(message.contains(" TB of free disk space, and ") && message.contains(" are free"), "{message}");
        assert_eq!(listing(folder.path()), ["source"]);
    }
}

#[test]
fn threads_have_a_limit() {
    let message = refused(&["convert", "a", "b", "--to", "q4_0", "--threads", "513"]);
    assert!(message.contains("513 is not in 1..=512"), "{message}");
}

#[cfg(unix)]
#[test]
fn no_name_steers_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    // Red, a title for the window, eight-bit control, and text that runs backwards; as letters,
    // what has to stay.
    let name = "\u{1b}[31m\u{1b}]0;x\u{7}\u{9b}5m\u{202e}हि";
    let (out, missing) = (folder.path().join(name), folder.path().join(format!("{name}-")));
    let leftover = folder.path().join(format!(".{name}.1-0.partial"));
    fs::create_dir(&leftover).unwrap();
    let renamed = folder.path().join(format!("{name}+"));
    let outputs = [
        quantize(&["convert", text(&source), text(&out), "--to", "q4_0"]),
        quantize(&["convert", text(&source), text(&out), "--to", "q4_0", "--json", "--force"]),
        quantize(&["convert", text(&source), text(&out), "--to", "q4_0"]),
        quantize(&["inspect", text(&out)]),
        quantize(&["verify", text(&out)]),
        quantize(&["compare", text(&source), text(&out)]),
        quantize(&["inspect", text(&missing)]),
        quantize(&["run", text(&missing), "--prompt", "a"]),
        quantize(&["convert", text(&source), text(&out), "--to", name]),
        quantize(&[name]),
        {
            fs::rename(&source, &renamed).unwrap();
            fs::remove_file(renamed.join("config.json")).unwrap();
            quantize(&["run", text(&renamed), "--prompt", "a"])
        },
    ];
    for output in &outputs {
        let printed = stdout(output) + &stderr(output);
        let steering = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!printed.contains(steering), "{printed:?}");
    }
    assert_eq!(outputs.each_ref().map(|output| output.status.code().unwrap()), [0, 0, 2, 0, 0, 0, 2, 2, 2, 2, 2]);
    assert!(stderr(&outputs[0]).contains("note: removed ") && stderr(&outputs[0]).contains("हि"), "{outputs:?}");
    let report: Value = serde_json::from_slice(&outputs[1].stdout).unwrap();
    assert_eq!(report["out"], text(&out), "the same text in JSON");
}

/// A name with a line end could say anything in a line of its own.
#[cfg(unix)]
#[test]
fn no_name_begins_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let source = checkpoint(folder.path(), unchanged);
    let name = |name: &str| folder.path().join(format!("{name}\nnote: all is well"));
    let (out, missing, odd) = (name("out"), name("missing"), name("odd"));
    let renamed = name("source");
    fs::rename(source, &renamed).unwrap();
    fs::create_dir(folder.path().join(format!(".{}.1-0.partial", out.file_name().unwrap().to_str().unwrap()))).unwrap();
    fs::write(&odd, "no model").unwrap();
    let (source, out, missing, odd) = (text(&renamed), text(&out), text(&missing), text(&odd));
    let page = format!("{odd}.html");
    let commands: [&[&str]; 17] = [
        &["convert", source, out, "--to", "q4_0", "--dry-run"],
        &["convert", source, out, "--to", "q4_0"],
        &["convert", source, out, "--to", "q4_0"],
        &["convert", source, odd, "--to", "q4_0", "--force"],
        &["convert", missing, out],
        &["convert", source, &format!("{missing}/out")],
        &["convert", source, &format!("{odd}.gguf")],
        &["inspect", odd],
        &["verify", out, missing, odd],
        &["compare", source, missing],
        &["run", source, "--prompt", "a"],
        &["run", missing, "--prompt", "a"],
        &["embed", missing],
        &["eval", source, "--text", missing],
        &["eval", super::network::MODEL, "--text", missing],
        &["report", missing, "--text", missing, "-o", &page],
        &["bench", "--quick", "--compare", missing],
    ];
    for command in commands {
        let output = quantize(command);
        let printed = stdout(&output) + &stderr(&output);
        assert!(!printed.lines().any(|line| line.starts_with("note: all")), "{command:?}: {printed}");
        assert!(!printed.contains("panicked"), "{command:?}: {printed}");
    }
    assert!(Path::new(out).is_dir());
}
