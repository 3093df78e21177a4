//! What is made of a model once, and shared by all who need it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::Model;

/// Values by their type.
#[derive(Default)]
pub(super) struct Derived(Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl fmt::Debug for Derived {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Derived").finish_non_exhaustive()
    }
}

impl Model {
    /// The value of this type that belongs to the model, made by the first who asks for it. `make` must not ask for
    /// another.
    pub(crate) fn derived<T: Send + Sync + 'static, E>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        // A panic of `make` leaves the table as it was.
        let mut values = self.raw.derived.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.get(&TypeId::of::<T>())
            && let Ok(value) = Arc::clone(value).downcast()
        {
            return Ok(value);
        }
        let value = Arc::new(make()?);
        values.insert(TypeId::of::<T>(), Arc::<T>::clone(&value));
        Ok(value)
    }
}
