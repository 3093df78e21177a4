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

/// Has every thread's events go to standard output, and fails an assertion of ggml's.
fn fail_an_assertion(subscriber: impl Subscriber + Send + Sync) {
    tracing::subscriber::set_global_default(subscriber).expect("the first");
    assert_eq!(llama_safe::devices().len(), 1);
    // SAFETY: none: it is to end the process.
    unsafe { llama_sys::ggml_backend_dev_get(usize::MAX) };
}

/// Prints every event on a line, which the parent reads when this process has ended.
struct Print;

impl Subscriber for Print {
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
        println!("LOGGED {} {} {}", event.metadata().level(), event.metadata().target(), text.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// What ends the process is told to the log before it does, also to one that panics.
#[test]
fn a_failed_assertion_is_logged_before_the_process_ends() {
    const CHILD: &str = "LOG_CHILD";
    match std::env::var(CHILD).as_deref() {
        Ok("prints") => return fail_an_assertion(Print),
        Ok(_) => return fail_an_assertion(Panics),
        Err(_) => {}
    }
    for how in ["prints", "panics"] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_failed_assertion_is_logged_before_the_process_ends", "--nocapture"]);
        let output = command.env(CHILD, how).env("GGML_NO_BACKTRACE", "1").output().unwrap();
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let what = format!("{how}: {}\n{text}\n{errors}", output.status);
        assert!(!output.status.success(), "{what}");
        #[cfg(unix)]
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(6), "SIGABRT: {what}");
        let assertion = "GGML_ASSERT(index < ggml_backend_dev_count()) failed";
        assert!(errors.contains(assertion), "on standard error as without a log: {what}");
        let logged = |line: &str| line.contains("LOGGED ERROR llama.cpp ") && line.ends_with(assertion);
        assert_eq!(text.lines().any(logged), how == "prints", "{what}");
    }
}
