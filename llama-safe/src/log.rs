//! llama.cpp's log: into `tracing`, and its last errors kept so that a typed error can say what llama.cpp said.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
#[cfg(feature = "tracing")]
use std::panic::{AssertUnwindSafe, catch_unwind};

use llama_sys as sys;

thread_local! {
    static LOG: RefCell<Log> = const { RefCell::new(Log::EMPTY) };
}

/// What one thread has logged. llama.cpp logs on the thread that calls it.
struct Log {
    level: sys::ggml_log_level,
    /// The line so far: llama.cpp sends lines in pieces.
    line: String,
    /// Errors since [`forget_errors`].
    errors: String,
    /// Which overrides of metadata were used since then.
    overrides: String,
    /// Whether nobody is told.
    quiet: bool,
}

impl Log {
    const EMPTY: Self = Self {
        level: sys::GGML_LOG_LEVEL_NONE,
        line: String::new(),
        errors: String::new(),
        overrides: String::new(),
        quiet: false,
    };
}

/// Longest text of errors kept.
const MOST_ERRORS: usize = 2000;

/// Sends all of llama.cpp's log through [`on_log`], and the text of an assertion that fails, before it ends the process.
pub(crate) fn install() {
    // SAFETY: `on_log` lives as long as the program, never unwinds, and does not look at its user data.
    unsafe { sys::llama_log_set(Some(on_log), std::ptr::null_mut()) };
    // SAFETY: the log is in place.
    unsafe { sys::guard_log_aborts() };
}

/// Forgets the errors that this thread has logged.
pub(crate) fn forget_errors() {
    LOG.with_borrow_mut(|log| {
        log.errors.clear();
        log.overrides.clear();
    });
}

/// Whether llama.cpp has said, since [`forget_errors`], that it used an override of this key. It says so nowhere else
/// (llama-model-loader.cpp:178).
pub(crate) fn says_override_of(key: &str) -> bool {
    LOG.with_borrow(|log| log.overrides.contains(&format!("'{key}' = ")))
}

/// The errors that this thread has logged since [`forget_errors`]; `fallback` if there are none.
pub(crate) fn errors_or(fallback: &str) -> String {
    let errors = LOG.with_borrow_mut(|log| std::mem::take(&mut log.errors));
    let errors = errors.trim();
    if errors.is_empty() { fallback.to_owned() } else { errors.to_owned() }
}

/// Runs a function of the user's in the middle of a call: what it has llama.cpp log is not that call's.
pub(crate) fn aside<T>(function: impl FnOnce() -> T) -> T {
    let kept = LOG.try_with(|log| log.try_borrow_mut().ok().map(|mut log| std::mem::replace(&mut *log, Log::EMPTY)));
    let result = function();
    if let Ok(Some(kept)) = kept {
        let _ = LOG.try_with(|log| log.try_borrow_mut().map(|mut log| *log = kept));
    }
    result
}

/// Runs a call of which nobody is told, and which may forget and read its own errors.
pub(crate) fn quietly<T>(call: impl FnOnce() -> T) -> T {
    aside(|| {
        LOG.with_borrow_mut(|log| log.quiet = true);
        call()
    })
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a terminated string that lives for the call.
    let text = unsafe { CStr::from_ptr(text) };
    record(level, &text.to_string_lossy());
}

fn record(level: sys::ggml_log_level, text: &str) {
    let complete = LOG
        .try_with(|log| {
            // Borrowed already if a subscriber calls back into llama.cpp: that line is lost.
            let mut log = log.try_borrow_mut().ok()?;
            if level != sys::GGML_LOG_LEVEL_CONT {
                log.level = level;
            }
            log.line.push_str(text);
            log.line.ends_with('\n').then(|| (log.level, log.quiet, std::mem::take(&mut log.line)))
        })
        .ok()
        .flatten();
    let Some((level, quiet, mut line)) = complete else { return };
    if !quiet {
        aside(|| emit(level, line.trim_end()));
    }
    let _ = LOG.try_with(|log| {
        if let Ok(mut log) = log.try_borrow_mut() {
            if level == sys::GGML_LOG_LEVEL_ERROR && log.errors.len() + line.len() < MOST_ERRORS {
                log.errors.push_str(&line);
            }
            if line.contains("Using metadata override") {
                log.overrides.push_str(&line);
            }
            // The buffer goes back, so that logging does not allocate line after line.
            if log.line.is_empty() {
                line.clear();
                log.line = line;
            }
        }
    });
}

/// A warning of this crate's own, beside those of llama.cpp.
pub(crate) fn warn(line: &str) {
    emit(sys::GGML_LOG_LEVEL_WARN, line);
}

/// What this crate has decided, beside llama.cpp's own information.
pub(crate) fn tell(line: &str) {
    emit(sys::GGML_LOG_LEVEL_INFO, line);
}

/// Gives a line to the `tracing` subscriber. A panic of it goes no further: not through C++, nor out of a call that only wanted to
/// tell something. There is nobody here to tell about it.
#[cfg(feature = "tracing")]
fn emit(level: sys::ggml_log_level, line: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| event(level, line))) {
        // Its own drop might panic as well.
        std::mem::forget(panic);
    }
}

#[cfg(feature = "tracing")]
fn event(level: sys::ggml_log_level, line: &str) {
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::error!(target: "llama.cpp", "{line}"),
        sys::GGML_LOG_LEVEL_WARN => tracing::warn!(target: "llama.cpp", "{line}"),
        // What llama.cpp calls information is a page for every model: detail to a program that embeds it.
        sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama.cpp", "{line}"),
        _ => tracing::trace!(target: "llama.cpp", "{line}"),
    }
}

#[cfg(not(feature = "tracing"))]
fn emit(_: sys::ggml_log_level, _: &str) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_become_a_line_and_errors_are_kept() {
        forget_errors();
        record(sys::GGML_LOG_LEVEL_ERROR, "no ");
        record(sys::GGML_LOG_LEVEL_CONT, "room\n");
        record(sys::GGML_LOG_LEVEL_INFO, "unrelated\n");
        assert_eq!(errors_or("?"), "no room");
        assert_eq!(errors_or("?"), "?");
    }

    #[test]
    fn a_quiet_call_has_errors_of_its_own() {
        forget_errors();
        record(sys::GGML_LOG_LEVEL_ERROR, "of the caller\n");
        let own = quietly(|| {
            record(sys::GGML_LOG_LEVEL_ERROR, "of the call\n");
            errors_or("?")
        });
        assert_eq!((own.as_str(), errors_or("?").as_str()), ("of the call", "of the caller"));
        assert!(!LOG.with_borrow(|log| log.quiet));
    }
}
