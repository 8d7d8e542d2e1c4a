//! Listeners of every kind stay the same sockets across reloads, and their paths go with the service.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::{UnixListener, UnixStream},
    },
    path::Path,
};

use tests::{
    DEADLINE, Ended, Reborn, Server, Signal,
    load::{Load, Target},
    skip::skip,
};

/// The socket's number in the kernel: the same socket has the same one in every process.
fn socket_numbers(server: &Server, pid: u32) -> Vec<String> {
    let process = tests::Process::open(pid).unwrap_or_else(|| panic!("{}", server.state()));
    let mut sockets: Vec<_> = process.fds().into_values().filter(|target| target.starts_with("socket:")).collect();
    sockets.sort();
    sockets
}

fn has_ipv6() -> bool {
    let bound = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !bound {
        skip("this machine has no IPv6 loopback");
    }
    bound
}

#[test]
fn listeners_of_every_kind_are_served_by_every_generation_without_a_failure() {
    let reborn = Reborn::new().demo().probation_ms(0);
    let path = reborn.folder().join("web.sock");
    let name = reborn.folder().file_name().unwrap().to_str().unwrap().to_owned();
    let mut texts = vec![format!("unix:{}", path.display()), format!("unix:@{name}")];
    if has_ipv6() {
        texts.push(format!("[::1]:{}", reborn.address().port()));
    }
    let mut reborn = reborn;
    for (index, text) in texts.iter().enumerate() {
        reborn = reborn.listen(&format!("more{index}={text}"));
    }
    let server = reborn.start();
    let inode = fs::metadata(&path).unwrap().ino();
    let mut load = server.load();
    for text in &texts {
        load = load.also(text.parse::<Target>().unwrap());
    }
    let load = load.paced(8, 200).new_connections_paced(8, 200).start();
    for _ in 0..3 {
        load.mark_reload();
        let new = server.reload_ok();
        load.wait_for_pid(new, DEADLINE).unwrap();
    }
    let new = server.wait_single();
    for text in &texts {
        let report = Load::new(text.parse::<Target>().unwrap()).paced(1, 100).requests(3).run();
        report.assert_no_failure();
        assert_eq!(report.pids.keys().collect::<Vec<_>>(), [&new], "{text}");
    }
    load.stop().assert_no_failure();
    let status = server.status();
    let names: Vec<_> =
        status["listeners"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names[..3], ["http", "more0", "more1"], "{status}");
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode, "the path is the same one");
    server.stop().assert_success();
    assert!(!path.exists());
    server.wait_nothing_left();
}

#[test]
fn the_listening_sockets_themselves_are_handed_over_and_none_is_bound_anew() {
    let reborn = Reborn::new().demo().probation_ms(0);
    let path = reborn.folder().join("web.sock");
    let server = reborn.listen(&format!("local=unix:{}", path.display())).start();
    let held = server.hold();
    let new = server.reload_ok();
    let (old, new) = (socket_numbers(&server, server.first_pid()), socket_numbers(&server, new));
    let shared = old.iter().filter(|number| new.contains(number)).count();
    // The two listeners and the control socket.
    assert!(shared >= 3, "{old:?} and {new:?}");
    held.finish_by(server.first_pid());
}

#[test]
fn a_regular_file_at_a_listeners_path_is_never_unlinked() {
    let reborn = Reborn::new();
    let path = reborn.folder().join("web.sock");
    fs::write(&path, "precious").unwrap();
    let server = reborn.listen(&format!("local=unix:{}", path.display())).spawn();
    assert_eq!(server.wait_end(server.first_pid()), Ended::Code(1));
    assert!(server.log().contains("is no socket"), "{}", server.log());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_stale_path_is_replaced_and_a_live_one_is_not() {
    let reborn = Reborn::new().demo();
    let path = reborn.folder().join("web.sock");
    let listen = format!("local=unix:{}", path.display());
    drop(UnixListener::bind(&path).unwrap());
    let server = reborn.listen(&listen).start();
    Load::new(Target::Unix(path.clone())).paced(1, 100).requests(2).run().assert_no_failure();

    let second = Reborn::new().listen(&listen).spawn();
    assert_eq!(second.wait_end(second.first_pid()), Ended::Code(1));
    assert!(second.log().contains("a live server listens on it"), "{}", second.log());
    Load::new(Target::Unix(path)).paced(1, 100).requests(2).run().assert_no_failure();
    assert_eq!(server.pid(), server.first_pid());
}

#[test]
fn a_path_that_somebody_else_has_taken_meanwhile_is_left_to_him() {
    let reborn = Reborn::new().demo().probation_ms(0);
    let path = reborn.folder().join("web.sock");
    let server = reborn.listen(&format!("local=unix:{}", path.display())).start();
    server.reload_ok();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    server.stop().assert_success();
    assert!(is_socket(&path));
    UnixStream::connect(&path).unwrap();
}

fn is_socket(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[test]
fn a_path_survives_failed_reloads_and_the_death_of_the_newest() {
    let reborn = Reborn::new().demo().probation_ms(0);
    let path = reborn.folder().join("web.sock");
    let server = reborn.listen(&format!("local=unix:{}", path.display())).start();
    let inode = fs::metadata(&path).unwrap().ino();
    server.replace_binary(&tests::Version::Missing);
    server.reload().assert_code(1);
    server.replace_binary(&tests::Version::Current);
    let held = server.hold();
    let new = server.reload_ok();
    server.signal_to(new, Signal::KILL);
    server.wait_until("the old one serves", |server| server.ask().pid() == Some(server.first_pid()));
    Load::new(Target::Unix(path.clone())).paced(1, 100).requests(2).run().assert_no_failure();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    held.finish_by(server.first_pid());
    server.stop().assert_success();
    assert!(!path.exists());
}

#[test]
fn a_port_that_the_kernel_chose_stays_the_same_across_reloads() {
    let server = Reborn::new().demo().probation_ms(0).without_own_address().listen("any=127.0.0.1:0").start();
    let address = |server: &Server| server.status()["listeners"][0]["address"].as_str().unwrap().to_owned();
    let first = address(&server);
    server.reload_ok();
    assert_eq!(address(&server), first);
    let report = Load::new(first.parse::<Target>().unwrap()).paced(1, 100).requests(2).run();
    report.assert_no_failure();
}
