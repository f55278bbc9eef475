use super::*;

const VOCABULARY: usize = 5;

fn windows() -> Windows {
    Windows::of_text(vec![0, 1, 2, 3, 4, 0, 1, 2, 3, 4], 4, None, Score::Half)
}

fn rows() -> [[f32; VOCABULARY]; 2] {
    [[0.0, 1.0, -3.5, 2.0, -50.0], [7.0; VOCABULARY]]
}

fn write(path: &Path, windows: &Windows) -> Result<()> {
    let mut writer = LogitsWriter::create(path, Form::of(path), VOCABULARY, windows)?;
    for row in rows() {
        writer.write(&row)?;
    }
    writer.finish()
}

fn log_probabilities(row: &[f32]) -> Vec<f64> {
    let sum: f64 = row.iter().map(|&x| libm::exp(x.into())).sum();
    row.iter().map(|&x| f64::from(x) - libm::log(sum)).collect()
}

#[test]
fn rows_come_back() {
    let folder = tempfile::tempdir().unwrap();
    for (name, range) in [("base.kld", 16.0), ("base.safetensors", 32.0)] {
        let path = folder.path().join(name);
        write(&path, &windows()).unwrap();
        let mut reader = LogitsReader::open(&path).unwrap();
        assert_eq!((reader.vocabulary(), reader.form()), (VOCABULARY, Form::of(&path)));
        // A file does not say how much of the text was left over.
        let expected = windows();
        assert!(reader.windows().iter().eq(expected.iter()));
        assert_eq!(reader.windows().coverage(), None);
        for row in rows() {
            let (Answer::Logits(found) | Answer::Rounded(found)) = reader.next_row().unwrap();
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            for (i, (&found, expected)) in found.iter().zip(log_probabilities(&row)).enumerate() {
                // Half a step, and roundings of numbers up to 64.
                let expected =
                    if row[i] < highest - range { expected - f64::from(row[i] - (highest - range)) } else { expected };
                let step = f64::from(range) / 65535.0;
                assert!((f64::from(found) - expected).abs() < 0.5 * step + 1e-5, "{name} {i}: {found} {expected}");
            }
        }
        assert!(reader.next_row().is_err());
    }
}

#[test]
fn the_bytes_are_those_of_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base");
    write(&path, &windows()).unwrap();
    let bytes = fs::read(&path).unwrap();
    let numbers: Vec<u32> = bytes[8..52].as_chunks::<4>().0.iter().copied().map(u32::from_le_bytes).collect();
    assert_eq!(&bytes[..8], b"_logits_");
    assert_eq!(numbers, [4, 5, 2, 0, 1, 2, 3, 4, 0, 1, 2]);
    // Two numbers, five codes, one of padding, for each of two rows.
    assert_eq!(bytes.len(), 52 + 2 * 2 * (4 + 6));
    let codes: Vec<u16> = bytes[60..72].as_chunks::<2>().0.iter().copied().map(u16::from_le_bytes).collect();
    // The step is 16 / 65535; the highest logit is 2, so -14 and less is code 0.
    assert_eq!(codes, [57343, 61439, 43007, 65535, 0, 0]);
    assert_eq!(&bytes[72..76], &[0; 4], "a row of equal logits has the scale 0");
}

#[test]
fn what_llama_cpp_cannot_hold_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let all = Windows::of_text(vec![0, 1, 2], 3, None, Score::All);
    let refused = write(&folder.path().join("base"), &all).unwrap_err().to_string();
    assert!(refused.contains(".safetensors"), "{refused}");
    write(&folder.path().join("base.safetensors"), &all).unwrap();
    let mut writer = LogitsWriter::create(&folder.path().join("x"), Form::LlamaCpp, VOCABULARY, &windows()).unwrap();
    assert!(writer.write(&[0.0; 4]).is_err());
    assert!(writer.write(&[f32::NAN; VOCABULARY]).is_err());
    assert!(writer.finish().is_err());
}

#[test]
fn a_damaged_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base");
    write(&path, &windows()).unwrap();
    let whole = fs::read(&path).unwrap();
    let refused = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = whole.clone();
        edit(&mut bytes);
        fs::write(&path, bytes).unwrap();
        let opened = LogitsReader::open(&path).and_then(|mut reader| reader.next_row().map(drop));
        format!("{:#}", opened.unwrap_err())
    };
    for len in 0..whole.len() {
        refused(&|bytes| bytes.truncate(len));
    }
    let set = |at: usize, to: [u8; 4]| move |bytes: &mut Vec<u8>| bytes[at..at + 4].copy_from_slice(&to);
    for at in [8, 12, 16] {
        assert!(refused(&set(at, [255; 4])).contains("expected"), "{at}");
        assert!(refused(&set(at, [0; 4])).contains("expected"), "{at}");
    }
    assert!(refused(&set(20, 5u32.to_le_bytes())).contains("token 5 in a vocabulary of 5"));
    for number in [f32::NAN, f32::INFINITY, -1.0] {
        assert!(refused(&set(52, number.to_le_bytes())).contains("scale"), "{number}");
    }
    assert!(refused(&set(56, f32::NAN.to_le_bytes())).contains("log-probability"));
    assert!(refused(&|bytes| bytes.push(0)).contains("expected"));

    let path = folder.path().join("base.safetensors");
    write(&path, &windows()).unwrap();
    let whole = fs::read(&path).unwrap();
    for len in (0..whole.len()).step_by(3) {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(LogitsReader::open(&path).is_err(), "{len}");
    }
    // A model is no file of logits.
    fs::write(
        &path,
        safetensors::serialize([("a", safetensors::tensor::TensorView::new(Dtype::U8, vec![1], &[7]).unwrap())], None)
            .unwrap(),
    )
    .unwrap();
    assert!(format!("{:#}", LogitsReader::open(&path).unwrap_err()).contains("not a file of logits"));
}
