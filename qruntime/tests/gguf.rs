//! GGUF files: what is read, and what is refused, each for its own reason and at little cost.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use qruntime::FileErrorKind::{self, Foreign, Network, NotGguf, Shards, TooLong, Version};
use qruntime::gguf::{Array, ElementType, Gguf, Value};
use qruntime::{Dtype, Error, Format};
use support::allocations;
use support::expected::shared;
use support::gguf::{ARRAY, BOOL, GgufFile, I32, TEXT, TensorOfFile, U8, U32, U64, array, small, text};

#[test]
fn every_type_of_value_is_read() {
    let gguf = Gguf::parse(&small().bytes()).unwrap();
    let expected = [
        ("a.bytes", Value::Array(Array::Integers(vec![1, 255]))),
        ("a.f64", Value::Float(0.1)),
        ("a.flag", Value::Bool(true)),
        ("a.flags", Value::Array(Array::Bools(vec![true, false]))),
        ("a.i16", Value::Signed(-1)),
        ("a.i32", Value::Signed(-5)),
        ("a.i64", Value::Signed(i64::MIN)),
        ("a.i8", Value::Signed(-128)),
        ("a.lists", Value::Array(Array::Arrays(vec![Array::Integers(vec![1, -2]), Array::Texts(vec![])]))),
        ("a.u16", Value::Unsigned(513)),
        ("a.u64", Value::Unsigned(u64::MAX)),
        ("a.u8", Value::Unsigned(200)),
        ("general.architecture", Value::Text("llama".into())),
        ("llama.block_count", Value::Unsigned(2)),
        ("llama.head_count", Value::Array(Array::Integers(vec![4, 8]))),
        ("llama.rope.freq_base", Value::Float(1e4)),
        ("tokenizer.ggml.scores", Value::Array(Array::Floats(vec![0.0, -1.5, f32::NEG_INFINITY]))),
        ("tokenizer.ggml.tokens", Value::Array(Array::Texts(vec!["<s>".into(), "".into(), "é".into()]))),
    ];
    assert_eq!(gguf.metadata().iter().map(|(key, value)| (key, value.clone())).collect::<Vec<_>>(), expected);
    assert_eq!((gguf.version(), gguf.paths().len()), (3, 0));
}

#[test]
fn tensors_are_where_the_file_says() {
    for (version, alignment) in [(3, 32), (2, 32), (3, 8), (3, 4096)] {
        let mut file = small();
        (file.version, file.alignment) = (version, alignment);
        if alignment != 32 {
            file = file.number("general.alignment", alignment as u32);
        }
        let bytes = file.bytes();
        let gguf = Gguf::parse(&bytes).unwrap();
        assert_eq!(gguf.version(), version);
        let [norm, w] = gguf.tensors() else { panic!("{:?}", gguf.tensors()) };
        assert_eq!(
            (norm.name(), norm.shape(), norm.element_type()),
            ("norm.weight", &[3][..], ElementType::Plain(Dtype::F32))
        );
        assert_eq!(
            (w.name(), w.shape(), w.element_type()),
            ("w.weight", &[2, 32][..], ElementType::Blocks(Format::Q8_0))
        );
        assert_eq!((w.rows(), w.elements(), w.file()), (2, 64, 0));
        for (tensor, data) in [(norm, &file.tensors[0].data), (w, &file.tensors[1].data)] {
            let range = tensor.range();
            assert!(range.start.is_multiple_of(alignment as u64));
            assert_eq!(&bytes[range.start as usize..range.end as usize], data);
        }
    }
}

/// Tensors in another order than their data.
#[test]
fn tensors_come_in_the_order_of_their_data() {
    let mut file = small();
    let [norm, w] = &mut file.tensors[..] else { unreachable!() };
    (norm.offset, w.offset) = (Some(96), Some(0));
    let mut bytes = file.header();
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.resize(bytes.len() + 96 + 12, 7);
    let gguf = Gguf::parse(&bytes).unwrap();
    assert_eq!(gguf.tensors().iter().map(|tensor| tensor.name()).collect::<Vec<_>>(), ["w.weight", "norm.weight"]);
    // The last tensor need not be padded.
    assert_eq!(gguf.tensors()[1].range().end, bytes.len() as u64);
}

