//! The last release and the present version replace each other, forth and back, while they serve: what they say to each
//! other is understood by either, whoever is the newer one, and what only one of them can go on with stays with it.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use smol::block_on;
use tests::load::{Connection, Crowd, CrowdReport, Limits, Numbers, Request, Target};
use tests::release::Release;
use tests::{DEADLINE, Ended, Reborn, Version};

/// As many clients wait with an idle connection through all reloads.
const IDLE: usize = 20;
/// Forth and back, so that each version is the older and the newer one, with a generation of either before it.
const TURNS: usize = 2;

fn limits() -> Limits {
    Limits { answer: DEADLINE, ..Limits::default() }
}

/// The counters of the service at this moment; nothing where the process that was asked has just ended.
fn counters(metrics: &Target) -> Option<BTreeMap<String, u64>> {
    let page = block_on(async {
        let mut connection = Connection::open(metrics, limits()).await.ok()?;
        connection.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n").await.ok()?;
        connection.answer().await.ok()
    })?;
    let samples = page.text();
    let samples = samples.lines().filter_map(|line| line.rsplit_once(' '));
    let totals = samples.filter(|(name, _)| name.split('{').next().is_some_and(|name| name.ends_with("_total")));
    Some(totals.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect())
}

/// Nothing that both count has fallen, and what the release counts, both do.
#[track_caller]
fn assert_nothing_fell(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    released: &BTreeMap<String, u64>,
) {
    for (name, count) in before.iter().filter(|(name, _)| after.contains_key(*name) || released.contains_key(*name)) {
        assert!(after.get(name) >= Some(count), "{name} was {count} and is {:?}", after.get(name));
    }
}

#[test]
fn the_last_release_and_this_version_replace_each_other_and_nobody_notices() {
    let release = Release::last();
    let Some(binary) = release.binary() else { return };
    let released = Version::File(binary);
    let reborn = Reborn::new().demo().probation_ms(0).version(released.clone());
    let metrics = SocketAddr::new(reborn.address().ip(), reborn.address().port() + 5000);
    let server = reborn.arg("--metrics").arg(metrics.to_string()).start();
    let metrics = Target::Tcp(metrics);
    assert_eq!(server.status()["version"], release.version.as_str());
    let target = Target::Tcp(server.address());
    let mut idle: Vec<_> =
        (0..IDLE).map(|_| block_on(Connection::open(&target, limits())).expect("it accepts")).collect();
    let of_release = counters(&metrics).expect("it has just been started");
    let load = server.load().paced(4, 200).new_connections_paced(4, 100).start();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| {
            let (mut last, mut scrapes) = (BTreeMap::new(), 0);
            while !over.load(Ordering::Relaxed) {
                if let Some(now) = counters(&metrics) {
                    assert_nothing_fell(&last, &now, &of_release);
                    (last, scrapes) = (now, scrapes + 1);
                }
            }
            scrapes
        });
        let versions = [&Version::Current, &released];
        for (turn, version) in versions.into_iter().cycle().take(2 * TURNS).enumerate() {
            let old = server.pid();
            server.replace_binary(version);
            let new = server.reload_ok();
            load.wait_for_pid(new, DEADLINE).expect("the new generation answers");
            for (id, connection) in idle.iter_mut().enumerate() {
                let answer = block_on(connection.exchange(&Request::fast(format!("{turn}-{id}")))).unwrap();
                assert_eq!((answer.pid(), answer.announces_close()), (Some(new), false), "{version:?}: {answer:?}");
            }
            assert_eq!((server.pid(), server.pid_in_file()), (new, Some(new)));
            assert_eq!(server.status()["version"] == release.version.as_str(), *version == released);
            // Nobody else serves beside it.
            assert_eq!(server.wait_end(old), Ended::Code(0));
            assert_eq!(server.generations(), [new]);
        }
        over.store(true, Ordering::Relaxed);
        assert!(scraper.join().unwrap() > 2 * TURNS);
    });
    let report = load.stop();
    report.assert_no_failure().assert_no_close();
    server.assert_no_error();
    assert!(!server.log().contains(" WARN "), "{}", server.log());
    server.stop().assert_success();
}

#[test]
fn what_the_last_release_cannot_go_on_with_is_finished_in_the_old_process_or_by_the_next_one_that_can() {
    const EACH: usize = 2;
    let Some(binary) = Release::last().binary() else { return };
    let reborn = Reborn::new().for_crowd().probation_ms(0).args(["--log", "debug", "--drain-timeout", "2m"]);
    let server = reborn.start();
    let target = Target::Tcp(server.address());
    server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
    let mut idle: Vec<_> = (0..IDLE).map(|_| block_on(Connection::open(&target, limits())).unwrap()).collect();
    let [one, other] = [(); 2].map(|()| Crowd::start(&target, Numbers::each(EACH)));
    let (lasting, all) = (other.len(), IDLE + 2 * one.len());
    server.wait_until("all are accepted", |server| server.status()["connections"] == all);
    let mut ask = |generation| {
        for (id, connection) in idle.iter_mut().enumerate() {
            let answer = block_on(connection.exchange(&Request::fast(format!("{generation}-{id}")))).unwrap();
            assert_eq!((answer.generation(), answer.announces_close()), (Some(generation), false), "{answer:?}");
        }
    };
    let first = server.pid();
    server.replace_binary(&Version::File(binary));
    let second = server.reload_ok();
    ask(2);
    assert_eq!(server.status()["application"]["received"], IDLE, "{}", server.state());
    // This release has no name for anything else: it is finished where it began.
    let expected = |generation| CrowdReport { went_on: lasting, cut: 0, generations: vec![generation; EACH] };
    assert_eq!(one.finish(), expected(1), "{}", server.state());
    assert_eq!(server.generations(), [first, second]);
    server.wait_until("those that are done are closed", |server| {
        server.status()["draining"][0]["connections"] == lasting
    });
    server.replace_binary(&Version::Current);
    server.reload_ok();
    ask(3);
    server.wait_until("all have moved", |server| server.status()["application"]["received"] == IDLE + lasting);
    assert_eq!((server.wait_end(first), server.wait_end(second)), (Ended::Code(0), Ended::Code(0)));
    assert_eq!(other.finish(), expected(3), "{}", server.state());
    server.assert_no_error();
    server.stop().assert_success();
}
