//! Numbers that are added to the logits of some tokens.

use std::collections::HashMap;

use crate::error::SamplingError;

use super::field::Field;
use super::penalties::finite;

#[derive(Clone, Debug, Default)]
pub(super) struct Bias {
    pub(super) of: HashMap<i32, f32>,
    pub(super) highest: i32,
}

impl Bias {
    pub(super) fn apply(&self, field: &mut Field<'_>) -> Result<(), SamplingError> {
        let vocabulary = field.vocabulary();
        if self.highest as usize >= vocabulary {
            return Err(SamplingError::BiasOutOfRange { token: self.highest, vocabulary });
        }
        field.adjust(&self.of, |logit, &bias| if bias == f32::NEG_INFINITY { bias } else { finite(logit + bias) })
    }
}
