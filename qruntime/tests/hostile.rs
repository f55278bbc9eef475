//! Hostile and damaged files: each is refused for its own reason, at little cost, and files that
//! are not refused can be read.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use qruntime::FileErrorKind::{self, Foreign, Json, Metadata, NotSafetensors, Shards, Tensor, Version};
use qruntime::{Error, Model};
use support::{allocations, assembled, small_file};

/// The header of a small, complete file, without the description.
const HEADER: &str = r#"{"__metadata__":{"qruntime":DESCRIPTION},"w":{"dtype":"U8","shape":[320],"data_offsets":[0,320]},"b":{"dtype":"F32","shape":[2],"data_offsets":[320,328]}}"#;

/// The file's description of the packed tensor.
const DESCRIPTION: &str = r#"{"version":1,"tensors":[{"name":"w","xxh3":"0123456789abcdef","packed":{"format":"q4_0","layout":"panel16","shape":[1,32]}}]}"#;

/// The size of the file's data in bytes.
const DATA: usize = 328;

/// Makes a file of a header and a description.
fn file(header: &str, description: &str) -> Vec<u8> {
    let description = serde_json::to_string(description).unwrap();
    assembled(&header.replace("DESCRIPTION", &description), &[0; DATA])
}

/// Returns the small file.
fn whole() -> Vec<u8> {
    file(HEADER, DESCRIPTION)
}

/// Returns the small file with one piece of text replaced by another of any length.
fn altered(from: &str, to: &str) -> Vec<u8> {
    let replace = |text: &str| text.replacen(from, to, 1);
    match (HEADER.contains(from), DESCRIPTION.contains(from)) {
        (true, false) => file(&replace(HEADER), DESCRIPTION),
        (false, true) => file(HEADER, &replace(DESCRIPTION)),
        _ => panic!("{from} must be in the header or in the description"),
    }
}

/// Returns the small file with these data offsets.
fn offsets(w: [u64; 2], b: [u64; 2]) -> Vec<u8> {
    let header = HEADER.replace("[0,320]", &format!("{w:?}")).replace("[320,328]", &format!("{b:?}"));
    file(&header, DESCRIPTION)
}

/// Makes a file that claims this length of its header.
fn with_length(len: u64) -> Vec<u8> {
    let mut file = whole();
    file[..8].copy_from_slice(&len.to_le_bytes());
    file
}

