//! Replays the corpora of fuzz targets: seeds, and every file that once crashed one.

#![allow(clippy::unwrap_used, reason = "tests")]

#[cfg(feature = "text")]
#[path = "../../fuzz/fuzz_targets/converse.rs"]
mod converse;
#[path = "../../fuzz/fuzz_targets/exercise.rs"]
mod exercise;
#[path = "../../fuzz/fuzz_targets/read_gguf.rs"]
mod read_gguf;
mod support;
#[cfg(feature = "text")]
#[path = "../../fuzz/fuzz_targets/tokenize.rs"]
mod tokenize;

use std::fs;

use kernels::Format;
use qruntime::Dtype;
use qruntime::container::Storage;
use qruntime::gguf::ElementType;
use serde_json::{Value, json};
use support::gguf::{self, GgufFile};
use support::{Random, assembled, packed, small_file, written};

const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/open_model");

#[test]
fn no_file_of_the_corpus_does_harm() {
    let mut opened = 0;
    for file in fs::read_dir(CORPUS).unwrap() {
        let file = file.unwrap().path();
        println!("{}", file.display());
        opened += usize::from(exercise::exercise(&fs::read(file).unwrap()).is_some());
    }
    assert!(opened >= 4 + Format::ALL.len(), "{opened} files of the corpus opened");
}

const GGUF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/gguf");

#[test]
fn no_gguf_file_of_the_corpus_does_harm() {
    let mut read = 0;
    for file in fs::read_dir(GGUF).unwrap() {
        let file = file.unwrap().path();
        println!("{}", file.display());
        read += usize::from(read_gguf::read_gguf(&fs::read(file).unwrap()));
    }
    assert!(read >= 5, "{read} files of the corpus were read");
}

#[cfg(feature = "text")]
const TOKENIZERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/tokenizer");

#[cfg(feature = "text")]
#[test]
fn no_tokenizer_of_the_corpus_does_harm() {
    let mut opened = 0;
    for file in fs::read_dir(TOKENIZERS).unwrap() {
        let file = file.unwrap().path();
        println!("{}", file.display());
        opened += usize::from(tokenize::tokenize(&fs::read(file).unwrap()));
    }
    assert!(opened >= 7, "{opened} files of the corpus opened");
}

#[cfg(feature = "text")]
const TEMPLATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/chat_template");

#[cfg(feature = "text")]
#[test]
fn no_template_of_the_corpus_does_harm() {
    let mut rendered = 0;
    for file in fs::read_dir(TEMPLATES).unwrap() {
        let file = file.unwrap().path();
        println!("{}", file.display());
        rendered += usize::from(converse::converse(&fs::read(file).unwrap()));
    }
    assert!(rendered >= 8, "{rendered} files of the corpus were rendered");
}

/// Changes bytes of every file of a corpus this many times and tries the results: some must still
/// be usable.
#[cfg(feature = "text")]
fn damage(corpus: &str, signs: &[u8], times: u64, tried: impl Fn(&[u8]) -> bool) {
    let mut seeds: Vec<_> = fs::read_dir(corpus).unwrap().map(|file| file.unwrap().path()).collect();
    seeds.sort();
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|path| fs::read(path).unwrap()).collect();
    let mut good = 0;
    for turn in 0..times {
        for (number, seed) in seeds.iter().enumerate() {
            let mut random = Random(turn << 8 | number as u64);
            let mut below = |most: usize| random.bits() as usize % most;
            let mut file = seed.clone();
            for _ in 0..=below(2) {
                let (at, length) = (below(file.len()), below(12));
                let other = &seeds[below(seeds.len())];
                let from = below(other.len());
                let piece = &other[from..(from + length).min(other.len())];
                let end = (at + below(2) * piece.len()).min(file.len());
                match below(3) {
                    0 => drop(file.splice(at..end, piece.iter().copied())),
                    1 => file[at] = signs[below(signs.len())],
                    _ => drop(file.drain(at..(at + length).min(file.len()))),
                }
                if file.is_empty() {
                    break;
                }
            }
            good += u64::from(tried(&file));
        }
    }
    assert!(good > times / 10, "{good} of {times} times {} are good for something", seeds.len());
}

#[cfg(feature = "text")]
fn damage_tokenizers(times: u64) {
    damage(TOKENIZERS, b"\"0129{}[],: axX\xc3", times, tokenize::tokenize);
}

#[cfg(feature = "text")]
fn damage_templates(times: u64) {
    damage(TEMPLATES, b"{}%#-+*/|.,:()[]'\"=<> \\~019anx\n\0\xc3", times, converse::converse);
}

#[cfg(feature = "text")]
#[test]
fn no_damaged_tokenizer_does_harm() {
    damage_tokenizers(30);
}

#[cfg(feature = "text")]
#[test]
#[ignore = "takes an hour; run it when the bounds change"]
fn no_damaged_tokenizer_does_harm_in_an_hour() {
    damage_tokenizers(200_000);
}

#[cfg(feature = "text")]
#[test]
fn no_damaged_template_does_harm() {
    damage_templates(30);
}

