//! Descriptors: a successor inherits one beyond its output, a child of the application none; whatever the process was
//! started with on its standard streams, and whatever it runs out of, it serves on.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Read,
    net::TcpStream,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl},
    process::{Pid, Resource, Rlimit, getrlimit, prlimit},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Action, tcflow},
};
use tests::{
    DEADLINE, Ended, Mode, Process, Reborn, Server, Signal, Version,
    load::{Connection, Request},
    skip::may_change_user,
};

/// A limit of threads counts all of a user's: what runs with one as nobody runs by itself.
static NOBODY: Mutex<()> = Mutex::new(());

/// The descriptors of a process that are open on purpose, by kind: `socket`, `anon_inode:[eventpoll]`, a path.
fn kinds(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for target in Process::open(pid).unwrap().fds().into_values() {
        let kind = if target.starts_with("socket:") { "socket".to_owned() } else { target };
        *kinds.entry(kind).or_default() += 1;
    }
    kinds
}

/// Waits until no connection is open any more, a command's neither, so that what is left belongs to the server.
#[track_caller]
fn settled(server: &Server, pid: u32) -> BTreeMap<String, usize> {
    server.wait_until("no connection is left", |server| server.status()["connections"] == 0);
    let mut last = kinds(pid);
    let (mut since, still) = (Instant::now(), Duration::from_millis(200));
    server.wait_until("its descriptors stay the same for a while", |_| {
        let now = kinds(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > still
    });
    last
}

/// Waits until a process has these descriptors open, and no others.
#[track_caller]
fn wait_kinds(server: &Server, pid: u32, expected: &BTreeMap<String, usize>) {
    let (end, mut now) = (Instant::now() + DEADLINE, kinds(pid));
    while now != *expected {
        assert!(Instant::now() < end, "pid {pid} has {now:?} open, not {expected:?}\n{}", server.state());
        std::thread::sleep(Duration::from_millis(2));
        now = kinds(pid);
    }
}

#[test]
fn generations_have_the_same_descriptors_however_many_reloads_there_were() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let mut first = settled(&server, server.first_pid());
    // What the test itself was started with reaches the first generation, and no other.
    first.retain(|kind, _| !kind.starts_with("pipe:"));
    let pid = server.reload_ok();
    server.wait_single();
    first.insert("/dev/null".to_owned(), 1);
    // The first generation binds, and the second takes over.
    wait_kinds(&server, pid, &first);
    for _ in 0..4 {
        server.reload_ok();
    }
    let last = server.wait_single();
    wait_kinds(&server, last, &first);
    let log = server.folder().join("log").display().to_string();
    let named: Vec<_> = first.keys().filter(|kind| kind.starts_with('/')).collect();
    let stdout = server.folder().join("stdout").display().to_string();
    assert_eq!(named, [&"/dev/null".to_owned(), &log, &stdout], "{first:?}");
}

#[test]
fn a_successor_inherits_its_channel_and_its_output_and_nothing_of_stray_descriptors() {
    let reborn = Reborn::new().demo().probation_ms(0).prelude("exec 5</dev/zero 7<. 9>stray");
    let server = reborn.start();
    let stray = Process::open(server.first_pid()).unwrap().fds();
    assert!(stray[&5] == "/dev/zero" && stray[&9].ends_with("/stray"), "{stray:?}");
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    server.signal(Signal::HUP);
    let successor = server.wait_broken(0);
    let mut fds = Process::open(successor).unwrap().fds();
    // What it opened itself.
    fds.retain(|_, target| !target.ends_with("/reborn.started"));
    assert_eq!(fds.keys().copied().collect::<Vec<_>>(), [0, 1, 2], "{fds:?}");
    assert!(fds[&0].starts_with("socket:") && fds[&1].ends_with("/stdout") && fds[&2].ends_with("/log"), "{fds:?}");
    server.open_gate();
    server.wait_until("it has taken over", |server| server.pid() == successor);
    let fds = Process::open(server.wait_single()).unwrap().fds();
    assert_eq!(fds[&0], "/dev/null");
    assert!(fds.values().all(|target| target != "/dev/zero" && !target.ends_with("/stray")), "{fds:?}");
}