/// Nine tensors of nearly 2⁶¹ bytes each: their end is within a few bytes of 2⁶⁴.
fn end_overflows() -> Vec<u8> {
    let most = (1u64 << 61) - 1;
    let tensor = |i: u64| {
        let end = (i + 1).saturating_mul(most).min(u64::MAX - 3);
        format!(r#""{i}":{{"dtype":"U8","shape":[{}],"data_offsets":[{},{end}]}}"#, end - i * most, i * most)
    };
    let tensors: Vec<String> = (0..9).map(tensor).collect();
    assembled(&format!("{{{}}}", tensors.join(",")), &[])
}

/// Name, file, and the expected error: its kind, and a part of its message.
type Row = (&'static str, Vec<u8>, FileErrorKind, &'static str);

fn not_safetensors() -> Vec<Row> {
    let not_utf8 = || {
        let mut file = altered("\"w\":", "\"\u{e9}\":");
        let at = file.iter().position(|&b| b == 0xc3).unwrap();
        file[at] = 0xff;
        file
    };
    let nested = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    vec![
        ("empty", vec![], NotSafetensors, "shorter than"),
        ("seven bytes", vec![0; 7], NotSafetensors, "shorter than"),
        ("no header", vec![0; 8], NotSafetensors, "header of 0 bytes"),
        ("header beyond the file", with_length(10_000), NotSafetensors, "header of 10000 bytes"),
        ("header beyond the limit", with_length(100_000_001), NotSafetensors, "at most 100000000"),
        ("header of 2⁶⁴-1 bytes", with_length(u64::MAX), NotSafetensors, "at most 100000000"),
        ("header of 2⁶³ bytes", with_length(1 << 63), NotSafetensors, "at most 100000000"),
        ("header cut in the middle", with_length(100), NotSafetensors, "EOF"),
        ("text after the header", altered("[320,328]}}", "[320,328]}}x"), NotSafetensors, "trailing characters"),
        ("not UTF-8", not_utf8(), NotSafetensors, "utf-8"),
        ("not JSON", assembled("GGUF", &[]), NotSafetensors, "expected value"),
        ("a list", assembled("[]", &[]), NotSafetensors, "expected a map"),
        ("deep nesting", assembled(&nested(100_000), &[]), NotSafetensors, "expected a map"),
        ("deep nesting inside", altered("[2]", &nested(100_000)), NotSafetensors, "invalid type"),
        ("metadata that is no text", altered("DESCRIPTION", "1"), NotSafetensors, "expected a string"),
        ("metadata twice", altered("\"w\":", "\"__metadata__\":{},\"w\":"), NotSafetensors, "there twice"),
        (
            "metadata twice, null first",
            assembled(r#"{"__metadata__":null,"__metadata__":{}}"#, &[]),
            NotSafetensors,
            "there twice",
        ),
        ("unknown number type", altered("F32", "F31"), NotSafetensors, "tensor \"b\": unknown variant `F31`"),
        ("number type that speaks to a terminal", altered("F32", "\\u001b[31m"), NotSafetensors, "`\\u{1b}[31m`"),
        ("no number type", altered("\"dtype\":\"F32\",", ""), NotSafetensors, "missing field `dtype`"),
        ("negative dimension", altered("[2]", "[-2]"), NotSafetensors, "expected usize"),
        ("broken dimension", altered("[2]", "[2.0]"), NotSafetensors, "expected usize"),
        ("dimension of 2⁶⁴", altered("[2]", "[18446744073709551616]"), NotSafetensors, "expected usize"),
        ("shape overflow", altered("[2]", "[4294967296,4294967296,4]"), NotSafetensors, "F32 [4294967296"),
        (
            "shape overflow in bytes",
            altered("[2]", "[4611686018427387904]"),
            NotSafetensors,
            "F32 [4611686018427387904",
        ),
        ("half a byte", altered("\"F32\",\"shape\":[2]", "\"F4\",\"shape\":[3]"), NotSafetensors, "F4 [3]"),
        ("too few bytes", altered("[2]", "[3]"), NotSafetensors, "F32 [3]"),
        ("too many bytes", altered("[2]", "[1]"), NotSafetensors, "F32 [1]"),
        ("the same tensor twice", altered("\"b\":", "\"w\":"), NotSafetensors, "there twice"),
        (
            "an empty tensor twice",
            altered("\"b\":", r#""b":{"dtype":"F32","shape":[0],"data_offsets":[320,320]},"b":"#),
            NotSafetensors,
            "there twice",
        ),
        ("overlap", offsets([0, 320], [319, 327]), NotSafetensors, "bytes 319..327"),
        ("gap", offsets([0, 320], [321, 329]), NotSafetensors, "bytes 321..329"),
        ("gap at the beginning", offsets([1, 321], [321, 329]), NotSafetensors, "bytes 1..321"),
        (
            "beyond the end",
            offsets([0, 320], [320, 1 << 40]),
            NotSafetensors,
            "bytes 320..1099511627776 of the data, of which 328",
        ),
        ("decreasing", offsets([0, 320], [320, 312]), NotSafetensors, "bytes 320..312"),
        (
            "offset of 2⁶⁴-1",
            offsets([0, 320], [320, u64::MAX]),
            NotSafetensors,
            "bytes 320..18446744073709551615 of the data",
        ),
        ("end overflows", end_overflows(), NotSafetensors, "bytes 0..2305843009213693951 of the data, of which 0"),
        ("bytes at the end", [whole(), vec![0]].concat(), NotSafetensors, "end at byte 328 of 329"),
    ]
}

fn bad_description() -> Vec<Row> {
    let last = "\"packed\":{\"format\":\"q4_0\",\"layout\":\"panel16\",\"shape\":[1,32]}}";
    let twice = format!("{last},{{\"name\":\"w\",\"xxh3\":\"0123456789abcdef\"}}");
    let recipe = |text: &str| altered("\"version\":1,", &format!("\"version\":1,\"recipe\":{text},"));
    // One more byte of header text moves no data: the header is padded. 64 do, by a multiple of 64.
    // So the offset is made odd by hand.
    let misaligned = || {
        let mut file = whole();
        let len = u64::from_le_bytes(file[..8].try_into().unwrap()) + 1;
        file[..8].copy_from_slice(&len.to_le_bytes());
        file.insert(8 + len as usize - 1, b' ');
        file
    };
    vec![
        ("description is not JSON", file(HEADER, "{"), Metadata, "EOF"),
        ("description is a list", file(HEADER, "[1,[]]"), Metadata, "metadata \"qruntime\""),
        ("description is deeply nested", file(HEADER, &"[".repeat(100_000)), Metadata, "metadata \"qruntime\""),
        ("text after the description", file(HEADER, &format!("{DESCRIPTION}x")), Metadata, "trailing characters"),
        ("no version", altered("\"version\":1,", ""), Metadata, "missing field `version`"),
        ("version is text", altered("\"version\":1", "\"version\":\"1\""), Metadata, "expected u64"),
        ("version is broken", altered("\"version\":1", "\"version\":1.5"), Metadata, "expected u64"),
        ("version is negative", altered("\"version\":1", "\"version\":-1"), Metadata, "expected u64"),
        ("version twice", altered("\"version\":1", "\"version\":1,\"version\":1"), Metadata, "duplicate field"),
        ("version 0", altered("\"version\":1", "\"version\":0"), Metadata, "version 0"),
        ("later version", altered("\"version\":1", "\"version\":2"), Version, "version 2"),
        ("later version of another form", file(HEADER, "{\"tensors\":5,\"version\":7}"), Version, "version 7"),
        ("huge version", altered("\"version\":1", "\"version\":18446744073709551615"), Version, "version 1844"),
        ("no tensors", file(HEADER, "{\"version\":1}"), Metadata, "missing field `tensors`"),
        ("nameless tensor", altered("\"name\":\"w\",", ""), Metadata, "missing field `name`"),
        ("no checksum", altered("\"xxh3\":\"0123456789abcdef\",", ""), Metadata, "missing field `xxh3`"),
        ("no layout", altered("\"layout\":\"panel16\",", ""), Metadata, "missing field `layout`"),
        ("negative rows", altered("[1,32]", "[-1,32]"), Metadata, "expected usize"),
        ("deep recipe", recipe(&format!("{}{}", "[".repeat(200), "]".repeat(200))), Metadata, "recursion limit"),
        ("huge recipe", recipe(&format!("[{}0]", "0,".repeat(1 << 20))), Metadata, "recipe of 2097155 bytes"),
        ("short checksum", altered("0123456789abcdef", "123456789abcdef"), Tensor, "checksum"),
        ("long checksum", altered("0123456789abcdef", "00123456789abcdef"), Tensor, "checksum"),
        ("signed checksum", altered("0123456789abcdef", "+123456789abcdef"), Tensor, "checksum"),
        ("upper-case checksum", altered("0123456789abcdef", "0123456789ABCDEF"), Tensor, "checksum"),
        ("checksum of other digits", altered("0123456789abcdef", "0123456789abcdeg"), Tensor, "16 hexadecimal digits"),
        ("unknown format", altered("q4_0", "q9_9"), Tensor, "unknown format \"q9_9\""),
        ("unknown layout", altered("panel16", "panel32"), Tensor, "layout \"panel32\""),
        ("described but absent", altered("\"name\":\"w\"", "\"name\":\"v\""), Tensor, "not in the file"),
        ("described twice", altered(last, &twice), Tensor, "described twice"),
        ("one dimension", altered("[1,32]", "[32]"), Tensor, "two or more dimensions"),
        ("no dimension", altered("[1,32]", "[]"), Tensor, "two or more dimensions"),
        ("no rows", altered("[1,32]", "[0,32]"), Tensor, "none empty"),
        ("no columns", altered("[1,32]", "[1,0]"), Tensor, "none empty"),
        ("no matrices", altered("[1,32]", "[0,1,32]"), Tensor, "none empty"),
        ("2⁶⁴-1 rows", altered("[1,32]", "[18446744073709551615,32]"), Tensor, "representable"),
        ("2⁶⁴-1 columns", altered("[1,32]", "[1,18446744073709551615]"), Tensor, "representable"),
        ("2⁶⁴-1 matrices", altered("[1,32]", "[18446744073709551615,1,32]"), Tensor, "representable"),
        ("2⁶⁴ weights", altered("[1,32]", "[4294967296,4294967296]"), Tensor, "representable"),
        ("2⁶⁰ bytes", altered("[1,32]", "[1099511627776,1048576]"), Tensor, "expected U8"),
        ("one row too many", altered("[1,32]", "[17,32]"), Tensor, "expected U8 [576]"),
        ("one column too many", altered("[1,32]", "[1,33]"), Tensor, "expected U8 [576]"),
        ("two matrices", altered("[1,32]", "[2,1,32]"), Tensor, "expected U8 [576]"),
        ("another format", altered("q4_0", "q8_0"), Tensor, "expected U8 [576]"),
        ("signed bytes", altered("\"U8\"", "\"I8\""), Tensor, "stored as I8 [320], expected U8 [320]"),
        ("bytes in two dimensions", altered("[320],", "[2,160],"), Tensor, "stored as U8 [2, 160]"),
        ("misaligned", misaligned(), Tensor, "multiple of 64"),
    ]
}

/// Most bytes that opening may hold for each byte of the header. Text becomes numbers and lists.
/// The densest is a shape: two bytes of text (`0,`) become a number of 8 bytes in a list that
/// doubles, and while it doubles, the old and the new list exist at once: 12. Names and the
/// description's text are added to that.
const PER_HEADER_BYTE: usize = 16;

/// Most bytes that opening may hold in addition, for error messages.
const CONSTANT: usize = 64 << 10;

fn most_memory(file: &[u8]) -> usize {
    let announced = file.first_chunk().map_or(0, |len| u64::from_le_bytes(*len));
    PER_HEADER_BYTE * announced.min(file.len() as u64) as usize + CONSTANT
}

#[test]
fn each_file_is_refused_for_its_own_reason_and_at_little_cost() {
    let mut wrong = Vec::new();
    for (name, file, kind, fragment) in not_safetensors().into_iter().chain(bad_description()) {
        let (result, asked) = allocations::measure(|| catch_unwind(AssertUnwindSafe(|| Model::from_bytes(&file))));
        let found = match result {
            Ok(Err(Error::File(error))) if error.kind() == kind && error.to_string().contains(fragment) => {
                if asked.peak <= most_memory(&file) {
                    continue;
                }
                format!("{} bytes held, expected at most {}", asked.peak, most_memory(&file))
            }
            Ok(Err(Error::File(error))) => format!("{:?}: {:.300}", error.kind(), error.to_string()),
            Ok(other) => format!("{other:?}"),
            Err(_) => "a panic".into(),
        };
        wrong.push(format!("{name}: expected {kind:?}: {fragment}, found {found}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_file_that_the_table_alters_is_a_good_one() {
    let model = Model::from_bytes(&whole()).unwrap();
    assert_eq!(model.packed("w").unwrap().shape(), [1, 32]);
    assert_eq!(model.plain("b").unwrap().shape(), [2]);
    assert_eq!(model.verify("w").unwrap(), Some(false));
}

#[test]
fn opening_holds_no_more_than_a_few_times_the_header() {
    // Just above a power of two, so lists have just doubled.
    let many = (1 << 17) + 1;
    let list = |item: &dyn Fn(usize) -> String| (0..many).map(item).collect::<Vec<_>>().join(",");
    let empty = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    let described = list(&|i| format!(r#"{{"name":"{i}","xxh3":"0123456789abcdef"}}"#));
    let description = serde_json::to_string(&format!("{{\"version\":1,\"tensors\":[{described}]}}")).unwrap();
    let tensors = list(&|i| format!(r#""{i}":{empty}"#));
    let rows = [
        ("dimensions", altered("[2]", &format!("[{}]", list(&|_| "1".into())))),
        ("dimensions of a packed tensor", altered("[1,32]", &format!("[{}]", list(&|_| "1".into())))),
        (
            "descriptions",
            altered("\"tensors\":[", &format!("\"tensors\":[{},", list(&|_| r#"{"name":"","xxh3":""}"#.into()))),
        ),
        ("tensors", assembled(&format!("{{{tensors}}}"), &[])),
        ("described tensors", assembled(&format!(r#"{{"__metadata__":{{"qruntime":{description}}},{tensors}}}"#), &[])),
        ("metadata", altered("\"qruntime\"", &format!("{},\"qruntime\"", list(&|i| format!("\"{i}\":\"\""))))),
        ("lists in unknown places", altered("[2]", &format!("[2],\"x\":[{}]", list(&|_| "0".into())))),
        ("objects in unknown places", altered("[1,32]", &format!("[1,32],\"x\":[{}]", list(&|_| "{}".into())))),
        (
            "nested lists in unknown places",
            altered("[2]", &format!("[2],\"x\":{}{}", "[".repeat(many), "]".repeat(many))),
        ),
    ];
    let mut wrong = Vec::new();
    for (name, file) in rows {
        let (_, asked) = allocations::measure(|| Model::from_bytes(&file).map(drop));
        println!("{name}: {:.1} bytes per byte of header", asked.peak as f64 / file.len() as f64);
        if asked.peak > most_memory(&file) {
            wrong.push(format!("{name}: {} bytes held for a file of {}", asked.peak, file.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_dearest_recipe_holds_a_bounded_amount_of_memory() {
    // Short lists have capacity for four values of 72 bytes each.
    let recipe = format!("[{}0]", "[0],".repeat((1 << 18) - 1));
    let file = altered("\"version\":1,", &format!("\"version\":1,\"recipe\":{recipe},"));
    let (model, asked) = allocations::measure(|| Model::from_bytes(&file).unwrap());
    assert_eq!(model.recipe().as_array().unwrap().len(), 1 << 18);
    assert!(asked.peak < 160 * recipe.len(), "{} bytes held for {} of recipe", asked.peak, recipe.len());
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let file = small_file();
    Model::from_bytes(&file).unwrap();
    for len in 0..file.len() {
        let error = Model::from_bytes(&file[..len]).unwrap_err();
        assert!(matches!(&error, Error::File(error) if error.kind() == NotSafetensors), "{len}: {error}");
    }
}

/// Reads everything in a model.
fn read_all(model: &Model) {
    for entry in model.tensors() {
        model.verify(entry.name()).unwrap();
        match model.packed(entry.name()) {
            Ok(tensor) => {
                for i in 0..tensor.matrix_count() {
                    let matrix = tensor.matrix(i);
                    let mut row = vec![0.0; matrix.cols()];
                    (0..matrix.rows()).for_each(|r| matrix.decode_row(r, &mut row).unwrap());
                }
            }
            Err(_) => drop(model.plain(entry.name()).unwrap().to_f32()),
        }
    }
}

#[test]
fn any_byte_of_the_header_may_change() {
    let file = small_file();
    let header = 8 + u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let (mut opened, mut refused) = (0, 0);
    for at in 0..header {
        let old = file[at];
        for new in [0, 0xff, b'"', b'0', b'9', b'}', b' ', old ^ 1, old ^ 0x20, old ^ 0x80, old.wrapping_add(1)] {
            let mut file = file.clone();
            file[at] = new;
            match Model::from_bytes(&file) {
                Ok(model) => {
                    read_all(&model);
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{opened} opened, {refused} refused");
    assert!(opened > 0 && refused > opened);
}

#[test]
fn weights_of_any_bytes_can_be_read() {
    let file = small_file();
    let data = file.len() - DATA;
    for byte in 0..=255 {
        let mut file = file.clone();
        file[data..].fill(byte);
        read_all(&Model::from_bytes(&file).unwrap());
    }
}

/// Makes a folder with an index and two shards, both of which hold the tensors of the small file.
fn folder(index: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    fs::write(folder.path().join("one.safetensors"), small_file()).unwrap();
    fs::write(folder.path().join("two.safetensors"), small_file()).unwrap();
    folder
}

#[test]
fn folders_that_do_not_hang_together_are_refused() {
    let rows = [
        ("not JSON", "{", "not the JSON that is expected here"),
        ("no map", "{}", "missing field `weight_map`"),
        ("map of numbers", r#"{"weight_map":{"w":1}}"#, "expected a string"),
        ("not UTF-8", "\u{e9}", "not the JSON that is expected here"),
        ("empty map", r#"{"weight_map":{}}"#, "no shards"),
        ("nameless shard", r#"{"weight_map":{"w":""}}"#, "in the same folder"),
        ("parent", r#"{"weight_map":{"w":".."}}"#, "in the same folder"),
        ("this folder", r#"{"weight_map":{"w":"."}}"#, "in the same folder"),
        ("path traversal", r#"{"weight_map":{"w":"../one.safetensors"}}"#, "in the same folder"),
        ("path traversal later", r#"{"weight_map":{"w":"x/../../one.safetensors"}}"#, "in the same folder"),
        ("subfolder", r#"{"weight_map":{"w":"x/one.safetensors"}}"#, "in the same folder"),
        ("absolute path", r#"{"weight_map":{"w":"/etc/passwd"}}"#, "in the same folder"),
        ("a name that speaks to a terminal", r#"{"weight_map":{"w":"\u001b[31m"}}"#, "in the same folder"),
        ("a name with a zero byte", r#"{"weight_map":{"w":"one.safetensors\u0000"}}"#, "in the same folder"),
        ("one good, one bad", r#"{"weight_map":{"w":"one.safetensors","b":"/etc/passwd"}}"#, "in the same folder"),
        (
            "a shard that is not there",
            r#"{"weight_map":{"w":"one.safetensors","b":"three.safetensors"}}"#,
            "tensor \"b\": shard \"three.safetensors\" is missing",
        ),
        (
            "a tensor that its shard lacks",
            r#"{"weight_map":{"w":"one.safetensors","b":"one.safetensors","c":"one.safetensors"}}"#,
            "tensor \"c\": not in any shard, expected in \"one.safetensors\"",
        ),
        ("a tensor that is not listed", r#"{"weight_map":{"w":"one.safetensors"}}"#, "tensor \"b\": not in the index"),
        (
            "a tensor in two shards",
            r#"{"weight_map":{"w":"one.safetensors","b":"two.safetensors"}}"#,
            "also in \"one.safetensors\"",
        ),
    ];
    for (name, index, fragment) in rows {
        let folder = folder(index);
        match Model::read(folder.path()).unwrap_err() {
            Error::File(error) => {
                let is_json = ["not JSON", "no map", "map of numbers", "not UTF-8"].contains(&name);
                assert_eq!(error.kind(), if is_json { Json } else { Shards }, "{name}: {error}");
                assert!(error.to_string().contains(fragment), "{name}: {error}");
                assert!(error.path().is_some_and(|path| path.starts_with(folder.path())), "{name}: {error}");
            }
            error => panic!("{name}: {error:?}"),
        }
    }
}

#[test]
fn a_folder_without_an_index_has_one_file_that_can_be_a_model() {
    let shards = ["1-of-2.safetensors", "2-of-2.safetensors"];
    let rows = [
        (&["other.safetensors"][..], None),
        (&["model.safetensors", "other.safetensors"], None),
        (&[], Some((Foreign, "an empty folder"))),
        (&["other.bin"], Some((Foreign, "no .safetensors file, but PyTorch weights (\"other.bin\")"))),
        (&["other.txt"], Some((Shards, "no model.safetensors.index.json, model.safetensors or other"))),
        (&shards[..1], Some((Shards, "\"1-of-2.safetensors\" is one shard of several"))),
        (&shards, Some((Shards, "which of 2 .safetensors files belong together"))),
    ];
    for (names, refused) in rows {
        let folder = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(folder.path().join(name), small_file()).unwrap());
        match (Model::read(folder.path()), refused) {
            (Ok(model), None) => assert_eq!(model.tensors().count(), 2),
            (Err(Error::File(error)), Some((kind, fragment))) => {
                assert_eq!((error.kind(), error.path()), (kind, Some(folder.path())));
                assert!(error.to_string().contains(fragment), "{error}");
            }
            (found, _) => panic!("{names:?}: {found:?}"),
        }
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let empty = tempfile::tempdir().unwrap();
    let shard_is_a_folder = folder(r#"{"weight_map":{"w":"x"}}"#);
    fs::create_dir(shard_is_a_folder.path().join("x")).unwrap();
    let rows = [(empty.path().join("absent"), "absent"), (shard_is_a_folder.path().into(), "x")];
    for (path, name) in rows {
        match Model::read(&path).unwrap_err() {
            Error::Io { path, .. } => assert_eq!(path.file_name().unwrap(), name),
            error => panic!("{name}: {error:?}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_not_waited_for() {
    for name in ["model.safetensors", "model.safetensors.index.json"] {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let error = Model::read(folder.path()).unwrap_err();
        assert!(matches!(&error, Error::Io { path, .. } if *path == pipe), "{error:?}");
    }
}
