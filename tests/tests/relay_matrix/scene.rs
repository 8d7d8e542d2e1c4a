//! One reload with a relay in the middle of a service that is used in every way, and what must hold whatever the relay does.
//!
//! Nothing here panics on a broken promise: it is noted, and the next one is looked at.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use smol::block_on;
use tests::load::{Answer, Close, Connection, Limits, Lost, Report, Request, Running, Target};
use tests::relay::Seen;
use tests::{CommandOutput, Process, Reborn, Relay, Server, Version};

/// How long a client waits, and how long it may take until what must hold does. The end of the drain is later, so that
/// what only the drain's deadline ended is not in time.
const PATIENCE: Duration = Duration::from_secs(7);

/// The drain's deadline.
const DRAIN_TIMEOUT: &str = "12s";

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(5);

/// Connections that are idle during the reload.
const IDLE: usize = 4;

/// How long the request in flight takes.
const SLOW_MS: u64 = 400;

/// New connections by which it is seen who accepts.
const KNOCKS: usize = 8;

/// What a reload with a relay led to.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Each promise that was broken, with the facts.
    pub(crate) broken: Vec<String>,
    /// What became of the reload.
    pub(crate) reload: String,
    /// What the relay saw.
    pub(crate) seen: Vec<Seen>,
}

impl Verdict {
    pub(crate) fn broken(what: &str) -> Self {
        Self { broken: vec![what.to_owned()], reload: "unknown".into(), ..Self::default() }
    }

    fn expect(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.broken.push(what());
        }
    }

    fn note<T>(&mut self, result: Result<T, String>) -> Option<T> {
        result.map_err(|what| self.broken.push(what)).ok()
    }
}

/// A service of two generations, of which the older one drains, and its clients.
struct Scene {
    server: Server,
    load: Running,
    /// A request in flight in the oldest generation, and that one's pid.
    oldest: (Connection, u32),
    /// A request in flight in the generation that is to be replaced, with further ones behind it.
    pipelined: Connection,
    idle: Vec<Connection>,
    old: u32,
}

impl Scene {
    fn new() -> Self {
        let arguments = ["--log", "debug", "--ready-timeout", "2s", "--drain-timeout", DRAIN_TIMEOUT];
        let arguments = arguments.into_iter().chain(["--stop-timeout", DRAIN_TIMEOUT]);
        let server = Reborn::new().demo().probation_ms(0).args(arguments).start();
        let mut oldest = connect(&server).unwrap();
        exchange(&mut oldest, "oldest").unwrap();
        block_on(async {
            let head = "POST /echo HTTP/1.1\r\nhost: localhost\r\nx-id: held\r\ncontent-length: 9\r\n\r\nheld bac";
            oldest.send(head.as_bytes()).await.unwrap();
            oldest.changed().await;
        });
        let old = server.reload_ok();
        let load = server.load().paced(2, 60).new_connections_paced(1, 30).start();
        let mut idle: Vec<Connection> = (0..IDLE).map(|_| connect(&server).unwrap()).collect();
        for connection in &mut idle {
            exchange(connection, "before").unwrap();
        }
        load.wait_for_pid(old, PATIENCE).unwrap();
        let pipelined = connect(&server).unwrap();
        let slow = format!("GET /?delay={SLOW_MS} HTTP/1.1\r\nhost: localhost\r\nx-id: slow\r\n\r\n");
        let fast = ["one", "two"].map(|id| Request::fast(id).head()).concat();
        block_on(pipelined.send(format!("{slow}{fast}").as_bytes())).unwrap();
        server.wait_until("the slow request has begun", |server| server.log().contains("request start"));
        let oldest = (oldest, server.first_pid());
        Self { server, load, oldest, pipelined, idle, old }
    }
}

