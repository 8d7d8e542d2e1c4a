//! The directory whose files are served, and how the kernel keeps clients inside it.
//!
//! The directory is open as long as it is there. Every file is opened beneath it by openat2(2): `RESOLVE_BENEATH` and
//! `RESOLVE_NO_SYMLINKS` hold whatever is renamed or linked meanwhile. With `--follow-symlinks` links lead wherever they
//! point, as whoever made them wanted; the path itself has no `..`, so nothing else leads out. Where there is no openat2
//! (systemd takes it from each service with `DynamicUser=` or `RestrictSUIDSGID=`, systemd.exec(5)), a path is walked name
//! by name without following any link, which comes to the same. What is there is looked at before it is opened, and
//! only regular files are files: to open a FIFO wakes whoever waits to write to it, and a device may do anything.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::coding::{Accepted, Coding};
use super::conditions::Facts;
use super::listing::{Entry, Listed};
use super::location::{INDEX, Location, is_hidden};

/// How often an opening is repeated that a rename elsewhere in the tree disturbed.
const DISTURBED_MAX: u32 = 16;

/// File systems that answer from this machine's memory or disks. One that asks another machine or a process (NFS, FUSE)
/// may take for ever to open a file, whose name is known already or not.
const LOCAL: [i64; 10] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlayfs
    0xf2f5_2010, // f2fs
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // erofs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
];

/// A directory whose files are served.
#[derive(Debug)]
pub(super) struct Root {
    directory: OwnedFd,
    follows_symlinks: bool,
    is_local: bool,
    pub(super) has_openat2: bool,
}

/// How long an opening may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    /// No longer than a look into the kernel's memory.
    None,
    /// As long as the disk needs.
    Blocking,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub(super) location: Location,
    pub(super) accepted: Accepted,
}

impl Wanted {
    /// The path of the file below the root.
    pub(super) fn path(&self) -> Cow<'_, Path> {
        match &self.location {
            Location { path, is_directory: true } => path.join(INDEX).into(),
            Location { path, is_directory: false } => path.into(),
        }
    }
}

/// What is at a location.
#[derive(Debug)]
pub(super) enum Found {
    File(Opened),
    /// A directory, asked for without the slash at its end.
    Directory,
    /// A file that is in no coding that the client takes.
    Unacceptable,
}

/// A regular file, open for reading.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) facts: Facts,
    /// The coding that it is in, if it is a compressed sibling of what was asked for.
    pub(super) coding: Option<Coding>,
}

impl Root {
    /// Opens the directory, and makes sure that the kernel can keep clients inside it.
    pub(super) fn open(path: &Path, follows_symlinks: bool) -> io::Result<Self> {
        let named = |cause: Errno, what: &str| {
            io::Error::new(io::Error::from(cause).kind(), format!("cannot serve {}: {what}{cause}", path.display()))
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|cause| named(cause, ""))?;
        let magic = rustix::fs::fstatfs(&directory).map_err(|cause| named(cause, ""))?.f_type;
        let mut root = Self { directory, follows_symlinks, is_local: LOCAL.contains(&magic), has_openat2: true };
        match root.resolve(Path::new("."), OFlags::PATH, Patience::Blocking) {
            Ok(_) => {}
            Err(Errno::NOSYS | Errno::PERM) if !follows_symlinks => root.has_openat2 = false,
            Err(cause @ (Errno::NOSYS | Errno::PERM)) => {
                let needs = "to follow symlinks takes openat2, which is not permitted here (by systemd not with \
                             DynamicUser= or RestrictSUIDSGID=): ";
                return Err(named(cause, needs));
            }
            Err(cause) => return Err(named(cause, "")),
        }
        Ok(root)
    }

