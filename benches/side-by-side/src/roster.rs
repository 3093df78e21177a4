//! Which sides there are, and how each is started. A new one is a row here: a program that speaks the [protocol](crate::protocol).

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::protocol::Order;
use crate::workload::UNIFORM;

/// The side that the others are held against.
pub const REFERENCE: &str = "c-loop";
/// The side that the others are held against where requests are served as they come.
pub const SERVED_REFERENCE: &str = "single";
/// The sides that are this library as it is to be used.
pub const OURS: [&str; 2] = ["batch", "engine"];

/// A side: its name, and the program with the arguments that come before the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// As tables call it.
    pub name: String,
    /// Program and arguments.
    pub program: Vec<OsString>,
    /// It takes no more requests of an order than this, where all are of the same lengths and there at once: one that computes them one
    /// after the other is as fast with few as with many.
    pub most_requests: Option<usize>,
    /// The orders that it is asked for.
    pub takes: Takes,
    /// Its tokens have to be those of [`REFERENCE`]: it calls the same kernels with the same batches.
    pub same_tokens: bool,
    /// Whether the kernels for small batches are left in use, where it has them.
    pub kernels: bool,
}

/// Orders by how their requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// Those whose requests all run at once.
    AtOnce,
    /// Those whose requests are served as they come: as clients get to them, or over time.
    Served,
    /// All.
    Both,
}

impl Side {
    /// Whether it is asked for an order.
    #[must_use]
    pub fn takes(&self, order: &Order) -> bool {
        match self.takes {
            Takes::AtOnce => !is_served(order),
            Takes::Served => is_served(order),
            Takes::Both => true,
        }
    }

    /// The process on a model.
    #[must_use]
    pub fn command(&self, model: &Path) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).arg(model);
        if !self.kernels {
            command.env("LLAMA_KERNELS", "off");
        }
        command
    }
}

/// Whether requests are served as they come.
#[must_use]
pub fn is_served(order: &Order) -> bool {
    order.workload != UNIFORM
}

/// The side that the others are held against in an order.
#[must_use]
pub fn reference(order: &Order) -> &'static str {
    if is_served(order) { SERVED_REFERENCE } else { REFERENCE }
}

/// Requests that the side without batching computes, at most.
const SINGLE_REQUESTS: usize = 4;

/// The sides of this workspace, the reference first. Their program lies beside this one.
///
/// # Errors
///
/// Where this program does not know where it is.
pub fn ours() -> Result<Vec<Side>> {
    let side = side_program()?;
    let row = |name: &str, most_requests, takes, same_tokens| Side {
        name: name.to_owned(),
        program: vec![side.clone().into(), name.into()],
        most_requests,
        takes,
        same_tokens,
        kernels: true,
    };
    // llama.cpp's own kernels round in another way.
    let stock =
        |of: &Side| Side { name: format!("{}-stock", of.name), same_tokens: false, kernels: false, ..of.clone() };
    let (c_loop, batch) = (row(REFERENCE, None, Takes::AtOnce, true), row("batch", None, Takes::AtOnce, true));
    let (c_loop_stock, batch_stock) = (stock(&c_loop), stock(&batch));
    Ok(vec![
        c_loop,
        batch,
        c_loop_stock,
        batch_stock,
        row(SERVED_REFERENCE, Some(SINGLE_REQUESTS), Takes::Both, false),
        row("engine", None, Takes::Both, false),
    ])
}

fn side_program() -> Result<PathBuf> {
    let program = env::current_exe().context("where this program is")?;
    Ok(program.with_file_name(format!("side{}", env::consts::EXE_SUFFIX)))
}

/// A program of llama.cpp's own whose binary the user has: `batched-bench` or `server`, called `llama-..` in tables.
///
/// # Errors
///
/// Where this program does not know where it is.
pub fn llama_cpp_program(kind: &str, program: &Path) -> Result<Side> {
    Ok(Side {
        name: format!("llama-{kind}"),
        program: vec![side_program()?.into(), kind.into(), program.into()],
        most_requests: None,
        takes: if kind == "server" { Takes::Served } else { Takes::AtOnce },
        same_tokens: false,
        kernels: true,
    })
}

/// llama-cpp-2, built in release mode: with its default features as cargo builds it, and with what makes it fastest on a CPU. Only what
/// is wanted is built.
///
/// # Errors
///
/// Where cargo fails.
pub fn llama_cpp_2(target: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Side>> {
    let builds: [(&str, &[&str], Option<&str>); 2] =
        [("llama-cpp-2", &[], None), ("llama-cpp-2-native", &["--no-default-features"], Some("-C target-cpu=native"))];
    let wanted = builds.into_iter().filter(|(name, ..)| is_wanted(name));
    wanted.map(|(name, arguments, rustflags)| peer(target, name, arguments, rustflags)).collect()
}

/// Builds the program in `benches/llama-cpp-2` into a target directory of its own.
fn peer(target: &Path, name: &str, arguments: &[&str], rustflags: Option<&str>) -> Result<Side> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../llama-cpp-2");
    let target = target.join("peers").join(name);
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(&package).args(["build", "--release", "--locked", "--quiet"]).args(arguments);
    cargo.env("CARGO_TARGET_DIR", &target).env_remove("RUSTFLAGS");
    if let Some(flags) = rustflags {
        cargo.env("RUSTFLAGS", flags);
    }
    let status = cargo.status().context("starting cargo")?;
    if !status.success() {
        bail!("building {name}: {status}");
    }
    let program = target.join("release").join(format!("llama-cpp-2-side{}", env::consts::EXE_SUFFIX));
    Ok(Side {
        name: name.to_owned(),
        program: vec![program.into()],
        most_requests: None,
        takes: Takes::AtOnce,
        same_tokens: false,
        kernels: true,
    })
}

/// A side from outside, as `NAME=PROGRAM`.
///
/// # Errors
///
/// Text of another form.
pub fn external(text: &str) -> Result<Side> {
    match text.split_once('=') {
        Some((name, program)) if !name.is_empty() && !program.is_empty() => Ok(Side {
            name: name.to_owned(),
            program: vec![PathBuf::from(program).into()],
            most_requests: None,
            takes: Takes::AtOnce,
            same_tokens: false,
            kernels: true,
        }),
        _ => bail!("a side is NAME=PROGRAM, not {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_from_outside_have_a_name_and_a_program() {
        let side = external("engine=/opt/engine").unwrap();
        assert_eq!(side.name, "engine");
        let command = side.command(Path::new("m.gguf"));
        assert_eq!(command.get_program(), "/opt/engine");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["m.gguf"]);
        assert!(command.get_envs().next().is_none());
        for bad in ["engine", "=program", "engine="] {
            assert!(external(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_reference_comes_first() {
        let sides = ours().unwrap();
        assert_eq!(sides[0].name, REFERENCE);
        assert!(sides.iter().any(|side| side.name == OURS[0] && side.same_tokens));
        let stock = sides.iter().find(|side| side.name == "batch-stock").unwrap();
        let command = stock.command(Path::new("m.gguf"));
        assert_eq!(command.get_envs().next(), Some(("LLAMA_KERNELS".as_ref(), Some("off".as_ref()))));
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["batch", "m.gguf"]);
    }
}
