//! What is to be built. The only reader of the environment.

use std::env;
use std::path::PathBuf;

/// How llama.cpp is linked into the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Linkage {
    Static,
    Shared,
}

/// What cargo and the user ask for.
#[derive(Debug)]
pub struct Config {
    /// This package's folder.
    pub manifest_dir: PathBuf,
    /// Where cargo wants this build script's files.
    pub out_dir: PathBuf,
    /// Target triple.
    pub target: String,
    /// The target's operating system, in cargo's words.
    pub target_os: String,
    /// The user's own llama.cpp checkout.
    pub llama_cpp_dir: Option<PathBuf>,
    /// The cargo that runs this build.
    pub cargo: PathBuf,
    /// Static or shared libraries.
    pub linkage: Linkage,
    /// Use every instruction of this machine's processor.
    pub native_instructions: bool,
    /// Enabled backends and options, in a fixed order: (cargo feature, CMake variable).
    pub switches: Vec<(&'static str, &'static str)>,
    /// Only bindings are wanted: a documentation build.
    pub documentation_only: bool,
}

/// Cargo features that are passed on as they are.
const SWITCHES: [(&str, &str); 7] = [
    ("openmp", "GGML_OPENMP"),
    ("blas", "GGML_BLAS"),
    ("cuda", "GGML_CUDA"),
    ("vulkan", "GGML_VULKAN"),
    ("metal", "GGML_METAL"),
    ("rocm", "GGML_HIP"),
    ("rpc", "GGML_RPC"),
];

impl Config {
    /// Reads cargo's and the user's variables.
    pub fn from_environment() -> Result<Self, String> {
        let target = required("TARGET")?;
        let host = required("HOST")?;
        Ok(Self {
            manifest_dir: required("CARGO_MANIFEST_DIR")?.into(),
            out_dir: required("OUT_DIR")?.into(),
            target_os: required("CARGO_CFG_TARGET_OS")?,
            llama_cpp_dir: env::var_os("LLAMA_CPP_DIR").map(PathBuf::from),
            cargo: required("CARGO")?.into(),
            linkage: if feature("shared") && !feature("static") { Linkage::Shared } else { Linkage::Static },
            native_instructions: host == target && !feature("portable"),
            switches: SWITCHES.into_iter().filter(|(name, _)| feature(name)).collect(),
            documentation_only: env::var_os("DOCS_RS").is_some(),
            target,
        })
    }

    /// Tells cargo what this build depends on, so that nothing else starts it again.
    pub fn watch_inputs(&self) {
        for variable in ["LLAMA_CPP_DIR", "DOCS_RS", "LIBCLANG_PATH", "CC", "CXX", "CFLAGS", "CXXFLAGS"] {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        for path in ["build", "shim", "../vendor/Cargo.toml", "../vendor/Cargo.lock"] {
            println!("cargo::rerun-if-changed={}", self.manifest_dir.join(path).display());
        }
        if let Some(checkout) = &self.llama_cpp_dir {
            for folder in ["include", "src", "ggml"] {
                println!("cargo::rerun-if-changed={}", checkout.join(folder).display());
            }
        }
    }

    /// Whether a cargo feature of the `SWITCHES` table is on.
    pub fn has(&self, name: &str) -> bool {
        self.switches.iter().any(|(switch, _)| *switch == name)
    }

    /// All that decides what the C++ build produces; two builds with the same text can share one tree.
    pub fn fingerprint(&self) -> String {
        format!("{} {:?} native={} {:?}", self.target, self.linkage, self.native_instructions, self.switches)
    }
}

fn feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some()
}

fn required(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name} should be set by cargo: {error}"))
}
