//! The root's directory: as it is open, and the path at which it is found again.
//!
//! A directory that is deleted stays open and is empty for ever, although there may be a new one of its name (`rm -r` and
//! a fresh build do that). Nobody tells of it, so a look is taken where a file is not found, and no more often than once a
//! second. A directory that was only renamed is served on: what is under its name then is published by a reload.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use super::root::Root;
use crate::lock::unpoisoned;
use crate::per_team::PerTeam;

/// How often it is looked whether the directory is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The open directory, as one team counts who uses it.
pub(super) type Opened = Arc<Arc<Root>>;

#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    follows_symlinks: bool,
    /// One for all, with a lock and a count of its users for each team.
    current: PerTeam<RwLock<Opened>>,
    /// When times begin.
    since: Instant,
    /// The next look may be taken then, in milliseconds.
    next_look_ms: AtomicU64,
    /// Whether the log has said that the directory is gone.
    is_gone: AtomicBool,
}

impl Directory {
    /// Opens the directory, for so many teams.
    pub(super) fn open(path: PathBuf, follows_symlinks: bool, teams: usize) -> io::Result<Self> {
        let current = current(teams, &Arc::new(Root::open(&path, follows_symlinks)?));
        let (next_look_ms, is_gone) = (AtomicU64::new(0), AtomicBool::new(false));
        Ok(Self { path, follows_symlinks, current, since: Instant::now(), next_look_ms, is_gone })
    }

    /// The directory that is open.
    pub(super) fn current(&self) -> Opened {
        Arc::clone(&*unpoisoned(self.current.own().read()))
    }

    /// Whether it is time to look whether the directory is still there; whoever is told so has to look.
    pub(super) fn is_to_look(&self) -> bool {
        let now = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next_look_ms.load(Ordering::Relaxed);
        let later = now.saturating_add(u64::try_from(LOOK_EVERY.as_millis()).unwrap_or(u64::MAX));
        now >= next && self.next_look_ms.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Looks whether the directory was deleted, and opens it anew if there is one of its name. Returns that one. Blocks
    /// while the disk is asked.
    pub(super) fn look(&self) -> Option<Arc<Root>> {
        if !self.current().is_deleted() {
            return None;
        }
        let path = self.path.display();
        match Root::open(&self.path, self.follows_symlinks) {
            Ok(root) => {
                let root = Arc::new(root);
                for own in self.current.iter() {
                    *unpoisoned(own.write()) = Arc::new(Arc::clone(&root));
                }
                self.is_gone.store(false, Ordering::Relaxed);
                log::warn!("the root {path} was deleted and made anew; the new one is served");
                Some(root)
            }
            Err(cause) => {
                if !self.is_gone.swap(true, Ordering::Relaxed) {
                    log::warn!("the root {path} was deleted, nothing is found in it ({cause}); make it again");
                }
                None
            }
        }
    }

    #[cfg(test)]
    pub(super) fn without_openat2(self) -> Self {
        let mut root = Root::open(&self.path, self.follows_symlinks).expect("it was opened before");
        root.has_openat2 = false;
        Self { current: current(0, &Arc::new(root)), ..self }
    }
}

fn current(teams: usize, root: &Arc<Root>) -> PerTeam<RwLock<Opened>> {
    PerTeam::new(teams, || RwLock::new(Arc::new(Arc::clone(root))))
}
