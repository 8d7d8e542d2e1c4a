//! Requests and responses over real connections: framing, keep-alive, pipelining, bodies both ways.

mod http_support;

use http_support::Server;
use server::http::{End, Reason};

const HOST: &str = "Host: test\r\n";

#[test]
fn requests_on_one_connection_are_answered_in_turn() {
    let server = Server::new();
    let mut client = server.connect();
    for _ in 0..3 {
        let reply = client.get("/");
        assert_eq!((reply.status, reply.body.as_str()), (200, "hello"));
        assert!(!reply.closes() && reply.header("date").is_some());
    }
    let own = client.stream.local_addr().expect("an address").to_string();
    assert_eq!(client.get("/peer").body, own);
    drop(client);
    assert!(matches!(server.end(), End::Client { requests: 4 }));
    assert_eq!(server.drain.live(), 0);
}

#[test]
fn pipelined_requests_are_all_answered_in_order_however_they_are_cut() {
    let server = Server::new();
    let input = format!(
        "GET /target?1 HTTP/1.1\r\n{HOST}\r\nPOST /read HTTP/1.1\r\n{HOST}Content-Length: 3\r\n\r\nabc\r\n\
         POST /read HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n\
         GET /target?4 HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n"
    );
    for size in [1, 2, 7, 50, input.len()] {
        let mut client = server.connect();
        for piece in input.as_bytes().chunks(size) {
            client.send(piece);
        }
        let bodies: Vec<String> = (0..4).map(|_| client.reply().body).collect();
        assert_eq!(bodies, ["/target?1", "abc", "de", "/target?4"], "in pieces of {size}");
        assert!(client.is_closed());
        drop(client);
        assert!(matches!(server.end(), End::Server { reason: Reason::Asked, requests: 4 }));
    }
}
