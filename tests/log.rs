//! llama.cpp's log arrives as `tracing` events. A binary of its own: the log is the process's.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};

use fixtures::{Llama, Weights};
use llama_safe::{LoadError, Model, ModelParams};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

/// Keeps every event: its level, its target, its text.
#[derive(Clone, Default)]
struct Keep {
    events: Arc<Mutex<Vec<(Level, String, String)>>>,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            write!(self.0, "{value:?}").expect("a string takes any text");
        }
    }
}

impl Subscriber for Keep {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let metadata = event.metadata();
        self.events.lock().unwrap().push((*metadata.level(), metadata.target().to_owned(), text.0));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn the_log_arrives_line_by_line() {
    let keep = Keep::default();
    let gguf = Llama::tiny().gguf(Weights::F16, 1).unwrap();
    let error = tracing::subscriber::with_default(keep.clone(), || {
        Model::from_bytes(&gguf, &ModelParams::default()).unwrap();
        // An architecture that nobody knows: its own keys have another name then, too.
        let mut foreign = gguf.clone();
        let name = foreign.windows(13).position(|bytes| bytes == b"\x08\0\0\0\x05\0\0\0\0\0\0\0l").unwrap();
        foreign[name + 12] = b'k';
        Model::from_bytes(&foreign, &ModelParams::default()).map(drop).unwrap_err()
    });
    let events = keep.events.lock().unwrap();
    assert!(events.iter().all(|(_, target, text)| target == "llama.cpp" && !text.contains('\n')));
    assert!(events.iter().any(|(level, _, text)| *level == Level::DEBUG && text.contains("arch")), "{events:?}");
    // The typed error says what the log says.
    let LoadError::Rejected { reason } = error else { panic!("{error}") };
    let logged = |level: Level| events.iter().filter(move |event| event.0 == level).map(|event| event.2.clone());
    assert!(logged(Level::ERROR).count() > 0);
    for line in logged(Level::ERROR) {
        assert!(reason.contains(line.trim()), "{line:?} should be in {reason:?}");
    }
}

/// A subscriber that panics, with something that panics again when it is dropped.
struct Panics;

struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

impl Subscriber for Panics {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        std::panic::panic_any(Bomb);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Nothing unwinds through C++, which would end the process.
#[test]
fn a_subscriber_that_panics_is_not_heard() {
    let gguf = Llama::tiny().gguf(Weights::F16, 1).unwrap();
    tracing::subscriber::with_default(Panics, || Model::from_bytes(&gguf, &ModelParams::default())).unwrap();
}
