//! The batch API of `llama-safe`: all requests as sequences of one context.

use std::error::Error;
use std::time::Instant;

use llama_safe::{Batch, Context, ContextParams, Model, OutputSlot, Sampler, Sequence, Token};

use crate::protocol::{Answer, Order, Timing, cells};

/// A request under way.
struct Live {
    sequence: Sequence,
    next: Token,
    left: u32,
    output: Vec<i32>,
}

/// Runs an order on a context of its own.
///
/// # Errors
///
/// What the library reports: an order that does not fit the model.
pub fn run(model: &Model, order: &Order) -> Result<Answer, Box<dyn Error>> {
    let count = u32::try_from(order.requests.len())?;
    let params = ContextParams::default().sequences(count).context_tokens(count * cells(order));
    let mut context = Context::new(model, &params.threads(order.threads).batch_threads(order.threads))?;
    let mut batch = context.new_batch();
    let mut live = Vec::with_capacity(order.requests.len());
    for request in &order.requests {
        let output = Vec::with_capacity(request.generate as usize);
        live.push(Live { sequence: context.new_sequence()?, next: Token(0), left: request.generate, output });
    }
    warm_up(&mut context, &mut batch, &live[0].sequence)?;

    let mut sampler = Sampler::greedy();
    let mut timing = Timing::default();
    let mut asked = Vec::with_capacity(live.len());
    let prompts: Vec<Vec<Token>> =
        order.requests.iter().map(|request| request.prompt.iter().copied().map(Token).collect()).collect();
    let started = Instant::now();
    for (index, prompt) in prompts.iter().enumerate() {
        timing.prefilled += prompt.len() as u64;
        let mut rest = prompt.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min((batch.capacity() - batch.len()) as usize));
            if later.is_empty() {
                asked.push((index, batch.prompt(&live[index].sequence, now)?));
            } else {
                batch.extend(&live[index].sequence, now)?;
            }
            rest = later;
            if batch.len() == batch.capacity() {
                step(&mut context, &mut batch, &mut sampler, &mut asked, &mut live)?;
            }
        }
    }
    step(&mut context, &mut batch, &mut sampler, &mut asked, &mut live)?;
    timing.prefill = started.elapsed();

    let started = Instant::now();
    loop {
        for (index, live) in live.iter().enumerate().filter(|(_, live)| live.left > 0) {
            asked.push((index, batch.push_output(&live.sequence, live.next)?));
        }
        if asked.is_empty() {
            break;
        }
        timing.generated += asked.len() as u64;
        step(&mut context, &mut batch, &mut sampler, &mut asked, &mut live)?;
    }
    timing.generation = started.elapsed();
    Ok(Answer { metrics: timing.metrics(), outputs: live.into_iter().map(|live| live.output).collect() })
}

/// Wakes the threads and touches the memory, before the clock runs.
pub(super) fn warm_up(context: &mut Context, batch: &mut Batch, sequence: &Sequence) -> Result<(), Box<dyn Error>> {
    batch.prompt(sequence, &[Token(3); 16])?;
    context.decode(batch)?;
    context.clear(sequence)?;
    Ok(())
}

/// Decodes what is in the batch, and chooses a token for each output that was asked for.
fn step(
    context: &mut Context,
    batch: &mut Batch,
    sampler: &mut Sampler,
    asked: &mut Vec<(usize, OutputSlot)>,
    live: &mut [Live],
) -> Result<(), Box<dyn Error>> {
    if batch.is_empty() {
        return Ok(());
    }
    let outputs = context.decode(batch)?;
    for (index, slot) in asked.drain(..) {
        let live = &mut live[index];
        live.next = sampler.sample(outputs.get(slot)?)?;
        live.output.push(live.next.0);
        live.left -= 1;
    }
    Ok(())
}
