//! The table of families in the fixtures' README.

use fixtures::Family;

const README: &str = include_str!("../../fixtures/README.md");
const TESTS: &str = include_str!("../families.rs");

/// Each family has its row, and the tests that a row names exist and are of that family.
pub fn names_every_family_and_tests_that_exist() {
    for family in Family::ALL {
        let start = format!("| `{family}` |");
        let row = README.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row for {family}"));
        let shown_by = row.trim_end_matches(" |").rsplit('|').next().expect("a last column");
        let tests: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{family} names no test");
        for test in tests {
            assert!(test.starts_with(&format!("{family}_")), "{test} is not of {family}");
            assert!(TESTS.contains(&format!("fn {test}()")), "there is no test {test}");
        }
    }
}
