//! How a model file may store its weights: the formats that ggml has, and which a tensor of a given name may have.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use crate::error::GgufError;
use crate::gguf::{Header, Kind, TOKENS, Tensor, Value};

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
    header.tensors.iter().try_for_each(check_format)?;
    header.tensors.iter().try_for_each(|tensor| check_ids(header, tensor))?;
    // Without a directory all of them are made.
    if header.tensors.is_empty() { Ok(()) } else { check_needed(header) }
}

/// Weights of feed-forward layers in NVFP4 that have a scale of their own. llama.cpp multiplies by it after an adapter, and
/// asserts that there is none (llama-graph.cpp:1833).
pub(crate) fn scaled(header: &Header) -> Vec<String> {
    const NVFP4: u32 = 40;
    let is_there = |name: &str| header.tensors.iter().any(|tensor| tensor.name == name);
    let scaled = |tensor: &&Tensor| {
        let stem = tensor.name.strip_suffix(".weight").unwrap_or_default();
        let part = stem.rsplit('.').next().unwrap_or_default();
        tensor.format == NVFP4
            && ["ffn_up", "ffn_gate", "ffn_down"].contains(&part)
            && is_there(&format!("{stem}.scale"))
    };
    header.tensors.iter().filter(scaled).map(|tensor| tensor.name.clone()).collect()
}

/// Tensors that llama.cpp lets a file leave out, and then adds or looks up as if they were there.
fn check_needed(header: &Header) -> Result<(), GgufError> {
    let architecture = header.text("general.architecture").unwrap_or_default();
    let has = |name: &str| header.tensors.iter().any(|tensor| tensor.name == name);
    let need = |tensor: &str| match has(tensor) {
        true => Ok(()),
        false => Err(GgufError::MissingTensor { architecture: architecture.to_owned(), tensor: tensor.to_owned() }),
    };
    match architecture {
        // mamba-base.cpp:80 and :235.
        "falcon-h1" | "granitehybrid" | "nemotron_h" | "nemotron_h_moe" => {
            let names = header.tensors.iter().map(|tensor| tensor.name.as_str());
            let layers = names.filter_map(|name| name.strip_suffix(".ssm_conv1d.weight"));
            layers.map(|layer| format!("{layer}.ssm_conv1d.bias")).try_for_each(|name| need(&name))
        }
        // t5.cpp:146 and :305: the first layer's stand for all.
        "t5" => need("enc.blk.0.attn_rel_b.weight").and_then(|()| need("dec.blk.0.attn_rel_b.weight")),
        "t5encoder" => need("enc.blk.0.attn_rel_b.weight"),
        // rwkv6-base.cpp:50 takes it for RWKV 6 by this tensor, and the norm of RWKV 6 is never loaded.
        "rwkv6qwen2" => {
            let names = header.tensors.iter().map(|tensor| tensor.name.as_str());
            let mut layers = names.filter_map(|name| name.strip_suffix(".time_mix_first.weight"));
            layers.try_for_each(|layer| need(&format!("{layer}.time_mix_ln.weight")))
        }
        // A layer with a part of an indexer is used as if it had all of it.
        "glm-dsa" => {
            const PARTS: [&str; 5] =
                ["proj.weight", "attn_k.weight", "attn_q_b.weight", "k_norm.weight", "k_norm.bias"];
            let names = header.tensors.iter().filter_map(|tensor| tensor.name.split_once(".indexer."));
            let layers: BTreeSet<&str> = names.map(|(layer, _)| layer).chain(["blk.0"]).collect();
            let parts = layers.iter().flat_map(|layer| PARTS.map(|part| format!("{layer}.indexer.{part}")));
            parts.into_iter().try_for_each(|name| need(&name))
        }
        // A layer with a router has experts, in one of two forms (llama-model.cpp:3406).
        "hy_v3" => {
            let names = header.tensors.iter().map(|tensor| tensor.name.as_str());
            let mut layers = names.filter_map(|name| name.strip_suffix(".ffn_gate_inp.weight"));
            layers.try_for_each(|layer| match has(&format!("{layer}.ffn_gate_up_exps.weight")) {
                true => Ok(()),
                false => {
                    ["ffn_gate_exps", "ffn_up_exps"].iter().try_for_each(|part| need(&format!("{layer}.{part}.weight")))
                }
            })
        }
        _ => Ok(()),
    }
}

/// Whether all weights are F32, which no processor has another order for.
pub(crate) fn are_plain(header: &Header) -> bool {
    header.tensors.iter().all(|tensor| tensor.format == F32)
}

