//! Guesses at what comes next, without a second model: what followed the last tokens where they stood before. Plain data, no
//! llama.cpp.
//!
//! Where a text repeats its prompt or itself, many tokens are guessed right, and one decode checks them all. Where it does
//! not, wrong guesses cost rows: so what was accepted is counted, and nothing is guessed that does not pay.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ops::Range;

use crate::id::Token;

/// The index of one text, and how good its guesses were.
#[derive(Debug)]
pub(crate) struct Lookup {
    recent: Places,
    /// Those before `recent`, dropped as a whole when it is full.
    older: Places,
    /// The last tokens, three at most: what the next token follows.
    last: Vec<Token>,
    /// Tokens of the text.
    length: u32,
    /// Tokens of the text since `recent` was begun.
    in_recent: u32,
    /// The chance that a guessed token is accepted, if those before it were.
    chance: f64,
    /// Tokens of the text since the last guess was checked.
    since_checked: u32,
    /// Tokens to wait before something is tried that would not pay by `chance`.
    pause: u32,
}

/// The place behind the latest occurrence of each run of tokens.
#[derive(Default, Debug)]
struct Places {
    of_three: HashMap<[Token; 3], u32>,
    of_two: HashMap<[Token; 2], u32>,
}

/// Tokens until `recent` becomes `older`: what is twice as long ago is forgotten.
const KEPT: u32 = 1 << 15;

/// The weight of the last token that was accepted or not, against all before it.
const WEIGHT: f64 = 0.125;

/// What a guess must gain in speed.
const WORTHWHILE: f64 = 0.05;

/// Tokens that are guessed to see whether guesses are any good.
const TRIAL: u32 = 3;

/// Tokens between trials: the fewest, and the most, after several that were all wrong.
const PAUSES: (u32, u32) = (32, 256);

impl Lookup {
    /// Of a text without tokens.
    pub(crate) fn new() -> Self {
        Self {
            recent: Places::default(),
            older: Places::default(),
            last: Vec::with_capacity(3),
            length: 0,
            in_recent: 0,
            chance: 0.5,
            since_checked: 0,
            pause: 0,
        }
    }

    /// Adds tokens to the end of the text.
    pub(crate) fn extend(&mut self, tokens: &[Token]) {
        for &token in tokens {
            // What the text ends with gets its place when something follows: so it is never found as its own repetition.
            if let Some(&run) = self.last.last_chunk() {
                self.recent.of_three.insert(run, self.length);
            }
            if let Some(&run) = self.last.last_chunk() {
                self.recent.of_two.insert(run, self.length);
            }
            if self.last.len() == 3 {
                self.last.remove(0);
            }
            self.last.push(token);
            self.length = self.length.saturating_add(1);
            self.in_recent += 1;
            if self.in_recent == KEPT {
                self.older = std::mem::take(&mut self.recent);
                self.in_recent = 0;
            }
        }
        self.since_checked = self.since_checked.saturating_add(u32::try_from(tokens.len()).unwrap_or(u32::MAX));
    }

    /// Takes a range of tokens out of the text; those behind it move up. Occurrences that it was a part of are forgotten.
    pub(crate) fn discard(&mut self, range: Range<u32>) {
        let end = range.end.min(self.length);
        let start = range.start.min(end);
        if start == end {
            return;
        }
        for places in [&mut self.recent, &mut self.older] {
            move_up(&mut places.of_three, start..end);
            move_up(&mut places.of_two, start..end);
        }
        // Tokens on both sides of the gap never followed each other.
        let behind = (self.length - end) as usize;
        self.last.drain(..self.last.len().saturating_sub(behind));
        self.length -= end - start;
    }

