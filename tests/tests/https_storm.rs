//! The storm in small, over TLS alone: `just storm --strict --tls` has more of all of it.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tests::Reborn;
use tests::load::{self, Download};

const RELOADS: usize = 5;

#[test]
fn no_client_of_a_storm_over_tls_is_cut_or_has_to_shake_hands_again() {
    let server = Reborn::new().for_crowd().probation_ms(0).https().tells_handshakes().start();
    let download = Download::file("/pattern", load::CROWD_BYTES, Duration::from_secs(3));
    let load = load::Load::new(server.https_target()).paced(8, 80).sparse(20).blind(20).idle(20);
    let load = load.new_connections_paced(2, 10).slow(2, Duration::from_millis(700)).upload(2, load::Upload::default());
    let load = load.downloads(2, download).events(3, Duration::from_millis(50)).chats(3).start();
    let mut pids = vec![server.pid()];
    for _ in 0..RELOADS {
        let pid = *pids.last().unwrap();
        load.wait_until("the newest process answers", |report| report.pids.contains_key(&pid));
        server.renew_certificate();
        pids.push(server.reload_ok());
    }
    let report = load.wait_until("downloads have come to their end", |report| {
        report.classes.get(&load::Class::Download).is_some_and(|class| class.finished >= 2)
    });
    report.assert_no_close();
    let report = load.stop();
    report.assert_no_failure().assert_no_fault().assert_no_close();
    assert_eq!((report.reopened, report.went_back), (0, 0), "{report}");
    let (held, completed) = (server.handshakes() as u64, load::handshakes());
    assert!(held <= completed + 1, "the server held {held} handshakes for {completed} clients\n{report}");
    server.assert_no_error();
}