#[test]
fn a_child_of_the_application_inherits_nothing() {
    let server = Reborn::new().demo().args(["--ready-timeout", "1m"]).prelude("exec 5</dev/zero").start();
    server.replace_binary(&Version::Broken(Mode::StartsAChild));
    server.signal(Signal::HUP);
    let successor = server.wait_broken(0);
    let is_sleep = |pid: &u32| tests::procfs::command_line(*pid).first().is_some_and(|word| word == "sleep");
    let mut child = None;
    server.wait_until("it has a child", |server| {
        child = server.generations().into_iter().find(is_sleep);
        child.is_some()
    });
    let child = Process::open(child.unwrap()).unwrap();
    // What it opens itself, as its locale, it closes again before it sleeps; what it inherits stays.
    server.wait_until(&format!("the child of {successor} has its standard streams and nothing else"), |_| {
        child.fds().keys().copied().eq([0, 1, 2])
    });
    let fds = child.fds();
    assert_eq!(fds[&0], "/dev/null", "the channel is not its standard input");
}

/// Lets a process open no descriptor of this number or a higher one; what is open stays open. The limit before.
fn limit_descriptors(pid: u32, limit: u64) -> Rlimit {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(limit), maximum }).unwrap()
}

#[test]
fn a_process_without_descriptors_left_waits_without_spinning_and_recovers() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let old = server.first_pid();
    let process = Process::open(old).unwrap();
    let mut early = server.connect();
    smol::block_on(early.exchange(&Request::fast("early"))).unwrap();
    // The kernel gives out the lowest free number: with it the next descriptor is one too many.
    let fds = process.fds();
    let free = (0..4096).find(|number| !fds.contains_key(number)).unwrap();
    let before = limit_descriptors(old, free.into());
    // The handshakes are the kernel's, so they succeed.
    let mut waiting: Vec<Connection> = (0..40).map(|_| server.connect()).collect();
    server.wait_until("it has none left", |server| server.log().contains("cannot accept on"));
    smol::block_on(early.exchange(&Request::fast("served"))).unwrap();

    let (begun, ticks_before) = (Instant::now(), process.cpu_ticks());
    // A measurement, not a wait for something: 100 ticks are a second of one core.
    std::thread::sleep(Duration::from_secs(1));
    let (ticks, time) = (process.cpu_ticks() - ticks_before, begun.elapsed());
    assert!(ticks < 30, "{ticks} ticks of CPU in {time:?} while nothing could be done");
    server.signal_to(old, Signal::HUP);
    server.wait_until("the reload has failed", |server| server.log().contains("reload failed: cannot start"));

    limit_descriptors(old, before.current.unwrap());
    for connection in &mut waiting {
        let answer = smol::block_on(connection.exchange(&Request::fast("waited")));
        assert_eq!(answer.unwrap_or_else(|lost| panic!("{lost:?}\n{}", server.state())).pid(), Some(old));
    }
    let new = server.reload_ok();
    assert_eq!(smol::block_on(early.exchange(&Request::fast("on"))).unwrap().pid(), Some(new));
}

#[test]
fn more_connections_than_descriptors_wait_for_their_turn_and_keep_no_command_out() {
    let server = Reborn::new().demo().probation_ms(0).prelude("ulimit -n 48").start();
    let mut connections: Vec<Connection> = (0..80).map(|_| server.connect()).collect();
    smol::block_on(connections[0].exchange(&Request::fast("first"))).unwrap();
    // One that has been idle for a while is closed to make room, so each has asked by then.
    for connection in &connections {
        smol::block_on(connection.send(Request::fast("turn").head().as_bytes())).unwrap();
    }
    assert_eq!(server.pid(), server.first_pid());
    let new = server.reload_ok();
    // Each makes room for the next one when it is dropped.
    for mut connection in connections {
        let answer = smol::block_on(connection.answer());
        assert_eq!(answer.unwrap_or_else(|lost| panic!("{lost:?}\n{}", server.state())).status, 200);
    }
    assert_eq!((server.wait_single(), server.ask().pid()), (new, Some(new)));
}

