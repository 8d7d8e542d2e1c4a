//! A Linux server that replaces itself while it serves.

mod drain;

pub use drain::{Drain, Guard, Phase};
