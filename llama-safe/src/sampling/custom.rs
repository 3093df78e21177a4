//! Samplers of one's own, in safe Rust.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::SamplingError;
use crate::id::Token;
use crate::panics;

use super::candidates::Candidates;
use super::field::Field;

/// A step of a chain in safe Rust: it changes logits and removes candidates.
///
/// What it cannot do: add a token, name one twice, or keep candidates. What it must not do is an error of the sample: remove
/// all, or set a logit to NaN or plus infinity. A panic is caught and told as
/// [`SamplingError::CustomPanicked`] (in a program that unwinds; the panic hook prints its line first). In each of these
/// cases the sampler is as it was before the call.
///
/// That is why `apply` takes `&self`: state changes in [`accept`](Self::accept) alone, on a copy that takes the place of the
/// old state when nothing failed. A sampler that is expensive to clone keeps its larger part in an `Arc`.
///
/// ```
/// use llama_safe::{Candidates, CustomSampler, Sampler, Token};
///
/// /// Never the same token twice in a row.
/// #[derive(Clone, Default)]
/// struct NoEcho(Option<Token>);
///
/// impl CustomSampler for NoEcho {
///     fn apply(&self, candidates: &mut Candidates<'_>) {
///         if candidates.len() > 1 {
///             candidates.retain(|candidate| Some(candidate.token()) != self.0);
///         }
///     }
///
///     fn accept(&mut self, token: Token) {
///         self.0 = Some(token);
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut sampler = Sampler::chain().custom(NoEcho::default()).greedy();
/// let logits = [0.0, 5.0, 4.0];
/// assert_eq!(sampler.sample(&logits)?, Token(1));
/// assert_eq!(sampler.sample(&logits)?, Token(2));
/// assert_eq!(sampler.sample(&logits)?, Token(1));
/// # Ok(())
/// # }
/// ```
pub trait CustomSampler: Send {
    /// Changes logits, removes candidates.
    fn apply(&self, candidates: &mut Candidates<'_>);

    /// A token was sampled, or came otherwise ([`Sampler::accept`](crate::Sampler::accept)).
    fn accept(&mut self, token: Token) {
        let _ = token;
    }
}

/// A custom sampler whose type is forgotten, but not how to clone it.
trait Boxed: CustomSampler {
    fn boxed(&self) -> Box<dyn Boxed>;
}

impl<T: CustomSampler + Clone + 'static> Boxed for T {
    fn boxed(&self) -> Box<dyn Boxed> {
        Box::new(self.clone())
    }
}

/// A closure as a custom sampler. It has no state that a fork would have to copy.
struct Closure<F>(std::sync::Arc<F>);

impl<F> Clone for Closure<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<F: Fn(&mut Candidates<'_>) + Send + Sync> CustomSampler for Closure<F> {
    fn apply(&self, candidates: &mut Candidates<'_>) {
        (self.0)(candidates);
    }
}

pub(super) struct Custom {
    first: Box<dyn Boxed>,
    now: Box<dyn Boxed>,
    next: Option<Box<dyn Boxed>>,
    accepts: bool,
}

impl Custom {
    pub(super) fn new(sampler: impl CustomSampler + Clone + 'static) -> Self {
        Self { first: Box::new(sampler.clone()), now: Box::new(sampler), next: None, accepts: true }
    }

    pub(super) fn closure(apply: impl Fn(&mut Candidates<'_>) + Send + Sync + 'static) -> Self {
        Self { accepts: false, ..Self::new(Closure(std::sync::Arc::new(apply))) }
    }

    pub(super) fn reset(&mut self) {
        self.now = self.first.boxed();
    }

    pub(super) fn apply(&self, step: usize, field: &mut Field<'_>) -> Result<(), SamplingError> {
        field.list();
        let mut candidates = Candidates { list: &mut field.buffers.list };
        caught(step, || self.now.apply(&mut candidates))?;
        field.sorted = false;
        for one in &field.buffers.list {
            if one.logit.is_nan() || one.logit == f32::INFINITY {
                return Err(SamplingError::CustomNotFinite { step, token: one.token, value: one.logit });
            }
        }
        field.drop_forbidden();
        if field.buffers.list.is_empty() { Err(SamplingError::CustomLeftNothing { step }) } else { Ok(()) }
    }

    /// Makes the state after the token, without putting it into effect.
    pub(super) fn prepare(&mut self, step: usize, token: Token) -> Result<(), SamplingError> {
        self.next = None;
        if self.accepts {
            self.next = Some(caught(step, || {
                let mut next = self.now.boxed();
                next.accept(token);
                next
            })?);
        }
        Ok(())
    }

    /// Puts the prepared state into effect.
    pub(super) fn commit(&mut self) {
        if let Some(next) = self.next.take() {
            self.now = next;
        }
    }
}

impl Clone for Custom {
    fn clone(&self) -> Self {
        Self { first: self.first.boxed(), now: self.now.boxed(), next: None, accepts: self.accepts }
    }
}

impl fmt::Debug for Custom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Custom")
    }
}

/// Runs the user's code. What it may have left half done is thrown away by the caller.
fn caught<T>(step: usize, run: impl FnOnce() -> T) -> Result<T, SamplingError> {
    catch_unwind(AssertUnwindSafe(run))
        .map_err(|panic| SamplingError::CustomPanicked { step, message: panics::message(panic) })
}
