//! A line echo server on smol whose live connections move to the next generation, each with the count of its lines.
//!
//! `cargo run -p restart-core --example echo -- 127.0.0.1:7000`, talk to it with `nc 127.0.0.1 7000`, and have it replaced
//! by the same command with `reload` in place of the address.

use std::net::TcpStream;
use std::os::fd::OwnedFd;

use restart_core::{Builder, Connection, Connections, Drain, Endpoint, Error, Exit, Guard, Phase, Phases, cli};
use smol::Async;
use smol::io::{AsyncReadExt, AsyncWriteExt};

const LINE_BYTES_MAX: usize = 16 * 1024;
/// What one has to know in order to go on with a connection: how `Client` is packed.
const FORMAT: &str = "echo/1";

fn main() -> Result<Exit, Error> {
    let serve = cli::obey("echo");
    let address = serve.arguments.first().map_or("127.0.0.1:7000", String::as_str);
    let builder = Builder::new().listen(Endpoint::parse(address, "echo")?).control(serve.control);
    let (generation, driver) = builder.take_connections([FORMAT]).start()?;
    let listener = generation.listener("echo")?;
    let server = Server { number: generation.number(), drain: generation.drain(), way: generation.connections() };
    let (accepting, taking) = (server.clone(), server);
    smol::spawn(async move {
        while let Some(accepted) = listener.accept().await {
            smol::spawn(accepting.clone().serve(accepted.fd, Client::default(), accepted.guard)).detach();
        }
    })
    .detach();
    smol::spawn(async move {
        loop {
            let Connection { fd, blob, guard, .. } = taking.way.take().await;
            smol::spawn(taking.clone().serve(fd, Client::unpack(&blob), guard)).detach();
        }
    })
    .detach();
    Ok(smol::block_on(driver.run_with(generation.ready())))
}

#[derive(Clone)]
struct Server {
    number: u64,
    drain: Drain,
    way: Connections,
}

/// What is known of a client: how many lines it has sent, and what was received of the next ones.
#[derive(Default)]
struct Client {
    lines: u64,
    unread: Vec<u8>,
}

impl Client {
    fn pack(&self) -> Vec<u8> {
        [&self.lines.to_le_bytes(), &*self.unread].concat()
    }

    fn unpack(blob: &[u8]) -> Client {
        blob.split_first_chunk().map_or_else(Client::default, |(lines, unread)| Client {
            lines: u64::from_le_bytes(*lines),
            unread: unread.to_vec(),
        })
    }
}

impl Server {
    /// Serves a connection until its client ends it or it has moved on.
    async fn serve(self, mut fd: OwnedFd, mut client: Client, mut guard: Guard) {
        let mut phases = self.drain.phases();
        loop {
            let Ok(stream) = Async::new(TcpStream::from(fd)) else { return };
            // With an error, or at its end, the connection is over; a stop ends it where it stands.
            let Ok(Phase::Draining) = self.echo(&stream, &mut client, &mut phases).await else { return };
            // No event loop may watch it any more when it leaves.
            let Ok(stream) = stream.into_inner() else { return };
            match self.way.offer(Connection::new([FORMAT], stream.into(), client.pack(), guard)).await {
                Ok(_guard) => return,
                // Nobody takes it, so this generation serves it up to the deadline, or to the next drain.
                Err(back) => (fd, guard) = (back.fd, back.guard),
            }
        }
    }

    /// Answers each line with this generation's number, the line's, and the line, until the phase is set to another one
    /// than to serve. That is looked at between two reads only, when nothing is half done.
    async fn echo(
        &self,
        mut stream: &Async<TcpStream>,
        client: &mut Client,
        phases: &mut Phases,
    ) -> std::io::Result<Phase> {
        let mut part = [0; 1024];
        loop {
            while let Some(end) = client.unread.iter().position(|byte| *byte == b'\n') {
                client.lines += 1;
                let line: Vec<u8> = client.unread.drain(..=end).collect();
                let prefix = format!("{} {} ", self.number, client.lines);
                stream.write_all(&[prefix.as_bytes(), &line].concat()).await?;
            }
            match phases.until_change(stream.read(&mut part)).await {
                Ok(Ok(count)) if count > 0 && client.unread.len() < LINE_BYTES_MAX => {
                    client.unread.extend_from_slice(&part[..count]);
                }
                Ok(Ok(_)) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(Err(error)) => return Err(error),
                // The drain was called off: it goes on.
                Err(Phase::Serving) => {}
                Err(phase) => return Ok(phase),
            }
        }
    }
}
