//! What a model computes in a batch, held against what it computes one token at a time.

use std::fmt;

use crate::batch::Batch;
use crate::context::Context;
use crate::error::{MemoryError, OutputError, VerifyError};
use crate::id::{OutputSlot, Token};
use crate::limits::{Limits, MemoryKind};
use crate::model::Model;
use crate::outputs::Outputs;
use crate::params::ContextParams;
use crate::sequence::Sequence;

/// A use of a batch that [`verify`] tries.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Feature {
    /// A prompt in one call, with an output for every token.
    Prompt,
    /// Prompts of several sequences, of different lengths, in one batch.
    Sequences,
    /// A token for each of several sequences in one batch, again and again.
    Steps,
    /// A prompt in several calls.
    Chunks,
    /// The prompt of one sequence in a batch with tokens of others that are under way.
    Mixed,
    /// A batch that is computed in several passes.
    MicroBatches,
    /// A sequence in the slot of one that was dropped.
    Reuse,
    /// A copy of a sequence that goes on in another way.
    Fork,
    /// A sequence that is taken back, and goes on in another way.
    Truncate,
}

impl Feature {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Prompt,
        Self::Sequences,
        Self::Steps,
        Self::Chunks,
        Self::Mixed,
        Self::MicroBatches,
        Self::Reuse,
        Self::Fork,
        Self::Truncate,
    ];

    fn several_sequences(self) -> bool {
        matches!(self, Self::Sequences | Self::Steps | Self::Mixed | Self::Fork)
    }

    /// Whether it makes sense where each call stands for itself.
    fn in_one_call(self) -> bool {
        matches!(self, Self::Sequences | Self::Reuse)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Prompt => "a prompt in one call",
            Self::Sequences => "several sequences in one batch",
            Self::Steps => "steps of several sequences",
            Self::Chunks => "a prompt in several calls",
            Self::Mixed => "a prompt among steps",
            Self::MicroBatches => "several micro-batches",
            Self::Reuse => "a slot used again",
            Self::Fork => "a fork",
            Self::Truncate => "a truncated sequence",
        })
    }
}

/// What came of a [`Feature`].
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// The same as one token at a time, up to rounding.
    Equal {
        /// The largest mean squared error of a row of outputs, as a part of how much outputs of different tokens differ.
        error: f64,
    },
    /// Something else: do not use this model in this way.
    Different {
        /// As for [`Equal`](Self::Equal); infinite where an output is not a number that is one when computed alone.
        error: f64,
    },
    /// Not possible with this model or these parameters; trying it gives an error.
    Refused {
        /// Why.
        reason: String,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal { error } => write!(f, "equal (error {error:.0e})"),
            Self::Different { error } => write!(f, "DIFFERENT (error {error:.0e})"),
            Self::Refused { reason } => write!(f, "not possible: {reason}"),
        }
    }
}

/// What [`verify`] found.
#[derive(Clone, PartialEq, Debug)]
pub struct Verification {
    findings: Vec<(Feature, Outcome)>,
}

impl Verification {
    /// The largest error that counts as rounding. Weights of few bits on a unified cache reach 2e-3; computations that are
    /// wrong begin at 0.05.
    pub const TOLERANCE: f64 = 1e-2;

    /// Whether nothing was computed that differs from one token at a time.
    #[must_use]
    pub fn is_right(&self) -> bool {
        !self.findings.iter().any(|(_, outcome)| matches!(outcome, Outcome::Different { .. }))
    }

    /// What came of a feature.
    #[must_use]
    pub fn outcome(&self, feature: Feature) -> Option<&Outcome> {
        self.findings.iter().find(|(found, _)| *found == feature).map(|(_, outcome)| outcome)
    }

    /// What came of each feature.
    pub fn findings(&self) -> impl ExactSizeIterator<Item = (Feature, &Outcome)> {
        self.findings.iter().map(|(feature, outcome)| (*feature, outcome))
    }
}

/// A line for each feature.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.findings.iter().try_for_each(|(feature, outcome)| writeln!(f, "{feature:32} {outcome}"))
    }
}

