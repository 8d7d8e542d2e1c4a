//! A server on loopback for the tests of the HTTP layer, and a client that says exactly what a test wants said.
//!
//! The server runs `server::http::serve` on a small executor of its own and tells how each connection ended. The client
//! is a blocking socket with a generous deadline: it parses responses strictly, so that a framing error is noticed.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use async_io::Async;
use http_types::{Body, Request, Response, StatusCode};
use restart_core::{Drain, ManualDrain};
use rustls::ServerConfig;
use server::http::{Context, End, Handler, Security, Start, Target, serve};

/// How long anything may take before a test fails. Far above what is needed on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A server of a test's own.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) drain: ManualDrain,
    ends: Receiver<End>,
    starts: Sender<Start>,
}

impl Server {
    /// Starts a server with the handler [`answer`] and a context that `change` has changed.
    pub(crate) fn with(change: impl FnOnce(&mut Context<fn(Request) -> Answering>)) -> Server {
        let mut context = Context::new(answer as fn(Request) -> Answering, Drain::new());
        change(&mut context);
        Server::start(context)
    }

    /// Starts a server with defaults.
    pub(crate) fn new() -> Server {
        Server::with(|_| {})
    }

    /// Starts a server.
    pub(crate) fn start<H: Handler + 'static>(context: Context<H>) -> Server {
        Server::begin(context, None)
    }

    /// Starts a server that speaks TLS.
    pub(crate) fn secured<H: Handler + 'static>(context: Context<H>, config: Arc<ServerConfig>) -> Server {
        Server::begin(context, Some(config))
    }

    fn begin<H: Handler + 'static>(mut context: Context<H>, tls: Option<Arc<ServerConfig>>) -> Server {
        let (listener, address) = listen();
        // One that the test can set.
        let drain = Drain::manual();
        context.drain = drain.clone();
        let (ended, ends) = channel();
        let (starts, started) = channel::<Start>();
        let context = Arc::new(context);
        let executor = Arc::new(smol::Executor::new());
        let serving = {
            let (executor, ended) = (Arc::clone(&executor), ended);
            move |start: Start| {
                let (context, ended) = (Arc::clone(&context), ended.clone());
                executor
                    .spawn(async move {
                        // The test may be over already.
                        let _ = ended.send(serve(&context, start).await);
                    })
                    .detach();
            }
        };
        let again = serving.clone();
        std::thread::spawn(move || started.iter().for_each(again));
        let accepting = async move {
            let listener = Async::new(listener).expect("a listener");
            while let Ok((stream, peer)) = listener.accept().await {
                let stream = stream.into_inner().expect("a stream");
                let security = tls.clone().map_or(Security::Plain, Security::Handshake);
                serving(Start { security, ..Start::new(stream, Some(peer.to_string())) });
            }
        };
        std::thread::spawn(move || smol::block_on(executor.run(accepting)));
        Server { address, drain, ends, starts }
    }

    pub(crate) fn connect(&self) -> Client {
        Client::over(TcpStream::connect(self.address).expect("a connection"))
    }

    /// A connection whose first bytes the server has read.
    pub(crate) fn connect_with(&self, bytes: impl AsRef<[u8]>) -> Client {
        let (client, wait_unread) = self.connect_sending(bytes);
        wait_unread(0);
        client
    }

    /// A connection that the server is given when all these bytes have arrived.
    pub(crate) fn connect_after(&self, bytes: impl AsRef<[u8]>) -> Client {
        self.connect_sending(bytes).0
    }

    fn connect_sending(&self, bytes: impl AsRef<[u8]>) -> (Client, impl Fn(u64)) {
        let (listener, address) = listen();
        let mut client = Client::over(TcpStream::connect(address).expect("a connection"));
        let (stream, peer) = listener.accept().expect("the connection");
        let watched = stream.try_clone().expect("a clone");
        let wait_unread = move |count: u64| {
            let started = Instant::now();
            while rustix::io::ioctl_fionread(&watched).expect("a socket") != count {
                assert!(started.elapsed() < DEADLINE, "{count} bytes were to be left unread");
                std::thread::yield_now();
            }
        };
        stream.set_nonblocking(true).expect("a socket");
        client.send(&bytes);
        wait_unread(bytes.as_ref().len() as u64);
        self.resume(Start::new(stream, Some(peer.to_string())));
        (client, wait_unread)
    }

    /// Sends `request` on a connection of its own and returns all that comes back until it is closed.
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut client = self.connect();
        client.send(request);
        client.rest()
    }

    /// How the next connection that ends has ended.
    pub(crate) fn end(&self) -> End {
        self.ends.recv_timeout(DEADLINE).expect("a connection ends")
    }

    /// How another connection has ended, if one has.
    pub(crate) fn try_end(&self) -> Option<End> {
        self.ends.try_recv().ok()
    }

    /// Whether no connection has ended.
    pub(crate) fn none_ended(&self) -> bool {
        self.ends.try_recv().is_err()
    }

    /// Serves a connection that was not accepted here.
    pub(crate) fn resume(&self, start: Start) {
        self.starts.send(start).expect("the server runs");
    }
}

fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback socket");
    // As the server's own listeners have it, for all their connections.
    rustix::net::sockopt::set_tcp_nodelay(&listener, true).expect("a TCP socket");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

/// A client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

/// A response as it came.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Reply {
    /// The value of a header, which must not come twice.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.head.lines().skip(1).filter_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        let value = values.next();
        assert_eq!(values.next(), None, "{name} comes twice in {}", self.head);
        value
    }

    /// Whether the server says that it closes.
    pub(crate) fn closes(&self) -> bool {
        self.header("connection") == Some("close")
    }
}

impl Client {
    pub(crate) fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Client { stream, received: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server takes bytes");
    }

    pub(crate) fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.reply()
    }

    /// Has the handler wait for a body of four bytes.
    pub(crate) fn begin(&mut self) {
        self.send("POST /read HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
        assert_eq!(self.reply().status, 100);
    }

    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).expect("a connection");
    }

    /// All that comes until the server closes.
    pub(crate) fn rest(&mut self) -> String {
        while self.receive() {}
        String::from_utf8(std::mem::take(&mut self.received)).expect("text")
    }

    /// The next response to a request that is not a HEAD.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> Reply {
        self.reply_to("GET")
    }

    /// The next response, framed as one to `method`.
    #[track_caller]
    pub(crate) fn reply_to(&mut self, method: &str) -> Reply {
        let head = self.until("\r\n\r\n");
        let status = head[9..12].parse().expect("a status");
        let mut reply = Reply { status, head, body: String::new() };
        if method == "HEAD" || matches!(status, 100..200 | 204 | 304) {
            return reply;
        }
        reply.body = match (reply.header("content-length"), reply.header("transfer-encoding")) {
            (Some(length), None) => self.take(length.parse().expect("a length")),
            (None, Some("chunked")) => self.chunks(),
            (None, None) => self.rest(),
            other => panic!("framed twice: {other:?}"),
        };
        reply
    }

    /// Whether the server has closed: nothing more comes.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.received.is_empty() && !self.receive()
    }

    /// Whether nothing has come yet.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(30))).expect("a timeout");
        let mut byte = [0];
        let silent = self.stream.peek(&mut byte).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        self.stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        silent
    }

    #[track_caller]
    fn chunks(&mut self) -> String {
        let mut body = String::new();
        loop {
            let line = self.until("\r\n");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("a chunk size");
            let mut chunk = self.take(size + 2);
            assert_eq!(chunk.split_off(size), "\r\n");
            body.push_str(&chunk);
            if size == 0 {
                return body;
            }
        }
    }

    #[track_caller]
    pub(crate) fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.received.windows(end.len()).position(|window| window == end.as_bytes()) {
                return self.take(at + end.len());
            }
            assert!(self.receive(), "closed within {:?}", String::from_utf8_lossy(&self.received));
        }
    }

    #[track_caller]
    fn take(&mut self, count: usize) -> String {
        while self.received.len() < count {
            assert!(self.receive(), "closed after {} of {count} bytes", self.received.len());
        }
        let rest = self.received.split_off(count);
        String::from_utf8(std::mem::replace(&mut self.received, rest)).expect("text")
    }

    /// All that comes until the server closes, and whether that was by a reset.
    pub(crate) fn rest_to_a_reset(&mut self) -> (usize, bool) {
        let (mut bytes, mut room) = (self.received.len(), vec![0; 65536]);
        loop {
            match self.stream.read(&mut room) {
                Ok(0) => return (bytes, false),
                Ok(count) => bytes += count,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return (bytes, true),
                Err(error) => panic!("{error} after {bytes} bytes"),
            }
        }
    }

    /// Takes up to `count` bytes, whatever they are; 0 if the server has closed. They are not part of any reply.
    pub(crate) fn receive_up_to(&mut self, count: usize) -> usize {
        self.stream.read(&mut vec![0; count]).expect("the server answers or closes")
    }

    fn receive(&mut self) -> bool {
        let mut bytes = vec![0; 65536];
        let count = self.stream.read(&mut bytes).expect("the server answers or closes");
        self.received.extend_from_slice(&bytes[..count]);
        count > 0
    }
}

