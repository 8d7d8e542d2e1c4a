//! What HTTP/1.1 messages look like: pure functions and state machines over bytes.
//!
//! In: [`head`] finds and checks a head, [`framing`] decides how long its body is, [`target`] reads what it asks for,
//! [`forwarded`] what proxies in front say of it, [`url`] makes a plain one's URL, [`decode`] hands it to async-h1, [`chunked`]
//! takes chunks apart. Out: [`encode`] checks a response and writes its head.
//! A rule that a client breaks ends in a [`refusal`]. Nothing here receives, sends or waits.

pub(crate) mod chunked;
pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod forwarded;
pub(crate) mod framing;
pub(crate) mod head;
pub(crate) mod refusal;
pub(crate) mod target;
pub(crate) mod url;
