//! The threads that serve connections: the team of workers, and the epoll by which they learn what is ready.

mod epoll;
pub(crate) mod poller;
mod sync;
mod team;
#[cfg(test)]
mod tests;
pub(crate) mod workers;