/// What a handler returns.
pub(crate) type Answering = std::pin::Pin<Box<dyn Future<Output = http_types::Result<Response>> + Send>>;

/// The handler of most tests: what it does is in the path.
pub(crate) fn answer(request: Request) -> Answering {
    Box::pin(answered(request))
}

async fn answered(mut request: Request) -> http_types::Result<Response> {
    let target = request.ext().get::<Target>().expect("a target").clone();
    let mut response = Response::new(StatusCode::Ok);
    match target.path() {
        "/target" => response.set_body(target.as_str()),
        "/host" => response.set_body(request.header("host").map_or("none", |values| values.last().as_str())),
        "/peer" => response.set_body(request.peer_addr().unwrap_or("none")),
        "/echo" => {
            let length = request.len();
            response.set_body(Body::from_reader(request.take_body(), length));
        }
        "/read" => response.set_body(request.body_string().await?),
        "/trailers" => {
            let mut trailers = request.recv_trailers();
            let body = request.body_string().await?;
            let trailer = trailers_text(trailers_next(&mut trailers).await);
            response.set_body(format!("{body}|{trailer}"));
        }
        "/ignore" => response.set_body("ignored"),
        "/slow" => {
            smol::Timer::after(Duration::from_millis(200)).await;
            response.set_body("slow");
        }
        "/never" => std::future::pending().await,
        "/big" => response.set_body(vec![b'x'; 1_000_000]),
        "/large" => response.set_body(vec![b'x'; 100_000]),
        "/buffered" => {
            let few_at_hand = smol::io::BufReader::new(smol::io::Cursor::new(vec![b'x'; 1_000_000]));
            response.set_body(Body::from_reader(few_at_hand, Some(1_000_000)));
        }
        "/chunked" => response.set_body(Body::from_reader(smol::io::Cursor::new(vec![b'c'; 300_000]), None)),
        "/short" => response.set_body(Body::from_reader(&b"abc"[..], Some(10))),
        "/cut" => response.set_body(Body::from_reader(smol::io::Cursor::new(vec![b'c'; 100_000]), Some(200_000))),
        "/long" => response.set_body(Body::from_reader(&b"abcdef"[..], Some(3))),
        "/broken" => response.set_body(Body::from_reader(Breaking { left: 100_000 }, Some(200_000))),
        "/breaking" => response.set_body(Body::from_reader(Breaking { left: 100_000 }, None)),
        "/stuck" => response.set_body(Body::from_reader(Stuck { left: 100_000 }, None)),
        "/unsent" => response.set_body(Body::from_reader(Breaking { left: 0 }, None)),
        "/panicking" => response.set_body(Body::from_reader(Panicking, None)),
        "/split" => {
            response.insert_header("x-split", "a\r\nx-evil: b");
        }
        "/framed" => {
            response.insert_header("Transfer-Encoding", "chunked");
            response.insert_header("Content-Length", "1");
            response.set_body("framed");
        }
        "/close" => {
            response.insert_header("Connection", "close");
        }
        "/upgrade" => upgrade(&request, &mut response).await,
        "/204" => response.set_status(StatusCode::NoContent),
        "/304" => response.set_status(StatusCode::NotModified),
        "/panic" => panic!("as the test wants"),
        "/fail" => return Err(http_types::Error::from_str(StatusCode::InternalServerError, "as the test wants")),
        "/refuse" => return Err(http_types::Error::from_str(StatusCode::Forbidden, "as the test wants")),
        _ => response.set_body("hello"),
    }
    Ok(response)
}

