//! A batch computes what one-at-a-time inference computes.

use batch_suite::{alone, assert_equal, family, params, prompt};
use fixtures::{Family, Weights};
use llama_safe::Context;

/// Prompts of different lengths in one batch, each as if it were alone.
pub fn batch_equals_single(which: Family) {
    let model = family(which, Weights::F32);
    let params = params().sequences(3).context_tokens(768);
    let mut context = Context::new(&model, &params).expect("a context");
    let mut batch = context.new_batch();
    let prompts: Vec<_> = (0..3).map(|index| prompt(index, 5 + 3 * index)).collect();
    let sequences: Vec<_> = prompts.iter().map(|_| context.new_sequence().expect("a sequence")).collect();
    let slots: Vec<_> = sequences
        .iter()
        .zip(&prompts)
        .map(|(sequence, prompt)| batch.prompt(sequence, prompt).expect("room"))
        .collect();
    let outputs = context.decode(&mut batch).expect("a decode");
    for (prompt, slot) in prompts.iter().zip(slots) {
        let want = alone(&model, &params, prompt).pop().expect("a row a token");
        assert_equal(outputs.get(slot).expect("logits"), &want, 1e-6, which.name());
    }
}
