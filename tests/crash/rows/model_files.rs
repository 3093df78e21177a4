//! Files that are no models, or models of nothing that could be computed.

use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::ptr;

use batch_suite::architectures::experts_by_table;
use fixtures::{ARCHITECTURE_TOKENS, Bert, Llama, Weights};
use llama_safe::{Context, LoadMode, MetadataValue, Model, ModelParams, Quantization, QuantizeParams, quantize};
use llama_sys::*;

use crate::child::wrong;
use crate::raw::{Arrays, context, file, guarded, model_with, text, try_model};
use crate::row::{Group, Outcome, Row, Safe};
use crate::safe::{Setup, params, told};

/// A value of the metadata that is refused before llama.cpp sees it.
macro_rules! metadata {
    ($name:ident, $done:literal, $key:literal, $value:expr, $functions:expr, $operation:literal, $outcome:expr, $error:literal) => {
        Row {
            group: Group::ModelFiles,
            name: stringify!($name),
            done: $done,
            functions: $functions,
            operation: $operation,
            outcome: $outcome,
            raw: {
                unsafe fn raw() {
                    overridden($key, $value);
                }
                raw
            },
            safe: Safe::Refused {
                error: $error,
                on: Setup::Tiny,
                attempt: |_| {
                    let key = $key.to_str().unwrap();
                    let params = ModelParams::default().override_metadata(key, $value.safe());
                    told(Model::from_bytes(&gguf(), &params).map(drop))
                },
            },
        }
    };
}

