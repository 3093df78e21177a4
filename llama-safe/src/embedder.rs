//! Embeddings of many texts, in few batches.

use crate::batch::Batch;
use crate::context::Context;
use crate::error::EmbedError;
use crate::id::{OutputSlot, Token};
use crate::limits::{Limits, MemoryKind, Pooling};
use crate::model::Model;
use crate::packing::{Room, pack};
use crate::params::ContextParams;
use crate::sequence::Sequence;
use crate::vocab::Special;

/// How texts are embedded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EmbedderParams {
    context: ContextParams,
    pooling: Option<Pooling>,
    batch_tokens: u32,
    texts: Option<u32>,
    normalize: bool,
}

impl Default for EmbedderParams {
    /// The model's own pooling, vectors of length 1, batches of 512 tokens.
    fn default() -> Self {
        Self { context: ContextParams::default(), pooling: None, batch_tokens: 512, texts: None, normalize: true }
    }
}

/// Sequences of a batch for models whose memory holds a state for each of them, used or not.
const RECURRENT_TEXTS: u32 = 16;

impl EmbedderParams {
    /// How the embeddings of a text's tokens become one. [`Pooling::None`] keeps them all.
    #[must_use]
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = Some(pooling);
        self
    }

    /// Whether each vector is divided by its length (L2 norm), so that a scalar product is the cosine of an angle. A vector
    /// of zeros has no direction, and stays zeros.
    #[must_use]
    pub fn normalize(mut self, normalize: bool) -> Self {
        self.normalize = normalize;
        self
    }

    /// The most tokens of one batch, which is computed in one pass, and so of one text.
    ///
    /// Attention looks from every token of a batch at every other, of whatever text: on a CPU, texts that are much shorter
    /// than this are computed faster with less.
    #[must_use]
    pub fn batch_tokens(mut self, tokens: u32) -> Self {
        self.batch_tokens = tokens;
        self
    }

    /// The most texts of one batch. Left out, it is as many as llama.cpp has sequences for, 256, but 16 for recurrent
    /// and hybrid models, whose memory grows with each.
    ///
    /// With 256, batches of 512 tokens are filled by texts of two tokens on average, and no text is shorter than that with
    /// most vocabularies, which add one or two: so the number of texts does not keep batches from being full.
    #[must_use]
    pub fn texts(mut self, texts: u32) -> Self {
        self.texts = Some(texts);
        self
    }

    /// Everything else about the context: threads, attention, cache types; its pooling where [`pooling`](Self::pooling) says
    /// nothing. Its sizes and sequences are not taken.
    #[must_use]
    pub fn context(mut self, params: ContextParams) -> Self {
        self.context = params;
        self
    }

    /// The same with a context of no more bytes, nor than it may have already.
    pub(crate) fn memory_limit(mut self, bytes: u64) -> Self {
        let limit = self.context.memory_limit.map_or(bytes, |limit| limit.min(bytes));
        self.context = self.context.memory_limit(limit);
        self
    }

    fn context_params(&self, model: &Model) -> ContextParams {
        let most = if model.is_recurrent() || model.is_hybrid() { RECURRENT_TEXTS } else { MOST_TEXTS };
        let texts = self.texts.unwrap_or(most.min(self.batch_tokens).max(1));
        let context = self.context.clone();
        let context = match self.pooling {
            Some(pooling) => context.pooling(pooling),
            None => context,
        };
        context
            .embeddings(true)
            .sequences(texts)
            .context_tokens(self.batch_tokens)
            .batch_tokens(self.batch_tokens)
            .micro_batch_tokens(self.batch_tokens)
    }
}

/// `llama_max_parallel_sequences()`.
const MOST_TEXTS: u32 = 256;

/// Turns texts into vectors, as many at a time as a batch holds.
///
/// It works for encoders (BERT, the encoder of T5) and for decoders. A vector does not depend on what else is in its batch.
///
/// ```
/// use llama_safe::{Embedder, EmbedderParams, Model, ModelParams};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Bert::tiny().gguf(fixtures::Weights::F16, 1)?;
/// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
/// let mut embedder = Embedder::new(&model, &EmbedderParams::default())?;
/// let embeddings = embedder.embed(&["a cat", "a dog", "the price of tea"])?;
/// let vectors: Vec<&[f32]> = embeddings.iter().collect();
/// let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
/// assert!(cosine(vectors[0], vectors[0]) > 0.999);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Embedder {
    context: Context,
    /// All of the context's, so that nothing else can be in the way of a full batch.
    sequences: Vec<Sequence>,
    batch: Batch,
    normalize: bool,
}

impl Embedder {
    /// Makes the context for it.
    ///
    /// # Errors
    ///
    /// [`EmbedError::Context`]; [`EmbedError::IsReranker`] for a model that scores pairs, unless another pooling was
    /// asked for.
    pub fn new(model: &Model, params: &EmbedderParams) -> Result<Self, EmbedError> {
        let embedder = Self::of_any(model, params)?;
        if embedder.context.limits().pooling() == Pooling::Rank { Err(EmbedError::IsReranker) } else { Ok(embedder) }
    }

