//! A connection after a switch of protocols: in the hands of a handler, or of a registered protocol, until they leave it.

use std::io;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use async_io::Timer;
use futures_lite::FutureExt;
use http_types::upgrade::{Connection as Stream, Sender as StreamSender};
use restart_core::moves::Leave;

use super::state::{Closed, Connection, State};
use crate::http::handler::Handler;
use crate::http::lifetime::{Reason, UnderWay};
use crate::http::upgrade::{Switching, Upgraded};
use crate::waits::Kind;

/// A protocol that leaves for nothing is called again after so long.
const CALLED_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The most bytes that move with a protocol: its state, and what was received and not used. What carries them is bounded.
const LEFT_BYTES_MAX: usize = 48 * 1024;

impl<H: Handler> Connection<'_, H> {
    /// Leaves the connection to whoever receives it as a stream, until the stream is dropped.
    pub(super) async fn upgraded(&mut self, receiver: StreamSender) -> State {
        self.becomes(Kind::Upgraded);
        let (held, dropped) = smol::channel::bounded(1);
        let stream = Upgraded::new(&self.wire, self.context.own_drain(), self.whose(), (false, None), Some(held));
        receiver.send(Stream::new(stream)).await;
        // Nothing is ever sent: it ends with the stream.
        let _ = dropped.recv().await;
        self.left()
    }

    /// Has a registered protocol serve the connection, until it leaves it.
    pub(super) async fn protocol(&mut self, switching: Switching) -> State {
        let Switching { name, state } = switching;
        (self.fresh, self.waited) = (false, Duration::ZERO);
        if self.entry.is_none() {
            self.enter(Kind::Upgraded, &name, Instant::now());
        }
        self.becomes(Kind::Upgraded);
        let Some(serve) = self.context.moves.protocol_named(&name) else {
            log::error!("no protocol {name:?} is registered in this program; its connection is closed");
            return State::Closed(Closed::AtOnce(Reason::Failed));
        };
        let moves = (self.context.parks, self.declined);
        let stream = Upgraded::new(&self.wire, self.context.own_drain(), self.whose(), moves, None);
        match AssertUnwindSafe(async { serve(stream, state).await }).catch_unwind().await {
            Ok(Leave::Close) => self.left(),
            Ok(Leave::Move { state, unread }) => self.move_protocol(name, state, &unread).await,
            Err(_) => {
                log::error!("the protocol {name:?} panicked; its connection is closed");
                State::Closed(Closed::Lingering(Reason::Broken))
            }
        }
    }

    /// The client's address.
    fn whose(&self) -> Option<String> {
        self.client.clone().or_else(|| self.peer.clone())
    }

    /// Hands a connection over that a protocol has left, or has it called again.
    async fn move_protocol(&mut self, name: String, state: Vec<u8>, unread: &[u8]) -> State {
        self.wire.transport.received().put_back(unread);
        let fits = self.wire.waiting_bytes() + state.len() <= LEFT_BYTES_MAX;
        if self.is_to_move() {
            if fits {
                self.under_way = UnderWay::Protocol(Box::new(Switching { name, state }));
                return State::HandedOver;
            }
            log::warn!(
                "a connection of the protocol {name:?} stays in this process: its state and what it has not used are more \
                 than {LEFT_BYTES_MAX} bytes"
            );
            self.declined = Some(self.context.drain.changes());
        }
        // It may leave again at once, for a reason of its own.
        Timer::after(CALLED_AGAIN_AFTER).await;
        State::Protocol(Box::new(Switching { name, state }))
    }

    /// The end of an upgraded connection that nobody serves any more.
    fn left(&mut self) -> State {
        self.entry = None;
        match self.wire.transport.receive() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(count) if count > 0 => {}
            Ok(_) | Err(_) => return State::Closed(Closed::ByClient),
        }
        State::Closed(Closed::Lingering(Reason::Handler))
    }
}
