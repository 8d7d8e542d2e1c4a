//! The servers that reborn is compared with, and the one client that talks to all of them.
//!
//! Each answers requests with the `x-id` that they came with, so that one can tell which bytes it took for a request.

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tests::DEADLINE;

/// Follows each case: its answer says that the connection stayed open and in step.
const PROBE: &[u8] = b"GET /fast HTTP/1.1\r\nHost: a\r\nX-Id: probe\r\nConnection: close\r\n\r\n";

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    /// The `x-id` of the request that it answers; empty without one.
    pub(crate) id: String,
}

impl Seen {
    /// Whether the server took what came for a request. That it knows no such path or method is another matter.
    pub(crate) fn is_taken(&self) -> bool {
        !matches!(self.status, 400 | 408 | 411 | 413 | 414 | 417 | 421 | 431 | 501 | 505)
    }
}

/// Sends the bytes of a case and the probe, says that nothing more comes, and returns the answers.
pub(crate) fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<Seen> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    // A server may close before it has everything, which is an answer, too.
    let _ = stream.write_all(&[bytes, PROBE].concat());
    let _ = stream.shutdown(Shutdown::Write);
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error} after {}", received.escape_ascii()),
    }
    answers(&received)
}

/// The final answers in what was received.
fn answers(mut bytes: &[u8]) -> Vec<Seen> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = head.parse(bytes) else {
            // An answer without a head is one of HTTP/0.9, which ends with the connection.
            answers.push(Seen { status: 200, id: String::new() });
            return answers;
        };
        let header = |name: &str| {
            let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        bytes = &bytes[length..];
        let status = head.code.expect("httparse reads one");
        if status >= 200 {
            answers.push(Seen { status, id: header("x-id").unwrap_or_default() });
        }
        // The answer to a HEAD has no body, whatever its length says; no body begins like another answer.
        if bytes.starts_with(b"HTTP/1.") {
            continue;
        }
        bytes = match (header("content-length"), header("transfer-encoding")) {
            (Some(length), None) => bytes.get(length.parse().expect("a length")..).unwrap_or_default(),
            (None, Some(_)) => after_chunks(bytes),
            (None, None) if status < 200 || matches!(status, 204 | 304) => bytes,
            (None, None) => &[],
            both => panic!("framed twice: {both:?}"),
        };
    }
    answers
}

fn after_chunks(mut bytes: &[u8]) -> &[u8] {
    while let Ok(httparse::Status::Complete((used, size))) = httparse::parse_chunk_size(bytes) {
        let size = usize::try_from(size).expect("a small chunk");
        bytes = bytes.get(used + size + 2..).unwrap_or_default();
        if size == 0 {
            break;
        }
    }
    bytes
}

/// A running nginx. It is killed when it is dropped.
pub(crate) struct Nginx {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Nginx {
    /// Starts it with reborn's limits; none where it is not installed. `folder` is its own.
    pub(crate) fn start(folder: &Path, address: SocketAddr) -> Option<Nginx> {
        let configuration = format!(
            "daemon off; master_process off; pid {0}/pid; error_log stderr crit;
             events {{ }}
             http {{
                 access_log off; client_body_temp_path {0}/body; proxy_temp_path {0}/proxy;
                 fastcgi_temp_path {0}/fastcgi; uwsgi_temp_path {0}/uwsgi; scgi_temp_path {0}/scgi;
                 client_header_buffer_size 16k; large_client_header_buffers 4 16k; client_max_body_size 1g;
                 lingering_close always;
                 server {{ listen {address}; add_header x-id $http_x_id always; location / {{ return 200 ok; }} }}
             }}",
            folder.display()
        );
        let path = folder.join("nginx.conf");
        std::fs::write(&path, configuration).expect("a file in the test's own folder");
        let program = ["/usr/sbin/nginx", "nginx"].into_iter().find(|name| {
            let version = Command::new(name).arg("-v").stderr(Stdio::null()).status();
            version.is_ok_and(|status| status.success())
        })?;
        let mut command = Command::new(program);
        command.arg("-p").arg(folder).arg("-e").arg("stderr").arg("-c").arg(&path).stdin(Stdio::null());
        let mut nginx = Nginx { child: command.spawn().expect("nginx starts"), address };
        let started = std::time::Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = nginx.child.try_wait().expect("a child");
            assert!(ended.is_none() && started.elapsed() < DEADLINE, "nginx does not listen: {ended:?}");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a hyper server, which lives as long as this process. Returns its address.
pub(crate) fn start_hyper() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback socket");
    let address = listener.local_addr().expect("an address");
    listener.set_nonblocking(true).expect("a socket");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper::service::service_fn(answer);
                let connection = hyper::server::conn::http1::Builder::new()
                    .half_close(true)
                    .serve_connection(TokioIo::new(stream), service);
                tokio::spawn(connection);
            }
        });
    });
    address
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let id = request.headers().get("x-id").cloned();
    let mut response = Response::new(Full::from("ok"));
    if request.into_body().collect().await.is_err() {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    if let Some(id) = id {
        response.headers_mut().insert("x-id", id);
    }
    Ok(response)
}
