//! The kernels for small batches against llama.cpp's own: all matrices of a model multiplied by so many columns, and experts of a
//! layer by so many tokens, the two in turn, beside what the machine allows. Prints a table.
//!
//! A harness of its own: criterion measures one after the other, and what the machine does besides would meet only one of them.

#[path = "kernels/limits.rs"]
mod limits;

use std::ffi::c_void;
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use llama_sys as sys;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const COLUMNS: [usize; 8] = [1, 2, 3, 4, 8, 16, 32, 128];
const ROUNDS: usize = 11;

/// A model's matrices: layers of one width, and the output layer.
struct Shape {
    layers: usize,
    width: usize,
    kv_width: usize,
    feed_forward: usize,
    vocabulary: usize,
}

impl Shape {
    fn matrices(&self) -> Vec<Matrix> {
        let Self { width, kv_width, feed_forward, .. } = *self;
        let one = |rows, width| Matrix { rows, width, experts: None };
        let layer = [
            one(width, width),
            one(kv_width, width),
            one(kv_width, width),
            one(width, width),
            one(feed_forward, width),
            one(feed_forward, width),
            one(width, feed_forward),
        ];
        let mut all = layer.repeat(self.layers);
        all.push(one(self.vocabulary, width));
        all
    }
}

#[derive(Clone, Copy)]
struct Matrix {
    rows: usize,
    width: usize,
    /// Where there is one for each expert.
    experts: Option<Experts>,
}

#[derive(Clone, Copy)]
struct Experts {
    count: usize,
    /// Those that a token is multiplied with.
    chosen: usize,
    /// Columns of a token: one for all of them, or one for each.
    inputs: usize,
}

impl Matrix {
    fn weights(&self) -> usize {
        self.rows * self.width * self.experts.map_or(1, |experts| experts.count)
    }

    fn inputs(&self) -> usize {
        self.experts.map_or(1, |experts| experts.inputs)
    }
}

/// The experts of a layer of OLMoE.
fn experts() -> Vec<Matrix> {
    let of = |rows, width, inputs| Matrix { rows, width, experts: Some(Experts { count: 64, chosen: 8, inputs }) };
    vec![of(1024, 2048, 1), of(1024, 2048, 1), of(2048, 1024, 8)]
}

/// The 135M shape.
const NARROW: Shape = Shape { layers: 30, width: 576, kv_width: 192, feed_forward: 1536, vocabulary: 49_152 };
/// About as large, with rows that K formats can have.
const WIDE: Shape = Shape { layers: 8, width: 1024, kv_width: 256, feed_forward: 2816, vocabulary: 49_152 };

/// Matrices in a buffer type, and a graph that multiplies them all.
struct Matrices {
    tensors: Vec<(Matrix, NonNull<sys::ggml_tensor>)>,
}

/// A context that describes tensors. What is made here lives until the program ends.
fn context(tensors: usize) -> *mut sys::ggml_context {
    // SAFETY: takes numbers, and hands in no memory.
    unsafe {
        let graph = sys::ggml_graph_overhead_custom(2 * tensors, false);
        let size = 2 * tensors * sys::ggml_tensor_overhead() + graph;
        let context =
            sys::ggml_init(sys::ggml_init_params { mem_size: size, mem_buffer: std::ptr::null_mut(), no_alloc: true });
        assert!(!context.is_null());
        context
    }
}

/// Gives a tensor memory of its own.
fn allocate(kind: sys::ggml_backend_buffer_type_t, tensor: *mut sys::ggml_tensor) {
    // SAFETY: the tensor was just described, and the buffer is as large as its type says.
    unsafe {
        let size = sys::ggml_backend_buft_get_alloc_size(kind, tensor);
        let buffer = sys::ggml_backend_buft_alloc_buffer(kind, size);
        let base = sys::ggml_backend_buffer_get_base(buffer);
        assert_eq!(sys::ggml_backend_tensor_alloc(buffer, tensor, base), sys::GGML_STATUS_SUCCESS);
    }
}

