//! A gRPC server that is replaced while it serves: each call that began is answered by the process that has it, and calls
//! without an end stay there, up to the drain timeout. It is the health service of tonic's, with `Check` and `Watch`.
//!
//!     cargo run -p restart-core --example tonic
//!     cargo run -p restart-core --example tonic -- reload

use restart_core::axum::Program;
use tonic::service::Routes;
use tonic_health::{ServingStatus, server::health_reporter};

fn main() -> std::process::ExitCode {
    Program::new("tonic-example").listen("grpc=127.0.0.1:50051").run(async |_| {
        let (reporter, health) = health_reporter();
        reporter.set_service_status("shop", ServingStatus::Serving).await;
        Ok(Routes::new(health).prepare().into_axum_router())
    })
}
