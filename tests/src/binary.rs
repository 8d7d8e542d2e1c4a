//! The binary under test: built once for each test process, with the profile and for the target of the tests
//! themselves, so that `cargo test` on a fresh clone needs no step before it.
//!
//! `REBORN_TEST_BINARY` names another one to test instead, such as the one of a release.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use super::CommandOutput;

/// The variable that names another binary to test.
pub const VARIABLE: &str = "REBORN_TEST_BINARY";

/// How long a build may take on a slow machine without anything built yet.
const BUILD_MAX: Duration = Duration::from_secs(1200);

/// The path of the `reborn` under test.
#[track_caller]
pub fn reborn() -> &'static Path {
    static REBORN: OnceLock<PathBuf> = OnceLock::new();
    REBORN.get_or_init(|| {
        if let Some(path) = env::var_os(VARIABLE) {
            return PathBuf::from(path).canonicalize().unwrap_or_else(|error| panic!("{VARIABLE}: {error}"));
        }
        let place = Place::of_this_process();
        place.build();
        place.folder.join("reborn")
    })
}

/// The path of one of this package's own programs, which cargo builds beside its tests.
#[track_caller]
pub fn own(name: &str) -> PathBuf {
    let path = Place::of_this_process().folder.join(name);
    assert!(path.exists(), "{} is missing: `cargo build -p tests --bins` builds it", path.display());
    path
}

/// The path of an example of any package of the workspace, which `cargo test --workspace` builds.
#[track_caller]
pub fn example(name: &str) -> PathBuf {
    let path = Place::of_this_process().folder.join("examples").join(name);
    assert!(path.exists(), "{} is missing: `cargo build --workspace --examples` builds it", path.display());
    path
}

/// Cargo's target folder and profile as this process was built with them, for programs that call cargo.
#[track_caller]
pub fn build_place() -> (PathBuf, String) {
    let Place { target_directory, profile, .. } = Place::of_this_process();
    (target_directory, profile)
}

/// Where cargo puts what it builds as it built this process: `TARGET_DIR[/TRIPLE]/PROFILE`.
#[derive(Debug)]
struct Place {
    target_directory: PathBuf,
    triple: Option<String>,
    profile: String,
    folder: PathBuf,
}

impl Place {
    #[track_caller]
    fn of_this_process() -> Self {
        let exe = env::current_exe().expect("a process knows its program");
        Self::of(&exe).unwrap_or_else(|| panic!("{} is in no cargo target folder", exe.display()))
    }

    fn of(exe: &Path) -> Option<Self> {
        let parent = exe.parent()?;
        let folder = if parent.ends_with("deps") || parent.ends_with("examples") { parent.parent()? } else { parent };
        // Cargo's flags call the profile in this folder by another name.
        let profile = folder.file_name()?.to_str().map(|name| if name == "debug" { "dev" } else { name })?.to_owned();
        // Cargo marks the top of its target folder, with a tag if it made the folder itself; a folder between it and the
        // profile's is a target triple.
        let marked = |path: &&Path| [".rustc_info.json", "CACHEDIR.TAG"].iter().any(|mark| path.join(mark).exists());
        let target_directory = folder.ancestors().skip(1).find(marked)?;
        let triple = folder.parent()?.strip_prefix(target_directory).ok()?.to_str()?;
        Some(Self {
            target_directory: target_directory.to_owned(),
            triple: (!triple.is_empty()).then(|| triple.to_owned()),
            profile,
            folder: folder.to_owned(),
        })
    }

    /// Builds `reborn`. Cargo's own lock keeps test processes that do this at once apart.
    #[track_caller]
    fn build(&self) {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
        let mut command = Command::new(cargo);
        command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        // Of the whole workspace, as its tests are: with the features of one package alone, the crates that both need
        // would be compiled once more.
        command.args(["build", "--workspace", "--bin", "reborn", "--target-dir"]).arg(&self.target_directory);
        command.args(["--profile", &self.profile]);
        if let Some(triple) = &self.triple {
            command.args(["--target", triple]);
        }
        // What cargo tells the tests about their own package is none of the build's business.
        for (name, _) in env::vars_os() {
            let is_of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
            if name.to_str().is_some_and(|name| is_of_package.iter().any(|prefix| name.starts_with(prefix))) {
                command.env_remove(name);
            }
        }
        CommandOutput::within(BUILD_MAX, &mut command).assert_success();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Place;

    #[test]
    fn the_profile_and_target_of_a_test_process_are_read_from_its_path() {
        let temporary = tempfile::tempdir().unwrap();
        let target = temporary.path().join("target");
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join("CACHEDIR.TAG"), "").unwrap();
        let of = |path: &str| Place::of(&target.join(path)).map(|place| (place.profile, place.triple, place.folder));
        let triple = "x86_64-unknown-linux-musl".to_owned();
        assert_eq!(of("debug/deps/reload-0123"), Some(("dev".into(), None, target.join("debug"))));
        assert_eq!(of("release/storm"), Some(("release".into(), None, target.join("release"))));
        let folder = target.join(&triple).join("ci");
        assert_eq!(of(&format!("{triple}/ci/deps/reload-0123")), Some(("ci".into(), Some(triple), folder)));
        assert!(Place::of(temporary.path()).is_none());
    }
}
