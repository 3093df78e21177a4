//! What a row of the table says: plain data, and two functions.

use llama_safe::Context;

use crate::safe::Setup;

/// What a misuse is about: a heading of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Group {
    Handles,
    Batches,
    Positions,
    Sequences,
    Outputs,
    Routing,
    Limits,
    Memory,
    Forks,
    Shifts,
    Samplers,
    Grammars,
    InGraph,
    Text,
    ChatTemplates,
    Contexts,
    States,
    Adapters,
    ModelFiles,
    Threads,
    Lifetimes,
    Callbacks,
    Aborts,
    OutOfMemory,
}

impl Group {
    /// The first part of a test's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Handles => "handles",
            Self::Batches => "batches",
            Self::Positions => "positions",
            Self::Sequences => "sequences",
            Self::Outputs => "outputs",
            Self::Routing => "routing",
            Self::Limits => "limits",
            Self::Memory => "memory",
            Self::Forks => "forks",
            Self::Shifts => "shifts",
            Self::Samplers => "samplers",
            Self::Grammars => "grammars",
            Self::InGraph => "in_graph",
            Self::Text => "text",
            Self::ChatTemplates => "chat_templates",
            Self::Contexts => "contexts",
            Self::States => "states",
            Self::Adapters => "adapters",
            Self::ModelFiles => "model_files",
            Self::Threads => "threads",
            Self::Lifetimes => "lifetimes",
            Self::Callbacks => "callbacks",
            Self::Aborts => "aborts",
            Self::OutOfMemory => "out_of_memory",
        }
    }
}

/// One misuse of the raw API.
pub struct Row {
    pub group: Group,
    /// Unique within its group.
    pub name: &'static str,
    /// What is done, in words.
    pub done: &'static str,
    /// The C function that fails, then others that the misuse needs: the row covers all of them.
    pub functions: &'static [&'static str],
    /// What is done to memory below that, or what takes its place.
    pub operation: &'static str,
    /// What the raw side comes to, exactly.
    pub outcome: Outcome,
    /// Does it, in a process of its own.
    pub raw: unsafe fn(),
    /// The same attempt through the safe layer.
    pub safe: Safe,
}

impl Row {
    /// The name of its test.
    pub fn title(&self) -> String {
        format!("{}::{}", self.group.name(), self.name)
    }
}

/// What the raw side comes to. `at` is a file and line of the pinned llama.cpp.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Outcome {
    /// A read or write of an address that is not there, in or below the row's function.
    Segfault { at: &'static str },
    /// A read or write past the end of an array, caught by the page behind it, which nobody may touch.
    GuardPage { array: &'static str, at: &'static str },
    /// A read of a mapped file where the file has ended.
    Bus { at: &'static str },
    /// Rust's own end of the process, with this in its message.
    Panic { says: &'static str, at: &'static str },
    /// A division by zero.
    Division { at: &'static str },
    /// The stack is used up.
    StackOverflow { at: &'static str },
    /// The allocator notices what was done to it, and ends the process.
    Heap,
    /// `GGML_ASSERT` or `GGML_ABORT`: file, line and text as printed.
    Assertion { at: &'static str, says: &'static str },
    /// A C++ exception without a handler: its type, and its text or a part of it.
    Exception { kind: &'static str, says: &'static str, at: &'static str },
    /// The call returns, and its result is wrong: the raw side compares it with the right one.
    Wrong { at: &'static str },
    /// The call does not return within the time or the memory that the child may use.
    Endless { at: &'static str },
}

/// The attempt through the safe layer, and what it comes to.
pub enum Safe {
    /// An error, as `Debug` prints it after its type's name. `..` stands for anything.
    Refused { error: &'static str, on: Setup, attempt: fn(&mut Context) -> String },
    /// The right result, compared in the attempt; `why` says what makes it right.
    Right { why: &'static str, on: Setup, attempt: fn(&mut Context) },
    /// It does not compile: a doctest in this file of `llama-safe/src` shows it, by the line given here.
    Unwritable { file: &'static str, line: &'static str },
}
