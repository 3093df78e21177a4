//! A batch computes what one-at-a-time inference computes.

use batch_suite::{alone, assert_equal, family, nmse, params, prompt};
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

/// The model is worth testing: in every format its logits are numbers that differ from token to token, and the first token
/// still counts for the last.
pub fn remembers_its_first_token(which: Family) {
    for weights in Weights::ALL {
        let model = family(which, weights);
        let params = params().context_tokens(256);
        let text = prompt(1, 24);
        let mut other = text.clone();
        other[0] = prompt(2, 1)[0];
        let rows = alone(&model, &params, &text);
        let changed = alone(&model, &params, &other);
        assert!(rows.iter().flatten().all(|logit| logit.is_finite()), "{which} {weights}");
        for pair in rows.windows(2) {
            assert!(nmse(&pair[1], &pair[0]) > 1e-2, "{which} {weights}: two tokens give the same logits");
        }
        let (last, want) = (changed.last().expect("a row a token"), rows.last().expect("a row a token"));
        let error = nmse(last, want);
        assert!(error > 1e-4, "{which} {weights}: the first token moves the last logits by {error:e} only");
    }
}
