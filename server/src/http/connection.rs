//! One connection from its start to its end:
//! `Handshake -> Idle -> Head -> Request -> Response -> Idle | Upgraded | Protocol | HandedOver | Closed`.
//!
//! | state      | what of a request is held             | ends by                                       | parked as |
//! |------------|---------------------------------------|-----------------------------------------------|-----------|
//! | Handshake  | nothing: it is held where TLS is spoken | its last byte, handshake timeout, a phase, plain HTTP | cannot be |
//! | Idle       | nothing, at most half an empty line   | bytes, idle timeout, phase, the client's close | itself   |
//! | Head       | the bytes received of its head        | its last byte, head timeout, a refusal        | Idle, with them read ahead |
//! | Request    | its head, then what it was decoded to, while the handler runs | the handler's answer, a refusal, a client that is gone | cannot be |
//! | Response   | the plan of what is left to be sent   | its last byte, write timeout, a broken body, a client that is gone | Rest, where the client would be waited for and the plan can be told |
//! | Rest       | the plan of what another process left | as Response                                   | itself    |
//! | Upgraded   | nothing; the handler has the stream   | the handler's drop of the stream              | cannot be |
//! | Protocol   | nothing; a registered protocol has the stream | its `Leave`                           | itself, where it says so |
//! | `HandedOver` | what those hold                     | `End::Parked`                                 |           |
//! | Closed     | nothing                               | `End::Server`, `End::Client`                  |           |
//!
//! From a head to the end of its response is one step, which begins in Head.
//!
//! In every state the drain's deadline ends the connection: `End::Server`.
//!
//! Between two messages nothing of a request is anywhere but in the connection's own buffer, so Idle is an exact point.
//! `receiving` waits for requests, `exchange` has them answered, `follow` decides what comes after, `closing` lets the client
//! read the last bytes. The bytes are received by `wire` and sent by `plan`.

mod account;
mod closing;
mod exchange;
mod follow;
mod handshake;
mod receiving;
mod state;
mod upgraded;
mod watch;

use std::pin::{Pin, pin};

use super::handler::{Context, Handler};
use super::lifetime::{End, Reason, Start, UnderWay};
use super::security::{Established, Security};
use state::{Closed, Connection, State};
use watch::Watch;

/// Serves one connection until it ends.
pub async fn serve<H: Handler>(context: &Context<H>, start: Start) -> End {
    let mut connection = match Connection::new(context, start) {
        Ok(connection) => connection,
        Err((reason, requests)) => return End::Server { reason, requests },
    };
    loop {
        match connection.run().await {
            Some(end) => return end,
            None => match connection.park() {
                Ok(end) => return end,
                Err(back) => connection = *back,
            },
        }
    }
}

