//! Which calls of a naive memory fail.

use super::memory::mix;

/// What a decode that fails leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Harm {
    /// Nothing, as if there was no room.
    NoRoom,
    /// Nothing.
    None,
    /// Some sequences of the batch are damaged.
    Some,
    /// All of it are.
    Batch,
    /// All that are leased are.
    All,
}

/// A plan of faults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// In so many of 256 calls.
    pub rate: u8,
    pub seed: u64,
    /// Times that a sequence may fail by itself without a reason. An engine repeats that once.
    pub alone: u32,
    /// Whether any call fails, and as often as it comes.
    pub storm: bool,
    /// Whether no sequence is ever cut.
    pub no_cuts: bool,
    /// Calls so far.
    pub calls: u64,
}

impl Faults {
    pub(super) fn new(rate: u8, seed: u64, alone: u32, storm: bool) -> Self {
        Self { rate, seed, alone, storm, no_cuts: false, calls: 0 }
    }

    pub(super) fn none() -> Self {
        Self::new(0, 0, 0, false)
    }

    fn draw(&mut self) -> Option<u64> {
        if self.rate == 0 {
            return None;
        }
        self.calls += 1;
        let drawn = mix(self.seed, self.calls);
        (drawn & 255 < u64::from(self.rate)).then_some(drawn >> 8)
    }

    /// Whether a call other than a decode fails.
    pub(super) fn of_call(&mut self) -> bool {
        self.draw().is_some()
    }

    /// Whether a call fails without which a request cannot go on.
    pub(super) fn of_needed_call(&mut self) -> bool {
        self.storm && self.of_call()
    }

    /// How a decode of so many sequences fails, if it does.
    pub(super) fn of_decode(&mut self, parts: usize) -> Option<Harm> {
        let drawn = self.draw()?;
        if parts == 1 && !self.storm {
            self.alone = self.alone.checked_sub(1)?;
        }
        Some([Harm::NoRoom, Harm::None, Harm::Some, Harm::Batch, Harm::All][drawn as usize % 5])
    }

    /// How a decode fails that has a reason to.
    pub(super) fn of_broken(&mut self) -> Harm {
        self.calls += 1;
        [Harm::None, Harm::Some, Harm::Batch, Harm::All][mix(self.seed, self.calls) as usize % 4]
    }
}