    /// Whether it is in no directory any more, and will never have a file again.
    pub(super) fn is_deleted(&self) -> bool {
        rustix::fs::fstat(&self.directory).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// Finds what the kernel has in memory; nothing where it would have to wait, or where it may have to.
    pub(super) fn find_at_once(&self, wanted: &Wanted) -> Option<Result<Found, Errno>> {
        if !self.is_local || !self.has_openat2 {
            return None;
        }
        match self.look(wanted, Patience::None) {
            // Whatever else went wrong may have done so for want of patience.
            Err(cause) if cause != Errno::NOENT => None,
            outcome => Some(outcome),
        }
    }

    /// Finds what is at a location. Blocks while the disk is asked.
    pub(super) fn find(&self, wanted: &Wanted) -> Result<Found, Errno> {
        self.look(wanted, Patience::Blocking)
    }

    fn look(&self, wanted: &Wanted, patience: Patience) -> Result<Found, Errno> {
        let Wanted { location, accepted } = wanted;
        let path = wanted.path();
        let (file, stat) = match self.open_file(&path, patience)? {
            Ok(opened) => opened,
            Err(FileType::Directory) if !location.is_directory => return Ok(Found::Directory),
            Err(_) => return Err(Errno::NOENT),
        };
        if let Some(sibling) = self.sibling(&path, &stat, &accepted.codings, patience)? {
            return Ok(Found::File(sibling));
        }
        if !accepted.identity {
            return Ok(Found::Unacceptable);
        }
        Ok(Found::File(Opened { file, facts: facts(&stat)?, coding: None }))
    }

    /// Reads what is in a directory: what a client could ask for, and no more than this many. Blocks while the disk is asked.
    pub(super) fn list(&self, path: &Path, entries_max: usize) -> Result<Listed, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        let directory = if path == Path::new("") {
            rustix::fs::openat(&self.directory, ".", flags | OFlags::CLOEXEC, Mode::empty())?
        } else {
            self.open_beneath(path, flags, Patience::Blocking)?
        };
        let depth = path.components().count();
        let stat_flags = if self.follows_symlinks { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let mut listed = Listed { entries: vec![], is_cut: false };
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if [&b"."[..], b".."].contains(&name.to_bytes()) || is_hidden(name.to_bytes(), depth) {
                continue;
            }
            // It may be gone by now, or a link that leads nowhere.
            let Ok(stat) = rustix::fs::statat(&directory, name, stat_flags) else { continue };
            let is_directory = match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => true,
                FileType::RegularFile => false,
                _ => continue,
            };
            let Ok(Facts { length, modified, .. }) = facts(&stat) else { continue };
            if listed.entries.len() == entries_max {
                listed.is_cut = true;
                break;
            }
            let name = OsStr::from_bytes(name.to_bytes()).to_owned();
            listed.entries.push(Entry { name, is_directory, length, modified });
        }
        Ok(listed)
    }

    /// The best compressed sibling. One that is older than the file itself is of another state of it, and left alone; in
    /// whole seconds, because not every compressor that keeps the file's time keeps more of it.
    fn sibling(
        &self,
        path: &Path,
        original: &Stat,
        codings: &[Coding],
        patience: Patience,
    ) -> Result<Option<Opened>, Errno> {
        for coding in codings {
            let mut name = path.as_os_str().to_owned();
            name.push(coding.suffix());
            match self.open_file(&PathBuf::from(name), patience) {
                Ok(Ok((file, stat))) if stat.st_mtime >= original.st_mtime => {
                    return Ok(Some(Opened { file, facts: facts(&stat)?, coding: Some(*coding) }));
                }
                Err(cause) if patience == Patience::None && cause != Errno::NOENT => return Err(cause),
                Err(cause) if is_exhaustion(cause) => return Err(cause),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Opens a regular file; of what is none it says what it is.
    fn open_file(&self, path: &Path, patience: Patience) -> Result<Result<(File, Stat), FileType>, Errno> {
        let kind_of = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        let seen = kind_of(&rustix::fs::fstat(self.open_beneath(path, OFlags::PATH, patience)?)?);
        if seen != FileType::RegularFile {
            return Ok(Err(seen));
        }
        // It may be something else by now: not blocking, so that not even then a FIFO can hold a thread.
        let file = self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, patience)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok(match kind_of(&stat) {
            FileType::RegularFile => Ok((file.into(), stat)),
            other => Err(other),
        })
    }

    fn open_beneath(&self, path: &Path, flags: OFlags, patience: Patience) -> Result<OwnedFd, Errno> {
        if self.has_openat2 { self.resolve(path, flags, patience) } else { self.walk(path, flags) }
    }

    /// Has the kernel resolve the path.
    fn resolve(&self, path: &Path, flags: OFlags, patience: Patience) -> Result<OwnedFd, Errno> {
        let mut resolve = ResolveFlags::NO_MAGICLINKS;
        if !self.follows_symlinks {
            resolve |= ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        }
        if patience == Patience::None {
            // Another file system is not known to be local.
            resolve |= ResolveFlags::CACHED | ResolveFlags::NO_XDEV;
        }
        let mut disturbed = 0;
        loop {
            match rustix::fs::openat2(self.directory.as_fd(), path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if patience == Patience::Blocking && disturbed < DISTURBED_MAX => {
                    disturbed += 1;
                }
                outcome => return outcome,
            }
        }
    }

    /// Resolves the path a name at a time; what is no plain name leads nowhere, and neither does a link.
    fn walk(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut folder: Option<OwnedFd> = None;
        let mut names = path.components().peekable();
        while let Some(Component::Normal(name)) = names.next() {
            let flags = if names.peek().is_some() { OFlags::PATH | OFlags::DIRECTORY } else { flags };
            let at = folder.as_ref().unwrap_or(&self.directory);
            let opened = rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
            if names.peek().is_none() {
                return Ok(opened);
            }
            folder = Some(opened);
        }
        Err(Errno::NOENT)
    }
}

/// Whether this machine is short of something, so that the same attempt may succeed later.
pub(super) fn is_exhaustion(cause: Errno) -> bool {
    matches!(cause, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN)
}

/// What is known of a file that is open.
pub(super) fn facts_of(file: &File) -> Result<Facts, Errno> {
    facts(&rustix::fs::fstat(file)?)
}

fn facts(stat: &Stat) -> Result<Facts, Errno> {
    let time = |seconds: i64, nanoseconds: u64| {
        let whole = Duration::from_secs(seconds.unsigned_abs());
        let at = if seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(whole)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(whole)
        };
        at.and_then(|at| at.checked_add(Duration::from_nanos(nanoseconds))).ok_or(Errno::OVERFLOW)
    };
    Ok(Facts {
        inode: stat.st_ino,
        length: u64::try_from(stat.st_size).map_err(|_| Errno::OVERFLOW)?,
        modified: time(stat.st_mtime, stat.st_mtime_nsec)?,
        changed: time(stat.st_ctime, stat.st_ctime_nsec)?,
    })
}
