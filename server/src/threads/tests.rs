//! The threads as they are, over real sockets. `tests/team_model.rs` walks their interleavings. What is in this folder stands
//! apart from what it tests because that test compiles those files, too.

mod poller;
mod workers;
