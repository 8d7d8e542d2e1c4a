//! The `reborn` binary.

fn main() {}
