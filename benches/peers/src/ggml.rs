//! llama.cpp's product: its library ggml, on the CPU, by a graph of one node. The only module that
//! calls it.
//!
//! Every pointer here is owned by one of four types that free it ([`Context`], [`Buffer`],
//! [`Backend`], and ggml itself for what is static), and lives as long as the [`Ggml`] whose fields
//! these are. ggml checks shapes and places with assertions that end the process.

#![expect(unsafe_code, reason = "ggml is a C library")]

use std::ffi::CStr;
use std::ptr::{NonNull, null, null_mut};

use anyhow::{Context as _, Result, ensure};
use llama_cpp_sys_2 as sys;
use ndarray::Array2;

use crate::contest::{Contestant, Problem, Turns};

/// How the weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// As in a GGUF file.
    Plain,
    /// Rearranged for this processor when they are loaded: what llama.cpp does by default, where it
    /// can.
    Repacked,
}

/// A matrix in one of ggml's types.
#[derive(Clone)]
struct Encoded {
    kind: sys::ggml_type,
    /// Wider than bytes, so that they lie as blocks must.
    words: Vec<u64>,
    bytes: usize,
}

/// Matrices that ggml has quantized.
pub(crate) struct Ggml {
    layout: Layout,
    encoded: Encoded,
    /// `None` before the first number of rows is set. Before what it points into, so that it is
    /// freed first.
    graphs: Option<Graphs>,
    matrices: Vec<NonNull<sys::ggml_tensor>>,
    backend: Backend,
    _buffer: Buffer,
    _context: Context,
}

/// A graph for every copy of the matrix, with the activations and the products.
struct Graphs {
    turns: Turns<NonNull<sys::ggml_cgraph>>,
    y: NonNull<sys::ggml_tensor>,
    shape: (usize, usize),
    _buffer: Buffer,
    _context: Context,
}

impl Ggml {
    /// Has ggml quantize the matrix of a problem; `None` where it lacks the format, or the layout
    /// for it.
    pub(crate) fn new(problem: &Problem, format: &str, layout: Layout) -> Result<Option<Self>> {
        let Some(kind) = kind(format) else { return Ok(None) };
        let encoded = Encoded::new(kind, problem)?;
        let (rows, cols) = problem.weights.dim();
        let count = Turns::<()>::cold_count(encoded.bytes);
        let context = Context::new(count, 0)?;
        let matrices: Vec<_> = (0..count)
            .map(|_| {
                // SAFETY: the context is alive, and has room for so many tensors.
                let matrix = unsafe { sys::ggml_new_tensor_2d(context.0.as_ptr(), kind, cols as i64, rows as i64) };
                NonNull::new(matrix).context("ggml has no room for a tensor")
            })
            .collect::<Result<_>>()?;
        let place = match layout {
            // SAFETY: it takes nothing and returns something static.
            Layout::Plain => unsafe { sys::ggml_backend_cpu_buffer_type() },
            Layout::Repacked => match repacked()? {
                Some(place) => place.as_ptr(),
                None => return Ok(None),
            },
        };
        // SAFETY: the context is alive and its tensors have no place yet; the type of buffer is
        // static.
        let buffer = Buffer::new(unsafe { sys::ggml_backend_alloc_ctx_tensors_from_buft(context.0.as_ptr(), place) })?;
        // SAFETY: the tensor is alive as long as its context, and nothing else refers to it now.
        let extra = unsafe { matrices[0].as_ref() }.extra;
        if layout == Layout::Repacked && extra.is_null() {
            return Ok(None); // It has no such layout for this type on this processor.
        }
        for matrix in &matrices {
            // SAFETY: the tensor has a place in the buffer; it takes as many bytes as were encoded
            // for its type and shape, all of it.
            unsafe { sys::ggml_backend_tensor_set(matrix.as_ptr(), encoded.words.as_ptr().cast(), 0, encoded.bytes) };
        }
        let backend = Backend::new(rayon::current_num_threads())?;
        Ok(Some(Self { layout, encoded, graphs: None, matrices, backend, _buffer: buffer, _context: context }))
    }
}

impl Contestant for Ggml {
    fn name(&self) -> String {
        match self.layout {
            Layout::Plain => "llama.cpp".into(),
            Layout::Repacked => "llama.cpp, repacked".into(),
        }
    }

    fn prepare(&mut self, problem: &Problem, rows: usize) -> Result<()> {
        self.graphs = None;
        self.graphs = Some(Graphs::new(&self.matrices, problem, rows)?);
        Ok(())
    }

    fn multiply(&mut self) -> Result<()> {
        let graph = self.graphs.as_mut().context("not prepared")?.turns.turn().as_ptr();
        // SAFETY: the graph is alive, as are the tensors in it and their buffers; nobody else uses
        // them or the backend now.
        let status = unsafe { sys::ggml_backend_graph_compute(self.backend.0.as_ptr(), graph) };
        ensure!(status == sys::GGML_STATUS_SUCCESS, "ggml failed: status {status}");
        Ok(())
    }