/// Tokens of each text that is compared: of different lengths, and more than [`SMALL_PASS`].
const PROMPTS: [usize; 3] = [11, 6, 3];
/// Tokens that follow each prompt.
const STEPS: usize = 3;
/// Tokens of the longest text.
const LONGEST: usize = PROMPTS[0] + STEPS;
/// Tokens of all texts, which an encoder takes in one batch.
const TOGETHER: usize = PROMPTS[0] + PROMPTS[1] + PROMPTS[2] + 3 * STEPS;
/// Tokens of a pass where there are to be several.
const SMALL_PASS: u32 = 4;

/// Compares what a model computes in batches with what it computes one token at a time, alone: on a few short texts
/// without meaning, which take as long as about a hundred single tokens.
///
/// To be run once on a new model, or after moving to a newer llama.cpp: of some architectures llama.cpp computes other
/// logits in a batch, without a word. Those that are known are refused or computed in a way that is right; this finds
/// out about the rest, on the machine, backend and parameters that will be used.
///
/// Contexts are made as `params` say, one after the other. Their sequences beyond three are not used.
///
/// ```
/// use llama_safe::{ContextParams, Feature, Outcome, verify};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Llama::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = llama_safe::Model::from_bytes(&gguf, &llama_safe::ModelParams::default())?;
/// let found = verify(&model, &ContextParams::default().sequences(4))?;
/// println!("{found}");
/// assert!(found.is_right());
/// assert!(matches!(found.outcome(Feature::Fork), Some(Outcome::Equal { .. })));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`VerifyError`]: a context cannot be made, is too small for the texts, or a computation failed; or outputs are no numbers,
/// or always the same, when computed alone, so that there is nothing to compare.
pub fn verify(model: &Model, params: &ContextParams) -> Result<Verification, VerifyError> {
    let limits = Context::new(model, params)?.limits().clone();
    for (what, has, needs) in [
        ("sequence", limits.sequence_tokens(), LONGEST),
        ("batch", limits.batch_tokens(), TOGETHER),
        ("encoder's batch", if limits.encodes_first() { limits.encoder_tokens() } else { u32::MAX }, TOGETHER),
        ("context", limits.context_tokens(), TOGETHER),
    ] {
        if (has as usize) < needs {
            return Err(VerifyError::TooSmall { what, has, needs: needs as u32 });
        }
    }
    let texts = texts(limits.vocabulary());
    let oracle = Oracle::new(model, params, &limits, &texts)?;
    let findings =
        Feature::ALL.iter().map(|&feature| Ok((feature, try_out(feature, model, params, &limits, &oracle)?)));
    Ok(Verification { findings: findings.collect::<Result<_, VerifyError>>()? })
}

/// Texts of tokens from all over the vocabulary.
fn texts(vocabulary: u32) -> Vec<Vec<Token>> {
    let token = |text: usize, index: usize| {
        // Some odd numbers, to be spread without a pattern that a model could make something of.
        let mixed = ((text * 131 + index + 1) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        Token((mixed % u64::from(vocabulary.max(1))) as i32)
    };
    let text = |(text, length): (usize, &usize)| (0..length + STEPS).map(|index| token(text, index)).collect();
    PROMPTS.iter().enumerate().map(text).collect()
}

/// Whether each call stands for itself, so that there is nothing but one call a text to compare.
fn one_call(limits: &Limits) -> bool {
    limits.memory() == MemoryKind::None || !limits.has_logits()
}

/// The outputs after each token of each text, computed alone.
struct Oracle<'texts> {
    texts: &'texts [Vec<Token>],
    /// `[text][token]`; one row a text where each call stands for itself.
    rows: Vec<Vec<Vec<f32>>>,
    /// The variance of an output over all rows, summed over the outputs of a row.
    spread: f64,
}

