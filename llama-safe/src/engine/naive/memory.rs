//! A model of a context's memory that is obviously right: each sequence is its list of tokens.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use crate::engine::machine::{Facts, Machine, Rows};
use crate::error::{DecodeError, GenerateError, MemoryError, OutputError};
use crate::id::Token;

use super::faults::{Faults, Harm};

/// Tokens that a voice can choose from.
pub(super) const VOCABULARY: usize = 6;

/// A token whose logits, and all after it, are no numbers.
pub(super) const POISON: Token = Token(90);

/// A token with which no batch is computed.
pub(super) const BREAKS: Token = Token(91);

/// Bytes of a copy, for each token.
pub(super) const BYTES: usize = 8;

/// What one slot has in memory.
#[derive(Clone, Default, Debug)]
pub(super) struct Slot {
    pub leased: bool,
    pub tokens: Vec<Token>,
    /// The cell of each token; no two that were computed have the same.
    pub cells: Vec<u64>,
    pub damaged: bool,
    /// Whether numbers that are none are left in its cells, whoever has them.
    tainted: bool,
    /// Whether its tokens were computed beside such.
    bad: bool,
}

/// Slots, and what a decode has put into them.
pub(super) struct Memory {
    facts: Facts,
    slots: Rc<RefCell<Vec<Slot>>>,
    next_cell: u64,
    /// The same of cells that all share.
    tainted: bool,
    pub faults: Faults,
    /// Logits of the last decode, or `None` for such that are no numbers; by place and row.
    outputs: Vec<Vec<Option<[f32; VOCABULARY]>>>,
    /// Whether they cannot be read.
    unreadable: bool,
}

/// A leased slot.
pub(super) struct Seat {
    pub slot: usize,
    slots: Rc<RefCell<Vec<Slot>>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let slot = &mut self.slots.borrow_mut()[self.slot];
        assert!(std::mem::take(&mut slot.leased), "dropped once");
        *slot = Slot { tainted: slot.tainted, ..Slot::default() };
    }
}

/// What a slot had in memory.
pub(super) struct Copied {
    tokens: Vec<Token>,
    bad: bool,
}

impl Memory {
    pub(super) fn new(facts: Facts, faults: Faults) -> Self {
        assert!(facts.shared_cells.is_none_or(|cells| cells >= facts.sequence_tokens), "a sequence that is full fits");
        let slots = vec![Slot::default(); facts.sequences as usize];
        Self {
            facts,
            slots: Rc::new(RefCell::new(slots)),
            next_cell: 0,
            tainted: false,
            faults,
            outputs: Vec::new(),
            unreadable: false,
        }
    }

    /// Sequences that are leased.
    pub(super) fn leased(&self) -> usize {
        self.slots.borrow().iter().filter(|slot| slot.leased).count()
    }

    /// Cells that hold a token.
    pub(super) fn used(&self) -> usize {
        let slots = self.slots.borrow();
        let mut cells: Vec<u64> = slots.iter().flat_map(|slot| &slot.cells).copied().collect();
        cells.sort_unstable();
        cells.dedup();
        cells.len()
    }

    /// The text of a sequence.
    pub(super) fn with_slot<R>(&self, seat: &Seat, look: impl FnOnce(&Slot) -> R) -> R {
        look(&self.slots.borrow()[seat.slot])
    }

    fn change<R>(&mut self, seat: &Seat, change: impl FnOnce(&mut Slot) -> R) -> R {
        let slot = &mut self.slots.borrow_mut()[seat.slot];
        assert!(slot.leased);
        change(slot)
    }

    fn take_slot(&mut self, filled: Slot) -> Option<Seat> {
        let mut slots = self.slots.borrow_mut();
        let free = slots.iter().position(|slot| !slot.leased)?;
        let tainted = slots[free].tainted || filled.tainted;
        slots[free] = Slot { leased: true, tainted, ..filled };
        Some(Seat { slot: free, slots: Rc::clone(&self.slots) })
    }

    fn new_cells(&mut self, number: usize) -> impl Iterator<Item = u64> + use<> {
        let first = self.next_cell;
        self.next_cell += number as u64;
        first..self.next_cell
    }

    fn has_room(&self, tokens: usize) -> bool {
        self.facts.shared_cells.is_none_or(|cells| self.used() + tokens <= cells as usize)
    }

