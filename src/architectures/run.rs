//! Runs a script, and compares what it computes with the oracle.

use llama_safe::{
    Context, ContextError, ContextParams, DecodeError, FlashAttention, KvType, MemoryKind, Model, Pooling, Sequence,
    Token,
};

use super::make::architecture;
use super::script::{Ask, COMMON, LENGTH, Script, Step, TEXTS};
use crate::{nmse, params};

/// What came of a script.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It ran, with this normalised mean squared error at worst; infinite where a number is not finite.
    Ran(f64),
    /// The safe layer refused a step, for this reason.
    Refused(String),
    /// llama.cpp failed, with this message.
    Failed(String),
    /// The process ended.
    Died(String),
}

/// Numbers beyond this stand for minus infinity.
const NEVER: f32 = 1e30;

/// The rows that a text should have: logits, or the encoder's embeddings.
type Rows = Vec<Vec<f32>>;

/// A tiny model of an architecture, and what its texts should give.
pub(super) struct Subject {
    model: Model,
    texts: Vec<Vec<Token>>,
    wanted: Vec<Rows>,
    /// Whether it is an encoder alone: outputs are embeddings.
    embeds: bool,
    pub memory: MemoryKind,
    raw: bool,
}

fn text(salt: u32) -> Vec<Token> {
    let tokens = u32::from(u8::MAX).min(fixtures::ARCHITECTURE_TOKENS) - 3;
    (0..LENGTH as u32).map(|i| Token(((salt * 7919 + i * 104_729 + i * i * 31) % tokens) as i32 + 2)).collect()
}

fn texts() -> Vec<Vec<Token>> {
    let mut texts: Vec<Vec<Token>> = (0..TEXTS as u32).map(text).collect();
    let common = texts[0][..COMMON as usize].to_vec();
    texts[TEXTS - 1][..COMMON as usize].copy_from_slice(&common);
    texts
}

impl Subject {
    /// Makes the model and computes what is right: one text on its own context, one token a call.
    pub fn new(name: &str, raw: bool) -> Result<Self, Outcome> {
        let model = architecture(name).map_err(|error| Outcome::Failed(error.to_string()))?;
        let mut subject =
            Self { model, texts: texts(), wanted: Vec::new(), embeds: false, memory: MemoryKind::Attention, raw };
        let context = subject.context(1, 128, llama_safe::KvLayout::Split)?;
        subject.memory = context.limits().memory();
        if !context.limits().has_logits() && !context.limits().has_embeddings() {
            subject.embeds = true;
        }
        drop(context);
        for index in 0..TEXTS {
            let rows = subject.alone(index, &subject.texts[index])?;
            if rows.iter().flatten().any(|number| number.is_nan()) {
                return Err(Outcome::Failed("the oracle itself gives numbers that are not finite".to_owned()));
            }
            subject.wanted.push(rows);
        }
        Ok(subject)
    }

    /// How much the last row depends on the first token: what a comparison could see of a context that is mixed up.
    pub fn sensitivity(&self) -> Result<f64, Outcome> {
        let mut other = self.texts[0].clone();
        other[0] = Token((other[0].0 + 5) % (fixtures::ARCHITECTURE_TOKENS as i32 - 3) + 2);
        let rows = self.alone(0, &other)?;
        Ok(worse(0.0, &rows[4], &self.wanted[0][4]))
    }

    fn context(&self, sequences: u32, micro_batch: u32, layout: llama_safe::KvLayout) -> Result<Context, Outcome> {
        let params = self.params(sequences, micro_batch, layout);
        Context::new(&self.model, &params).map_err(|error| match error {
            ContextError::Rejected { .. } => Outcome::Failed(error.to_string()),
            _ => Outcome::Refused(error.to_string()),
        })
    }

