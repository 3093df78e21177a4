//! What an adapter's file must say, so that llama.cpp neither aborts on it nor passes over a part of it in silence.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use crate::error::AdapterError;
use crate::gguf::{Header, Kind, Shapes, Tensor, Value};

/// What an adapter is checked against.
#[derive(Debug)]
pub(crate) struct Base<'model> {
    pub(crate) architecture: &'model str,
    pub(crate) vocabulary: u32,
    pub(crate) shapes: &'model Shapes,
    /// Weights whose scale llama.cpp cannot put together with an adapter.
    pub(crate) scaled: &'model [String],
}

/// Formats that a product with a matrix is computed in (`enum ggml_type`): F32, F16, Q4_0, Q8_0, BF16.
const FORMATS: [u32; 5] = [0, 1, 2, 8, 30];
/// The token embedding, whose adapter is the other way round: a row of A is a token's (llama-graph.cpp:2435).
const EMBEDDING: &str = "token_embd.weight";
/// Encoders whose computation ends without logits, so that a missing head is not the token embedding.
const WITHOUT_HEAD: [&str; 8] =
    ["bert", "eurobert", "jina-bert-v2", "jina-bert-v3", "modern-bert", "neo-bert", "nomic-bert", "nomic-bert-moe"];
/// The most tokens that switch an adapter on: what the header's reader keeps.
const MOST_INVOCATION_TOKENS: u64 = 1024;

/// Checks an adapter's header, and gives the names of the tensors that llama.cpp would pass over.
pub(crate) fn check(header: &Header, base: &Base) -> Result<Vec<String>, AdapterError> {
    expect(header, "general.type", "adapter")?;
    expect(header, "adapter.type", "lora")?;
    expect(header, "general.architecture", base.architecture)?;
    check_alpha(header)?;
    check_invocation(header, base.vocabulary)?;

    let (pairs, mut ignored) = pairs(header)?;
    for (name, pair) in &pairs {
        let missing = |half| AdapterError::HalfAPair { tensor: (*name).to_owned(), missing: half };
        let a = pair.a.ok_or_else(|| missing("lora_a"))?;
        let b = pair.b.ok_or_else(|| missing("lora_b"))?;
        check_pair(name, a, b, base)?;
        if is_passed_over(name, base) {
            ignored.push((*name).to_owned());
        }
    }
    if pairs.len() <= ignored.len() && pairs.keys().all(|name| ignored.iter().any(|other| other == name)) {
        return Err(AdapterError::Nothing);
    }
    ignored.sort_unstable();
    Ok(ignored)
}

/// The last parts of names whose matrices llama.cpp computes with by themselves, adapter or not: tables that are looked up,
/// convolutions, factors of a recurrence, the small products of RWKV and of latent attention, classification heads. Only
/// what goes through `build_lora_mm` (llama-graph.cpp:1543) and the token embedding is adapted.
const PASSED_OVER: [&str; 20] = [
    "attn_k_b",
    "attn_rel_b",
    "attn_v_b",
    "cls",
    "conv",
    "cross_attn_rel_b",
    "position_embd",
    "ssm_a",
    "ssm_conv1d",
    "ssm_d",
    "time_mix_a1",
    "time_mix_a2",
    "time_mix_first",
    "time_mix_g1",
    "time_mix_g2",
    "time_mix_lerp_fused",
    "time_mix_r_k",
    "time_mix_v1",
    "time_mix_v2",
    "token_types",
];
/// The same of RWKV 6 and 7, where other architectures have nothing of the name.
const PASSED_OVER_BEGINNINGS: [&str; 3] = ["time_mix_w", "time_mix_decay", "ssm_conv1d_"];

