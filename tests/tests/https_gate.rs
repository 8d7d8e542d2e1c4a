//! What a TLS server has to take and to refuse after the handshake: malformed records, alerts, KeyUpdates, floods, ends, on
//! connections that move to another process after their handshake, and within what they do. The client makes each record by
//! hand; `tests/clients/tls_gate.py` has the cases.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use tests::skip::skip;
use tests::{Reborn, Talking};

#[test]
fn whatever_a_client_sends_after_its_handshake_is_taken_or_refused_as_the_standards_say_after_moves_too() {
    let tlslite = Command::new("python3").args(["-c", "import tlslite"]).output();
    if !tlslite.is_ok_and(|output| output.status.success()) {
        skip("Python's tlslite-ng is missing");
        return;
    }
    let server = Reborn::new().demo().probation_ms(0).https().tells_handshakes().start();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/tls_gate.py");
    let mut client = Talking::start(Command::new("python3").arg(source).arg(server.https_address().to_string()));
    let opened = client.hears("opened ");
    let count: usize = opened.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count > 100, "{opened}");
    let (mut reloads, mut failures) = (0, Vec::new());
    loop {
        server.renew_certificate();
        server.reload_ok();
        reloads += 1;
        client.say("go on");
        let line = loop {
            let line = client.hears(" ");
            if !line.starts_with("failed: ") {
                break line;
            }
            failures.push(line);
        };
        if line.starts_with("done ") {
            break;
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(server.handshakes(), count, "no connection was opened anew");
    println!("{count} cases, {reloads} reloads");
    server.assert_no_error();
}
