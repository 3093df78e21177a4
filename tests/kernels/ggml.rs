//! Multiplying by way of ggml itself, with the weights in a buffer of the kernels; and attention.

use std::ffi::c_void;
use std::ptr::NonNull;

use llama_sys as sys;

/// A matrix that the kernels hold, or several of one shape.
pub struct Held {
    context: NonNull<sys::ggml_context>,
    buffer: NonNull<sys::ggml_backend_buffer>,
    tensor: NonNull<sys::ggml_tensor>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: both were made in `new`, and nothing else refers to them: `compute` frees what it adds.
        unsafe {
            sys::ggml_backend_buffer_free(self.buffer.as_ptr());
            sys::ggml_free(self.context.as_ptr());
        }
    }
}

/// A context that only describes tensors.
fn context() -> NonNull<sys::ggml_context> {
    // SAFETY: takes nothing, and returns numbers.
    let size = unsafe { 16 * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead() };
    let params = sys::ggml_init_params { mem_size: size, mem_buffer: std::ptr::null_mut(), no_alloc: true };
    // SAFETY: no memory is handed in.
    NonNull::new(unsafe { sys::ggml_init(params) }).expect("memory")
}

impl Held {
    /// Matrices of `rows` rows of `columns` weights, in the file's form.
    pub fn of(format: sys::ggml_type, columns: usize, rows: usize, matrices: usize, weights: &[u8]) -> Self {
        let context = context();
        // SAFETY: the context lives, and describes tensors alone; the buffer is as large as the buffer type says that the tensor
        // is, and begins where it may.
        unsafe {
            let kind = sys::kernels_buffer_type();
            assert!(!kind.is_null(), "the kernels are in use");
            let [columns, rows, matrices] = [columns, rows, matrices].map(|size| size as i64);
            let tensor = sys::ggml_new_tensor_3d(context.as_ptr(), format, columns, rows, matrices);
            let size = sys::ggml_backend_buft_get_alloc_size(kind, tensor);
            let buffer = NonNull::new(sys::ggml_backend_buft_alloc_buffer(kind, size)).expect("memory");
            sys::ggml_backend_buffer_clear(buffer.as_ptr(), 0xaa);
            let base = sys::ggml_backend_buffer_get_base(buffer.as_ptr());
            assert_eq!(sys::ggml_backend_tensor_alloc(buffer.as_ptr(), tensor, base), sys::GGML_STATUS_SUCCESS);
            let held = Self { context, buffer, tensor: NonNull::new(tensor).expect("room for it") };
            held.write(0, weights);
            held
        }
    }

    /// One matrix.
    pub fn with(format: sys::ggml_type, columns: usize, rows: usize, weights: &[u8]) -> Self {
        Self::of(format, columns, rows, 1, weights)
    }

    fn bytes(&self) -> usize {
        // SAFETY: the tensor lives.
        unsafe { sys::ggml_nbytes(self.tensor.as_ptr()) }
    }

    /// Writes bytes of the file's form, from byte `offset` on.
    pub fn write(&self, offset: usize, weights: &[u8]) {
        assert!(offset + weights.len() <= self.bytes());
        // SAFETY: they lie within the tensor.
        unsafe { sys::ggml_backend_tensor_set(self.tensor.as_ptr(), weights.as_ptr().cast(), offset, weights.len()) };
    }

