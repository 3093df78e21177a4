//! Shortening, copying, moving and forgetting.

use super::{Machine, Step};

impl Machine<'_> {
    pub(super) fn some_length(&mut self, index: usize) -> u32 {
        let length = self.live[index].1.sequence.len();
        match self.random.below(8) {
            0 => self.random.of(&[0, 1, length + 1, u32::MAX, i32::MAX as u32, i32::MAX as u32 + 1]),
            1 => length,
            2..5 => length.saturating_sub(1 + self.random.below(3)),
            _ => self.random.below(length + 1),
        }
    }

    pub(super) fn truncate(&mut self) {
        let Some(index) = self.pick() else { return };
        let length = self.some_length(index);
        let can = self.context.can_truncate(&self.live[index].1.sequence, length);
        let before = self.live[index].1.sequence.len();
        let result = self.context.truncate(&self.live[index].1.sequence, length);
        self.note("truncate", &result);
        assert_eq!(can, result.is_ok());
        let live = &mut self.live[index].1;
        assert_eq!(live.sequence.len(), if result.is_ok() { length } else { before });
        if result.is_ok() {
            cut(&mut live.history, length, before);
        }
    }

    pub(super) fn fork(&mut self) {
        let Some(index) = self.pick() else { return };
        let length = if self.random.once_in(2) { self.live[index].1.sequence.len() } else { self.some_length(index) };
        let sequence = &self.live[index].1.sequence;
        let can = self.context.can_fork_at(sequence, length);
        let whole = sequence.len();
        let made =
            if length == whole { self.context.fork(sequence) } else { self.context.fork_prefix(sequence, length) };
        self.note("fork", &made);
        assert_eq!(can, made.is_ok());
        if let Ok(made) = made {
            assert_eq!(made.len(), length);
            let mut history = self.live[index].1.history.clone();
            cut(&mut history, length, whole);
            let text = self.live[index].1.text.clone();
            self.add(made, history, text);
        }
    }

    pub(super) fn shift(&mut self) {
        let Some(index) = self.pick() else { return };
        let (start, end) = (self.some_length(index), self.some_length(index));
        let before = self.live[index].1.sequence.len();
        let can = self.context.can_shift(&self.live[index].1.sequence, start..end);
        let result = self.context.shift(&self.live[index].1.sequence, start..end);
        self.note("shift", &result);
        assert_eq!(can, result.is_ok());
        let live = &mut self.live[index].1;
        match result {
            Ok(()) if start == end => assert_eq!(live.sequence.len(), before),
            Ok(()) if end == before => cut(&mut live.history, start, before),
            Ok(()) => {
                assert_eq!(live.sequence.len(), before - (end - start));
                live.history = None;
            }
            Err(_) => assert_eq!(live.sequence.len(), before),
        }
    }

    pub(super) fn clear(&mut self) {
        if self.random.once_in(4) {
            let result = self.context.clear_all();
            self.note("clear_all", &result);
            for (_, live) in &mut self.live {
                assert!(live.sequence.is_empty() && !live.sequence.is_damaged());
                live.history = Some(Vec::new());
            }
        } else if let Some(index) = self.pick() {
            let result = self.context.clear(&self.live[index].1.sequence);
            self.note("clear", &result);
            let live = &mut self.live[index].1;
            assert!(live.sequence.is_empty() && !live.sequence.is_damaged());
            live.history = Some(Vec::new());
        }
    }
}

pub(super) fn cut(history: &mut Option<Vec<Step>>, length: u32, whole: u32) {
    let Some(steps) = history else { return };
    if length == whole {
        return;
    }
    let placed = steps.iter().any(|step| matches!(step, Step::Embedding(_, Some(_))));
    if length == 0 {
        *history = Some(Vec::new());
    } else if placed || steps.len() as u32 != whole {
        *history = None;
    } else {
        steps.truncate(length as usize);
    }
}
