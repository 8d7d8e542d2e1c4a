//! hyper on tokio with `BENCH_THREADS` threads, or two, and with `--tls ADDRESS CERTIFICATE KEY` also with rustls there.
//! With `--ecdysis`, the last argument, it restarts itself on SIGHUP through that crate, and ends when the requests in
//! flight are answered; without it, it does not restart.

use std::{convert::Infallible, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bench::answer::{EVENTS, Fixed, TEXT, event, fixed, interval, tagged};
use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures_lite::{
    Stream, StreamExt,
    future::zip,
    stream::{Boxed, unfold},
};
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Request, Response,
    body::{Bytes, Frame, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// How long requests in flight may take at a restart: reborn's own default.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "usage: peer-hyper ADDRESS [--tls ADDRESS CERTIFICATE KEY] [--ecdysis]";
    let address: SocketAddr = std::env::args().nth(1).ok_or(USAGE)?.parse()?;
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let words: Vec<String> = std::env::args().skip(2).collect();
    let (words, restarts) = match &words[..] {
        [words @ .., last] if last == "--ecdysis" => (words, true),
        words => (words, false),
    };
    let tls: Option<(SocketAddr, TlsAcceptor)> = match words {
        [] => None,
        [tls, address, certificate, key] if tls == "--tls" => Some((address.parse()?, acceptor(certificate, key)?)),
        _ => return Err(USAGE.into()),
    };
    runtime.block_on(async {
        if restarts {
            return restarting(address, tls).await;
        }
        if let Some((address, acceptor)) = tls {
            tokio::spawn(async move { secured(address, acceptor).await.map_err(|error| eprintln!("{error}")) });
        }
        plain(address).await
    })
}

async fn plain(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

/// With rustls's own tickets, which cost the least; there is no other setting that would make it faster.
fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor, Box<dyn Error>> {
    let chain = vec![CertificateDer::from_pem_file(certificate)?];
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new()?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn secured(address: SocketAddr, acceptor: TlsAcceptor) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ended = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
            }
        });
    }
}

async fn restarting(address: SocketAddr, tls: Option<(SocketAddr, TlsAcceptor)>) -> Result<(), Box<dyn Error>> {
    let builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    let listen = |address| {
        builder.build_listen_tcp(StopOnShutdown::Yes, address, |socket, address| {
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(4096)?;
            Ok(socket.into())
        })
    };
    let streams = listen(address)?;
    let secured = tls.map(|(address, acceptor)| Ok::<_, Box<dyn Error>>((listen(address)?, acceptor))).transpose()?;
    let (_ecdysis, shutdown) = builder.ready()?;
    let plain = tokio::spawn(accepting(streams, None));
    let secured = secured.map(|(streams, acceptor)| tokio::spawn(accepting(streams, Some(acceptor))));
    shutdown.await?;
    let plain = plain.await?.shutdown();
    let secured = match secured {
        Some(accepting) => accepting.await?,
        None => GracefulShutdown::new(),
    };
    // Whoever runs into the deadline is cut: that is what a deadline is for.
    let _late = tokio::time::timeout(DRAIN_TIMEOUT, zip(plain, secured.shutdown())).await;
    Ok(())
}

/// Serves what is accepted until the listener is at its end. Returns the means to end the connections.
async fn accepting(
    mut streams: impl Stream<Item = std::io::Result<TcpStream>> + Unpin,
    acceptor: Option<TlsAcceptor>,
) -> GracefulShutdown {
    let graceful = GracefulShutdown::new();
    while let Some(Ok(stream)) = streams.next().await {
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let watcher = graceful.watcher();
        if let Some(acceptor) = acceptor.clone() {
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                    let _ended = watcher.watch(connection).await;
                }
            });
        } else {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(watcher.watch(connection));
        }
    }
    graceful
}

type Answer = Either<Full<Bytes>, StreamBody<Boxed<Result<Frame<Bytes>, Infallible>>>>;

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
    let mut response = Response::builder();
    let mut kind = TEXT;
    let body = match fixed(request.uri().path()) {
        Fixed::Bytes(bytes) => Either::Left(Full::new(Bytes::from_static(bytes))),
        Fixed::Tagged => {
            let id = request.headers().get("x-id").and_then(|id| id.to_str().ok()).unwrap_or("-");
            response = response.header("x-id", id).header("x-pid", std::process::id());
            Either::Left(Full::new(tagged(id).into()))
        }
        Fixed::Events => {
            kind = EVENTS;
            Either::Right(StreamBody::new(events(interval(request.uri().query()))))
        }
        Fixed::None => {
            response = response.status(404);
            Either::Left(Full::new(Bytes::new()))
        }
    };
    Ok(response.header(CONTENT_TYPE, kind).body(body).expect("the headers are valid"))
}

fn events(every: Duration) -> Boxed<Result<Frame<Bytes>, Infallible>> {
    let next = move |id| async move {
        tokio::time::sleep(every).await;
        Some((Ok(Frame::data(event(id).into())), id + 1))
    };
    unfold(1, next).boxed()
}
