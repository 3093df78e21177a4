//! The random programs of `tests/memory.rs`, led by what they reach: bytes that the fuzzer changes are a program, which is
//! run on a context and on a naive model of its memory.
#![no_main]

#[path = "../../tests/families/program.rs"]
#[allow(dead_code)]
mod program;

use std::sync::OnceLock;

use batch_suite::{family, params};
use fixtures::{Family, Weights};
use libfuzzer_sys::fuzz_target;
use llama_safe::{FlashAttention, KvLayout, KvType};
use program::{Op, Subject};

/// One of each kind of memory.
const FAMILIES: [Family; 4] = [Family::Llama, Family::Gemma, Family::Mamba, Family::Hybrid];
/// More would only repeat what fewer do.
const MOST_OPS: usize = 40;

fuzz_target!(|bytes: &[u8]| {
    let Some((which, bytes)) = bytes.split_first() else { return };
    let subjects = subjects();
    program::run(&subjects[usize::from(*which) % subjects.len()], &ops(bytes));
});

/// Each family on each layout, all in 32 bits.
fn subjects() -> &'static [Subject] {
    static SUBJECTS: OnceLock<Vec<Subject>> = OnceLock::new();
    let exact =
        |settings: llama_safe::ContextParams| settings.kv_type(KvType::F32).flash_attention(FlashAttention::Off);
    SUBJECTS.get_or_init(|| {
        let subject = |which, layout| Subject {
            model: family(which, Weights::F32),
            settings: exact(program::settings(layout)),
            alone: exact(params().context_tokens(512)),
            layout,
            tolerance: [Some(1e-6); 2],
        };
        let of = |which| [KvLayout::Split, KvLayout::Unified].map(|layout| subject(which, layout));
        FAMILIES.into_iter().flat_map(of).collect()
    })
}

/// A byte says which operation, the next ones with what.
fn ops(bytes: &[u8]) -> Vec<Op> {
    let mut left = bytes.iter().copied();
    let mut ops = vec![Op::New];
    while let Some(kind) = left.next()
        && ops.len() < MOST_OPS
    {
        let mut number = || usize::from(left.next().unwrap_or(0));
        ops.push(match kind % 18 {
            0 => Op::New,
            1 => Op::Drop(number()),
            2..=5 => Op::Decode(parts(&mut number)),
            6 => Op::Abort(parts(&mut number), number() as u32),
            7 => Op::Truncate(number(), number() as u32),
            8 => Op::GoBack(number(), 1 + number() as u32 % 4),
            9 => Op::Clear(number()),
            10 => Op::ClearAll,
            11 => Op::Fork(number()),
            12 => Op::ForkPrefix(number(), number() as u32),
            13 => Op::Shift(number(), number() as u32, number() as u32),
            14 => Op::Save(number()),
            15 => Op::Restore(number() % 3),
            16 => Op::Stale(number(), 1 + number() as u32 % 6, number() % 2 == 0),
            _ => Op::Bad(number(), number() as u32 % 9, number() as u32),
        });
    }
    ops
}

fn parts(number: &mut impl FnMut() -> usize) -> Vec<(usize, u32, u32)> {
    let count = 1 + number() % 3;
    (0..count).map(|_| (number(), number() as u32 % 4, 1 + number() as u32 % 6)).collect()
}
