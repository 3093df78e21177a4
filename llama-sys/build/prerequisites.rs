//! What the C++ build needs and this machine lacks, and the one message that says so.
//!
//! Standard library only, and no reference to its neighbours: the build script and `xtask` both compile this very file,
//! so that `cargo build` alone and `cargo xtask setup` give the same answer in the same words.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The oldest cmake that llama.cpp's own `CMakeLists.txt` accepts.
const OLDEST_CMAKE: (u32, u32) = (3, 14);

/// Something that is not here.
pub struct Missing {
    /// The name people know it by.
    pub name: &'static str,
    /// What it is needed for, and where it was looked for when a variable says where.
    pub detail: String,
    /// What to install.
    pub packages: Packages,
}

/// The package of each package manager, empty where it has none.
pub struct Packages {
    /// Debian and Ubuntu.
    pub apt: &'static str,
    /// Fedora and its relatives.
    pub dnf: &'static str,
    /// macOS.
    pub brew: &'static str,
    /// Windows.
    pub choco: &'static str,
}

/// One package manager's part of [`Packages`].
type Manager = fn(&Packages) -> &'static str;

/// What is missing, in the order in which the build would stumble over it; empty when it can start.
pub fn missing() -> Vec<Missing> {
    [cmake(), build_tool(), compiler(), libclang()].into_iter().flatten().collect()
}

/// One message: what is missing, and the line that installs it.
pub fn message(missing: &[Missing]) -> String {
    let mut text = String::from("Not everything that this build needs is here. Missing:\n");
    for item in missing {
        text += &format!("  {:<16} {}\n", item.name, item.detail);
    }
    text += "Install it:\n";
    let managers: [(&str, &str, Manager); 4] = [
        ("Debian, Ubuntu", "sudo apt-get install", |p| p.apt),
        ("Fedora", "sudo dnf install", |p| p.dnf),
        ("macOS", "brew install", |p| p.brew),
        ("Windows", "choco install", |p| p.choco),
    ];
    for (system, command, of) in managers {
        let packages = packages(missing, of);
        if !packages.is_empty() {
            text += &format!("  {system:<16} {command} {}\n", packages.join(" "));
        }
    }
    if missing.iter().any(|item| item.name == "libclang") {
        text += "If libclang is somewhere else, set LIBCLANG_PATH to the folder that holds it.\n";
    }
    text
}

/// The packages that bring all of it, each once. None where one of them is not to be had: a line that installs only a part
/// would send its reader in a circle.
pub fn packages(missing: &[Missing], of: Manager) -> Vec<&'static str> {
    let mut names = Vec::new();
    for item in missing {
        let words = of(&item.packages);
        if words.is_empty() {
            return Vec::new();
        }
        for word in words.split(' ') {
            if !names.contains(&word) {
                names.push(word);
            }
        }
    }
    names
}

/// cmake, which builds llama.cpp. Ninja comes with it: it is optional, but the build is faster and its progress visible.
fn cmake() -> Option<Missing> {
    let program = env::var_os("CMAKE").unwrap_or_else(|| "cmake".into());
    let detail = match output_of(&program, &["--version"]) {
        None => "builds llama.cpp".to_string(),
        Some(text) => {
            let version = cmake_version(&text);
            if version.is_none_or(|version| version >= OLDEST_CMAKE) {
                return None;
            }
            let (major, minor) = OLDEST_CMAKE;
            format!("builds llama.cpp; the one here is older than {major}.{minor}")
        }
    };
    Some(Missing {
        name: "cmake",
        detail,
        packages: Packages {
            apt: "cmake ninja-build",
            dnf: "cmake ninja-build",
            brew: "cmake ninja",
            choco: "cmake ninja",
        },
    })
}

/// `(3, 25)` of `cmake version 3.25.1`; none if it does not read like that, which is no reason to refuse it.
fn cmake_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_whitespace().nth(2)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// What cmake hands the work to. A minimal cmake comes without any.
fn build_tool() -> Option<Missing> {
    // On Windows cmake finds Visual Studio's by itself.
    if cfg!(windows) || ["ninja", "make", "gmake"].into_iter().any(starts) {
        return None;
    }
    Some(Missing {
        name: "ninja",
        detail: "runs the C++ build; make would do as well".to_string(),
        packages: Packages { apt: "ninja-build", dnf: "ninja-build", brew: "ninja", choco: "ninja" },
    })
}

