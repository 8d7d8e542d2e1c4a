//! A hyper server on tokio that is replaced while it serves.
//!
//! `cargo run -p restart-core --example hyper -- 127.0.0.1:8080`, then `kill -HUP` it.

use std::convert::Infallible;
use std::pin::pin;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use restart_core::{Accepted, Builder, Drain, Endpoint, Phase};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().skip(1).find(|arg| arg != "-g").unwrap_or("127.0.0.1:8080".to_owned());
    // Before the runtime: start() has to come before any thread.
    let generation = Builder::new().listen(Endpoint::parse(&address, "http")?).start()?;
    let (listener, drain, number) = (generation.listener("http")?, generation.drain(), generation.number());
    tokio::runtime::Runtime::new()?.block_on(async move {
        tokio::spawn(async move {
            while let Ok(accepted) = listener.accept().await {
                tokio::spawn(serve(accepted, drain.clone(), number));
            }
        });
        Box::pin(generation.run()).await;
    });
    Ok(())
}

/// Serves one connection; when this generation drains, the request in flight is the connection's last.
async fn serve(accepted: Accepted, drain: Drain, number: u64) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (stream, _guard) = accepted.into_tcp()?;
    let stream = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
    let answer = service_fn(async |request: Request<Incoming>| {
        let text = format!("generation {number} answers {}\n", request.uri().path());
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(stream, answer));
    tokio::select! {
        result = connection.as_mut() => return Ok(result?),
        _ = drain.changed(Phase::Serving) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
