//! Request smuggling: whatever two parties could read differently is refused with 400 and a close, and the bytes behind
//! it, which look like a request, are never taken for one. One test for each way that is known.

mod http_support;

use http_support::Server;
use server::http::{End, Reason};

/// What must never be answered.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";

/// Sends a whole head, and right behind it what a smuggler wants taken for a request.
#[track_caller]
fn refused(head: impl AsRef<[u8]>) {
    let server = Server::new();
    let mut client = server.connect();
    client.send([head.as_ref(), SMUGGLED.as_bytes()].concat());
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (400, true), "{}", reply.body);
    assert!(client.is_closed(), "nothing follows the answer");
    drop(client);
    assert!(matches!(server.end(), End::Server { reason: Reason::Refused(400), .. }));
}

/// Sends a POST with these header lines, the body of an empty chunked message and the smuggled request.
#[track_caller]
fn refused_lines(lines: &str) {
    refused(format!("POST /read HTTP/1.1\r\nHost: test\r\n{lines}\r\n\r\n0\r\n\r\n"));
}

/// Sends a chunked body, to each kind of reader that a handler can be.
#[track_caller]
fn refused_chunks(body: &str) {
    for path in ["/read", "/echo", "/trailers"] {
        refused(format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
    }
}

#[test]
fn a_length_beside_chunks() {
    refused_lines("Content-Length: 5\r\nTransfer-Encoding: chunked");
    refused_lines("Transfer-Encoding: chunked\r\nContent-Length: 5");
    refused_lines("Content-Length: 0\r\nTransfer-Encoding: chunked");
}

#[test]
fn a_length_beside_an_unknown_coding() {
    refused_lines("Content-Length: 5\r\nTransfer-Encoding: identity");
}

#[test]
fn two_lengths() {
    refused_lines("Content-Length: 5\r\nContent-Length: 6");
}

#[test]
fn two_equal_lengths() {
    refused_lines("Content-Length: 5\r\nContent-Length: 5");
}

#[test]
fn a_list_of_lengths() {
    refused_lines("Content-Length: 5, 5");
    refused_lines("Content-Length: 5,");
}

#[test]
fn a_length_with_a_sign() {
    refused_lines("Content-Length: +5");
    refused_lines("Content-Length: -5");
}

#[test]
fn a_length_in_another_base_or_notation() {
    for length in ["0x5", "5e0", "5.0", "0b1", "\u{665}", "5;", "\"5\""] {
        refused_lines(&format!("Content-Length: {length}"));
    }
}

#[test]
fn a_length_with_a_blank_inside() {
    refused_lines("Content-Length: 0 5");
    refused_lines("Content-Length: 5\u{b}");
}

#[test]
fn an_empty_length() {
    refused_lines("Content-Length:");
}

#[test]
fn a_coding_before_chunked() {
    refused_lines("Transfer-Encoding: gzip, chunked");
}

#[test]
fn a_coding_after_chunked() {
    refused_lines("Transfer-Encoding: chunked, gzip");
    refused_lines("Transfer-Encoding: chunked, identity");
}

#[test]
fn an_unknown_coding() {
    for coding in ["identity", "xchunked", "chunkedx", "\"chunked\"", "chunked;q=1", "cow"] {
        refused_lines(&format!("Transfer-Encoding: {coding}"));
    }
}

#[test]
fn chunked_twice() {
    refused_lines("Transfer-Encoding: chunked, chunked");
    refused_lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked");
}

#[test]
fn two_coding_lines_of_which_one_is_chunked() {
    refused_lines("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity");
    refused_lines("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked");
}

#[test]
fn a_coding_with_an_empty_element() {
    refused_lines("Transfer-Encoding: chunked,");
    refused_lines("Transfer-Encoding: ,chunked");
    refused_lines("Transfer-Encoding:");
}

#[test]
fn a_coding_with_a_vertical_tab() {
    refused_lines("Transfer-Encoding: \u{b}chunked");
    refused_lines("Transfer-Encoding: chunked\u{c}");
}

#[test]
fn a_folded_coding() {
    refused_lines("Transfer-Encoding:\r\n chunked");
    refused_lines("Transfer-Encoding: chunked\r\n , identity");
}

#[test]
fn a_folded_first_line() {
    refused_lines(" X: y\r\nContent-Length: 5");
    refused("GET / HTTP/1.1\r\n Host: test\r\n\r\n");
}

#[test]
fn a_blank_before_the_colon() {
    refused_lines("Transfer-Encoding : chunked");
    refused_lines("Content-Length : 5");
    refused_lines("Content-Length\t: 5");
    refused("GET / HTTP/1.1\r\nHost : test\r\n\r\n");
}

#[test]
fn a_name_that_is_no_token() {
    refused_lines("Transfer-Encoding\u{b}: chunked");
    refused_lines("Transfer Encoding: chunked");
    refused_lines("Content-Length\0: 5");
    refused_lines(": 5");
}

#[test]
fn a_line_without_a_colon() {
    refused_lines("Content-Length 5");
}

#[test]
fn a_coding_in_an_old_request() {
    refused("POST /read HTTP/1.0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
}

#[test]
fn a_bare_line_feed_in_a_head() {
    refused("GET / HTTP/1.1\nHost: test\n\n");
    refused("GET / HTTP/1.1\nHost: test\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: test\nContent-Length: 5\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: test\r\n\n");
    refused("GET / HTTP/1.1\r\nHost: test\r\nX: a\n\r\n\r\n");
}

#[test]
fn a_bare_carriage_return_in_a_head() {
    refused("GET / HTTP/1.1\r\nHost: test\rContent-Length: 5\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: test\r\r\n\r\n");
    refused("GET / HTTP/1.1\rHost: test\r\n\r\n");
    refused("GET /\r HTTP/1.1\r\nHost: test\r\n\r\n");
}

#[test]
fn a_nul_in_a_head() {
    refused("GET / HTTP/1.1\r\nHost: test\r\nX: \0\r\n\r\n");
    refused("GET /\0 HTTP/1.1\r\nHost: test\r\n\r\n");
    refused_lines("Transfer-Encoding: chunked\0");
}

#[test]
fn a_host_that_reaches_into_the_path() {
    refused("GET /public HTTP/1.1\r\nHost: a/admin?\r\n\r\n");
    refused("GET /public HTTP/1.1\r\nHost: a#\r\n\r\n");
    refused("GET /public HTTP/1.1\r\nHost: user@a\r\n\r\n");
    refused("GET /public HTTP/1.1\r\nHost: a b\r\n\r\n");
}

#[test]
fn an_empty_host() {
    refused("GET /public HTTP/1.1\r\nHost:\r\n\r\n");
}

#[test]
fn two_hosts() {
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
    refused("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n");
    refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n");
    refused("GET http://a/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
}

#[test]
fn no_host() {
    refused("GET / HTTP/1.1\r\n\r\n");
}

#[test]
fn blanks_in_the_request_line() {
    refused("GET  / HTTP/1.1\r\nHost: test\r\n\r\n");
    refused("GET /  HTTP/1.1\r\nHost: test\r\n\r\n");
    refused("GET\t/ HTTP/1.1\r\nHost: test\r\n\r\n");
    refused("GET / HTTP/1.1 \r\nHost: test\r\n\r\n");
    refused("GET /a GET /b HTTP/1.1\r\nHost: test\r\n\r\n");
}

#[test]
fn a_request_line_without_a_version() {
    refused("GET /\r\n\r\n");
    refused("GET / \r\n\r\n");
}

#[test]
fn a_malformed_version() {
    for version in ["HTTP/1.", "HTTP/1", "HTTP/11", "HTTP/1.1.1", "HTTP/+1.1", "http/1.1", "HTTP /1.1", "ICY/1.1"] {
        refused(format!("GET / {version}\r\nHost: test\r\n\r\n"));
    }
}

#[test]
fn a_chunk_size_that_is_no_hexadecimal_number() {
    for size in ["x", "-1", "+1", "0x1", "", "1.", "\u{661}", "1g", "1_0"] {
        refused_chunks(&format!("{size}\r\na\r\n0\r\n\r\n"));
    }
}

#[test]
fn a_chunk_size_that_overflows() {
    refused_chunks("10000000000000000\r\na\r\n0\r\n\r\n");
    refused_chunks("fffffffffffffffff\r\na\r\n0\r\n\r\n");
    refused_chunks("00000000000000001\r\na\r\n0\r\n\r\n");
}

#[test]
fn blanks_around_a_chunk_size() {
    refused_chunks(" 1\r\na\r\n0\r\n\r\n");
    refused_chunks("1 \r\na\r\n0\r\n\r\n");
    refused_chunks("1 1\r\na\r\n0\r\n\r\n");
    refused_chunks("1\t\r\na\r\n0\r\n\r\n");
}

#[test]
fn a_chunk_longer_or_shorter_than_its_size() {
    refused_chunks("1\r\nab\r\n0\r\n\r\n");
    refused_chunks("2\r\na\r\n0\r\n\r\n");
    refused_chunks("1\r\na0\r\n\r\n");
}

#[test]
fn bare_line_feeds_and_carriage_returns_in_chunks() {
    refused_chunks("1\na\r\n0\r\n\r\n");
    refused_chunks("1\r\na\n0\r\n\r\n");
    refused_chunks("1\ra\r\n0\r\n\r\n");
    refused_chunks("1\r\na\r0\r\n\r\n");
    refused_chunks("0\n\r\n");
    refused_chunks("0\r\n\n");
    refused_chunks("0\r\n\r\r\n");
}

#[test]
fn line_ends_and_controls_in_a_chunk_extension() {
    refused_chunks("1;a\nb\r\na\r\n0\r\n\r\n");
    refused_chunks("1;a\rb\r\na\r\n0\r\n\r\n");
    refused_chunks("1;\0\r\na\r\n0\r\n\r\n");
    refused_chunks("0;a\n\r\n");
}

#[test]
fn malformed_trailers() {
    refused_chunks("0\r\na: b\n\r\n");
    refused_chunks("0\r\na: b\rc\r\n\r\n");
    for lines in ["no colon", "a : b", " folded: x", "a: b\r\n c", ": b", "a: \0"] {
        refused_chunks(&format!("1\r\na\r\n0\r\n{lines}\r\n\r\n"));
    }
}

#[test]
fn a_chunked_body_that_nobody_reads() {
    let server = Server::new();
    let mut client = server.connect();
    let head = "POST /ignore HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}x\r\n{SMUGGLED}"));
    let reply = client.reply();
    assert_eq!((reply.status, reply.closes()), (200, true), "the handler did not look at it");
    assert!(client.is_closed(), "nothing follows the answer");
}

#[test]
fn a_body_that_looks_like_a_request() {
    let server = Server::new();
    for path in ["/read", "/ignore"] {
        let mut client = server.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{SMUGGLED}GET /target HTTP/1.1\r\n\
             Host: test\r\nConnection: close\r\n\r\n",
            SMUGGLED.len()
        ));
        assert_eq!(client.reply().status, 200);
        assert_eq!(client.reply().body, "/target", "{path}: the request after the body, and nothing of the body");
        assert!(client.is_closed());
    }
}

#[test]
fn trailers_that_look_like_framing() {
    let server = Server::new();
    let mut client = server.connect();
    client.send(
        "POST /read HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\
         Content-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: b\r\nConnection: close\r\n\r\n",
    );
    let reply = client.reply();
    assert_eq!((reply.body.as_str(), reply.closes()), ("a", false), "trailers change nothing of the message");
    assert_eq!(client.get("/target").body, "/target");
}
