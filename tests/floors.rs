//! The architecture of `llama-safe`: a module imports only from floors below its own, and in a circle from none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The floor of each module, as `lib.rs` lists them.
fn floors(lib: &str) -> BTreeMap<String, u32> {
    let mut floor = 0;
    let mut floors = BTreeMap::new();
    for line in lib.lines() {
        if let Some(number) = line.strip_prefix("// Floor ") {
            floor = number.trim_end_matches('.').parse().expect("a floor's number");
        } else if let Some(module) = line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
            floors.insert(module.to_owned(), floor);
        }
    }
    floors
}

/// The files of a module: its own, or all in its folder and below.
fn files(sources: &Path, module: &str) -> Vec<PathBuf> {
    let folder = sources.join(module);
    if folder.is_dir() { files_in(&folder) } else { vec![sources.join(format!("{module}.rs"))] }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder that can be read");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

/// The modules that a source names by `crate::`, in code that is no test.
fn imports(source: &str) -> BTreeSet<String> {
    let code = source.split("#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<_> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let named =
        |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default().to_owned();
    code.join("\n").split("crate::").skip(1).map(named).filter(|name| !name.is_empty()).collect()
}

fn imports_of_all() -> (BTreeMap<String, u32>, BTreeMap<String, BTreeSet<String>>) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("llama-safe/src");
    let floors = floors(&std::fs::read_to_string(sources.join("lib.rs")).expect("lib.rs"));
    let of = |module: &String| {
        let read = |file: &PathBuf| std::fs::read_to_string(file).expect("a source");
        let named = files(&sources, module).iter().flat_map(|file| imports(&read(file))).collect::<BTreeSet<_>>();
        named.into_iter().filter(|name| name != module && floors.contains_key(name)).collect()
    };
    let imports = floors.keys().map(|module| (module.clone(), of(module))).collect();
    (floors, imports)
}

#[test]
fn no_module_imports_from_above() {
    let (floors, imports) = imports_of_all();
    assert!(floors.len() > 20, "lib.rs lists its modules by floor: {floors:?}");
    for (module, named) in &imports {
        for name in named {
            assert!(
                floors[name] <= floors[module],
                "{module} (floor {}) imports {name} ({})",
                floors[module],
                floors[name]
            );
        }
    }
}

#[test]
fn no_modules_import_each_other_in_a_circle() {
    let (_, mut left) = imports_of_all();
    // What imports nothing that is left is taken away, until nothing is left.
    loop {
        let free: Vec<_> = left
            .iter()
            .filter(|(_, named)| named.iter().all(|name| !left.contains_key(name)))
            .map(|(m, _)| m.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        free.iter().for_each(|module| drop(left.remove(module)));
    }
    assert!(left.is_empty(), "in a circle: {left:?}");
}

#[test]
fn imports_are_found() {
    let source =
        "use crate::rows::Rows;\n// crate::pool\nfn f(x: crate::id::SeqId) {}\n#[cfg(test)]\nuse crate::model::Model;";
    assert_eq!(imports(source), ["id", "rows"].map(str::to_owned).into());
}
