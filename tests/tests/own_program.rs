//! A program of one's own has its own name, version, flags and state, and all else that `reborn` has: the example `shop`
//! shows it, through real reloads.

use std::{fs, process::Command};

use tests::{
    CommandOutput, Ended, Reborn, Server, Version, binary,
    load::{Connection, Limits, Target},
};

/// `shop` with these arguments, and with variables.
#[track_caller]
fn shop(arguments: &[&str], environment: &[(&str, &str)]) -> CommandOutput {
    let mut command = Command::new(binary::example("shop"));
    command.env_clear().args(arguments).envs(environment.iter().copied());
    CommandOutput::of(&mut command)
}

/// A shop that serves.
fn open_shop() -> Reborn {
    Reborn::new().version(Version::File(binary::example("shop"))).probation_ms(0)
}

#[track_caller]
fn greeted(server: &Server) -> String {
    asked(&Target::Tcp(server.address()), "/")
}

#[track_caller]
fn asked(target: &Target, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let answer = smol::block_on(async {
        let mut connection = Connection::open(target, Limits::default()).await?;
        connection.send(request.as_bytes()).await.expect("it is sent");
        connection.answer().await
    });
    let answer = answer.unwrap_or_else(|lost| panic!("{path} of {target:?}: {lost:?}"));
    String::from_utf8(answer.body).expect("the body is text")
}

#[test]
fn it_has_a_name_and_a_version_of_its_own() {
    let version = shop(&["--version"], &[]);
    version.assert_success();
    assert_eq!(version.stdout, "shop 1.4.0\n");
    let refused = shop(&["status", "--control", "/nonexistent/control"], &[]);
    assert!(refused.stderr.starts_with("shop: "), "{refused}");
}

#[test]
fn its_help_has_its_flags_below_a_heading_of_their_own_and_speaks_of_no_other_program() {
    for arguments in [
        &["--help"][..],
        &["help", "serve"],
        &["help", "check"],
        &["help", "reload"],
        &["help", "status"],
        &["help", "stop"],
    ] {
        let help = shop(arguments, &[]);
        help.assert_success();
        let words = help.stdout.to_lowercase();
        for other in ["reborn", "--root", "--demo", "--etag", "--follow-symlinks"] {
            assert!(!words.contains(other), "{other} in {help}");
        }
    }
    let help = shop(&["help", "serve"], &[]);
    let (_, own) = help.stdout.split_once("\nFlags of shop:\n").unwrap_or_else(|| panic!("{help}"));
    for part in
        ["--greeting <TEXT>", "How a customer is greeted", "[default: welcome]", "--first <N>", "--closed[=<BOOL>]"]
    {
        assert!(own.contains(part), "{part} in {own}");
    }
    assert!(shop(&["--help"], &[]).stdout.starts_with("Greets customers, and counts them\n"));
}

#[test]
fn check_shows_its_flags_with_where_they_came_from_and_refuses_what_it_does_not_take() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("shop.toml");
    let path = file.to_str().expect("a temporary folder's name is text");
    fs::write(&file, "first = 7\nclosed = true\nidle-timeout = \"5s\"\n").expect("the test's own folder");
    let shown = shop(&["check", "--config", path], &[("SHOP_GREETING", "hello"), ("SHOP_LISTEN", "a=@a,b=@b")]);
    shown.assert_success();
    for (value, source) in [
        ("greeting = \"hello\"", "SHOP_GREETING".to_owned()),
        ("first = \"7\"", format!("{path}:1")),
        ("closed = true", format!("{path}:2")),
        ("idle-timeout = \"5s\"", format!("{path}:3")),
        ("listen = [\"a=@a\", \"b=@b\"]", "SHOP_LISTEN".to_owned()),
    ] {
        let is_line =
            |line: &str| line.split_once(" # ").is_some_and(|(left, from)| left.trim_end() == value && from == source);
        assert!(shown.stdout.lines().any(is_line), "{value} # {source} in {shown}");
    }
    assert!(!shown.stdout.contains("root"), "{shown}");
    let refused = |arguments: &[&str], expected: &str| {
        let refused = shop(&[&["check"], arguments].concat(), &[]);
        assert_eq!(refused.ended, Ended::Code(2), "{refused}");
        assert!(refused.stderr.contains(expected), "{expected:?} in {refused}");
    };
    let variable = shop(&["check"], &[("SHOP_FIRST", "x")]);
    assert!(variable.stderr.starts_with("error: SHOP_FIRST: invalid value 'x' for '--first <N>'"), "{variable}");
    refused(&[], "--first <N>");
    refused(&["--first=x"], "invalid value 'x' for '--first <N>'");
    refused(&["--first=0"], "shop: --first 0: customers count from 1");
    refused(&["--first=1", "--idle-timeout=10"], "shop: --idle-timeout \"10\": not a duration");
    refused(&["--first=1", "--root=/"], "shop: root and demo: this program has an application of its own");
    fs::write(&file, "\nfirst = \"x\"\n").expect("the test's own folder");
    refused(&["--config", path], &format!("error: {path}:2: invalid value 'x' for '--first <N>'"));
    fs::write(&file, "root = \"/\"\n").expect("the test's own folder");
    refused(
        &["--first=1", "--config", path],
        &format!("{path}:1: unknown key \"root\"; the keys are the flags of `shop help"),
    );
}