    pub(crate) fn of_any(model: &Model, params: &EmbedderParams) -> Result<Self, EmbedError> {
        let mut context = Context::new(model, &params.context_params(model))?;
        let sequences = (0..context.limits().sequences()).map(|_| context.new_sequence()).collect::<Result<_, _>>()?;
        let batch = context.new_encoder_batch();
        Ok(Self { context, sequences, batch, normalize: params.normalize })
    }

    /// Its context: limits, model, a handle to abort. All of its sequences are in use.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Its context, to change what it computes with.
    #[must_use]
    pub fn context_mut(&mut self) -> &mut Context {
        &mut self.context
    }

    /// The most tokens of one text.
    #[must_use]
    pub fn text_tokens(&self) -> u32 {
        let limits = self.context.limits();
        limits.batch_tokens().min(limits.sequence_tokens())
    }

    /// The vectors of texts, in their order. The tokens that the model expects around a text are added.
    ///
    /// Every text is checked before the first is computed, and an error names the one that is at fault: nothing has been
    /// computed then, and the call can be made again without it.
    ///
    /// # Errors
    ///
    /// [`EmbedError`]: a text that is empty or too long, a computation that failed, or that gave what is no number.
    pub fn embed<S: AsRef<str>>(&mut self, texts: &[S]) -> Result<Embeddings, EmbedError> {
        let model = self.context.model();
        // What the vocabulary makes of no text at all: the tokens that it adds.
        let added = model.tokenize("", Special::Bos)?;
        let mut tokens = Vec::with_capacity(texts.len());
        for (text, string) in texts.iter().enumerate() {
            let cut =
                model.tokenize(string.as_ref(), Special::Bos).map_err(|source| EmbedError::Vocab { text, source })?;
            if cut.len() <= added.len() {
                return Err(EmbedError::Empty { text });
            }
            tokens.push(cut);
        }
        self.embed_tokens(&tokens)
    }

    /// The vectors of texts that are tokens already. Nothing is added to them.
    ///
    /// # Errors
    ///
    /// As [`embed`](Self::embed), and [`EmbedError::TokenOutOfRange`].
    pub fn embed_tokens<T: AsRef<[Token]>>(&mut self, texts: &[T]) -> Result<Embeddings, EmbedError> {
        let lengths = self.check(texts)?;
        let limits = self.context.limits();
        let pooled = limits.is_pooled();
        let mut embeddings = Embeddings::empty(&lengths, limits);
        let room = Room { tokens: limits.batch_tokens(), texts: limits.sequences() };
        let mut slots = Vec::with_capacity(room.texts as usize);
        for indices in pack(&lengths, room) {
            self.empty()?;
            slots.clear();
            for (sequence, text) in self.sequences.iter().zip(&indices) {
                slots.push(self.batch.prompt(sequence, texts[*text].as_ref())?);
            }
            let limits = self.context.limits();
            let outputs = if limits.memory() == MemoryKind::None || limits.encodes_first() {
                self.context.encode(&mut self.batch)?
            } else {
                self.context.decode(&mut self.batch)?
            };
            embeddings.batches += 1;
            for ((sequence, slot), text) in self.sequences.iter().zip(&slots).zip(indices) {
                for row in 0..embeddings.rows(text) {
                    let vector = if pooled {
                        outputs.sequence_embedding(sequence)?
                    } else {
                        // The slot is the last token's, and the tokens of a text stand together.
                        let before = embeddings.rows(text) - 1 - row;
                        outputs.embedding(OutputSlot { fill: slot.fill, row: slot.row - before })?
                    };
                    if let Err((index, value)) = copy(vector, embeddings.row_mut(text, row), self.normalize) {
                        // What it left in memory would reach the texts to come.
                        self.context.clear_all()?;
                        return Err(EmbedError::NotFinite { text, index, value });
                    }
                }
            }
        }
        Ok(embeddings)
    }

    /// The length of each text, all of which can be computed.
    pub(crate) fn check<T: AsRef<[Token]>>(&self, texts: &[T]) -> Result<Vec<u32>, EmbedError> {
        let limit = self.text_tokens();
        let vocabulary = self.context.limits().vocabulary();
        texts
            .iter()
            .enumerate()
            .map(|(text, tokens)| {
                let tokens = tokens.as_ref();
                if tokens.is_empty() {
                    return Err(EmbedError::Empty { text });
                }
                // A negative id wraps to one that is above any vocabulary.
                if let Some(bad) = tokens.iter().find(|token| token.0 as u32 >= vocabulary) {
                    return Err(EmbedError::TokenOutOfRange { text, token: bad.0, vocabulary });
                }
                match u32::try_from(tokens.len()) {
                    Ok(length) if length <= limit => Ok(length),
                    _ => Err(EmbedError::TooLong { text, tokens: tokens.len(), limit }),
                }
            })
            .collect()
    }