impl<'texts> Oracle<'texts> {
    fn new(
        model: &Model,
        params: &ContextParams,
        limits: &Limits,
        texts: &'texts [Vec<Token>],
    ) -> Result<Self, VerifyError> {
        // One sequence with as many cells as it has among the others.
        let params = params.clone().sequences(1).context_tokens(limits.sequence_tokens());
        let mut context = Context::new(model, &params)?;
        let rows = texts.iter().enumerate().map(|(index, text)| {
            let sequence = context.new_sequence()?;
            encode_first(&mut context, &[&sequence], &[&texts[index]])?;
            let step = if one_call(limits) { text.len() } else { 1 };
            text.chunks(step)
                .map(|tokens| {
                    let mut batch = context.new_batch();
                    let slot = batch.prompt(&sequence, tokens)?;
                    read(&compute(&mut context, &mut batch)?, slot, &sequence)
                })
                .collect()
        });
        let rows = rows.collect::<Result<Vec<Vec<_>>, VerifyError>>()?;
        let all: Vec<&[f32]> = rows.iter().flatten().map(Vec::as_slice).collect();
        if let Some(row) = all.iter().position(|row| row.iter().any(|number| !number.is_finite())) {
            return Err(OutputError::NotNumbers { row: row as u32 }.into());
        }
        let spread = spread(&all);
        if spread > 0.0 { Ok(Self { texts, rows, spread }) } else { Err(VerifyError::AlwaysTheSame) }
    }

    fn prompt(&self, text: usize) -> &'texts [Token] {
        &self.texts[text][..PROMPTS[text]]
    }

    /// The error of an output after `length` tokens of a text.
    fn error_of(&self, text: usize, length: usize, got: Result<Vec<f32>, VerifyError>) -> Result<f64, VerifyError> {
        let rows = &self.rows[text];
        match got {
            Ok(got) => Ok(error(&got, &rows[(length - 1).min(rows.len() - 1)], self.spread)),
            // They are numbers when computed alone.
            Err(VerifyError::Output(OutputError::NotNumbers { .. })) => Ok(f64::INFINITY),
            Err(other) => Err(other),
        }
    }
}

/// How much rows differ: the variance of each column, summed.
///
/// Not their size: what all rows have in common tells nothing of whether one is right, and it can be nearly all that there
/// is. Chameleon's logits of pictures are the least number there is (models/chameleon.cpp:195), and embeddings of any two texts
/// may point almost the same way.
fn spread(rows: &[&[f32]]) -> f64 {
    let count = rows.len().max(1) as f64;
    let width = rows.first().map_or(0, |row| row.len());
    let column = |index: usize| rows.iter().map(move |row| f64::from(row[index]));
    let variance = |index: usize| {
        // From the first row on, so that a column that is the same throughout has none at all, whatever is rounded.
        let first = column(index).next().unwrap_or_default();
        let mean = column(index).map(|number| number - first).sum::<f64>() / count;
        column(index).map(|number| (number - first - mean).powi(2)).sum::<f64>() / count
    };
    (0..width).map(variance).sum()
}

/// Squared error as a part of the `spread`; infinite if an output is not a number.
fn error(got: &[f32], want: &[f32], spread: f64) -> f64 {
    if got.iter().any(|number| !number.is_finite()) {
        return f64::INFINITY;
    }
    let square = |number: f64| number * number;
    got.iter().zip(want).map(|(got, want)| square(f64::from(*got) - f64::from(*want))).sum::<f64>() / spread
}

/// Where an encoder comes before the decoder, each sequence's text is its own.
fn encode_first(context: &mut Context, sequences: &[&Sequence], texts: &[&[Token]]) -> Result<(), VerifyError> {
    if !context.limits().encodes_first() {
        return Ok(());
    }
    let mut batch = context.new_encoder_batch();
    for (sequence, text) in sequences.iter().zip(texts) {
        batch.prompt(sequence, text)?;
    }
    context.encode(&mut batch)?;
    Ok(())
}

fn compute<'context>(context: &'context mut Context, batch: &mut Batch) -> Result<Outputs<'context>, VerifyError> {
    let encoder = context.limits().memory() == MemoryKind::None;
    Ok(if encoder { context.encode(batch) } else { context.decode(batch) }?)
}

fn read(outputs: &Outputs, slot: OutputSlot, sequence: &Sequence) -> Result<Vec<f32>, VerifyError> {
    let limits = outputs.limits();
    Ok(if limits.has_logits() {
        outputs.get(slot)
    } else if limits.is_pooled() {
        outputs.sequence_embedding(sequence)
    } else {
        outputs.embedding(slot)
    }?
    .to_vec())
}