#[test]
fn a_limit_that_is_too_low_to_serve_is_named_with_what_is_needed() {
    let _alone = NOBODY.lock().unwrap();
    let mut cases = vec![("ulimit -n 16", ["RLIMIT_NOFILE", "is 16,", "at least"], Reborn::new())];
    if may_change_user() {
        cases.push(("prlimit --pid $$ --nproc=1", ["RLIMIT_NPROC", "is 1:", "at least"], Reborn::new().as_nobody()));
    }
    for (limit, named, reborn) in cases {
        let server = reborn.demo().prelude(limit).spawn();
        assert_eq!(server.wait_end(server.first_pid()), Ended::Code(1));
        let log = server.log();
        assert!(named.iter().all(|word| log.contains(word)) && !log.contains("panicked"), "{log}");
    }
}

#[test]
fn a_server_that_gets_few_threads_serves_with_them_and_has_its_timers_still() {
    if !may_change_user() {
        return;
    }
    let _alone = NOBODY.lock().unwrap();
    for limit in [8, 10, 18] {
        let reborn = Reborn::new().as_nobody().demo().args(["--threads", "64", "--idle-timeout", "1s"]);
        let server = reborn.prelude(&format!("prlimit --pid $$ --nproc={limit}")).start();
        assert_eq!(server.ask().pid(), Some(server.first_pid()), "{}", server.log());
        let mut idle = TcpStream::connect(server.address()).expect("a connection");
        idle.set_read_timeout(Some(DEADLINE)).expect("a socket");
        assert_eq!(idle.read(&mut [0]).expect("its end"), 0, "{}", server.log());
        let log = server.log();
        assert!(log.contains("threads serve: ") && !log.contains("ERROR"), "{log}");
    }
}

#[test]
fn a_closed_standard_error_is_no_reason_not_to_serve() {
    let server = Reborn::new().demo().probation_ms(0).prelude("exec 2>&-").start();
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
    let new = server.reload_ok();
    assert_eq!(server.ask().pid(), Some(new));
    server.replace_binary(&Version::Missing);
    server.reload().assert_code(1).assert_stderr("cannot start");
    server.stop().assert_success();
}

#[test]
fn all_three_standard_streams_closed_are_no_reason_not_to_serve() {
    let server = Reborn::new().demo().probation_ms(0).prelude("exec 0<&- 1>&- 2>&-").start();
    let fds = Process::open(server.first_pid()).unwrap().fds();
    assert!((0..3).all(|fd| fds[&fd] == "/dev/null"), "{fds:?}");
    let new = server.reload_ok();
    assert_eq!(server.ask().pid(), Some(new));
    server.stop().assert_success();
}

#[test]
fn a_full_standard_error_that_nobody_reads_delays_neither_requests_nor_reloads() {
    // Opened for reading and writing, the pipe has a reader that never reads.
    serves_with_nobody_reading_its_log("mkfifo full && exec 2<>full");
}

#[test]
fn a_stopped_terminal_as_standard_error_delays_neither_requests_nor_reloads() {
    let (_controller, terminal, path) = terminal();
    // As Ctrl-S does.
    tcflow(&terminal, Action::OOff).unwrap();
    serves_with_nobody_reading_its_log(&format!("exec 2>{path}"));
}

#[track_caller]
fn serves_with_nobody_reading_its_log(prelude: &str) {
    let server = Reborn::new().demo().probation_ms(0).prelude(prelude).start();
    let mut connection = server.connect();
    let ask = format!("GET /?delay=0ms&{} HTTP/1.1\r\nhost: a\r\nx-id: log\r\n\r\n", "x".repeat(200));
    // Each request logs two lines of 250 bytes; a pipe holds 64 KiB.
    let begun = Instant::now();
    for _ in 0..400 {
        let answer = smol::block_on(async {
            connection.send(ask.as_bytes()).await.unwrap();
            connection.answer().await
        });
        assert_eq!(answer.unwrap_or_else(|lost| panic!("{lost:?}")).text(), "cout\n");
    }
    assert!(begun.elapsed() < DEADLINE, "{:?}", begun.elapsed());
    let new = server.reload_ok();
    assert_eq!(smol::block_on(connection.exchange(&Request::fast("on"))).unwrap().pid(), Some(new));
    assert_eq!(server.wait_single(), new);
    server.stop().assert_success();
    assert_eq!(server.ended(server.first_pid()), Some(Ended::Code(0)));
}

/// A pseudoterminal: its controlling side, its terminal and the terminal's path.
fn terminal() -> (OwnedFd, File, String) {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let path = ptsname(&controller, Vec::new()).unwrap().into_string().unwrap();
    let terminal = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (controller, terminal, path)
}