    /// What followed the last three tokens of the text, or else the last two, where they stood the last time before: at most
    /// `most` tokens, and none where they are new. `text` is the whole text that this is the index of.
    pub(crate) fn draft<'t>(&self, text: &'t [Token], most: u32) -> &'t [Token] {
        let places = [&self.recent, &self.older];
        let of_three = || text.last_chunk().and_then(|run| places.iter().find_map(|places| places.of_three.get(run)));
        let of_two = || text.last_chunk().and_then(|run| places.iter().find_map(|places| places.of_two.get(run)));
        let place = of_three().or_else(of_two);
        let followed = place.and_then(|place| text.get(*place as usize..)).unwrap_or_default();
        &followed[..followed.len().min(most as usize)]
    }

    /// Counts how many of the tokens that were `drafted` were accepted: those up to the first wrong one.
    pub(crate) fn learn(&mut self, drafted: u32, accepted: u32) {
        if drafted == 0 {
            return;
        }
        let wrong = 1.0 - self.chance;
        self.chance = 1.0 - wrong * (1.0 - WEIGHT).powf(f64::from(accepted.min(drafted)));
        if accepted < drafted {
            self.chance *= 1.0 - WEIGHT;
        }
        self.since_checked = 0;
        self.pause = match accepted {
            0 => self.pause.saturating_mul(2).clamp(PAUSES.0, PAUSES.1),
            _ if accepted < drafted => PAUSES.0,
            _ => 0,
        };
    }

    /// How many tokens to draft, `most` at most, given the `cost` of a decode by its rows: the number that brings the most tokens
    /// for what it costs, and 0 if none brings 5 % more than a decode of one row.
    ///
    /// Where right guesses would pay and those of late were too bad, some are tried all the same now and then: 32 tokens after
    /// the last, 256 after several that were all wrong, and at once after one that was all right.
    pub(crate) fn length_that_pays(&self, cost: impl Fn(u32) -> f64, most: u32) -> u32 {
        let best = best_length(self.chance, &cost, most);
        if best == 0 && self.since_checked >= self.pause && best_length(1.0, &cost, most) > 0 {
            return most.min(TRIAL);
        }
        best
    }
}

/// The length of a draft that brings the most tokens for what its decode costs, if each token is accepted by `chance`.
fn best_length(chance: f64, cost: impl Fn(u32) -> f64, most: u32) -> u32 {
    let mut best = (0, (1.0 + WORTHWHILE) / cost(1));
    // A decode brings one token in any case, and one more for each that is accepted.
    let (mut tokens, mut accepted) = (1.0, 1.0);
    for length in 1..=most {
        accepted *= chance;
        tokens += accepted;
        let rate = tokens / cost(length.saturating_add(1));
        if rate > best.1 {
            best = (length, rate);
        }
    }
    best.0
}