/// Reloads with this relay, which may make the reload fail or not, and then without one: which promises that broke.
pub(crate) fn promises_hold(relay: Relay, may_fail: bool) -> Verdict {
    let (mut verdict, mut scene) = (Verdict::default(), Scene::new());
    let is_to_change = relay != Relay::new();
    scene.server.replace_binary(&Version::Relayed(relay));
    let reload = scene.server.reload();
    scene.server.replace_binary(&Version::Current);
    let main = outcome(&mut verdict, &scene, &reload, may_fail);
    one_main_process(&mut verdict, &scene.server, main, "after the reload");
    requests_in_flight_are_answered(&mut verdict, &mut scene);
    idle_connections_live(&mut verdict, &mut scene.idle, IDLE / 2, "after the reload");
    let [old, oldest] = [scene.old, scene.oldest.1];
    let gone = if main == old { vec![oldest] } else { vec![oldest, old] };
    ended_in_time(&mut verdict, &scene.server, &gone, "with its last request");
    idle_connections_live(&mut verdict, &mut scene.idle, IDLE, "after the drain");
    let connection = &mut scene.oldest.0;
    let answered = exchange(connection, "oldest.again").map_err(|lost| format!("the oldest connection: {lost}"));
    verdict.note(answered);

    let next = scene.server.reload();
    verdict.expect(next.is_success(), || format!("the next reload failed: {}", first_line(&next.stderr)));
    let newest = wait_main(&scene.server, |pid| pid != main).unwrap_or(main);
    verdict.expect(newest != main, || "the next reload led to no new main process".into());
    one_main_process(&mut verdict, &scene.server, newest, "after the next reload");
    idle_connections_live(&mut verdict, &mut scene.idle, IDLE, "after the next reload");
    let others = scene.server.generations().into_iter().filter(|pid| *pid != newest).collect::<Vec<_>>();
    ended_in_time(&mut verdict, &scene.server, &others, "after the next reload");

    verdict.seen = scene.server.relayed();
    let is_changed = verdict.seen.iter().any(Seen::is_changed);
    verdict.expect(is_changed == is_to_change, || "the relay did not meet its message".into());
    let successor = verdict.seen.first().map(|seen| seen.successor);
    let killed = successor.filter(|successor| *successor != main && !reload.is_success());
    clients_lost_nothing(&mut verdict, &scene.load.stop(), killed);
    for words in ["panicked at", "does not balance"] {
        verdict.expect(!scene.server.log().contains(words), || format!("the log has {words:?}"));
    }
    verdict
}

/// A reload succeeds, or may fail, with a reason and with the old one serving. The pid of the main process.
fn outcome(verdict: &mut Verdict, scene: &Scene, reload: &CommandOutput, may_fail: bool) -> u32 {
    let Scene { server, old, .. } = scene;
    if reload.is_success() {
        verdict.reload = "succeeded".into();
        let main = wait_main(server, |pid| pid != *old);
        verdict.expect(main.is_some(), || "the reload succeeded, and no other process is the main one".into());
        return main.unwrap_or(*old);
    }
    let said = first_line(&reload.stderr);
    verdict.reload = format!("failed ({said})");
    verdict.expect(may_fail, || format!("the reload failed behind its commit: {said}"));
    let is_told = reload.stderr.contains(&format!("(pid {old}) still serves"));
    verdict.expect(is_told, || format!("a failed reload does not say who serves on: {said}"));
    let failure = status(server).map(|status| status["last_reload"]["failure"].clone());
    let has_reason = failure.as_ref().and_then(Value::as_str).is_some_and(|failure| !failure.is_empty());
    verdict.expect(has_reason, || format!("the status has no reason: {failure:?}"));
    wait_main(server, |_| true).unwrap_or(*old)
}

/// The status, the pid file and new connections all name one process, which lives.
fn one_main_process(verdict: &mut Verdict, server: &Server, main: u32, when: &str) {
    let is_in_file = eventually(|| server.pid_in_file() == Some(main));
    verdict.expect(is_in_file, || format!("{when} the pid file has {:?}, not {main}", server.pid_in_file()));
    verdict.expect(server.generations().contains(&main), || format!("{when} the main process {main} does not live"));
    let mut answered = BTreeSet::new();
    for _ in 0..KNOCKS {
        let pid = connect(server).and_then(|mut connection| exchange(&mut connection, "who"));
        answered.extend(verdict.note(pid.map_err(|lost| format!("{when} a new connection: {lost}"))));
    }
    verdict.expect(answered == [main].into(), || format!("{when} {answered:?} accept, and {main} is the main process"));
}

