//! The model reads what the writer writes.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use std::fs;
use std::io::{Cursor, ErrorKind};

use kernels::Format;
use qruntime::container::{Storage, Writer, packed_bytes, replace_recipe};
use qruntime::{Dtype, Error, Model};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use support::{Random, Tensor, packed, small_file, written};

const SHAPES: [&[usize]; 6] = [&[1, 1], &[15, 31], &[17, 172], &[3, 20, 64], &[2, 3, 5, 33], &[16, 32]];

/// Returns packed tensors of every format and shape among plain ones of many types, in a bad
/// order.
fn tensors() -> Vec<Tensor> {
    let mut random = Random(1);
    let mut tensors: Vec<Tensor> = Vec::new();
    let plain = [
        (Dtype::F16, vec![3]),
        (Dtype::U8, vec![0]),
        (Dtype::F64, vec![1]),
        (Dtype::BF16, vec![5, 7]),
        (Dtype::I8, vec![3, 1]),
        (Dtype::F32, vec![2, 0, 2]),
        (Dtype::F4, vec![6]),
        (Dtype::F32, vec![]),
        (Dtype::BOOL, vec![1]),
        (Dtype::I64, vec![2]),
        (Dtype::F8_E4M3, vec![0]),
    ];
    for (i, (dtype, shape)) in plain.into_iter().enumerate() {
        let bytes = random.bytes(shape.iter().product::<usize>() * dtype.bitsize() / 8);
        tensors.push((format!("plain.{i}"), Storage::Plain(dtype), shape, bytes));
    }
    for &format in Format::ALL {
        for shape in SHAPES {
            let bytes = packed(&mut random, format, shape);
            tensors.insert(
                tensors.len() / 2,
                (format!("{format}.{shape:?}"), Storage::Packed(format), shape.into(), bytes),
            );
        }
    }
    tensors
}

/// Compares a model with the tensors that it was made from.
fn check(model: &Model, tensors: &[Tensor]) {
    assert_eq!(model.tensors().count(), tensors.len());
    for (name, storage, shape, bytes) in tensors {
        let entry = model.tensors().find(|entry| entry.name() == name).unwrap();
        assert_eq!((entry.storage(), entry.shape()), (storage, shape.as_slice()), "{name}");
        assert_eq!(entry.elements(), shape.iter().product::<usize>(), "{name}");
        assert_eq!(model.verify(name).unwrap(), Some(true), "{name}");
        match storage {
            Storage::Packed(format) => {
                assert_eq!(entry.bytes(), packed_bytes(*format, shape).unwrap(), "{name}");
                let tensor = model.packed(name).unwrap();
                assert_eq!(tensor.format(), *format, "{name}");
                let found = (0..tensor.matrix_count()).flat_map(|i| tensor.matrix(i).as_bytes());
                assert!(found.eq(bytes), "{name}");
                assert!(tensor.matrix(0).as_bytes().as_ptr().addr().is_multiple_of(64), "{name}");
                assert!(matches!(model.plain(name), Err(Error::WrongKind { .. })), "{name}");
            }
            Storage::Plain(dtype) => {
                let tensor = model.plain(name).unwrap();
                assert_eq!((tensor.dtype(), tensor.as_bytes()), (*dtype, bytes.as_slice()), "{name}");
                let size = dtype.bitsize().div_ceil(8);
                assert!(tensor.as_bytes().as_ptr().addr().is_multiple_of(size), "{name}");
                assert!(matches!(model.packed(name), Err(Error::WrongKind { .. })), "{name}");
            }
        }
    }
}

#[test]
fn everything_comes_back_however_the_file_is_opened() {
    let tensors = tensors();
    let recipe = json!({"source": "a \"quoted\" name\n", "steps": [1, 2.5, null]});
    let file = written(&tensors, recipe.clone());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, &file).unwrap();
    let models = [
        Model::from_bytes(&file).unwrap(),
        Model::read(&path).unwrap(),
        Model::read(folder.path()).unwrap(),
        // SAFETY: nobody else knows the folder.
        unsafe { Model::map(&path) }.unwrap(),
    ];
    for model in &models {
        check(model, &tensors);
        assert_eq!(model.recipe(), &recipe);
        assert!(model.is_described());
        assert_eq!(model.file_bytes(), file.len() as u64);
    }
}

