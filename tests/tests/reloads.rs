//! Reloads that work: under load no request fails and no connection closes, the next generation runs what lies at the
//! program's path with the same arguments, and the pid file always names a living process.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tests::{
    DEADLINE, Ended, Mode, Process, Reborn, Server, Version,
    load::{Request, Running, Upload},
    procfs::{command_line, executable},
    skip::may_change_user,
};

/// All kinds of clients: keep-alive ones that look before they send, new connections, slow requests, uploads.
fn mixed(server: &Server) -> Running {
    let load = server.load().paced(16, 300).new_connections_paced(4, 100).idle(20);
    let load = load.slow(4, Duration::from_millis(2500)).upload(3, Upload::default()).start();
    load.wait_for_pid(server.first_pid(), DEADLINE).unwrap();
    load
}

/// Five reloads under load, between two builds, each after the one before has served for a while.
#[track_caller]
fn five_reloads(server: &Server) {
    let load = mixed(server);
    let mut pids = vec![server.first_pid()];
    for number in 0..5 {
        let version = if number % 2 == 0 { Version::Differing } else { Version::Current };
        server.replace_binary(&version);
        load.mark_reload();
        let new = server.reload_ok();
        load.wait_for_pid(new, DEADLINE).unwrap();
        let before = load.report().answered;
        load.wait_until("it has served for a while", |report| report.answered > before + 150);
        pids.push(new);
    }
    let last = *pids.last().unwrap();
    assert_eq!(server.generation(), 6);
    let report = load.stop();
    report.assert_no_failure().assert_no_close();
    assert!(pids.iter().all(|pid| report.pids.contains_key(pid)), "{report}");
    assert_eq!(server.wait_single(), last);
    for pid in &pids[..5] {
        assert_eq!(server.ended(*pid), Some(Ended::Code(0)), "{}", server.state());
    }
    let log = server.log();
    assert!(!log.contains("ERROR") && !log.contains("WARN") && !log.contains("cutting"), "{log}");
    server.stop().assert_success();
    server.wait_nothing_left();
}

#[test]
fn five_reloads_under_load_fail_no_request_and_close_no_connection() {
    five_reloads(&Reborn::new().demo().probation_ms(0).args(["--max-draining", "8"]).start());
}

#[test]
fn five_reloads_of_nobodys_server_under_load_fail_no_request_either() {
    if may_change_user() {
        five_reloads(&Reborn::new().demo().probation_ms(50).args(["--max-draining", "8"]).as_nobody().start());
    }
}

#[test]
fn reloads_under_a_service_manager_say_everything_in_order_and_from_the_right_process() {
    let server = Reborn::new().demo().probation_ms(0).notify().start();
    let old = server.first_pid();
    let new = server.reload_ok();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    let said = |pid: u32| -> Vec<String> {
        let messages = server.notify().messages();
        let of_pid = messages.iter().filter(|message| message.pid == pid);
        of_pid
            .map(|message| message.fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let messages = server.notify().messages();
    let main = messages.iter().find(|message| message.get("MAINPID").is_some()).unwrap();
    assert!(main.pid == old && main.has(&format!("MAINPID={new}")) && main.has("READY=1"), "{messages:#?}");
    let order: Vec<_> = said(old).into_iter().map(|names| names.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(order, ["READY", "FDSTORE", "RELOADING", "MAINPID", "BARRIER"], "{messages:#?}");
    assert!(said(old)[2].contains("MONOTONIC_USEC"), "{messages:#?}");
}

#[test]
fn a_predecessor_stays_until_the_service_manager_has_read_its_last_message() {
    let server = Reborn::new().demo().probation_ms(0).notify().start();
    server.notify().hold_barriers();
    let old = server.first_pid();
    server.reload_in_background();
    server.wait_until("the barrier is held", |server| server.notify().held_barriers() == 1);
    assert!(server.generations().contains(&old) && server.ended(old).is_none());
    server.notify().release_barriers();
    assert_eq!(server.wait_end(old), Ended::Code(0));
    assert_eq!(server.wait_single(), server.pid());
}

#[test]
fn an_idle_connection_is_served_on_by_the_new_generation() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let mut connection = server.connect();
    let first = smol::block_on(connection.exchange(&Request::fast("before"))).unwrap();
    let new = server.reload_ok();
    assert_eq!(server.wait_single(), new);
    let second = smol::block_on(connection.exchange(&Request::fast("after"))).unwrap();
    assert_eq!((first.pid(), second.pid()), (Some(server.first_pid()), Some(new)));
}

#[test]
fn a_draining_generation_is_not_woken_by_its_successors_connections() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let (old, held) = (server.first_pid(), server.hold());
    let new = server.reload_ok();
    let processes = [old, new].map(|pid| Process::open(pid).unwrap());
    let before = processes.each_ref().map(Process::cpu_ticks);
    let load = server.load().new_connections(8).requests(3000).start();
    load.join().assert_no_failure();
    let [of_old, of_new] = [0, 1].map(|index| processes[index].cpu_ticks() - before[index]);
    assert!(of_old * 20 <= of_new.max(20), "the old one took {of_old} ticks, the new one {of_new}");
    held.finish_by(old);
}

#[test]
fn the_arguments_stay_as_they_were_and_g_is_never_doubled() {
    let server = Reborn::new().demo().probation_ms(0).arg("--root=").args(["--log", ""]).start();
    let first = command_line(server.first_pid());
    assert_eq!(&first[first.len() - 3..], ["--root=", "--log", ""]);
    for _ in 0..3 {
        let pid = server.reload_ok();
        let mut words = command_line(pid);
        assert_eq!(words.remove(1), "-g");
        assert_eq!(words, first);
    }
}

#[test]
fn a_file_renamed_over_the_program_is_what_the_next_generation_runs() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let inode = |path: &std::path::Path| fs::metadata(path).unwrap().ino();
    let first = inode(server.program());
    server.replace_binary(&Version::Differing);
    let pid = server.reload_ok();
    assert_eq!(executable(pid).unwrap(), server.program());
    assert_eq!(inode(format!("/proc/{pid}/exe").as_ref()), inode(server.program()));
    assert_ne!(inode(server.program()), first);
}

