//! The handshake of a connection on which TLS is to be spoken: from its first byte to the last before the first request.
//!
//! It has a time for the whole, and a place of a bounded number from its first byte on. It is held on the threads that
//! serve: a signature takes them a tenth of a millisecond with a key of an elliptic curve, and up to one with RSA, less
//! than a way to another thread and back is worth. Others have their turn after each.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_lite::FutureExt;
use futures_lite::future::yield_now;
use rustls::ServerConfig;

use super::state::{Closed, Connection, State};
use crate::http::handler::Handler;
use crate::http::lifetime::Reason;
use crate::http::message::refusal::Refusal;
use crate::http::security::{Handshakes, Tls};
use crate::http::shutdown::stopping;
use crate::http::timer::Timer;
use crate::http::transport::Transport;
use crate::http::transport::tls::handshake::{Established, Handshake, Progress};
use crate::http::transport::tls::keys::Version;

/// A handshake that has had its place for less than this keeps it.
const PLACE_MIN: Duration = Duration::from_secs(1);

const PLAIN_HTTP: Refusal =
    Refusal::bad("this port speaks HTTPS, and plain HTTP came; write https:// before the address");

/// How a handshake ended.
enum Ended {
    Done(Box<Established>),
    PlainHttp,
    /// It failed, and the client was told.
    Failed,
    Gone,
    Late,
    Crowded,
    Stopping,
}

impl<H: Handler> Connection<'_, H> {
    /// Holds the handshake.
    pub(super) async fn handshake(&mut self, config: Arc<ServerConfig>) -> State {
        let context = self.context;
        let handshakes = &*context.handshakes;
        self.deadline.set(handshakes.timeout());
        let (transport, deadline) = (&self.wire.transport, &mut self.deadline);
        let late = async {
            poll_fn(|task| deadline.poll(task)).await;
            Ended::Late
        };
        let ended = shake_hands(transport, handshakes, &config)
            .or(late)
            .or(async {
                context.capacity.called_late().await;
                Ended::Crowded
            })
            .or(async {
                stopping(&context.drain).await;
                Ended::Stopping
            })
            .await;
        let counted = match &ended {
            Ended::Done(established) if established.resumed => &handshakes.resumed,
            Ended::Done(_) => &handshakes.done,
            Ended::PlainHttp => &handshakes.plain,
            Ended::Failed | Ended::Gone => &handshakes.failed,
            Ended::Late => &handshakes.late,
            Ended::Crowded => &handshakes.crowded,
            Ended::Stopping => &handshakes.stopped,
        };
        counted.fetch_add(1, Ordering::Relaxed);
        match ended {
            Ended::Done(established) => self.secure(*established),
            Ended::PlainHttp => self.refuse(PLAIN_HTTP),
            Ended::Failed => State::Closed(Closed::Lingering(Reason::Handshake)),
            Ended::Gone => State::Closed(Closed::ByClient),
            Ended::Late => State::Closed(Closed::AtOnce(Reason::Handshake)),
            Ended::Crowded => State::Closed(Closed::AtOnce(Reason::Crowded)),
            Ended::Stopping => State::Closed(Closed::AtOnce(Reason::Stopping)),
        }
    }

    /// Speaks TLS from now on.
    fn secure(&mut self, established: Established) -> State {
        let Established { records, alpn, server_name, suite_name, resumed } = established;
        let version = match records.suite().version {
            Version::Tls12 => "TLSv1.2",
            Version::Tls13 => "TLSv1.3",
        };
        // The registry has the suites of TLS 1.3 without their version.
        let suite = suite_name.unwrap_or_default().replacen("TLS13_", "TLS_", 1);
        log::debug!("a TLS handshake is done: {version}, {suite}, {alpn:?}, for {server_name:?}, resumed: {resumed}");
        self.tls = Some(Tls::new(version, suite, server_name, resumed));
        // No request has been, so nobody else holds it.
        let Some(wire) = Arc::get_mut(&mut self.wire) else { return State::Closed(Closed::AtOnce(Reason::Failed)) };
        wire.transport.secure(records);
        State::Idle
    }
}

/// Exchanges what has to be exchanged, once the client has begun and there is a place for it.
async fn shake_hands(transport: &Transport, handshakes: &Handshakes, config: &ServerConfig) -> Ended {
    // The first bytes may have come with a PROXY header. Else they are asked for on trust; what answers us has to make its
    // way first.
    let has_begun = !transport.received().is_empty();
    if !has_begun && !receive(transport, true).await {
        return Ended::Gone;
    }
    // It may wait long for its place, and so may as many as there is room for connections.
    transport.received().settle();
    let _place = handshakes.enter().await;
    let wanted = async {
        Timer::after(PLACE_MIN).await;
        handshakes.call().await;
        Ended::Crowded
    };
    let exchange = async {
        let mut handshake = match Handshake::new(config) {
            Ok(handshake) => handshake,
            Err(error) => {
                log::error!("a TLS handshake cannot begin: {error}; the connection is closed");
                return Ended::Failed;
            }
        };
        loop {
            let mut out = Vec::new();
            let progress = {
                let received = &mut transport.received();
                let (used, progress) = handshake.feed(received.filled(), &mut out);
                received.consume(used);
                received.settle();
                progress
            };
            // Where the client takes nothing any more, what it sends next says how it ends.
            let told = send(transport, &out).await;
            match progress {
                Progress::Waits(further) => handshake = further,
                Progress::Done(established) if told => return Ended::Done(established),
                Progress::Done(_) => return Ended::Gone,
                Progress::PlainHttp => return Ended::PlainHttp,
                Progress::Failed(refusal) => {
                    log::debug!("{refusal}");
                    return Ended::Failed;
                }
            }
            // It may have taken a signature.
            yield_now().await;
            if !receive(transport, false).await {
                return Ended::Gone;
            }
        }
    };
    exchange.or(wanted).await
}

/// Waits for bytes, which may be there already without a report of it. Returns whether some came.
async fn receive(transport: &Transport, mut at_once: bool) -> bool {
    loop {
        if !std::mem::take(&mut at_once) {
            poll_fn(|task| transport.poll_readable(task)).await;
        }
        match transport.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received.is_ok_and(|count| count > 0),
        }
    }
}

/// Sends all of it. Returns whether it left.
async fn send(transport: &Transport, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match transport.send([bytes, b""]) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll_fn(|task| transport.poll_writable(task)).await;
            }
            Err(_) => return false,
        }
    }
    true
}