/// Switches to what `?` names, whether that was asked for or not, and gives back what comes; without an Upgrade header in
/// the request it says so.
async fn upgrade(request: &Request, response: &mut Response) {
    if request.header("upgrade").is_none() && request.url().query() != Some("unasked") {
        response.set_body("ignored");
        return;
    }
    response.set_status(StatusCode::SwitchingProtocols);
    response.insert_header("Upgrade", request.url().query().unwrap_or("echo"));
    let receiver = response.recv_upgrade().await;
    let echo = async {
        let (mut from, mut to) = smol::io::split(receiver.await.expect("the stream"));
        // How it ends is the client's to see.
        let _ = smol::io::copy(&mut from, &mut to).await;
    };
    smol::spawn(echo).detach();
}

async fn trailers_next(trailers: &mut http_types::trailers::Receiver) -> Option<http_types::Trailers> {
    trailers.await
}

fn trailers_text(trailers: Option<http_types::Trailers>) -> String {
    trailers.and_then(|trailers| trailers.get("x-sum").map(ToString::to_string)).unwrap_or_default()
}

/// A body that fails after some bytes.
struct Breaking {
    left: usize,
}

impl smol::io::AsyncRead for Breaking {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        into: &mut [u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let count = into.len().min(self.left);
        into[..count].fill(b'b');
        self.left -= count;
        std::task::Poll::Ready(if count == 0 { Err(std::io::Error::other("as the test wants")) } else { Ok(count) })
    }
}

impl smol::io::AsyncBufRead for Breaking {
    fn poll_fill_buf(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<&[u8]>> {
        std::task::Poll::Ready(Ok(b""))
    }

    fn consume(self: std::pin::Pin<&mut Self>, _: usize) {}
}

/// A body that stops after some bytes.
struct Stuck {
    left: usize,
}

impl smol::io::AsyncRead for Stuck {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        into: &mut [u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let count = into.len().min(self.left);
        into[..count].fill(b's');
        self.left -= count;
        if count == 0 { std::task::Poll::Pending } else { std::task::Poll::Ready(Ok(count)) }
    }
}

impl smol::io::AsyncBufRead for Stuck {
    fn poll_fill_buf(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<&[u8]>> {
        std::task::Poll::Pending
    }

    fn consume(self: std::pin::Pin<&mut Self>, _: usize) {}
}

/// A body that panics.
struct Panicking;

impl smol::io::AsyncRead for Panicking {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut [u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        panic!("as the test wants")
    }
}

impl smol::io::AsyncBufRead for Panicking {
    fn poll_fill_buf(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<&[u8]>> {
        panic!("as the test wants")
    }

    fn consume(self: std::pin::Pin<&mut Self>, _: usize) {}
}
