//! `deploy/dev`, which `just dev` runs, with the real systemfd: what builds replaces the running server, what does not
//! build changes nothing, and no request is refused meanwhile.
//!
//! It works on a copy of the script in a tree of the test's own. `cargo` is a stand-in there: it puts the binary under
//! test in place, or fails, as the sources say. A real build of a release takes longer than all other tests together.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tests::{
    CommandOutput, DEADLINE, Process, Reborn, Signal, binary,
    load::{Limits, Load},
    skip::skip,
    version::write_by_child,
};

/// What the sources say is done: `broken` is not built, `unchanged` leaves the binary as it is, all else is a new one.
const CARGO: &str = r#"#!/bin/sh
[ "$*" = "build --bin reborn" ] || { echo "unexpected: cargo $*" >&2; exit 2; }
echo build >>builds
case $(cat server/src.rs) in
    broken) echo "error: does not compile" >&2; exit 101 ;;
    unchanged) exit 0 ;;
esac
mkdir -p target/debug
{ cat "$REBORN"; cat server/src.rs; } >target/debug/reborn.new
chmod 755 target/debug/reborn.new
mv target/debug/reborn.new target/debug/reborn
"#;

/// A source tree, and the script at work in it.
struct Dev {
    tree: TempDir,
    script: Process,
    address: SocketAddr,
}

impl Dev {
    fn start() -> Option<Dev> {
        let Some(systemfd) = systemfd() else {
            skip("systemfd is not installed");
            return None;
        };
        let tree = tempfile::tempdir().unwrap();
        for folder in ["deploy", "server", "restart-core", "bin", "run"] {
            fs::create_dir(tree.path().join(folder)).unwrap();
        }
        for (file, text) in [("Cargo.toml", ""), ("Cargo.lock", ""), ("server/src.rs", "first")] {
            fs::write(tree.path().join(file), text).unwrap();
        }
        let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/dev"));
        write_by_child(Some(script), b"", &tree.path().join("deploy/dev"), "755");
        write_by_child(None, CARGO.as_bytes(), &tree.path().join("bin/cargo"), "755");
        let address = Reborn::new().address();
        let log = fs::File::create(tree.path().join("log")).unwrap();
        let path = [&tree.path().join("bin"), systemfd.parent().unwrap(), Path::new("/usr/bin"), Path::new("/bin")];
        let mut command = Command::new(tree.path().join("deploy/dev"));
        command.args(["--demo", "--probation", "0s"]).env_clear().env("PATH", std::env::join_paths(path).unwrap());
        command.env("REBORN", binary::reborn()).env("REBORN_DEV_LISTEN", address.to_string());
        command.env("REBORN_CONTROL", tree.path().join("run/control"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let script = Process::spawn(&mut command).unwrap();
        let dev = Dev { tree, script, address };
        dev.wait_until("it serves", |dev| dev.status().is_some());
        Some(dev)
    }

    /// Changes a source. Its time differs from the last change's, as the file system counts in nanoseconds.
    fn write(&self, text: &str) {
        fs::write(self.tree.path().join("server/src.rs"), text).unwrap();
    }

    fn load(&self) -> Load {
        Load::new(self.address)
    }

    fn builds(&self) -> usize {
        fs::read_to_string(self.tree.path().join("builds")).unwrap_or_default().lines().count()
    }

    fn status(&self) -> Option<Value> {
        let mut command = Command::new(binary::reborn());
        command.args(["status", "--json", "--control"]).arg(self.tree.path().join("run/control"));
        serde_json::from_str(&CommandOutput::of(&mut command).stdout).ok()
    }

    fn generation(&self) -> u64 {
        self.status().map_or(0, |status| status["generation"].as_u64().unwrap())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.tree.path().join("log")).unwrap()
    }

    #[track_caller]
    fn wait_until(&self, what: &str, holds: impl Fn(&Dev) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(self) {
            assert!(Instant::now() < end, "waited until {what}\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // It stops its server; one that has been stopped already is no harm.
        self.script.signal(Signal::TERM);
        self.script.wait(DEADLINE);
    }
}

/// Where systemfd is: among what `.ci/run` installs, or on the path.
fn systemfd() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::iter::once(own).chain(std::env::split_paths(&path));
    places.find_map(|folder| folder.join("systemfd").canonicalize().ok())
}

#[test]
fn a_change_that_builds_takes_over_and_one_that_does_not_changes_nothing() {
    let Some(dev) = Dev::start() else { return };
    let load = dev.load().new_connections_paced(4, 100).paced(4, 100).start();
    let first = dev.status().unwrap();
    assert_eq!((dev.generation(), &first["listeners"][0]["origin"]), (1, &Value::from("activated")));
    dev.write("second");
    dev.wait_until("the second build serves", |dev| dev.generation() == 2);
    dev.write("broken");
    dev.wait_until("it says so", |dev| dev.log().contains("the build failed; the running server stays"));
    let builds = dev.builds();
    dev.write("unchanged");
    dev.wait_until("it is built", |dev| dev.builds() > builds);
    assert_eq!(dev.generation(), 2);
    fs::remove_file(dev.tree.path().join("server/src.rs")).unwrap();
    dev.write("third");
    dev.wait_until("the third build serves", |dev| dev.generation() == 3);
    load.stop().assert_no_failure();
}

#[test]
fn requests_wait_while_no_server_runs_and_the_next_build_answers_them() {
    let Some(dev) = Dev::start() else { return };
    let pid = dev.status().unwrap()["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).unwrap();
    let process = Process::open(pid).unwrap();
    process.signal(Signal::KILL);
    dev.wait_until("it is dead", |_| !process.is_alive());
    let limits = Limits { answer: DEADLINE, ..Limits::default() };
    let load = dev.load().limits(limits).new_connections(2).requests(2).start();
    dev.write("repaired");
    load.join().assert_no_failure();
    assert_eq!(dev.generation(), 1, "another first one");
}

#[test]
fn the_end_of_the_script_is_the_end_of_the_server() {
    let Some(dev) = Dev::start() else { return };
    dev.write("second");
    dev.wait_until("the second build serves", |dev| dev.generation() == 2);
    dev.script.signal(Signal::INT);
    assert!(dev.script.wait(DEADLINE), "{}", dev.log());
    assert!(dev.status().is_none());
    assert!(dev.log().contains("the service has stopped"), "{}", dev.log());
}