/// Where places are when a range of tokens is taken out, without those of runs that lose a token, or the one that follows.
fn move_up<const TOKENS: usize>(places: &mut HashMap<[Token; TOKENS], u32>, gap: Range<u32>) {
    places.retain(|_, place| {
        if *place >= gap.end + TOKENS as u32 {
            *place -= gap.end - gap.start;
            return true;
        }
        *place < gap.start
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(tokens: &[i32]) -> Vec<Token> {
        tokens.iter().map(|id| Token(*id)).collect()
    }

    fn drafted(tokens: &[i32], most: u32) -> Vec<i32> {
        let text = text(tokens);
        let mut lookup = Lookup::new();
        lookup.extend(&text);
        lookup.draft(&text, most).iter().map(|token| token.0).collect()
    }

    /// Milliseconds of a step of Q8_0 on two cores: two rows cost more than two steps.
    fn q8_0(rows: u32) -> f64 {
        [0.0, 7.3, 17.4, 19.6, 21.9, 23.6, 25.3, 27.1, 28.8][rows as usize]
    }

    #[test]
    fn what_followed_the_last_time_is_drafted() {
        assert_eq!(drafted(&[1, 2, 3, 4, 5, 1, 2, 3], 3), [4, 5, 1]);
        assert_eq!(drafted(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 1), [5], "the latest");
        assert_eq!(drafted(&[1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3], 2), [4, 9], "three say more than two");
        assert_eq!(drafted(&[7, 2, 3, 4, 1, 2, 3], 9), [4, 1, 2, 3], "two, if three are new");
        assert_eq!(drafted(&[6, 6, 6, 6], 4), [6], "up to the end");
        assert_eq!(drafted(&[1, 2, 1], 4), [0; 0], "one says too little");
        assert_eq!(drafted(&[1, 2, 3, 1, 2], 0), [0; 0]);
        for new in [&[][..], &[1], &[1, 1], &[1, 2, 3, 4]] {
            assert_eq!(drafted(new, 4), [0; 0]);
        }
    }

    #[test]
    fn another_text_does_no_harm() {
        let mut lookup = Lookup::new();
        lookup.extend(&text(&[8, 8, 8, 8, 1, 2, 3, 4, 1, 2, 3]));
        assert_eq!(lookup.draft(&text(&[1, 2, 3]), 4), []);
    }

    #[test]
    fn an_endless_text_is_forgotten_in_time() {
        let mut lookup = Lookup::new();
        let mut tokens = Vec::new();
        for index in 0..5 * KEPT {
            let token = Token(((u64::from(index) * 0x9e37_79b9) >> 8) as i32);
            tokens.push(token);
            lookup.extend(&[token]);
            let kept = [&lookup.recent, &lookup.older].map(|places| places.of_three.len() + places.of_two.len());
            assert!(kept.iter().all(|kept| *kept <= 2 * KEPT as usize));
        }
        let now = tokens.len();
        let mut again = |at: usize| {
            let run: Vec<Token> = tokens[at..at + 3].to_vec();
            tokens.extend(&run);
            lookup.extend(&run);
            lookup.draft(&tokens, 2) == &tokens[at + 3..at + 5]
        };
        assert!(again(now - 100) && again(now - KEPT as usize + 100));
        assert!(!again(now - 2 * KEPT as usize - 100));
    }

    #[test]
    fn good_guesses_get_longer_and_bad_ones_end() {
        let mut lookup = Lookup::new();
        assert_eq!(lookup.length_that_pays(q8_0, 7), TRIAL, "nothing is known yet");
        for _ in 0..20 {
            lookup.learn(7, 7);
        }
        assert_eq!(lookup.length_that_pays(q8_0, 7), 7);
        assert_eq!(lookup.length_that_pays(q8_0, 2), 2, "even as few");
        for _ in 0..20 {
            lookup.learn(3, 0);
        }
        assert_eq!(lookup.length_that_pays(q8_0, 7), 0);
        // A computation that has rows to spare takes guesses that are seldom right.
        assert_eq!(lookup.length_that_pays(|_| 1.0, 7), 7);
    }

    #[test]
    fn a_trial_now_and_then_brings_guesses_back() {
        let mut lookup = Lookup::new();
        (0..50).for_each(|_| lookup.learn(7, 0));
        let waits = |lookup: &mut Lookup, accepted: u32| {
            let mut waited = 0;
            while lookup.length_that_pays(q8_0, 7) == 0 {
                lookup.extend(&[Token(0)]);
                waited += 1;
            }
            assert_eq!(lookup.length_that_pays(q8_0, 7), TRIAL);
            lookup.learn(TRIAL, accepted);
            waited
        };
        assert_eq!(
            [0, 1, 0, 0, 0, 0, 3, 3].map(|accepted| waits(&mut lookup, accepted)),
            [256, 256, 32, 64, 128, 256, 256, 0]
        );
        (0..6).for_each(|_| lookup.learn(3, 3));
        assert_eq!(lookup.length_that_pays(q8_0, 7), 7);
    }

    #[test]
    fn nothing_is_tried_that_could_not_pay() {
        let lookup = Lookup::new();
        assert_eq!(lookup.length_that_pays(f64::from, 7), 0);
        assert_eq!(lookup.length_that_pays(|_| 0.0, 7), 0);
        assert_eq!(lookup.length_that_pays(|_| f64::NAN, 7), 0);
        assert_eq!(lookup.length_that_pays(|_| 1.0, 0), 0);
    }

    /// Guesses that are never right cost less than 2 % over a long text.
    #[test]
    fn a_text_without_repetition_pays_little() {
        let (mut lookup, mut cost) = (Lookup::new(), 0.0);
        for _ in 0..10_000 {
            let length = lookup.length_that_pays(q8_0, 7);
            cost += q8_0(1 + length);
            lookup.learn(length, 0);
            lookup.extend(&[Token(0)]);
        }
        assert!(cost < 10_000.0 * q8_0(1) * 1.02, "{cost}");
    }

    /// The latest place before the end that the last `run` tokens stood before.
    fn naive(text: &[Token], run: usize) -> Option<usize> {
        let end = text.len().checked_sub(run)?;
        (run..text.len()).rev().find(|place| text[place - run..*place] == text[end..])
    }

    proptest! {
        /// Against a search from the end.
        #[test]
        fn as_a_search(tokens in prop::collection::vec(0..4i32, 0..80), parts in prop::collection::vec(0..9usize, 0..20)) {
            let tokens = text(&tokens);
            let (mut lookup, mut length) = (Lookup::new(), 0);
            for part in parts {
                let end = tokens.len().min(length + part);
                lookup.extend(&tokens[length..end]);
                length = end;
                let known = &tokens[..length];
                let place = naive(known, 3).or_else(|| naive(known, 2));
                let expected = place.map_or(&[][..], |place| &known[place..length.min(place + 5)]);
                prop_assert_eq!(lookup.draft(known, 5), expected);
            }
        }

        /// Whatever was taken out: a draft stands behind the tokens that the text ends with, and what comes later is found.
        #[test]
        fn discarded_tokens_are_not_missed(
            mut tokens in prop::collection::vec(0..4i32, 0..60),
            rounds in prop::collection::vec((0..60u32, 0..60u32, prop::collection::vec(0..4i32, 0..12)), 0..6),
        ) {
            let mut lookup = Lookup::new();
            lookup.extend(&text(&tokens));
            for (start, end, more) in rounds {
                lookup.discard(start..end);
                let mut at = 0..;
                tokens.retain(|_| !(start..end).contains(&at.next().unwrap()));
                let mut after = Lookup::new();
                for id in more {
                    tokens.push(id);
                    lookup.extend(&text(&[id]));
                    after.extend(&text(&[id]));
                    prop_assert_eq!(lookup.length as usize, tokens.len());
                    let text = text(&tokens);
                    let draft = lookup.draft(&text, u32::MAX);
                    let place = text.len() - draft.len();
                    let stands = |run: usize| place >= run && text[place - run..place] == text[text.len() - run..];
                    prop_assert!(draft.is_empty() || stands(2));
                    let new = &text[text.len() - after.length as usize..];
                    prop_assert!(draft.len() <= text.len() && (after.draft(new, 1).is_empty() || !draft.is_empty()));
                }
            }
        }

        /// Against the definition, for every length.
        #[test]
        fn the_length_is_the_best(costs in prop::collection::vec(1..50u32, 1..12), learned in prop::collection::vec((1..8u32, 0..8u32), 0..30)) {
            let mut lookup = Lookup::new();
            learned.iter().for_each(|(drafted, accepted)| lookup.learn(*drafted, *accepted));
            prop_assert!((0.0..=1.0).contains(&lookup.chance));
            lookup.pause = u32::MAX;
            let cost = |rows: u32| f64::from(costs[rows as usize - 1]);
            let most = costs.len() as u32 - 1;
            let rate = |length: u32| (0..=length).map(|power| lookup.chance.powi(power as i32)).sum::<f64>() / cost(1 + length);
            let best = (0..=most).map(rate).fold(0.0, f64::max);
            let length = lookup.length_that_pays(cost, most);
            if length == 0 {
                prop_assert!(best <= rate(0) * 1.050_001);
            } else {
                prop_assert!(rate(length) >= best * 0.999_999 && best >= rate(0) * 1.049_999);
            }
        }
    }
}
