//! What a model file may say about its model: the numbers that llama.cpp takes on trust, and then aborts on, divides by or
//! computes nonsense with.
//!
//! A value of another type than the one that llama.cpp reads is an exception there, so only the right types are looked at.
#![forbid(unsafe_code)]

use crate::error::GgufError;
use crate::gguf::{Header, Kind, Value};

/// Layers (`LLAMA_MAX_LAYERS`).
const MOST_LAYERS: i128 = 512;
/// Experts of a layer (`LLAMA_MAX_EXPERTS`).
const MOST_EXPERTS: i128 = 1024;
/// What llama.cpp keeps in an `int32_t`.
const MOST: i128 = i32::MAX as i128;
/// A window that the arithmetic of the cache (window times sequences, 32 bits) has room for.
const MOST_WINDOW: i128 = 1 << 23;

/// What the heads of a state that [`STEPPING`] architectures have must be a multiple of: the most values that the kernel takes
/// at a time, on any processor (`GGML_F32_STEP`). It does not look where a head ends (ops.cpp:11747, :11761), computes nonsense with
/// another width and writes beyond the last head.
const HEAD_STEP: i128 = 64;
/// Architectures with that kernel (`ggml_rwkv_wkv7`).
const STEPPING: &str = "rwkv7 arwkv7";

/// Architectures without rotary positions (`llama_model_rope_type`).
const WITHOUT_ROPE: &str = "gpt2 gptj mpt refact bloom mamba mamba2 jamba jina-bert-v2 t5 t5encoder jais rwkv6 rwkv6qwen2 \
     rwkv7 arwkv7 wavtokenizer-dec nemotron_h nemotron_h_moe kimi-linear kimi-k3 glm5-next";
/// Architectures whose positions are four numbers, so that the sections of a head say which it turns by.
const SECTIONED: &str = "qwen2vl paddleocr qwen3vl qwen3vlmoe qwen35 qwen35moe clef qwen4exp";

/// Architectures that cannot do without experts.
const OF_EXPERTS: &str = "bailingmoe2 glm4moe grovemoe llada-moe smallthinker";
/// Architectures whose experts are as wide as the feed-forward network divided by the experts used, where the file does not
/// say how wide they are.
const WITH_EXPERT_WIDTH: &str =
    "glm4moe grovemoe llada-moe mellum qwen2moe qwen3moe qwen3next qwen35moe qwen3vlmoe qwen4exp rnd1";
/// Architectures that divide their width by their heads before anything else.
const DIVIDED_BY_HEADS: &str = "olmo2 phimoe gemma2 gemma3 deepseek2 deepseek2-ocr";
/// Architectures with heads of a state each, as wide as `wkv.head_size`.
const WITH_STATE_HEADS: &str = "rwkv6 rwkv6qwen2 rwkv7 arwkv7";

/// Numbers that an architecture divides by, where the file has them. Others may have them as 0.
const DIVISORS: [(&str, &str); 8] = [
    ("ssm.group_count", "mamba2 falcon-h1 granitehybrid nemotron_h nemotron_h_moe qwen3next qwen35 qwen35moe qwen4exp"),
    (
        "ssm.time_step_rank",
        "mamba2 falcon-h1 granitehybrid nemotron_h nemotron_h_moe plamo2 qwen3next qwen35 qwen35moe qwen4exp",
    ),
    ("full_attention_interval", "minimax-01 qwen35 qwen35moe qwen3next qwen4exp clef"),
    ("attention.output_group_count", "deepseek4 dflash"),
    ("conv_group_size", "dflash"),
    ("decision.head_count", "clef"),
    ("experts_per_group", "grovemoe"),
    ("shortconv.l_cache", "lfm2 lfm2moe"),
];

/// Refuses metadata that llama.cpp would take on trust.
pub(crate) fn check(header: &Header) -> Result<(), GgufError> {
    let Some(architecture) = header.text("general.architecture") else { return Ok(()) };
    let rules = Rules { header, architecture };
    rules.layers()?;
    rules.experts()?;
    rules.attention()?;
    rules.rope()?;
    rules.floats()?;
    rules.temperature()?;
    rules.rest()
}

