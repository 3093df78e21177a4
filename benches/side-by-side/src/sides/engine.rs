//! The engine of `llama-safe`: as many clients as requests run at a time, each with one request after the other.

use std::error::Error;
use std::time::Instant;

use llama_safe::{ContextParams, EndReason, Engine, Model, Request, StopConditions, Token};

use crate::protocol::{self, Answer, Order, cells};
use crate::served::{Served, by_clients};

/// Runs an order on an engine of its own, which measures what its steps cost before the clock runs. `prompt_chunk`: as the engine's
/// builder takes it.
///
/// # Errors
///
/// What the library reports: an order that does not fit the model.
pub fn run(model: &Model, prompt_chunk: Option<u32>, order: &Order) -> Result<Answer, Box<dyn Error>> {
    let params = ContextParams::default().threads(order.threads).batch_threads(order.threads);
    let builder = Engine::builder(model).sequences(order.concurrent).context_tokens(order.concurrent * cells(order));
    let builder = match prompt_chunk {
        Some(tokens) => builder.prompt_chunk(tokens),
        None => builder,
    };
    let engine = builder.context(params).queue(order.requests.len()).start()?;
    // Threads are awake and memory is there before the clock runs.
    drop(engine.generate(Request::tokens([Token(3); 16]).max_tokens(2))?.wait());

    Ok(by_clients(order, |request| serve(&engine, request))?)
}

/// One request, with the time of each token.
fn serve(engine: &Engine, request: &protocol::Request) -> Result<Served, String> {
    let prompt: Vec<Token> = request.prompt.iter().copied().map(Token).collect();
    let request = Request::tokens(prompt).max_tokens(request.generate).stop(StopConditions::new().end_of_text(false));
    let asked = Instant::now();
    let mut answer = engine.generate(request).map_err(|error| error.to_string())?;
    let mut served = Served::default();
    for piece in answer.by_ref() {
        if let Some(token) = piece.map_err(|error| error.to_string())?.token {
            served.tokens.push(token.0);
            served.at.push(asked.elapsed());
        }
    }
    match answer.wait().reason {
        EndReason::Stop(_) => Ok(served),
        other => Err(format!("it ended early: {other:?}")),
    }
}