#[test]
fn a_program_that_was_removed_and_put_back_is_what_the_next_generation_runs() {
    let server = Reborn::new().demo().probation_ms(0).start();
    server.replace_binary(&Version::Missing);
    assert!(!server.program().exists());
    server.replace_binary(&Version::Differing);
    let pid = server.reload_ok();
    assert_eq!(executable(pid).unwrap(), server.program());
}

#[test]
fn a_switched_release_link_is_followed_forward_and_back() {
    let server = Reborn::new().demo().probation_ms(0).through_release_link().start();
    server.switch_release("2", &Version::Differing);
    assert_eq!(executable(server.reload_ok()).unwrap(), server.folder().join("releases/2/reborn"));
    server.switch_release("1", &Version::Current);
    assert_eq!(executable(server.reload_ok()).unwrap(), server.folder().join("releases/1/reborn"));
}

#[test]
fn a_relative_program_path_is_found_again_from_any_directory() {
    // sh runs ./reborn from the server's folder; AT_EXECFN is then relative.
    let server = Reborn::new().demo().probation_ms(0).prelude("set -- \"$@\"; cd . && exec ./reborn \"$@\"").start();
    server.replace_binary(&Version::Differing);
    let pid = server.reload_ok();
    assert_eq!(executable(pid).unwrap(), server.program());
}

#[test]
fn the_pid_file_is_never_missing_and_never_names_a_dead_process_across_reloads() {
    let server = Reborn::new().demo().probation_ms(0).start();
    let (path, over) = (server.pid_file(), Arc::new(AtomicBool::new(false)));
    let stop = over.clone();
    let watcher = thread::spawn(move || {
        let mut looks = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            let pid: u32 =
                fs::read_to_string(&path).expect("the pid file is there").trim().parse().expect("a whole pid");
            let is_alive = Process::open(pid).is_some_and(|process| process.is_alive());
            // It may have ended since it was read; then the file names another one by now.
            let still = || fs::read_to_string(&path).is_ok_and(|text| text.trim() == pid.to_string());
            assert!(is_alive || !still(), "the pid file names {pid}, which is dead");
            looks += 1;
            thread::yield_now();
        }
        looks
    });
    for _ in 0..5 {
        let new = server.reload_ok();
        assert_eq!(server.pid_in_file(), Some(new), "right when the reload is answered");
        server.replace_binary(&Version::Missing);
        server.reload().assert_code(1);
        assert_eq!(server.pid_in_file(), Some(new), "right after a failed reload");
        server.replace_binary(&Version::Broken(Mode::Exits { code: 1, words: String::new() }));
        server.reload().assert_code(1);
        assert_eq!(server.pid_in_file(), Some(new));
        server.replace_binary(&Version::Current);
    }
    over.store(true, Ordering::Relaxed);
    assert!(watcher.join().unwrap() > 0);
    server.stop().assert_success();
    assert!(!server.pid_file().exists());
    let left: Vec<_> = fs::read_dir(server.folder().join("run")).unwrap().map(|one| one.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_server_started_by_a_relative_path_below_a_link_to_a_release_follows_the_link() {
    for foreground in [false, true] {
        let publish = |folder: &std::path::Path, release: &str| {
            let public = folder.join("releases").join(release).join("public");
            std::fs::create_dir_all(&public).unwrap();
            std::fs::write(public.join("index.html"), release).unwrap();
        };
        let reborn = Reborn::new().through_release_link().prelude("cd current && exec ./reborn \"$@\"");
        publish(reborn.folder(), "1");
        let reborn = reborn.args(["--root", "public", "--probation", "0s"]);
        let server = if foreground { reborn.arg("--foreground").start() } else { reborn.start() };
        let site = || {
            let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
            let mut connection = server.connect();
            smol::block_on(async {
                connection.send(request).await.unwrap();
                connection.answer().await.unwrap().text()
            })
        };
        assert_eq!(site(), "1");
        for release in ["2", "3"] {
            publish(server.folder(), release);
            server.switch_release(release, &Version::Differing);
            let pid = server.reload_ok();
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
            assert!(program.ends_with(format!("releases/{release}/reborn")), "{}", program.display());
            assert_eq!(site(), release);
            std::fs::remove_dir_all(server.folder().join(format!("releases/{}", release.parse::<u8>().unwrap() - 1)))
                .unwrap();
            assert_eq!(site(), release);
        }
    }
}

#[test]
fn a_pwd_that_is_another_directorys_is_not_believed() {
    let reborn = Reborn::new().prelude("mkdir site && cd site && exec env PWD=/ ../reborn \"$@\"");
    let server = reborn.args(["--root", ".", "--probation", "0s"]).start();
    server.replace_binary(&Version::Differing);
    let pid = server.reload_ok();
    let directory = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert!(directory.ends_with("site"), "{}", directory.display());
}
