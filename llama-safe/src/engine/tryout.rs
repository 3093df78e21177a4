//! What an engine finds out about its context before it begins.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::error::GenerateError;
use crate::id::Token;
use crate::saved::State;

use super::width::StepCosts;

/// Numbers of rows that are measured.
const WIDTHS: [u32; 16] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 128, 256];

/// How long measuring may take before it is left at what was measured.
const PATIENCE: Duration = Duration::from_secs(1);

/// All widths are measured so often, one after the other: what disturbs one of them for a while does not disturb it again.
const PASSES: u32 = 3;

/// How often a width is measured in a pass, at least, and at most.
const TIMES: (u32, u32) = (1, 3);

/// How long a width is measured in a pass, but for its least number of times.
const A_WIDTH: Duration = Duration::from_millis(10);

/// The times that something takes, the shortest first: it is done `times.0` times at least, and up to `times.1` as long as all take no
/// longer than `long`. What is to be there before, such as a graph, is made before.
pub(crate) fn timed<E>(
    times: (u32, u32),
    long: Duration,
    mut once: impl FnMut() -> Result<(), E>,
) -> Result<Vec<Duration>, E> {
    let mut taken = Vec::new();
    let begun = Instant::now();
    for time in 1..=times.1 {
        let before = Instant::now();
        once()?;
        taken.push(before.elapsed().max(Duration::from_nanos(1)));
        if time >= times.0 && begun.elapsed() > long {
            break;
        }
    }
    taken.sort_unstable();
    Ok(taken)
}

/// What a step costs at each width up to `most`.
pub(crate) fn measure(context: &mut Context, most: u32) -> Result<Option<StepCosts>, GenerateError> {
    let token = Token(0);
    let begin = Instant::now();
    let mut batch = context.new_batch();
    let mut sequences = Vec::new();
    let mut points: BTreeMap<u32, Duration> = BTreeMap::new();
    let widths = by_importance(most);
    for width in (0..PASSES).flat_map(|_| &widths) {
        while (sequences.len() as u32) < *width {
            sequences.push(context.new_sequence()?);
        }
        let mut step = || {
            for sequence in &sequences[..*width as usize] {
                batch.push_output(sequence, token)?;
            }
            context.decode(&mut batch)?;
            Ok::<_, GenerateError>(())
        };
        // The first one builds a graph.
        step()?;
        // The fastest, since what others do on the machine makes a step slower and never faster.
        if let Some(time) = timed(TIMES, A_WIDTH, step)?.first() {
            points.entry(*width).and_modify(|least| *least = (*time).min(*least)).or_insert(*time);
        }
        // So that a few cells are enough, however often it is measured.
        for sequence in &sequences {
            context.clear(sequence)?;
        }
        if begin.elapsed() > PATIENCE {
            break;
        }
    }
    Ok(StepCosts::new(points).ok())
}

/// The widths up to `most` in the order in which they are measured, so that time which runs out leaves a scale that spans all of them:
/// one row and as many as there may be, powers of two between, then the rest.
fn by_importance(most: u32) -> Vec<u32> {
    let between = |powers: bool| {
        WIDTHS.into_iter().rev().filter(move |width| (2..most).contains(width) && width.is_power_of_two() == powers)
    };
    let ends = if most > 1 { vec![1, most] } else { vec![most] };
    ends.into_iter().chain(between(true)).chain(between(false)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_measured_first_and_each_width_once() {
        assert_eq!(by_importance(1), [1]);
        assert_eq!(by_importance(2), [1, 2]);
        assert_eq!(by_importance(8), [1, 8, 4, 2, 6, 5, 3]);
        assert_eq!(by_importance(20), [1, 20, 16, 8, 4, 2, 12, 10, 6, 5, 3]);
        for most in 1..=256 {
            let mut widths = by_importance(most);
            widths.sort_unstable();
            let wanted: Vec<u32> = WIDTHS.into_iter().filter(|width| *width < most).chain([most]).collect();
            assert_eq!(widths, wanted);
        }
    }
}
