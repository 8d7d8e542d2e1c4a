//! reborn as a service in a [`Lab`]: installed from the repository's own units, started by its socket, and looked at as
//! an operator looks at it.
//!
//! It knows the product only by what an operator knows: the units, the program's path, systemd's words.

use std::{fs, path::Path, process::Command, time::Duration};

use super::{DEADLINE, Lab, Said};
use crate::{
    CommandOutput, Version, binary,
    load::{Load, Running, Target},
};

/// Where the units expect the program, inside.
pub const PROGRAM: &str = "/usr/bin/reborn";
/// A program that always works, for versions that fail at serving but can still ask for a reload.
const GOOD_PROGRAM: &str = "/opt/reborn";
/// The unit.
pub const UNIT: &str = "reborn.service";
/// Where the socket unit listens, as clients see it.
const ADDRESS: &str = "127.0.0.1:80";
/// What a Debian release's systemd says of a message that it does not accept.
const REFUSED: &str = "reception only permitted";

/// Runs `deploy/install` on the binary under test, as `just install` and `just uninstall` do on a release build, below the
/// folder `destination`.
pub fn install(destination: &Path, words: &[&str]) -> CommandOutput {
    let built = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(built.path().join("release")).expect("a folder in the test's own");
    Version::File(binary::reborn().to_owned()).put(&built.path().join("release/reborn"));
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/install"));
    CommandOutput::of(command.args(words).env("DESTDIR", destination).env("CARGO_TARGET_DIR", built.path()))
}

/// A running service, with its lab.
#[derive(Debug)]
#[must_use = "the instance ends when this is dropped"]
pub struct Service {
    /// Where it runs.
    pub lab: Lab,
}

impl Service {
    /// Boots a lab, installs the units and the program, and starts the socket (not the service). The settings are
    /// `REBORN_` variables, each without that prefix; `DEMO=true` is always among them.
    pub fn install(settings: &[&str]) -> Option<Self> {
        let lab = Lab::boot()?;
        let service = Self { lab };
        for program in [PROGRAM, GOOD_PROGRAM] {
            Version::Current.put(&service.lab.path(program));
        }
        service.lab.units("deploy/systemd");
        let variables: Vec<String> = settings.iter().map(|setting| format!("REBORN_{setting}")).collect();
        let text = format!("[Service]\nEnvironment=REBORN_DEMO=true {}\n", variables.join(" "));
        service.lab.edit(UNIT, "settings", &text);
        service.lab.systemctl(["start", "reborn.socket"]);
        Some(service)
    }

    /// The same, with the service started and serving.
    pub fn start(settings: &[&str]) -> Option<Self> {
        let service = Self::install(settings)?;
        service.lab.systemctl(["start", UNIT]);
        Some(service)
    }

    /// Starts a load in the lab's network, on the service's address.
    pub fn load(&self, describe: impl FnOnce(Load) -> Load + Send) -> Running {
        let target: Target = ADDRESS.parse().expect("an address");
        self.lab.inside(|| describe(Load::new(target)).start())
    }

    /// A load of every kind that a reload must not disturb, not so heavy that the other tests starve.
    pub fn mixed_load(&self) -> Running {
        self.load(|load| load.paced(8, 200).new_connections_paced(4, 50).slow(4, Duration::from_millis(700)).sparse(4))
    }

    /// Installs a version that works, in a file that differs from the first one's.
    pub fn install_next_version(&self) {
        Version::Differing.put(&self.lab.path(PROGRAM));
    }

    /// Installs a version that asks for a reload as it should, but runs this shell script instead of serving. In it
    /// `"$good" "$@"` is a program that would serve.
    pub fn install_failing_version(&self, script: &str) {
        let text = format!("#!/bin/sh\ngood={GOOD_PROGRAM}\n[ \"$1\" != reload ] || exec $good \"$@\"\n{script}\n");
        self.lab.place(&text, PROGRAM);
    }

    /// Removes the program.
    pub fn remove_program(&self) {
        Version::Missing.put(&self.lab.path(PROGRAM));
    }

