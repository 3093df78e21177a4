//! Texts that are fed to a context in pieces, a few tokens of each sequence in turn.

use llama_safe::{Context, OutputSlot, Sequence, Token};

/// A sequence that is fed its text, whatever the batches are cut to.
#[derive(Debug)]
pub struct Feed {
    /// Where the text goes.
    pub sequence: Sequence,
    /// All of it.
    pub text: Vec<Token>,
    /// How many tokens of it have been decoded or stand in a batch.
    pub fed: usize,
}

impl Feed {
    /// A text of which nothing has been fed, in a sequence of its own.
    ///
    /// # Panics
    ///
    /// If the context has no free sequence.
    #[must_use]
    pub fn new(context: &mut Context, text: &[Token]) -> Self {
        Self { sequence: context.new_sequence().expect("a free sequence"), text: text.to_vec(), fed: 0 }
    }

    fn left(&self) -> usize {
        self.text.len() - self.fed
    }
}

/// Feeds all texts to their end through shared batches of `size` tokens (fewer where the context takes no more), taking from the sequences in turn, with an output
/// for every token; calls `check(which, position, logits)` for each.
///
/// # Panics
///
/// If a call fails.
pub fn feed_all(context: &mut Context, feeds: &mut [Feed], size: u32, mut check: impl FnMut(usize, usize, &[f32])) {
    let mut batch = context.new_batch();
    let size = size.min(batch.capacity());
    let mut turn = 0;
    while feeds.iter().any(|feed| feed.left() > 0) {
        let mut slots: Vec<(OutputSlot, usize, usize)> = Vec::new();
        while batch.len() < size && feeds.iter().any(|feed| feed.left() > 0) {
            let which = turn % feeds.len();
            turn += 1;
            let feed = &mut feeds[which];
            // Now one token, now a chunk: decode and prefill in the same batch.
            let most = [1, 5, 2, 9][turn % 4].min((size - batch.len()) as usize);
            for _ in 0..most.min(feed.left()) {
                let slot = batch.push_output(&feed.sequence, feed.text[feed.fed]).expect("a token that fits");
                slots.push((slot, which, feed.fed));
                feed.fed += 1;
            }
        }
        let outputs = context.decode(&mut batch).expect("a decode");
        for (slot, which, position) in slots {
            check(which, position, outputs.get(slot).expect("an output that was asked for"));
        }
    }
}

/// Feeds all texts to their end one after the other, in batches as large as the context takes, with an output for the last
/// token of each: `[feeds.len(), n_vocab]`.
///
/// # Panics
///
/// If a call fails.
#[must_use]
pub fn feed_at_once(context: &mut Context, feeds: &mut [Feed]) -> Vec<Vec<f32>> {
    let mut batch = context.new_batch();
    let (mut last, mut got) = (Vec::new(), Vec::new());
    let count = feeds.len();
    for (index, feed) in feeds.iter_mut().enumerate() {
        while feed.left() > 0 {
            let chunk = feed.left().min((batch.capacity() - batch.len()) as usize);
            let tokens = &feed.text[feed.fed..feed.fed + chunk];
            feed.fed += chunk;
            if feed.left() == 0 {
                last.push(batch.prompt(&feed.sequence, tokens).expect("room"));
            } else {
                batch.extend(&feed.sequence, tokens).expect("room");
            }
            if batch.len() == batch.capacity() || (index + 1 == count && feed.left() == 0) {
                let outputs = context.decode(&mut batch).expect("a decode");
                got.extend(
                    last.drain(..).map(|slot| outputs.get(slot).expect("an output that was asked for").to_vec()),
                );
            }
        }
    }
    got
}
