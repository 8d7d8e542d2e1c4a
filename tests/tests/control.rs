//! The control socket and the commands on it: who may give them, one reload at a time, what they print, and with which
//! status they exit.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    process::{Command, Stdio},
};

use tests::{
    CommandOutput, DEADLINE, Ended, Mode, Reborn, Server, Signal, Version, binary,
    skip::{NOBODY, may_change_user},
    terminal::terminal,
};

fn start() -> Server {
    Reborn::new().demo().probation_ms(0).start()
}

/// Starts what must not come up, and says how it ended.
#[track_caller]
fn refused(reborn: Reborn, code: i32, words: &[&str]) -> Server {
    let server = reborn.spawn();
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(code), "{}", server.log());
    let log = server.log();
    assert!(words.iter().all(|word| log.contains(word)), "{words:?} in {log}");
    server
}

#[test]
fn a_second_reload_is_refused_while_one_runs_and_the_first_succeeds() {
    let server = start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    let first = server.reload_in_background();
    server.wait_broken(0);
    let second = server.reload();
    second.assert_code(1).assert_stderr("no reload was started: a reload is already in progress");
    assert_eq!(server.broken_pids().len(), 1);
    server.open_gate();
    first.join().unwrap().assert_success();
    assert_eq!(server.generation(), 2);
}

#[test]
fn a_reload_beyond_the_bound_of_draining_generations_is_refused_and_works_when_one_has_ended() {
    let server = Reborn::new().demo().probation_ms(0).args(["--max-draining", "2"]).start();
    let first = server.hold();
    let second_pid = server.reload_ok();
    let second = server.hold();
    let third = server.reload_ok();
    let output = server.reload();
    output.assert_code(1).assert_stderr("2 generations still finish what they have, and 2 may");
    assert_eq!(server.pid(), third);
    first.finish_by(server.first_pid());
    server.wait_until("one of them has ended", |server| server.status()["draining"].as_array().unwrap().len() == 1);
    let fourth = server.reload_ok();
    second.finish_by(second_pid);
    assert_eq!(server.wait_single(), fourth);
}

#[test]
fn a_reload_that_waits_comes_after_the_one_that_runs() {
    let server = start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    let first = server.reload_in_background();
    server.wait_broken(0);
    let refused = server.command(["reload", "--wait=300ms"]);
    refused.assert_code(1).assert_stderr("no reload was started within 300ms: a reload is already in progress");
    assert_eq!(server.broken_pids().len(), 1);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.command(["reload", "--wait"]));
        server.open_gate();
        first.join().unwrap().assert_success();
        waiting.join().unwrap().assert_success();
    });
    assert_eq!(server.generation(), 3);
}

#[test]
fn a_reload_that_waits_comes_when_one_of_the_draining_generations_has_ended() {
    let server = Reborn::new().demo().probation_ms(0).args(["--max-draining", "1"]).start();
    let held = server.hold();
    let second = server.reload_ok();
    server.reload().assert_code(1).assert_stderr("ask again when one has ended (`reborn reload --wait` does)");
    server.command(["reload", "--wait=300ms"]).assert_code(1).assert_stderr("within 300ms: 1 generations still finish");
    assert_eq!(server.pid(), second);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.command(["reload", "--wait"]));
        held.finish_by(server.first_pid());
        let output = waiting.join().unwrap();
        let begins = output.assert_success().stdout.starts_with("reloaded: generation 2 ");
        assert!(begins, "{output}");
    });
    assert_eq!(server.wait_single(), server.pid());
}

#[test]
fn a_client_that_goes_away_while_it_waits_leaves_no_reload_behind() {
    let server = Reborn::new().demo().probation_ms(0).args(["--max-draining", "1"]).start();
    let held = server.hold();
    server.reload_ok();
    let mut command = Command::new(binary::reborn());
    command.args(["reload", "--wait", "--control"]).arg(server.control().unwrap());
    let mut waiting = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("reborn: waiting: 1 generations still finish"), "{line}");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
    // Its last question is answered before this one.
    server.status();
    held.finish_by(server.first_pid());
    server.wait_single();
    server.wait_until("nobody drains", |server| server.status()["draining"].as_array().unwrap().is_empty());
    assert_eq!(server.generation(), 2);
    server.reload_ok();
}

