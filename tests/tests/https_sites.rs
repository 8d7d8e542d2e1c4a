//! Several certificates on one listener: whose site a request is for is decided by the name that its connection was opened
//! with, in each process that the connection comes to.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::process::{Command, Stdio};

use tests::certificates::Certificate;
use tests::skip::skip;
use tests::{Reborn, Talking};

/// Two certificates, and a client that opened its connection for the site of the first or of none.
#[test]
fn a_host_of_another_certificate_is_answered_with_421_before_and_after_a_move_and_the_connection_goes_on() {
    if Command::new("openssl").arg("version").output().is_err() {
        skip("openssl is missing");
        return;
    }
    let reborn = Reborn::new().demo().probation_ms(0).listen("https=127.0.0.1:0");
    for (name, hosts) in [("one", &["one.example", "www.one.example"][..]), ("two", &["*.two.example"])] {
        let certificate = Certificate::new(hosts);
        fs::write(reborn.folder().join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(reborn.folder().join(format!("{name}.key")), certificate.key_pem()).unwrap();
    }
    let files = [
        "--tls-certificate",
        "one.pem",
        "--tls-key",
        "one.key",
        "--tls-certificate",
        "two.pem",
        "--tls-key",
        "two.key",
    ];
    let server = reborn.args(files).start();
    let connect = |name: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-crlf", "-quiet", "-connect"]).arg(server.https_address().to_string()).args(name);
        Talking::start(command.stderr(Stdio::null()))
    };
    let mut one = connect(&["-servername", "one.example"]);
    let mut two = connect(&["-servername", "a.two.example"]);
    let mut none = connect(&["-noservername"]);
    let mut all: [(&mut Talking, &[(&str, u16)]); 3] = [
        (
            &mut one,
            &[
                ("one.example", 200),
                ("a.two.example", 421),
                ("WWW.one.example.:8443", 200),
                ("b.two.example:443", 421),
                ("two.example", 200), // No certificate is for it: the first is shown for this, too.
                ("one.example", 200),
            ],
        ),
        (&mut two, &[("a.two.example", 200), ("b.two.example", 200), ("one.example", 421), ("127.0.0.1", 421)]),
        (&mut none, &[("one.example", 200), ("a.two.example", 200)]),
    ];
    for _ in 0..3 {
        for (client, cases) in &mut all {
            for (host, status) in *cases {
                client.say(&format!("GET /fast HTTP/1.1\nHost: {host}\n"));
                let line = client.hears("HTTP/1.1 ");
                assert!(line.contains(&format!("HTTP/1.1 {status} ")), "{host}: {line}");
            }
        }
        server.reload_ok();
    }
    server.assert_no_error();
}
