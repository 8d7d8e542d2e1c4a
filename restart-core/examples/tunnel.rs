//! A TCP forwarder whose tunnels move to the next generation in the middle of whatever flows through them.
//!
//! `cargo run -p restart-core --example tunnel -- 127.0.0.1:7000 127.0.0.1:22`, go through it with
//! `ssh -p 7000 127.0.0.1`, and have it replaced by `cargo run -p restart-core --example tunnel -- reload`.
//!
//! It is the model of a protocol that moves in the middle: all that is known of a connection stands in one value
//! (`Tunnel`) whenever its work waits. So the work can be dropped there, the value packed, and the work begun anew with
//! what was unpacked, in the next process or, where nobody takes it, in this one.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use restart_core::{
    Accepted, BLOB_BYTES_MAX, Builder, Connection, Connections, Drain, Endpoint, Exit, Guard, Phase, cli,
};
use rustix::net::sockopt::{set_socket_keepalive, set_socket_linger};
use smol::{Async, Timer, future};

/// What one has to know in order to go on with a tunnel: how `Tunnel` is packed, and that its companion is the socket
/// to the target.
const FORMAT: &str = "tunnel/1";
/// So much of either direction may be read before it is written.
const UNSENT_BYTES_MAX: usize = 16 * 1024;
const HEAD_BYTES: usize = 4;
const _: () = assert!(HEAD_BYTES + 2 * UNSENT_BYTES_MAX <= BLOB_BYTES_MAX, "a tunnel can always move");
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<Exit, Box<dyn std::error::Error>> {
    let serve = cli::obey("tunnel");
    let mut addresses = serve.arguments.iter().map(String::as_str);
    let address = addresses.next().unwrap_or("127.0.0.1:7000");
    let target = addresses.next().unwrap_or("127.0.0.1:22").parse()?;
    let builder = Builder::new().listen(Endpoint::parse(address, "tunnel")?).control(serve.control);
    let (generation, driver) = builder.take_connections([FORMAT]).start()?;
    let listener = generation.listener("tunnel")?;
    let forwarder = Forwarder { target, drain: generation.drain(), way: generation.connections() };
    let (accepting, taking) = (forwarder.clone(), forwarder);
    smol::spawn(async move {
        while let Some(accepted) = listener.accept().await {
            smol::spawn(accepting.clone().begin(accepted)).detach();
        }
    })
    .detach();
    smol::spawn(async move {
        loop {
            if let Ok(tunnel) = Tunnel::unpack(taking.way.take().await) {
                smol::spawn(taking.clone().serve(tunnel)).detach();
            }
        }
    })
    .detach();
    Ok(smol::block_on(driver.run_with(generation.ready())))
}

#[derive(Clone)]
struct Forwarder {
    target: SocketAddr,
    drain: Drain,
    way: Connections,
}

impl Forwarder {
    /// Serves a new client. One for whom the target cannot be reached is closed.
    async fn begin(self, client: Accepted) {
        if let Ok(tunnel) = self.connect(client).await {
            self.serve(tunnel).await;
        }
    }

    /// Makes a client's tunnel. It begins here, whatever the phase is, and may move as soon as it is whole.
    async fn connect(&self, client: Accepted) -> io::Result<Tunnel> {
        let (client, guard) = client.into_tcp()?;
        let late = async {
            Timer::after(CONNECT_TIMEOUT).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let upstream = future::or(Async::<TcpStream>::connect(self.target), late).await?;
        let client = Async::new(client)?;
        for stream in [&client, &upstream] {
            stream.get_ref().set_nodelay(true)?;
            // Nothing else would ever end a tunnel whose one end has vanished.
            set_socket_keepalive(stream, true)?;
        }
        Ok(Tunnel { client, upstream, up: Flow::default(), down: Flow::default(), guard })
    }

    /// Forwards until both directions have ended or the tunnel has moved on.
    async fn serve(self, mut tunnel: Tunnel) {
        let mut phases = self.drain.phases();
        loop {
            match phases.until_change(tunnel.forward()).await {
                Ok(Ok(())) => return,
                Ok(Err(_)) | Err(Phase::Over) => return tunnel.reset(),
                // At a stop it may end by itself up to the deadline.
                Err(Phase::Serving | Phase::Stopping) => {}
                Err(Phase::Draining) => {
                    let Ok(connection) = tunnel.pack() else { return };
                    let Err(back) = self.way.offer(connection).await else { return };
                    // Nobody takes it, so it goes on here.
                    let Ok(unpacked) = Tunnel::unpack(back) else { return };
                    tunnel = unpacked;
                }
            }
        }
    }
}

/// A client, the connection to the target that was made for it, and what is under way between them.
struct Tunnel {
    client: Async<TcpStream>,
    upstream: Async<TcpStream>,
    up: Flow,
    down: Flow,
    guard: Guard,
}

impl Tunnel {
    async fn forward(&mut self) -> io::Result<()> {
        let Tunnel { client, upstream, up, down, .. } = self;
        future::try_zip(up.forward(client, upstream), down.forward(upstream, client)).await.map(drop)
    }

