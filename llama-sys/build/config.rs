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
    /// Our own kernels for small batches.
    pub kernels: bool,
    /// Enabled backends and options, in a fixed order: (cargo feature, CMake variable).
    pub switches: Vec<(&'static str, &'static str)>,
    /// Sanitizers to compile the C++ with, as the compiler's `-fsanitize=` takes them. Whoever builds with them links their
    /// runtime: `cargo xtask` does.
    pub sanitizers: Option<String>,
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
            kernels: feature("kernels"),
            switches: SWITCHES.into_iter().filter(|(name, _)| feature(name)).collect(),
            sanitizers: env::var("LLAMA_CPP_SANITIZE").ok().filter(|list| !list.is_empty()),
            documentation_only: env::var_os("DOCS_RS").is_some(),
            target,
        })
    }

    /// Tells cargo what this build depends on, so that nothing else starts it again.
    pub fn watch_inputs(&self) {
        let compilers = ["CC", "CXX", "CFLAGS", "CXXFLAGS"];
        for variable in ["LLAMA_CPP_DIR", "LLAMA_CPP_SANITIZE", "DOCS_RS", "LIBCLANG_PATH"].into_iter().chain(compilers)
        {
            println!("cargo::rerun-if-env-changed={variable}");
        }
        for path in ["build", "kernels", "shim", "../vendor/Cargo.toml", "../vendor/Cargo.lock"] {
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
        let sanitizers = self.sanitizers.as_ref().map(|list| format!(" sanitizers={list}")).unwrap_or_default();
        let native = self.native_instructions;
        format!("{} {:?} native={native} {:?}{sanitizers}", self.target, self.linkage, self.switches)
    }

    /// What the compiler is told for the sanitizers; nothing without any.
    pub fn sanitizer_flags(&self) -> Vec<String> {
        let Some(list) = &self.sanitizers else { return Vec::new() };
        let mut flags = vec![format!("-fsanitize={list}"), "-fno-omit-frame-pointer".to_owned(), "-g1".to_owned()];
        if list.contains("undefined") {
            // A finding fails the test. That of wrong classes needs a part of the runtime that Rust's has not.
            flags.extend(["-fno-sanitize-recover=all", "-fno-sanitize=vptr"].map(str::to_owned));
        }
        flags
    }
}

fn feature(name: &str) -> bool {
    env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some()
}

fn required(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name} should be set by cargo: {error}"))
}
