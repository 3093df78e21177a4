//! How a model file may store its weights: the formats that ggml has, and which a tensor of a given name may have.
#![forbid(unsafe_code)]

use crate::error::GgufError;
use crate::gguf::{Header, Tensor};

/// Bytes of a block and values in it, for each `enum ggml_type` that files have. A test compares it with ggml.
pub(crate) fn block(format: u32) -> Option<(u64, u64)> {
    let (values, bytes) = match format {
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        16 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        35 => (256, 66),
        39 => (32, 17),
        40 => (64, 36),
        41 => (128, 18),
        42 => (64, 18),
        _ => return None,
    };
    Some((values, bytes))
}

/// Bytes of a tensor's weights.
pub(crate) fn tensor_bytes(name: &str, shape: [u64; 4], format: u32) -> Result<u64, GgufError> {
    let Some((values, bytes)) = block(format) else {
        return Err(GgufError::Format { tensor: name.to_owned(), got: format });
    };
    if !shape[0].is_multiple_of(values) {
        return Err(GgufError::Row { tensor: name.to_owned(), row: shape[0], block: values });
    }
    let too_large = || GgufError::Shape { tensor: name.to_owned(), shape };
    if shape.contains(&0) {
        return Err(too_large());
    }
    // llama.cpp counts values and bytes in signed 64 bits.
    let count = shape.iter().try_fold(1_u64, |count, size| count.checked_mul(*size)).ok_or_else(too_large)?;
    let total = (count / values).checked_mul(bytes).ok_or_else(too_large)?;
    if count > i64::MAX as u64 || total > i64::MAX as u64 { Err(too_large()) } else { Ok(total) }
}

/// Refuses tensors in formats that they cannot be computed in: ggml finds out while it computes, and aborts
/// (binary-ops.cpp:135) or calls a kernel that is not there.
pub(crate) fn check(header: &Header) -> Result<(), GgufError> {
    header.tensors.iter().try_for_each(check_format)
}

fn check_format(tensor: &Tensor) -> Result<(), GgufError> {
    let refuse = |allowed| Err(GgufError::FormatOfRole { tensor: tensor.name.clone(), got: tensor.format, allowed });
    match role(&tensor.name) {
        Role::Numbers if tensor.format != F32 => refuse("F32"),
        Role::Matrix if !is_matrix_format(tensor.format) => refuse("a format that matrices are multiplied in"),
        Role::Ids if ![26, 27].contains(&tensor.format) => refuse("I32 or I64"),
        _ => Ok(()),
    }
}

const F32: u32 = 0;

/// What is done with a tensor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    /// Added or multiplied number by number.
    Numbers,
    /// Multiplied as a matrix, or rows of it are looked up.
    Matrix,
    /// Holds ids of tokens or experts.
    Ids,
}

/// Parts of names of what is added or multiplied number by number, with the suffix `.weight` or none.
/// (`LLM_TENSOR_INFOS` in llama-arch.cpp.)
const NUMBERS: [&str; 24] = [
    "norm",
    "token_types",
    "gamma",
    "ssm_a",
    "ssm_d",
    "conv1d",
    "shortconv.conv",
    "lerp_",
    "time_mix_decay",
    "time_mix_w0",
    "time_mix_a0",
    "time_mix_v0",
    "time_mix_k_k",
    "time_mix_k_a",
    "time_mix_r_k",
    "time_mix_ln",
    "time_mix_first",
    "exp_probs_b",
    "rope_f",
    "attn_sinks",
    "ffn.act",
    "_scale",
    "_hc_base",
    "res_score",
];
/// Names that hold a part of [`NUMBERS`] and are matrices all the same.
const MATRICES: [&str; 4] = ["time_mix_decay_w1", "time_mix_decay_w2", "norm_exps_", "convnext"];
const IDS: [&str; 3] = ["d2t", "ffn_gate_tid2eid", "masked_embd_ordering"];

fn role(name: &str) -> Role {
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    // `blk.0.ssm_a` has no suffix.
    let stem = if ["weight", "bias", "scale", "input_scale"].contains(&suffix) { stem } else { name };
    if IDS.iter().any(|ids| stem == *ids || stem.ends_with(&format!(".{ids}"))) {
        Role::Ids
    } else if MATRICES.iter().any(|part| stem.contains(part)) {
        Role::Matrix
    } else if ["bias", "scale", "input_scale"].contains(&suffix) || NUMBERS.iter().any(|part| stem.contains(part)) {
        // wavtokenizer's convolutions are kernels, not numbers.
        if stem.starts_with("conv1d") { Role::Matrix } else { Role::Numbers }
    } else {
        Role::Matrix
    }
}

/// Whether ggml multiplies matrices of this format, and looks up their rows.
fn is_matrix_format(format: u32) -> bool {
    !matches!(format, 9 | 15 | 24..=28) && block(format).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles() {
        for name in
            ["blk.3.attn_norm.weight", "output_norm.weight", "blk.0.attn_q.bias", "blk.0.ssm_a", "rope_freqs.weight"]
        {
            assert_eq!(role(name), Role::Numbers, "{name}");
        }
        for name in
            ["token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_gate_exps.weight", "blk.1.time_mix_decay_w1.weight"]
        {
            assert_eq!(role(name), Role::Matrix, "{name}");
        }
        assert_eq!(role("blk.0.ffn_gate_tid2eid.weight"), Role::Ids);
    }
}