#[test]
fn readers_name_key_and_expectation() {
    let gguf = Gguf::parse(&small().bytes()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.architecture().unwrap(), "llama");
    let key = metadata.key("block_count").unwrap();
    assert_eq!(metadata.size(&key, 1..=2).unwrap(), Some(2));
    assert_eq!(metadata.size("a.none", 1..=2).unwrap(), None);
    assert_eq!(metadata.text("general.architecture").unwrap(), Some("llama"));
    assert_eq!(metadata.number("llama.rope.freq_base").unwrap(), Some(1e4));
    assert_eq!(metadata.number("a.i8").unwrap(), Some(-128.0));
    assert_eq!(metadata.flag("a.flag").unwrap(), Some(true));
    assert_eq!(metadata.flags("a.flags").unwrap(), Some(vec![true, false]));
    assert_eq!(metadata.texts("tokenizer.ggml.tokens").unwrap().unwrap(), ["<s>", "", "é"]);
    assert_eq!(metadata.sizes("llama.head_count").unwrap(), Some(vec![4, 8]));
    assert_eq!(metadata.sizes("llama.block_count").unwrap(), Some(vec![2]));
    assert_eq!(metadata.integers("llama.head_count").unwrap(), Some(&[4, 8][..]));
    assert_eq!(metadata.numbers("tokenizer.ggml.scores").unwrap(), Some(vec![0.0, -1.5, f32::NEG_INFINITY]));

    let errors = [
        (metadata.size(&key, 3..=9).map(drop), "\"llama.block_count\": 2, expected an integer from 3 to 9"),
        (metadata.size("a.i8", 0..=9).map(drop), "\"a.i8\": -128, expected an integer from 0 to 9"),
        (metadata.text("a.u8").map(drop), "\"a.u8\": 200, expected a text"),
        (metadata.number("a.flag").map(drop), "\"a.flag\": true, expected a finite number"),
        (metadata.flag("a.u8").map(drop), "\"a.u8\": 200, expected true or false"),
        (metadata.texts("a.lists").map(drop), "\"a.lists\": a list of 2 lists, expected a list of texts"),
        (metadata.sizes("a.i8").map(drop), "\"a.i8\": -128, expected integers from 0"),
        (metadata.sizes("a.flags").map(drop), "\"a.flags\": a list of 2 truth values, expected integers from 0"),
        (metadata.integers("tokenizer.ggml.scores").map(drop), "a list of 3 numbers, expected a list of integers"),
        (metadata.numbers("general.architecture").map(drop), "\"general.architecture\": \"llama\", expected a list of"),
    ];
    for (result, expected) in errors {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Network, "{error}");
        assert!(error.to_string().contains(expected), "{error}, expected {expected}");
    }
    let nameless = Gguf::parse(&GgufFile::default().bytes()).unwrap();
    let error = nameless.metadata().key("block_count").unwrap_err();
    assert!(error.to_string().contains("\"general.architecture\": missing"), "{error}");
}

/// Name, file, and the expected error: its kind, and a part of its message.
type Row = (&'static str, Vec<u8>, FileErrorKind, &'static str);

/// Returns the small file, altered.
fn altered(alter: impl FnOnce(&mut GgufFile)) -> Vec<u8> {
    let mut file = small();
    alter(&mut file);
    file.bytes()
}

/// Returns the small file with its second tensor altered.
fn tensor(alter: impl FnOnce(&mut TensorOfFile)) -> Vec<u8> {
    altered(|file| alter(&mut file.tensors[1]))
}

/// Returns the small file with one more key.
fn value(key: impl AsRef<[u8]>, value_type: u32, value: &[u8]) -> Vec<u8> {
    small().value(key, value_type, value).bytes()
}

/// Returns a list that announces this many values.
fn announced(element_type: u32, count: u64) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &count.to_le_bytes()].concat()
}

/// Returns the beginning of a text that announces this length.
fn announced_text(len: u64) -> Vec<u8> {
    len.to_le_bytes().to_vec()
}

