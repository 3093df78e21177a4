//! What the next step computes: plain numbers in, plain numbers out.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

/// A running request, as far as a step is planned by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Line {
    /// Tokens of its text that are not in memory, at least 1.
    pub rest: u32,
    /// Whether these are one token that was generated, rather than a prompt, or a text that is computed again.
    pub decodes: bool,
    /// Tokens that are guessed to come after it.
    pub draft: u32,
    /// Tokens until a place where another request forks it, which no chunk may pass; `rest` where there is none.
    pub stop: u32,
    /// Whether it is in the group whose turn it is; of lines that decode.
    pub in_turn: bool,
    /// Its place: the lower comes first.
    pub order: i64,
}

/// What a step has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Room {
    /// Rows of a batch.
    pub rows: u32,
    /// Tokens of prompts, beside lines that decode or beside the first of them.
    pub chunk: u32,
    /// Tokens of one prompt in a step.
    pub line_chunk: u32,
    /// Whether prompts have a part in this step.
    pub prompts: bool,
}

/// What one line computes in a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    /// Which line.
    pub line: usize,
    /// Tokens of its text.
    pub tokens: u32,
    /// Guessed tokens behind them.
    pub draft: u32,
}

/// Shares a step out: first the lines that decode and whose turn it is, a token each; then prompts in their order, each as far
/// as there is room; what is guessed gets what is left over.
///
/// Where nothing decodes, the first prompt is computed as far as the batch holds it, and others beside it within the chunk: what all of
/// them take in one step, the first would wait for with its first token, and they would stay in step for good.
pub(crate) fn plan(lines: &[Line], room: Room) -> Vec<Part> {
    let mut order: Vec<usize> = (0..lines.len()).collect();
    order.sort_by_key(|line| lines[*line].order);
    let (decoding, prompts): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|line| lines[*line].decodes);
    let mut left = room.rows;
    let mut parts = Vec::with_capacity(lines.len());
    for line in decoding.iter().copied().filter(|line| lines[*line].in_turn) {
        if left == 0 {
            break;
        }
        parts.push(Part { line, tokens: 1, draft: 0 });
        left -= 1;
    }
    let decoders = parts.len();
    if room.prompts {
        let wanted = |line: usize| lines[line].rest.min(lines[line].stop.max(1)).min(room.line_chunk);
        let alone = prompts.first().filter(|_| decoding.is_empty()).map_or(0, |first| wanted(*first));
        let mut chunk = left.min(room.chunk.max(alone));
        for line in prompts {
            let tokens = wanted(line).min(chunk);
            if tokens == 0 {
                break;
            }
            parts.push(Part { line, tokens, draft: 0 });
            chunk -= tokens;
            left -= tokens;
        }
    }
    for part in &mut parts[..decoders] {
        part.draft = lines[part.line].draft.min(left);
        left -= part.draft;
    }
    parts
}

/// Cuts the sequences that decode into groups of these sizes, each of which is a step: those that were served last come last.
///
/// `served` has for each when that was.
pub(crate) fn turns(served: &[u64], sizes: &[u32]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..served.len()).collect();
    order.sort_by_key(|line| served[*line]);
    let mut rest = order.as_slice();
    let mut groups = Vec::with_capacity(sizes.len());
    for size in sizes {
        let (group, behind) = rest.split_at((*size as usize).min(rest.len()));
        if !group.is_empty() {
            groups.push(group.to_vec());
        }
        rest = behind;
    }
    // Sizes that do not add up leave none out.
    if !rest.is_empty() {
        groups.push(rest.to_vec());
    }
    groups
}

/// Requests that arrive later and overtake one that has waited, for each step of priority between them.
const OVERTAKE: i64 = 1000;

/// A request's place among all that were and will be, from the number of those before it: the lower comes first.
///
/// Within a priority that is the order of arrival. A higher priority counts as an earlier arrival, so that no request is
/// overtaken for ever: by at most 1,000 later ones for each step of priority.
pub(crate) fn order(arrival: u64, priority: i8) -> i64 {
    i64::try_from(arrival).unwrap_or(i64::MAX).saturating_sub(i64::from(priority) * OVERTAKE)
}

