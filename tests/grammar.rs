//! Grammars: what they allow is right, what they refuse says why, and nothing they are given costs more than it may.

#[path = "grammar/bounds.rs"]
mod bounds;
#[path = "grammar/chain.rs"]
mod chain;
#[path = "grammar/draw.rs"]
mod draw;
#[path = "grammar/lazy.rs"]
mod lazy;
#[path = "grammar/oracle.rs"]
mod oracle;
#[path = "grammar/refused.rs"]
mod refused;
#[path = "grammar/samples.rs"]
mod samples;
#[path = "grammar/schema.rs"]
mod schema;
#[path = "grammar/state.rs"]
mod state;
#[path = "grammar/vocabularies.rs"]
mod vocabularies;