    fn params(&self, sequences: u32, micro_batch: u32, layout: llama_safe::KvLayout) -> ContextParams {
        let params = params().sequences(sequences).context_tokens(256 * sequences).batch_tokens(128);
        let params = params.micro_batch_tokens(micro_batch).kv_layout(layout);
        let params = params.kv_type(KvType::F32).flash_attention(FlashAttention::Off);
        let params = if self.embeds { params.embeddings(true).pooling(Pooling::None) } else { params };
        // SAFETY: whatever comes of it is looked for, in a process of its own.
        if self.raw { unsafe { params.without_fallback() } } else { params }
    }

    fn alone(&self, index: usize, text: &[Token]) -> Result<Rows, Outcome> {
        let mut context = self.context(1, 128, llama_safe::KvLayout::Split)?;
        let sequence = context.new_sequence().map_err(|error| Outcome::Failed(error.to_string()))?;
        if self.memory == MemoryKind::None {
            return compute(&mut context, &[(&sequence, text)], Ask::All, self.embeds).map(|mut rows| rows.remove(0));
        }
        encode_first(&mut context, &[(&sequence, index)], &self.texts)?;
        let mut rows = Vec::new();
        for token in text {
            rows.extend(compute(&mut context, &[(&sequence, &[*token])], Ask::All, false)?.remove(0));
        }
        Ok(rows)
    }

    /// Runs a script to its end.
    pub fn run(&self, script: &Script) -> Outcome {
        self.try_run(script).map_or_else(|outcome| outcome, Outcome::Ran)
    }

    fn try_run(&self, script: &Script) -> Result<f64, Outcome> {
        let mut context = self.context(script.sequences, script.micro_batch, script.layout)?;
        let mut live: [Option<Sequence>; TEXTS] = [const { None }; TEXTS];
        let mut worst = 0.0_f64;
        if self.memory == MemoryKind::None {
            return self.encode(&mut context, script);
        }
        for step in script.steps {
            match *step {
                Step::Decode(parts, ask) => {
                    for (index, _) in parts {
                        if live[*index].is_none() {
                            live[*index] = Some(context.new_sequence().map_err(refused)?);
                        }
                    }
                    let sequences: Vec<(&Sequence, usize)> = live
                        .iter()
                        .enumerate()
                        .filter_map(|(index, one)| one.as_ref().map(|one| (one, index)))
                        .collect();
                    encode_first(&mut context, &sequences, &self.texts)?;
                    let rows: Vec<(&Sequence, &[Token])> = parts
                        .iter()
                        .filter_map(|&(index, count)| {
                            let sequence = live[index].as_ref()?;
                            let start = sequence.len() as usize;
                            Some((sequence, &self.texts[index][start..start + count]))
                        })
                        .collect();
                    let starts: Vec<usize> = rows.iter().map(|(sequence, _)| sequence.len() as usize).collect();
                    let got = compute(&mut context, &rows, ask, false)?;
                    for (((index, count), start), got) in parts.iter().zip(starts).zip(got) {
                        let first = start + count - got.len();
                        for (row, got) in got.iter().enumerate() {
                            worst = worse(worst, got, &self.wanted[*index][first + row]);
                        }
                    }
                }
                Step::Fork(from, to, length) => {
                    let parent = live[from].as_ref().expect("a script that forks what it has decoded");
                    let child = match length {
                        Some(length) => context.fork_prefix(parent, length),
                        None => context.fork(parent),
                    };
                    live[to] = Some(child.map_err(refused)?);
                }
                Step::Truncate(index, length) => {
                    let sequence = live[index].as_ref().expect("a script that truncates what it has decoded");
                    context.truncate(sequence, length).map_err(refused)?;
                }
                Step::Drop(index) => live[index] = None,
                Step::Restore(index) => {
                    let sequence = live[index].take().expect("a script that saves what it has decoded");
                    let state = context.save(&sequence).map_err(refused)?;
                    drop(sequence);
                    live[index] = Some(context.restore(&state).map_err(refused)?);
                }
            }
        }
        Ok(worst)
    }

