//! An exec that takes its time, under a virus scanner or on a slow file system, holds up nothing but the reload: the
//! generation that serves goes on in everything, the ready timeout holds, and so does a stop.

#![allow(clippy::unwrap_used)]

use std::thread::JoinHandle;

use tests::{
    CommandOutput, Ended, HeldExec, Reborn, Server, Signal, Version,
    load::{Connection, Limits, Target},
};

/// A server whose reload waits for the exec of another version.
fn held(reborn: Reborn) -> (Server, HeldExec, JoinHandle<CommandOutput>) {
    let server = reborn.start();
    server.replace_binary(&Version::Differing);
    let mut exec = HeldExec::new(server.program());
    let reload = server.reload_in_background();
    exec.wait_wanted();
    (server, exec, reload)
}

#[test]
fn requests_status_and_health_are_answered_while_the_exec_hangs() {
    let reborn = Reborn::new().demo().probation_ms(0);
    let metrics = reborn.folder().join("metrics");
    let reborn = reborn.arg("--metrics").arg(format!("unix:{}", metrics.display()));
    let (server, exec, reload) = held(reborn);
    let old = server.first_pid();
    assert_eq!((server.ask().pid(), server.pid()), (Some(old), old));
    let health = smol::block_on(async {
        let mut connection = Connection::open(&Target::Unix(metrics), Limits::default()).await.unwrap();
        connection.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        connection.answer().await.unwrap()
    });
    assert_eq!(health.status, 200);
    assert_eq!(server.status()["reloading"]["stage"], "ready");
    drop(exec);
    reload.join().unwrap().assert_success();
    assert_ne!(server.pid(), old);
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn an_exec_that_outlasts_the_ready_timeout_fails_the_reload_and_starts_nobody_afterwards() {
    let (server, exec, reload) = held(Reborn::new().demo().probation_ms(0).args(["--ready-timeout", "100ms"]));
    let old = server.first_pid();
    let output = reload.join().unwrap();
    output.assert_code(1).assert_stderr("did not begin to run within 100ms").assert_stderr("still serves");
    assert_eq!(server.ask().pid(), Some(old));
    drop(exec);
    assert_eq!(server.wait_single(), old);
    server.wait_until("it is told", |server| server.log().contains("that had been given up is killed"));
    server.wait_until("it is reaped", |server| server.family().zombies().is_empty());
    assert_ne!(server.reload_ok(), old);
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn an_exec_that_ends_after_the_ready_timeout_is_the_end_of_the_failed_reload() {
    let (server, exec, reload) = held(Reborn::new().demo().probation_ms(0).args(["--ready-timeout", "100ms"]));
    server.wait_until("it rolls back", |server| server.status()["reloading"]["stage"] == "rollback");
    drop(exec);
    reload.join().unwrap().assert_code(1).assert_stderr("did not begin to run within 100ms");
    assert_eq!(server.wait_single(), server.first_pid());
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn a_stop_while_the_exec_hangs_ends_the_service() {
    let (server, exec, _reload) = held(Reborn::new().demo().probation_ms(0));
    server.signal_to(server.first_pid(), Signal::TERM);
    server.wait_until("it stops", |server| server.status()["state"] == "stopping");
    drop(exec);
    server.wait_nothing_left();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)), "{}", server.state());
}
