//! The child: limits on what it may use, and a handler that tells where it was when it died.
//!
//! A process that dies of a memory error must not be trusted with more than system calls: the handler takes no lock
//! that the dying thread may hold and allocates nothing. It writes bare addresses; the parent, the same program, knows
//! what they mean. One step is not on the list of what a handler may do: the unwinder looks for the tables of loaded
//! libraries, under a lock of the dynamic loader. A child that died in the loader would hang there until its time is up.

use std::ffi::{c_char, c_int, c_void};
use std::mem::{transmute, zeroed};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::row::{Outcome, Row};

/// Begins every line that is meant for the parent.
pub const MARK: &str = "\u{1}crash ";

/// Frames that are told.
const FRAMES: usize = 40;

/// Address space of a child.
pub const MEMORY: u64 = 4 << 30;

/// Processor time of a child, in seconds.
pub const SECONDS: u64 = 20;

/// The same where the row expects that it never ends.
pub const ENDLESS_SECONDS: u64 = 3;

/// Runs the raw side of `row`, and returns if it was harmless.
pub fn run(row: &Row) {
    limit(libc::RLIMIT_CORE, 0);
    limit(libc::RLIMIT_AS, MEMORY);
    limit(libc::RLIMIT_CPU, if matches!(row.outcome, Outcome::Endless { .. }) { ENDLESS_SECONDS } else { SECONDS });
    tell("base", anchor());
    // SAFETY: the attributes are made before they are used; the row and its function live as long as the program. The start
    // is declared without leave to unwind, and unwinds all the same: see `raw_side`.
    unsafe {
        llama_sys::llama_log_set(Some(quiet), ptr::null_mut());
        llama_sys::llama_backend_init();
        let start: extern "C-unwind" fn(*mut c_void) -> *mut c_void = raw_side;
        let start = transmute::<
            extern "C-unwind" fn(*mut c_void) -> *mut c_void,
            extern "C" fn(*mut c_void) -> *mut c_void,
        >(start);
        let (mut thread, mut attributes) = (zeroed(), zeroed());
        libc::pthread_attr_init(&raw mut attributes);
        libc::pthread_attr_setstacksize(&raw mut attributes, 8 << 20);
        let raw = (&raw const row.raw).cast_mut().cast();
        let failed = libc::pthread_create(&raw mut thread, &raw const attributes, start, raw);
        assert_eq!(failed, 0, "a thread for the raw side");
        libc::pthread_join(thread, ptr::null_mut());
    }
}

/// A thread of its own for the raw side, with nobody above it who would catch anything: as in a program in C, the C++
/// runtime then finds no handler for an exception, says what it is, and ends the process.
extern "C-unwind" fn raw_side(raw: *mut c_void) -> *mut c_void {
    handle_signals();
    // SAFETY: nothing of it is sound, which is what the row is about; this process ends with it.
    unsafe { (*raw.cast::<unsafe fn()>())() };
    ptr::null_mut()
}

/// Ends the child: the call returned, and its result is wrong.
pub fn wrong(what: &str) -> ! {
    write_all(format!("{MARK}wrong {}\n", what.replace('\n', " ")).as_bytes());
    // SAFETY: ends the process without running what C++ registered, which may stumble over what the raw side left behind.
    unsafe { libc::_exit(0) }
}

/// An address of this program that the parent knows as well.
pub fn anchor() -> usize {
    run as fn(&Row) as usize
}

unsafe extern "C" fn quiet(_: llama_sys::ggml_log_level, _: *const c_char, _: *mut c_void) {}

/// Lowers a limit, and its ceiling to a little more, so that a time limit comes as a signal that can be handled.
fn limit(resource: libc::__rlimit_resource_t, most: u64) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: if most == 0 { 0 } else { most.saturating_add(2) } };
    // SAFETY: the structure is whole.
    unsafe { libc::setrlimit(resource, &limit) };
}

fn handle_signals() {
    const STACK: usize = 1 << 20;
    // SAFETY: a mapping of its own for the handler's stack, which is never given back; the action is whole.
    unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let stack = libc::mmap(ptr::null_mut(), STACK, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        assert!(stack != libc::MAP_FAILED, "no memory for the handler's stack");
        libc::sigaltstack(&libc::stack_t { ss_sp: stack, ss_flags: 0, ss_size: STACK }, ptr::null_mut());
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = died as unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGABRT, libc::SIGFPE, libc::SIGILL, libc::SIGXCPU] {
            libc::sigaction(signal, &action, ptr::null_mut());
        }
    }
}

/// Tells the parent what is known, and dies of the same signal.
unsafe extern "C" fn died(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the system hands over a whole `info` and `context`.
    let (address, place, stack) = unsafe {
        let context = &*context.cast::<libc::ucontext_t>();
        ((*info).si_addr() as usize, program_counter(context), stack_pointer(context))
    };
    tell("place", place);
    if signal == libc::SIGSEGV {
        if address == place {
            tell("jump", place);
        }
        if stack.abs_diff(address) < 1 << 16 {
            tell("overflow", stack);
        }
        for (index, guard) in GUARDS.iter().enumerate() {
            let guard = guard.load(Ordering::Relaxed);
            if guard != 0 && (guard..guard + crate::raw::PAGE).contains(&address) {
                tell("guard", index);
            }
        }
    }
    let mut left = FRAMES;
    // SAFETY: only this thread is in the handler, and it does not come back.
    unsafe {
        backtrace::trace_unsynchronized(|frame| {
            tell("frame", frame.ip() as usize);
            left -= 1;
            left > 0
        });
        // The default action has been restored.
        libc::raise(signal);
    }
}

#[cfg(target_arch = "x86_64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RSP as usize] as usize
}

#[cfg(target_arch = "x86_64")]
fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

#[cfg(target_arch = "aarch64")]
fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

#[cfg(target_arch = "aarch64")]
fn stack_pointer(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.sp as usize
}

/// Pages that nobody may touch, in the order of [`ARRAYS`].
static GUARDS: [AtomicUsize; ARRAYS.len()] = [const { AtomicUsize::new(0) }; ARRAYS.len()];

/// The arrays that a page can be put behind.
pub const ARRAYS: [&str; 10] =
    ["token", "embd", "pos", "n_seq_id", "seq_id", "logits", "text", "state", "destination", "parameters"];

/// The page at `page` lies behind `array`.
pub fn guard(array: &str, page: usize) {
    let index = ARRAYS.iter().position(|name| *name == array).expect("an array of the list");
    GUARDS[index].store(page, Ordering::Relaxed);
}

/// Writes a line of a word and a number, with system calls alone.
fn tell(word: &str, number: usize) {
    let mut digits = *b"0000000000000000\n";
    for (index, digit) in digits[..16].iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * (15 - index))) & 15];
    }
    for part in [MARK.as_bytes(), word.as_bytes(), b" ", &digits] {
        write_all(part);
    }
}

fn write_all(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: the bytes are readable for their length.
        let written = unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(written) {
            Ok(written) if written > 0 => bytes = &bytes[written..],
            _ => return,
        }
    }
}
