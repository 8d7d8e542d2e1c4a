//! What of a program's own can go on in another process, as responses say it.

use http_types::Response;

use super::plan::stream::streaming;
use super::upgrade::{Switching, Upgraded};

/// The streams and the protocols of a program, by name ([`moves`](restart_core::moves)).
pub type Moves = restart_core::moves::Moves<Upgraded>;

/// What is wrong with a response that wants what is not registered, if anything is.
pub(super) fn check(moves: &Moves, response: &Response) -> Result<(), &'static str> {
    let stream = streaming(response).and_then(|stream| Some(stream.value().as_ref()?.name.clone()));
    if stream.is_some_and(|name| !moves.has_stream(&name)) {
        return Err("a stream that is not registered");
    }
    let switching = response.ext().get::<Switching>();
    if switching.is_some_and(|switching| !moves.has_protocol(&switching.name)) {
        return Err("a switch to a protocol that is not registered");
    }
    Ok(())
}
