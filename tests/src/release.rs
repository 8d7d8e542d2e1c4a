//! The last release, built from this repository's own history: so that it and the present version can replace each other
//! in a test.
//!
//! The file `releases` beside this package's manifest says which commit it is. What is built lies in cargo's target
//! folder, in a place of its own for each release, and is built once.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use super::{CommandOutput, binary};

/// How long a build may take on a slow machine without anything built yet.
const BUILD_MAX: Duration = Duration::from_secs(1200);

/// A release of the past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Its version.
    pub version: String,
    /// Its commit.
    pub commit: String,
}

impl Release {
    /// The last one.
    #[track_caller]
    pub fn last() -> Self {
        let text = include_str!("../releases");
        let last = text.lines().rfind(|line| !line.starts_with('#')).and_then(|line| line.split_once(' '));
        let (version, commit) = last.expect("a line has a version and a commit");
        Self { version: version.to_owned(), commit: commit.to_owned() }
    }

    /// The path of its `reborn`, which is built where it has not been; nothing, said loudly, in a clone that was made
    /// without its history (`git clone --depth`), which no test can help.
    #[track_caller]
    pub fn binary(&self) -> Option<PathBuf> {
        let (target, _) = binary::build_place();
        let folder = target.join("releases").join(&self.version);
        let program = folder.join("target/debug/reborn");
        if !program.exists() {
            if is_shallow() {
                // Past the test runner's capture.
                let _is_best_effort = writeln!(io::stderr().lock(), "SKIP: release {}: a shallow clone", self.version);
                return None;
            }
            self.unpack(&folder.join("source"));
            build(&folder);
        }
        Some(program)
    }

    #[track_caller]
    fn unpack(&self, source: &Path) {
        fs::create_dir_all(source).expect("cargo's target folder is writable");
        let script = "git -C \"$0\" archive \"$1\" | tar -x -C \"$2\"";
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", script]).arg(repository()).arg(&self.commit).arg(source);
        let output = CommandOutput::of(&mut command);
        let Self { version, commit } = self;
        let is_there = output.is_success();
        assert!(is_there, "release {version} is commit {commit}; is this a clone with its whole history? {output}");
    }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

fn is_shallow() -> bool {
    let mut command = Command::new("git");
    command.arg("-C").arg(repository()).args(["rev-parse", "--is-shallow-repository"]);
    CommandOutput::of(&mut command).stdout.trim() == "true"
}

#[track_caller]
fn build(folder: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--locked", "--bin", "reborn", "--target-dir"]).arg(folder.join("target"));
    command.current_dir(folder.join("source"));
    CommandOutput::within(BUILD_MAX, &mut command).assert_success();
}
