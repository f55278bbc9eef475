//! `quantize bench`: what it prints and draws, on matrices too small to say anything.

use std::fs;

use serde_json::Value;

use super::{json, ok, quantize, refused, stderr, text};

const QUICK: &[&str] = &["bench", "--quick", "--size", "512", "--threads", "2"];

fn bench<'a>(more: &[&'a str]) -> Vec<&'a str> {
    QUICK.iter().chain(more).copied().collect()
}

#[test]
fn speeds_stand_beside_limits_and_errors() {
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("speed.svg");
    let report = json(&bench(&["--formats", "q4_0,q8_0", "--rows", "8,1", "--json", "--plot", text(&picture)]));

    let limits = report["limits"].as_array().unwrap();
    let names: Vec<&str> = limits.iter().map(|limit| limit["name"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["read, small pages", "read, huge pages", "read, mapped file", "integer arithmetic", "f32 arithmetic"]
    );
    for limit in limits {
        let threads: Vec<&Value> = limit["speeds"].as_array().unwrap().iter().map(|speed| &speed["threads"]).collect();
        assert_eq!(threads, [1, 2]);
        assert!(limit["speeds"][0]["speed"].as_f64().unwrap() > 0.0);
    }

    let formats = report["formats"].as_array().unwrap();
    let names: Vec<&str> = formats.iter().map(|format| format["format"].as_str().unwrap()).collect();
    assert_eq!(names, ["q8_0", "q4_0", "f32"]);
    for format in formats {
        let speeds = format["speeds"].as_array().unwrap();
        let of = |speed: &Value| (speed["rows"].as_u64().unwrap(), speed["threads"].as_u64().unwrap());
        assert_eq!(speeds.iter().map(of).collect::<Vec<_>>(), [(1, 1), (1, 2), (8, 1), (8, 2)]);
        for speed in speeds {
            assert!(speed["rounds"].as_u64().unwrap() >= 3);
            for figure in ["seconds", "gigabytes_per_second", "gigaops_per_second", "of_limit"] {
                assert!(speed[figure].as_f64().unwrap() > 0.0, "{figure}");
            }
        }
        let models = format["models"].as_array().unwrap();
        let parameters: Vec<f64> = models.iter().map(|model| model["parameters"].as_f64().unwrap()).collect();
        assert_eq!(parameters, [1e9, 7e9, 70e9]);
        assert!(models.iter().all(|model| model["tokens_per_second"].as_f64().unwrap() > 0.0));
    }
    let error = |i: usize| formats[i]["relative_rms"].as_f64().unwrap();
    assert!(0.004 < error(0) && error(0) < 0.008, "q8_0: {}", error(0));
    assert!(0.06 < error(1) && error(1) < 0.10, "q4_0: {}", error(1));

    let exact = json(&bench(&["--formats", "q4_0", "--rows", "8", "--exact-activations", "--json"]));
    assert_eq!((&report["activations"], &exact["activations"]), (&"rounded".into(), &"exact".into()));

    // Which run this was, and under what circumstances.
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert!(report["date"].as_str().unwrap().ends_with('Z') && report["commit"].as_str().is_none_or(|c| c.len() >= 12));
    for field in ["processor", "architecture", "system"] {
        assert!(!report["machine"][field].as_str().unwrap().is_empty(), "{field}");
    }
    assert_eq!((&report["size"], &report["threads"]), (&serde_json::json!([512, 512]), &serde_json::json!([1, 2])));
    let (cold, caches) = (&report["cold_bytes"], &report["machine"]["cache_bytes"]);
    let (cold, caches) = (cold.as_u64().unwrap(), caches.as_u64().unwrap());
    assert!(cold <= 256 << 20, "--quick writes no large files");
    assert_eq!(report["from_memory"], cold >= 4 * caches);
    let load = &report["load"];
    assert_eq!(load["busy"], !load["reasons"].as_array().unwrap().is_empty());
    let disturbed = formats.iter().flat_map(|format| format["speeds"].as_array().unwrap());
    let disturbed = disturbed.filter(|speed| speed["disturbed"].as_bool().unwrap()).count();
    assert_eq!(load["disturbed"], disturbed);

    let svg = fs::read_to_string(picture).unwrap();
    assert_eq!(svg.contains("while this machine did other work"), load["busy"].as_bool().unwrap());
    check_well_formed(&svg);
    for label in ["q8_0", "q4_0", "f32", "Generating: one row", "Reading a prompt: 8 rows", "2 threads"] {
        assert!(svg.contains(&format!(">{label}</text>")), "{label}");
    }
}

/// The names of all fields of a value, and of what is in it.
fn fields(value: &Value, found: &mut std::collections::BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            found.extend(object.keys().cloned());
            object.values().for_each(|value| fields(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn runs_are_compared_and_every_field_is_documented() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("old.json");
    let speed = |rows: usize, threads: usize| serde_json::json!({"rows": rows, "threads": threads, "gigaops_per_second": 1.0, "spread": 0.1});
    let formats = serde_json::json!([{"format": "q4_0", "speeds": [speed(1, 1), speed(1, 3), speed(64, 1)]}]);
    let earlier = serde_json::json!({
        "schema": 1, "date": "2026-11-30T00:00:00Z", "size": [64, 64], "limits": [], "formats": formats,
    });
    fs::write(&old, earlier.to_string()).unwrap();

    let args = ["bench", "--quick", "--size", "512x256", "--threads", "1,3", "--formats", "q4_0", "--rows", "1"];
    let report = json(&[&args[..], &["--compare", text(&old), "--json"]].concat());
    assert_eq!((&report["threads"], &report["size"]), (&serde_json::json!([1, 3]), &serde_json::json!([512, 256])));
    let comparison = &report["comparison"];
    assert_eq!(comparison["date"], "2026-11-30T00:00:00Z");
    let warnings = comparison["warnings"].to_string();
    assert!(
        warnings.contains("matrix: 64 then, 512x256 now") && warnings.contains("not the same formats"),
        "{warnings}"
    );
    let cells = comparison["formats"].as_array().unwrap().iter().map(|cell| {
        assert!(cell["ratio"].as_f64().unwrap() > 0.0);
        format!("{} {} {}", cell["name"].as_str().unwrap(), cell["rows"], cell["threads"])
    });
    assert_eq!(cells.collect::<Vec<_>>(), ["q4_0 1 1", "q4_0 1 3"]);

    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarking.md");
    let docs = fs::read_to_string(docs).unwrap();
    let mut names = std::collections::BTreeSet::new();
    fields(&report, &mut names);
    assert!(names.len() > 40);
    for name in names {
        assert!(docs.contains(&format!("`{name}`")), "docs/benchmarking.md says nothing of {name}");
    }
    let missing = refused(&["bench", "--compare", "no/such.json"]);
    assert!(missing.contains("no/such.json"), "{missing}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interrupted_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_quantize"))
        .args(["bench", "--quick", "--size", "512", "--threads", "1", "--formats", "q4_0", "--plot"])
        .arg(folder.path().join("speed.svg"))
        .env("TMPDIR", folder.path())
        .spawn()
        .unwrap();
    // The mapped file is there, without a name.
    let maps = format!("/proc/{}/maps", run.id());
    let mapped = || fs::read_to_string(&maps).unwrap_or_default().contains(text(folder.path()));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(300);
    while !mapped() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(mapped(), "no file was mapped");
    assert!(super::listing(folder.path()).is_empty());
    // Not even a signal that no program can handle leaves a file.
    run.kill().unwrap();
    run.wait().unwrap();
    assert!(super::listing(folder.path()).is_empty());
}

/// Every element that is opened is closed, in order.
fn check_well_formed(svg: &str) {
    let mut open = vec![];
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap();
        assert!(text.split('&').skip(1).all(|entity| entity.contains(';')), "{text}");
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => {}
            None => open.push(tag.split_whitespace().next().unwrap()),
        }
    }
    assert!(open.is_empty() && svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

#[test]
fn a_model_lends_its_weights_and_a_person_reads_a_table() {
    let folder = tempfile::tempdir().unwrap();
    let source = super::checkpoint(folder.path(), super::unchanged);
    let printed = ok(&bench(&["--formats", "q4_0", "--rows", "1", "--isa", "scalar", "--model", text(&source)]));
    for fragment in ["instruction set  scalar", "of the matrices of", "512 x 512, 2 threads", "1 row GB/s", "70B size"]
    {
        assert!(printed.contains(fragment), "{fragment} in {printed}");
    }
    assert!(!printed.contains("GOP/s  of peak"), "one row only: {printed}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for (arguments, complaint) in [
        (&["--formats", "q4_9"][..], "unknown format \"q4_9\", expected q8_0, "),
        (&["--isa", "sse9"], "unknown instruction set"),
        (&["--rows", "0"], "1..=4096"),
        (&["--threads", "0"], "1..=512"),
        (&["--size", "7"], "32..=16384"),
        (&["--model", "no/such/checkpoint"], "no/such/checkpoint"),
        (&["--plot", "no/such/folder/speed.svg"], "is no folder"),
    ] {
        let found = refused(&[&["bench"], arguments].concat());
        assert!(found.contains(complaint), "{arguments:?}: {found}");
    }
    // Weights that cannot be packed.
    let folder = tempfile::tempdir().unwrap();
    let source = super::checkpoint(folder.path(), |_, numbers| numbers.fill(half::f16::NAN));
    let output = quantize(&bench(&["--formats", "q4_0", "--rows", "1", "--model", text(&source)]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("model.embed_tokens.weight: weight [0, 0] is NaN"), "{}", stderr(&output));
}