/// Those in flight in the replaced generation, with what was pipelined behind them, and in the one before it.
fn requests_in_flight_are_answered(verdict: &mut Verdict, scene: &mut Scene) {
    for id in ["slow", "one", "two"] {
        let answer = block_on(scene.pipelined.answer());
        let is_right = |answer: &Answer| answer.status == 200 && (id == "slow" || answer.header("x-id") == Some(id));
        let is_right = answer.as_ref().is_ok_and(is_right);
        verdict.expect(is_right, || format!("the pipelined request {id}: {}", fate(answer)));
        if !is_right {
            break;
        }
    }
    let (connection, pid) = &mut scene.oldest;
    let answer = block_on(async {
        // Where the connection is gone, the answer's absence says so.
        let _sent = connection.send(b"k").await;
        connection.answer().await
    });
    let is_right = |answer: &Answer| answer.text() == "held back" && answer.pid() == Some(*pid);
    let is_right = answer.as_ref().is_ok_and(is_right);
    verdict.expect(is_right, || format!("the request held in the oldest: {}", fate(answer)));
}

/// Clients that have been silent get their answer over the connection that they have. Those lost once are not asked again.
fn idle_connections_live(verdict: &mut Verdict, idle: &mut Vec<Connection>, count: usize, when: &str) {
    let others = idle.split_off(count.min(idle.len()));
    let (asked, mut lost) = (idle.len(), Vec::new());
    idle.retain_mut(|connection| exchange(connection, "idle").map_err(|failure| lost.push(failure)).is_ok());
    verdict.expect(lost.is_empty(), || format!("{when} {} of {asked} idle connections: {}", lost.len(), lost[0]));
    idle.extend(others);
}

fn ended_in_time(verdict: &mut Verdict, server: &Server, pids: &[u32], when: &str) {
    let lives = |pid: &u32| Process::open(*pid).is_some_and(|process| process.is_alive());
    let is_gone = eventually(|| !pids.iter().any(lives));
    let left: Vec<_> = pids.iter().filter(|pid| lives(pid)).collect();
    verdict.expect(is_gone, || format!("did not end {when}: {left:?} of {:?}", server.generations()));
}

/// What a failed successor had accepted itself ends with it; everything else is answered, and stays open.
fn clients_lost_nothing(verdict: &mut Verdict, report: &Report, killed: Option<u32>) {
    let of_killed = |count: fn(&Report, u32) -> u64| killed.map_or(0, |pid| count(report, pid));
    let excused = of_killed(Report::failed_of) + killed.map_or(0, |_| report.failed_of_nobody());
    let failures = &report.failures;
    verdict.expect(report.failed <= excused, || format!("{} requests failed: {failures:?}", report.failed - excused));
    let of_kind = |close| report.closed.get(&close).copied().unwrap_or(0);
    let closed = of_kind(Close::FinWhileIdle) + of_kind(Close::ResetWhileIdle);
    let excused = of_killed(|report, pid| report.pids.get(&pid).map_or(0, |of_pid| of_pid.closed));
    verdict.expect(closed <= excused, || format!("{} idle connections were closed", closed - excused));
    verdict.expect(report.went_back == 0 || killed.is_some(), || format!("{} went back", report.went_back));
}

fn connect(server: &Server) -> Result<Connection, String> {
    let limits = Limits { connect: PATIENCE, answer: PATIENCE };
    block_on(Connection::open(&Target::Tcp(server.address()), limits)).map_err(|lost| lost.detail)
}

/// The pid that answered.
fn exchange(connection: &mut Connection, id: &str) -> Result<u32, String> {
    let answer = block_on(connection.exchange(&Request::fast(id)));
    let answer = answer.map_err(|lost| lost.failure.to_string())?;
    answer.pid().ok_or_else(|| format!("nobody signed {answer:?}"))
}

fn status(server: &Server) -> Option<Value> {
    serde_json::from_str(&server.command(["status", "--json"]).stdout).ok()
}

/// Waits until the status names a main process that fits.
fn wait_main(server: &Server, fits: impl Fn(u32) -> bool) -> Option<u32> {
    let mut main = None;
    eventually(|| {
        let pid = status(server).and_then(|status| u32::try_from(status["pid"].as_u64()?).ok());
        main = pid.filter(|pid| fits(*pid));
        main.is_some()
    });
    main
}

fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        thread::sleep(STEP);
    }
}

fn fate(answer: Result<Answer, Lost>) -> String {
    answer.map_or_else(|lost| lost.failure.to_string(), |answer| format!("{answer:?}"))
}

fn first_line(text: &str) -> String {
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned()
}
