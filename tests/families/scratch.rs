//! What a text gives when it is computed from scratch, one token at a time, in a context of its own with all in 32 bits.

use std::cell::RefCell;
use std::collections::HashMap;

use batch_suite::{family, params};
use fixtures::{Family, Weights};
use llama_safe::{Context, ContextParams, FlashAttention, KvType, Sequence, Token};

/// All in 32 bits, so that no rounding hides anything.
pub fn exact(params: ContextParams) -> ContextParams {
    params.kv_type(KvType::F32).flash_attention(FlashAttention::Off)
}

struct Scratch {
    context: Context,
    sequence: Sequence,
    done: Vec<Token>,
    known: HashMap<Vec<Token>, Vec<f32>>,
}

impl Scratch {
    fn new(which: Family) -> Self {
        let settings = exact(params().context_tokens(512));
        let mut context = Context::new(&family(which, Weights::F32), &settings).unwrap();
        let sequence = context.new_sequence().unwrap();
        Self { context, sequence, done: Vec::new(), known: HashMap::new() }
    }

    fn logits(&mut self, text: &[Token]) -> Vec<f32> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        if !text.starts_with(&self.done) {
            self.context.clear(&self.sequence).unwrap();
            self.done.clear();
        }
        let mut batch = self.context.new_batch();
        for token in &text[self.done.len()..] {
            let slot = batch.push_output(&self.sequence, *token).unwrap();
            let logits = self.context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
            self.done.push(*token);
            self.known.insert(self.done.clone(), logits);
        }
        self.known[text].clone()
    }
}

/// The logits after the last token of a text. Each thread remembers what it has computed.
pub fn from_scratch(which: Family, text: &[Token]) -> Vec<f32> {
    thread_local! {
        static SCRATCHES: RefCell<HashMap<Family, Scratch>> = RefCell::default();
    }
    SCRATCHES.with_borrow_mut(|scratches| scratches.entry(which).or_insert_with(|| Scratch::new(which)).logits(text))
}
