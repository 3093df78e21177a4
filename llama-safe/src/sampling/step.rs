//! One step of a chain: it changes logits, or takes candidates away.

use std::sync::Arc;

use crate::error::SamplingError;
use crate::id::Token;

use super::bias::Bias;
use super::custom::Custom;
use super::dry::DontRepeat;
use super::field::Field;
use super::infill::Pieces;
use super::penalties::Penalise;
use super::temperature::{self, Dynamic};
use super::truncate::{self, ExcludeTop, Share};

#[derive(Clone, Debug)]
pub(super) enum Step {
    TopK(usize),
    TopP(Share),
    MinP(Share),
    Typical(Share),
    TopNSigma(f32),
    ExcludeTop(Box<ExcludeTop>),
    Temperature(f32),
    Dynamic(Dynamic),
    Penalise(Box<Penalise>),
    DontRepeat(Box<DontRepeat>),
    Bias(Arc<Bias>),
    Infill(Arc<Pieces>),
    Custom(Box<Custom>),
}

impl Step {
    /// Forgets what a sample that failed has drawn.
    pub(super) fn begin(&mut self) {
        if let Self::ExcludeTop(step) = self {
            step.random.begin();
        }
    }

    /// Works on the candidates. State changes in [`keep`](Self::keep) and [`accept`](Self::accept) alone.
    pub(super) fn apply(&mut self, place: usize, field: &mut Field<'_>) -> Result<(), SamplingError> {
        match self {
            Self::TopK(k) => field.top(*k),
            Self::TopP(share) => truncate::top_p(field, *share),
            Self::MinP(share) => truncate::min_p(field, *share),
            Self::Typical(share) => truncate::typical(field, *share),
            Self::TopNSigma(n) => truncate::top_n_sigma(field, *n),
            Self::ExcludeTop(step) => step.apply(field),
            Self::Temperature(temperature) => temperature::fixed(field, *temperature),
            Self::Dynamic(step) => temperature::dynamic(field, *step),
            Self::Penalise(step) => return step.apply(field),
            Self::DontRepeat(step) => return step.apply(field),
            Self::Bias(step) => return step.apply(field),
            Self::Infill(step) => return step.apply(field),
            Self::Custom(step) => return step.apply(place, field),
        }
        Ok(())
    }

    /// A token was sampled: what was drawn for it counts.
    pub(super) fn keep(&mut self) {
        if let Self::ExcludeTop(step) = self {
            step.random.keep();
        }
    }

    /// The part of accepting that may fail, and changes nothing yet.
    pub(super) fn prepare(&mut self, place: usize, token: Token) -> Result<(), SamplingError> {
        if let Self::Custom(step) = self { step.prepare(place, token) } else { Ok(()) }
    }

    /// Takes a token into the history, after all steps were prepared for it.
    pub(super) fn accept(&mut self, token: Token) {
        match self {
            Self::Penalise(step) => step.history.accept(token.0),
            Self::DontRepeat(step) => step.accept(token.0),
            Self::Custom(step) => step.commit(),
            _ => {}
        }
    }

    pub(super) fn reset(&mut self) {
        match self {
            Self::ExcludeTop(step) => step.random.reset(),
            Self::Penalise(step) => step.history.reset(),
            Self::DontRepeat(step) => step.reset(),
            Self::Custom(step) => step.reset(),
            _ => {}
        }
    }
}