#[test]
fn a_model_may_lie_in_shards() {
    let tensors = tensors();
    let folder = tempfile::tempdir().unwrap();
    let mut map = serde_json::Map::new();
    for (i, tensors) in tensors.chunks(5).enumerate() {
        let shard = format!("model-{i}.safetensors");
        fs::write(folder.path().join(&shard), written(tensors, Value::Null)).unwrap();
        map.extend(tensors.iter().map(|(name, ..)| (name.clone(), shard.clone().into())));
    }
    fs::write(folder.path().join("model.safetensors.index.json"), json!({"weight_map": map}).to_string()).unwrap();
    check(&Model::read(folder.path()).unwrap(), &tensors);
}

#[test]
fn one_changed_byte_is_noticed_in_the_tensor_that_has_it() {
    let file = small_file();
    for (byte, changed, whole) in [(file.len() - 1, "b", "w"), (file.len() - 9, "w", "b"), (file.len() - 328, "w", "b")]
    {
        let mut file = file.clone();
        file[byte] ^= 1;
        let model = Model::from_bytes(&file).unwrap();
        assert_eq!(model.verify(changed).unwrap(), Some(false), "byte {byte}");
        assert_eq!(model.verify(whole).unwrap(), Some(true), "byte {byte}");
    }
}

#[test]
fn bytes_may_be_written_in_pieces_of_any_size() {
    let tensors = tensors();
    let whole = written(&tensors, Value::Null);
    for piece in [1, 7, 288, 4096] {
        let mut writer = writer(&tensors).unwrap();
        for i in writer.order().to_vec() {
            tensors[i].3.chunks(piece).for_each(|bytes| writer.write(bytes).unwrap());
        }
        assert!(writer.finish().unwrap().into_inner() == whole, "pieces of {piece}");
    }
}

#[test]
fn packed_tensors_come_first_and_wide_numbers_before_narrow_ones() {
    let tensors = tensors();
    let writer = writer(&tensors).unwrap();
    let width = |&i: &usize| match tensors[i].1 {
        Storage::Packed(_) => usize::MAX,
        Storage::Plain(dtype) => dtype.bitsize(),
    };
    assert!(writer.order().is_sorted_by_key(|i| std::cmp::Reverse(width(i))));
    let mut order = writer.order().to_vec();
    order.sort_unstable();
    assert!(order.into_iter().eq(0..tensors.len()));
}

#[test]
fn the_crate_safetensors_opens_what_the_writer_writes() {
    let tensors = tensors();
    let file = written(&tensors, Value::Null);
    let other = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(other.len(), tensors.len());
    for (name, storage, shape, bytes) in &tensors {
        let found = other.tensor(name).unwrap();
        assert!(found.data().starts_with(bytes), "{name}");
        assert!(found.data()[bytes.len()..].iter().all(|&padding| padding == 0), "{name}");
        match storage {
            Storage::Packed(_) => assert_eq!((found.dtype(), found.shape()), (Dtype::U8, &[found.data().len()][..])),
            Storage::Plain(dtype) => assert_eq!((found.dtype(), found.shape()), (*dtype, shape.as_slice())),
        }
    }
}

