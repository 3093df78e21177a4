//! Memory that C++ asks for and does not get: an exception out of the middle of a decode, which is what an abort is not. A
//! binary of its own, in which `operator new` is ours.
#![cfg(all(target_os = "linux", target_env = "gnu"))]

#[path = "families/scene.rs"]
mod scene;
#[path = "families/scratch.rs"]
mod scratch;

use std::cell::Cell;
use std::ffi::c_void;

use batch_suite::{exact_params, is_leak_check, params, prompt, still_works, tiny};
use fixtures::{Family, Weights};
use llama_safe::{Context, KvLayout, Model, ModelParams, Special};

use scene::{Fault, disturb};

thread_local! {
    /// Allocations of this thread until one fails; `None` for none.
    static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    /// Whether all fail after the first.
    static STAYS: Cell<bool> = const { Cell::new(false) };
}

/// The allocation after the next `place` fails, and if it `stays`, all after it.
fn fail_at(place: u32, stays: bool) {
    STAYS.set(stays);
    LEFT.set(Some(place));
}

fn stop_failing() {
    LEFT.set(None);
}

unsafe extern "C-unwind" {
    /// libstdc++'s `std::__throw_bad_alloc()`.
    #[link_name = "_ZSt17__throw_bad_allocv"]
    fn throw_bad_alloc() -> !;
}

unsafe extern "C" {
    fn aligned_alloc(alignment: usize, size: usize) -> *mut c_void;
    fn malloc(size: usize) -> *mut c_void;
    fn free(pointer: *mut c_void);
}