    /// The same bytes back.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.bytes());
        let mut bytes = vec![0; length];
        // SAFETY: they lie within the tensor, and `bytes` has room for them.
        unsafe { sys::ggml_backend_tensor_get(self.tensor.as_ptr(), bytes.as_mut_ptr().cast(), offset, length) };
        bytes
    }

    /// Each column multiplied with all rows: `[columns.len() / width, rows]`. `planes` of columns lie behind one another, which
    /// is another dimension to ggml.
    pub fn multiply(&self, columns: &[f32], planes: usize, threads: usize) -> Vec<f32> {
        // SAFETY: the tensors live for the call, as does what is handed in.
        unsafe {
            let width = (*self.tensor.as_ptr()).ne[0];
            let count = columns.len() as i64 / width / planes as i64;
            self.compute(threads, columns, |context| {
                let input = sys::ggml_new_tensor_3d(context, sys::GGML_TYPE_F32, width, count, planes as i64);
                (input, sys::ggml_mul_mat(context, self.tensor.as_ptr(), input))
            })
        }
    }

    /// Tokens multiplied with the matrices that they chose: `[tokens, chosen, rows]`, of `[tokens, chosen]` numbers of matrices and
    /// of `[tokens, inputs, width]` columns. These are one for each number, or fewer that go round.
    pub fn multiply_chosen(
        &self,
        columns: &[f32],
        inputs: usize,
        ids: &[i32],
        chosen: usize,
        threads: usize,
    ) -> Vec<f32> {
        let (chosen, tokens) = (chosen as i64, (ids.len() / chosen) as i64);
        // SAFETY: as above; the numbers of matrices lie in a tensor of their own, which is set before anything is computed.
        unsafe {
            let width = (*self.tensor.as_ptr()).ne[0];
            let context = context();
            let numbers = sys::ggml_new_tensor_2d(context.as_ptr(), sys::GGML_TYPE_I32, chosen, tokens);
            let kind = sys::ggml_backend_cpu_buffer_type();
            let buffer =
                NonNull::new(sys::ggml_backend_alloc_ctx_tensors_from_buft(context.as_ptr(), kind)).expect("memory");
            set(numbers, ids);
            let result = self.compute(threads, columns, |context| {
                let input = sys::ggml_new_tensor_3d(context, sys::GGML_TYPE_F32, width, inputs as i64, tokens);
                (input, sys::ggml_mul_mat_id(context, self.tensor.as_ptr(), input, numbers))
            });
            sys::ggml_backend_buffer_free(buffer.as_ptr());
            sys::ggml_free(context.as_ptr());
            result
        }
    }

    /// Rows as numbers.
    pub fn rows(&self, numbers: &[i32], threads: usize) -> Vec<f32> {
        // SAFETY: as above.
        unsafe {
            self.compute(threads, numbers, |context| {
                let input = sys::ggml_new_tensor_1d(context, sys::GGML_TYPE_I32, numbers.len() as i64);
                (input, sys::ggml_get_rows(context, self.tensor.as_ptr(), input))
            })
        }
    }

    /// Computes what `describe` makes of an input and a result.
    ///
    /// # Safety
    ///
    /// `describe` makes tensors of the context that it is given, the first of them as large as `values`.
    unsafe fn compute<T>(
        &self,
        threads: usize,
        values: &[T],
        describe: impl FnOnce(*mut sys::ggml_context) -> (*mut sys::ggml_tensor, *mut sys::ggml_tensor),
    ) -> Vec<f32> {
        let context = context();
        // SAFETY: everything is made here and freed here, and each tensor has a buffer of its own size.
        unsafe {
            let (input, result) = describe(context.as_ptr());
            let graph = sys::ggml_new_graph(context.as_ptr());
            sys::ggml_build_forward_expand(graph, result);
            let buffers = [input, result].map(|tensor| {
                let kind = sys::ggml_backend_cpu_buffer_type();
                let buffer = sys::ggml_backend_buft_alloc_buffer(kind, sys::ggml_nbytes(tensor));
                let base = sys::ggml_backend_buffer_get_base(buffer);
                assert_eq!(sys::ggml_backend_tensor_alloc(buffer, tensor, base), sys::GGML_STATUS_SUCCESS);
                buffer
            });
            set(input, values);
            let backend = sys::ggml_backend_cpu_init();
            sys::ggml_backend_cpu_set_n_threads(backend, threads as i32);
            assert!(sys::ggml_backend_supports_op(backend, result));
            assert_eq!(sys::ggml_backend_graph_compute(backend, graph), sys::GGML_STATUS_SUCCESS);
            let mut numbers = vec![0_f32; sys::ggml_nelements(result) as usize];
            let size = size_of_val(&numbers[..]);
            sys::ggml_backend_tensor_get(result, numbers.as_mut_ptr().cast(), 0, size);
            sys::ggml_backend_free(backend);
            for buffer in buffers {
                sys::ggml_backend_buffer_free(buffer);
            }
            sys::ggml_free(context.as_ptr());
            numbers
        }
    }
}

/// An attention's shape: some tokens of each stream look at that stream's cells.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub key_size: usize,
    pub value_size: usize,
    pub kv_heads: usize,
    /// Query heads to each of them.
    pub group: usize,
    pub tokens: usize,
    pub streams: usize,
    pub cells: usize,
    /// The largest slope of ALiBi, as a power of one half; 0 without.
    pub bias: f32,
}

/// What an attention is of: `[streams, tokens, heads, key_size]`, twice `[streams, cells, kv_heads, size]`, and
/// `[streams, tokens, cells]`.
#[derive(Clone, Debug)]
pub struct Operands {
    pub queries: Vec<f32>,
    pub keys: Vec<u16>,
    pub values: Vec<u16>,
    pub mask: Vec<u16>,
}