/// A C++ compiler: the one that `CXX` names, or else any of the usual ones.
fn compiler() -> Option<Missing> {
    let chosen = env::var("CXX").ok().filter(|text| !text.trim().is_empty());
    let found = match &chosen {
        // CXX may carry a wrapper and flags ("ccache g++ -m64"); the first word is what gets started.
        Some(text) => Path::new(text).is_file() || text.split_whitespace().next().is_some_and(starts),
        None => ["c++", "g++", "clang++"].into_iter().any(starts) || has_visual_studio(),
    };
    if found {
        return None;
    }
    let detail = match chosen {
        Some(text) => format!("compiles llama.cpp; CXX is {text:?}, which does not start"),
        None => "compiles llama.cpp".to_string(),
    };
    Some(Missing {
        name: "C++ compiler",
        detail,
        packages: Packages {
            apt: "g++",
            dnf: "gcc-c++",
            // Its clang++, so that one line does for all; the Command Line Tools would do as well.
            brew: "llvm",
            choco: "visualstudio2022-workload-vctools",
        },
    })
}

/// Whether a program answers. Running it tells more than finding it: macOS has a `c++` that only asks to be installed.
fn starts(program: &str) -> bool {
    output_of(&program.into(), &["--version"]).is_some()
}

/// Microsoft's compiler is on nobody's PATH; its installer keeps a program that knows where it is.
fn has_visual_studio() -> bool {
    let Some(folder) = env::var_os("ProgramFiles(x86)") else {
        return false;
    };
    let vswhere = Path::new(&folder).join(r"Microsoft Visual Studio\Installer\vswhere.exe");
    let query = [
        "-latest",
        "-products",
        "*",
        "-requires",
        "Microsoft.VisualStudio.Component.VC.Tools.x86.x64",
        "-property",
        "installationPath",
    ];
    output_of(&vswhere.into(), &query).is_some_and(|text| !text.trim().is_empty())
}

/// libclang, with which bindgen reads llama.cpp's headers.
fn libclang() -> Option<Missing> {
    let chosen = env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    let found = match &chosen {
        // bindgen takes the variable as the last word, and so does this.
        Some(path) => is_libclang(path) || holds_libclang(path),
        None => usual_folders().iter().any(|path| holds_libclang(path)),
    };
    if found {
        return None;
    }
    let detail = match chosen {
        Some(path) => format!("reads llama.cpp's headers; LIBCLANG_PATH is {}, which does not hold it", path.display()),
        None => "reads llama.cpp's headers".to_string(),
    };
    Some(Missing {
        name: "libclang",
        detail,
        packages: Packages { apt: "libclang-dev", dnf: "clang-devel", brew: "llvm", choco: "llvm" },
    })
}

/// Where libclang may be, the likeliest first.
fn usual_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    let llvm_config = env::var_os("LLVM_CONFIG_PATH").unwrap_or_else(|| "llvm-config".into());
    if let Some(text) = output_of(&llvm_config, &["--libdir"]) {
        folders.push(PathBuf::from(text.trim()));
    }
    for variable in ["LD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        folders.extend(env::var_os(variable).iter().flat_map(env::split_paths));
    }
    if cfg!(windows) {
        folders.push(PathBuf::from(r"C:\Program Files\LLVM\bin"));
        folders.extend(env::var_os("PATH").iter().flat_map(env::split_paths));
    } else if cfg!(target_os = "macos") {
        folders.extend(
            [
                "/opt/homebrew/opt/llvm/lib",
                "/usr/local/opt/llvm/lib",
                "/Library/Developer/CommandLineTools/usr/lib",
                "/Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib",
            ]
            .map(PathBuf::from),
        );
    } else {
        for root in ["/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64"] {
            // Two levels down: /usr/lib/x86_64-linux-gnu, /usr/lib/llvm-14/lib.
            folders.push(PathBuf::from(root));
            for child in folders_in(Path::new(root)) {
                folders.extend(folders_in(&child));
                folders.push(child);
            }
        }
    }
    folders
}

/// The folders directly in this one; none if it cannot be read.
fn folders_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths.filter(|path| path.is_dir()).collect()
}

/// Whether a libclang is directly in this folder.
fn holds_libclang(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| is_libclang(&path))
}

/// `libclang.so`, `libclang-14.so.1`, `libclang.dylib`, `libclang.dll`; not `libclang-cpp.so`, which is another library,
/// and not a link that leads nowhere.
fn is_libclang(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let ours = match name.strip_prefix("libclang") {
        Some(rest) if cfg!(windows) => rest == ".dll",
        Some(rest) if cfg!(target_os = "macos") => rest == ".dylib",
        Some(rest) => {
            let numbered = rest.starts_with('.') || rest.starts_with('-');
            numbered && !rest.starts_with("-cpp") && (rest.ends_with(".so") || rest.contains(".so."))
        }
        None => false,
    };
    ours && path.is_file()
}

/// What a program prints, or none if it cannot be started or fails.
fn output_of(program: &OsString, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
