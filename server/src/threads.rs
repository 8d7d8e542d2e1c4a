//! The threads that serve connections: the team of workers, and the epoll by which they learn what is ready.

pub(crate) mod poller;
pub(crate) mod workers;
