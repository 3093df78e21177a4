//! What engines are put through: some requests, the engine's rules, the memory's kind, and its faults.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use proptest::prelude::*;

use crate::engine::core::Rules;
use crate::engine::fallback::FallbackPolicy;
use crate::engine::machine::Facts;
use crate::engine::width::StepCosts;
use crate::id::Token;

use super::faults::Faults;
use super::memory::{BREAKS, POISON};
use super::voice::Script;

/// A request, and what becomes of it on the way.
#[derive(Clone)]
pub(super) struct Ask {
    /// The step before which it comes.
    pub arrives: u64,
    pub prompt: Vec<Token>,
    pub script: Script,
    pub priority: i8,
    /// Steps after which nobody wants it any more.
    pub cancel: Option<u64>,
    /// Steps after which its time is over.
    pub deadline: Option<u64>,
    pub keep: Option<u32>,
}

/// Requests in the order in which they come, and what they meet.
#[derive(Clone)]
pub(super) struct Workload {
    pub facts: Facts,
    pub rules: Rules,
    pub asks: Vec<Ask>,
    pub faults: Faults,
}

impl Workload {
    /// Whether nothing fails but what requests do by themselves.
    pub(super) fn is_calm(&self) -> bool {
        let Faults { rate, no_cuts, .. } = self.faults;
        rate == 0 && !no_cuts && !self.asks.iter().any(|ask| ask.is_bad())
    }
}

/// A line each: a failure is read by people.
impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let costs = self.rules.costs.as_ref().map(StepCosts::points);
        let rules = Rules { costs: None, ..self.rules.clone() };
        write!(f, "{:?}\n{rules:?}\ncosts {costs:?}\n{:?}", self.facts, self.faults)?;
        self.asks.iter().enumerate().try_for_each(|(index, ask)| write!(f, "\n{index}: {ask:?}"))
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arrives, prompt, script, priority, cancel, deadline, keep } = self;
        let prompt: Vec<i32> = prompt.iter().map(|token| token.0).collect();
        write!(
            f,
            "{prompt:?} at {arrives} priority {priority} cancel {cancel:?} deadline {deadline:?} keep {keep:?} "
        )?;
        write!(f, "{script:?}")
    }
}

impl Ask {
    /// Whether it cannot be computed.
    pub(super) fn is_bad(&self) -> bool {
        self.prompt.contains(&POISON) || self.prompt.contains(&BREAKS)
    }
}

/// Texts that prompts begin with.
const BEGINNINGS: [[i32; 14]; 3] = [
    [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1],
    [0, 1, 2, 3, 5, 5, 4, 3, 2, 1, 0, 0, 1, 1],
];

fn prompt() -> impl Strategy<Value = Vec<Token>> {
    let tail = prop::collection::vec(0..4i32, 0..6);
    (0..BEGINNINGS.len(), 0..=14usize, tail).prop_map(|(beginning, length, tail)| {
        let mut tokens: Vec<i32> = BEGINNINGS[beginning][..length].to_vec();
        tokens.extend(tail);
        if tokens.is_empty() {
            tokens.push(0);
        }
        tokens.into_iter().map(Token).collect()
    })
}

/// Something in one of so many cases.
fn seldom<T: std::fmt::Debug + Clone>(
    one_of: u32,
    what: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![one_of - 1 => Just(None), 1 => what.prop_map(Some)]
}

fn script() -> impl Strategy<Value = Script> {
    (prop::option::of(any::<u8>()), 1..14u32, seldom(3, 0..6u8), seldom(16, 0..6u32), seldom(6, (1..4u32, 1..8u32)))
        .prop_map(|(choice, most, end, fails_at, slow)| Script { choice, most, end, fails_at, slow })
}

fn ask() -> impl Strategy<Value = Ask> {
    let bad = seldom(24, (any::<prop::sample::Index>(), prop::sample::select(vec![POISON, BREAKS])));
    let keep = prop::option::of(0..6u32);
    let priority = prop_oneof![4 => Just(0i8), 1 => -1..=1i8];
    (prompt(), script(), 0..6u64, priority, seldom(8, 0..20u64), seldom(12, 1..30u64), keep, bad).prop_map(
        |(mut prompt, script, arrives, priority, cancel, deadline, keep, bad)| {
            if let Some((place, token)) = bad {
                let place = place.index(prompt.len());
                prompt[place] = token;
            }
            Ask { arrives, prompt, script, priority, cancel, deadline, keep }
        },
    )
}