fn try_out(
    feature: Feature,
    model: &Model,
    params: &ContextParams,
    limits: &Limits,
    oracle: &Oracle,
) -> Result<Outcome, VerifyError> {
    let refused = |reason: &str| Ok(Outcome::Refused { reason: reason.to_owned() });
    if one_call(limits) && !feature.in_one_call() {
        return refused("each call of this context stands for itself");
    }
    if feature.several_sequences() && limits.sequences() < 2 {
        return refused("the context has one sequence");
    }
    let mut params = params.clone();
    if feature == Feature::MicroBatches {
        if limits.encodes_first() {
            return refused("its encoder computes in one pass");
        }
        params = params.micro_batch_tokens(SMALL_PASS);
    }
    let mut trial = Trial::new(Context::new(model, &params)?, oracle);
    if (trial.context.limits().batch_tokens() as usize) < TOGETHER {
        return refused("this context computes a batch in one pass");
    }
    match trial.run(feature) {
        Ok(()) if trial.worst <= Verification::TOLERANCE => Ok(Outcome::Equal { error: trial.worst }),
        Ok(()) => Ok(Outcome::Different { error: trial.worst }),
        Err(VerifyError::Memory(MemoryError::Failed { reason })) => {
            Err(VerifyError::Memory(MemoryError::Failed { reason }))
        }
        Err(VerifyError::Memory(reason)) => Ok(Outcome::Refused { reason: reason.to_string() }),
        Err(other) => Err(other),
    }
}

/// A feature being tried.
struct Trial<'oracle> {
    context: Context,
    oracle: &'oracle Oracle<'oracle>,
    /// The largest error so far.
    worst: f64,
}

/// A sequence, the text that it follows, and how far it has come.
struct Follower {
    sequence: Sequence,
    text: usize,
    length: usize,
}

impl<'oracle> Trial<'oracle> {
    fn new(context: Context, oracle: &'oracle Oracle<'oracle>) -> Self {
        Self { context, oracle, worst: 0.0 }
    }

    fn run(&mut self, feature: Feature) -> Result<(), VerifyError> {
        match feature {
            Feature::Prompt => self.prompt(),
            Feature::Sequences | Feature::MicroBatches => {
                let mut followers = self.followers(&[0, 1, 2])?;
                self.go_on(&mut followers, |follower| PROMPTS[follower.text])
            }
            Feature::Steps => self.steps(),
            Feature::Chunks => self.chunks(),
            Feature::Mixed => self.mixed(),
            Feature::Reuse => self.reuse(),
            Feature::Fork => self.fork(),
            Feature::Truncate => self.truncate(),
        }
    }

    fn prompt(&mut self) -> Result<(), VerifyError> {
        let followers = self.followers(&[0])?;
        let mut batch = self.context.new_batch();
        let tokens = self.oracle.prompt(0);
        let slots: Vec<_> =
            tokens.iter().map(|token| batch.push_output(&followers[0].sequence, *token)).collect::<Result<_, _>>()?;
        let outputs = compute(&mut self.context, &mut batch)?;
        for (index, slot) in slots.into_iter().enumerate() {
            let error = self.oracle.error_of(0, index + 1, read(&outputs, slot, &followers[0].sequence))?;
            self.worst = self.worst.max(error);
        }
        Ok(())
    }

    fn steps(&mut self) -> Result<(), VerifyError> {
        let mut followers = self.followers(&[0, 1, 2])?;
        self.go_on(&mut followers, |follower| PROMPTS[follower.text])?;
        (0..STEPS).try_for_each(|_| self.go_on(&mut followers, |_| 1))
    }

    fn chunks(&mut self) -> Result<(), VerifyError> {
        let mut followers = self.followers(&[0])?;
        for tokens in [5, 1, 5] {
            self.go_on(&mut followers, |_| tokens)?;
        }
        Ok(())
    }

    fn mixed(&mut self) -> Result<(), VerifyError> {
        let mut followers = self.followers(&[2, 0, 1])?;
        self.go_on(&mut followers[..1], |_| PROMPTS[2])?;
        self.go_on(&mut followers, |follower| if follower.length > 0 { 1 } else { PROMPTS[follower.text] })
    }

    fn reuse(&mut self) -> Result<(), VerifyError> {
        let whole = |follower: &Follower| PROMPTS[follower.text];
        let mut first = self.followers(&[0])?;
        self.go_on(&mut first, whole)?;
        drop(first);
        let mut second = self.followers(&[1])?;
        self.go_on(&mut second, whole)
    }

