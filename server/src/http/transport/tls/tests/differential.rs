//! The same bytes through rustls on the other side: every version and suite, keys replaced by both, and moves all along.

use rustls::ClientConnection;

use super::super::keys::{Cipher, Suite, Version, ledger};
use super::support::{
    Server, client, client_config, noise, read, server_config, shake_hands, suites, suites_1_3, write, written,
};

const LONG_BYTES: usize = 8 << 20;

/// A client of rustls, and a server of ours after the handshake.
fn pair(suite: Suite) -> (Server, ClientConnection) {
    let mut client = client(client_config());
    let (established, behind) = shake_hands(&server_config(Some(suite)), &mut client, usize::MAX);
    assert_eq!(established.records.suite(), suite);
    assert_eq!(established.alpn.as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(established.server_name.as_deref(), Some("localhost"));
    let name = established.suite_name.expect("a name");
    assert_eq!(name.starts_with("TLS13_"), suite.version == Version::Tls13, "{name}");
    assert!(behind.is_empty());
    (Server::new(established.records), client)
}

#[test]
fn long_streams_both_ways_arrive_whole_through_moves_and_new_keys() {
    for suite in suites() {
        ledger::begin();
        let (mut server, mut client) = pair(suite);
        let (up, down) = (noise(LONG_BYTES, 5), noise(LONG_BYTES, 6));
        let mut came = Vec::new();
        for (count, (up, down)) in up.chunks(100_003).zip(down.chunks(100_003)).enumerate() {
            let wire = write(&mut client, up);
            for piece in wire.chunks(30_011) {
                server.receive(piece).unwrap();
            }
            server.send(down, 64 * 1024).unwrap();
            came.extend(read(&mut client, &server.sent()));
            if count % 5 == 0 {
                server.moves();
            }
            if count % 7 == 0 && suite.version == Version::Tls13 {
                client.refresh_traffic_keys().expect("TLS 1.3 has that");
            }
        }
        assert!(server.data == up, "what the client sent, {suite:?}");
        assert!(came == down, "what the server sent, {suite:?}");
        assert!(ledger::begin() > LONG_BYTES / (16 * 1024));
    }
}

#[test]
fn our_own_new_keys_are_understood() {
    for suite in suites_1_3() {
        let (mut server, mut client) = pair(suite);
        let data = noise(1 << 20, 7);
        let mut came = Vec::new();
        for piece in data.chunks(50_000) {
            server.records().limit_to(3);
            server.send(piece, 20_000).unwrap();
            server.moves();
            came.extend(read(&mut client, &server.sent()));
        }
        assert!(came == data);
    }
}

#[test]
fn each_side_hears_the_end_of_the_other_one() {
    for suite in suites() {
        let (mut server, mut client) = pair(suite);
        client.send_close_notify();
        let wire = written(&mut client);
        server.receive(&wire).unwrap();
        assert!(server.records().is_ended());
        server.moves();
        server.send(b"answered all the same", 1000).unwrap();
        server.records().close();
        server.send(&[], 1000).unwrap();
        assert_eq!(read(&mut client, &server.sent()), b"answered all the same");
        assert!(client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn a_record_that_rustls_did_not_send_gets_an_alert_that_it_understands() {
    for suite in suites() {
        let (mut server, mut client) = pair(suite);
        let mut wire = write(&mut client, b"data");
        *wire.last_mut().unwrap() ^= 1;
        server.receive(&wire).expect_err("a bit was changed");
        server.send(&[], 1000).unwrap();
        let sent = server.sent();
        client.read_tls(&mut &sent[..]).unwrap();
        let error = client.process_new_packets().expect_err("a fatal alert");
        assert_eq!(error, rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac), "{suite:?}");
    }
}

#[test]
fn what_travels_is_short() {
    for suite in suites() {
        let (server, _client) = pair(suite);
        let bytes = server.into_records().freeze().into_bytes();
        let most = if suite.cipher == Cipher::Aes256Gcm { 121 } else { 113 };
        assert!(bytes.expose().len() <= most, "{} bytes of {suite:?}", bytes.expose().len());
    }
}
