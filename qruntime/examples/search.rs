//! `cargo run --release -p qruntime --example search ENCODER FOLDER QUESTION`: finds the paragraphs
//! of the text files in a folder that are nearest to a question in meaning. The encoder is a
//! sentence encoder, such as all-MiniLM-L6-v2, converted or not.

#![allow(clippy::print_stdout, reason = "an example shows its results")]

use std::error::Error;
use std::fs;
use std::path::PathBuf;

use ndarray::ArrayView1;
use qruntime::Encoder;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [encoder, folder, question] = arguments.as_slice() else {
        return Err("usage: search ENCODER FOLDER QUESTION".into());
    };
    let encoder = Encoder::open(encoder)?;

    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt" || extension == "md"));
    files.sort();
    let mut paragraphs = Vec::new();
    for path in &files {
        let text = fs::read_to_string(path)?;
        let texts = text.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
        paragraphs.extend(texts.filter(|text| !text.is_empty()).map(|text| (path, text)));
    }

    // One row for each paragraph. An application would store these.
    let texts: Vec<&str> = paragraphs.iter().map(|(_, text)| text.as_str()).collect();
    let vectors = encoder.embed(&texts)?;
    let asked = encoder.embed(&[question])?;

    // Cosines: products divided by both lengths, which are 1 only if the encoder normalizes.
    let length = |vector: ArrayView1<'_, f32>| vector.dot(&vector).sqrt().max(f32::MIN_POSITIVE);
    let asked = asked.row(0);
    let likeness: Vec<f32> =
        vectors.outer_iter().map(|vector| vector.dot(&asked) / length(vector) / length(asked)).collect();
    let mut best: Vec<usize> = (0..paragraphs.len()).collect();
    best.sort_by(|&a, &b| likeness[b].total_cmp(&likeness[a]));
    for i in best.into_iter().take(5) {
        let (path, text) = &paragraphs[i];
        println!("{:.3}  {}\n       {}\n", likeness[i], path.display(), text.chars().take(200).collect::<String>());
    }
    Ok(())
}
