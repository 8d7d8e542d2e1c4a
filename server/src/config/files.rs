//! Which plain files are served, and how they are told apart: what `--root`, `--follow-symlinks` and `--etag` come to.

use std::path::PathBuf;

/// Which plain files are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilesConfig {
    /// Their directory.
    pub root: PathBuf,
    /// Whether symlinks in it are followed, also out of it.
    pub follow_symlinks: bool,
    /// What their entity tags are made of.
    pub etag: Etag,
}

/// What the entity tags of files are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Etag {
    /// All that tells one state of a file from another, also what differs from machine to machine: its inode, its size, and
    /// when it was changed. No two states have the same, so that the tag is a strong one.
    #[default]
    State,
    /// The size, and the date of the content, as nginx writes them: replicas with copies that kept their dates have the
    /// same. Two states may have the same, so that the tag is weak: good for a 304, and not for ranges.
    SizeMtime,
}
