//! How the runner and a side talk: lines of JSON on the side's standard input and output.
//!
//! A side says [`Hello`] once its model is loaded, then answers each [`Order`] with an [`Answer`], until its input ends. Programs that are
//! no part of this workspace include this very file.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead, Write};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first line of a side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What is measured, with its version.
    pub version: String,
}

/// What a side is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The workload's name.
    pub workload: String,
    /// Threads that compute.
    pub threads: u32,
    /// The most requests that a side computes at a time. One that takes one after the other may ignore it.
    pub concurrent: u32,
    /// Each with its own prompt.
    pub requests: Vec<Request>,
}

/// A prompt and how much of it is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Tokens, given as they are.
    pub prompt: Vec<i32>,
    /// Tokens to generate: the likeliest each time, of equally likely ones the lowest. None of them ends the text.
    pub generate: u32,
    /// When it comes, milliseconds after the order began. 0 for all where clients send one request after the other.
    #[serde(default)]
    pub after_ms: u32,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Numbers by name; tokens/s are named `.._tokens_per_second`.
    pub metrics: BTreeMap<String, f64>,
    /// The tokens that were generated, a list for each request; no list at all where the side does not tell.
    pub outputs: Vec<Vec<i32>>,
}

/// Tokens and the time that they took, where prompts come first and generation afterwards.
///
/// The first token of a request comes with its prompt, so that one less than asked for is generated.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// Tokens of prompts.
    pub prefilled: u64,
    /// From the first push until each request has its first token.
    pub prefill: Duration,
    /// Tokens after the first of each request.
    pub generated: u64,
    /// From there on.
    pub generation: Duration,
}

impl Timing {
    /// The rates of the two parts and of both.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, f64> {
        let rate = |tokens: u64, time: Duration| tokens as f64 / time.as_secs_f64().max(1e-9);
        BTreeMap::from([
            ("prefill_tokens_per_second".to_owned(), rate(self.prefilled, self.prefill)),
            ("generation_tokens_per_second".to_owned(), rate(self.generated, self.generation)),
            (
                "total_tokens_per_second".to_owned(),
                rate(self.prefilled + self.generated, self.prefill + self.generation),
            ),
        ])
    }
}

/// Cells that each of the requests needs, in the steps in which llama.cpp hands them out.
#[must_use]
pub fn cells(order: &Order) -> u32 {
    let longest = order.requests.iter().map(|request| request.prompt.len() as u32 + request.generate).max();
    longest.unwrap_or(1).next_multiple_of(256)
}

/// Says hello and answers orders until there are no more.
///
/// # Errors
///
/// An order that cannot be read, a run that fails, or a runner that is gone.
pub fn serve(
    version: impl Into<String>,
    mut run: impl FnMut(&Order) -> Result<Answer, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    say(&Hello { version: version.into() })?;
    for line in io::stdin().lock().lines() {
        say(&run(&serde_json::from_str(&line?)?)?)?;
    }
    Ok(())
}

fn say(message: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(message)?)?;
    out.flush()
}