#[test]
fn a_terminal_as_standard_input_is_left_as_it_is() {
    let (_controller, terminal, _) = terminal();
    serves_with_stdin(&terminal.into());
}

#[test]
fn a_stream_socket_as_standard_input_is_no_handover() {
    let (_peer, socket) = UnixStream::pair().unwrap();
    serves_with_stdin(&socket.into());
}

#[test]
fn a_file_or_nothing_as_standard_input_makes_no_difference() {
    serves_with_stdin(&File::open("/dev/null").unwrap().into());
    serves_with_stdin(&File::open("/proc/self/status").unwrap().into());
}

/// A server with this standard input serves, reloads and stops, and never makes it non-blocking.
#[track_caller]
fn serves_with_stdin(stdin: &OwnedFd) {
    let flags = || fcntl_getfl(stdin.as_fd()).unwrap() & OFlags::NONBLOCK;
    let server = Reborn::new().demo().probation_ms(0).stdin(stdin.try_clone().unwrap()).start();
    let new = server.reload_ok();
    assert_eq!((server.ask().pid(), flags()), (Some(new), OFlags::empty()));
    server.replace_binary(&Version::Missing);
    server.reload().assert_code(1);
    server.stop().assert_success();
    assert_eq!(flags(), OFlags::empty());
    server.wait_nothing_left();
}

#[test]
fn g_takes_a_listening_socket_on_descriptor_3() {
    let reborn = Reborn::new().demo().probation_ms(0).without_own_address();
    let address = reborn.address().to_string();
    let arguments = ["--socket", &address, "--listen-pid", "none", "--listen-fds", "none"];
    let server = reborn.launch(arguments).arg("-g").start();
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
    let new = server.reload_ok();
    assert_eq!((server.ask().pid(), server.wait_single()), (Some(new), new));
    assert_eq!(server.status()["listeners"][0]["address"], address);
}

#[test]
fn g_with_nothing_to_take_is_an_error_that_says_so() {
    let (_peer, socket) = UnixStream::pair().unwrap();
    for stdin in [OwnedFd::from(File::open("/dev/null").unwrap()), socket.into()] {
        let server = Reborn::new().arg("-g").stdin(stdin).spawn();
        assert_eq!(server.wait_end(server.first_pid()), Ended::Code(2));
        let log = server.log();
        assert!(log.contains("-g") && log.contains("descriptor 3"), "{log}");
    }
    // A descriptor 3 that is no listening socket is none to serve on.
    let server = Reborn::new().arg("-g").prelude("exec 3</dev/null").spawn();
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(2));
    assert!(server.log().contains("descriptor 3"), "{}", server.log());
}

#[test]
fn g_on_a_handover_socket_where_nobody_speaks_ends_in_time() {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (silent, stdin) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let begun = Instant::now();
    let server = Reborn::new().arg("-g").stdin(stdin).spawn();
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(1));
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!(server.log().contains("the predecessor said no Hello within 5s"), "{}", server.log());
    // Its last words are for the predecessor.
    let mut words = vec![0; 4096];
    let length = File::from(silent).read(&mut words).unwrap();
    let words = String::from_utf8_lossy(&words[..length]).into_owned();
    assert!(words.contains("failed") && words.contains("no Hello"), "{words}");
}

#[test]
fn listening_sockets_without_a_listen_pid_are_taken_and_anothers_are_refused_by_name() {
    let reborn = Reborn::new().demo().probation_ms(0).without_own_address();
    let address = reborn.address().to_string();
    let server = reborn.launch(["--socket", &address, "--listen-pid", "none", "--names", "web"]).start();
    let new = server.reload_ok();
    assert_eq!(
        (server.ask().pid(), server.status()["listeners"][0]["origin"].as_str()),
        (Some(new), Some("activated"))
    );
    let environment = fs::read(format!("/proc/{new}/environ")).unwrap();
    assert!(!environment.windows(7).any(|part| part == b"LISTEN_"), "LISTEN_* is about one process only");

    let reborn = Reborn::new().demo();
    let path = reborn.folder().join("anothers").display().to_string();
    let server = reborn.launch(["--socket", &path, "--listen-pid", "1"]).spawn();
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(2));
    assert!(server.log().contains("LISTEN_PID=1 says that the sockets of LISTEN_FDS are for another process"));
}