struct Rules<'a> {
    header: &'a Header,
    architecture: &'a str,
}

impl Rules<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn is_of(&self, architectures: &str) -> bool {
        architectures.split_whitespace().any(|one| one == self.architecture)
    }

    fn number(&self, name: &str) -> Option<i128> {
        self.header.number(&self.key(name), Kind::U32)
    }

    fn range(&self, name: &str, min: i128, max: i128) -> Result<(), GgufError> {
        match self.number(name) {
            Some(got) if !(min..=max).contains(&got) => Err(self.out_of_range(name, got, min, max)),
            _ => Ok(()),
        }
    }

    fn out_of_range(&self, name: &str, got: i128, min: i128, max: i128) -> GgufError {
        GgufError::OutOfRange { key: self.key(name), got, min, max }
    }

    /// A number for each layer: the file's list, or its one number.
    fn by_layer(&self, name: &str) -> Vec<i128> {
        match self.header.metadata.get(&self.key(name)) {
            Some(Value::List(list)) => list.numbers.clone(),
            Some(Value::Number(Kind::U32, number)) => vec![*number],
            _ => Vec::new(),
        }
    }

    /// llama-model.cpp:1330 and :1332.
    fn layers(&self) -> Result<(), GgufError> {
        self.range("block_count", 1, MOST_LAYERS)?;
        let layers = self.number("block_count").unwrap_or(MOST_LAYERS);
        self.range("nextn_predict_layers", 0, layers)?;
        self.range("decoder_block_count", 0, layers)?;
        self.range("leading_dense_block_count", 0, MOST)
    }

    /// llama-model.cpp:1363 to :1375.
    fn experts(&self) -> Result<(), GgufError> {
        const COUNT: &str = "expert_count";
        const USED: &str = "expert_used_count";
        const GROUPS: &str = "expert_group_count";
        self.range(COUNT, 0, MOST_EXPERTS)?;
        let count = self.number(COUNT).unwrap_or(0);
        // These have their experts counted as none where there is one (llama-model.cpp:1339).
        if self.is_of("hunyuan_vl hunyuan-dense") && count <= 1 {
            return Ok(());
        }
        if self.is_of(OF_EXPERTS) && count == 0 {
            return Err(self.out_of_range(COUNT, 0, 1, MOST_EXPERTS));
        }
        let used = self.by_layer(USED);
        let most_used = used.iter().copied().max().unwrap_or(0);
        let least = i128::from(count > 0);
        if most_used > count || most_used < least {
            return Err(self.out_of_range(USED, most_used, least, count));
        }
        let groups = self.number(GROUPS).unwrap_or(0);
        let most_groups = (count - 1).max(0);
        self.range(GROUPS, 0, most_groups)?;
        if groups > 1 {
            if count % groups != 0 {
                let (key, by_key) = (self.key(COUNT), self.key(GROUPS));
                return Err(GgufError::NotDivisible { key, got: count, by_key, by: groups });
            }
            let used = self.number("expert_group_used_count").unwrap_or(0);
            if !(1..groups).contains(&used) {
                return Err(self.out_of_range("expert_group_used_count", used, 1, groups - 1));
            }
        }
        // The experts' width is then the whole width divided by the experts used. (A list says both for each layer.)
        let width = self.by_layer("expert_feed_forward_length");
        let divides = width.iter().all(|width| *width == 0) && width.len() < 2 && used.len() < 2;
        if divides && most_used == 0 && (count > 0 || self.is_of(WITH_EXPERT_WIDTH)) {
            return Err(self.out_of_range(USED, 0, 1, count.max(1)));
        }
        Ok(())
    }

    fn attention(&self) -> Result<(), GgufError> {
        const HEADS: &str = "attention.head_count";
        const KV_HEADS: &str = "attention.head_count_kv";
        self.range("context_length", 1, MOST)?;
        self.range("embedding_length", 1, MOST)?;
        self.range("attention.sliding_window", 0, MOST_WINDOW)?;
        let heads = self.by_layer(HEADS);
        let kv_heads = self.by_layer(KV_HEADS);
        for (name, list) in [(HEADS, &heads), (KV_HEADS, &kv_heads)] {
            if let Some(got) = list.iter().find(|count| !(0..=MOST).contains(*count)) {
                return Err(self.out_of_range(name, *got, 0, MOST));
            }
        }
        if self.is_of(DIVIDED_BY_HEADS) && heads.first().is_none_or(|count| *count == 0) {
            return Err(self.out_of_range(HEADS, 0, 1, MOST));
        }
        let layers = heads.len().max(kv_heads.len());
        let at = |list: &[i128], layer: usize| if list.len() == 1 { Some(list[0]) } else { list.get(layer).copied() };
        for layer in 0..layers {
            let (Some(heads), Some(kv_heads)) = (at(&heads, layer), at(&kv_heads, layer)) else { continue };
            if kv_heads > 0 && heads % kv_heads != 0 {
                let (key, by_key) = (self.key(HEADS), self.key(KV_HEADS));
                return Err(GgufError::NotDivisible { key, got: heads, by_key, by: kv_heads });
            }
        }
        Ok(())
    }

    /// ops.cpp:6354, :6355 and :6236.
    fn rope(&self) -> Result<(), GgufError> {
        const DIMENSIONS: &str = "rope.dimension_count";
        const SECTIONS: &str = "rope.dimension_sections";
        if let Some(scaling) = self.header.text(&self.key("rope.scaling.type")) {
            // llama-model.cpp:1422.
            if !["none", "linear", "yarn", "longrope"].contains(&scaling) {
                let (key, got) = (self.key("rope.scaling.type"), scaling.to_owned());
                return Err(GgufError::UnknownText { key, got, reason: "it is one of none, linear, yarn, longrope" });
            }
        }
        if self.is_of(WITHOUT_ROPE) {
            return Ok(());
        }
        // 0 turns for ever (ops.cpp, ggml_compute_forward_rope_flt). Heads of these may begin with none.
        let least = if self.is_of("deci granitehybrid") { 0 } else { 2 };
        let head = self.number("attention.key_length").or_else(|| self.head_width());
        for (name, of) in
            [(DIMENSIONS, "attention.key_length"), ("rope.dimension_count_swa", "attention.key_length_swa")]
        {
            let Some(got) = self.number(name) else { continue };
            if got % 2 != 0 {
                return Err(GgufError::NotDivisible { key: self.key(name), got, by_key: "2".to_owned(), by: 2 });
            }
            let most = self.number(of).or(head).unwrap_or(MOST);
            if !(least..=most).contains(&got) {
                return Err(self.out_of_range(name, got, least, most));
            }
        }
        // Where the file does not say it, the whole head is turned; these have positions that are learned.
        if self.number(DIMENSIONS).is_none() && !self.is_of("bert starcoder") {
            match head {
                Some(got) if got % 2 != 0 => {
                    let key = self.key("attention.key_length");
                    return Err(GgufError::NotDivisible { key, got, by_key: "2".to_owned(), by: 2 });
                }
                _ => {}
            }
        }
        let sections = self.by_layer(SECTIONS);
        if let Some(got) = sections.iter().find(|size| !(0..=MOST / 4).contains(*size)) {
            return Err(self.out_of_range(SECTIONS, *got, 0, MOST / 4));
        }
        if self.is_of(SECTIONED) {
            // ops.cpp:6381, where the fourth does not count.
            if sections.iter().take(3).all(|size| *size == 0) {
                return Err(self.out_of_range(SECTIONS, 0, 1, MOST / 4));
            }
            // ops.cpp:6231.
            let all: i128 = sections.iter().sum();
            if let Some(head) = head.filter(|head| all > *head) {
                return Err(self.out_of_range(SECTIONS, all, 1, head));
            }
        }
        Ok(())
    }

    /// Width of a head where the file does not say it.
    fn head_width(&self) -> Option<i128> {
        let heads = *self.by_layer("attention.head_count").first()?;
        (heads > 0).then(|| Some(self.number("embedding_length")? / heads)).flatten()
    }

    fn floats(&self) -> Result<(), GgufError> {
        let prefix = self.key("");
        for (key, value) in &self.header.metadata {
            let Value::Float(_, got) = value else { continue };
            let Some(name) = key.strip_prefix(&prefix) else { continue };
            let refuse = |reason| Err(GgufError::Float { key: key.clone(), got: *got, reason });
            // A norm divides by what this is added to (ops.cpp:4026, :4132).
            if name.ends_with("_epsilon") && !(0.0..f64::INFINITY).contains(got) {
                return refuse("it has to be 0 or more");
            }
            if name.starts_with("rope.freq_base") && !(*got > 0.0 && got.is_finite()) {
                return refuse("it has to be above 0");
            }
            if got.is_nan() {
                return refuse("it has to be a number");
            }
        }
        Ok(())
    }

    /// What scales queries with their position is asserted to be there at the first decode (llama-graph.cpp:194).
    fn temperature(&self) -> Result<(), GgufError> {
        if self.is_of("llama4") {
            // Without a window there are no numbers for it, and it is asked for all the same (models/llama4.cpp:8 and :121).
            return self.range("attention.sliding_window", 1, MOST);
        }
        const LENGTH: &str = "attention.temperature_length";
        let scale = self.header.metadata.get(&self.key("attention.temperature_scale"));
        // models/deepseek2.cpp:41 and :454.
        let scales =
            self.is_of("deepseek2 deepseek2-ocr") && matches!(scale, Some(Value::Float(_, scale)) if *scale != 0.0);
        match self.number(LENGTH).unwrap_or(0) {
            0 if scales => Err(self.out_of_range(LENGTH, 0, 1, MOST)),
            _ => Ok(()),
        }
    }

    fn rest(&self) -> Result<(), GgufError> {
        // -1 stands for "not said" where llama.cpp wrote the file.
        for name in ["pooling_type", "classifier.pooling_type"] {
            match self.number(name) {
                Some(got) if got > 4 && got != i128::from(u32::MAX) => return Err(self.out_of_range(name, got, 0, 4)),
                _ => {}
            }
        }
        if self.is_of(WITH_STATE_HEADS) {
            const HEAD: &str = "wkv.head_size";
            const WIDTH: &str = "embedding_length";
            self.range(HEAD, 1, MOST)?;
            if let (Some(head), Some(width)) = (self.number(HEAD), self.number(WIDTH))
                && width % head != 0
            {
                let (key, by_key) = (self.key(WIDTH), self.key(HEAD));
                return Err(GgufError::NotDivisible { key, got: width, by_key, by: head });
            }
        }
        if self.is_of("t5 t5encoder")
            && let Some(width) = self.number("embedding_length")
        {
            // The encoder's output is copied as if it had this width (ggml-backend.cpp:423).
            self.range("embedding_length_out", width, width)?;
        }
        if self.is_of("rwkv7 arwkv7") {
            // rwkv7.cpp:126 and arwkv7.cpp, which say how many there are.
            let shifts = if self.architecture == "rwkv7" { 2 } else { 1 };
            self.range("token_shift_count", shifts, shifts)?;
        }
        for (name, architectures) in DIVISORS {
            if self.is_of(architectures) {
                self.range(name, 1, MOST)?;
            }
        }
        match self.number("wkv.head_size") {
            Some(got) if self.is_of(STEPPING) && got % HEAD_STEP != 0 => {
                let key = self.key("wkv.head_size");
                Err(GgufError::NotDivisible {
                    key,
                    got,
                    by_key: "values that the kernel takes".to_owned(),
                    by: HEAD_STEP,
                })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::List;

    fn number(number: i128) -> Value {
        Value::Number(Kind::U32, number)
    }

    fn list(numbers: &[i128]) -> Value {
        let length = numbers.len() as u64;
        Value::List(List { of: Kind::I32, length, numbers: numbers.to_vec(), floats: Vec::new(), texts: Vec::new() })
    }

    /// What is said of a model of this architecture with these values besides the usual ones.
    fn checked(architecture: &str, values: &[(&str, Value)]) -> Result<(), GgufError> {
        let mut header = Header::default();
        header.metadata.insert("general.architecture".to_owned(), Value::Text(architecture.to_owned()));
        let usual =
            [("block_count", 2), ("context_length", 512), ("embedding_length", 64), ("attention.head_count", 4)];
        let usual = usual.map(|(name, value)| (name, number(value)));
        for (name, value) in usual.iter().chain(values) {
            header.metadata.insert(format!("{architecture}.{name}"), value.clone());
        }
        check(&header)
    }

    /// Refused for the value of this key, with these bounds.
    #[track_caller]
    fn out_of_range(architecture: &str, name: &str, value: i128, bounds: (i128, i128), more: &[(&str, Value)]) {
        let values: Vec<(&str, Value)> = [more, &[(name, number(value))]].concat();
        let wanted = format!("{architecture}.{name}");
        match checked(architecture, &values) {
            Err(GgufError::OutOfRange { key, got, min, max }) => {
                assert_eq!((key, got, (min, max)), (wanted, value, bounds));
            }
            other => panic!("{name} = {value}: {other:?}"),
        }
    }

    #[test]
    fn usual_models_are_let_through() {
        let experts = [("expert_count", number(8)), ("expert_used_count", number(2))];
        checked("llama", &[]).unwrap();
        checked("llama", &experts).unwrap();
        checked("llama", &[("attention.head_count_kv", number(2)), ("rope.dimension_count", number(16))]).unwrap();
        checked("jamba", &[("attention.head_count_kv", list(&[0, 2]))]).unwrap();
        checked("deci", &[("attention.head_count", list(&[0, 4])), ("attention.head_count_kv", list(&[0, 2]))])
            .unwrap();
        // What llama.cpp writes for what a model does not have.
        checked("llama", &[("ssm.group_count", number(0)), ("pooling_type", number(u32::MAX.into()))]).unwrap();
        checked("qwen2vl", &[("rope.dimension_sections", list(&[4, 2, 2, 0]))]).unwrap();
        checked("no-such-architecture", &[]).unwrap();
        check(&Header::default()).unwrap();
    }

    #[test]
    fn counts_have_bounds() {
        for value in [0, 513, u32::MAX.into()] {
            out_of_range("llama", "block_count", value, (1, 512), &[]);
        }
        out_of_range("llama", "nextn_predict_layers", 3, (0, 2), &[]);
        out_of_range("llama", "context_length", 0, (1, MOST), &[]);
        out_of_range("llama", "embedding_length", 0, (1, MOST), &[]);
        out_of_range("llama", "attention.sliding_window", 1 << 24, (0, 1 << 23), &[]);
        out_of_range("bert", "pooling_type", 5, (0, 4), &[]);
        out_of_range("mamba2", "ssm.group_count", 0, (1, MOST), &[]);
        out_of_range(
            "qwen3next",
            "full_attention_interval",
            0,
            (1, MOST),
            &[("expert_feed_forward_length", number(64))],
        );
        out_of_range("gemma2", "attention.head_count", 0, (1, MOST), &[]);
        out_of_range("rwkv7", "token_shift_count", 3, (2, 2), &[]);
        out_of_range("t5", "embedding_length_out", 511, (64, 64), &[]);
    }

    #[test]
    fn experts_fit_each_other() {
        let eight = [("expert_count", number(8))];
        out_of_range("llama", "expert_count", 1025, (0, 1024), &[]);
        out_of_range("llama", "expert_used_count", 9, (1, 8), &eight);
        out_of_range("llama", "expert_used_count", 0, (1, 8), &eight);
        out_of_range("llama", "expert_used_count", 1, (0, 0), &[]);
        out_of_range("llada-moe", "expert_count", 0, (1, 1024), &[]);
        let used = [("expert_count", number(8)), ("expert_used_count", number(2))];
        out_of_range("llama", "expert_group_count", 8, (0, 7), &used);
        let error = checked("llama", &[&used[..], &[("expert_group_count", number(3))]].concat()).unwrap_err();
        assert!(matches!(error, GgufError::NotDivisible { got: 8, by: 3, .. }), "{error}");
        let grouped = [&used[..], &[("expert_group_count", number(4))]].concat();
        out_of_range("llama", "expert_group_used_count", 4, (1, 3), &grouped);
        checked("llama", &[&grouped[..], &[("expert_group_used_count", number(2))]].concat()).unwrap();
        // One expert is none there.
        checked("hunyuan_vl", &[("expert_count", number(1))]).unwrap();
    }

    #[test]
    fn heads_divide() {
        let error = checked("llama", &[("attention.head_count_kv", number(3))]).unwrap_err();
        assert!(matches!(error, GgufError::NotDivisible { got: 4, by: 3, .. }), "{error}");
        let error = checked("llama", &[("attention.head_count_kv", list(&[4, 8]))]).unwrap_err();
        assert!(matches!(error, GgufError::NotDivisible { got: 4, by: 8, .. }), "{error}");
        let error = checked("rwkv6", &[("wkv.head_size", number(48))]).unwrap_err();
        assert!(matches!(error, GgufError::NotDivisible { got: 64, by: 48, .. }), "{error}");
    }

    #[test]
    fn positions_turn_what_there_is() {
        out_of_range("llama", "rope.dimension_count", 18, (2, 16), &[]);
        out_of_range("gemma2", "rope.dimension_count", 0, (2, 16), &[]);
        // Heads of one number cannot be turned.
        assert!(matches!(
            checked("llama", &[("attention.head_count", number(64))]),
            Err(GgufError::NotDivisible { got: 1, .. })
        ));
        let error = checked("llama", &[("rope.dimension_count", number(7))]).unwrap_err();
        assert!(matches!(error, GgufError::NotDivisible { got: 7, by: 2, .. }), "{error}");
        checked("llama", &[("rope.dimension_count", number(32)), ("attention.key_length", number(32))]).unwrap();
        checked("bloom", &[("rope.dimension_count", number(7))]).unwrap();
        for sections in [list(&[]), list(&[0, 0, 0, 4]), list(&[-1, 2, 2, 0]), list(&[16, 16, 16, 0])] {
            let error = checked("qwen2vl", &[("rope.dimension_sections", sections)]).unwrap_err();
            assert!(matches!(error, GgufError::OutOfRange { .. }), "{error}");
        }
        let error = checked("llama", &[("rope.scaling.type", Value::Text("cubic".to_owned()))]).unwrap_err();
        assert!(matches!(&error, GgufError::UnknownText { got, .. } if got == "cubic"), "{error}");
    }

    #[test]
    fn queries_are_scaled_by_something() {
        out_of_range("llama4", "attention.sliding_window", 0, (1, MOST), &[]);
        checked("llama4", &[]).unwrap();
        checked("llama", &[("attention.sliding_window", number(0))]).unwrap();
        let scale = ("attention.temperature_scale", Value::Float(Kind::F32, 0.1));
        let length = |value| ("attention.temperature_length", number(value));
        let error = checked("deepseek2", std::slice::from_ref(&scale)).unwrap_err();
        assert!(matches!(error, GgufError::OutOfRange { got: 0, min: 1, .. }), "{error}");
        assert!(checked("deepseek2", &[scale.clone(), length(0)]).is_err());
        checked("deepseek2", &[scale, length(8192)]).unwrap();
        checked("deepseek2", &[length(0)]).unwrap();
    }

    #[test]
    fn floats_are_numbers() {
        let float = |name, value| checked("llama", &[(name, Value::Float(Kind::F32, value))]);
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            let error = float("attention.layer_norm_rms_epsilon", value).unwrap_err();
            assert!(matches!(error, GgufError::Float { .. }), "{error}");
        }
        assert!(float("rope.freq_base", 0.0).is_err() && float("logit_scale", f64::NAN).is_err());
        float("attention.layer_norm_rms_epsilon", 0.0).unwrap();
        float("attention.clamp_kqv", f64::INFINITY).unwrap();
    }
}