#[test]
fn what_the_crate_safetensors_writes_opens_with_plain_tensors() {
    let numbers: Vec<u8> = [1.0f32, -2.5].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |dtype, shape: &[usize], bytes| TensorView::new(dtype, shape.into(), bytes).unwrap();
    let views = [
        ("f32", view(Dtype::F32, &[1, 2], &numbers)),
        ("bf16", view(Dtype::BF16, &[4], &numbers)),
        ("empty", view(Dtype::F16, &[0, 7], &[])),
    ];
    let metadata = [("format".into(), "pt".into())].into();
    let model = Model::from_bytes(&safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
    assert!(!model.is_described());
    assert_eq!(model.recipe(), &Value::Null);
    assert_eq!(model.verify("f32").unwrap(), None);
    assert_eq!(model.plain("f32").unwrap().to_f32().unwrap(), [1.0, -2.5]);
    assert_eq!(model.plain("bf16").unwrap().to_f32().unwrap(), [0.0, 1.0, 0.0, -2.5]);
    assert_eq!(model.plain("empty").unwrap().shape(), [0, 7]);
    assert!(matches!(model.plain("absent"), Err(Error::NoSuchTensor { name }) if name == "absent"));
}

#[test]
fn a_file_without_tensors_is_a_file() {
    let model = Model::from_bytes(&written(&[], json!("empty"))).unwrap();
    assert_eq!((model.tensors().count(), model.recipe()), (0, &json!("empty")));
}

fn writer(tensors: &[Tensor]) -> std::io::Result<Writer<Cursor<Vec<u8>>>> {
    let plan = tensors.iter().map(|(name, storage, shape, _)| (name.clone(), storage.clone(), shape.clone()));
    Writer::new(Cursor::new(Vec::new()), plan.collect(), Value::Null)
}

#[test]
fn too_many_and_too_few_bytes_are_the_callers_mistake() {
    let tensors = [("b".to_owned(), Storage::Plain(Dtype::F32), vec![2], vec![])];
    for (pieces, fragment) in [
        (&[9][..], "more bytes than the tensor holds"),
        (&[8, 1], "more bytes than the tensor holds"),
        (&[4, 5], "more bytes than the tensor holds"),
        (&[], "0 of 8 bytes"),
        (&[7], "7 of 8 bytes"),
    ] {
        let mut writer = writer(&tensors).unwrap();
        let result = pieces.iter().try_for_each(|&n| writer.write(&[0; 9][..n]));
        let error = result.and_then(|()| writer.finish().map(drop)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(fragment), "{pieces:?}: {error}");
    }
}

#[test]
fn what_cannot_be_stored_is_refused_before_anything_is_written() {
    let q4_0 = || Storage::Packed(Format::Q4_0);
    let rows = [
        (vec![("one dimension", q4_0(), vec![32])], "cannot store"),
        (vec![("no rows", q4_0(), vec![0, 32])], "cannot store"),
        (vec![("huge", q4_0(), vec![1 << 40, 1 << 40])], "cannot store"),
        (vec![("half a byte", Storage::Plain(Dtype::F4), vec![3])], "cannot store"),
        (vec![("huge", Storage::Plain(Dtype::F32), vec![1 << 62])], "cannot store"),
        (vec![("a", q4_0(), vec![1, 32]), ("a", Storage::Plain(Dtype::U8), vec![1])], "there is one of this name"),
        (vec![("__metadata__", q4_0(), vec![1, 32])], "there is one of this name"),
        (
            ["a", "b", "c", "d", "e", "f", "g", "h", "i"]
                .map(|name| (name, Storage::Plain(Dtype::U8), vec![(1 << 61) - 1]))
                .into(),
            "overflow",
        ),
    ];
    for (tensors, fragment) in rows {
        let tensors: Vec<Tensor> =
            tensors.into_iter().map(|(name, storage, shape)| (name.into(), storage, shape, vec![])).collect();
        let error = writer(&tensors).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(fragment), "{error}");
    }
    let recipe = Value::String("x".repeat(1 << 20));
    let error = Writer::new(Cursor::new(Vec::new()), Vec::new(), recipe).unwrap_err();
    assert!(error.to_string().contains("recipe of 1048578 bytes"), "{error}");
}

#[test]
fn a_recipe_is_replaced_by_one_that_fits() {
    let weight = packed(&mut Random(3), Format::Q4_0, &[3, 64]);
    let tensors = [("w".to_owned(), Storage::Packed(Format::Q4_0), vec![3, 64], weight)];
    let written = written(&tensors, json!({"to": "q4_0", "room": " ".repeat(100)}));
    let mut file = Cursor::new(written.clone());
    let recipe = json!({"to": "q4_0", "measured": {"kld": 0.25, "text": "a \"quoted\" name"}});
    replace_recipe(&mut file, &recipe).unwrap();
    let file = file.into_inner();
    assert_eq!(file.len(), written.len());
    let model = Model::from_bytes(&file).unwrap();
    assert_eq!(model.recipe(), &recipe);
    assert_eq!(model.verify("w").unwrap(), Some(true));
    SafeTensors::deserialize(&file).unwrap();

    let mut cursor = Cursor::new(file.clone());
    let error = replace_recipe(&mut cursor, &json!("x".repeat(400))).unwrap_err();
    assert!(error.to_string().contains("with the new recipe, expected at most"), "{error}");
    assert!(replace_recipe(&mut cursor, &json!("x".repeat(1 << 20))).is_err());
    assert_eq!(cursor.into_inner(), file, "unchanged");
    let view = TensorView::new(Dtype::U8, vec![1], &[7]).unwrap();
    let plain = safetensors::serialize([("a", view)], None).unwrap();
    let error = replace_recipe(&mut Cursor::new(plain), &recipe).unwrap_err();
    assert!(error.to_string().contains("no \"qruntime\""), "{error}");
    for damaged in [vec![], vec![255; 8], [[16, 0, 0, 0, 0, 0, 0, 0].as_slice(), &[b'{'; 16]].concat()] {
        assert!(replace_recipe(&mut Cursor::new(damaged), &recipe).is_err());
    }
}