fn bad_beginnings() -> Vec<Row> {
    let version = |version| altered(|file| file.version = version);
    let magic = |magic| altered(|file| file.magic = magic);
    vec![
        ("empty", vec![], NotGguf, "8 bytes are missing"),
        ("magic alone", b"GGUF".to_vec(), NotGguf, "4 bytes are missing"),
        ("another magic number", magic(*b"GGUE"), NotGguf, "begins with \"GGUE\", expected \"GGUF\""),
        ("a short file of something else", b"\0\x01".to_vec(), NotGguf, "begins with"),
        ("an older format", magic(*b"tjgg"), Foreign, "before GGUF"),
        ("a zip archive", magic(*b"PK\x03\x04"), Foreign, "zip archive"),
        ("version 0", version(0), NotGguf, "version 0"),
        ("version 1", version(1), Foreign, "version 1 of GGUF, which is not read"),
        ("version 4", version(4), Version, "version 4 of GGUF, expected 2 or 3"),
        ("big-endian version 3", version(3 << 24), Foreign, "a big-endian GGUF file"),
        ("big-endian version 2", version(2 << 24), Foreign, "a big-endian GGUF file"),
        (
            "2⁶⁴-1 tensors",
            altered(|file| file.tensor_count = Some(u64::MAX)),
            NotGguf,
            "18446744073709551615 tensors takes",
        ),
        (
            "2³² tensors",
            altered(|file| file.tensor_count = Some(1 << 32)),
            NotGguf,
            "description of 4294967296 tensors",
        ),
        ("one tensor too many", altered(|file| file.tensor_count = Some(3)), NotGguf, "the name of tensor 3 of 3"),
        (
            "2⁶⁴-1 keys",
            altered(|file| file.key_count = Some(u64::MAX)),
            NotGguf,
            "metadata of 18446744073709551615 keys",
        ),
        ("2³² keys", altered(|file| file.key_count = Some(1 << 32)), NotGguf, "metadata of 4294967296 keys"),
        ("a key too many", altered(|file| file.key_count = Some(19)), NotGguf, "the name of tensor 1 of 2 is \"\""),
    ]
}

fn bad_metadata() -> Vec<Row> {
    let nested = |depth: usize| (1..depth).fold(array(I32, &[]), |inner, _| array(ARRAY, &[inner]));
    let deep = announced(ARRAY, 1).repeat(100_000);
    let long = |len: usize| vec![b'k'; len];
    vec![
        ("a key of 2⁶³ bytes", value("", 0, &[]).replace_first_key(1 << 63), NotGguf, "expected at most 65535"),
        (
            "a key that the file has no room for",
            value("", 0, &[]).replace_first_key(60_000),
            NotGguf,
            "bytes are missing",
        ),
        ("an empty key", value("", U8, &[1]), NotGguf, "key 19 of 19 is \"\", expected a name"),
        ("a long key", value(long(65536), U8, &[1]), NotGguf, "key 19 of 19 of 65536 bytes, expected at most 65535"),
        ("a key with a zero byte", value("a\0b", U8, &[1]), NotGguf, "key 19 of 19 is \"a\\0b\""),
        ("a key that is not UTF-8", value(b"a\xff", U8, &[1]), NotGguf, "key 19 of 19: invalid utf-8"),
        ("a key twice", value("a.u8", U8, &[1]), NotGguf, "\"a.u8\" is there twice"),
        ("a value of type 13", value("b", 13, &[1]), NotGguf, "\"b\" has values of type 13, expected one from 0 to 12"),
        ("a value of type 2³²-1", value("b", u32::MAX, &[1]), NotGguf, "values of type 4294967295"),
        ("neither true nor false", value("b", BOOL, &[2]), NotGguf, "\"b\" is 2, expected 0 or 1"),
        ("neither true nor false in a list", value("b", ARRAY, &array(BOOL, &[vec![255]])), NotGguf, "\"b\" is 255"),
        (
            "a text of 2⁶⁴-1 bytes",
            value("b", TEXT, &announced_text(u64::MAX)),
            NotGguf,
            "\"b\" of 18446744073709551615 bytes",
        ),
        (
            "a text that goes on too far",
            value("b", TEXT, &announced_text(1 << 20)),
            NotGguf,
            "\"b\" takes 1048576 bytes",
        ),
        ("a text that is not UTF-8", value("b", TEXT, &text(b"\xc3")), NotGguf, "\"b\": incomplete utf-8"),
        (
            "a list of texts that are not UTF-8",
            small().texts("b", &[b"\xff"]).bytes(),
            NotGguf,
            "a text of \"b\": invalid utf-8",
        ),
        ("a list of type 13", value("b", ARRAY, &announced(13, 0)), NotGguf, "\"b\" has values of type 13"),
        (
            "a list of 2⁶⁴-1 bytes",
            value("b", ARRAY, &announced(U8, u64::MAX)),
            NotGguf,
            "the list \"b\" of 18446744073709551615 takes",
        ),
        (
            "a list of 2⁶¹ integers",
            value("b", ARRAY, &announced(U64, 1 << 61)),
            NotGguf,
            "the list \"b\" of 2305843009213693952 takes",
        ),
        ("a list of 2⁶¹ texts", value("b", ARRAY, &announced(TEXT, 1 << 61)), NotGguf, "bytes are missing"),
        ("a list of 2⁶⁰ lists", value("b", ARRAY, &announced(ARRAY, 1 << 60)), NotGguf, "bytes are missing"),
        ("a list whose last value is missing", value("b", ARRAY, &announced(U64, 1000)), NotGguf, "takes 8000 bytes"),
        (
            "an integer beyond the range",
            value("b", ARRAY, &array(U64, &[vec![255; 8]])),
            NotGguf,
            "\"b\" holds 18446744073709551615",
        ),
        ("lists within lists", value("b", ARRAY, &nested(5)), NotGguf, "more than 4 lists within each other"),
        ("lists within lists without end", value("b", ARRAY, &deep), NotGguf, "more than 4 lists within each other"),
    ]
}

