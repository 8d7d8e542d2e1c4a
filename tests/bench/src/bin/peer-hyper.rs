//! hyper on tokio with `BENCH_THREADS` threads, or two, and with `--tls ADDRESS CERTIFICATE KEY` also with rustls there.
//! With `--ecdysis` it restarts itself on SIGHUP through that crate, and ends when the
//! requests in flight are answered; without it, it does not restart.

use std::{convert::Infallible, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use bench::answer::{Fixed, TEXT, fixed, tagged};
use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use futures_lite::StreamExt;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
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
    let address: SocketAddr = std::env::args().nth(1).ok_or("usage: peer-hyper ADDRESS [--ecdysis]")?.parse()?;
    let threads = std::env::var("BENCH_THREADS").ok().and_then(|threads| threads.parse().ok()).unwrap_or(2);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let restarts = std::env::args().any(|argument| argument == "--ecdysis");
    let words: Vec<String> = std::env::args().skip(2).collect();
    if let [tls, address, certificate, key] = &words[..]
        && tls == "--tls"
    {
        let (address, acceptor) = (address.parse()?, acceptor(certificate, key)?);
        runtime.spawn(async move { secured(address, acceptor).await.map_err(|error| eprintln!("{error}")) });
    }
    runtime.block_on(async { if restarts { restarting(address).await } else { plain(address).await } })
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

async fn restarting(address: SocketAddr) -> Result<(), Box<dyn Error>> {
    let builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    let mut streams = builder.build_listen_tcp(StopOnShutdown::Yes, address, |socket, address| {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    })?;
    let (_ecdysis, shutdown) = builder.ready()?;
    let accepting = tokio::spawn(async move {
        let graceful = GracefulShutdown::new();
        while let Some(Ok(stream)) = streams.next().await {
            let stream: TcpStream = stream;
            if stream.set_nodelay(true).is_ok() {
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
                tokio::spawn(graceful.watch(connection));
            }
        }
        graceful
    });
    shutdown.await?;
    let graceful = accepting.await?;
    // Whoever runs into the deadline is cut: that is what a deadline is for.
    let _late = tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await;
    Ok(())
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::builder().header(CONTENT_TYPE, TEXT);
    let body = match fixed(request.uri().path()) {
        Fixed::Bytes(bytes) => Bytes::from_static(bytes),
        Fixed::Tagged => {
            let id = request.headers().get("x-id").and_then(|id| id.to_str().ok()).unwrap_or("-");
            response = response.header("x-id", id).header("x-pid", std::process::id());
            tagged(id).into()
        }
        Fixed::None => {
            response = response.status(404);
            Bytes::new()
        }
    };
    Ok(response.body(Full::new(body)).expect("the headers are valid"))
}
