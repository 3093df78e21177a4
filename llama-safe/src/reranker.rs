//! Reranking: how well documents answer a query, by a model with a head for it.

use std::ffi::CStr;

use llama_sys as sys;

use crate::context::Context;
use crate::embedder::{Embedder, EmbedderParams, Embeddings};
use crate::error::{EmbedError, VocabError};
use crate::id::Token;
use crate::limits::Pooling;
use crate::model::Model;
use crate::vocab::Special;

/// Scores documents against a query, as many at a time as a batch holds.
///
/// ```
/// use llama_safe::{EmbedderParams, Model, ModelParams, Reranker};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let gguf = fixtures::Bert::reranker().gguf(fixtures::Weights::F16, 1)?;
/// # let model = Model::from_bytes(&gguf, &ModelParams::default())?;
/// let mut reranker = Reranker::new(&model, &EmbedderParams::default())?;
/// let documents = ["it is a bear", "hi", "tea is a drink"];
/// let scores = reranker.rank("what is a panda?", &documents)?;
/// let best = (0..documents.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
/// # assert!(best.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reranker {
    embedder: Embedder,
    frame: Frame,
}

/// How a query and a document become one sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Frame {
    /// The model's own text, with places for both.
    Template(String),
    /// Tokens around the two: `[bos] query [eos] [sep] document [eos]`, those that the vocabulary asks for.
    Tokens { bos: Option<Token>, eos: Option<Token>, sep: Option<Token> },
}

impl Reranker {
    /// Makes the context for it. `params` says how many tokens and texts a batch has; pooling and normalising are not
    /// taken: the head gives the scores.
    ///
    /// # Errors
    ///
    /// [`EmbedError::NotReranker`]; [`EmbedError::NoSeparator`] where neither the vocabulary nor a template of the model
    /// tells query and document apart; [`EmbedError::Template`]; [`EmbedError::Context`].
    pub fn new(model: &Model, params: &EmbedderParams) -> Result<Self, EmbedError> {
        let embedder = Embedder::of_any(model, &params.clone().pooling(Pooling::Model).normalize(false))?;
        if embedder.context().limits().pooling() != Pooling::Rank {
            return Err(EmbedError::NotReranker);
        }
        let frame = frame(model)?;
        Ok(Self { embedder, frame })
    }

    /// Its context: limits, model, a handle to abort. All of its sequences are in use.
    #[must_use]
    pub fn context(&self) -> &Context {
        self.embedder.context()
    }

    /// Its context, to change what it computes with.
    #[must_use]
    pub fn context_mut(&mut self) -> &mut Context {
        self.embedder.context_mut()
    }

    /// The score of each document, in their order; the higher, the better. Of a model with several scores it is the first,
    /// which is the answer "yes" of those that were trained to say yes or no.
    ///
    /// Scores are as the model gives them: most are logits, which may be negative.
    ///
    /// # Errors
    ///
    /// [`EmbedError`], where `text` is the document: it is empty, too long together with the query, or the computation
    /// failed. Nothing has been computed when a document is refused.
    pub fn rank<S: AsRef<str>>(&mut self, query: &str, documents: &[S]) -> Result<Vec<f32>, EmbedError> {
        let scores = self.scores(query, documents)?;
        Ok(scores.iter().filter_map(|scores| scores.first().copied()).collect())
    }

    /// All scores of each document, one for each of [`Model::labels`].
    ///
    /// # Errors
    ///
    /// As [`rank`](Self::rank).
    pub fn scores<S: AsRef<str>>(&mut self, query: &str, documents: &[S]) -> Result<Embeddings, EmbedError> {
        let model = self.embedder.context().model();
        let start = self.frame.start(model, query)?;
        let mut pairs = Vec::with_capacity(documents.len());
        for (text, document) in documents.iter().enumerate() {
            pairs.push(self.frame.pair(model, &start, document.as_ref(), text)?);
        }
        self.embedder.embed_tokens(&pairs)
    }

    /// All scores of pairs that are tokens already. Nothing is added to them.
    ///
    /// # Errors
    ///
    /// As [`rank`](Self::rank), and [`EmbedError::TokenOutOfRange`].
    pub fn scores_of_tokens<T: AsRef<[Token]>>(&mut self, pairs: &[T]) -> Result<Embeddings, EmbedError> {
        self.embedder.embed_tokens(pairs)
    }

    /// The tokens of a query and a document, as they are scored.
    ///
    /// A model with a template of the name `rerank` has both put into it, and special tokens are read from the whole: those
    /// that a query or a document spells out count as well. For the others it is `[BOS] query [EOS] [SEP] document [EOS]`,
    /// where each special token is there if the vocabulary says so (SEP stands in for an EOS that it lacks), and query and
    /// document are nothing but text. llama.cpp's server does the same.
    ///
    /// # Errors
    ///
    /// [`EmbedError`]: query or document is empty.
    pub fn pair(&self, query: &str, document: &str) -> Result<Vec<Token>, EmbedError> {
        let model = self.embedder.context().model();
        let start = self.frame.start(model, query)?;
        self.frame.pair(model, &start, document, 0)
    }
}