fn bad_alignments() -> Vec<Row> {
    let number = |alignment: u32| value("general.alignment", U32, &alignment.to_le_bytes());
    vec![
        ("alignment 0", number(0), NotGguf, "\"general.alignment\": 0, expected a power of two from 8 to 65536"),
        ("alignment 1", number(1), NotGguf, "\"general.alignment\": 1"),
        ("alignment 4", number(4), NotGguf, "\"general.alignment\": 4"),
        ("alignment 24", number(24), NotGguf, "\"general.alignment\": 24"),
        ("alignment 2¹⁷", number(1 << 17), NotGguf, "\"general.alignment\": 131072"),
        (
            "alignment 2⁶³",
            value("general.alignment", U64, &(1u64 << 63).to_le_bytes()),
            NotGguf,
            "\"general.alignment\"",
        ),
        (
            "negative alignment",
            value("general.alignment", I32, &(-32i32).to_le_bytes()),
            NotGguf,
            "\"general.alignment\": -32",
        ),
        ("alignment in words", value("general.alignment", TEXT, &text("32")), NotGguf, "\"general.alignment\": \"32\""),
    ]
}

/// Makes tensors each of which could be in a file, but not both.
fn beyond_u64(file: &mut GgufFile) {
    for tensor in &mut file.tensors {
        (tensor.element_type, tensor.shape) = (8, vec![32, 1 << 58]);
    }
    file.tensors[1].offset = Some(34 << 58);
}