#[test]
fn a_signal_beyond_the_bound_of_draining_generations_waits_until_one_has_ended() {
    let server = Reborn::new().demo().probation_ms(0).args(["--max-draining", "1"]).start();
    let (first, held) = (server.first_pid(), server.hold());
    let second = server.reload_ok();
    server.signal(Signal::HUP);
    // The answer comes from behind the signal, and the refusal shows that none has been started for it.
    server.reload().assert_code(1).assert_stderr("1 generations still finish");
    assert_eq!((server.pid(), server.status()["state"].as_str()), (second, Some("serving")));
    held.finish_by(first);
    server.wait_until("the signal has its reload", |server| server.generation() == 3);
    assert_eq!(server.wait_single(), server.pid());
}

#[test]
fn a_reload_says_in_one_line_who_replaced_whom() {
    let server = start();
    let old = server.first_pid();
    let output = server.reload();
    let new = server.pid();
    let line = output.assert_success().stdout.strip_suffix('\n').unwrap();
    let beginning = format!("reloaded: generation 1 (pid {old}) -> generation 2 (pid {new}) in ");
    assert!(line.starts_with(&beginning) && line.contains("ms (spawn ") && !line.contains('\n'), "{output}");
    assert_eq!(output.stderr, "");
    assert_eq!(server.wait_end(old), Ended::Code(0));
    // The log has the same line, once.
    assert_eq!(server.log().matches("reloaded: ").count(), 1, "{}", server.log());
}

#[test]
fn the_status_has_its_fields_for_programs_and_for_people() {
    let server = start();
    let held = server.hold();
    let new = server.reload_ok();
    let status = server.status();
    assert_eq!(status["generation"], 2);
    assert_eq!(status["pid"], new);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["state"], "serving");
    assert_eq!(status["managed"], false);
    assert!(status["uptime_ms"].is_u64() && status["connections"].is_u64(), "{status}");
    let listener = &status["listeners"][0];
    assert_eq!((listener["name"].as_str(), listener["origin"].as_str()), (Some("http"), Some("bound")));
    assert_eq!(listener["address"], server.address().to_string());
    assert_eq!(status["draining"][0]["pid"], server.first_pid());
    assert_eq!(status["draining"][0]["generation"], 1);
    let reload = &status["last_reload"];
    assert!(reload["failure"].is_null() && reload["stages"]["total_us"].is_u64(), "{status}");
    assert_eq!((&reload["from"]["generation"], &reload["to"]["pid"]), (&1.into(), &new.into()));
    let text = server.command(["status"]).assert_success().stdout.clone();
    let (address, old) = (server.address().to_string(), server.first_pid().to_string());
    for part in ["generation 2", &format!("pid {new}"), "serving", &address, &old, "draining"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    held.finish_by(server.first_pid());
}

#[test]
fn commands_without_a_server_exit_with_3_and_say_where_they_looked() {
    let server = start();
    server.stop().assert_success();
    for command in ["reload", "status", "stop"] {
        server.command([command]).assert_code(3).assert_stderr("run/control");
    }
}

#[test]
fn unknown_words_and_refused_values_exit_with_2_and_start_nothing() {
    let server = start();
    for words in [&["reload", "--nothing"][..], &["nothing"], &["serve", "--probation", "soon"], &["-g", "reload"]] {
        let mut command = Command::new(binary::reborn());
        CommandOutput::of(command.args(words)).assert_code(2);
    }
    drop(server);
    refused(Reborn::new().args(["--probation", "soon"]), 2, &["--probation", "soon"]);
    refused(Reborn::new().args(["--reload-signal", "KILL"]), 2, &["--reload-signal"]);
    refused(Reborn::new().env("REBORN_DRAIN_TIMEOUT", "never"), 2, &["REBORN_DRAIN_TIMEOUT"]);
}