    /// What the trait asks of whoever calls it.
    fn check(&self, rows: &[Rows<'_, Seat>]) {
        assert!(!rows.is_empty(), "a batch has something to compute");
        let all: usize = rows.iter().map(|rows| rows.tokens.len() + rows.draft.len()).sum();
        assert!(all <= self.facts.rows as usize, "{all} rows");
        for (place, Rows { sequence, tokens, draft, output }) in rows.iter().enumerate() {
            assert!(!tokens.is_empty(), "each has something to compute");
            assert!(*output || draft.is_empty(), "guesses are checked");
            assert!(rows[..place].iter().all(|other| other.sequence.slot != sequence.slot), "a sequence twice");
            let slot = &self.slots.borrow()[sequence.slot];
            assert!(slot.leased && !slot.damaged, "a damaged sequence is cleared first");
            let length = slot.tokens.len() + tokens.len() + draft.len();
            assert!(length <= self.facts.sequence_tokens as usize, "{length} tokens");
        }
    }

    fn fails(&mut self, rows: &[Rows<'_, Seat>]) -> Option<GenerateError> {
        let breaks = rows.iter().any(|rows| {
            rows.tokens.contains(&BREAKS) || self.slots.borrow()[rows.sequence.slot].tokens.contains(&BREAKS)
        });
        let tokens: usize = rows.iter().map(|rows| rows.tokens.len() + rows.draft.len()).sum();
        let fault = self.faults.of_decode(rows.len());
        let harm = match fault {
            Some(Harm::NoRoom) => return Some(no_slot(tokens)),
            Some(harm) => harm,
            None if breaks => self.faults.of_broken(),
            None if !self.has_room(tokens) => return Some(no_slot(tokens)),
            None => return None,
        };
        for (index, slot) in self.slots.borrow_mut().iter_mut().enumerate().filter(|(_, slot)| slot.leased) {
            let in_batch = rows.iter().position(|rows| rows.sequence.slot == index);
            slot.damaged |= match harm {
                Harm::None | Harm::NoRoom => false,
                Harm::Some => in_batch.is_some_and(|place| place % 2 == 0),
                Harm::Batch => in_batch.is_some(),
                Harm::All => true,
            };
        }
        Some(DecodeError::Failed { reason: "a fault on purpose".to_owned(), damaged: Vec::new() }.into())
    }
}

fn no_slot(tokens: usize) -> GenerateError {
    DecodeError::NoSlot { tokens: tokens as u32, context_tokens: 0 }.into()
}

fn failed<T>() -> Result<T, GenerateError> {
    Err(MemoryError::Failed { reason: "a fault on purpose".to_owned() }.into())
}

impl Machine for Memory {
    type Sequence = Seat;
    type Saved = Copied;

    fn facts(&self) -> Facts {
        self.facts
    }

    fn lease(&mut self) -> Result<Seat, GenerateError> {
        assert!(self.leased() < self.facts.sequences as usize, "as many are leased as there are");
        if self.faults.of_needed_call() {
            return failed();
        }
        Ok(self.take_slot(Slot::default()).unwrap())
    }

    fn fork(&mut self, sequence: &Seat, length: u32) -> Result<Seat, GenerateError> {
        assert!(self.leased() < self.facts.sequences as usize, "as many are leased as there are");
        assert!(self.reaches(sequence, length), "a length that cannot be forked at");
        if self.faults.of_call() {
            return failed();
        }
        let mut slot = self.slots.borrow()[sequence.slot].clone();
        slot.tokens.truncate(length as usize);
        slot.cells.truncate(length as usize);
        if self.facts.shared_cells.is_none() {
            slot.cells = self.new_cells(slot.tokens.len()).collect();
        }
        Ok(self.take_slot(slot).unwrap())
    }

    fn reaches(&self, sequence: &Seat, length: u32) -> bool {
        self.with_slot(sequence, |slot| {
            let whole = slot.tokens.len();
            !slot.damaged && length as usize <= whole && (self.facts.cuts || length == 0 || length as usize == whole)
        })
    }

    fn truncate(&mut self, sequence: &Seat, length: u32) -> Result<(), GenerateError> {
        assert!(self.reaches(sequence, length), "a length that cannot be cut at");
        if self.faults.no_cuts || self.faults.of_call() {
            return failed();
        }
        self.change(sequence, |slot| {
            slot.tokens.truncate(length as usize);
            slot.cells.truncate(length as usize);
        });
        Ok(())
    }

    fn shift(&mut self, sequence: &Seat, discard: Range<u32>) -> Result<(), GenerateError> {
        assert!(self.facts.shifts && self.reaches(sequence, discard.end) && !discard.is_empty());
        if self.faults.of_call() {
            // It may have begun.
            let damaged = self.faults.of_call();
            self.change(sequence, |slot| slot.damaged |= damaged);
            return failed();
        }
        self.change(sequence, |slot| {
            slot.tokens.drain(discard.start as usize..discard.end as usize);
            slot.cells.drain(discard.start as usize..discard.end as usize);
        });
        Ok(())
    }

    fn clear(&mut self, sequence: &Seat) -> Result<(), GenerateError> {
        if self.faults.of_needed_call() {
            return failed();
        }
        self.change(sequence, |slot| *slot = Slot { leased: true, tainted: slot.tainted, ..Slot::default() });
        Ok(())
    }

    fn clear_all(&mut self) -> Result<(), GenerateError> {
        if self.faults.of_needed_call() {
            return failed();
        }
        for slot in self.slots.borrow_mut().iter_mut() {
            *slot = Slot { leased: slot.leased, ..Slot::default() };
        }
        self.tainted = false;
        Ok(())
    }

    fn save(&mut self, sequence: &Seat) -> Option<Copied> {
        self.with_slot(sequence, |slot| assert!(!slot.damaged));
        if self.faults.of_call() {
            return None;
        }
        Some(self.with_slot(sequence, |slot| Copied { tokens: slot.tokens.clone(), bad: slot.bad }))
    }

    fn bytes(saved: &Copied) -> usize {
        saved.tokens.len() * BYTES
    }

    fn restore(&mut self, saved: &Copied) -> Option<Seat> {
        assert!(self.leased() < self.facts.sequences as usize, "as many are leased as there are");
        if self.faults.of_call() || !self.has_room(saved.tokens.len()) {
            return None;
        }
        let cells = self.new_cells(saved.tokens.len()).collect();
        self.take_slot(Slot { tokens: saved.tokens.clone(), cells, bad: saved.bad, ..Slot::default() })
    }

    fn is_damaged(&self, sequence: &Seat) -> bool {
        self.with_slot(sequence, |slot| slot.damaged)
    }

    fn decode(&mut self, rows: &[Rows<'_, Seat>]) -> Result<(), GenerateError> {
        self.check(rows);
        self.outputs.clear();
        if let Some(error) = self.fails(rows) {
            return Err(error);
        }
        for Rows { sequence, tokens, draft, output } in rows {
            let cells = self.new_cells(tokens.len() + draft.len());
            let mut slots = self.slots.borrow_mut();
            let slot = &mut slots[sequence.slot];
            slot.cells.extend(cells);
            let mut text = Hash::of(&slot.tokens);
            let mut outputs = Vec::new();
            for (index, token) in tokens.iter().chain(*draft).enumerate() {
                slot.tokens.push(*token);
                text.push(*token);
                if *token == POISON {
                    slot.tainted = true;
                    self.tainted |= self.facts.shared_cells.is_some();
                }
                slot.bad |= self.tainted || slot.tainted;
                if *output && index + 1 >= tokens.len() {
                    outputs.push(text.logits().filter(|_| !slot.bad));
                }
            }
            self.outputs.push(outputs);
        }
        self.unreadable = rows.iter().any(|rows| rows.output) && self.faults.of_decode(rows.len()).is_some();
        Ok(())
    }

    fn logits(&self, place: usize, row: usize) -> Result<&[f32], GenerateError> {
        if self.unreadable {
            return Err(OutputError::OtherDecode.into());
        }
        match self.outputs.get(place).and_then(|outputs| outputs.get(row)) {
            Some(Some(logits)) => Ok(logits),
            Some(None) => Err(OutputError::NotNumbers { row: row as u32 }.into()),
            None => panic!("an output that was not asked for"),
        }
    }
}

/// A number of a text, by which all that is said after it is decided.
#[derive(Clone, Copy)]
pub(super) struct Hash(u64);

impl Hash {
    pub(super) fn of(text: &[Token]) -> Self {
        let mut hash = Self(1);
        text.iter().for_each(|token| hash.push(*token));
        hash
    }

    pub(super) fn push(&mut self, token: Token) {
        // Zero is a text with a token that has no numbers.
        if token == POISON || self.0 == 0 {
            self.0 = 0;
            return;
        }
        self.0 = mix(self.0, token.0 as u64).max(1);
    }

    /// Logits after the text, but for one whose logits are no numbers.
    pub(super) fn logits(self) -> Option<[f32; VOCABULARY]> {
        (self.0 != 0).then(|| std::array::from_fn(|token| (mix(self.0, token as u64) >> 40) as f32))
    }
}

/// Mixes two numbers to one that looks like chance.
pub(super) fn mix(one: u64, other: u64) -> u64 {
    let mut mixed = (one ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
