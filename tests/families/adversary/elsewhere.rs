//! What outlives a context or comes from another: states, control vectors, strangers.

use fixtures::{Family, Weights};
use llama_safe::{Context, Sequence, State, StateError, Token};

use super::Machine;
use super::random::{random_params, tokens};
use batch_suite::family;

impl Machine<'_> {
    pub(super) fn save(&mut self) {
        let Some(index) = self.pick() else { return };
        let before = self.lengths();
        let saved = if self.random.once_in(5) {
            self.context.save_all().map(|state| (state, None))
        } else {
            let history = self.live[index].1.history.clone();
            self.context.save(&self.live[index].1.sequence).map(|state| (state, history))
        };
        self.note("save", &saved);
        if let Err(error @ StateError::Failed { .. }) = &saved {
            panic!("not refused before: {error}");
        }
        assert_eq!(self.lengths(), before);
        if let Ok(saved) = saved {
            if self.random.once_in(4) {
                let bytes = saved.0.as_bytes();
                let mut bytes = bytes.to_vec();
                let at = self.random.below(bytes.len() as u32) as usize;
                bytes[at] ^= 1 << self.random.below(8);
                assert!(State::from_bytes(bytes).is_err());
            }
            self.states.push(saved);
            if self.states.len() > 4 {
                self.states.remove(0);
            }
        }
    }

    pub(super) fn restore(&mut self) {
        if self.states.is_empty() {
            return;
        }
        if let (Some(foreign), true) = (&self.foreign_state, self.random.once_in(4)) {
            let result = self.context.restore_all(foreign);
            if let Err(error @ StateError::Failed { .. }) = &result {
                panic!("not refused before: {error}");
            }
            self.note("restore foreign", &result);
            for sequence in result.into_iter().flatten() {
                self.add(sequence, None, None);
            }
            return;
        }
        let which = self.random.below(self.states.len() as u32) as usize;
        let before = self.lengths();
        let (state, history) = &self.states[which];
        let (result, history) = (self.context.restore_all(state), history.clone());
        self.note("restore", &result);
        if let Err(error @ StateError::Failed { .. }) = &result {
            panic!("not refused before: {error}");
        }
        assert_eq!(self.lengths(), before);
        if let Ok(sequences) = result {
            let saved: Vec<u32> = self.states[which].0.sequences().iter().map(|saved| saved.len()).collect();
            assert_eq!(saved, sequences.iter().map(Sequence::len).collect::<Vec<_>>());
            for sequence in sequences {
                self.add(sequence, history.clone(), None);
            }
        }
    }

    pub(super) fn steer(&mut self) {
        if self.steered {
            let cleared = self.context.clear_control_vector();
            self.note("clear_control_vector", &cleared);
            self.steered = false;
            return;
        }
        let (width, last) = (self.model.width(), self.model.layers().saturating_sub(1));
        let mut directions: Vec<f32> = (0..width * last).map(|index| (index * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let mut layers = 1..=last;
        match self.random.below(8) {
            0 => directions[0] = f32::NAN,
            1 => drop(directions.pop()),
            2 => layers = 0..=self.random.of(&[0, last, u32::MAX]),
            3 => layers = u32::MAX..=u32::MAX,
            4 => layers = 1..=u32::MAX,
            _ => {}
        }
        let set = self.context.set_control_vector(&directions, layers);
        self.note("steer", &set);
        if set.is_ok() {
            self.steered = true;
            for (_, live) in &mut self.live {
                live.history = None;
            }
            for (_, history) in &mut self.states {
                *history = None;
            }
        }
    }

    /// What belongs to another context.
    pub(super) fn strangers(&mut self) {
        if self.other.is_none() {
            let params = random_params(self.random).params;
            let model = if self.random.once_in(2) {
                self.model.clone()
            } else {
                family(self.random.of(Family::ALL), Weights::F32)
            };
            let made = Context::new(&model, &params);
            self.note("new other", &made);
            let Ok(mut context) = made else { return };
            let sequence = context.new_sequence().expect("the first sequence");
            let mut batch = context.new_batch();
            if batch.extend(&sequence, &tokens(self.random, &model, 1)).is_ok() && context.decode(&mut batch).is_ok() {
                self.foreign_state = context.save(&sequence).ok();
            }
            self.other = Some((context, sequence, batch));
        }
        let Some((other, sequence, batch)) = &mut self.other else { return };
        assert!(self.context.decode(batch).is_err());
        assert!(self.context.encode(batch).is_err());
        assert!(self.context.span(sequence).is_err());
        assert!(self.context.truncate(sequence, 0).is_err());
        assert!(self.context.truncate(sequence, 1).is_err());
        assert!(self.context.clear(sequence).is_err());
        assert!(self.context.fork(sequence).is_err());
        assert!(self.context.fork_prefix(sequence, 0).is_err());
        assert!(self.context.shift(sequence, 0..0).is_err());
        assert!(self.context.save(sequence).is_err());
        assert!(!self.context.can_truncate(sequence, 0) && !self.context.can_fork_at(sequence, 0));
        assert!(!self.context.can_shift(sequence, 0..0));
        for filled in &mut self.batches {
            let before = filled.batch.len();
            assert!(filled.batch.extend(sequence, &[Token(5)]).is_err());
            assert!(filled.batch.push_embedding(sequence, &[]).is_err());
            assert!(other.decode(&mut filled.batch).is_err());
            assert_eq!(filled.batch.len(), before);
        }
        if let (Some((state, _)), true) = (self.states.last(), self.random.once_in(3)) {
            let restored = other.restore_all(state);
            if let Err(error @ StateError::Failed { .. }) = &restored {
                panic!("not refused before: {error}");
            }
            self.note("restore elsewhere", &restored);
        }
        if self.random.once_in(3) {
            self.other = None;
        }
    }
}