fn bad_tensors() -> Vec<Row> {
    let of_type = |element_type| tensor(|w| w.element_type = element_type);
    let shape = |shape: &[u64]| tensor(|w| w.shape = shape.to_vec());
    let offset = |offset| tensor(|w| w.offset = Some(offset));
    vec![
        ("no name", tensor(|w| w.name = vec![]), NotGguf, "the name of tensor 2 of 2 is \"\""),
        ("a long name", tensor(|w| w.name = vec![b'n'; 65]), NotGguf, "tensor 2 of 2 of 65 bytes, expected at most 64"),
        (
            "a name that is not UTF-8",
            tensor(|w| w.name = vec![0xff]),
            NotGguf,
            "the name of tensor 2 of 2: invalid utf-8",
        ),
        ("a name with a zero byte", tensor(|w| w.name = b"a\0".to_vec()), NotGguf, "the name of tensor 2 of 2 is"),
        (
            "a tensor twice",
            tensor(|w| w.name = b"norm.weight".to_vec()),
            NotGguf,
            "tensor \"norm.weight\": there twice",
        ),
        ("five dimensions", shape(&[32, 2, 1, 1, 1]), NotGguf, "5 dimensions, expected at most 4"),
        ("2³²-1 dimensions", tensor(|w| w.dimensions = Some(u32::MAX)), NotGguf, "4294967295 dimensions"),
        ("no dimensions", shape(&[]), NotGguf, "q8_0 [], expected rows of whole blocks of 32"),
        ("no rows", shape(&[32, 0]), NotGguf, "no dimension to be empty"),
        ("no columns", shape(&[0, 2]), NotGguf, "no dimension to be empty"),
        ("part of a block", shape(&[33, 2]), NotGguf, "q8_0 [2, 33], expected rows of whole blocks of 32"),
        ("half a block", shape(&[16, 4]), NotGguf, "rows of whole blocks"),
        ("2⁶⁴ rows", shape(&[32, 1 << 32, 1 << 32]), NotGguf, "a representable size"),
        ("2⁶⁴ elements", shape(&[32, 1 << 59]), NotGguf, "a representable size"),
        ("2⁶³ elements", shape(&[32, 1 << 58]), NotGguf, "9799832789158199200 bytes are missing"),
        ("2⁶⁴ bytes together", altered(beyond_u64), NotGguf, "than a file can hold"),
        ("a row of 2⁶³ elements", shape(&[1 << 63]), NotGguf, "9799832789158199200 bytes are missing"),
        ("one row too many", shape(&[32, 3]), NotGguf, "6 bytes are missing"),
        ("type 4", of_type(4), Foreign, "type 4 (Q4_2), which was removed from GGUF"),
        ("type 5", of_type(5), Foreign, "type 5 (Q4_3), which was removed"),
        ("type 9", of_type(9), Foreign, "type 9 (Q8_1), which is for activations"),
        ("type 15", of_type(15), Foreign, "type 15 (Q8_K), which is for activations"),
        ("type 31", of_type(31), Foreign, "type 31 (Q4_0_4_4"),
        ("type 33", of_type(33), Foreign, "rows interleaved for one processor"),
        ("type 36", of_type(36), Foreign, "type 36 (IQ4_NL_4_4"),
        ("type 38", of_type(38), Foreign, "rows interleaved for one processor"),
        ("type 133", of_type(133), Foreign, "type 133 (Q6_0), a type of ik_llama.cpp"),
        ("type 137", of_type(137), Foreign, "a type of ik_llama.cpp"),
        ("type 156", of_type(156), Foreign, "a type of ik_llama.cpp"),
        ("type 202", of_type(202), Foreign, "rows interleaved by four or eight"),
        ("type 339", of_type(339), Foreign, "a type of ik_llama.cpp"),
        ("type 43", of_type(43), Version, "type 43, which is not known"),
        ("type 2³²-1", of_type(u32::MAX), Version, "type 4294967295, which is not known"),
        ("misaligned", offset(33), NotGguf, "begins at byte 33 of the data, expected a multiple of 32"),
        ("overlap", offset(0), NotGguf, "begins at byte 0 of the data, within \"norm.weight\", expected 32"),
        ("gap", offset(64), NotGguf, "begins at byte 64 of the data, not next to \"norm.weight\", expected 32"),
        ("offset of nearly 2⁶⁴", offset(u64::MAX - 31), NotGguf, "not next to \"norm.weight\""),
        (
            "gap at the beginning",
            altered(|file| file.tensors.drain(..1).for_each(drop)).tap_offset(32),
            NotGguf,
            "not next to the beginning",
        ),
    ]
}

/// Small changes to bytes.
trait Tap {
    fn replace_first_key(self, len: u64) -> Self;
    fn tap_offset(self, offset: u64) -> Self;
}

impl Tap for Vec<u8> {
    /// Puts another length before the first key.
    fn replace_first_key(mut self, len: u64) -> Self {
        self[24..32].copy_from_slice(&len.to_le_bytes());
        self
    }

    /// Puts another offset at the end of the header of a file with the second tensor alone.
    fn tap_offset(mut self, offset: u64) -> Self {
        let header = small().header().len() - (8 + 11 + 4 + 8 + 4 + 8);
        self[header - 8..header].copy_from_slice(&offset.to_le_bytes());
        self
    }
}

/// Most bytes that parsing may hold for each byte of the header, and in addition.
const PER_HEADER_BYTE: usize = 16;
const CONSTANT: usize = 64 << 10;

