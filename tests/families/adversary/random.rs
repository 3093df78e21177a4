//! Chance: numbers, tokens, embeddings, parameters. A number gives the same on every machine.

use batch_suite::params;
use llama_safe::{ContextParams, FlashAttention, KvLayout, KvType, Model, Pooling, Token};

/// A small generator (SplitMix64): a number gives the same program on every machine.
pub struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, count: u32) -> u32 {
        (self.next() % u64::from(count.max(1))) as u32
    }

    pub(super) fn once_in(&mut self, times: u32) -> bool {
        self.below(times) == 0
    }

    pub(super) fn of<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize]
    }
}

pub(super) fn embedding(width: u32, seed: u32) -> Vec<f32> {
    (0..width).map(|index| ((seed * 131 + index * 7919) % 997) as f32 / 500.0 - 1.0).collect()
}

pub(super) fn tokens(random: &mut Random, model: &Model, count: u32) -> Vec<Token> {
    let most = model.vocabulary_size().min(250);
    (0..count).map(|_| Token(random.below(most.saturating_sub(3)) as i32 + 3)).collect()
}

/// Parameters, some of them bad.
#[derive(Clone)]
pub struct Settings {
    pub(super) params: ContextParams,
    /// Whether nothing is rounded to 16 bits.
    pub(super) exact: bool,
    /// Whether layers with a window have fewer cells than the others.
    pub(super) forgets: bool,
}

pub(super) fn random_params(random: &mut Random) -> Settings {
    let sequences = random.of(&[1, 2, 3, 3, 4, 7, 7, 64, 256]);
    let mut params = params().sequences(sequences);
    match random.below(4) {
        0 => params = params.context_tokens(1 + random.below(300)),
        1 => params = params.context_tokens(sequences * (1 + random.below(40))),
        _ => params = params.context_tokens(sequences.min(16) * 256),
    }
    let batch = match random.below(4) {
        0 => sequences + random.below(4),
        1 => 1 + random.below(20),
        2 => 64.max(sequences),
        _ => random.of(&[256, 512, 300, 2048]),
    };
    params = params.batch_tokens(batch).micro_batch_tokens(random.of(&[1, 2, 3, 4, 8, 16, 64, 64, 512]));
    params = params.kv_layout(random.of(&[KvLayout::Split, KvLayout::Unified]));
    let kv_type = random.of(&[KvType::F32, KvType::F32, KvType::F16]);
    let flash_attention =
        random.of(&[FlashAttention::Off, FlashAttention::Off, FlashAttention::On, FlashAttention::Auto]);
    params = params.kv_type(kv_type).flash_attention(flash_attention);
    let forgets = random.once_in(3);
    params = params.keep_past_window(!forgets);
    if random.once_in(4) {
        params = params.rollback_tokens(random.below(5));
    }
    if random.once_in(3) {
        params = params.embeddings(true);
    }
    if random.once_in(3) {
        params = params.pooling(random.of(&[
            Pooling::Model,
            Pooling::None,
            Pooling::Mean,
            Pooling::Cls,
            Pooling::Last,
            Pooling::Rank,
        ]));
    }
    if random.once_in(20) {
        params = params.threads(random.of(&[0, 1, 1, 513, u32::MAX])).batch_threads(1);
    }
    if random.once_in(40) {
        let extreme = random.of(&[0, u32::MAX, i32::MAX as u32, i32::MAX as u32 + 1]);
        params = match random.below(4) {
            0 => params.sequences(extreme),
            1 => params.batch_tokens(extreme),
            2 => params.micro_batch_tokens(extreme),
            _ => params.rollback_tokens(extreme),
        };
    }
    Settings { params, exact: kv_type == KvType::F32 && flash_attention == FlashAttention::Off, forgets }
}
