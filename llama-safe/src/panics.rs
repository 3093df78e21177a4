//! What panics of a user's functions say.
#![forbid(unsafe_code)]

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a panic said, which is dropped here: it may be anything, with a destructor that panics as well.
pub(crate) fn message(panic: Box<dyn Any + Send>) -> String {
    let text = match (panic.downcast_ref::<&'static str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "with a value that is no text".to_owned(),
    };
    // What its destructor panics with has one again.
    if let Err(another) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(another);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    /// Panics when it is dropped, with itself.
    struct Spiteful;

    impl Drop for Spiteful {
        fn drop(&mut self) {
            panic_any(Self);
        }
    }

    #[test]
    fn whatever_it_is_it_has_a_text_and_is_gone() {
        let said = |run: fn()| message(catch_unwind(run).unwrap_err());
        assert_eq!(said(|| panic_any("a text")), "a text");
        assert_eq!(said(|| panic_any(String::from("another"))), "another");
        assert_eq!(said(|| panic_any(7)), "with a value that is no text");
        assert_eq!(said(|| panic_any(Spiteful)), "with a value that is no text");
    }
}