    /// `systemctl reload`, however it ends.
    pub fn reload(&self) -> Said {
        self.lab.exec(["systemctl", "reload", UNIT])
    }

    /// `systemctl reload`, which must succeed and change the main process. Gives the new one.
    #[track_caller]
    pub fn reload_well(&self) -> u32 {
        let before = self.main_pid();
        let said = self.reload();
        assert!(said.status.success(), "{said:#?}\n{}", self.lab.state());
        let after = self.main_pid();
        assert_ne!(after, before, "MainPID\n{}", self.lab.state());
        after
    }

    /// `systemctl reload`, which must fail and change nothing but the status.
    #[track_caller]
    pub fn reload_badly(&self) {
        let before = self.main_pid();
        let said = self.reload();
        assert!(!said.status.success(), "a version that cannot serve was reloaded\n{}", self.lab.state());
        self.assert_serves(before);
    }

    /// Asserts that the unit is active with this main process, and that systemd never started it anew.
    #[track_caller]
    pub fn assert_serves(&self, main: u32) {
        let seen = ["ActiveState", "SubState", "MainPID", "NRestarts"].map(|property| self.lab.show(UNIT, property));
        let wanted = ["active", "running", &main.to_string(), "0"];
        assert!(seen == wanted, "wanted {wanted:?}, found {seen:?}\n{}", self.lab.state());
    }

    /// Asserts that systemd accepted each message that it was sent.
    #[track_caller]
    pub fn assert_no_message_refused(&self) {
        let journal = self.lab.journal(UNIT);
        assert!(!journal.contains(REFUSED), "{journal}");
    }

    /// The main process, as systemd knows it; 0 where there is none.
    #[track_caller]
    pub fn main_pid(&self) -> u32 {
        self.lab.show(UNIT, "MainPID").parse().expect("systemd shows a number")
    }

    /// What the status line says.
    #[track_caller]
    pub fn status(&self) -> String {
        self.lab.show(UNIT, "StatusText")
    }

    /// Whether a process runs, by its pid inside. A zombie does not.
    pub fn runs(&self, pid: u32) -> bool {
        let stat = fs::read_to_string(self.lab.path(format!("/proc/{pid}/stat"))).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// The processes in the unit's cgroup, by their pids inside.
    pub fn processes(&self) -> Vec<u32> {
        // Reading it inside gives the pids of the inside.
        let path = format!("/sys/fs/cgroup/system.slice/{UNIT}/cgroup.procs");
        let said = self.lab.exec(["cat", &path]);
        said.stdout.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Waits until the unit has exactly one process, and gives it.
    #[track_caller]
    pub fn wait_until_alone(&self) -> u32 {
        self.lab.wait_until("one process is left", DEADLINE, || self.processes().len() == 1);
        self.processes()[0]
    }

    /// Waits until the status line holds these words.
    #[track_caller]
    pub fn wait_for_status(&self, words: &str) {
        self.lab.wait_until(&format!("the status holds {words:?}"), DEADLINE, || self.status().contains(words));
    }

    /// Waits until so many connections to the service, or more, have sent something that it has read.
    #[track_caller]
    pub fn wait_for_connections(&self, connections: u32) {
        // Established (01), on the server's port, with an empty receive queue.
        let count = "awk '$2 ~ /:0050$/ && $4 == \"01\" && $5 ~ /:00000000$/' /proc/net/tcp6 | wc -l";
        self.lab.wait_until(&format!("{connections} connections"), DEADLINE, || {
            self.lab.exec(["sh", "-c", count]).stdout.parse().is_ok_and(|found: u32| found >= connections)
        });
    }

    /// Sends a signal to a process, by its pid inside.
    #[track_caller]
    pub fn signal(&self, name: &str, pid: u32) {
        let said = self.lab.exec(["kill", "-s", name, &pid.to_string()]);
        assert!(said.status.success(), "{said:#?}\n{}", self.lab.state());
    }

    /// Sends a signal to the lab's PID 1, which only the host can do.
    pub fn signal_init(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.lab.init().to_string()]).status();
        assert!(status.expect("kill can be started").success(), "PID 1 of the lab runs");
    }
}