    /// Computes the texts of a script's first batch whole, in one batch: nothing is remembered from one to the next.
    fn encode(&self, context: &mut Context, script: &Script) -> Result<f64, Outcome> {
        let Some(Step::Decode(parts, ask)) = script.steps.first() else {
            return Err(Outcome::Refused("there is nothing to encode".to_owned()));
        };
        let sequences: Result<Vec<Sequence>, _> = parts.iter().map(|_| context.new_sequence()).collect();
        let sequences = sequences.map_err(refused)?;
        let rows: Vec<(&Sequence, &[Token])> =
            parts.iter().zip(&sequences).map(|((index, _), one)| (one, self.texts[*index].as_slice())).collect();
        let got = compute(context, &rows, *ask, self.embeds)?;
        let mut worst = 0.0;
        for ((index, _), got) in parts.iter().zip(got) {
            let first = LENGTH - got.len();
            for (row, got) in got.iter().enumerate() {
                worst = worse(worst, got, &self.wanted[*index][first + row]);
            }
        }
        Ok(worst)
    }
}

fn refused(error: impl std::fmt::Display) -> Outcome {
    Outcome::Refused(error.to_string())
}

fn failed(error: DecodeError) -> Outcome {
    match error {
        DecodeError::Failed { .. } | DecodeError::Rejected { .. } | DecodeError::NoSlot { .. } => {
            Outcome::Failed(error.to_string())
        }
        _ => Outcome::Refused(error.to_string()),
    }
}

/// The worse of an error so far and that of a row. Numbers that stand for "never" (the pictures' tokens of Chameleon) are left
/// out where both rows have them: they would drown all others.
fn worse(worst: f64, got: &[f32], want: &[f32]) -> f64 {
    let (got, want): (Vec<f32>, Vec<f32>) =
        got.iter().zip(want).filter(|(got, want)| got != want || want.abs() < NEVER).unzip();
    let error = if got.is_empty() { 0.0 } else { nmse(&got, &want) };
    if error.is_finite() { worst.max(error) } else { f64::INFINITY }
}

/// Gives an encoder-decoder the texts that it is to attend to: those of all sequences, each its first tokens.
fn encode_first(context: &mut Context, sequences: &[(&Sequence, usize)], texts: &[Vec<Token>]) -> Result<(), Outcome> {
    if !context.limits().encodes_first() {
        return Ok(());
    }
    let mut batch = context.new_encoder_batch();
    for (sequence, index) in sequences {
        batch.extend(sequence, &texts[*index][..8]).map_err(refused)?;
    }
    context.encode(&mut batch).map_err(failed)?;
    Ok(())
}

/// One batch, and the outputs of its rows, text by text.
fn compute(
    context: &mut Context,
    rows: &[(&Sequence, &[Token])],
    ask: Ask,
    embeds: bool,
) -> Result<Vec<Rows>, Outcome> {
    let mut batch = context.new_batch();
    let mut slots = Vec::new();
    for (sequence, tokens) in rows {
        let mut of_text = Vec::new();
        for (index, token) in tokens.iter().enumerate() {
            // An encoder gives all rows; here all but the last are dropped.
            if embeds || ask == Ask::All || index + 1 == tokens.len() {
                of_text.push(batch.push_output(sequence, *token).map_err(refused)?);
            } else {
                batch.push(sequence, *token).map_err(refused)?;
            }
        }
        slots.push(of_text);
    }
    let encodes = context.limits().memory() == MemoryKind::None;
    let outputs = if encodes { context.encode(&mut batch) } else { context.decode(&mut batch) }.map_err(failed)?;
    let row = |slot| if embeds { outputs.embedding(slot) } else { outputs.get(slot) };
    slots
        .into_iter()
        .map(|of_text| of_text.into_iter().map(|slot| row(slot).map(<[f32]>::to_vec).map_err(refused)).collect())
        .collect()
}