    fn product(&self) -> Result<Array2<f32>> {
        let graphs = self.graphs.as_ref().context("not prepared")?;
        let mut product = Array2::<f32>::zeros(graphs.shape);
        let bytes = size_of::<f32>() * product.len();
        // SAFETY: `y` is a tensor of this shape in F32, so that many bytes long, and so is the
        // array.
        unsafe { sys::ggml_backend_tensor_get(graphs.y.as_ptr(), product.as_mut_ptr().cast(), 0, bytes) };
        Ok(product)
    }

    fn weights(&self) -> Result<Array2<f32>> {
        // SAFETY: the tensor is alive as long as `self`; its shape does not change.
        let [cols, rows, ..] = unsafe { self.matrices[0].as_ref() }.ne;
        let mut weights = Array2::<f32>::zeros((rows as usize, cols as usize));
        // SAFETY: the type is one of ggml's.
        let traits = unsafe { sys::ggml_get_type_traits(self.encoded.kind) };
        // SAFETY: the description of a type is static.
        let traits = unsafe { traits.as_ref() };
        let decode = traits.and_then(|traits| traits.to_float).context("ggml cannot decode this type")?;
        // SAFETY: the bytes are the blocks of as many weights, as the array has, and lie on a
        // multiple of 8.
        unsafe { decode(self.encoded.words.as_ptr().cast(), weights.as_mut_ptr(), rows * cols) };
        Ok(weights)
    }
}

/// ggml's type for a format: their names agree.
fn kind(format: &str) -> Option<sys::ggml_type> {
    (0..sys::GGML_TYPE_COUNT).find(|&kind| {
        // SAFETY: it takes any number below `GGML_TYPE_COUNT`.
        let name = unsafe { sys::ggml_type_name(kind) };
        // SAFETY: a name is a static string; types that no longer exist have none.
        !name.is_null() && unsafe { CStr::from_ptr(name) }.to_str().is_ok_and(|name| name.eq_ignore_ascii_case(format))
    })
}

/// The place for rearranged weights, if this build of ggml has it.
fn repacked() -> Result<Option<NonNull<sys::ggml_backend_buffer_type>>> {
    // SAFETY: it takes nothing and returns something static.
    let registry = unsafe { sys::ggml_backend_cpu_reg() };
    // SAFETY: the registry is static and has one device.
    let device = unsafe { sys::ggml_backend_reg_dev_get(registry, 0) };
    // SAFETY: the registry is static, the name ends in a zero.
    let found =
        unsafe { sys::ggml_backend_reg_get_proc_address(registry, c"ggml_backend_dev_get_extra_bufts".as_ptr()) };
    if found.is_null() {
        return Ok(None);
    }
    #[expect(clippy::disallowed_methods, reason = "a symbol's address can become a function in no other way")]
    // SAFETY: under this name ggml-backend.h promises a function of this type.
    let list = unsafe { std::mem::transmute::<*mut std::ffi::c_void, sys::ggml_backend_dev_get_extra_bufts_t>(found) };
    // SAFETY: the device belongs to the registry that the function came from.
    let mut place = unsafe { list.context("a function")?(device) };
    if place.is_null() {
        return Ok(None);
    }
    loop {
        // SAFETY: the list ends in a null, which has not been met yet.
        let Some(candidate) = NonNull::new(unsafe { *place }) else { return Ok(None) };
        // SAFETY: the type is static.
        let name = unsafe { sys::ggml_backend_buft_name(candidate.as_ptr()) };
        // SAFETY: so is its name, which ends in a zero.
        if unsafe { CStr::from_ptr(name) } == c"CPU_REPACK" {
            return Ok(Some(candidate));
        }
        // SAFETY: this was not the null at the end.
        place = unsafe { place.add(1) };
    }
}

impl Encoded {
    fn new(kind: sys::ggml_type, problem: &Problem) -> Result<Self> {
        let (rows, cols) = problem.weights.dim();
        // SAFETY: the type is one of ggml's.
        let block = unsafe { sys::ggml_blck_size(kind) };
        ensure!((cols as i64) % block == 0, "{cols} columns are not whole blocks of {block}");
        // SAFETY: the type is one of ggml's, the columns whole blocks.
        let bytes = rows * unsafe { sys::ggml_row_size(kind, cols as i64) };
        let mut words = vec![0u64; bytes.div_ceil(8)];
        // SAFETY: there are `rows * cols` weights, `bytes` of room for their blocks, and no
        // importances are needed, or it ends the process.
        let written = unsafe {
            sys::ggml_quantize_chunk(
                kind,
                problem.weights().as_ptr(),
                words.as_mut_ptr().cast(),
                0,
                rows as i64,
                cols as i64,
                null(),
            )
        };
        ensure!(written == bytes, "ggml wrote {written} bytes of {bytes}");
        Ok(Self { kind, words, bytes })
    }
}

