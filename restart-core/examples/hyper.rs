//! A hyper server on tokio whose idle connections move to the next generation. With an axum `Router` as the service
//! (`hyper_util::service::TowerToHyperService::new(router)`) in the place of `answer`, it is an axum server.
//!
//! `cargo run -p restart-core --example hyper -- 127.0.0.1:8080`, then the same with `reload` in place of the address.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use restart_core::{Builder, Connection, Connections, Drain, Endpoint, Exit, Phase, cli};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What one has to know in order to go on with a connection: the blob is what was read of the next request.
const FORMAT: &str = "http/1";

fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let serve = cli::obey("hyper-example");
    let address = serve.arguments.first().map_or("127.0.0.1:8080", String::as_str);
    let builder = Builder::new().listen(Endpoint::parse(address, "http")?).control(serve.control);
    // Before the runtime: start() has to come before any thread.
    let (generation, driver) = builder.take_connections([FORMAT]).start()?;
    let listener = generation.listener("http")?;
    let server = Server { number: generation.number(), drain: generation.drain(), way: generation.connections() };
    Ok(tokio::runtime::Runtime::new()?.block_on(async move {
        let (accepting, taking) = (server.clone(), server);
        tokio::spawn(async move {
            while let Some(accepted) = listener.accept().await {
                let connection = Connection::new([FORMAT], accepted.fd, vec![], accepted.guard);
                tokio::spawn(accepting.clone().serve(connection));
            }
        });
        tokio::spawn(async move {
            loop {
                let connection = taking.way.take().await;
                tokio::spawn(taking.clone().serve(connection));
            }
        });
        driver.run_with(generation.ready()).await
    }))
}

async fn answer(number: u64, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(Response::new(Full::from(format!("generation {number} answers {}\n", request.uri().path()))))
}

#[derive(Clone)]
struct Server {
    number: u64,
    drain: Drain,
    way: Connections,
}

impl Server {
    /// Serves a connection, of which `blob` was received already, until it ends or has moved on.
    async fn serve(self, Connection { fd, blob, guard, .. }: Connection) -> io::Result<()> {
        let stream = TcpStream::from_std(fd.into())?;
        let busy = Arc::new(Busy::default());
        let io = Io { stream, read_ahead: blob.into(), busy: Arc::clone(&busy) };
        let service = service_fn(|request: Request<Incoming>| {
            busy.body.store(!request.body().is_end_stream(), SeqCst);
            let (number, served) = (self.number, Served::begin(&busy));
            Box::pin(async move {
                let response = answer(number, request).await?;
                // hyper drops the body when it has taken all of it.
                let response = response.map(|body| {
                    body.map_err(move |error| {
                        let _ = &served;
                        error
                    })
                });
                Ok::<_, Infallible>(response)
            })
        });
        let mut connection = http1::Builder::new().serve_connection(TokioIo::new(io), service);
        let mut drained = pin!(self.drain.changed(Phase::Serving));
        let mut draining = false;
        let idle = poll_fn(|context| {
            if let Poll::Ready(ended) = connection.poll_without_shutdown(context) {
                return Poll::Ready(ended.map(|()| false));
            }
            draining = draining || drained.as_mut().poll(context).is_ready();
            if draining && !busy.is_any() { Poll::Ready(Ok(true)) } else { Poll::Pending }
        });
        let idle = idle.await.map_err(io::Error::other)?;
        if idle && self.drain.phase() == Phase::Draining {
            // Between two messages hyper holds nothing but what it has read; its own shutdown would tell the client.
            let parts = connection.into_parts();
            let Io { stream, read_ahead, .. } = parts.io.into_inner();
            let blob = [parts.read_buf, read_ahead].concat();
            // One that nobody takes comes back, and is closed by being dropped.
            let _ = self.way.offer(Connection::new([FORMAT], stream.into_std()?.into(), blob, guard)).await;
        }
        Ok(())
    }
}

/// What keeps a connection from being idle between two looks at it: a request without its whole response; a request's
/// body, of which something may be unread until the next request has come; bytes of a response that are not sent.
#[derive(Default)]
struct Busy {
    request: AtomicBool,
    body: AtomicBool,
    output: AtomicBool,
}

impl Busy {
    fn is_any(&self) -> bool {
        [&self.request, &self.body, &self.output].iter().any(|one| one.load(SeqCst))
    }
}

/// A request, until its response's body is dropped.
struct Served(Arc<Busy>);

impl Served {
    fn begin(busy: &Arc<Busy>) -> Served {
        busy.request.store(true, SeqCst);
        Served(Arc::clone(busy))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.request.store(false, SeqCst);
    }
}

/// A connection that begins with what another process has received of it, and tells whether all that hyper has for it was
/// sent: hyper flushes after it has written everything.
struct Io {
    stream: TcpStream,
    read_ahead: Bytes,
    busy: Arc<Busy>,
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.read_ahead.is_empty() {
            let count = self.read_ahead.len().min(into.remaining());
            into.put_slice(&self.read_ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.busy.output.store(true, SeqCst);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.busy.output.store(polled.is_pending(), SeqCst);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