/// What all pairs with one query have in common.
enum Start<'query> {
    Text(&'query str),
    Tokens(Vec<Token>),
}

impl Frame {
    fn start<'query>(&self, model: &Model, query: &'query str) -> Result<Start<'query>, EmbedError> {
        let tokens = model.tokenize(query, Special::None)?;
        if tokens.is_empty() {
            return Err(EmbedError::EmptyQuery);
        }
        Ok(match *self {
            Self::Template(_) => Start::Text(query),
            Self::Tokens { bos, eos, sep } => {
                Start::Tokens(bos.into_iter().chain(tokens).chain(eos).chain(sep).collect())
            }
        })
    }

    fn pair(&self, model: &Model, start: &Start<'_>, document: &str, text: usize) -> Result<Vec<Token>, EmbedError> {
        let cut = |string: &str, special| {
            model.tokenize(string, special).map_err(|source| EmbedError::Vocab { text, source })
        };
        if document.is_empty() {
            return Err(EmbedError::Empty { text });
        }
        match (self, start) {
            (Self::Template(template), Start::Text(query)) => cut(&insert(template, query, document), Special::Parse),
            (Self::Tokens { eos, .. }, Start::Tokens(start)) => {
                let document = cut(document, Special::None)?;
                if document.is_empty() {
                    return Err(EmbedError::Empty { text });
                }
                Ok(start.iter().copied().chain(document).chain(*eos).collect())
            }
            // `start` is made by the same frame.
            _ => Err(EmbedError::NoSeparator),
        }
    }
}

/// The frame that a model asks for.
fn frame(model: &Model) -> Result<Frame, EmbedError> {
    if let Some(template) = model.template(Some("rerank")) {
        return match ["{query}", "{document}"].into_iter().find(|place| !template.contains(place)) {
            Some(lacks) => Err(EmbedError::Template { lacks }),
            None => Ok(Frame::Template(template)),
        };
    }
    let vocab = model.vocab();
    let eos = vocab.eos().or(vocab.sep());
    let wanted = |wanted: bool, token: Option<Token>, name| match (wanted, token) {
        (true, None) => Err(EmbedError::from(VocabError::NoSuchSpecial { name })),
        (wanted, token) => Ok(token.filter(|_| wanted)),
    };
    let bos = wanted(vocab.adds_bos(), vocab.bos(), "BOS")?;
    let eos = wanted(vocab.adds_eos(), eos, "EOS")?;
    let sep = wanted(vocab.adds_sep(), vocab.sep(), "SEP")?;
    if eos.is_none() && sep.is_none() {
        return Err(EmbedError::NoSeparator);
    }
    Ok(Frame::Tokens { bos, eos, sep })
}

/// Puts both texts into their places, in one pass: what looks like a place in a text of theirs is text.
fn insert(template: &str, query: &str, document: &str) -> String {
    let mut text = String::with_capacity(template.len() + query.len() + document.len());
    let mut rest = template;
    while let Some(brace) = rest.find('{') {
        text.push_str(&rest[..brace]);
        rest = &rest[brace..];
        let places = [("{query}", query), ("{document}", document)];
        let place = places.into_iter().find_map(|(place, with)| Some((rest.strip_prefix(place)?, with)));
        let (after, with) = place.unwrap_or((&rest[1..], "{"));
        text.push_str(with);
        rest = after;
    }
    text.push_str(rest);
    text
}

impl Model {
    /// What the scores of a reranker or classifier stand for, one entry each: `None` where the model does not name it. A
    /// model without names has one score.
    #[must_use]
    pub fn labels(&self) -> Vec<Option<String>> {
        // SAFETY: the model lives, and the function only reads what loading settled.
        let count = unsafe { sys::llama_model_n_cls_out(self.as_ptr()) };
        (0..count)
            .map(|index| {
                // SAFETY: as above; an index that has no label gives NULL.
                let label = unsafe { sys::llama_model_cls_label(self.as_ptr(), index) };
                // SAFETY: a label is a terminated string that lives as long as the model.
                (!label.is_null()).then(|| unsafe { CStr::from_ptr(label) }.to_string_lossy().into_owned())
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_both_texts_and_nothing_else() {
        assert_eq!(insert("<q>{query}</q><d>{document}</d>", "who?", "me"), "<q>who?</q><d>me</d>");
        assert_eq!(insert("{document} {x} {query}{", "{document}", "{query}"), "{query} {x} {document}{");
        assert_eq!(insert("é{query}ü{é}", "a", "b"), "éaü{é}");
        assert_eq!(insert("", "a", "b"), "");
    }
}
