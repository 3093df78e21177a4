//! What is measured in this workspace: each side runs orders on a model file.

pub mod batch;
pub mod batched_bench;
pub mod c_loop;
pub mod engine;
pub mod server;
pub mod single;
