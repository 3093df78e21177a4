//! The engine of `llama-safe`: as many clients as requests run at a time, each with one request after the other.

use std::error::Error;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use llama_safe::{ContextParams, EndReason, Engine, Model, Request, StopConditions, Token};

use crate::protocol::{Answer, Order, Served, cells};

/// Runs an order on an engine of its own, which measures what its steps cost before the clock runs.
///
/// # Errors
///
/// What the library reports: an order that does not fit the model.
pub fn run(model: &Model, order: &Order) -> Result<Answer, Box<dyn Error>> {
    let params = ContextParams::default().threads(order.threads).batch_threads(order.threads);
    let builder = Engine::builder(model).sequences(order.concurrent).context_tokens(order.concurrent * cells(order));
    let engine = builder.context(params).queue(order.requests.len()).start()?;
    // Threads are awake and memory is there before the clock runs.
    drop(engine.generate(Request::tokens([Token(3); 16]).max_tokens(2))?.wait());

    let left: Mutex<Vec<usize>> = Mutex::new((0..order.requests.len()).rev().collect());
    let next = || left.lock().ok()?.pop();
    let client = || -> Result<Vec<(usize, Served)>, String> {
        let mut done = Vec::new();
        while let Some(index) = next() {
            done.push((index, serve(&engine, &order.requests[index])?));
        }
        Ok(done)
    };
    let started = Instant::now();
    let done: Result<Vec<_>, String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..order.concurrent).map(|_| scope.spawn(client)).collect();
        clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err("a client failed".to_owned()))).collect()
    });
    let time = started.elapsed();
    Ok(Served::answer(order, done?.into_iter().flatten(), time))
}

/// One request, with the time of each token.
fn serve(engine: &Engine, request: &crate::protocol::Request) -> Result<Served, String> {
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
