//! A decode that is made to fail at one place after the other, and what must be left of it: nothing, or sequences that
//! say that they are damaged.

use batch_suite::{assert_equal, family, prompt};
use fixtures::{Family, Weights};
use llama_safe::{Batch, Context, ContextParams, DecodeError, OutputSlot, SeqId, Sequence, SequenceError, Token};

use crate::scratch::{exact, from_scratch};

/// A context, its sequences, and the text that each holds.
pub struct Scene {
    pub which: Family,
    pub context: Context,
    pub sequences: Vec<Sequence>,
    pub texts: Vec<Vec<Token>>,
}

impl Scene {
    /// Sequences of these lengths, decoded in one batch, then one after the other.
    pub fn new(which: Family, settings: &ContextParams, lengths: &[u32]) -> Self {
        let mut context = Context::new(&family(which, Weights::F32), settings).unwrap();
        let sequences: Vec<Sequence> = lengths.iter().map(|_| context.new_sequence().unwrap()).collect();
        let texts: Vec<Vec<Token>> = (0..).zip(lengths).map(|(index, length)| prompt(index, *length)).collect();
        let mut scene = Self { which, context, sequences, texts };
        let mut batch = scene.context.new_batch();
        for (sequence, text) in scene.sequences.iter().zip(&scene.texts) {
            for chunk in text.chunks(8) {
                batch.extend(sequence, chunk).unwrap();
                scene.context.decode(&mut batch).unwrap();
            }
        }
        scene
    }

    /// What comes next, the same each time: an output at the end of each part.
    pub fn fill(&self, batch: &mut Batch, parts: &[(usize, u32)]) -> Vec<OutputSlot> {
        let push = |(salt, (index, length)): (u32, &(usize, u32))| {
            batch.prompt(&self.sequences[*index], &prompt(40 + salt, *length)).unwrap()
        };
        (0..).zip(parts).map(push).collect()
    }

    /// The texts after [`fill`](Self::fill) has been decoded.
    pub fn decoded(&mut self, parts: &[(usize, u32)]) {
        for (salt, (index, length)) in (0..).zip(parts) {
            self.texts[*index].extend(prompt(40 + salt, *length));
        }
    }

    fn want(&self, text: &[Token]) -> Vec<f32> {
        from_scratch(self.which, text)
    }

    /// A sequence goes on from its text; from nothing if it was damaged.
    pub fn assert_goes_on(&mut self, index: usize, what: &str) {
        let sequence = &self.sequences[index];
        if sequence.is_damaged() {
            let refused = SequenceError::Damaged { id: sequence.id() };
            let mut batch = self.context.new_batch();
            assert_eq!(batch.push(sequence, Token(5)).unwrap_err(), refused.into(), "{what}");
            assert_eq!(self.context.fork(sequence).unwrap_err(), refused.into(), "{what}");
            assert!(!self.context.can_truncate(sequence, 1) && self.context.can_truncate(sequence, 0), "{what}");
            self.context.clear(sequence).unwrap();
            self.texts[index].clear();
        }
        for (salt, length) in [(60, 1), (61, 3)] {
            let more = prompt(salt, length);
            self.texts[index].extend(&more);
            let mut batch = self.context.new_batch();
            let slot = batch.prompt(&self.sequences[index], &more).unwrap();
            let got = self.context.decode(&mut batch).unwrap().get(slot).unwrap().to_vec();
            assert_equal(&got, &self.want(&self.texts[index]), 1e-6, what);
        }
    }
}

/// A way to make a decode fail half way.
pub struct Fault {
    pub name: &'static str,
    /// Has it happen at this place, counted from the beginning of the decode that follows.
    pub arm: fn(&Context, u32),
    /// Called after the decode.
    pub disarm: fn(&Context),
    /// Whether what is lost is of the batch alone.
    pub spares_others: bool,
}

/// What failing at one place after the other came to.
#[derive(Debug, Default)]
pub struct Tally {
    /// Failures that left no trace.
    pub clean: u32,
    /// Failures that damaged a sequence.
    pub damaging: u32,
    /// Decodes that were to fail, and finished.
    pub finished: u32,
}

/// Has a decode of `parts`, of sequences of these lengths, fail at each of `places`, until it finishes twice. Every sequence
/// is what it was, or is damaged and says so; the latter only of the batch, where the fault spares others.
pub fn disturb(
    which: Family,
    settings: &ContextParams,
    (lengths, parts): (&[u32], &[(usize, u32)]),
    fault: &Fault,
    places: impl Iterator<Item = u32>,
) -> Tally {
    let settings = exact(settings.clone());
    let mut tally = Tally::default();
    for place in places {
        let what = format!("{which}, {settings:?}, {} at place {place}", fault.name);
        let mut scene = Scene::new(which, &settings, lengths);
        let mut batch = scene.context.new_batch();
        let slots = scene.fill(&mut batch, parts);
        let rows = batch.len();
        (fault.arm)(&scene.context, place);
        let result = scene.context.decode(&mut batch).map(drop);
        (fault.disarm)(&scene.context);
        let members: Vec<SeqId> = parts.iter().map(|(index, _)| scene.sequences[*index].id()).collect();
        match result {
            Ok(()) => {
                tally.finished += 1;
                scene.decoded(parts);
            }
            Err(DecodeError::Aborted { damaged } | DecodeError::Failed { damaged, .. }) => {
                let of_batch = damaged.iter().all(|id| members.contains(id));
                assert!(of_batch || !fault.spares_others, "{what}: {damaged:?} of {members:?}");
                for sequence in &scene.sequences {
                    assert_eq!(sequence.is_damaged(), damaged.contains(&sequence.id()), "{what}");
                }
                assert_eq!(batch.len(), rows, "{what}: the batch is kept");
                assert!(scene.context.outputs().is_none(), "{what}");
                if damaged.is_empty() {
                    tally.clean += 1;
                    // The same batch once more, unhindered.
                    scene.context.decode(&mut batch).unwrap_or_else(|error| panic!("{what}: {error}"));
                    scene.decoded(parts);
                } else {
                    tally.damaging += 1;
                }
            }
            Err(error) => panic!("{what}: {error}"),
        }
        if let Some(outputs) = scene.context.outputs() {
            for (slot, (index, _)) in slots.iter().zip(parts) {
                let got = outputs.get(*slot).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_equal(got, &scene.want(&scene.texts[*index]), 1e-6, &what);
            }
        }
        for (sequence, text) in scene.sequences.iter().zip(&scene.texts) {
            assert!(sequence.len() == text.len() as u32, "{what}");
        }
        for index in (0..scene.sequences.len()).rev() {
            scene.assert_goes_on(index, &what);
        }
        if tally.finished > 1 {
            break;
        }
    }
    tally
}