impl Graphs {
    fn new(matrices: &[NonNull<sys::ggml_tensor>], problem: &Problem, rows: usize) -> Result<Self> {
        let (outputs, cols) = problem.weights.dim();
        let context = Context::new(1 + matrices.len(), matrices.len())?;
        let raw = context.0.as_ptr();
        // SAFETY: the context is alive, and has room for so many tensors.
        let x = unsafe { sys::ggml_new_tensor_2d(raw, sys::GGML_TYPE_F32, cols as i64, rows as i64) };
        // SAFETY: as above; the shapes agree.
        let products: Vec<_> = matrices.iter().map(|w| unsafe { sys::ggml_mul_mat(raw, w.as_ptr(), x) }).collect();
        // SAFETY: it takes nothing and returns something static.
        let place = unsafe { sys::ggml_backend_cpu_buffer_type() };
        let x_bytes = (size_of::<f32>() * rows * cols).next_multiple_of(4096);
        let y_bytes = size_of::<f32>() * rows * outputs;
        // SAFETY: the type of buffer is static.
        let buffer = Buffer::new(unsafe { sys::ggml_backend_buft_alloc_buffer(place, x_bytes + y_bytes) })?;
        // SAFETY: the buffer is alive.
        let base = unsafe { sys::ggml_backend_buffer_get_base(buffer.0.as_ptr()) };
        // SAFETY: `x` is alive, has no place yet, and fits.
        ensure!(unsafe { sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), x, base) } == sys::GGML_STATUS_SUCCESS);
        // SAFETY: `x` is as many numbers in F32.
        unsafe { sys::ggml_backend_tensor_set(x, problem.x(rows).as_ptr().cast(), 0, size_of::<f32>() * rows * cols) };
        let mut graphs = Vec::new();
        for &y in &products {
            // All products in one place: one of them is computed at a time.
            // SAFETY: the buffer has `y_bytes` after those of `x`.
            let place = unsafe { base.byte_add(x_bytes) };
            // SAFETY: `y` is alive, has no place yet, and fits.
            ensure!(unsafe { sys::ggml_backend_tensor_alloc(buffer.0.as_ptr(), y, place) } == sys::GGML_STATUS_SUCCESS);
            // SAFETY: the context is alive and has room for so many graphs.
            let graph = unsafe { sys::ggml_new_graph_custom(raw, Context::NODES, false) };
            // SAFETY: the graph and the tensor are alive; it needs three places.
            unsafe { sys::ggml_build_forward_expand(graph, y) };
            graphs.push(NonNull::new(graph).context("ggml has no room for a graph")?);
        }
        let y = products.first().copied().and_then(NonNull::new).context("a product")?;
        Ok(Self { turns: Turns::new(graphs), y, shape: (rows, outputs), _buffer: buffer, _context: context })
    }
}

/// Room for the descriptions of tensors and graphs.
struct Context(NonNull<sys::ggml_context>);

impl Context {
    /// Nodes and leaves that a graph has room for.
    const NODES: usize = 8;

    fn new(tensors: usize, graphs: usize) -> Result<Self> {
        // SAFETY: it takes nothing and returns a number.
        let tensor = unsafe { sys::ggml_tensor_overhead() };
        // SAFETY: it takes numbers and returns one.
        let graph = unsafe { sys::ggml_graph_overhead_custom(Self::NODES, false) };
        let mem_size = tensors * tensor + graphs * graph + 4096;
        let parameters = sys::ggml_init_params { mem_size, mem_buffer: null_mut(), no_alloc: true };
        // SAFETY: with these parameters it allocates for itself.
        Ok(Self(NonNull::new(unsafe { sys::ggml_init(parameters) }).context("ggml has no memory")?))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it is owned, and what refers to it is dropped before it.
        unsafe { sys::ggml_free(self.0.as_ptr()) };
    }
}

/// Room for numbers.
struct Buffer(NonNull<sys::ggml_backend_buffer>);

impl Buffer {
    fn new(buffer: sys::ggml_backend_buffer_t) -> Result<Self> {
        Ok(Self(NonNull::new(buffer).context("ggml has no memory")?))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: it is owned, and what refers to it is dropped before it, or not used any more.
        unsafe { sys::ggml_backend_buffer_free(self.0.as_ptr()) };
    }
}

/// The processor.
struct Backend(NonNull<sys::ggml_backend>);

impl Backend {
    fn new(threads: usize) -> Result<Self> {
        // SAFETY: it takes nothing and returns something that is owned here.
        let backend = Self(NonNull::new(unsafe { sys::ggml_backend_cpu_init() }).context("ggml has no CPU")?);
        // SAFETY: the backend is alive, and is the CPU.
        unsafe { sys::ggml_backend_cpu_set_n_threads(backend.0.as_ptr(), threads.try_into()?) };
        Ok(backend)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // SAFETY: it is owned.
        unsafe { sys::ggml_backend_free(self.0.as_ptr()) };
    }
}