/// What a step costs: none, and some by which groups are better than one batch.
static COSTS: LazyLock<Vec<StepCosts>> = LazyLock::new(|| {
    let millis = |points: &[(u32, u64)]| {
        StepCosts::new(points.iter().map(|(width, cost)| (*width, Duration::from_millis(*cost)))).unwrap()
    };
    vec![
        millis(&[(1, 10), (2, 11), (8, 12)]),
        millis(&[(1, 7), (2, 17), (4, 22), (8, 28)]),
        millis(&[(1, 10), (2, 18), (3, 60), (8, 160)]),
        millis(&[(1, 10), (2, 30), (3, 15), (4, 60)]),
    ]
});

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Cells of its own for each sequence; whether these can be shifted.
    Split(bool),
    Shared,
    Recurrent,
    /// States beside shared cells.
    Hybrid,
}

fn facts() -> impl Strategy<Value = Facts> {
    let kind = prop_oneof![
        3 => any::<bool>().prop_map(Kind::Split),
        4 => Just(Kind::Shared),
        2 => Just(Kind::Recurrent),
        1 => Just(Kind::Hybrid),
    ];
    (kind, 1..7u32, 8..40u32, 0..40u32, 1..24u32).prop_map(|(kind, sequences, sequence_tokens, more, rows)| Facts {
        sequences,
        shared_cells: matches!(kind, Kind::Shared | Kind::Hybrid).then_some(sequence_tokens + more),
        sequence_tokens,
        rows: rows.max(sequences),
        cuts: matches!(kind, Kind::Split(_) | Kind::Shared),
        shifts: matches!(kind, Kind::Split(true)),
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let policy = prop_oneof![
        3 => Just(FallbackPolicy::Split),
        2 => Just(FallbackPolicy::Sequential),
        1 => Just(FallbackPolicy::NativeOnly),
    ];
    let line_chunk = prop_oneof![Just(u32::MAX), 1..8u32];
    let spill_bytes = prop_oneof![Just(0usize), 0..600usize];
    let costs = prop_oneof![3 => Just(None), 2 => (0..4usize).prop_map(Some)];
    let draft = prop_oneof![Just(0u32), 1..6u32];
    let share = prop::option::of(1..5u32);
    (1..6u32, 0..3u32, 1..12u32, line_chunk, policy, share, spill_bytes, costs, draft).prop_map(
        |(sequences, more, chunk, line_chunk, policy, share, spill_bytes, costs, draft)| Rules {
            sequences,
            most_sequences: sequences + more,
            chunk,
            one_by_one: chunk % 5 == 0,
            line_chunk,
            policy,
            share,
            spill_bytes,
            costs: costs.map(|index| COSTS[index].clone()),
            draft,
        },
    )
}

fn faults() -> impl Strategy<Value = Faults> {
    let rate = prop_oneof![2 => Just(0u8), 1 => 1..60u8];
    let (storm, no_cuts) = (prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (rate, any::<u64>(), 0..2u32, storm, no_cuts).prop_map(|(rate, seed, alone, storm, no_cuts)| Faults {
        no_cuts: no_cuts && rate > 0,
        ..Faults::new(rate, seed, alone, storm)
    })
}

/// Workloads of up to so many requests.
pub(super) fn workload(requests: usize) -> impl Strategy<Value = Workload> {
    let asks = prop::collection::vec(ask(), 1..=requests);
    (facts(), rules(), asks, faults()).prop_map(|(facts, mut rules, mut asks, faults)| {
        rules.sequences = rules.sequences.min(facts.sequences);
        rules.most_sequences = rules.most_sequences.min(facts.sequences);
        asks.sort_by_key(|ask| ask.arrives);
        for ask in &mut asks {
            ask.prompt.truncate(facts.sequence_tokens as usize);
            ask.keep = ask.keep.filter(|keep| keep + 2 <= facts.sequence_tokens);
        }
        Workload { facts, rules, asks, faults }
    })
}
