//! An axum server that is replaced while it serves. A request in flight finishes, in the process where it began; idle
//! connections close (`examples/hyper.rs` shows how they move instead, with the same router).
//!
//! `cargo run -p restart-core --example axum -- 127.0.0.1:8080`, then the same with `reload` in place of the address.

use axum::{Router, routing::get};
use restart_core::{Builder, Endpoint, Exit, Listener, Phase, cli};
use tokio::net::TcpStream;

fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let serve = cli::obey("axum-example");
    let address = serve.arguments.first().map_or("127.0.0.1:8080", String::as_str);
    let builder = Builder::new().listen(Endpoint::parse(address, "http")?).control(serve.control);
    let (generation, driver) = builder.start()?; // before the runtime: no thread may exist yet
    let (listener, drain, number) = (Front(generation.listener("http")?), generation.drain(), generation.number());
    let app = Router::new().route("/", get(async move || format!("generation {number}\n")));
    Ok(tokio::runtime::Runtime::new()?.block_on(async move {
        // All of axum's connections count as one: the process ends when the last of them has.
        let guard = drain.guard();
        let drained = async move { _ = drain.changed(Phase::Serving).await };
        tokio::spawn(async move {
            let served = axum::serve(listener, app).with_graceful_shutdown(drained).await;
            drop(guard);
            served
        });
        driver.run_with(generation.ready()).await
    }))
}

struct Front(Listener);

impl axum::serve::Listener for Front {
    type Io = TcpStream;
    type Addr = ();

    async fn accept(&mut self) -> (TcpStream, ()) {
        while let Some(accepted) = self.0.accept().await {
            if let Ok(stream) = accepted.into_tcp().and_then(|(stream, _)| TcpStream::from_std(stream)) {
                return (stream, ());
            }
        }
        // This generation accepts no more; axum is about to learn of it, too.
        std::future::pending().await
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}
