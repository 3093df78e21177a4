//! `llama-safe` without batching: one request after the other, in a context of one sequence.

use std::error::Error;
use std::time::Instant;

use llama_safe::{Context, ContextParams, Model, Sampler, Token};

use super::batch::warm_up;
use crate::protocol::{Answer, Order, Timing, cells};

/// Runs an order on a context of its own. Prompts are computed in batches here too: one prompt in each.
///
/// # Errors
///
/// What the library reports: an order that does not fit the model.
pub fn run(model: &Model, order: &Order) -> Result<Answer, Box<dyn Error>> {
    let params = ContextParams::default().context_tokens(cells(order));
    let mut context = Context::new(model, &params.threads(order.threads).batch_threads(order.threads))?;
    let mut batch = context.new_batch();
    let sequence = context.new_sequence()?;
    warm_up(&mut context, &mut batch, &sequence)?;

    let mut sampler = Sampler::greedy();
    let mut timing = Timing::default();
    let mut outputs = Vec::with_capacity(order.requests.len());
    for request in &order.requests {
        let prompt: Vec<Token> = request.prompt.iter().copied().map(Token).collect();
        let mut output = Vec::with_capacity(request.generate as usize);

        let started = Instant::now();
        let slot = batch.prompt(&sequence, &prompt)?;
        let mut next = sampler.sample(context.decode(&mut batch)?.get(slot)?)?;
        output.push(next.0);
        timing.prefill += started.elapsed();
        timing.prefilled += prompt.len() as u64;

        let started = Instant::now();
        for _ in 1..request.generate {
            let slot = batch.push_output(&sequence, next)?;
            next = sampler.sample(context.decode(&mut batch)?.get(slot)?)?;
            output.push(next.0);
        }
        timing.generation += started.elapsed();
        timing.generated += u64::from(request.generate.saturating_sub(1));
        outputs.push(output);
        context.clear(&sequence)?;
    }
    Ok(Answer { metrics: timing.metrics(), outputs })
}
