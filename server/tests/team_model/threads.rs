//! The sources that serve, beside what they stand on here.

#[path = "epoll.rs"]
pub(crate) mod epoll;
#[path = "../../src/threads/poller.rs"]
pub(crate) mod poller;
#[path = "sync.rs"]
pub(crate) mod sync;
#[path = "../../src/threads/team.rs"]
pub(crate) mod team;