#[test]
fn its_flags_and_its_state_go_on_across_reloads() {
    let shop = open_shop().args(["--greeting", "hello", "--first=5"]);
    let metrics = shop.folder().join("run/metrics");
    let server = shop.arg("--metrics").arg(&metrics).start();
    assert_eq!(greeted(&server), "hello, customer 5 of generation 1\n");
    assert_eq!(greeted(&server), "hello, customer 6 of generation 1\n");
    assert_eq!(server.status()["version"], "1.4.0");
    let page = asked(&Target::Unix(metrics), "/metrics");
    assert!(page.contains("version=\"1.4.0\""), "{page}");
    server.reload_ok();
    assert_eq!(greeted(&server), "hello, customer 7 of generation 2\n");
    server.reload_ok();
    assert_eq!(greeted(&server), "hello, customer 8 of generation 3\n");
    server.stop().assert_success();
    server.assert_no_error();
}

#[test]
fn its_state_goes_on_beside_that_of_tls_also_where_tls_comes_and_goes() {
    let shop = open_shop();
    let (file, https) = (shop.folder().join("shop.toml"), shop.folder().join("https.sock"));
    let http = format!("http={}", shop.address());
    let plain = format!("first = 5\nlisten = [{http:?}]\n");
    let with_tls = format!("first = 5\ntls-self-signed = true\nlisten = [{http:?}, \"https={}\"]\n", https.display());
    fs::write(&file, &plain).expect("the test's own folder");
    let server = shop.without_own_address().arg("--config").arg(&file).start();
    assert_eq!(greeted(&server), "welcome, customer 5 of generation 1\n");
    for (generation, text) in (2..).zip([&with_tls, &with_tls, &plain, &plain]) {
        fs::write(&file, text).expect("the test's own folder");
        server.reload_ok();
        let expected = format!("welcome, customer {} of generation {generation}\n", generation + 4);
        assert_eq!(greeted(&server), expected);
    }
    assert!(!server.log().contains("of TLS"), "{}", server.log());
    server.stop().assert_success();
    server.assert_no_error();
}

#[test]
fn a_reload_reads_its_file_afresh_and_fails_with_what_its_flags_do_not_take() {
    let shop = open_shop();
    let file = shop.folder().join("shop.toml");
    fs::write(&file, "first = 1\n").expect("the test's own folder");
    let server = shop.arg("--config").arg(&file).start();
    assert_eq!(greeted(&server), "welcome, customer 1 of generation 1\n");
    for (text, reason) in
        [("first = 0\n", "customers count from 1"), ("first = \"x\"\n", "shop.toml:1: invalid value 'x'")]
    {
        fs::write(&file, text).expect("the test's own folder");
        let failed = server.reload();
        assert!(!failed.is_success() && failed.stderr.contains(reason), "{reason:?} in {failed}");
        assert_eq!(server.generation(), 1);
    }
    fs::write(&file, "first = 1\nclosed = true\n").expect("the test's own folder");
    server.reload_ok();
    assert_eq!(greeted(&server), "sorry, customer 2 of generation 2\n");
}

#[test]
fn its_control_socket_lies_in_a_folder_of_its_name() {
    let server = open_shop().default_control().arg("--first=1").spawn();
    server.wait_until("the control socket is there", |server| server.folder().join("run/shop/control.sock").exists());
}
