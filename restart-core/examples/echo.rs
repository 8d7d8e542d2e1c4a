//! A line echo server on smol that is replaced while it serves.
//!
//! `cargo run -p restart-core --example echo -- 127.0.0.1:7000`, then `kill -HUP` it.

use restart_core::{Accepted, Builder, Endpoint, Error, Phase};
use smol::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use smol::{Async, future};

fn main() -> Result<(), Error> {
    let address = std::env::args().skip(1).find(|arg| arg != "-g").unwrap_or("127.0.0.1:7000".to_owned());
    let generation = Builder::new().listen(Endpoint::new("echo", address.parse()?)?).start()?;
    let (listener, drain) = (generation.listener("echo")?, generation.drain());
    let number = generation.number();
    smol::spawn(async move {
        while let Ok(accepted) = listener.accept().await {
            let drained = drain.changed(Phase::Serving);
            smol::spawn(future::or(echo(accepted, number), async move {
                drained.await;
                Ok(())
            }))
            .detach();
        }
    })
    .detach();
    smol::block_on(generation.run());
    Ok(())
}

/// Answers each line with the generation's number and the line itself.
async fn echo(accepted: Accepted, number: u64) -> std::io::Result<()> {
    let (stream, _guard) = accepted.into_tcp()?;
    let mut stream = BufReader::new(Async::new(stream)?);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        stream.get_mut().write_all(format!("{number} {line}").as_bytes()).await?;
        line.clear();
    }
    Ok(())
}