impl Matrices {
    fn new(matrices: &[Matrix], format: sys::ggml_type, kind: sys::ggml_backend_buffer_type_t, weights: &[u8]) -> Self {
        let context = context(matrices.len());
        let one = |matrix: &Matrix| {
            let [width, rows, count] =
                [matrix.width, matrix.rows, matrix.experts.map_or(1, |experts| experts.count)].map(|size| size as i64);
            // SAFETY: there is room for as many tensors, and `weights` are those of the largest.
            unsafe {
                let tensor = sys::ggml_new_tensor_3d(context, format, width, rows, count);
                allocate(kind, tensor);
                let size = sys::ggml_nbytes(tensor);
                sys::ggml_backend_tensor_set(tensor, weights[..size].as_ptr().cast(), 0, size);
                (*matrix, NonNull::new(tensor).expect("room"))
            }
        };
        Self { tensors: matrices.iter().map(one).collect() }
    }

    /// A graph of all of them times so many tokens. Experts are chosen at random, the same in each graph.
    fn graph(&self, tokens: usize, values: &[f32]) -> *mut sys::ggml_cgraph {
        let context = context(4 * self.tensors.len());
        let mut random = ChaCha8Rng::seed_from_u64(2);
        // SAFETY: all tensors live, and there is room for as many more; inputs are as long as what is written.
        unsafe {
            let graph = sys::ggml_new_graph_custom(context, 4 * self.tensors.len(), false);
            let kind = sys::ggml_backend_cpu_buffer_type();
            let set = |tensor, from: *const c_void| {
                allocate(kind, tensor);
                sys::ggml_backend_tensor_set(tensor, from, 0, sys::ggml_nbytes(tensor));
            };
            for (matrix, tensor) in &self.tensors {
                let [width, inputs] = [matrix.width, matrix.inputs()].map(|size| size as i64);
                let product = match matrix.experts {
                    None => {
                        let input = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, width, tokens as i64);
                        set(input, values.as_ptr().cast());
                        sys::ggml_mul_mat(context, tensor.as_ptr(), input)
                    }
                    Some(Experts { count, chosen, .. }) => {
                        let input = sys::ggml_new_tensor_3d(context, sys::GGML_TYPE_F32, width, inputs, tokens as i64);
                        set(input, values.as_ptr().cast());
                        let mut all: Vec<i32> = (0..count as i32).collect();
                        let mut ids = Vec::new();
                        for _ in 0..tokens {
                            for at in 0..chosen {
                                all.swap(at, at + random.next_u32() as usize % (count - at));
                            }
                            ids.extend_from_slice(&all[..chosen]);
                        }
                        let chosen = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_I32, chosen as i64, tokens as i64);
                        set(chosen, ids.as_ptr().cast());
                        sys::ggml_mul_mat_id(context, tensor.as_ptr(), input, chosen)
                    }
                };
                allocate(kind, product);
                sys::ggml_build_forward_expand(graph, product);
            }
            graph
        }
    }
}

/// Where llama.cpp would keep matrices of this format without our kernels.
fn stock(format: sys::ggml_type) -> sys::ggml_backend_buffer_type_t {
    // SAFETY: asks the registry, whose answers live as long as the program; the function of that name has this type.
    unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        let name = c"ggml_backend_dev_get_extra_bufts";
        let function = sys::ggml_backend_reg_get_proc_address(sys::ggml_backend_dev_backend_reg(device), name.as_ptr());
        type Extra = unsafe extern "C" fn(sys::ggml_backend_dev_t) -> *const sys::ggml_backend_buffer_type_t;
        let mut list = std::mem::transmute::<*mut c_void, Option<Extra>>(function).expect("a list")(device);
        let context = context(4);
        let weights = sys::ggml_new_tensor_2d(context, format, 256, 64);
        let columns = sys::ggml_new_tensor_2d(context, sys::GGML_TYPE_F32, 256, 4);
        let product = sys::ggml_mul_mat(context, weights, columns);
        while !(*list).is_null() {
            if *list != sys::kernels_buffer_type() {
                (*weights).buffer = sys::ggml_backend_buft_alloc_buffer(*list, 0);
                if sys::ggml_backend_dev_supports_op(device, product) {
                    return *list;
                }
            }
            list = list.add(1);
        }
        sys::ggml_backend_cpu_buffer_type()
    }
}

fn timed(backend: sys::ggml_backend_t, graph: *mut sys::ggml_cgraph) -> Duration {
    let start = Instant::now();
    // SAFETY: both live, and all tensors of the graph have memory.
    let status = unsafe { sys::ggml_backend_graph_compute(backend, graph) };
    assert_eq!(black_box(status), sys::GGML_STATUS_SUCCESS);
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1000.0
}

