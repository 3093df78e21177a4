//! Faults on purpose: how tests see what an engine does about them.
#![forbid(unsafe_code)]

use std::fmt;

use crate::error::{DecodeError, GenerateError};

/// A call that can be made to fail.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Call {
    /// Computing a batch.
    Decode,
    /// Copying a sequence.
    Fork,
    /// Cutting one.
    Truncate,
    /// Discarding a part of one.
    Shift,
    /// Copying one out of the context.
    Save,
    /// Bringing it back.
    Restore,
}

/// How a call fails.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Fault {
    /// Before it begins.
    Failed,
    /// As if there was no room.
    NoRoom,
    /// Half way, after llama.cpp has asked so many times whether to go on; of a decode.
    Aborted(u32),
}

type Plan = dyn FnMut(Call) -> Option<Fault> + Send;

/// Which calls fail.
#[derive(Default)]
pub(crate) struct Faults {
    plan: Option<Box<Plan>>,
    abort: Option<u32>,
}

impl Faults {
    pub(crate) fn new(plan: impl FnMut(Call) -> Option<Fault> + Send + 'static) -> Self {
        Self { plan: Some(Box::new(plan)), abort: None }
    }

    /// Whether this call fails before it begins.
    pub(crate) fn check(&mut self, call: Call) -> Result<(), GenerateError> {
        self.abort = None;
        match self.plan.as_mut().and_then(|plan| plan(call)) {
            None => Ok(()),
            Some(Fault::Failed) => {
                Err(DecodeError::Failed { reason: "a fault on purpose".to_owned(), damaged: Vec::new() }.into())
            }
            Some(Fault::NoRoom) => Err(DecodeError::NoSlot { tokens: 0, context_tokens: 0 }.into()),
            Some(Fault::Aborted(checks)) => {
                self.abort = Some(checks);
                Ok(())
            }
        }
    }

    /// After how many checks the call that was just looked at is aborted.
    pub(crate) fn abort_after(&mut self) -> Option<u32> {
        self.abort.take()
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("on_purpose", &self.plan.is_some()).finish()
    }
}