#[test]
fn the_help_names_the_commands_the_signals_and_the_exit_codes() {
    let help =
        |words: &[&str]| CommandOutput::of(Command::new(binary::reborn()).args(words)).assert_success().stdout.clone();
    let top = help(&["--help"]);
    for part in ["serve", "reload", "status", "stop", "Exit codes:", "reborn --demo", "no running server was found"] {
        assert!(top.contains(part), "{part} in {top}");
    }
    let serve = help(&["serve", "--help"]);
    for part in ["--listen", "--pid-file", "--probation", "--max-draining", "HUP and USR2 reload", "REBORN_", "-g"] {
        assert!(serve.contains(part), "{part} in {serve}");
    }
    let topics = [("reload", "probation"), ("status", "HANDED OVER"), ("stop", "--stop-timeout"), ("check", "prints")];
    for (topic, word) in topics {
        let text = help(&["help", topic]);
        assert!(text.contains(word), "{word} in {text}");
    }
    assert!(help(&["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn environment_variables_do_for_flags_across_a_reload() {
    let reborn = Reborn::new().without_own_address();
    let address = reborn.address().to_string();
    let server = reborn
        .env("REBORN_LISTEN", format!("web={address}"))
        .env("REBORN_DEMO", "true")
        .env("REBORN_PROBATION", "0s")
        .env("REBORN_READY_TIMEOUT", "3s")
        .start();
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
    let new = server.reload_ok();
    assert_eq!((server.ask().pid(), server.status()["listeners"][0]["name"].as_str()), (Some(new), Some("web")));
    server.replace_binary(&Version::Broken(Mode::Hangs));
    server.reload().assert_code(1).assert_stderr("within 3s");
}

#[test]
fn the_default_control_socket_is_its_owners_alone_and_found_by_every_command() {
    let server = Reborn::new().demo().probation_ms(0).default_control().start();
    let folder = server.folder().join("run/reborn");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("control.sock"))), (0o700, 0o600));
    let inode = fs::metadata(folder.join("control.sock")).unwrap().ino();
    server.reload_ok();
    assert_eq!(fs::metadata(folder.join("control.sock")).unwrap().ino(), inode, "the socket stays the same");
    server.stop().assert_success();
    assert!(!folder.join("control.sock").exists());
}

