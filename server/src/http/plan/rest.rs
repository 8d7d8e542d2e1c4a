//! What is left of a response, described so that another process can go on with it.
//!
//! What is left in memory and small is described by its bytes; what is large goes to a file in memory, so that it can
//! travel as a descriptor. A position is what the transport has taken: nothing is sent twice, and nothing left out.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use futures_lite::future::yield_now;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use super::body_file::{BodyFile, Claim};
use super::content::{Content, Piece};
use super::source::{Plan, Source};
use crate::http::moves::Moves;

/// So many bytes may be described by themselves: of what was gathered, of the pieces between those of a file, of a state.
pub(crate) const DESCRIBED_BYTES_MAX: usize = 16 * 1024;

/// After so many bytes others get their turn.
const TURN_BYTES: usize = 256 * 1024;

/// What is left of a response.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// The bytes that leave next, framed.
    pub(crate) unsent: Vec<u8>,
    pub(crate) tail: Tail,
}

impl Rest {
    /// Whether only the connection's end says where the response ends.
    pub(crate) fn ends_by_close(&self) -> bool {
        matches!(self.tail, Tail::Stream { chunked: false, .. })
    }
}

/// What comes after the bytes that leave next.
#[derive(Debug, Default)]
pub(crate) enum Tail {
    #[default]
    Nothing,
    /// Pieces of memory and of a file.
    Content { file: Option<Arc<BodyFile>>, pieces: Vec<Piece> },
    /// A registered stream, with the state that its next step is made from. In chunks, or else it ends with the connection.
    Stream { name: Arc<str>, state: Vec<u8>, chunked: bool },
}

impl Plan {
    /// Whether it can be said now what is left of it.
    pub(super) fn can_move(&mut self) -> bool {
        let gathered = self.out.filled().len();
        match &mut self.source {
            // The last bytes of what ends with the connection: who goes on could not tell it from what has a length.
            Source::Empty if self.ends_by_close => false,
            Source::Empty => Plan::has_room(gathered),
            Source::Content(content) => {
                self.ours + content.described_bytes((gathered - self.ours) as u64) <= DESCRIBED_BYTES_MAX
            }
            Source::Stream { stream, .. } => gathered + stream.state().len() <= DESCRIBED_BYTES_MAX,
            // Where not all of it is at hand, the handler is needed for the rest.
            Source::Length { left, .. } => {
                let left = *left;
                let at_hand = Plan::at_hand(&mut self.source).map_or(0, <[u8]>::len);
                at_hand as u64 == left && Plan::has_room(gathered + at_hand)
            }
            Source::Unknown { .. } | Source::Failed(_) => false,
        }
    }

    /// Whether so many bytes of memory can travel: few by themselves, more in a file in memory, of which there are so many.
    fn has_room(bytes: usize) -> bool {
        bytes <= DESCRIBED_BYTES_MAX || Claim::is_free(bytes as u64)
    }

    /// Says what is left of a plan that [can move](Plan::can_move). The plan comes back where that fails.
    pub(crate) async fn into_rest(mut self) -> Result<Rest, (Plan, io::Error)> {
        let gathered = self.out.filled();
        match self.source {
            Source::Content(mut content) => {
                content.stop_reading().await;
                let (file, pieces) = content.rest((gathered.len() - self.ours) as u64);
                let tail = if pieces.is_empty() { Tail::Nothing } else { Tail::Content { file, pieces } };
                Ok(Rest { unsent: gathered[..self.ours].to_vec(), tail })
            }
            Source::Stream { stream, chunked } => {
                let unsent = gathered.to_vec();
                let (name, state) = stream.into_parts();
                Ok(Rest { unsent, tail: Tail::Stream { name, state, chunked } })
            }
            _ => match in_memory(&mut self).await {
                Ok(rest) => Ok(rest),
                Err(error) => Err((self, error)),
            },
        }
    }

    /// Goes on with what is left of a response. It fails where a stream's name is not known here.
    pub(crate) fn resume(rest: Rest, moves: &Moves) -> io::Result<Plan> {
        let ends_by_close = rest.ends_by_close();
        let source = match rest.tail {
            Tail::Nothing => Source::Empty,
            Tail::Content { file, pieces } => Source::Content(Box::new(Content::shared(file, pieces))),
            Tail::Stream { name, state, chunked } => {
                let stream = moves.steps(&name, state).ok_or_else(|| unknown(&name))?;
                Source::Stream { stream, chunked }
            }
        };
        let mut plan = Plan { source, ..Plan::default() };
        plan.out.extend(&rest.unsent);
        plan.ours = rest.unsent.len();
        plan.ends_by_close = ends_by_close;
        Ok(plan)
    }
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no stream {name:?} is registered in this program"))
}

/// What is left of a plan that has it all in memory.
async fn in_memory(plan: &mut Plan) -> io::Result<Rest> {
    let gathered = plan.out.filled().to_vec();
    let at_hand = Plan::at_hand(&mut plan.source)?;
    if gathered.len() + at_hand.len() <= DESCRIBED_BYTES_MAX {
        return Ok(Rest { unsent: [&gathered, at_hand].concat(), tail: Tail::Nothing });
    }
    let length = (gathered.len() + at_hand.len()) as u64;
    let claim = Claim::take(length).ok_or_else(|| {
        io::Error::new(io::ErrorKind::OutOfMemory, "bodies of memory that have moved take up all that they may")
    })?;
    let mut file = File::from(memfd_create("response", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.write_all(&gathered)?;
    let mut done = 0;
    loop {
        let at_hand = Plan::at_hand(&mut plan.source)?;
        let Some(bytes) = at_hand.get(done..).filter(|bytes| !bytes.is_empty()) else { break };
        let count = bytes.len().min(TURN_BYTES);
        file.write_all(&bytes[..count])?;
        done += count;
        yield_now().await;
    }
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    let pieces = vec![Piece::File(0..length)];
    let file = BodyFile { file, claim: Some(claim) };
    Ok(Rest { unsent: Vec::new(), tail: Tail::Content { file: Some(Arc::new(file)), pieces } })
}