fn check_format(tensor: &Tensor) -> Result<(), GgufError> {
    let refuse = |allowed| Err(GgufError::FormatOfRole { tensor: tensor.name.clone(), got: tensor.format, allowed });
    match role(&tensor.name) {
        Role::Numbers if tensor.format != F32 => refuse("F32"),
        Role::Matrix if !is_matrix_format(tensor.format) => refuse("a format that matrices are multiplied in"),
        Role::Ids if ![I32, I64].contains(&tensor.format) => refuse("I32 or I64"),
        _ => Ok(()),
    }
}

/// Refuses ids of experts and of tokens that are not there: ggml looks them up while it computes, and aborts (ops.cpp:5363,
/// ggml_compute_forward_get_rows; ops.cpp:5488, ggml_compute_forward_set_rows_impl).
fn check_ids(header: &Header, tensor: &Tensor) -> Result<(), GgufError> {
    let Some((least, most)) = tensor.ids else { return Ok(()) };
    let number = |key: &str| {
        let architecture = header.text("general.architecture").unwrap_or_default();
        header.number(&format!("{architecture}.{key}"), Kind::U32).unwrap_or(0)
    };
    let count = match last_part(&tensor.name) {
        // deepseek4.cpp:1291
        "ffn_gate_tid2eid" => number("expert_count"),
        // eagle3.cpp:318, dflash.cpp:842
        "d2t" => match header.metadata.get(TOKENS) {
            Some(Value::List(tokens)) => tokens.length.into(),
            _ => number("vocab_size"),
        },
        _ => return Ok(()),
    };
    match [least, most].into_iter().find(|id| !(0..count).contains(&i128::from(*id))) {
        None => Ok(()),
        Some(got) => Err(GgufError::Id { tensor: tensor.name.clone(), got, max: count as i64 - 1 }),
    }
}

/// Bytes of a number, of a tensor that holds ids.
pub(crate) fn id_bytes(name: &str, format: u32) -> Option<u64> {
    match format {
        I32 if role(name) == Role::Ids => Some(4),
        I64 if role(name) == Role::Ids => Some(8),
        _ => None,
    }
}

const F32: u32 = 0;
const I32: u32 = 26;
const I64: u32 = 27;

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

/// The last part of the names of what is added or multiplied number by number; norms besides
/// (`LLM_TENSOR_INFOS` in llama-arch.cpp, and `token_types`, of which bert.cpp adds a row).
const NUMBERS: &str = "token_types gamma ssm_a ssm_d ssm_conv1d ssm_conv1d_q ssm_conv1d_k ssm_conv1d_v ple_conv1d conv \
     time_mix_lerp_x time_mix_lerp_w time_mix_lerp_k time_mix_lerp_v time_mix_lerp_r time_mix_lerp_g time_mix_lerp_fused \
     channel_mix_lerp_k channel_mix_lerp_r time_mix_decay time_mix_w0 time_mix_a0 time_mix_v0 time_mix_k_k time_mix_k_a \
     time_mix_r_k time_mix_ln time_mix_first exp_probs_b exp_probs_b_vl rope_freqs rope_factors_long rope_factors_short \
     attn_sinks act layer_output_scale output_hc_scale hc_attn_scale hc_ffn_scale output_hc_base hc_attn_base hc_ffn_base";
const IDS: &str = "d2t ffn_gate_tid2eid masked_embd_ordering";

/// A tensor's name without what it is of a part of the model, and that: `weight`, mostly.
fn split(name: &str) -> (&str, &str) {
    let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
    // `blk.0.ssm_a` has no suffix, `ffn.act.scales` one of its own.
    let stem = if ["weight", "bias", "scale", "input_scale", "scales"].contains(&suffix) { stem } else { name };
    (stem, suffix)
}

/// The part of the model, without its layer.
fn last_part(name: &str) -> &str {
    let (stem, _) = split(name);
    stem.rsplit('.').next().unwrap_or(stem)
}