/// Which of the running ones makes room where there is none: the last in order.
pub(crate) fn victim(orders: impl Iterator<Item = (usize, i64)>) -> Option<usize> {
    orders.min_by_key(|(_, order)| Reverse(*order)).map(|(line, _)| line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: Room = Room { rows: 64, chunk: 16, line_chunk: u32::MAX, prompts: true };

    fn decoder(order: i64) -> Line {
        Line { rest: 1, decodes: true, draft: 0, stop: 1, in_turn: true, order }
    }

    fn prompt(rest: u32, order: i64) -> Line {
        Line { rest, decodes: false, draft: 0, stop: rest, in_turn: false, order }
    }

    fn part(line: usize, tokens: u32) -> Part {
        Part { line, tokens, draft: 0 }
    }

    #[test]
    fn decoders_first_then_prompts_by_order_up_to_the_chunk() {
        let lines = [prompt(40, 3), decoder(1), prompt(10, 2), decoder(4)];
        assert_eq!(plan(&lines, ROOM), [part(1, 1), part(3, 1), part(2, 10), part(0, 6)]);
    }

    #[test]
    fn the_first_prompt_alone_fills_the_batch_others_the_chunk() {
        assert_eq!(plan(&[prompt(40, 2), prompt(100, 1)], ROOM), [part(1, 64)]);
        assert_eq!(plan(&[prompt(40, 2), prompt(40, 1)], ROOM), [part(1, 40)]);
        assert_eq!(plan(&[prompt(40, 2), prompt(5, 1)], ROOM), [part(1, 5), part(0, 11)]);
        let room = Room { line_chunk: 8, ..ROOM };
        assert_eq!(plan(&[prompt(40, 2), prompt(40, 1)], room), [part(1, 8), part(0, 8)]);
    }

    #[test]
    fn who_is_not_in_turn_waits_and_keeps_the_chunk_small() {
        let waits = Line { in_turn: false, ..decoder(1) };
        assert_eq!(plan(&[waits, prompt(40, 2)], ROOM), [part(1, 16)]);
        assert_eq!(plan(&[decoder(1), prompt(40, 2)], Room { prompts: false, ..ROOM }), [part(0, 1)]);
    }

    #[test]
    fn a_chunk_ends_where_another_request_forks() {
        assert_eq!(plan(&[Line { stop: 7, ..prompt(40, 1) }], ROOM), [part(0, 7)]);
    }

    #[test]
    fn guesses_get_what_is_left() {
        let guesses = Line { draft: 5, ..decoder(1) };
        assert_eq!(plan(&[guesses], ROOM), [Part { line: 0, tokens: 1, draft: 5 }]);
        let room = Room { rows: 20, chunk: 16, ..ROOM };
        assert_eq!(plan(&[guesses, prompt(40, 2)], room), [Part { line: 0, tokens: 1, draft: 3 }, part(1, 16)]);
    }

    #[test]
    fn turns_go_round() {
        assert_eq!(turns(&[7, 3, 9, 1], &[2, 2]), [vec![3, 1], vec![0, 2]]);
        assert_eq!(turns(&[7, 3], &[1]), [vec![1], vec![0]]);
        assert_eq!(turns(&[7, 3], &[8]), [vec![1, 0]]);
        assert!(turns(&[], &[1]).is_empty());
    }

    #[test]
    fn priority_counts_as_earlier_arrival() {
        assert!(order(999, 1) < order(0, 0));
        assert!(order(1001, 1) > order(0, 0));
        assert!(order(u64::MAX, i8::MIN) > order(0, i8::MAX));
    }

    fn lines() -> impl Strategy<Value = Vec<Line>> {
        let line = (any::<bool>(), 1u32..80, 0u32..6, 1u32..80, any::<bool>(), -50i64..50);
        let line = line.prop_map(|(decodes, rest, draft, stop, in_turn, order)| match decodes {
            true => Line { rest: 1, decodes, draft, stop: 1, in_turn, order },
            false => Line { rest, decodes, draft: 0, stop: stop.min(rest), in_turn: false, order },
        });
        prop::collection::vec(line, 0..40)
    }

    proptest! {
        /// Whatever runs: the batch holds it, the chunk is kept, nobody computes more than he has, and who comes first in order
        /// gets something if anybody of his kind does.
        #[test]
        fn a_step_keeps_its_bounds(
            lines in lines(),
            rows in 1u32..100,
            chunk in 1u32..40,
            line_chunk in 1u32..50,
            prompts in any::<bool>(),
        ) {
            let parts = plan(&lines, Room { rows, chunk, line_chunk, prompts });
            prop_assert!(parts.iter().map(|part| part.tokens + part.draft).sum::<u32>() <= rows);
            let of_prompts = |part: &&Part| !lines[part.line].decodes;
            let prompt_tokens: u32 = parts.iter().filter(of_prompts).map(|part| part.tokens).sum();
            let first = parts.iter().find(of_prompts).filter(|_| lines.iter().all(|line| !line.decodes));
            prop_assert!(prompt_tokens <= chunk.max(first.map_or(0, |part| part.tokens)));
            let mut seen = vec![false; lines.len()];
            for part in &parts {
                let line = &lines[part.line];
                prop_assert!(!std::mem::replace(&mut seen[part.line], true), "one part a line");
                prop_assert!(part.tokens >= 1 && part.tokens <= line.rest && part.draft <= line.draft);
                let prompt_fits = prompts && part.tokens <= line.stop.min(line_chunk);
                let may_run = if line.decodes { line.in_turn } else { prompt_fits };
                prop_assert!(may_run);
            }
            for (index, line) in lines.iter().enumerate() {
                let overtaken = parts.iter().any(|part| {
                    lines[part.line].decodes == line.decodes && lines[part.line].order > line.order
                });
                prop_assert!(seen[index] || !overtaken || (line.decodes && !line.in_turn));
            }
            // A step does something if it can.
            let able = lines.iter().any(|line| if line.decodes { line.in_turn } else { prompts });
            prop_assert_eq!(able, !parts.is_empty());
        }

        #[test]
        fn each_has_its_turn_once(served in prop::collection::vec(0u64..20, 0..40), sizes in prop::collection::vec(1u32..9, 0..9)) {
            let groups = turns(&served, &sizes);
            let mut all = groups.concat();
            let times: Vec<u64> = all.iter().map(|line| served[*line]).collect();
            prop_assert!(times.is_sorted());
            all.sort_unstable();
            prop_assert_eq!(all, (0..served.len()).collect::<Vec<_>>());
        }
    }
}
