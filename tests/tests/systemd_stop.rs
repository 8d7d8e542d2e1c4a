//! Stopping and restarting on a real systemd: requests in flight finish, nothing is left, and it never takes long.

use std::{
    thread,
    time::{Duration, Instant},
};

use tests::lab::{DEADLINE, Service, UNIT};
use tests::load::Failure;

/// Far below the unit's TimeoutStopSec=40, and far above what a stop without requests takes.
const STOP_MAX: Duration = Duration::from_secs(15);
/// How long requests take: longer than what happens meanwhile, shorter than a drain.
const SLOW: Duration = Duration::from_secs(8);
/// The moments of a reload at which it is stopped.
const MOMENTS: u32 = 40;
/// How far apart they are. A reload with a probation of 100 ms takes about 130 ms.
const MOMENT: Duration = Duration::from_millis(4);

/// Who sends requests meanwhile, in all.
const CLIENTS: u64 = 8;

/// Asserts that the unit ended as it should, with nothing left.
#[track_caller]
fn assert_stopped(service: &Service) {
    let seen = ["ActiveState", "Result", "NRestarts"].map(|property| service.lab.show(UNIT, property));
    assert!(seen == ["inactive", "success", "0"], "{seen:?}\n{}", service.lab.state());
    assert_eq!(service.processes(), [0; 0], "{}", service.lab.state());
}

#[test]
fn a_stop_during_a_drain_lets_the_requests_of_both_generations_finish() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let of_old = service.load(|load| load.slow(4, SLOW).requests(4));
    let old = service.main_pid();
    service.wait_for_connections(4);
    let new = service.reload_well();
    let of_new = service.load(|load| load.slow(4, SLOW).requests(4));
    service.wait_for_connections(8);
    assert!(service.runs(old), "it drains");
    let start = Instant::now();
    // The socket would start the service anew for whoever connects later.
    service.lab.systemctl(["stop", "reborn.socket", UNIT]);
    assert!(start.elapsed() < STOP_MAX, "it took {:?}", start.elapsed());
    assert_stopped(&service);
    let (of_old, of_new) = (of_old.join(), of_new.join());
    of_old.assert_no_failure();
    of_new.assert_no_failure();
    assert_eq!((of_old.pids[&old].answers, of_new.pids[&new].answers), (4, 4));
}

#[test]
fn a_stop_after_a_reload_lets_the_requests_in_flight_finish() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let main = service.reload_well();
    assert_eq!(service.wait_until_alone(), main, "systemd did not start it, and its predecessor is gone");
    let slow = service.load(|load| load.slow(4, SLOW).requests(4));
    service.wait_for_connections(4);
    service.lab.systemctl(["stop", "reborn.socket", UNIT]);
    assert_stopped(&service);
    slow.join().assert_no_failure();
}

#[test]
fn a_stop_at_any_moment_of_a_reload_is_quick_and_clean() {
    let Some(service) = Service::start(&["PROBATION=100ms"]) else { return };
    for moment in 0..MOMENTS {
        service.lab.systemctl(["start", UNIT]);
        service.lab.systemctl(["reload", "--no-block", UNIT]);
        // Not a wait for anything: the moment itself is what differs.
        thread::sleep(MOMENT * moment);
        let start = Instant::now();
        service.lab.systemctl(["stop", UNIT]);
        let took = start.elapsed();
        assert!(took < STOP_MAX, "moment {moment}: it took {took:?}\n{}", service.lab.state());
        assert_stopped(&service);
    }
}