/// Whether llama.cpp takes an adapter for this tensor, and computes without it.
fn is_passed_over(name: &str, base: &Base) -> bool {
    let whole = name.strip_suffix(".weight").unwrap_or(name);
    let part = whole.rsplit('.').next().unwrap_or(whole);
    // A gate of one row, which is multiplied all the same.
    let is_vector = base.shapes.get(name).is_some_and(|shape| shape[1..] == [1, 1, 1]) && part != "ffn_gate_inp_shexp";
    is_vector
        || name.ends_with(".bias")
        || part.ends_with("_norm")
        || PASSED_OVER.contains(&part)
        || PASSED_OVER_BEGINNINGS.iter().any(|beginning| part.starts_with(beginning))
        || whole == "cls.output"
        // The file has a head that nothing of the encoder's computation reads.
        || (base.architecture == "t5encoder" && whole == "output")
}

/// llama.cpp reads these as texts and aborts on another type (`gguf_get_val_str`, llama-adapter.cpp:212).
fn expect(header: &Header, key: &'static str, expected: &str) -> Result<(), AdapterError> {
    let found = match header.metadata.get(key) {
        Some(Value::Text(text)) if text == expected => return Ok(()),
        Some(Value::Text(text)) => format!("{text:?}"),
        Some(other) => format!("a {}", other.kind().name()),
        None => "nothing".to_owned(),
    };
    Err(AdapterError::Metadata { key, expected: format!("{expected:?}"), found })
}

/// llama.cpp reads this as an f32 and aborts on another type; a factor that is not a number spoils every logit.
fn check_alpha(header: &Header) -> Result<(), AdapterError> {
    const KEY: &str = "adapter.lora.alpha";
    let found = match header.metadata.get(KEY) {
        None => return Ok(()),
        Some(Value::Float(Kind::F32, alpha)) if alpha.is_finite() => return Ok(()),
        Some(Value::Float(_, alpha)) => alpha.to_string(),
        Some(other) => format!("a {}", other.kind().name()),
    };
    Err(AdapterError::Metadata { key: KEY, expected: "a finite f32".to_owned(), found })
}

fn check_invocation(header: &Header, vocabulary: u32) -> Result<(), AdapterError> {
    const KEY: &str = "adapter.alora.invocation_tokens";
    let wrong = |found| Err(AdapterError::Metadata { key: KEY, expected: "a list of tokens (u32)".to_owned(), found });
    match header.metadata.get(KEY) {
        None => Ok(()),
        Some(Value::List(list)) if list.of == Kind::U32 && list.length <= MOST_INVOCATION_TOKENS => {
            match list.numbers.iter().find(|token| **token >= i128::from(vocabulary)) {
                None => Ok(()),
                Some(token) => wrong(format!("token {token} of a vocabulary of {vocabulary}")),
            }
        }
        Some(Value::List(list)) => wrong(format!("a list of {} {}", list.length, list.of.name())),
        Some(other) => wrong(format!("a {}", other.kind().name())),
    }
}

#[derive(Default)]
struct Pair<'header> {
    a: Option<&'header Tensor>,
    b: Option<&'header Tensor>,
}

/// The pairs by the name of the matrix that they adapt, and what is no pair and llama.cpp passes over.
fn pairs(header: &Header) -> Result<(BTreeMap<&str, Pair<'_>>, Vec<String>), AdapterError> {
    let mut pairs = BTreeMap::<&str, Pair>::new();
    let mut ignored = Vec::new();
    for tensor in &header.tensors {
        if let Some(name) = tensor.name.strip_suffix(".lora_a") {
            pairs.entry(name).or_default().a = Some(tensor);
        } else if let Some(name) = tensor.name.strip_suffix(".lora_b") {
            pairs.entry(name).or_default().b = Some(tensor);
        } else if tensor.name.ends_with("_norm.weight") {
            ignored.push(tensor.name.clone());
        } else {
            return Err(AdapterError::UnknownTensor { tensor: tensor.name.clone() });
        }
    }
    Ok((pairs, ignored))
}

