//! How far the C++ build is. cargo shows nothing of what a build script does, but ninja writes a line into its log for
//! every file it has compiled, and the plan in `build.ninja` says how many there will be.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Files compiled, of those to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edges {
    /// Finished.
    pub done: usize,
    /// In the plan.
    pub total: usize,
}

/// Watches the C++ build trees of a target directory.
pub struct Watch {
    folder: PathBuf,
    /// Logs older than this belong to builds of another day.
    since: SystemTime,
}

impl Watch {
    /// Watches `<target>/llama-cpp/*/build` from now on.
    pub fn new(target: &Path) -> Self {
        Self { folder: target.join("llama-cpp"), since: SystemTime::now() }
    }

    /// How far the build is that is running; none while none is.
    pub fn look(&self) -> Option<Edges> {
        let builds = fs::read_dir(&self.folder).ok()?.flatten().map(|entry| entry.path().join("build"));
        let written = |build: &PathBuf| fs::metadata(build.join(".ninja_log")).and_then(|log| log.modified()).ok();
        let (time, build) = builds.filter_map(|build| Some((written(&build)?, build))).max()?;
        if time < self.since {
            return None;
        }
        let plan = fs::read_to_string(build.join("build.ninja")).ok()?;
        let log = fs::read_to_string(build.join(".ninja_log")).ok()?;
        Some(count(&plan, &log)).filter(|edges| edges.total > 0)
    }
}

/// Counts what the log has of the plan's object files. Custom commands and phony targets are left out: most never run.
fn count(plan: &str, log: &str) -> Edges {
    let objects: HashSet<&str> = plan.lines().filter_map(object).collect();
    // start, end, time, output, hash; an output has one line more for every time it was built.
    let outputs = log.lines().filter_map(|line| line.split('\t').nth(3));
    let finished: HashSet<&str> = outputs.filter(|output| objects.contains(output)).collect();
    Edges { done: finished.len(), total: objects.len() }
}

/// The output of `build OUTPUT: CXX_COMPILER__target_Release INPUT …`.
fn object(line: &str) -> Option<&str> {
    let (output, rule) = line.strip_prefix("build ")?.split_once(": ")?;
    rule.split(' ').next()?.contains("_COMPILER__").then_some(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = "\
rule CXX_COMPILER__llama_Release
build edit_cache: phony CMakeFiles/edit_cache.util
build src/a.cpp.o: CXX_COMPILER__llama_Release /src/a.cpp || order
  FLAGS = -O3
build src/b.c.o: C_COMPILER__llama_Release /src/b.c
build src/libllama.a: CXX_STATIC_LIBRARY_LINKER__llama_Release src/a.cpp.o src/b.c.o
";

    #[test]
    fn counts_object_files_once() {
        let log = "# ninja log v5\n0\t9\t1\tsrc/a.cpp.o\tff\n9\t12\t2\tsrc/a.cpp.o\tfe\n1\t2\t3\tgone.o\tff\n";
        assert_eq!(count(PLAN, log), Edges { done: 1, total: 2 });
        assert_eq!(count(PLAN, ""), Edges { done: 0, total: 2 });
        assert_eq!(count("", log), Edges { done: 0, total: 0 });
    }

    #[test]
    fn half_a_line_counts_for_nothing() {
        assert_eq!(count(PLAN, "0\t9\t1\tsrc/a.c"), Edges { done: 0, total: 2 });
    }
}
