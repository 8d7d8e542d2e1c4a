//! The user units under a user's own, unprivileged systemd.

use tests::{
    Version,
    lab::{DEADLINE, Lab, PROGRAM, Said},
    load::{Load, Running, Target},
};

const UNIT: &str = "reborn.service";
/// The user's own manager as a service: what `user@.service` is where a login manager runs.
const MANAGER: &str = "[Service]\nType=notify\nUser=nobody\nDelegate=yes\nRuntimeDirectory=user\n\
    RuntimeDirectoryMode=0700\nEnvironment=XDG_RUNTIME_DIR=/run/user HOME=/run/user\n\
    ExecStart=/lib/systemd/systemd --user\n";

/// A lab with a user's manager.
struct User(Lab);

impl User {
    /// The units and the program installed, and the socket started.
    fn start() -> Option<User> {
        let lab = Lab::boot()?;
        Version::Current.put(&lab.path(PROGRAM));
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/user");
        for name in ["reborn.socket", UNIT] {
            let unit = std::fs::read(format!("{folder}/{name}")).expect("a unit can be read");
            lab.write(format!("/etc/systemd/user/{name}"), unit);
        }
        let settings = "[Service]\nEnvironment=REBORN_DEMO=true REBORN_PROBATION=0s\n";
        lab.write(format!("/etc/systemd/user/{UNIT}.d/settings.conf"), settings);
        lab.unit("manager.service", MANAGER);
        lab.systemctl(["start", "manager.service"]);
        let user = User(lab);
        user.systemctl(&["enable", "--now", "reborn.socket"]);
        Some(user)
    }

    /// A command as the user.
    fn exec(&self, words: &[&str]) -> Said {
        let user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"];
        self.0.exec(user.iter().chain(&["env", "XDG_RUNTIME_DIR=/run/user"]).chain(words))
    }

    #[track_caller]
    fn systemctl(&self, words: &[&str]) -> String {
        let said = self.exec(&[&["systemctl", "--user"], words].concat());
        assert!(said.status.success(), "{words:?}: {said:#?}\n{}", self.0.state());
        said.stdout
    }

    #[track_caller]
    fn show(&self, property: &str) -> String {
        self.systemctl(&["show", "--property", property, "--value", UNIT])
    }

    #[track_caller]
    fn main_pid(&self) -> u32 {
        self.show("MainPID").parse().expect("systemd shows a number")
    }

    fn load(&self) -> Running {
        let target: Target = "127.0.0.1:8080".parse().expect("an address");
        self.0.inside(|| Load::new(target).new_connections_paced(4, 50).paced(4, 100).start())
    }
}

#[test]
fn a_users_own_reborn_is_started_reloaded_and_stopped_by_the_users_own_systemd() {
    let Some(user) = User::start() else { return };
    let load = user.load();
    load.wait_until("the first connection starts it", |report| report.answered > 0);
    for _ in 0..2 {
        let old = user.main_pid();
        user.systemctl(&["reload", UNIT]);
        let new = user.main_pid();
        assert_ne!(new, old);
        assert!(load.wait_for_pid(new, DEADLINE).is_some());
    }
    let main = user.main_pid();
    user.0.place("#!/bin/sh\n[ \"$1\" != reload ] || exec /opt/reborn \"$@\"\nexit 3\n", PROGRAM);
    Version::Current.put(&user.0.path("/opt/reborn"));
    assert!(!user.exec(&["systemctl", "--user", "reload", UNIT]).status.success());
    assert_eq!((user.main_pid(), user.show("NRestarts").as_str()), (main, "0"));
    let status = user.exec(&["/opt/reborn", "status"]).stdout;
    assert!(status.contains(&format!("(pid {main})")) && status.contains("exited with status 3"), "{status}");
    load.stop().assert_no_failure();
    Version::Current.put(&user.0.path(PROGRAM));
    user.systemctl(&["stop", "reborn.socket", UNIT]);
    assert_eq!((user.show("ActiveState").as_str(), user.show("Result").as_str()), ("inactive", "success"));
    let left = user.0.exec(["ps", "-C", "reborn", "-o", "pid="]).stdout;
    assert_eq!(left, "", "nothing is left");
}
