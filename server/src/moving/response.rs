//! What is left of a response, described: the format `response/1`, and with it that of each stream.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat};
use serde::{Deserialize, Serialize};

use super::fields::{Sections, append, millis};
use crate::http::observe::Account;
use crate::http::plan::body_file::{BodyFile, Claim};
use crate::http::plan::rest::{Rest, Tail};
use crate::http::{Piece, Reason, Unfinished};

/// What is left of a response. Numbers named `bytes` are lengths of what stands behind the description, in this order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ResponseDescription {
    unsent_bytes: usize,
    tail: TailDescription,
    /// Why the connection closes after it, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    close: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<AccountDescription>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum TailDescription {
    Nothing,
    Content(Vec<PieceDescription>),
    Stream { name: String, state_bytes: usize, chunked: bool },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PieceDescription {
    MemoryBytes(usize),
    /// From where to where in the file that travels with the connection.
    File(u64, u64),
}

#[derive(Debug, Serialize, Deserialize)]
struct AccountDescription {
    began_ms: u64,
    line_bytes: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    referer_bytes: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user_agent_bytes: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    status: u16,
    sent: u64,
    head: u64,
}

impl ResponseDescription {
    /// Describes what is left, adds the bytes that belong to it to `bytes`, and gives the file that does.
    pub(super) fn of(unfinished: Unfinished, bytes: &mut Vec<u8>) -> (ResponseDescription, Option<BodyFile>) {
        let Unfinished { rest: Rest { unsent, tail }, close, account } = unfinished;
        let unsent_bytes = append(bytes, &unsent);
        let (tail, file) = match tail {
            Tail::Nothing => (TailDescription::Nothing, None),
            Tail::Content { file, pieces } => {
                let describe = |piece: &Piece| match piece {
                    Piece::Memory(memory) => PieceDescription::MemoryBytes(append(bytes, memory)),
                    Piece::File(range) => PieceDescription::File(range.start, range.end),
                };
                (TailDescription::Content(pieces.iter().map(describe).collect()), file)
            }
            Tail::Stream { name, state, chunked } => {
                let state_bytes = append(bytes, &state);
                (TailDescription::Stream { name: name.to_string(), state_bytes, chunked }, None)
            }
        };
        let account = account.map(|account| AccountDescription::of(&account, bytes));
        // Nobody else reads from it any more: whoever left the response waited for that.
        let file = file.and_then(Arc::into_inner);
        let close = close.map(|reason| reason.to_string());
        (ResponseDescription { unsent_bytes, tail, close, account }, file)
    }

    /// Reads what is left, from the bytes that belong to it and the file that does.
    pub(super) fn read(self, bytes: &mut Sections<'_>, file: Option<OwnedFd>) -> Result<Unfinished, String> {
        let unsent = bytes.take(self.unsent_bytes)?.to_vec();
        let tail = match self.tail {
            TailDescription::Nothing => Tail::Nothing,
            TailDescription::Content(pieces) => {
                let pieces: Vec<Piece> = pieces.into_iter().map(|piece| piece.read(bytes)).collect::<Result<_, _>>()?;
                let file = file.map(plain_file).transpose()?;
                if file.is_none() && pieces.iter().any(|piece| matches!(piece, Piece::File(_))) {
                    return Err("it came without the file that its response is sent from".to_owned());
                }
                Tail::Content { file: file.map(Arc::new), pieces }
            }
            TailDescription::Stream { name, state_bytes, chunked } => {
                Tail::Stream { name: name.into(), state: bytes.take(state_bytes)?.to_vec(), chunked }
            }
        };
        let account = self.account.map(|account| account.read(bytes)).transpose()?.map(Box::new);
        // A reason that only a newer version knows is one to close all the same.
        let close = self.close.map(|name| Reason::named(&name).unwrap_or(Reason::Handler));
        Ok(Unfinished { rest: Rest { unsent, tail }, close, account })
    }
}

impl PieceDescription {
    fn read(self, bytes: &mut Sections<'_>) -> Result<Piece, String> {
        match self {
            PieceDescription::MemoryBytes(count) => Ok(Piece::Memory(bytes.take(count)?.to_vec())),
            PieceDescription::File(start, end) if start <= end && i64::try_from(end).is_ok() => {
                Ok(Piece::File(start..end))
            }
            PieceDescription::File(start, end) => Err(format!("a piece of its file is none: {start}..{end}")),
        }
    }
}

impl AccountDescription {
    fn of(account: &Account, bytes: &mut Vec<u8>) -> AccountDescription {
        AccountDescription {
            began_ms: millis(account.began.elapsed()),
            line_bytes: append(bytes, &account.line),
            referer_bytes: account.referer.as_deref().map(|text| append(bytes, text)),
            user_agent_bytes: account.user_agent.as_deref().map(|text| append(bytes, text)),
            host: account.host.clone(),
            status: account.status,
            sent: account.sent_bytes,
            head: account.head_bytes,
        }
    }

    fn read(self, bytes: &mut Sections<'_>) -> Result<Account, String> {
        let now = Instant::now();
        Ok(Account {
            began: now.checked_sub(Duration::from_millis(self.began_ms)).unwrap_or(now),
            line: bytes.take(self.line_bytes)?.to_vec(),
            referer: self.referer_bytes.map(|count| bytes.take(count)).transpose()?.map(<[u8]>::to_vec),
            user_agent: self.user_agent_bytes.map(|count| bytes.take(count)).transpose()?.map(<[u8]>::to_vec),
            host: self.host,
            status: self.status,
            sent_bytes: self.sent,
            head_bytes: self.head,
        })
    }
}

/// The descriptor as a file that can be read at any place without waiting for anybody.
fn plain_file(descriptor: OwnedFd) -> Result<BodyFile, String> {
    let status = fstat(&descriptor).map_err(|error| error.to_string())?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err("what came as the file of its response is no plain file".to_owned());
    }
    // Only files in memory have seals, and only those take up memory of ours.
    let is_in_memory = fcntl_get_seals(&descriptor).is_ok_and(|seals| seals.contains(SealFlags::WRITE));
    let size = u64::try_from(status.st_size).unwrap_or(0);
    let claim = is_in_memory.then(|| Claim::of_received(size));
    Ok(BodyFile { file: File::from(descriptor), claim })
}