fn role(name: &str) -> Role {
    let one_of = |names: &str, name: &str| names.split_whitespace().any(|one| one == name);
    let (stem, suffix) = split(name);
    let last = last_part(name);
    if one_of(IDS, last) {
        Role::Ids
    } else if !["", "weight"].contains(&suffix) && stem != name || last.contains("norm") || one_of(NUMBERS, last) {
        Role::Numbers
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
    use crate::gguf::List;

    /// A file of this architecture with these tensors, all of F32.
    fn checked(architecture: &str, names: &[&str]) -> Result<(), GgufError> {
        let mut header = Header::default();
        header.metadata.insert("general.architecture".to_owned(), Value::Text(architecture.to_owned()));
        let tensor = |name: &&str| Tensor { name: (*name).to_owned(), shape: [8, 1, 1, 1], ..Tensor::default() };
        header.tensors = names.iter().map(tensor).collect();
        check(&header)
    }

    #[test]
    fn what_is_used_is_there() {
        let conv = ["blk.0.ssm_conv1d.weight", "blk.0.ssm_conv1d.bias", "blk.3.ssm_conv1d.weight"];
        checked("mamba", &conv).unwrap();
        let error = checked("nemotron_h", &conv).unwrap_err();
        assert!(
            matches!(&error, GgufError::MissingTensor { tensor, .. } if tensor == "blk.3.ssm_conv1d.bias"),
            "{error}"
        );
        checked("t5encoder", &["enc.blk.0.attn_rel_b.weight"]).unwrap();
        assert!(checked("t5", &["enc.blk.0.attn_rel_b.weight"]).is_err());
        let router = "blk.1.ffn_gate_inp.weight";
        checked("hy_v3", &[router, "blk.1.ffn_gate_up_exps.weight"]).unwrap();
        checked("hy_v3", &[router, "blk.1.ffn_gate_exps.weight", "blk.1.ffn_up_exps.weight"]).unwrap();
        assert!(checked("hy_v3", &[router, "blk.1.ffn_up_exps.weight"]).is_err());
        let indexer = ["proj.weight", "attn_k.weight", "attn_q_b.weight", "k_norm.weight", "k_norm.bias"];
        let indexer = indexer.map(|part| format!("blk.0.indexer.{part}"));
        let indexer: Vec<&str> = indexer.iter().map(String::as_str).collect();
        checked("glm-dsa", &indexer).unwrap();
        assert!(checked("glm-dsa", &indexer[1..]).is_err());
        // Without tensors there is nothing to be missed: all of them are made.
        checked("t5", &[]).unwrap();
    }

    #[test]
    fn ids_are_there() {
        let checked = |name: &str, ids, tokens: bool| {
            let mut header = Header::default();
            header.metadata.insert("general.architecture".to_owned(), Value::Text("eagle3".to_owned()));
            for (key, number) in [("eagle3.expert_count", 8), ("eagle3.vocab_size", 100)] {
                header.metadata.insert(key.to_owned(), Value::Number(Kind::U32, number));
            }
            if tokens {
                let list =
                    List { of: Kind::Text, length: 50, numbers: Vec::new(), floats: Vec::new(), texts: Vec::new() };
                header.metadata.insert(TOKENS.to_owned(), Value::List(list));
            }
            let tensor = Tensor { name: name.to_owned(), shape: [4, 1, 1, 1], format: I64, ids: Some(ids) };
            header.tensors = vec![tensor];
            check(&header)
        };
        for (name, tokens, count) in
            [("blk.7.ffn_gate_tid2eid.weight", true, 8), ("d2t", true, 50), ("d2t", false, 100)]
        {
            checked(name, (0, count - 1), tokens).unwrap();
            for (ids, wrong) in [((-1, 0), -1), ((0, count), count), ((i64::MIN, i64::MAX), i64::MIN)] {
                let error = checked(name, ids, tokens).unwrap_err();
                assert!(
                    matches!(error, GgufError::Id { got, max, .. } if got == wrong && max == count - 1),
                    "{name}: {error}"
                );
            }
        }
        // Read by nobody.
        checked("masked_embd_ordering.weight", (-5, 1_000_000), true).unwrap();
    }

    #[test]
    fn formats_have_kernels() {
        let format = |name: &str, format: u32| {
            check_format(&Tensor { name: name.to_owned(), shape: [256, 1, 1, 1], format, ids: None })
        };
        for (name, good, bad) in [
            ("blk.0.attn_q.weight", [0, 1, 8, 12, 30, 39], [9, 15, 24, 26, 27, 28]),
            ("token_embd.weight", [0, 1, 2, 14, 30, 42], [9, 15, 24, 26, 27, 28]),
            ("blk.0.attn_norm.weight", [0; 6], [1, 8, 24, 26, 28, 30]),
            ("blk.0.attn_q.bias", [0; 6], [1, 8, 24, 26, 28, 30]),
        ] {
            assert!(good.iter().all(|number| format(name, *number).is_ok()), "{name}");
            assert!(bad.iter().all(|number| format(name, *number).is_err()), "{name}");
        }
    }

    #[test]
    fn roles() {
        for name in [
            "blk.3.attn_norm.weight",
            "output_norm.weight",
            "blk.0.attn_q.bias",
            "blk.0.ssm_a",
            "token_types.weight",
            "rope_freqs.weight",
        ] {
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