    fn fork(&mut self) -> Result<(), VerifyError> {
        let mut forked = self.followers(&[0])?;
        self.go_on(&mut forked, |_| PROMPTS[0])?;
        let sequence = self.context.fork(&forked[0].sequence)?;
        forked.push(Follower { sequence, text: 0, length: PROMPTS[0] });
        let source = self.oracle.texts[0].as_slice();
        encode_first(&mut self.context, &[&forked[0].sequence, &forked[1].sequence], &[source, source])?;
        // The fork goes ahead, then the forked, then both.
        self.go_on(&mut forked[1..], |_| 2)?;
        self.go_on(&mut forked[..1], |_| 1)?;
        self.go_on(&mut forked, |_| 1)
    }

    fn truncate(&mut self) -> Result<(), VerifyError> {
        let mut followers = self.followers(&[0])?;
        self.go_on(&mut followers, |_| PROMPTS[0])?;
        self.context.truncate(&followers[0].sequence, 7)?;
        followers[0].length = 7;
        self.go_on(&mut followers, |_| 1)?;
        self.go_on(&mut followers, |_| 4)
    }

    /// A new sequence for each of these texts, as many as the context has sequences for.
    fn followers(&mut self, texts: &[usize]) -> Result<Vec<Follower>, VerifyError> {
        let most = self.context.limits().sequences() as usize;
        let followers: Vec<_> = texts
            .iter()
            .take(most)
            .map(|&text| Ok(Follower { sequence: self.context.new_sequence()?, text, length: 0 }))
            .collect::<Result<_, VerifyError>>()?;
        let sequences: Vec<_> = followers.iter().map(|follower| &follower.sequence).collect();
        let sources: Vec<_> = followers.iter().map(|follower| self.oracle.texts[follower.text].as_slice()).collect();
        encode_first(&mut self.context, &sequences, &sources)?;
        Ok(followers)
    }

    /// The next tokens of each follower's text, in one batch, and their outputs against the oracle's.
    fn go_on(&mut self, followers: &mut [Follower], tokens: impl Fn(&Follower) -> usize) -> Result<(), VerifyError> {
        let mut batch = self.context.new_batch();
        let one_call = one_call(self.context.limits());
        let mut slots = Vec::with_capacity(followers.len());
        for follower in followers.iter_mut() {
            let text = &self.oracle.texts[follower.text];
            // Where each call stands for itself, the oracle's row is of the whole text.
            let end = if one_call { text.len() } else { (follower.length + tokens(follower)).min(text.len()) };
            slots.push(batch.prompt(&follower.sequence, &text[follower.length..end])?);
            follower.length = end;
        }
        let outputs = compute(&mut self.context, &mut batch)?;
        for (follower, slot) in followers.iter().zip(slots) {
            let row = read(&outputs, slot, &follower.sequence);
            self.worst = self.worst.max(self.oracle.error_of(follower.text, follower.length, row)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_a_part_of_what_rows_differ_by() {
        let rows: [&[f32]; 2] = [&[1.0, 0.0], &[-1.0, 0.0]];
        assert_eq!(spread(&rows), 1.0);
        assert_eq!(error(&[1.0, 0.5], rows[0], 1.0), 0.25);
        assert_eq!(error(rows[1], rows[0], 1.0), 4.0);
        assert_eq!(error(&[f32::NAN, 0.0], rows[0], 1.0), f64::INFINITY);
    }

    /// One row in the place of another is wrong, however little of a row is its own.
    #[test]
    fn what_all_rows_have_in_common_hides_nothing() {
        for common in [0.0, 1e3, -f32::MAX] {
            let rows = [1.0, 2.0, 3.0f32].map(|own| [own, common, common]);
            let rows: Vec<&[f32]> = rows.iter().map(<[f32; 3]>::as_slice).collect();
            let spread = spread(&rows);
            assert!(error(rows[0], rows[1], spread) > Verification::TOLERANCE, "{common}");
            assert_eq!(error(rows[0], rows[0], spread), 0.0);
        }
    }

    #[test]
    fn rows_that_are_the_same_differ_by_nothing() {
        for number in [0.0, 0.1, 1e-30, f32::MAX] {
            assert_eq!(spread(&[&[number; 4][..]; 7]), 0.0, "{number}");
        }
    }
}