impl<H: Handler> Connection<'_, H> {
    /// Serves until the connection has ended, or is to be served elsewhere: then nothing is returned.
    async fn run(&mut self) -> Option<End> {
        let drain = &self.context.drain;
        let mut watch = Watch::new(drain);
        let mut state = match std::mem::take(&mut self.under_way) {
            UnderWay::Nothing => self.handshake.take().map_or(State::Idle, State::Handshake),
            UnderWay::Response(mut unfinished) => {
                // Both are needed where the deadline has passed before it goes on.
                self.account = unfinished.account.take();
                self.ends_by_close = unfinished.rest.ends_by_close();
                State::Rest(unfinished)
            }
            UnderWay::Protocol(switching) => State::Protocol(switching),
        };
        loop {
            let over = match &state {
                State::Closed(Closed::ByClient) => {
                    let _ = self.wire.transport.close();
                    return Some(End::Client { requests: self.requests });
                }
                State::Closed(Closed::AtOnce(reason)) => {
                    let _ = self.wire.transport.close();
                    return Some(self.ended(*reason));
                }
                State::HandedOver => return None,
                State::Closed(Closed::Lingering(reason)) => *reason,
                State::Upgraded(_) | State::Protocol(_) => Reason::Upgraded,
                State::Handshake(_) | State::Idle | State::Head | State::Response(_) | State::Rest(_) => {
                    Reason::DrainDeadline
                }
            };
            if matches!(state, State::Head) {
                self.began = watch.take_turns().await;
            }
            let Some(next) = watch.until_over(drain, pin!(self.step(state))).await else {
                if self.ends_by_close {
                    self.wire.transport.reset();
                } else {
                    self.wire.transport.shut_down();
                }
                self.cut_account();
                return Some(self.ended(over));
            };
            state = next;
        }
    }

    /// Goes from one state to the next, from a request right through its response. What serves them is boxed, so that an
    /// idle connection is small.
    async fn step(&mut self, state: State) -> State {
        match state {
            State::Handshake(config) => Box::pin(self.handshake(config)).await,
            State::Idle => self.idle().await,
            State::Head => match self.head().await {
                Ok(length) => self.boxed_exchange(length).await,
                Err(state) => state,
            },
            State::Response(mut answer) => Box::pin(self.response(&mut answer)).await,
            State::Rest(unfinished) => Box::pin(self.finish(*unfinished)).await,
            State::Upgraded(sender) => Box::pin(self.upgraded(sender)).await,
            State::Protocol(switching) => Box::pin(self.protocol(*switching)).await,
            State::Closed(Closed::Lingering(reason)) => {
                self.linger(reason).await;
                State::Closed(Closed::AtOnce(reason))
            }
            last @ (State::HandedOver | State::Closed(_)) => last,
        }
    }

    /// The exchange, made where it stays: the box comes first, so that nothing can fail while it is on the stack, and in a
    /// function of its own. Otherwise all of it, kilobytes, would be copied.
    #[inline(never)]
    fn boxed_exchange(&mut self, length: usize) -> Pin<Box<impl Future<Output = State> + Send>> {
        Box::into_pin(Box::write(Box::new_uninit(), self.exchange(length)))
    }

    /// Takes the connection apart, to be served elsewhere.
    fn park(self) -> Result<End, Box<Self>> {
        match self.wire.into_parts() {
            Ok(Ok((stream, read_ahead, sealed))) => {
                let waited = self.waited + self.waits_since.elapsed();
                let Connection { peer, local, client, listener, tls, requests, under_way, .. } = self;
                let security = match (tls, sealed) {
                    (Some(tls), Some(sealed)) => Security::Established(Box::new(Established { tls, sealed })),
                    _ => Security::Plain,
                };
                let declined = None;
                Ok(End::Parked(Start {
                    stream,
                    peer,
                    local,
                    client,
                    listener,
                    security,
                    read_ahead,
                    requests,
                    waited,
                    under_way,
                    declined,
                }))
            }
            Ok(Err(_)) => Ok(End::Server { reason: Reason::Failed, requests: self.requests }),
            // Somebody reads a body of a request that is over, or writes to a stream, this very moment. Stay, and close later.
            Err(wire) => {
                let declined = Some(self.context.drain.changes());
                Err(Box::new(Connection { wire, declined, ..self }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;
    use std::time::Instant;

    use http_types::{Request, Response};
    use restart_core::Drain;

    use super::watch::TURN;
    use super::*;

    #[test]
    fn a_client_that_pipelines_gives_way_to_others_when_its_turn_is_over() {
        let handled = AtomicUsize::new(0);
        let handler = |_| {
            handled.fetch_add(1, Ordering::Relaxed);
            let begun = Instant::now();
            while begun.elapsed() < TURN {}
            async { Ok(Response::new(200)) }
        };
        let context = Context::new(handler, Drain::new());
        let (stream, mut client) = UnixStream::pair().expect("a pair");
        client.write_all(&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(10)).expect("room");
        let mut serving = pin!(serve(&context, Start::new(stream, None)));
        let mut task = std::task::Context::from_waker(Waker::noop());
        for turn in 1..=10 {
            assert!(serving.as_mut().poll(&mut task).is_pending());
            assert_eq!(handled.load(Ordering::Relaxed), turn);
        }
    }

    #[test]
    fn an_idle_connection_is_small() {
        async fn answer(_: Request) -> http_types::Result<Response> {
            Ok(Response::new(200))
        }
        let context = Context::new(answer, Drain::new());
        let (stream, _) = UnixStream::pair().expect("a pair");
        let size = size_of_val(&serve(&context, Start::new(stream, None)));
        assert!(size <= 1024, "{size} bytes");
    }
}