pub const ROWS: &[Row] = &[
    metadata!(
        no_layers,
        "a model says that it has 0 layers",
        c"llama.block_count",
        Value::Int(0),
        &["llama_model_load_from_file", "llama_load_model_from_file"],
        "none: it is asserted",
        Outcome::Assertion {
            at: "llama-model.cpp:1330",
            says: "GGML_ASSERT(hparams.n_layer_all > 0 && hparams.n_layer_all <= LLAMA_MAX_LAYERS) failed"
        },
        "LoadError::Malformed(..)"
    ),
    metadata!(
        too_many_layers,
        "a model says that it has 100,000 layers",
        c"llama.block_count",
        Value::Int(100_000),
        &["llama_model_load_from_file"],
        "none: it is asserted",
        Outcome::Assertion {
            at: "llama-model.cpp:1330",
            says: "GGML_ASSERT(hparams.n_layer_all > 0 && hparams.n_layer_all <= LLAMA_MAX_LAYERS) failed"
        },
        "LoadError::Malformed(..)"
    ),
    metadata!(
        too_many_experts,
        "a model says that it has 100,000 experts",
        c"llama.expert_count",
        Value::Int(100_000),
        &["llama_model_load_from_file"],
        "none: it is asserted",
        Outcome::Assertion {
            at: "llama-model.cpp:1363",
            says: "GGML_ASSERT(hparams.n_expert <= LLAMA_MAX_EXPERTS) failed"
        },
        "LoadError::Malformed(..)"
    ),
    metadata!(
        scaling_of_no_kind,
        "a model names a scaling of positions that nobody knows",
        c"llama.rope.scaling.type",
        Value::Text(c"mystery"),
        &["llama_model_load_from_file"],
        "none: it is asserted",
        Outcome::Assertion {
            at: "llama-model.cpp:1422",
            says: "GGML_ASSERT(hparams.rope_scaling_type_train != LLAMA_ROPE_SCALING_TYPE_UNSPECIFIED) failed"
        },
        "LoadError::Malformed(..)"
    ),
    metadata!(
        epsilon_below_zero,
        "a model says that the epsilon of its norms is -1",
        c"llama.attention.layer_norm_rms_epsilon",
        Value::Float(-1.0),
        &["llama_decode", "llama_model_load_from_file"],
        "none: it is asserted, in the first decode",
        Outcome::Assertion { at: "ops.cpp:4132", says: "GGML_ASSERT(eps >= 0.0f) failed" },
        "LoadError::Malformed(..)"
    ),
    Row {
        group: Group::ModelFiles,
        name: "a_token_twice",
        done: "a vocabulary has the same token twice",
        functions: &["llama_model_load_from_file"],
        operation: "none: it is asserted",
        outcome: Outcome::Assertion {
            at: "llama-vocab.cpp:2578",
            says: "GGML_ASSERT(id_to_token.size() == token_to_id.size()) failed",
        },
        raw: a_token_twice,
        safe: Safe::Refused {
            error: "LoadError::Malformed(..)",
            on: Setup::Tiny,
            attempt: |_| told(Model::from_bytes(&with_a_token_twice(), &ModelParams::default()).map(drop)),
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "a_norm_of_integers",
        done: "a norm is of 32-bit integers",
        functions: &["llama_decode", "llama_model_load_from_file"],
        operation: "none: it ends the process, in the first decode",
        outcome: Outcome::Assertion {
            at: "binary-ops.cpp:135",
            says: "binary_op: unsupported types: dst: f32, src0: f32, src1: i32",
        },
        raw: a_norm_of_integers,
        safe: Safe::Refused {
            error: "LoadError::Malformed(..)",
            on: Setup::Tiny,
            attempt: |_| {
                told(Model::from_bytes(&of_integers("blk.0.attn_norm.weight"), &ModelParams::default()).map(drop))
            },
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "a_matrix_of_integers",
        done: "a matrix is of 32-bit integers",
        functions: &["llama_decode", "llama_model_load_from_file"],
        operation: "call through NULL: there is no kernel for it",
        outcome: Outcome::Segfault { at: "ggml-cpu.c:1347" },
        raw: a_matrix_of_integers,
        safe: Safe::Refused {
            error: "LoadError::Malformed(..)",
            on: Setup::Tiny,
            attempt: |_| {
                told(Model::from_bytes(&of_integers("blk.0.attn_q.weight"), &ModelParams::default()).map(drop))
            },
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "an_expert_that_is_not_there",
        done: "a table of the experts of each token names number 4 of four",
        functions: &["llama_decode", "llama_model_load_from_file"],
        operation: "none: it is asserted, in the first decode of that token",
        outcome: Outcome::Assertion { at: "ops.cpp:5363", says: "GGML_ASSERT(i01 >= 0 && i01 < ne01) failed" },
        raw: an_expert_that_is_not_there,
        safe: Safe::Refused {
            error: "LoadError::Malformed(Id { tensor: \"blk.0.ffn_gate_tid2eid.weight\", got: 4, max: 3 })",
            on: Setup::Tiny,
            attempt: |_| told(Model::from_bytes(&experts_by_table(4), &ModelParams::default()).map(drop)),
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "cut_while_it_is_mapped",
        done: "the file of a mapped model is cut, and computed with",
        functions: &["llama_decode", "llama_model_load_from_file", "llama_supports_mmap"],
        operation: "read of a mapped page behind the end of its file",
        outcome: Outcome::Bus { at: "ggml-cpu/ops.cpp:5330" },
        raw: cut_while_it_is_mapped,
        safe: Safe::Right {
            why: "LoadMode::Read copies the file; a mapped one must not be cut, which the documentation says",
            on: Setup::Tiny,
            attempt: |_| {
                let path = place("cut.gguf");
                std::fs::write(&path, gguf()).unwrap();
                let model = Model::load(&path, &ModelParams::default().load_mode(LoadMode::Read)).unwrap();
                std::fs::File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
                batch_suite::still_works(&mut Context::new(&model, &params()).unwrap());
                std::fs::remove_file(path).unwrap();
            },
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "no_path",
        done: "a model is loaded from NULL",
        functions: &["llama_model_load_from_file"],
        operation: "none: a string is made of NULL, and throws",
        outcome: Outcome::Exception { kind: "std::logic_error", says: "null", at: "llama.cpp:470" },
        raw: no_path,
        safe: Safe::Unwritable { file: "model/load.rs", line: "Model::load(None" },
    },
    Row {
        group: Group::ModelFiles,
        name: "fewer_paths_than_said",
        done: "a model of two parts is loaded from a list of one path that is said to have two",
        functions: &["llama_model_load_from_splits"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "parameters", at: "llama.cpp:484" },
        raw: fewer_paths_than_said,
        safe: Safe::Unwritable { file: "model/load.rs", line: "Model::load(None" },
    },
    Row {
        group: Group::ModelFiles,
        name: "overrides_without_an_end",
        done: "a list of metadata to override that does not end with an empty key",
        functions: &["llama_model_load_from_file", "llama_model_default_params"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "parameters", at: "llama-model-loader.cpp:552" },
        raw: overrides_without_an_end,
        safe: Safe::Right {
            why: "the list is ended by the library",
            on: Setup::Tiny,
            attempt: |_| {
                let params = ModelParams::default().override_metadata("llama.context_length", 77);
                assert_eq!(Model::from_bytes(&gguf(), &params).unwrap().context_length(), 77);
            },
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "devices_without_an_end",
        done: "a list of devices that does not end with NULL",
        functions: &["llama_model_load_from_file", "llama_max_devices"],
        operation: "out-of-bounds read",
        outcome: Outcome::GuardPage { array: "parameters", at: "llama.cpp:163" },
        raw: devices_without_an_end,
        safe: Safe::Unwritable { file: "params.rs", line: "params.devices(" },
    },
    Row {
        group: Group::ModelFiles,
        name: "load_mode_of_no_name",
        done: "a load mode is asked for by a name that is none",
        functions: &["llama_load_mode_from_str"],
        operation: "none: it ends the process",
        outcome: Outcome::Assertion { at: "llama.cpp:75", says: "unknown load mode: mystery" },
        raw: load_mode_of_no_name,
        safe: Safe::Unwritable { file: "params.rs", line: "params.load_mode(" },
    },
    Row {
        group: Group::ModelFiles,
        name: "load_mode_of_no_kind",
        done: "the name of a load mode that is none is asked for, 99",
        functions: &["llama_load_mode_name"],
        operation: "none: it ends the process",
        outcome: Outcome::Assertion { at: "llama.cpp:65", says: "fatal error" },
        raw: load_mode_of_no_kind,
        safe: Safe::Unwritable { file: "params.rs", line: "params.load_mode(" },
    },
    Row {
        group: Group::ModelFiles,
        name: "prefix_of_no_path",
        done: "the prefix of NULL is asked for",
        functions: &["llama_split_prefix", "llama_split_path"],
        operation: "none: a string is made of NULL, and throws",
        outcome: Outcome::Exception { kind: "std::logic_error", says: "null", at: "llama.cpp:577" },
        raw: prefix_of_no_path,
        safe: Safe::Unwritable { file: "model/load.rs", line: "Model::load(None" },
    },
    Row {
        group: Group::ModelFiles,
        name: "an_encoder_saved",
        done: "an encoder is saved, and loaded again",
        functions: &["llama_model_save_to_file"],
        operation: "none: its token embedding is left out, and the file is no model",
        outcome: Outcome::Wrong { at: "llama-model-saver.cpp:468" },
        raw: an_encoder_saved,
        safe: Safe::Refused {
            error: "SaveError::Unsupported { .. }",
            on: Setup::Encoder,
            attempt: |context| told(context.model().save(place("encoder.gguf"))),
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "saved_where_nothing_can_be",
        done: "a model is saved in a folder that does not exist",
        functions: &["llama_model_save_to_file"],
        operation: "none: that it cannot be written is not looked at",
        outcome: Outcome::Wrong { at: "llama-model-saver.cpp:516" },
        raw: saved_where_nothing_can_be,
        safe: Safe::Refused {
            error: "SaveError::Unwritable { .. }",
            on: Setup::Tiny,
            attempt: |context| told(context.model().save("/no such folder/model.gguf")),
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "quantised_onto_itself",
        done: "a model is quantised into the file that it is read from",
        functions: &["llama_model_quantize", "llama_model_quantize_default_params"],
        operation: "read of a mapped page behind the end of its file, which was emptied for the output",
        outcome: Outcome::Bus { at: "llama-model-loader.cpp:1486" },
        raw: quantised_onto_itself,
        safe: Safe::Refused {
            error: "QuantizeError::OutputIsInput { .. }",
            on: Setup::Tiny,
            attempt: |_| {
                let path = place("itself.gguf");
                std::fs::write(&path, gguf()).unwrap();
                let error = told(quantize(&path, &path, &QuantizeParams::new(Quantization::Q8_0)).map(drop));
                assert_eq!(std::fs::read(&path).unwrap(), gguf(), "it is untouched");
                std::fs::remove_file(path).unwrap();
                error
            },
        },
    },
    Row {
        group: Group::ModelFiles,
        name: "weights_from_nowhere",
        done: "a model is made of metadata, with NULL for the function that gives its weights",
        functions: &["llama_model_init_from_user"],
        operation: "call through NULL",
        outcome: Outcome::Segfault { at: "llama-model-loader.cpp:1501" },
        raw: weights_from_nowhere,
        safe: Safe::Unwritable { file: "model/generated.rs", line: "Model::generate(gguf, params, None)" },
    },
];

/// A value of the metadata.
enum Value {
    Int(u32),
    Float(f32),
    Text(&'static CStr),
}

impl Value {
    /// The same for the safe layer.
    fn safe(&self) -> MetadataValue {
        match self {
            Self::Int(number) => MetadataValue::Number(*number),
            Self::Float(number) => MetadataValue::Float(*number),
            Self::Text(text) => MetadataValue::Text(text.to_str().expect("a text").to_owned()),
        }
    }
}

fn gguf() -> Vec<u8> {
    Llama::tiny().gguf(Weights::F32, 1).expect("a shape that holds together")
}

/// A place for a file of this process.
fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{}-{name}", std::process::id()))
}

fn with_a_token_twice() -> Vec<u8> {
    let mut gguf = gguf();
    // Texts have their length before them: a token of one byte, and the next.
    let pair = [1, 0, 0, 0, 0, 0, 0, 0, b'b', 1, 0, 0, 0, 0, 0, 0, 0, b'c'];
    let at = gguf.windows(pair.len()).position(|bytes| bytes == pair).expect("tokens of one byte, in order");
    gguf[at + 17] = b'b';
    gguf
}

/// The model with the numbers of one tensor taken for integers.
fn of_integers(tensor: &str) -> Vec<u8> {
    let mut gguf = gguf();
    let at = gguf.windows(tensor.len()).position(|bytes| bytes == tensor.as_bytes()).expect("a tensor") + tensor.len();
    let dimensions = usize::from(gguf[at]);
    gguf[at + 4 + 8 * dimensions] = GGML_TYPE_I32 as u8;
    gguf
}

/// Loads the tiny model with a value in the place of its own, and computes three tokens with it.
unsafe fn overridden(key: &CStr, value: Value) {
    let mut overrides: [llama_model_kv_override; 2] = std::mem::zeroed();
    let one = &mut overrides[0];
    let copy = |to: *mut c_char, from: &CStr| ptr::copy_nonoverlapping(from.as_ptr(), to, from.count_bytes() + 1);
    copy(one.key.as_mut_ptr(), key);
    match value {
        Value::Int(number) => {
            one.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
            one.__bindgen_anon_1.val_i64 = i64::from(number);
        }
        Value::Float(number) => {
            one.tag = LLAMA_KV_OVERRIDE_TYPE_FLOAT;
            one.__bindgen_anon_1.val_f64 = f64::from(number);
        }
        Value::Text(text) => {
            one.tag = LLAMA_KV_OVERRIDE_TYPE_STR;
            copy((&raw mut one.__bindgen_anon_1.val_str).cast(), text);
        }
    }
    computes(model_with(&gguf(), |params| params.kv_overrides = overrides.as_ptr()));
}

unsafe fn computes(model: *mut llama_model) {
    llama_decode(context(model), Arrays::new(0, 0, &text(1, 3)).batch());
}

unsafe fn a_token_twice() {
    try_model(&with_a_token_twice(), |_| {});
}

unsafe fn a_norm_of_integers() {
    computes(model_with(&of_integers("blk.0.attn_norm.weight"), |_| {}));
}

unsafe fn a_matrix_of_integers() {
    computes(model_with(&of_integers("blk.0.attn_q.weight"), |params| params.use_extra_bufts = false));
}

unsafe fn an_expert_that_is_not_there() {
    let last = ARCHITECTURE_TOKENS as i32 - 1;
    llama_decode(context(model_with(&experts_by_table(4), |_| {})), Arrays::new(0, 0, &[0, 1, last]).batch());
}

unsafe fn cut_while_it_is_mapped() {
    let path = file(&gguf());
    let mut params = llama_model_default_params();
    params.load_mode = LLAMA_LOAD_MODE_MMAP;
    params.use_extra_bufts = false;
    let model = llama_model_load_from_file(path.as_ptr(), params);
    libc::truncate(path.as_ptr(), 4096);
    computes(model);
}

unsafe fn no_path() {
    llama_model_load_from_file(ptr::null(), llama_model_default_params());
}

unsafe fn fewer_paths_than_said() {
    let path = file(&gguf());
    let paths = guarded("parameters", &[path.as_ptr()]);
    llama_model_load_from_splits(paths, 2, llama_model_default_params());
}

unsafe fn overrides_without_an_end() {
    let mut one: llama_model_kv_override = std::mem::zeroed();
    one.tag = LLAMA_KV_OVERRIDE_TYPE_INT;
    ptr::copy_nonoverlapping(c"llama.context_length".as_ptr(), one.key.as_mut_ptr(), 21);
    let overrides = guarded("parameters", &[one]);
    try_model(&gguf(), |params| params.kv_overrides = overrides);
}

unsafe fn devices_without_an_end() {
    let devices = guarded("parameters", &[ggml_backend_dev_get(0)]);
    try_model(&gguf(), |params| params.devices = devices);
}

unsafe fn load_mode_of_no_name() {
    llama_load_mode_from_str(c"mystery".as_ptr());
}

unsafe fn load_mode_of_no_kind() {
    llama_load_mode_name(99);
}

unsafe fn prefix_of_no_path() {
    let mut prefix = [0; 64];
    llama_split_prefix(prefix.as_mut_ptr(), 64, ptr::null(), 0, 2);
}

unsafe fn an_encoder_saved() {
    let encoder = crate::raw::model(&Bert::tiny().gguf(Weights::F32, 1).expect("a shape that holds together"));
    let path = file(b"");
    llama_model_save_to_file(encoder, path.as_ptr());
    if llama_model_load_from_file(path.as_ptr(), llama_model_default_params()).is_null() {
        wrong("what was saved cannot be loaded");
    }
}

unsafe fn saved_where_nothing_can_be() {
    llama_model_save_to_file(crate::raw::tiny(), c"/no such folder/model.gguf".as_ptr());
    wrong("it returns, and nothing was saved");
}

unsafe fn quantised_onto_itself() {
    let path = file(&gguf());
    let mut params = llama_model_quantize_default_params();
    params.ftype = LLAMA_FTYPE_MOSTLY_Q8_0;
    params.nthread = 1;
    let result = llama_model_quantize(path.as_ptr(), path.as_ptr(), &raw const params);
    if llama_model_load_from_file(path.as_ptr(), llama_model_default_params()).is_null() {
        wrong(&format!("{result} is returned, and the file is no model any more"));
    }
}

unsafe fn weights_from_nowhere() {
    let params = gguf_init_params { no_alloc: true, ctx: ptr::null_mut() };
    let metadata = gguf_init_from_file(file(&gguf()).as_ptr(), params);
    llama_model_init_from_user(metadata, None, ptr::null_mut(), llama_model_default_params());
}
