//! The rows, by topic.
//!
//! A raw side is an `unsafe fn` without a condition that would make it sound: it is unsound on purpose, and runs in a
//! child that ends with it.
#![allow(unsafe_op_in_unsafe_fn, reason = "the raw sides are what a C programmer would write, and wrong as a whole")]

mod aborts;
mod adapters;
mod batches;
mod callbacks;
mod chat_templates;
mod contexts;
mod forks;
mod grammars;
mod handles;
mod in_graph;
mod lifetimes;
mod limits;
mod memory;
mod model_files;
mod null;
mod out_of_memory;
mod outputs;
mod positions;
mod routing;
mod samplers;
mod sequences;
mod shifts;
mod states;
mod text;
mod threads;

use crate::row::Row;

/// Every row, group by group.
pub fn all() -> impl Iterator<Item = &'static Row> {
    let groups = [
        handles::ROWS,
        null::ROWS,
        batches::ROWS,
        positions::ROWS,
        sequences::ROWS,
        outputs::ROWS,
        routing::ROWS,
        limits::ROWS,
        memory::ROWS,
        forks::ROWS,
        shifts::ROWS,
        samplers::ROWS,
        grammars::ROWS,
        in_graph::ROWS,
        text::ROWS,
        chat_templates::ROWS,
        contexts::ROWS,
        states::ROWS,
        adapters::ROWS,
        model_files::ROWS,
        threads::ROWS,
        lifetimes::ROWS,
        callbacks::ROWS,
        aborts::ROWS,
        out_of_memory::ROWS,
    ];
    groups.into_iter().flatten()
}
