//! The handshake: fed in any cut, with the first bytes of the application right behind it, resumed, refused, and not TLS.

use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig, ServerConfig};

use super::super::handshake::{Handshake, Progress, Refusal};
use super::super::keys::Version;
use super::support::{
    AES_1_2, AES_1_3, Server, client, client_config, read, server_config, shake_hands, suites, write, written,
};

/// Begins one, and gives it the first bytes of a client.
fn first(config: &ServerConfig, bytes: &[u8]) -> (usize, Progress, Vec<u8>) {
    let mut out = Vec::new();
    let (used, progress) = Handshake::new(config).unwrap().feed(bytes, &mut out);
    (used, progress, out)
}

#[test]
fn a_handshake_may_come_in_any_cut() {
    for suite in suites() {
        for piece in [1, 2, 5, 6, 100, usize::MAX] {
            let mut client = client(client_config());
            let (established, behind) = shake_hands(&server_config(Some(suite)), &mut client, piece);
            assert_eq!(established.records.suite(), suite);
            assert!(behind.is_empty() && !established.resumed);
            let mut server = Server::new(established.records);
            let wire = write(&mut client, b"data");
            server.receive(&wire).unwrap();
            assert_eq!(server.data, b"data");
        }
    }
}

#[test]
fn what_comes_right_behind_finished_is_left_for_the_records() {
    for suite in suites() {
        for piece in [1, 6, usize::MAX] {
            let mut client = client(client_config());
            // rustls sends it with its Finished, or, where it has to wait for ours, behind that.
            std::io::Write::write_all(&mut client.writer(), b"data").unwrap();
            let (established, behind) = shake_hands(&server_config(Some(suite)), &mut client, piece);
            let mut server = Server::new(established.records);
            server.receive(&behind).unwrap();
            let rest = written(&mut client);
            server.receive(&rest).unwrap();
            assert_eq!(server.data, b"data");
            if suite.version == Version::Tls13 {
                assert!(!behind.is_empty(), "in TLS 1.3 it comes with the Finished");
            }
        }
    }
}

#[test]
fn a_key_update_right_behind_finished_is_not_lost() {
    let mut client = client(client_config());
    let config = server_config(Some(AES_1_3));
    let mut handshake = Handshake::new(&config).unwrap();
    let (mut out, mut established) = (Vec::new(), None);
    for _ in 0..3 {
        let mut wire = written(&mut client);
        if !client.is_handshaking() {
            client.refresh_traffic_keys().unwrap();
            wire.extend(write(&mut client, b"data"));
        }
        let (used, progress) = handshake.feed(&wire, &mut out);
        match progress {
            Progress::Waits(next) => handshake = next,
            Progress::Done(done) => {
                established = Some((done, wire[used..].to_vec()));
                break;
            }
            other => panic!("{other:?}"),
        }
        read(&mut client, &std::mem::take(&mut out));
    }
    let (established, behind) = established.expect("it ends");
    let mut server = Server::new(established.records);
    server.receive(&behind).unwrap();
    server.moves();
    server.send(b"answer", 1000).unwrap();
    assert_eq!(server.data, b"data");
    assert_eq!(read(&mut client, &[out, server.sent()].concat()), b"answer");
}

#[test]
fn a_session_is_resumed_and_its_ticket_comes_before_all_else() {
    for suite in [AES_1_2, AES_1_3] {
        let mut config = server_config(Some(suite));
        config.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        let client_config = client_config();
        for resumed in [false, true] {
            let mut client = client(ClientConfig::clone(&client_config));
            let (established, _) = shake_hands(&config, &mut client, usize::MAX);
            assert_eq!(established.resumed, resumed, "{suite:?}");
            let mut server = Server::new(established.records);
            server.moves();
            server.send(b"data", 1000).unwrap();
            assert_eq!(read(&mut client, &server.sent()), b"data");
        }
    }
}

#[test]
fn plain_http_is_recognised_by_its_first_byte() {
    let config = server_config(None);
    for request in [&b"G"[..], b"GET / HTTP/1.1\r\n\r\n", b"post /"] {
        let (used, progress, out) = first(&config, request);
        assert!(matches!(progress, Progress::PlainHttp), "{progress:?}");
        assert_eq!((used, out), (0, vec![]));
    }
}

#[test]
fn what_is_neither_is_told_at_once() {
    let config = server_config(None);
    for bytes in [&[0_u8][..], &[0x80, 0x2e], &[23, 3, 3], &[255]] {
        let (_, progress, out) = first(&config, bytes);
        assert!(matches!(progress, Progress::Failed(Refusal::NoTls)), "{progress:?}");
        assert_eq!(out, [21, 3, 3, 0, 2, 2, u8::from(AlertDescription::UnexpectedMessage)]);
    }
}

#[test]
fn a_letter_later_on_is_no_plain_http() {
    let mut client = client(client_config());
    let hello = written(&mut client);
    let (_, progress, _) = first(&server_config(None), &hello);
    let Progress::Waits(handshake) = progress else { panic!("{progress:?}") };
    let mut out = Vec::new();
    let (_, progress) = handshake.feed(b"GET / HTTP/1.1\r\n", &mut out);
    assert!(matches!(progress, Progress::Failed(Refusal::Protocol(_))), "{progress:?}");
    assert!(!out.is_empty(), "an alert, which is sealed already");
}

#[test]
fn a_client_that_wants_another_protocol_is_told_so() {
    let mut client_config = client_config();
    client_config.alpn_protocols = vec![b"h2".to_vec()];
    let mut client = client(client_config);
    let hello = written(&mut client);
    let (_, progress, out) = first(&server_config(None), &hello);
    assert!(matches!(progress, Progress::Failed(Refusal::Protocol(_))), "{progress:?}");
    client.read_tls(&mut &out[..]).unwrap();
    let error = client.process_new_packets().expect_err("an alert");
    assert_eq!(error, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
}

#[test]
fn a_handshake_without_an_end_is_cut() {
    let mut handshake = Handshake::new(&server_config(None)).unwrap();
    let mut out = Vec::new();
    let mut message = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    message.resize(5 + 16 * 1024, 0);
    for _ in 0..100 {
        match handshake.feed(&message, &mut out).1 {
            Progress::Waits(next) => handshake = next,
            Progress::Failed(_) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("1.6 MB were taken");
}

#[test]
fn no_debug_output_of_a_handshake_has_a_secret() {
    let mut client = client(client_config());
    let (established, _) = shake_hands(&server_config(Some(AES_1_3)), &mut client, usize::MAX);
    let shown = format!("{established:?}");
    let bytes = established.records.freeze().into_bytes();
    let secret = format!("{:?}", &bytes.expose()[bytes.expose().len() - 32..]);
    assert!(!shown.contains(secret.trim_matches(['[', ']'])), "{shown}");
    assert!(shown.contains("TLS13_AES_128_GCM_SHA256") && shown.contains("localhost"), "{shown}");
}

#[test]
fn a_log_of_keys_that_is_configured_goes_on() {
    #[derive(Debug, Default)]
    struct Log(std::sync::Mutex<Vec<String>>);
    impl rustls::KeyLog for Log {
        fn log(&self, label: &str, _: &[u8], _: &[u8]) {
            self.0.lock().unwrap().push(label.to_owned());
        }
    }
    let log = Arc::new(Log::default());
    let mut config = server_config(Some(AES_1_3));
    config.key_log = Arc::<Log>::clone(&log);
    shake_hands(&config, &mut client(client_config()), usize::MAX);
    assert!(log.0.lock().unwrap().iter().any(|label| label == "SERVER_TRAFFIC_SECRET_0"));
}
