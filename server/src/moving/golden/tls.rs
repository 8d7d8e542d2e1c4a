//! What of TLS the descriptions mean: the records that the next process has to make and to take, byte for byte. They were
//! computed from the keys in the descriptions by another implementation of RFC 5246, 7905 and 8446.

use super::{GOLDEN, read};
use crate::http::Security;
use crate::http::transport::secured::Sealed;
use crate::http::transport::tls::records::{Opened, Records};

/// What was agreed on, and how the connection goes on.
fn read_tls(number: usize) -> ([String; 3], Records, Vec<u8>, Vec<u8>) {
    let (start, _) = read(GOLDEN[number].0);
    let Security::Established(established) = start.security else { panic!("{start:?}") };
    let tls = &established.tls;
    let agreed = [tls.version(), tls.suite(), tls.server_name().unwrap_or_default()].map(str::to_owned);
    let Sealed { frozen, received, unsent } = established.sealed;
    (agreed, frozen.thaw(), received, unsent)
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let pairs = (0..hexadecimal.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).unwrap()).collect()
}

fn sealed(records: &mut Records, data: &[u8]) -> Vec<u8> {
    let mut room = vec![0; 1000];
    let sealed = records.seal([data, b""], &mut room).unwrap();
    assert_eq!(sealed.taken, data.len());
    room.truncate(sealed.written);
    room
}

#[test]
fn a_connection_of_tls_1_3_means_what_it_meant_within_a_keyupdate_and_before_one_of_ours() {
    let (agreed, mut records, mut received, unsent) = read_tls(5);
    assert_eq!(agreed, ["TLSv1.3", "TLS_AES_128_GCM_SHA256", "one.example.org"]);
    assert_eq!(received, bytes("1703030014cb646c9c"));
    assert_eq!(unsent, bytes("14df6f2368c577b9d8ef5b256a643b773f4b2f8622"));
    assert_eq!(records.open(&mut received), Ok(Opened::Partial));
    received
        .extend(bytes("40610572b45378905775896ab64aaed51703030019e44086c2c75b83bca02380f43796528d2ec18712eac155e032"));
    assert_eq!(records.open(&mut received), Ok(Opened::Record { used: 25, data: 0..0 }));
    let mut next = received.split_off(25);
    let Ok(Opened::Record { used: 30, data }) = records.open(&mut next) else { panic!("no record") };
    assert_eq!(&next[data], b"host\r\n\r\n");
    let ours = "170303001621b90e910ba61f9c552c44d9a188814241b54ba3c728170303002229b072abcbde773e19006249c92b0acb\
                3c2f5140e76334ea314071d31ac1bc7e42ff";
    assert_eq!(sealed(&mut records, b"HTTP/1.1 200 OK\r\n"), bytes(ours));
}

#[test]
fn a_connection_of_tls_1_2_means_what_it_meant_half_closed_and_before_a_refusal() {
    let (agreed, mut records, mut received, _) = read_tls(6);
    assert_eq!(agreed, ["TLSv1.2", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", ""]);
    assert_eq!(records.open(&mut received), Ok(Opened::Ended));
    let ours = "17030300156af067fbd305ee1cd4818b482c705c32bd3d3d11f81503030012dca942774f4434644123f7d4706e0ea0f398";
    assert_eq!(sealed(&mut records, b"first"), bytes(ours));
}

#[test]
fn a_connection_of_the_longer_hash_means_what_it_meant() {
    let (agreed, mut records, mut received, _) = read_tls(7);
    assert_eq!(agreed, ["TLSv1.3", "TLS_AES_256_GCM_SHA384", "localhost"]);
    let Ok(Opened::Record { data, .. }) = records.open(&mut received) else { panic!("no record") };
    assert_eq!(&received[data], b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f");
    assert_eq!(sealed(&mut records, b"chat"), bytes("1703030015f89df7e0af5fd25d63f102fb2687485d66577f0156"));
}