#[test]
fn each_file_is_refused_for_its_own_reason_and_at_little_cost() {
    let mut wrong = Vec::new();
    let rows = [bad_beginnings(), bad_metadata(), bad_alignments(), bad_tensors()];
    for (name, file, kind, fragment) in rows.into_iter().flatten() {
        let (result, asked) = allocations::measure(|| catch_unwind(AssertUnwindSafe(|| Gguf::parse(&file))));
        let found = match result {
            Ok(Err(error)) if error.kind() == kind && error.to_string().contains(fragment) => {
                let most = PER_HEADER_BYTE * file.len() + CONSTANT;
                if asked.peak <= most {
                    continue;
                }
                format!("{} bytes held, expected at most {most}", asked.peak)
            }
            Ok(Err(error)) => format!("{:?}: {error:.300}", error.kind()),
            Ok(Ok(gguf)) => format!("{} tensors", gguf.tensors().len()),
            Err(_) => "a panic".into(),
        };
        wrong.push(format!("{name}: expected {kind:?}: {fragment}, found {found}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn parsing_holds_no_more_than_a_few_times_the_header() {
    let many = (1 << 17) + 1;
    let rows = [
        ("bytes", value("b", ARRAY, &array(U8, &vec![vec![1]; many]))),
        ("truth values", value("b", ARRAY, &array(BOOL, &vec![vec![1]; many]))),
        ("empty texts", small().texts("b", &vec![""; many]).bytes()),
        ("short texts", small().texts("b", &vec!["x"; many]).bytes()),
        ("empty lists", value("b", ARRAY, &array(ARRAY, &vec![array(U8, &[]); many]))),
        ("short lists", value("b", ARRAY, &array(ARRAY, &vec![array(U8, &[vec![1]]); many]))),
        ("keys", (0..many).fold(GgufFile::default(), |file, i| file.value(format!("{i}"), U8, &[1])).bytes()),
        ("tensors", {
            let mut file = GgufFile::default();
            for i in 0..many {
                file = file.plain(&format!("{i}"), &[], &[1.0]);
            }
            file.alignment = 8;
            file.number("general.alignment", 8).bytes()
        }),
    ];
    let mut wrong = Vec::new();
    for (name, file) in rows {
        let (result, asked) = allocations::measure(|| Gguf::parse(&file).map(drop));
        result.unwrap();
        println!("{name}: {:.1} bytes per byte of the file", asked.peak as f64 / file.len() as f64);
        if asked.peak > PER_HEADER_BYTE * file.len() + CONSTANT {
            wrong.push(format!("{name}: {} bytes held for a file of {}", asked.peak, file.len()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A header may not exceed its limit, even if the file has the bytes.
#[test]
fn a_header_of_more_than_its_limit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    let mut file = small().value("b", TEXT, &announced_text(128 << 20)).bytes();
    fs::write(&path, &file).unwrap();
    // A hole in the file: its bytes take no room on the disk.
    fs::File::options().write(true).open(&path).unwrap().set_len(256 << 20).unwrap();
    let (result, asked) = allocations::measure(|| Gguf::open(&path));
    match result.unwrap_err() {
        Error::File(error) => assert_eq!(error.kind(), TooLong, "{error}"),
        error => panic!("{error}"),
    }
    assert!(asked.peak < 1 << 20, "{} bytes held", asked.peak);
    file.truncate(4);
    fs::write(&path, &file).unwrap();
    assert!(Gguf::is_gguf(&path));
}

#[test]
fn a_file_cut_short_anywhere_says_how_many_bytes_are_missing() {
    let file = small().bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let whole = gguf.tensors().last().unwrap().range().end as usize;
    let header = small().header().len();
    for len in 0..whole {
        let error = Gguf::parse(&file[..len]).unwrap_err();
        let message = error.to_string();
        assert_eq!(error.kind(), NotGguf, "{len}: {message}");
        let (before, _) = message.split_once(" bytes are missing").unwrap_or_else(|| panic!("{len}: {message}"));
        let missing: usize = before.rsplit(' ').next().unwrap().parse().unwrap();
        if len >= header {
            assert_eq!(missing, whole - len, "{len}: {message}");
        }
        assert!((1..=whole - len).contains(&missing), "{len}: {message}");
    }
    Gguf::parse(&file[..whole]).unwrap();
}

#[test]
fn any_byte_of_the_header_may_change() {
    let file = small().bytes();
    let (mut read, mut refused) = (0, 0);
    for at in 0..small().header().len() {
        let old = file[at];
        for new in [0, 1, 0xff, 0x7f, b'9', old ^ 1, old ^ 0x80, old.wrapping_add(1)] {
            let mut file = file.clone();
            file[at] = new;
            match Gguf::parse(&file) {
                Ok(gguf) => {
                    for tensor in gguf.tensors() {
                        assert!(tensor.range().start <= tensor.range().end && tensor.range().end <= file.len() as u64);
                    }
                    read += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    println!("{read} read, {refused} refused");
    assert!(read > 100 && refused > 100);
}

/// The files of a model in a folder.
struct Split {
    folder: tempfile::TempDir,
    parts: Vec<GgufFile>,
}

impl Split {
    /// Makes three files with a tensor each, as `llama-gguf-split` does.
    fn new() -> Self {
        let part = |i: u16| {
            let file =
                if i == 0 { GgufFile::default().text("general.architecture", "llama") } else { GgufFile::default() };
            let file = file.value("split.no", 2, &i.to_le_bytes()).value("split.count", 2, &3u16.to_le_bytes());
            file.value("split.tensors.count", I32, &3i32.to_le_bytes()).plain(
                &format!("t{i}"),
                &[2],
                &[f32::from(i), 0.0],
            )
        };
        Self { folder: tempfile::tempdir().unwrap(), parts: (0..3).map(part).collect() }
    }

    fn path(&self, i: usize) -> PathBuf {
        self.folder.path().join(format!("model-{:05}-of-00003.gguf", i + 1))
    }

    fn write(&self) {
        for (i, part) in self.parts.iter().enumerate() {
            fs::write(self.path(i), part.bytes()).unwrap();
        }
    }
}

#[test]
fn any_file_of_a_split_model_opens_all() {
    let split = Split::new();
    split.write();
    for i in 0..3 {
        let gguf = Gguf::open(&split.path(i)).unwrap();
        assert_eq!(gguf.metadata().architecture().unwrap(), "llama");
        assert_eq!(gguf.paths(), [split.path(0), split.path(1), split.path(2)]);
        let tensors = gguf.tensors().iter().map(|tensor| (tensor.name(), tensor.file()));
        assert_eq!(tensors.collect::<Vec<_>>(), [("t0", 0), ("t1", 1), ("t2", 2)]);
    }
}

#[test]
fn split_models_that_do_not_hang_together_are_refused() {
    let number = |file: &GgufFile, key: &str, value: u16| {
        // The key is written again with another value: in a file without the other keys.
        let rest = ["split.no", "split.count"].into_iter().filter(|other| *other != key);
        let old = |other: &str| match other {
            "split.no" => 1,
            _ => 3,
        };
        let mut new = rest.fold(GgufFile::default(), |new, other| new.value(other, 2, &u16::to_le_bytes(old(other))));
        new.tensors.clone_from(&file.tensors);
        new.value(key, 2, &value.to_le_bytes())
    };
    type Alter<'a> = &'a dyn Fn(&mut Split);
    let rows: &[(&str, Alter<'_>, usize, &str)] = &[
        (
            "a file of another model",
            &|split| split.parts[1] = split.parts[1].clone().text("general.architecture", "bert"),
            1,
            "of another model than the first file: \"general.architecture\": \"bert\", expected \"llama\"",
        ),
        (
            "another number of tensors",
            &|split| split.parts[1].tensors.clear(),
            0,
            "\"split.tensors.count\": 3, but 2 in its 3 files together",
        ),
        (
            "a tensor twice",
            &|split| split.parts[2].tensors[0].name = b"t0".to_vec(),
            2,
            "tensor \"t0\": also in \"model-00001-of-00003.gguf\"",
        ),
        ("the same file twice", &|split| split.parts[1] = split.parts[2].clone(), 1, "file 3 of 3, expected file 2"),
        (
            "a file of a model of four",
            &|split| split.parts[1] = number(&split.parts[1], "split.count", 4),
            1,
            "one of 4 files, expected file 2 of 3",
        ),
        (
            "a number beyond the count",
            &|split| split.parts[1] = number(&split.parts[1], "split.no", 3),
            1,
            "\"split.no\": 3, expected an integer from 0 to 2",
        ),
        (
            "a file that is not split",
            &|split| split.parts[1] = GgufFile::default(),
            1,
            "one of 1 files, expected file 2 of 3",
        ),
    ];
    for (name, alter, file, fragment) in rows {
        let mut split = Split::new();
        alter(&mut split);
        split.write();
        match Gguf::open(&split.path(0)).unwrap_err() {
            Error::File(error) => {
                assert_eq!(error.kind(), Shards, "{name}: {error}");
                assert!(error.to_string().contains(fragment), "{name}: {error}");
                assert_eq!(error.path(), Some(split.path(*file).as_path()), "{name}: {error}");
            }
            error => panic!("{name}: {error:?}"),
        }
    }
}

#[test]
fn a_file_of_a_split_model_needs_the_others() {
    let split = Split::new();
    split.write();
    let refused = |result: Result<Gguf, Error>, fragment: &str| match result.unwrap_err() {
        Error::File(error) => {
            assert_eq!(error.kind(), Shards, "{error}");
            assert!(error.to_string().contains(fragment), "{error}");
        }
        error => panic!("{error:?}"),
    };
    let alone = Gguf::parse(&split.parts[1].bytes()).map_err(Error::from);
    refused(alone, "file 2 of 3, without the others: open it by its path");
    let renamed = split.folder.path().join("model.gguf");
    fs::copy(split.path(1), &renamed).unwrap();
    refused(Gguf::open(&renamed), "file 2 of 3, whose name must end with \"-00002-of-00003.gguf\"");
    fs::remove_file(split.path(2)).unwrap();
    refused(Gguf::open(&split.path(0)), "file 3 of 3 of this model is missing: \"model-00003-of-00003.gguf\"");
}

/// Files that were joined say that there are 0.
#[test]
fn a_joined_file_is_a_whole_one() {
    for count in [0u16, 1] {
        let file = small().value("split.no", 2, &[0, 0]).value("split.count", 2, &count.to_le_bytes());
        Gguf::parse(&file.value("split.tensors.count", I32, &7i32.to_le_bytes()).bytes()).unwrap();
    }
}

#[test]
fn real_files_are_read() {
    if let Some(path) = shared("stories260K/stories260K-f16.gguf") {
        let gguf = Gguf::open(&path).unwrap();
        assert!(Gguf::is_gguf(&path));
        assert_eq!(gguf.metadata().architecture().unwrap(), "llama");
        assert_eq!(gguf.metadata().size("llama.embedding_length", 0..=1 << 20).unwrap(), Some(64));
        assert_eq!(gguf.metadata().texts("tokenizer.ggml.tokens").unwrap().unwrap().len(), 512);
        let embedding = gguf.tensors().iter().find(|tensor| tensor.name() == "token_embd.weight").unwrap();
        assert_eq!((embedding.shape(), embedding.element_type()), (&[512, 64][..], ElementType::Plain(Dtype::F16)));
        let end = gguf.tensors().last().unwrap().range().end;
        assert!(fs::metadata(&path).unwrap().len() - end < 32);
    }
    let vocabularies = [("bert-bge", "bert", 30522), ("gpt-2", "gpt2", 50257), ("llama-spm", "llama", 32000)];
    for (name, model, tokens) in vocabularies {
        let Some(path) = shared(&format!("tokenizers/ggml-vocab/ggml-vocab-{name}.gguf")) else { continue };
        let gguf = Gguf::open(&path).unwrap();
        let metadata = gguf.metadata();
        assert_eq!(metadata.text("tokenizer.ggml.model").unwrap(), Some(model));
        assert_eq!(metadata.texts("tokenizer.ggml.tokens").unwrap().unwrap().len(), tokens);
        assert_eq!(gguf.tensors().len(), 0);
        // What is in memory reads the same.
        let parsed = Gguf::parse(&fs::read(&path).unwrap()).unwrap();
        assert!(parsed.metadata().iter().eq(metadata.iter()));
    }
}
