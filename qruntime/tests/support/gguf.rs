//! GGUF files made by hand, whole or with any part of them wrong.

use kernels::Format;

/// The numbers of the types of values.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const TEXT: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// The numbers of the types of plain elements.
pub const PLAIN_F32: u32 = 0;
pub const PLAIN_F16: u32 = 1;

/// A file. Public fields take the place of what would be written.
#[derive(Clone)]
pub struct GgufFile {
    pub magic: [u8; 4],
    pub version: u32,
    /// The announced number of tensors, if it is not the number there is.
    pub tensor_count: Option<u64>,
    /// The announced number of keys, if it is not the number there is.
    pub key_count: Option<u64>,
    /// The alignment of the data. The key that announces another one than 32 is not written by
    /// itself.
    pub alignment: usize,
    pub tensors: Vec<TensorOfFile>,
    keys: u64,
    entries: Vec<u8>,
}

#[derive(Clone)]
pub struct TensorOfFile {
    pub name: Vec<u8>,
    /// The number of dimensions, if it is not the number there is.
    pub dimensions: Option<u32>,
    /// As in the file: the length of a row comes first.
    pub shape: Vec<u64>,
    pub element_type: u32,
    /// The offset within the data, if it is not the next one.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl Default for GgufFile {
    fn default() -> Self {
        Self {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            alignment: 32,
            tensors: vec![],
            keys: 0,
            entries: vec![],
        }
    }
}

/// Writes a text with its length before it.
pub fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    let text = text.as_ref();
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

/// Writes a list of values of a type.
pub fn array(element_type: u32, values: &[Vec<u8>]) -> Vec<u8> {
    [&element_type.to_le_bytes()[..], &(values.len() as u64).to_le_bytes(), &values.concat()].concat()
}

impl GgufFile {
    /// Adds a key with the bytes of a value of any type.
    pub fn value(mut self, key: impl AsRef<[u8]>, value_type: u32, value: &[u8]) -> Self {
        self.keys += 1;
        self.entries.extend([&text(key), &value_type.to_le_bytes()[..], value].concat());
        self
    }

    pub fn text(self, key: &str, value: &str) -> Self {
        self.value(key, TEXT, &text(value))
    }

    pub fn number(self, key: &str, value: u32) -> Self {
        self.value(key, U32, &value.to_le_bytes())
    }

    pub fn float(self, key: &str, value: f32) -> Self {
        self.value(key, F32, &value.to_le_bytes())
    }

    pub fn flag(self, key: &str, value: bool) -> Self {
        self.value(key, BOOL, &[value.into()])
    }

    pub fn texts(self, key: &str, values: &[impl AsRef<[u8]>]) -> Self {
        let values: Vec<_> = values.iter().map(text).collect();
        self.value(key, ARRAY, &array(TEXT, &values))
    }

    pub fn floats(self, key: &str, values: &[f32]) -> Self {
        let values: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.value(key, ARRAY, &array(F32, &values))
    }

    pub fn integers(self, key: &str, values: &[i32]) -> Self {
        let values: Vec<_> = values.iter().map(|value| value.to_le_bytes().to_vec()).collect();
        self.value(key, ARRAY, &array(I32, &values))
    }

    /// Adds a tensor. `shape` is in PyTorch's order, `element_type` the number in GGUF.
    pub fn tensor(mut self, name: &str, shape: &[usize], element_type: u32, data: Vec<u8>) -> Self {
        self.tensors.push(TensorOfFile {
            name: name.into(),
            dimensions: None,
            shape: shape.iter().rev().map(|&size| size as u64).collect(),
            element_type,
            offset: None,
            data,
        });
        self
    }

    /// Adds a tensor of `f32`.
    pub fn plain(self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.tensor(name, shape, PLAIN_F32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Adds a tensor of blocks, row after row.
    pub fn blocks(self, name: &str, shape: &[usize], format: Format, rows: Vec<u8>) -> Self {
        self.tensor(name, shape, format.ggml_type().unwrap(), rows)
    }

    /// Returns the bytes of the file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut file = self.header();
        file.resize(file.len().next_multiple_of(self.alignment), 0);
        for tensor in &self.tensors {
            file.extend(&tensor.data);
            file.resize(file.len().next_multiple_of(self.alignment), 0);
        }
        file
    }

    /// Returns the bytes before the padding that precedes the data.
    pub fn header(&self) -> Vec<u8> {
        let tensor_count = self.tensor_count.unwrap_or(self.tensors.len() as u64);
        let mut header = [&self.magic[..], &self.version.to_le_bytes(), &tensor_count.to_le_bytes()].concat();
        header.extend(self.key_count.unwrap_or(self.keys).to_le_bytes());
        header.extend(&self.entries);
        let mut next = 0;
        for tensor in &self.tensors {
            header.extend(text(&tensor.name));
            header.extend(tensor.dimensions.unwrap_or(tensor.shape.len() as u32).to_le_bytes());
            header.extend(tensor.shape.iter().flat_map(|size| size.to_le_bytes()));
            header.extend(tensor.element_type.to_le_bytes());
            header.extend(tensor.offset.unwrap_or(next).to_le_bytes());
            next += tensor.data.len().next_multiple_of(self.alignment) as u64;
        }
        header
    }
}

/// Returns a small whole file: a value of every type, a plain tensor and one of blocks.
pub fn small() -> GgufFile {
    let list = |values: &[i32]| values.iter().map(|value| value.to_le_bytes().to_vec()).collect::<Vec<_>>();
    GgufFile::default()
        .text("general.architecture", "llama")
        .value("a.u8", U8, &[200])
        .value("a.i8", 1, &[0x80])
        .value("a.u16", 2, &[1, 2])
        .value("a.i16", 3, &[0xff, 0xff])
        .number("llama.block_count", 2)
        .value("a.i32", I32, &(-5i32).to_le_bytes())
        .float("llama.rope.freq_base", 1e4)
        .flag("a.flag", true)
        .value("a.u64", U64, &u64::MAX.to_le_bytes())
        .value("a.i64", 11, &i64::MIN.to_le_bytes())
        .value("a.f64", 12, &0.1f64.to_le_bytes())
        .texts("tokenizer.ggml.tokens", &["<s>", "", "é"])
        .floats("tokenizer.ggml.scores", &[0.0, -1.5, f32::NEG_INFINITY])
        .integers("llama.head_count", &[4, 8])
        .value("a.flags", ARRAY, &array(BOOL, &[vec![1], vec![0]]))
        .value("a.bytes", ARRAY, &array(U8, &[vec![1], vec![255]]))
        .value("a.lists", ARRAY, &array(ARRAY, &[array(I32, &list(&[1, -2])), array(TEXT, &[])]))
        .plain("norm.weight", &[3], &[1.0, -2.0, 0.5])
        .tensor("w.weight", &[2, 32], 8, (0..68).collect())
}
