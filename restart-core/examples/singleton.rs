//! A job that only one process may do, by whichever is the main one: here it notes the time in a log, once a second. A
//! reload hands it on, between two of its steps, and where the new process dies the old one takes it up again.
//!
//!     cargo run -p restart-core --example singleton
//!     cargo run -p restart-core --example singleton -- reload

use std::convert::Infallible;
use std::time::Duration;

use restart_core::{Builder, Error, Exit, Generation, Phase, cli};

fn main() -> Result<Exit, Error> {
    let serve = cli::obey("singleton-example");
    let (generation, driver) = Builder::new().control(serve.control).start()?;
    let work = work(generation.clone());
    let ends = driver.run_with(generation.ready());
    // The job ends with the process that it is done in.
    Ok(smol::block_on(smol::future::or(ends, async { match work.await {} })))
}

async fn work(generation: Generation) -> Infallible {
    let drain = generation.drain();
    loop {
        generation.committed().await;
        println!("generation {} has the job", generation.number());
        while drain.phase() == Phase::Serving {
            smol::Timer::after(Duration::from_secs(1)).await;
            println!("generation {} is at work", generation.number());
        }
        println!("generation {} has given it up", generation.number());
        drain.changed(drain.phase()).await;
    }
}
