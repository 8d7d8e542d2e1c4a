//! A gRPC server that is replaced while it serves: each call that began is answered, whichever process has it, and clients
//! whose calls have no end are told to call again. It is the health service of tonic's, with `Check` and `Watch`.
//!
//!     cargo run -p restart-core --example tonic
//!     cargo run -p restart-core --example tonic -- reload

use std::time::Duration;

use restart_core::{Phase, axum::Program};
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::health_reporter};

fn main() -> std::process::ExitCode {
    Program::new("tonic-example").listen("grpc=127.0.0.1:50051").run(async |generation| {
        let (mut reporter, health) = health_reporter();
        reporter.set_service_status("shop", ServingStatus::Serving).await;
        let (drain, mut phase) = (generation.drain(), Phase::Serving);
        tokio::spawn(async move {
            // A watch has no end, and would keep this process: it ends once its client knows that it has to connect anew.
            // Where the drain is called off, there are watches again.
            loop {
                phase = drain.changed(phase).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                match phase {
                    Phase::Serving => reporter.set_service_status("shop", ServingStatus::Serving).await,
                    _ => reporter.clear_service_status("shop").await,
                }
            }
        });
        Ok(Routes::new(health).prepare().into_axum_router())
    })
}
