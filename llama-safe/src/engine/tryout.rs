//! What an engine finds out about its context before it begins.

use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::GenerateError;
use crate::id::Token;
use crate::saved::State;

use super::width::StepCosts;

/// Numbers of rows that are measured.
const WIDTHS: [u32; 16] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256];

/// How long measuring may take before it is left at what was measured.
const PATIENCE: Duration = Duration::from_millis(600);

/// How often a width is measured, at least, and at most.
const TIMES: (u32, u32) = (2, 8);

/// How long a width is measured, but for its least number of times.
const A_WIDTH: Duration = Duration::from_millis(25);

/// The fastest of a few, since what others do on the machine makes a thing slower and never faster: at least `times.0`, and up to
/// `times.1` as long as all take no longer than `long`. The first builds a graph, and is not counted.
pub(crate) fn fastest<E>(
    times: (u32, u32),
    long: Duration,
    mut once: impl FnMut() -> Result<(), E>,
) -> Result<Duration, E> {
    let mut least = Duration::MAX;
    let begun = Instant::now();
    for time in 0..=times.1 {
        let before = Instant::now();
        once()?;
        if time > 0 {
            least = least.min(before.elapsed());
        }
        if time >= times.0 && begun.elapsed() > long {
            break;
        }
    }
    Ok(least.max(Duration::from_nanos(1)))
}

/// What a step costs at each width up to `most`.
pub(crate) fn measure(context: &mut Context, most: u32) -> Result<Option<StepCosts>, GenerateError> {
    let token = Token(0);
    let begin = Instant::now();
    let mut batch = context.new_batch();
    let mut sequences = Vec::new();
    let mut points = Vec::new();
    let widths = WIDTHS.into_iter().filter(|width| *width < most).chain([most]);
    for width in widths {
        while (sequences.len() as u32) < width {
            sequences.push(context.new_sequence()?);
        }
        let time = fastest(TIMES, A_WIDTH, || {
            for sequence in &sequences {
                batch.push_output(sequence, token)?;
            }
            context.decode(&mut batch)?;
            Ok::<_, GenerateError>(())
        })?;
        points.push((width, time));
        if begin.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(StepCosts::new(points).ok())
}

/// Rows of one sequence in a step of an engine that is deterministic: from 64 on, ggml computes attention with another kernel.
pub(crate) const ROWS_ALIKE: u32 = 32;

/// Whether this machine computes the same bits for a token whatever is computed beside it: alone, in a chunk, in batches of
/// several widths.
///
/// It is tried, since it depends on kernels that depend on the number of rows; which do is not told by llama.cpp.
pub(crate) fn computes_alike(context: &mut Context) -> Result<bool, GenerateError> {
    let limits = context.limits();
    let (vocabulary, most) = (limits.vocabulary(), limits.sequences());
    let text = |salt: u32| -> Vec<Token> {
        let number = |index: u32| (index * 7919 + salt * 104_729 + 13) % vocabulary.max(1);
        (0..ROWS_ALIKE + 2).map(|index| Token(number(index) as i32)).collect()
    };
    // Logits, and what is in memory: rounding to the numbers that weights are multiplied with may hide for long that a state is
    // another one.
    let expected = |context: &mut Context, text: &[Token]| -> Result<Vec<Row>, GenerateError> {
        let sequence = context.new_sequence()?;
        let mut batch = context.new_batch();
        let mut rows = Vec::new();
        for token in text {
            let slot = batch.push_output(&sequence, *token)?;
            let logits = bits(context.decode(&mut batch)?.get(slot)?);
            rows.push((logits, context.save(&sequence).ok()));
        }
        Ok(rows)
    };
    let first = text(0);
    let alone = expected(context, &first)?;
    for width in WIDTHS.into_iter().filter(|width| *width < most).chain([most]) {
        // The first sequence has a chunk of each length in turn, the others one row or several.
        for chunk in [1, 2, 3, 7, ROWS_ALIKE] {
            let mut batch = context.new_batch();
            let sequences = (0..width).map(|_| context.new_sequence()).collect::<Result<Vec<_>, _>>()?;
            if u64::from(chunk) + u64::from(width) * 2 > u64::from(batch.capacity()) {
                continue;
            }
            let mut slots = Vec::new();
            for token in &first[..chunk as usize] {
                slots.push(batch.push_output(&sequences[0], *token)?);
            }
            for (salt, sequence) in sequences.iter().enumerate().skip(1) {
                let other = text(salt as u32);
                batch.prompt(sequence, &other[..1 + salt % 2])?;
            }
            let outputs = context.decode(&mut batch)?;
            for (slot, (logits, _)) in slots.iter().zip(&alone) {
                if bits(outputs.get(*slot)?) != *logits {
                    return Ok(false);
                }
            }
            let (_, want) = &alone[chunk as usize - 1];
            let got = context.save(&sequences[0]).ok();
            if got.as_ref().map(State::as_bytes) != want.as_ref().map(State::as_bytes) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Logits, bit for bit, and what is in memory then.
type Row = (Vec<u32>, Option<State>);

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}