#[test]
fn stops_at_any_moment_of_a_reload_under_load_never_fail_the_unit() {
    let Some(service) = Service::start(&["PROBATION=100ms"]) else { return };
    // The load starts the service more often than anybody does whose service is well.
    let limit = format!("[Socket]\nTriggerLimitBurst={}\n", 4 * MOMENTS);
    service.lab.edit("reborn.socket", "often", &limit);
    let load = service.load(|load| load.new_connections_paced(4, 100).paced(4, 100));
    for moment in 0..MOMENTS {
        // The load has started it again already, most times.
        service.lab.systemctl(["start", UNIT]);
        service.lab.systemctl(["reload", "--no-block", UNIT]);
        thread::sleep(MOMENT * moment);
        let start = Instant::now();
        service.lab.systemctl(["stop", UNIT]);
        let took = start.elapsed();
        assert!(took < STOP_MAX, "moment {moment}: it took {took:?}\n{}", service.lab.state());
    }
    service.lab.systemctl(["start", UNIT]);
    let answered = load.report().answered;
    load.wait_until("it is served again", |report| report.answered > answered + 100);
    let report = load.stop();
    assert_eq!(report.failed_by(Failure::ConnectRefused), 0, "{report}");
    // A successor that is given up in its probation takes along what it had accepted: one request of a client at most.
    let journal = service.lab.journal(UNIT);
    let given_up = journal.matches("the reload is given up").count() as u64;
    assert!(given_up > 0 && report.failed <= CLIENTS * given_up, "{given_up} were given up; {report}\n{journal}");
    for sign in ["Failed with result", "timed out", "code=killed", "dumped"] {
        assert!(!journal.contains(sign), "{sign}\n{journal}");
    }
    assert_eq!(service.lab.show(UNIT, "NRestarts"), "0");
}

#[test]
fn a_reload_that_begins_while_systemd_already_stops_the_unit_costs_no_request() {
    let Some(service) = Service::install(&["PROBATION=0s"]) else { return };
    // systemd 252 ignores MAINPID= from here on, so it refuses what the new main process says and sees the old one end.
    let slow = "[Service]\nExecStop=\nExecStop=/bin/sh -c 'until [ -e /run/go ]; do sleep 0.05; done'\n\
                ExecStop=-/usr/bin/reborn stop\n";
    service.lab.edit(UNIT, "stop", slow);
    service.lab.systemctl(["start", UNIT]);
    let old = service.main_pid();
    service.lab.systemctl(["stop", "--no-block", UNIT]);
    service.lab.wait_until("it stops", DEADLINE, || service.lab.show(UNIT, "ActiveState") == "deactivating");
    service.signal("HUP", old);
    service.lab.wait_until("the old process is gone", DEADLINE, || !service.runs(old));
    let slow = service.load(|load| load.slow(4, SLOW).requests(4));
    service.wait_for_connections(4);
    service.lab.systemctl(["stop", "--no-block", "reborn.socket"]);
    service.lab.write("/run/go", "");
    service.lab.wait_until("it has stopped", DEADLINE, || service.lab.show(UNIT, "ActiveState") == "inactive");
    assert_stopped(&service);
    slow.join().assert_no_failure();
}

#[test]
fn a_restart_under_load_refuses_no_connection_and_fails_no_request() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    // No idle connections: a restart closes them, and a request that is on its way in that instant is lost (RFC 9112,
    // section 9.5). That is what reloads are for.
    let load = service.load(|load| load.new_connections_paced(8, 200).slow(4, Duration::from_millis(700)));
    for _ in 0..3 {
        let old = service.main_pid();
        service.lab.systemctl(["restart", UNIT]);
        let new = service.main_pid();
        assert_ne!(new, old);
        assert!(load.wait_for_pid(new, DEADLINE).is_some());
    }
    load.stop().assert_no_failure();
    assert_eq!(service.processes(), [service.main_pid()]);
}

#[test]
fn a_terminated_old_generation_only_drains_on() {
    let Some(service) = Service::start(&["PROBATION=0s"]) else { return };
    let slow = service.load(|load| load.slow(2, SLOW).requests(2));
    let old = service.main_pid();
    service.wait_for_connections(2);
    let new = service.reload_well();
    service.signal("TERM", old);
    slow.join().assert_no_failure();
    assert_eq!(service.wait_until_alone(), new);
    service.assert_serves(new);
}