impl Attention {
    pub fn scale(&self) -> f32 {
        1.0 / (self.key_size as f32).sqrt()
    }

    /// By ggml: `[streams, tokens, heads, value_size]`.
    pub fn compute(&self, operands: &Operands, threads: usize) -> Vec<f32> {
        let context = context();
        let described = context.as_ptr();
        let [key_size, value_size, kv_heads, tokens, streams, cells] =
            [self.key_size, self.value_size, self.kv_heads, self.tokens, self.streams, self.cells]
                .map(|size| size as i64);
        // SAFETY: the context has room for as many tensors, and lives as long as these; the backend gives memory to all of them.
        unsafe {
            let new = |kind, sizes: [i64; 4]| sys::ggml_new_tensor(described, kind, 4, sizes.as_ptr());
            let heads = kv_heads * self.group as i64;
            let query = new(sys::GGML_TYPE_F32, [key_size, heads, tokens, streams]);
            let key = new(sys::GGML_TYPE_F16, [key_size, kv_heads, cells, streams]);
            let value = new(sys::GGML_TYPE_F16, [value_size, kv_heads, cells, streams]);
            let mask = new(sys::GGML_TYPE_F16, [cells, tokens, 1, streams]);
            // As llama.cpp has them: the heads of a token, and of a cell, side by side.
            let [by_head, key_by_head, value_by_head] =
                [query, key, value].map(|tensor| sys::ggml_permute(described, tensor, 0, 2, 1, 3));
            let result = sys::ggml_flash_attn_ext(
                described,
                by_head,
                key_by_head,
                value_by_head,
                mask,
                self.scale(),
                self.bias,
                0.0,
            );
            let graph = sys::ggml_new_graph(described);
            sys::ggml_build_forward_expand(graph, result);
            let backend = sys::ggml_backend_cpu_init();
            let buffer = NonNull::new(sys::ggml_backend_alloc_ctx_tensors(described, backend)).expect("memory");
            set(query, &operands.queries);
            set(key, &operands.keys);
            set(value, &operands.values);
            set(mask, &operands.mask);
            sys::ggml_backend_cpu_set_n_threads(backend, threads as i32);
            assert_eq!(sys::ggml_backend_graph_compute(backend, graph), sys::GGML_STATUS_SUCCESS);
            let mut numbers = vec![0_f32; sys::ggml_nelements(result) as usize];
            let size = size_of_val(&numbers[..]);
            sys::ggml_backend_tensor_get(result, numbers.as_mut_ptr().cast(), 0, size);
            sys::ggml_backend_free(backend);
            sys::ggml_backend_buffer_free(buffer.as_ptr());
            sys::ggml_free(described);
            numbers
        }
    }
}

/// Writes all of a tensor.
///
/// # Safety
///
/// The tensor lives, and has memory.
unsafe fn set<T>(tensor: *mut sys::ggml_tensor, values: &[T]) {
    // SAFETY: by the caller's word; it is as large as what is written.
    unsafe {
        assert_eq!(sys::ggml_nbytes(tensor), size_of_val(values));
        sys::ggml_backend_tensor_set(tensor, values.as_ptr().cast::<c_void>(), 0, size_of_val(values));
    }
}

/// Numbers in 16 bits.
pub fn halved(values: &[f32]) -> Vec<u16> {
    let mut halved = vec![0; values.len()];
    // SAFETY: there is room for as many.
    unsafe { sys::ggml_fp32_to_fp16_row(values.as_ptr(), halved.as_mut_ptr(), values.len() as i64) };
    halved
}

/// Activations quantised as ggml does: blocks of the format that `weights` are multiplied with.
pub fn quantised(format: sys::ggml_type, values: &[f32]) -> Vec<u8> {
    // SAFETY: both tables live as long as the program; the room is that of as many values.
    unsafe {
        let quantize = (*sys::ggml_get_type_traits_cpu(format)).from_float.expect("a format to quantise to");
        let mut bytes = vec![0; sys::ggml_row_size(format, values.len() as i64)];
        quantize(values.as_ptr(), bytes.as_mut_ptr().cast(), values.len() as i64);
        bytes
    }
}

/// Weights as numbers, by ggml.
pub fn expanded(format: sys::ggml_type, bytes: &[u8], count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    // SAFETY: the table lives as long as the program, and there is room for all values.
    unsafe {
        assert_eq!(sys::ggml_row_size(format, count as i64), bytes.len());
        let expand = (*sys::ggml_get_type_traits(format)).to_float.expect("a quantised format");
        expand(bytes.as_ptr().cast(), values.as_mut_ptr(), count as i64);
    }
    values
}
