//! Certificates are read and checked before anybody depends on them: `reborn check`, a start and a reload refuse what a
//! client would, with the file, the cause and what to do.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tests::certificates::{Certificate, days_from_now};
use tests::skip::may_change_user;
use tests::{CommandOutput, Reborn, Server};

/// Writes `NAME.pem` and `NAME.key` in the server's folder.
fn write(folder: &Path, name: &str, certificate: &Certificate) {
    let (pem, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
    fs::write(pem, certificate.pem()).unwrap();
    fs::write(&key, certificate.key_pem()).unwrap();
    fs::set_permissions(key, fs::Permissions::from_mode(0o600)).unwrap();
}

fn check(server: &Server, certificate: &str, key: &str, more: &[&str]) -> CommandOutput {
    let flags = ["check", "--tls-certificate", certificate, "--tls-key", key];
    server.command([&flags[..], more].concat())
}

#[test]
fn check_and_serve_refuse_a_certificate_that_a_client_would_refuse() {
    let server = Reborn::new().demo().start();
    let folder = server.folder();
    write(folder, "good", &Certificate::new(&["localhost"]));
    write(folder, "other", &Certificate::new(&["localhost"]));
    write(folder, "nameless", &Certificate::new(&[]));
    write(folder, "expired", &Certificate::valid(&["localhost"], days_from_now(-20), days_from_now(-1)));
    write(folder, "early", &Certificate::valid(&["localhost"], days_from_now(1), days_from_now(20)));
    let cases = [
        ("good.pem", "other.key", r#"--tls-key "other.key": it is the key of another certificate; give the key that"#),
        ("nameless.pem", "nameless.key", r#"--tls-certificate "nameless.pem": it is for no name; have it issued"#),
        ("expired.pem", "expired.key", r#"--tls-certificate "expired.pem": expired on "#),
        ("early.pem", "early.key", r#"--tls-certificate "early.pem": not valid before "#),
        (
            "no.pem",
            "good.key",
            r#"--tls-certificate "no.pem": No such file or directory (os error 2); give a PEM file"#,
        ),
        ("good.pem", "good.pem", r#"--tls-key "good.pem": there is no private key in it; give the PEM file"#),
        ("good.key", "good.key", r#"--tls-certificate "good.key": there is no certificate in it; give a PEM file"#),
    ];
    for (certificate, key, reason) in cases {
        check(&server, certificate, key, &[]).assert_code(2).assert_stderr(reason);
        let flags = ["serve", "--tls-certificate", certificate, "--tls-key", key];
        server.command(flags).assert_code(2).assert_stderr(reason);
    }
    let output = check(&server, "good.pem", "good.key", &["--listen", "https=127.0.0.1:9"]);
    output.assert_success();
    assert_eq!(output.stderr, "", "nothing is wrong with it");
}

#[test]
fn check_warns_of_what_will_be_refused_soon_of_a_key_for_everybody_and_of_certificates_without_a_use() {
    let server = Reborn::new().demo().start();
    let folder = server.folder();
    write(folder, "soon", &Certificate::valid(&["localhost"], days_from_now(-1), days_from_now(10)));
    fs::set_permissions(folder.join("soon.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let output = check(&server, "soon.pem", "soon.key", &["--listen", "http=127.0.0.1:9"]);
    output
        .assert_success()
        .assert_stderr("reborn: warning: soon.pem: this certificate expires in 9 days (")
        .assert_stderr("reborn: warning: soon.key: everybody on this machine can read this key; take that right away")
        .assert_stderr("reborn: warning: no listener speaks TLS, so that no certificate is used: call one https");
    let in_use = check(&server, "soon.pem", "soon.key", &["--listen", "https=127.0.0.1:9"]);
    assert!(!in_use.assert_success().stderr.contains("no listener speaks TLS"), "{in_use}");
    let given_by_systemd = check(&server, "soon.pem", "soon.key", &[]);
    assert!(!given_by_systemd.assert_success().stderr.contains("no listener speaks TLS"), "{given_by_systemd}");
}

#[test]
fn a_listener_called_https_needs_a_certificate_by_whatever_way_it_comes() {
    let server = Reborn::new().demo().start();
    for command in ["check", "serve"] {
        let output = server.command([command, "--listen", "https=127.0.0.1:9"]);
        output
            .assert_code(2)
            .assert_stderr(
                r#"--listen "https=127.0.0.1:9": the listener "https" speaks TLS, as its name says, and there"#,
            )
            .assert_stderr("; give --tls-certificate FILE and --tls-key FILE, or for development --tls-self-signed");
    }
    let reborn = Reborn::new().demo();
    let address = reborn.address().to_string();
    let socket = ["--socket", &address, "--listen-pid", "none", "--names", "https"];
    let inherited = reborn.without_own_address().launch(socket).spawn();
    inherited.wait_end(inherited.first_pid());
    let expected =
        "cannot serve: the listener \"https\" speaks TLS, as its name says, and there is no certificate; give ";
    assert!(inherited.log().contains(expected), "{}", inherited.log());
}

#[test]
fn tables_in_the_file_name_certificates_and_a_refusal_names_their_line() {
    let server = Reborn::new().demo().start();
    let folder = server.folder();
    for name in ["one", "two"] {
        write(folder, name, &Certificate::new(&[&format!("{name}.org")]));
    }
    let file = folder.join("sites.toml");
    let table = |name: &str| format!("\n[[tls]]\ncertificate = \"{name}.pem\"\nkey = \"{name}.key\"\n");
    fs::write(&file, ["hsts = \"365days\"\n", &table("one"), &table("two")].concat()).unwrap();
    let output = server.command(["check", "--config", "sites.toml"]);
    output.assert_success();
    assert!(output.stdout.contains("tls-certificate = [\"one.pem\", \"two.pem\"]"), "{output}");
    assert!(output.stdout.contains("# sites.toml:3"), "{output}");
    fs::remove_file(folder.join("two.key")).unwrap();
    server
        .command(["check", "--config", "sites.toml"])
        .assert_code(2)
        .assert_stderr(r#"reborn: sites.toml:9: tls-key "two.key": No such file or directory"#);
}

#[test]
fn a_certificate_that_is_refused_fails_the_reload_and_nothing_else() {
    let reborn = Reborn::new().demo().probation_ms(0);
    let folder = reborn.folder().to_owned();
    write(&folder, "site", &Certificate::new(&["localhost"]));
    let server = reborn.args(["--tls-certificate", "site.pem", "--tls-key", "site.key"]).start();
    assert!(server.log().contains("of TLS: no listener speaks TLS"), "{}", server.log());
    write(&folder, "site", &Certificate::valid(&["localhost"], days_from_now(-20), days_from_now(-1)));
    server.reload().assert_code(1).assert_stderr("--tls-certificate \"site.pem\": expired on ");
    assert_eq!(server.ask().pid(), Some(server.first_pid()));
    write(&folder, "site", &Certificate::new(&["localhost"]));
    server.reload_ok();
}

#[test]
fn a_key_that_this_user_may_not_read_is_told_with_its_path() {
    if !may_change_user() {
        return;
    }
    let server = Reborn::new().demo().as_nobody().start();
    write(server.folder(), "site", &Certificate::new(&["localhost"]));
    let output = check(&server, "site.pem", "site.key", &[]);
    output.assert_code(2).assert_stderr(
        r#"--tls-key "site.key": Permission denied (os error 13); let the user of this service read it"#,
    );
}
