//! Tiny models of architectures.

use fixtures::Weights;
use fixtures::gguf::{Gguf, Tensor};
use llama_safe::{LoadError, Model, ModelParams};

/// The tiny model of an architecture.
///
/// # Errors
///
/// Why llama.cpp does not make it.
pub fn architecture(name: &str) -> Result<Model, LoadError> {
    let params = ModelParams::default();
    let gguf = fixtures::architecture(name);
    let mut tensors = Vec::new();
    let made = Model::generate(&gguf.header(), &params, |tensor, values| {
        fixtures::fill(tensor.name, tensor.shape, values);
        tensors.push((tensor.name.to_owned(), tensor.shape.to_vec()));
    });
    let left_out = fixtures::left_out(name);
    if left_out.is_empty() {
        return made;
    }
    // The same as a file, without the tensors that its files have not.
    drop(made);
    tensors.retain(|(name, _)| !left_out.iter().any(|part| name.contains(part)));
    Model::from_bytes(&file(gguf, tensors, fixtures::fill)?, &params)
}

/// The file of a model with these tensors, all F32.
fn file(
    mut gguf: Gguf,
    tensors: Vec<(String, Vec<u64>)>,
    fill: impl Fn(&str, &[u64], &mut [f32]),
) -> Result<Vec<u8>, LoadError> {
    for (name, shape) in tensors {
        gguf.add(Tensor { name, shape, weights: Weights::F32 });
    }
    let mut file = Vec::new();
    let written = gguf.write(&mut file, |tensor, out| {
        let mut values = vec![0.0; tensor.values() as usize];
        fill(&tensor.name, &tensor.shape, &mut values);
        values.iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    });
    written.map_err(|source| LoadError::Buffer { source })?;
    Ok(file)
}

/// The file of a tiny model with four experts, of which its first layer takes those that a table has for a token: numbers 0 and
/// 1 for each, but for the last token, which has 0 and `last`.
///
/// # Panics
///
/// If llama.cpp does not know the architecture.
#[must_use]
pub fn experts_by_table(last: i32) -> Vec<u8> {
    const TABLE: &str = "blk.0.ffn_gate_tid2eid.weight";
    const LAYERS: &str = "deepseek4.hash_layer_count";
    let mut gguf = Gguf::default();
    for (key, value) in fixtures::architecture("deepseek4").metadata() {
        gguf.set(key.as_str(), if key == LAYERS { 1_u32.into() } else { value.clone() });
    }
    let mut tensors = Vec::new();
    let made = Model::generate(&gguf.header(), &ModelParams::default(), |tensor, _| {
        tensors.push((tensor.name.to_owned(), tensor.shape.to_vec()));
    });
    drop(made.expect("an architecture of llama.cpp's"));
    let fill = |name: &str, shape: &[u64], values: &mut [f32]| {
        fixtures::fill(name, shape, values);
        if name == TABLE {
            let end = values.len() - 1;
            for (at, id) in values.iter_mut().enumerate() {
                *id = f32::from_bits(if at == end { last as u32 } else { at as u32 % 2 });
            }
        }
    };
    let mut file = file(gguf, tensors, fill).expect("room");
    // Behind the name stand the number of dimensions, these two, and the type.
    let name = file.windows(TABLE.len()).position(|bytes| bytes == TABLE.as_bytes()).expect("the table");
    file[name + TABLE.len() + 4 + 2 * 8] = llama_sys::GGML_TYPE_I32 as u8;
    file
}