#[test]
fn a_regular_file_at_the_control_path_is_left_as_it_is() {
    let reborn = Reborn::new();
    let path = reborn.folder().join("run/control");
    fs::write(&path, "precious").unwrap();
    let server = refused(reborn, 1, &["run/control", "is no socket"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    assert!(!server.pid_file().exists());
}

#[test]
fn a_dead_control_socket_is_replaced() {
    let reborn = Reborn::new().demo();
    drop(UnixListener::bind(reborn.folder().join("run/control")).unwrap());
    let server = reborn.start();
    assert_eq!(server.pid(), server.first_pid());
}

#[test]
fn a_second_server_on_a_live_control_path_is_told_who_has_it_and_what_to_type() {
    let server = start();
    let path = server.control().unwrap().to_owned();
    // The later of the two flags is clap's error, so the second server's own one is left out.
    let second = Reborn::new().default_control().arg("--control").arg(&path);
    let pid = format!("pid {}", server.first_pid());
    refused(second, 1, &["another server", &pid, "--control"]);
    assert_eq!((server.pid(), server.ask().pid()), (server.first_pid(), Some(server.first_pid())));
}

#[test]
fn another_users_control_socket_is_left_alone() {
    if !may_change_user() {
        return;
    }
    let reborn = Reborn::new().as_nobody();
    let path = reborn.folder().join("run/control");
    let listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let _server = refused(reborn, 2, &["run/control", "another user's socket"]);
    UnixStream::connect(&path).unwrap();
    drop(listener);
}

#[test]
fn another_user_is_refused_even_where_the_sockets_file_lets_him_in() {
    if !may_change_user() {
        return;
    }
    let server = start();
    let path = server.control().unwrap();
    for (path, mode) in [(server.folder(), 0o755), (path.parent().unwrap(), 0o755), (path, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for command in ["status", "reload", "stop"] {
        let mut client = Command::new(server.program());
        client.arg(command).arg("--control").arg(path).uid(NOBODY).gid(NOBODY).current_dir("/");
        CommandOutput::of(&mut client).assert_code(1).assert_stderr("uid 65534 may not command a process of uid 0");
    }
    assert_eq!((server.pid(), server.generation()), (server.first_pid(), 1));
}

#[test]
fn a_server_that_a_user_may_not_look_for_is_not_said_to_be_missing() {
    if !may_change_user() {
        return;
    }
    let server = start();
    let path = server.control().unwrap();
    fs::set_permissions(server.folder(), fs::Permissions::from_mode(0o755)).unwrap();
    for command in ["status", "reload", "stop"] {
        let mut client = Command::new(server.program());
        client.arg(command).arg("--control").arg(path).uid(NOBODY).gid(NOBODY).current_dir("/");
        CommandOutput::of(&mut client).assert_code(4).assert_stderr("is not for this user to see; ask as root");
    }
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure_and_a_reader_that_has_gone_is_none() {
    let server = start();
    let run = |words: &[&str], out: Stdio| {
        let mut command = Command::new(server.program());
        command.args(words).arg("--control").arg(server.control().unwrap()).stdout(out).stderr(Stdio::piped());
        command.spawn().unwrap().wait_with_output().unwrap()
    };
    for words in [&["status"][..], &["status", "--json"], &["check"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = run(words, full.into());
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output: No space left"));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(run(words, writer.into()).status.code(), Some(0));
    }
}

#[test]
fn a_reload_that_is_interrupted_says_that_it_goes_on() {
    let server = start();
    server.replace_binary(&Version::Broken(Mode::WaitsAtGate));
    let mut command = Command::new(binary::reborn());
    command.arg("reload").arg("--control").arg(server.control().unwrap()).stderr(Stdio::piped());
    let reload = command.spawn().unwrap();
    server.wait_broken(0);
    tests::Process::open(reload.id()).unwrap().signal(Signal::INT);
    let output = reload.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("reborn: the reload goes on") && !said.contains('\x1b'), "{said}");
    server.open_gate();
    server.wait_until("it went on", |server| server.generation() == 2);
}

#[test]
fn only_a_terminal_that_knows_escape_codes_gets_them() {
    let server = Reborn::new().demo().probation_ms(300).start();
    for (kind, knows_them) in [("xterm", true), ("dumb", false), ("", false)] {
        let (person, program) = terminal();
        let mut command = Command::new(binary::reborn());
        command.arg("reload").arg("--control").arg(server.control().unwrap()).env("TERM", kind);
        command.stderr(program).stdout(Stdio::null());
        assert!(command.status().unwrap().success());
        drop(command);
        let mut said = Vec::new();
        // It ends in an error when nobody has the other end any more.
        _ = std::io::Read::read_to_end(&mut fs::File::from(person), &mut said);
        assert_eq!(said.contains(&0x1b), knows_them, "{kind}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn root_may_command_nobodys_server() {
    if !may_change_user() {
        return;
    }
    let server = Reborn::new().demo().probation_ms(0).as_nobody().start();
    let mut client = Command::new(binary::reborn());
    client.arg("reload").arg("--control").arg(server.control().unwrap());
    CommandOutput::of(&mut client).assert_success();
    assert_eq!(server.generation(), 2);
}

#[test]
fn a_client_that_sends_nonsense_or_nothing_disturbs_nobody() {
    use std::io::Read;
    let server = start();
    let path = server.control().unwrap();
    let _silent: Vec<UnixStream> = (0..20).map(|_| UnixStream::connect(path).unwrap()).collect();
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(b"make me a sandwich\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("known commands are status, reload, outcome and stop"), "{answer}");
    assert_ne!(server.reload_ok(), server.first_pid());
}

#[test]
fn a_busy_address_is_an_error_with_a_status_and_names_the_address() {
    let server = start();
    let address = server.address().to_string();
    let second = Reborn::new().without_own_address().listen(&address);
    refused(second, 1, &["cannot serve", &address, "in use"]);
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
}

#[test]
fn a_stopped_server_can_be_started_again_at_once() {
    let server = start();
    let control = server.control().unwrap();
    let (listen, pid_file) = (format!("http={}", server.address()), server.pid_file());
    for _ in 0..5 {
        let mut again = Command::new(server.program());
        server.command(["stop"]).assert_success();
        again.arg("--listen").arg(&listen).arg("--control").arg(control).arg("--pid-file").arg(&pid_file).arg("--demo");
        again.env(tests::procfs::Family::VARIABLE, server.family().marker());
        let log = fs::OpenOptions::new().append(true).open(server.folder().join("log")).unwrap();
        let process = tests::Process::spawn(again.stderr(log)).unwrap();
        let pid = process.pid();
        server.family().add(process);
        server.wait_until("it serves again", |server| {
            assert!(server.ended(pid).is_none(), "{}", server.state());
            server.command(["status"]).is_success() && server.ask().pid() == Some(pid)
        });
    }
    server.command(["stop"]).assert_success();
    server.wait_nothing_left();
}

#[test]
fn a_reload_waits_for_the_service_manager_at_most_for_a_while_and_the_next_one_until_it_has_read() {
    let server = Reborn::new().demo().probation_ms(0).notify().start();
    let old = server.first_pid();
    server.notify().hold_barriers();
    // The barrier's deadline passes: the successor serves all the same, and the old one stays for the hang-up.
    let new = server.reload_ok();
    assert!(new != old && server.generations().contains(&old), "{}", server.state());
    server.reload().assert_code(1).assert_stderr("the service manager has not read the last reload's messages yet");
    server.notify().release_barriers();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    server.wait_until("the next reload works", |server| server.reload().is_success());
}

#[test]
fn a_reload_that_a_stop_has_overtaken_is_no_failure_of_the_unit() {
    let server = Reborn::new().demo().start();
    let (main, control) = (server.pid(), server.control().expect("it has one of its own").to_owned());
    server.stop().assert_success();
    let reload = |main: u32| {
        let mut command = Command::new(server.program());
        CommandOutput::of(command.args(["reload", "--control"]).arg(&control).env("MAINPID", main.to_string()))
    };
    reload(main).assert_success();
    reload(std::process::id()).assert_code(3).assert_stderr("run/control");
}

#[test]
fn silent_clients_hold_up_no_command() {
    let server = start();
    let path = server.control().unwrap();
    let _silent: Vec<UnixStream> = (0..300).map(|_| UnixStream::connect(path).unwrap()).collect();
    server.reload_ok();
    assert_eq!(server.generation(), 2);
}

#[test]
fn a_command_whose_client_has_gone_is_not_carried_out() {
    let server = start();
    let first = server.first_pid();
    // So that it sees the request only when the client has gone.
    server.signal_to(first, Signal::STOP);
    let mut client = UnixStream::connect(server.control().unwrap()).unwrap();
    client.write_all(b"{\"command\":\"reload\",\"id\":\"1\"}\n").unwrap();
    drop(client);
    server.signal_to(first, Signal::CONT);
    server.reload_ok();
    server.wait_single();
    assert_eq!((server.generation(), server.status()["reloads"].as_array().unwrap().len()), (2, 1));
}

#[test]
fn a_client_that_only_sends_no_more_is_obeyed() {
    let server = start();
    let mut client = UnixStream::connect(server.control().unwrap()).unwrap();
    client.write_all(b"{\"command\":\"reload\",\"id\":\"1\"}\n").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    BufReader::new(client).read_line(&mut answer).unwrap();
    assert!(answer.contains("outcome"), "{answer}");
    assert_eq!(server.generation(), 2);
}