    /// Ends it so that neither side can take what has come for the whole.
    fn reset(self) {
        for stream in [&self.client, &self.upstream] {
            // What fails here is closed in the usual way.
            let _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
    }

    /// Makes it ready to leave. No event loop may watch its sockets any more then.
    fn pack(self) -> io::Result<Connection> {
        let Tunnel { client, upstream, up, down, guard } = self;
        let [low, high] = u16::try_from(up.unsent.len()).map_err(io::Error::other)?.to_le_bytes();
        let head: [u8; HEAD_BYTES] = [up.end as u8, down.end as u8, low, high];
        let blob = [&head, &*up.unsent, &*down.unsent].concat();
        let connection = Connection::new([FORMAT], client.into_inner()?.into(), blob, guard);
        Ok(connection.with_companion(upstream.into_inner()?.into()))
    }

    /// Takes up what `pack` has made, here or in another process. One that cannot be read is closed.
    fn unpack(connection: Connection) -> io::Result<Tunnel> {
        let Connection { fd, companions, blob, guard, .. } = connection;
        let (client, companions) = (TcpStream::from(fd), <[_; 1]>::try_from(companions));
        let read = blob.split_first_chunk().and_then(|(&[up, down, low, high], unsent)| {
            let (up_unsent, down_unsent) = unsent.split_at_checked(u16::from_le_bytes([low, high]).into())?;
            Some((Flow::new(up, up_unsent)?, Flow::new(down, down_unsent)?))
        });
        let (Some((up, down)), Ok([upstream])) = (read, companions) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        Ok(Tunnel { client: Async::new(client)?, upstream: Async::new(upstream.into())?, up, down, guard })
    }
}

/// How far the end of a direction has come.
#[derive(Clone, Copy, Default, PartialEq)]
enum End {
    #[default]
    NotYet = 0,
    /// The one side has sent it, and some bytes before it are not written yet.
    Read = 1,
    PassedOn = 2,
}

/// What is under way in one direction.
#[derive(Default)]
struct Flow {
    /// Read and not written.
    unsent: Vec<u8>,
    end: End,
}

impl Flow {
    fn new(end: u8, unsent: &[u8]) -> Option<Flow> {
        let end = [End::NotYet, End::Read, End::PassedOn].into_iter().find(|known| *known as u8 == end)?;
        Some(Flow { unsent: unsent.to_vec(), end })
    }

    /// Forwards up to the end. It may be dropped wherever it waits: a byte that has left the one socket stands in
    /// `unsent` until the other one has it. Nothing more is read before that, so a slow side slows the other one down.
    async fn forward(&mut self, from: &Async<TcpStream>, to: &Async<TcpStream>) -> io::Result<()> {
        while self.end != End::PassedOn {
            if !self.unsent.is_empty() {
                let count = to.write_with(|mut to| to.write(&self.unsent)).await?;
                self.unsent.drain(..count);
                // Both sides may be ready for ever; other tunnels want a turn, and a change of phase to be seen.
                future::yield_now().await;
            } else if self.end == End::Read {
                to.get_ref().shutdown(Shutdown::Write)?;
                self.end = End::PassedOn;
            } else {
                // Read and kept in one step, within which nothing can be dropped.
                let read = |mut from: &TcpStream| {
                    let mut part = [0; UNSENT_BYTES_MAX];
                    let count = from.read(&mut part)?;
                    self.unsent.extend_from_slice(&part[..count]);
                    Ok(count)
                };
                if from.read_with(read).await? == 0 {
                    self.end = End::Read;
                }
            }
        }
        Ok(())
    }
}
