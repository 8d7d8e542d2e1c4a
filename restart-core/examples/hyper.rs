//! A hyper server on tokio whose idle connections move to the next generation, as are those that a request has kept. Any
//! tower service is one as well (`hyper_util::service::TowerToHyperService`).
//!
//!     cargo run -p restart-core --example hyper
//!     cargo run -p restart-core --example hyper -- reload

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use restart_core::hyper::{Moves, RequestBody, Server};
use restart_core::{Builder, Endpoint, Exit, cli};

fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let serve = cli::obey("hyper-example"); // ends here for `reload`, `status` and `stop`
    let address = serve.arguments.first().map_or("127.0.0.1:8080", String::as_str);
    let builder = Builder::new().listen(Endpoint::parse(address, "http")?).control(serve.control);
    let moves = Moves::new();
    // Before the runtime: start() has to come before any thread.
    let (generation, driver) = builder.take_connections(moves.formats()).start()?;
    let number = generation.number();
    let service = service_fn(move |request| answer(number, request));
    let server = Server::new(&generation, moves, service);
    Ok(tokio::runtime::Runtime::new()?.block_on(driver.run_with(async {
        server.spawn(&generation);
        generation.ready().await
    })))
}

async fn answer(number: u64, request: Request<RequestBody>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() == "/slow" {
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    Ok(Response::new(Full::from(format!("generation {number} answers {}\n", request.uri().path()))))
}