/// llama.cpp compares two lengths of the shapes; what it does not compare aborts while a graph is built (`ggml_mul_mat`),
/// or is read out of bounds (experts that the adapter does not have).
fn check_pair(name: &str, a: &Tensor, b: &Tensor, base: &Base) -> Result<(), AdapterError> {
    let tensor = || name.to_owned();
    let Some(of) = base.shapes.get(name) else {
        return Err(AdapterError::NoSuchTensor { tensor: tensor() });
    };
    if base.scaled.iter().any(|scaled| scaled == name) {
        return Err(AdapterError::ScaledWeights { tensor: tensor() });
    }
    if let Some(part) = [a, b].into_iter().find(|part| !FORMATS.contains(&part.format)) {
        return Err(AdapterError::Format { tensor: part.name.clone(), format: part.format });
    }
    // The embedding is looked up, everything else is multiplied.
    let (rank, expected_a, expected_b) = if name == EMBEDDING {
        if !base.shapes.contains_key("output.weight") && !WITHOUT_HEAD.contains(&base.architecture) {
            // llama.cpp would multiply the head with factors that are made for looking up, and abort.
            return Err(AdapterError::TiedEmbedding);
        }
        (a.shape[0], [a.shape[0], of[1], 1, 1], [a.shape[0], of[0], 1, 1])
    } else {
        (a.shape[1], [of[0], a.shape[1], of[2], of[3]], [a.shape[1], of[1], of[2], of[3]])
    };
    if rank == 0 || a.shape != expected_a || b.shape != expected_b {
        return Err(AdapterError::Shape {
            tensor: tensor(),
            of: of.to_vec(),
            a: a.shape.to_vec(),
            b: b.shape.to_vec(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::List;

    fn shapes() -> Shapes {
        [
            ("token_embd.weight", [64, 512, 1, 1]),
            ("output.weight", [64, 512, 1, 1]),
            ("blk.0.attn_q.weight", [64, 32, 1, 1]),
            ("blk.0.attn_norm.weight", [64, 1, 1, 1]),
            ("blk.0.ffn_up_exps.weight", [64, 128, 8, 1]),
        ]
        .map(|(name, shape)| (name.to_owned(), shape))
        .into()
    }

    fn tensor(name: &str, shape: [u64; 4]) -> Tensor {
        Tensor { name: name.to_owned(), shape, ..Tensor::default() }
    }

    /// An adapter of rank 4 for one matrix.
    fn good() -> Header {
        let text = |text: &str| Value::Text(text.to_owned());
        Header {
            metadata: [
                ("general.type", text("adapter")),
                ("adapter.type", text("lora")),
                ("general.architecture", text("llama")),
                ("adapter.lora.alpha", Value::Float(Kind::F32, 8.0)),
            ]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
            tensors: vec![
                tensor("blk.0.attn_q.weight.lora_a", [64, 4, 1, 1]),
                tensor("blk.0.attn_q.weight.lora_b", [4, 32, 1, 1]),
            ],
        }
    }

    fn checked(header: &Header) -> Result<Vec<String>, AdapterError> {
        check(header, &Base { architecture: "llama", vocabulary: 512, shapes: &shapes(), scaled: &[] })
    }

    /// What is said of the good adapter with one thing changed.
    fn refused(change: impl FnOnce(&mut Header)) -> AdapterError {
        let mut header = good();
        change(&mut header);
        checked(&header).expect_err("a bad adapter")
    }

    fn set(header: &mut Header, key: &str, value: Value) {
        header.metadata.insert(key.to_owned(), value);
    }

    #[test]
    fn a_good_adapter_passes() {
        assert_eq!(checked(&good()).unwrap(), [""; 0]);
        let mut header = good();
        header.tensors.push(tensor("token_embd.weight.lora_a", [4, 512, 1, 1]));
        header.tensors.push(tensor("token_embd.weight.lora_b", [4, 64, 1, 1]));
        header.tensors.push(tensor("blk.0.ffn_up_exps.weight.lora_a", [64, 4, 8, 1]));
        header.tensors.push(tensor("blk.0.ffn_up_exps.weight.lora_b", [4, 128, 8, 1]));
        header.metadata.remove("adapter.lora.alpha");
        assert_eq!(checked(&header).unwrap(), [""; 0]);
    }

    #[test]
    fn metadata_is_of_the_right_type_and_value() {
        for key in ["general.type", "adapter.type", "general.architecture"] {
            for value in [Value::Text("gemma".to_owned()), Value::Number(Kind::U32, 1)] {
                let error = refused(|header| set(header, key, value));
                assert!(matches!(error, AdapterError::Metadata { key: named, .. } if named == key), "{error}");
            }
            assert!(matches!(refused(|header| drop(header.metadata.remove(key))), AdapterError::Metadata { .. }));
        }
        for alpha in [Value::Float(Kind::F32, f64::NAN), Value::Float(Kind::F64, 1.0), Value::Number(Kind::U32, 1)] {
            let error = refused(|header| set(header, "adapter.lora.alpha", alpha));
            assert!(matches!(error, AdapterError::Metadata { key: "adapter.lora.alpha", .. }), "{error}");
        }
        let tokens = |of, numbers: Vec<i128>| {
            let (floats, texts) = (Vec::new(), Vec::new());
            Value::List(List { of, length: numbers.len() as u64, numbers, floats, texts })
        };
        for bad in [tokens(Kind::I32, vec![1]), tokens(Kind::U32, vec![1, 512]), Value::Number(Kind::U32, 1)] {
            let error = refused(|header| set(header, "adapter.alora.invocation_tokens", bad));
            assert!(matches!(error, AdapterError::Metadata { .. }), "{error}");
        }
    }

    #[test]
    fn tensors_fit_the_model() {
        let error = refused(|header| drop(header.tensors.pop()));
        assert!(
            matches!(&error, AdapterError::HalfAPair { tensor, missing: "lora_b" } if tensor == "blk.0.attn_q.weight")
        );
        let error = refused(|header| header.tensors[0].format = 26);
        assert!(matches!(error, AdapterError::Format { format: 26, .. }));
        let error = refused(|header| header.tensors.push(tensor("blk.0.attn_q.weight", [1; 4])));
        assert!(matches!(error, AdapterError::UnknownTensor { .. }));
        for (part, shape) in [
            (0, [32, 4, 1, 1]),
            (0, [64, 5, 1, 1]),
            (0, [64, 4, 2, 1]),
            (0, [64, 0, 1, 1]),
            (1, [4, 64, 1, 1]),
            (1, [4, 32, 1, 2]),
        ] {
            let error = refused(|header| header.tensors[part].shape = shape);
            assert!(matches!(error, AdapterError::Shape { .. }), "{error}");
        }
        let error = refused(|header| header.tensors.iter_mut().for_each(|tensor| tensor.name.insert(4, '9')));
        assert!(matches!(error, AdapterError::NoSuchTensor { .. }));
    }

    #[test]
    fn an_embedding_that_is_the_head_cannot_be_adapted() {
        let mut header = good();
        header.tensors.push(tensor("token_embd.weight.lora_a", [4, 512, 1, 1]));
        header.tensors.push(tensor("token_embd.weight.lora_b", [4, 64, 1, 1]));
        let mut shapes = shapes();
        shapes.remove("output.weight");
        let base = Base { architecture: "llama", vocabulary: 512, shapes: &shapes, scaled: &[] };
        assert!(matches!(check(&header, &base), Err(AdapterError::TiedEmbedding)));
    }

    #[test]
    fn what_is_passed_over_is_named() {
        let mut header = good();
        header.tensors.push(tensor("blk.0.attn_norm.weight", [64, 1, 1, 1]));
        assert_eq!(checked(&header).unwrap(), ["blk.0.attn_norm.weight"]);
        header.tensors.drain(..2);
        assert!(matches!(checked(&header), Err(AdapterError::Nothing)));
        assert!(matches!(refused(|header| header.tensors.clear()), AdapterError::Nothing));
    }
}