#[cfg(feature = "text")]
#[test]
#[ignore = "takes an hour; run it when the bounds change"]
fn no_damaged_template_does_harm_in_an_hour() {
    damage_templates(200_000);
}

/// Returns the files from which fuzzing starts.
fn seeds() -> Vec<(String, Vec<u8>)> {
    let plain = r#"{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]},"b":{"dtype":"F4","shape":[2],"data_offsets":[8,9]}}"#;
    let experts = [("experts", Format::Q4_0, [2, 3, 32]), ("more.weight", Format::Q4K, [3, 2, 300])].map(
        |(name, format, shape)| {
            (name.to_owned(), Storage::Packed(format), shape.to_vec(), packed(&mut Random(2), format, &shape))
        },
    );
    let mut seeds = vec![
        ("small".to_owned(), small_file()),
        ("plain".to_owned(), assembled(plain, &[0x3f; 9])),
        ("experts".to_owned(), written(&experts, Value::Null)),
        ("no_tensors".to_owned(), written(&[], json!({"source": "seed"}))),
    ];
    for &format in Format::ALL {
        let shape = vec![17, format.block_len() + 1];
        let weight = packed(&mut Random(3), format, &shape);
        let layer = [
            ("layer.weight".to_owned(), Storage::Packed(format), shape, weight),
            ("layer.bias".to_owned(), Storage::Plain(Dtype::F16), vec![17], vec![0x3c; 34]),
        ];
        seeds.push((format!("layer_{format}"), written(&layer, Value::Null)));
    }
    seeds
}

/// Returns the GGUF files from which fuzzing starts.
fn gguf_seeds() -> Vec<(String, Vec<u8>)> {
    let aligned = |alignment: usize, version| {
        let mut file = gguf::small().number("general.alignment", alignment as u32);
        (file.alignment, file.version) = (alignment, version);
        file.bytes()
    };
    let mut every = GgufFile::default().text("general.architecture", "bert");
    for number in 0..64 {
        if let Ok(element_type) = ElementType::from_ggml(number) {
            let (cols, bytes) = (element_type.block_len(), element_type.block_bytes());
            every = every.tensor(&format!("{element_type}"), &[2, cols], number, vec![number as u8; 2 * bytes]);
        }
    }
    let joined = gguf::small().value("split.count", 2, &[0, 0]).value("split.no", 2, &[0, 0]);
    vec![
        ("small".to_owned(), gguf::small().bytes()),
        ("version_2".to_owned(), aligned(8, 2)),
        ("wide".to_owned(), aligned(64, 3)),
        ("every_type".to_owned(), every.bytes()),
        ("joined".to_owned(), joined.bytes()),
    ]
}

/// A stale seed is refused at once, and the fuzzer gets no further.
#[test]
fn the_seeds_are_those_that_would_be_written_today() {
    for (name, file) in seeds() {
        let committed = fs::read(format!("{CORPUS}/{name}.safetensors")).unwrap_or_default();
        assert!(committed == file, "{name} is stale: see `write_the_seeds` in CONTRIBUTING.md");
    }
    for (name, file) in gguf_seeds() {
        let committed = fs::read(format!("{GGUF}/{name}.gguf")).unwrap_or_default();
        assert!(committed == file, "{name} is stale: see `write_the_seeds` in CONTRIBUTING.md");
    }
}

/// A template and the conversation that it renders, with a zero byte between them.
#[cfg(feature = "text")]
fn template_with_a_conversation() -> Vec<u8> {
    let template = r#"{% for m in messages %}{{ m.role }}: {{ m.content | map(attribute="text") | join("\n") if m.content is not string else m.content }}{{ m.thinking }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{% endfor %}{{ documents | length }}{{ depth }}{{ name }}"#;
    let conversation = r#"{"messages":[{"role":"user","content":"Hi","thinking":"hm"},{"role":"assistant","content":[{"text":"a"},{"text":"b"}],"tool_calls":[{"id":"1"}]}],"documents":[{"title":"t","text":"x"}],"depth":[[[[1e99,-0,18446744073709551615]]]],"name":"\u0000\ud83d\ude00"}"#;
    format!("{template}\0{conversation}").into_bytes()
}

#[cfg(feature = "text")]
#[test]
fn the_template_with_a_conversation_is_the_one_that_would_be_written_today() {
    let committed = fs::read(format!("{TEMPLATES}/own_conversation")).unwrap_or_default();
    assert!(committed == template_with_a_conversation(), "see `write_the_seeds` in CONTRIBUTING.md");
}

#[test]
#[ignore = "writes into the source tree; run it when a format is new"]
fn write_the_seeds() {
    for (name, file) in seeds() {
        fs::write(format!("{CORPUS}/{name}.safetensors"), file).unwrap();
    }
    for (name, file) in gguf_seeds() {
        fs::write(format!("{GGUF}/{name}.gguf"), file).unwrap();
    }
    #[cfg(feature = "text")]
    fs::write(format!("{TEMPLATES}/own_conversation"), template_with_a_conversation()).unwrap();
}