    /// Tokens and texts of one batch.
    pub(crate) fn room(&self) -> (usize, usize) {
        (self.context.limits().batch_tokens() as usize, self.sequences.len())
    }

    /// Empties the batch and the sequences, whatever the call before left in them.
    fn empty(&mut self) -> Result<(), EmbedError> {
        self.batch.clear();
        for sequence in &self.sequences {
            if !sequence.is_empty() || sequence.is_damaged() {
                self.context.clear(sequence)?;
            }
        }
        Ok(())
    }
}

/// Copies a vector, of length 1 where that is wanted. The first number that is none is the error: which, and its value.
fn copy(from: &[f32], to: &mut [f32], normalize: bool) -> Result<(), (usize, f32)> {
    // In 64 bits no square of a finite number overflows, nor any sum of them: it is finite where all of them are.
    let square: f64 = from.iter().map(|number| f64::from(*number).powi(2)).sum();
    if !square.is_finite() {
        let index = from.iter().position(|number| !number.is_finite()).unwrap_or_default();
        return Err((index, from[index]));
    }
    let factor = if normalize && square > 0.0 { 1.0 / square.sqrt() } else { 1.0 };
    for (to, from) in to.iter_mut().zip(from) {
        *to = if normalize { (f64::from(*from) * factor) as f32 } else { *from };
    }
    Ok(())
}

/// The vectors of texts, in the order of the texts.
///
/// Each text has one vector of [`width`](Self::width) numbers; without pooling it has those of all its tokens.
#[derive(Clone, PartialEq, Debug)]
pub struct Embeddings {
    /// `[rows of all texts, width]`
    values: Vec<f32>,
    width: usize,
    /// The first row of each text, and the number of all rows.
    starts: Vec<usize>,
    batches: u32,
}

impl Embeddings {
    fn empty(lengths: &[u32], limits: &Limits) -> Self {
        let mut starts = Vec::with_capacity(lengths.len() + 1);
        let mut rows = 0;
        starts.push(rows);
        for length in lengths {
            rows += if limits.is_pooled() { 1 } else { *length as usize };
            starts.push(rows);
        }
        let width = limits.output_width() as usize;
        Self { values: vec![0.0; rows * width], width, starts, batches: 0 }
    }

    /// Texts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there were no texts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Numbers of one vector; of a reranker, scores of one document.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Native batches that were computed.
    #[must_use]
    pub fn batches(&self) -> u32 {
        self.batches
    }

    /// The vector of a text, or those of its tokens one after the other; `None` past the last.
    #[must_use]
    pub fn get(&self, text: usize) -> Option<&[f32]> {
        let (start, end) = (self.starts.get(text)?, self.starts.get(text + 1)?);
        self.values.get(start * self.width..end * self.width)
    }

    /// The vectors of a text one by one: one if they were pooled, otherwise one a token; `None` past the last text.
    pub fn vectors(&self, text: usize) -> Option<impl ExactSizeIterator<Item = &[f32]>> {
        self.get(text).map(|vectors| vectors.chunks_exact(self.width.max(1)))
    }

    /// Text by text, what [`get`](Self::get) gives.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        (0..self.len()).filter_map(|text| self.get(text))
    }

    fn rows(&self, text: usize) -> u32 {
        // At most the tokens of a batch.
        (self.starts[text + 1] - self.starts[text]) as u32
    }

    fn row_mut(&mut self, text: usize, row: u32) -> &mut [f32] {
        let start = (self.starts[text] + row as usize) * self.width;
        &mut self.values[start..start + self.width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_becomes_one_of_length_one() {
        let mut to = [0.0; 2];
        copy(&[3.0, -4.0], &mut to, true).unwrap();
        assert_eq!(to, [0.6, -0.8]);
        copy(&[3.0, -4.0], &mut to, false).unwrap();
        assert_eq!(to, [3.0, -4.0]);
    }

    #[test]
    fn zeros_stay_zeros() {
        let mut to = [1.0; 3];
        copy(&[0.0; 3], &mut to, true).unwrap();
        assert_eq!(to, [0.0; 3]);
    }

    #[test]
    fn the_largest_and_smallest_numbers_have_a_direction() {
        let mut to = [0.0; 2];
        copy(&[f32::MAX, f32::MAX], &mut to, true).unwrap();
        assert_eq!(to, [std::f32::consts::FRAC_1_SQRT_2; 2]);
        copy(&[1e-44, 0.0], &mut to, true).unwrap();
        assert_eq!(to, [1.0, 0.0]);
    }

    #[test]
    fn what_is_no_number_is_named() {
        let mut to = [0.0; 3];
        assert!(matches!(copy(&[1.0, f32::NAN, 2.0], &mut to, true), Err((1, value)) if value.is_nan()));
        assert_eq!(copy(&[1.0, 2.0, f32::INFINITY], &mut to, false), Err((2, f32::INFINITY)));
    }
}
