//! The C++ libraries: one CMake tree a configuration, shared by all cargo profiles.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::config::{Config, Linkage};

/// The folder where one configuration of llama.cpp is built, locked for as long as this value lives.
///
/// cargo locks each profile by itself, so a dev and a release build can get here at the same time.
pub struct Tree {
    /// `<target>/llama-cpp/<key>`.
    pub folder: PathBuf,
    _lock: File,
}

impl Tree {
    /// Makes the folder, and waits until no other build uses it.
    pub fn open(config: &Config, source: &Path) -> Result<Self, String> {
        let mut hasher = DefaultHasher::new();
        source.hash(&mut hasher);
        config.fingerprint().hash(&mut hasher);
        let folder = shared_folder(config).join(format!("{:016x}", hasher.finish()));
        let open = || -> std::io::Result<File> {
            fs::create_dir_all(&folder)?;
            let lock = File::create(folder.join("lock"))?;
            lock.lock()?;
            Ok(lock)
        };
        let failed = |error| format!("{}: {error}", folder.display());
        let lock = open().map_err(failed)?;
        // CMake compares names: the same folder by another name (a link) would be configured and built anew.
        Ok(Self { folder: folder.canonicalize().map_err(failed)?, _lock: lock })
    }
}

/// `<target>/llama-cpp`: the target directory is the outermost ancestor that cargo tagged as a cache.
fn shared_folder(config: &Config) -> PathBuf {
    config
        .out_dir
        .ancestors()
        .filter(|folder| folder.join("CACHEDIR.TAG").is_file())
        .last()
        .unwrap_or(&config.out_dir)
        .join("llama-cpp")
}

/// Configures (once) and builds llama.cpp, always optimised.
pub fn build(config: &Config, source: &Path, tree: &Tree) {
    let mut cmake = cmake::Config::new(source);
    cmake
        .out_dir(&tree.folder)
        .profile("Release")
        // Flags that follow cargo's profile would rebuild everything when the profile changes.
        .no_default_flags(true)
        .build_target("llama")
        .define("CMAKE_POSITION_INDEPENDENT_CODE", "ON")
        .define("BUILD_SHARED_LIBS", on(config.linkage == Linkage::Shared))
        .define("GGML_NATIVE", on(config.native_instructions))
        .define("GGML_OPENMP", "OFF");
    for part in ["APP", "COMMON", "EXAMPLES", "SERVER", "TESTS", "TOOLS"] {
        cmake.define(format!("LLAMA_BUILD_{part}"), "OFF");
    }
    for (_, variable) in &config.switches {
        cmake.define(variable, "ON");
    }
    for flag in config.sanitizer_flags() {
        cmake.cflag(&flag).cxxflag(&flag);
    }
    if exists("ninja") {
        cmake.generator("Ninja");
    }
    cmake.build();
}

/// Tells cargo which libraries a program needs, and where they are.
pub fn link(config: &Config, tree: &Tree) -> Result<(), String> {
    let kind = match config.linkage {
        Linkage::Static => "static",
        Linkage::Shared => "dylib",
    };
    let build = tree.folder.join("build");
    if config.linkage == Linkage::Shared {
        search(&beside_the_program(config, &build.join("bin"))?);
    }
    for folder in ["src", "ggml/src"] {
        search(&build.join(folder));
    }
    let mut backends = vec!["ggml-cpu".to_owned()];
    for (name, folder) in
        [("blas", "blas"), ("cuda", "cuda"), ("vulkan", "vulkan"), ("metal", "metal"), ("rocm", "hip"), ("rpc", "rpc")]
    {
        if config.has(name) {
            search(&build.join(format!("ggml/src/ggml-{folder}")));
            backends.push(format!("ggml-{folder}"));
        }
    }
    println!("cargo::rustc-link-lib={kind}=llama");
    println!("cargo::rustc-link-lib={kind}=ggml");
    for backend in backends {
        println!("cargo::rustc-link-lib={kind}={backend}");
    }
    println!("cargo::rustc-link-lib={kind}=ggml-base");
    link_system_libraries(config);
    Ok(())
}

fn search(folder: &Path) {
    println!("cargo::rustc-link-search=native={}", folder.display());
}

/// Copies the shared libraries into cargo's output folder, and returns where they are there.
///
/// `cargo run` and `cargo test` let a program find shared libraries that lie under its profile's folder, which the tree
/// that all profiles share does not.
fn beside_the_program(config: &Config, libraries: &Path) -> Result<PathBuf, String> {
    let folder = config.out_dir.join("shared");
    let copy = || -> std::io::Result<()> {
        fs::create_dir_all(&folder)?;
        for entry in fs::read_dir(libraries)? {
            let library = entry?.path();
            if let Some(name) = library.file_name().filter(|_| library.is_file()) {
                fs::copy(&library, folder.join(name))?;
            }
        }
        Ok(())
    };
    copy().map_err(|error| format!("llama.cpp's shared libraries in {}: {error}", libraries.display()))?;
    Ok(folder)
}

fn link_system_libraries(config: &Config) {
    let mut libraries: Vec<&str> = match config.target_os.as_str() {
        "macos" | "ios" => vec!["c++", "framework=Accelerate", "framework=Foundation"],
        "windows" => vec!["advapi32"],
        _ => vec!["stdc++", "pthread", "dl", "m"],
    };
    if config.linkage == Linkage::Static {
        if config.has("openmp") && config.target_os == "linux" {
            libraries.push("gomp");
        }
        if config.has("blas") && config.target_os == "linux" {
            libraries.push("openblas");
        }
        if config.has("cuda") {
            libraries.extend(["cudart", "cublas", "cublasLt", "cuda"]);
        }
        if config.has("vulkan") {
            libraries.push("vulkan");
        }
        if config.has("metal") {
            libraries.extend(["framework=Metal", "framework=MetalKit"]);
        }
        if config.has("rocm") {
            libraries.extend(["hipblas", "rocblas", "amdhip64"]);
        }
    }
    for library in libraries {
        println!("cargo::rustc-link-lib={library}");
    }
}

fn on(value: bool) -> &'static str {
    if value { "ON" } else { "OFF" }
}

fn exists(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
