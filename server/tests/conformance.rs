//! The table in `CONFORMANCE.md` is true to the tests: every requirement names at least one, and each of them exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Where tests are that the table may name, from this package's folder.
const SOURCES: [&str; 3] = ["src", "tests", "../tests/tests"];

/// The names of all tests below a folder.
fn tests_below(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            tests_below(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(&path).expect("a source file");
            let functions =
                source.split("#[test]").skip(1).filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
            names.extend(functions.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn every_requirement_names_tests_that_exist() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = BTreeSet::new();
    for folder in SOURCES {
        tests_below(&package.join(folder), &mut names);
    }
    let table = fs::read_to_string(package.join("CONFORMANCE.md")).expect("the table");
    let mut rows = 0;
    for row in table.lines().filter(|line| line.starts_with("| 91")) {
        rows += 1;
        let columns: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let [section, requirement, answer, tests] = columns[..] else { panic!("not four columns: {row}") };
        let (rfc, number) = section.split_once(' ').expect("an RFC and a section");
        assert!(
            matches!(rfc, "9110" | "9112") && number.split('.').all(|part| part.parse::<u8>().is_ok()),
            "{section}"
        );
        assert!(!requirement.is_empty() && !answer.is_empty(), "{row}");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            assert!(names.contains(name), "{section} names the test {name}, which does not exist");
        }
    }
    assert!(rows > 50, "{rows} rows were found");
}