/// The shortest time in which Q8_0 matrices of a shape could be multiplied on this machine.
fn print_limits(set: &str, threads: usize, matrices: &[Matrix]) {
    let (speed, products) = (limits::bytes_a_second(threads), limits::products_a_second(set, threads));
    let weights: usize = matrices.iter().map(Matrix::weights).sum();
    let weights = weights as f64;
    let reading = weights * 34.0 / 32.0 / speed;
    print!("| the least for Q8_0 |");
    for columns in COLUMNS {
        let multiplying = products.map_or(0.0, |products| weights * columns as f64 / products);
        print!(" {:.1} |", reading.max(multiplying) * 1000.0);
    }
    let products = products.map(|products| format!(", {:.0} G products/s", products / 1.0e9)).unwrap_or_default();
    println!(" {:.1} GB/s{products}", speed / 1.0e9);
}

fn main() {
    let Some(set) = llama_safe::kernels() else {
        println!("there are no kernels to measure on this machine");
        return;
    };
    let threads = std::thread::available_parallelism().map_or(1, |count| count.get());
    println!(
        "{set}, {threads} threads, medians of {ROUNDS} rounds: ms with the kernels, × llama.cpp's time divided by theirs\n"
    );
    let heads: String = COLUMNS.iter().map(|columns| format!(" {columns} |")).collect();
    println!("| columns |{heads}\n|---|{}", "---|".repeat(COLUMNS.len()));
    // SAFETY: takes nothing; the backend lives until the program ends.
    let backend = unsafe {
        let backend = sys::ggml_backend_cpu_init();
        sys::ggml_backend_cpu_set_n_threads(backend, threads as i32);
        backend
    };
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut numbers = |count: usize| -> Vec<f32> {
        (0..count).map(|_| random.next_u32() as f32 / (1_u32 << 31) as f32 - 1.0).collect()
    };
    let (narrow, wide, experts) = (NARROW.matrices(), WIDE.matrices(), experts());
    let widest =
        [&narrow, &wide, &experts].into_iter().flatten().map(|one| one.width * one.inputs()).max().unwrap_or(0);
    let values = numbers(COLUMNS[COLUMNS.len() - 1] * widest);
    print_limits(&set, threads, &narrow);
    for (name, format, matrices) in [
        ("Q8_0", sys::GGML_TYPE_Q8_0, &narrow),
        ("Q4_0", sys::GGML_TYPE_Q4_0, &narrow),
        ("Q4_K", sys::GGML_TYPE_Q4_K, &wide),
        ("Q5_K", sys::GGML_TYPE_Q5_K, &wide),
        ("Q6_K", sys::GGML_TYPE_Q6_K, &wide),
        ("experts in Q8_0", sys::GGML_TYPE_Q8_0, &experts),
        ("experts in Q4_K", sys::GGML_TYPE_Q4_K, &experts),
        ("experts in Q6_K", sys::GGML_TYPE_Q6_K, &experts),
    ] {
        let from = numbers(matrices.iter().map(Matrix::weights).max().unwrap_or(0));
        // As one row: blocks do not know of rows.
        let width = from.len() as i64;
        // SAFETY: there is room for all of it, a whole number of blocks; and no format here needs an importance matrix.
        let weights = unsafe {
            let mut weights = vec![0_u8; sys::ggml_row_size(format, width)];
            let to = weights.as_mut_ptr().cast();
            sys::ggml_quantize_chunk(format, from.as_ptr(), to, 0, 1, width, std::ptr::null());
            weights
        };
        // SAFETY: the kernels are in use.
        let ours = Matrices::new(matrices, format, unsafe { sys::kernels_buffer_type() }, &weights);
        let theirs = Matrices::new(matrices, format, stock(format), &weights);
        print!("| {name} |");
        for columns in COLUMNS {
            let (ours, theirs) = (ours.graph(columns, &values), theirs.graph(columns, &values));
            let (mut with, mut without) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                without.push(timed(backend, theirs));
                with.push(timed(backend, ours));
            }
            let (with, without) = (median(with), median(without));
            print!(" {with:.1} × {:.2} |", without / with);
        }
        println!();
    }
}
