//! What a test puts at the path of the server's program before a reload: another build, something that is no program,
//! or a program that fails in one of the ways in which a new version can fail.
//!
//! A file is put in place by rename, as an upgrade does, and an executable is never open for writing in this process:
//! a child that another test's thread starts in that instant would inherit the fd, and its exec fail with ETXTBSY.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::{Deserialize, Serialize};

use super::{Relay, binary};

/// What is at the path of the server's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The binary under test.
    Current,
    /// The same, as a different file: the bytes after the program's end are not loaded.
    Differing,
    /// An executable of the test's own choice, such as the binary of a release.
    File(PathBuf),
    /// Nothing.
    Missing,
    /// The binary under test without the permission to execute it.
    NotExecutable,
    /// An executable file that is no program.
    NotAProgram,
    /// A program that fails.
    Broken(Mode),
    /// A version that works, and whose handover passes through a relay: at its start it puts the real program at the path.
    Relayed(Relay),
}

/// How a broken version behaves: the program `broken` reads it from a file beside the path by which it is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Writes some words to its standard error, and exits.
    Exits {
        /// The status.
        code: u8,
        /// The words.
        words: String,
    },
    /// Is killed by this signal.
    KilledBy(i32),
    /// Never says anything and never ends.
    Hangs,
    /// Exits with status 1, but a child of its own keeps all that it inherited open.
    LeavesAChild,
    /// Takes what the predecessor hands over, and says that it cannot serve, for this reason.
    Fails(String),
    /// Says that it is ready, and exits with this status so many milliseconds later, without having accepted anything.
    DiesReady {
        /// The status.
        code: u8,
        /// The time after which it exits.
        ms: u64,
    },
    /// Says this on the handover socket, as its first packet, and nothing more.
    Speaks(String),
    /// Takes the server's place, starts a child of its own, and never says that it is ready.
    StartsAChild,
    /// Waits until [`Server::open_gate`](super::Server::open_gate) has put the real binary in its place, and becomes
    /// that one: so a test can hold a reload before the successor's first word for as long as it likes.
    WaitsAtGate,
}

impl Mode {
    /// A version that speaks only protocols that nobody knows yet.
    pub fn of_the_future() -> Self {
        let hello = serde_json::json!({
            "kind": "hello", "magic": "reborn-handover", "min_version": 900, "max_version": 901, "features": [], "formats": [],
            "generation": 2, "pid": 1, "version": "900.0.0",
        });
        Self::Speaks(hello.to_string())
    }

    /// A version that greets as this one does, takes what it is given, and never becomes ready.
    pub fn of_the_present_and_stuck() -> Self {
        let hello = serde_json::json!({
            "kind": "hello", "magic": "reborn-handover", "min_version": 1, "max_version": 1, "features": [], "formats": [],
            "generation": 2, "pid": 1, "version": "stuck",
        });
        Self::Speaks(hello.to_string())
    }
}

impl Version {
    /// Puts this version at the path, by rename.
    #[track_caller]
    pub fn put(&self, path: &Path) {
        let mode = beside(path, "mode");
        let new = beside(path, "new");
        remove(&mode);
        match self {
            Self::Missing => return remove(path),
            Self::Current => link_or_copy(binary::reborn(), &new),
            Self::File(file) => link_or_copy(file, &new),
            Self::Differing => write_by_child(Some(binary::reborn()), b"another build", &new, "755"),
            Self::NotExecutable => write_by_child(Some(binary::reborn()), b"", &new, "644"),
            Self::NotAProgram => write_by_child(None, b"This is no program.\n", &new, "755"),
            Self::Broken(behaviour) => {
                link_or_copy(&binary::own("broken"), &new);
                let text = serde_json::to_string(behaviour).expect("a mode is plain data");
                fs::write(&mode, text).expect("the test's folder is writable");
            }
            Self::Relayed(relay) => {
                link_or_copy(&binary::own("relay"), &new);
                relay.version.put(&beside(path, "real"));
                let text = serde_json::to_string(&relay.orders).expect("orders are plain data");
                fs::write(beside(path, "orders"), text).expect("the test's folder is writable");
            }
        }
        fs::rename(&new, path).expect("a rename within one folder");
        // A rename between two links of one file does nothing, and the new name would stay: a link to a file that
        // isn't the test's own, for the next version to be written into.
        remove(&new);
    }
}

/// The path with one more extension: what belongs to a program lies beside it.
pub fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

/// Writes a file, from another one and some bytes after it, in a child process: for executables.
#[track_caller]
pub fn write_by_child(from: Option<&Path>, bytes: &[u8], to: &Path, permissions: &str) {
    remove(to);
    let from = from.unwrap_or(Path::new("/dev/null"));
    let mut command = Command::new("sh");
    command.args(["-c", "cat \"$0\" - >\"$1\" && chmod \"$2\" \"$1\""]).args([from, to]).arg(permissions);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("sh can be started");
    let mut stdin = child.stdin.take().expect("its standard input is a pipe");
    stdin.write_all(bytes).expect("sh reads its input");
    drop(stdin);
    assert!(child.wait().expect("sh ends").success(), "cannot write {}", to.display());
}

#[track_caller]
fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            panic!("cannot remove {}: {error}", path.display())
        }
        _ => {}
    }
}

/// A hard link where the file system allows it, which costs nothing and opens nothing.
#[track_caller]
fn link_or_copy(from: &Path, to: &Path) {
    remove(to);
    // A symbolic link would itself be linked, and lead elsewhere from its new place.
    let from = &from.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    if fs::hard_link(from, to).is_err() {
        write_by_child(Some(from), b"", to, "755");
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{Version, beside};

    #[test]
    fn what_is_put_at_a_path_replaces_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        Version::File("/bin/sh".into()).put(&path);
        assert_eq!(fs::read(&path).unwrap(), fs::read("/bin/sh").unwrap());
        Version::NotAProgram.put(&path);
        assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode()), ("This is no program.\n", 0o755));
        Version::Missing.put(&path);
        Version::Missing.put(&path);
        assert!(!path.exists());
        // The same file twice: nothing is left beside the path through which the next one could be written to it.
        let file = folder.path().join("release");
        fs::write(&file, "release").unwrap();
        Version::File(file.clone()).put(&path);
        Version::File(file.clone()).put(&path);
        assert!(!beside(&path, "new").exists());
        Version::NotAProgram.put(&path);
        assert_eq!(fs::read_to_string(&file).unwrap(), "release");
        assert_eq!(beside(&path, "mode"), folder.path().join("program.mode"));
    }
}
