//! `llama-safe` without batching: one request after the other in a context of one sequence, each no sooner than it comes.

use std::error::Error;
use std::thread;
use std::time::Instant;

use llama_safe::{Context, ContextParams, Model, Sampler, Token};

use super::batch::warm_up;
use crate::protocol::{Answer, Order, Timing, cells};
use crate::roster::is_served;
use crate::served::{Served, arrival};
use crate::workload::over_time;

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
    let mut served = Vec::with_capacity(order.requests.len());
    let began = Instant::now();
    for request in &order.requests {
        let prompt: Vec<Token> = request.prompt.iter().copied().map(Token).collect();
        let mut output = Served::default();
        let mut heard = |token: Token| {
            output.tokens.push(token.0);
            output.at.push(began.elapsed().saturating_sub(arrival(request)));
        };
        thread::sleep(arrival(request).saturating_sub(began.elapsed()));

        let started = Instant::now();
        let slot = batch.prompt(&sequence, &prompt)?;
        let mut next = sampler.sample(context.decode(&mut batch)?.get(slot)?)?;
        heard(next);
        timing.prefill += started.elapsed();
        timing.prefilled += prompt.len() as u64;

        let started = Instant::now();
        for _ in 1..request.generate {
            let slot = batch.push_output(&sequence, next)?;
            next = sampler.sample(context.decode(&mut batch)?.get(slot)?)?;
            heard(next);
        }
        timing.generation += started.elapsed();
        timing.generated += u64::from(request.generate.saturating_sub(1));
        served.push(output);
        context.clear(&sequence)?;
    }
    if !is_served(order) {
        let outputs = served.into_iter().map(|served| served.tokens).collect();
        return Ok(Answer { metrics: timing.metrics(), outputs });
    }
    let mut answer = Served::answer(order, served.into_iter().enumerate(), began.elapsed());
    if !over_time(order) {
        // Nobody waits behind so few requests as long as behind all.
        answer.metrics.retain(|metric, _| metric.ends_with("tokens_per_second"));
    }
    Ok(answer)
}