fn count() {
    match LEFT.get() {
        None => {}
        Some(0) => {
            if !STAYS.get() {
                LEFT.set(None);
            }
            // SAFETY: throws through this function and `operator new`, neither of which has anything to drop.
            unsafe { throw_bad_alloc() }
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}

/// Memory of malloc's, for every form of `operator new`.
fn allocate(size: usize, alignment: usize) -> *mut c_void {
    count();
    let size = size.max(1);
    let pointer = match alignment {
        // SAFETY: any size.
        0 => unsafe { malloc(size) },
        // SAFETY: C++ passes powers of two, and the size is rounded up to a multiple, as glibc does not need.
        _ => unsafe { aligned_alloc(alignment, size.next_multiple_of(alignment)) },
    };
    if pointer.is_null() {
        // SAFETY: as in `count`.
        unsafe { throw_bad_alloc() }
    }
    pointer
}

/// The operators of C++ that every library of this process calls, by the names that they have there.
mod operators {
    use std::ffi::c_void;

    use super::{allocate, free};

    #[unsafe(no_mangle)]
    extern "C-unwind" fn _Znwm(size: usize) -> *mut c_void {
        allocate(size, 0)
    }

    #[unsafe(no_mangle)]
    extern "C-unwind" fn _Znam(size: usize) -> *mut c_void {
        allocate(size, 0)
    }

    #[unsafe(no_mangle)]
    extern "C-unwind" fn _ZnwmSt11align_val_t(size: usize, alignment: usize) -> *mut c_void {
        allocate(size, alignment)
    }

    #[unsafe(no_mangle)]
    extern "C-unwind" fn _ZnamSt11align_val_t(size: usize, alignment: usize) -> *mut c_void {
        allocate(size, alignment)
    }

    macro_rules! deletes {
        ($($name:ident($($ignored:ident),*);)*) => {$(
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name(pointer: *mut c_void $(, $ignored: usize)*) {
                $(let _ = $ignored;)*
                // SAFETY: all of it is `allocate`'s, or NULL.
                unsafe { free(pointer) }
            }
        )*};
    }

    deletes! {
        _ZdlPv();
        _ZdaPv();
        _ZdlPvm(_size);
        _ZdaPvm(_size);
        _ZdlPvSt11align_val_t(_alignment);
        _ZdaPvSt11align_val_t(_alignment);
        _ZdlPvmSt11align_val_t(_size, _alignment);
        _ZdaPvmSt11align_val_t(_size, _alignment);
    }
}

const FAULTS: [Fault; 2] = [
    Fault {
        name: "one allocation that fails",
        arm: |_, place| fail_at(place, false),
        disarm: |_| stop_failing(),
        spares_others: false,
    },
    Fault {
        name: "no more memory until the decode is over",
        arm: |_, place| fail_at(place, true),
        disarm: |_| stop_failing(),
        spares_others: false,
    },
];

/// Decodes of several passes, with memory that runs out at places all over them: all of them where `EVERY_PLACE` is set, and
/// otherwise one of eleven, which is each kind of allocation.
fn is_undone_or_told(which: Family) {
    let step = match (is_leak_check(), std::env::var_os("EVERY_PLACE")) {
        (true, _) => 97,
        (false, None) => 11,
        (false, Some(_)) => 1,
    };
    for layout in [KvLayout::Split, KvLayout::Unified] {
        for fault in &FAULTS {
            let pass = if which == Family::Gemma && layout == KvLayout::Unified { 64 } else { 8 };
            let settings = params().sequences(4).context_tokens(4 * 256).batch_tokens(64).micro_batch_tokens(pass);
            let what = (&[5, 9, 7][..], &[(1, 20)][..]);
            let tally = disturb(which, &settings.kv_layout(layout), what, fault, (0..).step_by(step));
            println!("{which}, {layout:?}, {}: {tally:?}", fault.name);
            assert!(tally.finished == 2 && tally.clean + tally.damaging > 2, "{tally:?}");
        }
    }
}

#[test]
fn llama_decode() {
    is_undone_or_told(Family::Llama);
}

#[test]
fn gemma_decode() {
    is_undone_or_told(Family::Gemma);
}

#[test]
fn mamba_decode() {
    is_undone_or_told(Family::Mamba);
}

#[test]
fn rwkv_decode() {
    is_undone_or_told(Family::Rwkv);
}

#[test]
fn hybrid_decode() {
    is_undone_or_told(Family::Hybrid);
}

/// What a call gives when memory runs out at one place after the other: an error or a result, and a context that goes on.
fn each_place(what: &str, mut call: impl FnMut() -> bool) {
    let mut failed = 0;
    for place in (0..).step_by(if is_leak_check() { 97 } else { 3 }) {
        fail_at(place, place % 2 == 0);
        let worked = call();
        let done = LEFT.get().is_some_and(|left| left > 0);
        stop_failing();
        failed += u32::from(!worked);
        if done {
            assert!(worked, "{what}: no allocation failed, but the call did");
            break;
        }
    }
    println!("{what}: {failed} failed");
}

#[test]
fn making_models_and_contexts() {
    let gguf = fixtures::Llama::tiny().gguf(Weights::F32, 1).unwrap();
    each_place("a model", || Model::from_bytes(&gguf, &ModelParams::default()).is_ok());
    each_place("a context", || Context::new(&tiny(Weights::F32), &exact_params()).is_ok());
    each_place("tokens", || tiny(Weights::F32).tokenize("once upon a time", Special::Bos).is_ok());
    each_place("text", || tiny(Weights::F32).detokenize(&prompt(1, 9)).is_ok());
    let text = llama_safe::system_info();
    each_place("information", || llama_safe::system_info() == text);
    each_place("devices", || llama_safe::devices().len() == 1);
    still_works(&mut Context::new(&tiny(Weights::F32), &exact_params()).unwrap());
}

#[test]
fn memory_states_and_steering() {
    for layout in [KvLayout::Split, KvLayout::Unified] {
        let settings = exact_params().sequences(4).kv_layout(layout);
        let mut context = Context::new(&tiny(Weights::F32), &settings).unwrap();
        let sequence = context.new_sequence().unwrap();
        let mut batch = context.new_batch();
        batch.extend(&sequence, &prompt(1, 20)).unwrap();
        context.decode(&mut batch).unwrap();
        let state = context.save(&sequence).unwrap();
        each_place("fork", || context.fork(&sequence).is_ok());
        each_place("fork of a part", || context.fork_prefix(&sequence, 7).is_ok());
        each_place("save", || context.save(&sequence).is_ok());
        each_place("restore", || context.restore(&state).is_ok());
        each_place("shift", || {
            let fork = context.restore(&state);
            fork.is_ok_and(|fork| context.shift(&fork, 2..5).is_ok())
        });
        each_place("truncate", || context.truncate(&sequence, sequence.len() - 1).is_ok());
        each_place("clear", || context.clear(&sequence).is_ok());
        each_place("clear_all", || context.clear_all().is_ok());
        still_works(&mut context);
        // One that fails spoils the context for others, which it then says.
        each_place("control vector", || {
            LEFT.take().is_some_and(|place| {
                let mut context = Context::new(&tiny(Weights::F32), &settings).unwrap();
                let directions = vec![0.0; context.model().width() as usize];
                LEFT.set(Some(place));
                let set = context.set_control_vector(&directions, 1..=1);
                let left = LEFT.take();
                still_works(&mut context);
                LEFT.set(left);
                set.is_ok()
            })
        });
    }
}
