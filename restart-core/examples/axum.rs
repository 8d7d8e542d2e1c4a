//! An axum server that is replaced while it serves. A request in flight finishes, in the process where it began; idle
//! connections close (`examples/hyper.rs` shows how they move instead, with the same router).
//!
//! `cargo run -p restart-core --example axum -- 127.0.0.1:8080`, then `kill -HUP` it.

use std::io;

use axum::{Router, routing::get};
use restart_core::{Address, Builder, Endpoint, Listener, Phase};
use tokio::net::TcpStream;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().skip(1).find(|arg| arg != "-g").unwrap_or("127.0.0.1:8080".to_owned());
    // Before the runtime: start() has to come before any thread.
    let generation = Builder::new().listen(Endpoint::parse(&address, "http")?).start()?;
    let (listener, drain, number) = (Front(generation.listener("http")?), generation.drain(), generation.number());
    let app = Router::new().route("/", get(async move || format!("generation {number}\n")));
    tokio::runtime::Runtime::new()?.block_on(async move {
        // The guard counts axum's connections as one: the process ends when the last of them has.
        let guard = drain.guard();
        tokio::spawn(async move {
            let drained = async move { _ = drain.changed(Phase::Serving).await };
            let served = axum::serve(listener, app).with_graceful_shutdown(drained).await;
            drop(guard);
            served
        });
        Box::pin(generation.run()).await;
    });
    Ok(())
}

struct Front(Listener);

impl axum::serve::Listener for Front {
    type Io = TcpStream;
    type Addr = Address;

    async fn accept(&mut self) -> (TcpStream, Address) {
        while let Ok(accepted) = self.0.accept().await {
            let peer = accepted.peer.clone();
            if let Ok((stream, _)) = accepted.into_tcp()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                return (stream, peer);
            }
        }
        // This generation accepts no more; axum is about to learn of it, too.
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<Address> {
        Ok(self.0.address().clone())
    }
}
