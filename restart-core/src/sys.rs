//! The only home of `unsafe` and of raw file descriptor numbers.
//!
//! What is here is what no safe wrapper offers: adopting descriptors that the process was started with, marking all
//! others close-on-exec, the signal dispositions and masks that a started process inherits, and the allocator. Nothing here
//! decides anything, and nothing here is specific to a reload.
#![allow(unsafe_code)]

#[cfg(feature = "allocator")]
use std::alloc::{GlobalAlloc, Layout};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::io::FdFlags;

use crate::lock::lock;

/// The first number that is no standard stream.
const FIRST_INHERITED: RawFd = 3;

/// Takes ownership of a descriptor that the process was started with, if `check` lets it pass; else it stays as it is.
///
/// What was inherited is known by its flag: exec passes on what is not close-on-exec, and whatever the process has opened
/// itself is, since the standard library and this crate open nothing otherwise. What is taken is made close-on-exec, so
/// no number is taken twice. Fails with EBADF if the number is not open, and where it is a standard stream or the
/// process's own.
pub(crate) fn take_inherited<E>(
    raw: RawFd,
    check: impl FnOnce(BorrowedFd<'_>) -> Result<(), E>,
) -> io::Result<Result<OwnedFd, E>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    if raw < FIRST_INHERITED {
        return refuse("it is a standard stream");
    }
    let _lock = lock(&ONE_AT_A_TIME);
    // SAFETY: the borrow ends with this function; F_GETFD on a number that is not open only fails with EBADF, and what
    // was inherited belongs to nobody who could close it meanwhile.
    let fd = unsafe { BorrowedFd::borrow_raw(raw) };
    if rustix::io::fcntl_getfd(fd)?.contains(FdFlags::CLOEXEC) {
        return refuse("this process has opened or taken it itself");
    }
    if let Err(error) = check(fd) {
        return Ok(Err(error));
    }
    rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC)?;
    // SAFETY: the descriptor is open and was inherited, as was just seen, and the mark was set under the lock: of all
    // calls only this one gets to own it.
    Ok(Ok(unsafe { OwnedFd::from_raw_fd(raw) }))
}

/// Marks every descriptor from `first` on as close-on-exec (`close_range(2)`, Linux 5.11).
pub(crate) fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let first = libc::c_uint::try_from(first).map_err(|_| io::ErrorKind::InvalidInput)?;
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: the call takes three integers and changes nothing but descriptor flags.
    match unsafe { libc::close_range(first, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The uid of the process at the other end of a Unix socket (`SO_PEERCRED`, `unix(7)`).
///
/// Not rustix's call: that fails where the peer's pid is 0, which a process of another pid namespace has.
pub(crate) fn peer_uid(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let value = (&raw mut credentials).cast();
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes at most `length` bytes, the
    // size of `credentials`, to where it lies.
    match unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, value, &raw mut length) } {
        0 => Ok(credentials.uid),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets or removes a variable of the environment, for this process and those that it starts. It does so only where this
/// process has no other thread, and says whether it has.
pub(crate) fn set_variable(name: &str, value: Option<&OsStr>) -> bool {
    let is_alone = has_one_thread();
    if is_alone {
        // SAFETY: no other thread exists that could read the environment meanwhile, as was just seen, and this one does
        // nothing else.
        unsafe {
            match value {
                Some(value) => std::env::set_var(name, value),
                None => std::env::remove_var(name),
            }
        }
    }
    is_alone
}

/// Whether this process is seen to have no thread but the one that asks.
///
/// The kernel counts each thread as a link of the directory of all, beside the two that any directory has. So one call tells
/// that there is no other; the list, which takes five, is for kernels that count otherwise.
pub(crate) fn has_one_thread() -> bool {
    let threads = Path::new("/proc/self/task");
    let is_one = |threads: std::fs::ReadDir| threads.count() == 1;
    threads.metadata().is_ok_and(|all| all.nlink() == 3) || threads.read_dir().is_ok_and(is_one)
}

/// Has all threads take what they ask of malloc(3) from one heap (`mallopt(3)`).
pub(crate) fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes two integers, and changes only from which of its heaps glibc serves a thread's first request.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Whether a signal is ignored in this process (`sigaction(2)`).
pub(crate) fn is_ignored(signal: i32) -> io::Result<bool> {
    let mut old = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action the call only writes the present one to `old`, which is large enough.
    if unsafe { libc::sigaction(signal, ptr::null(), old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it has filled `old`.
    Ok(unsafe { old.assume_init() }.sa_sigaction == libc::SIG_IGN)
}

/// Gives SIGCHLD its default action: where a parent left it ignored, the kernel would throw exit statuses away.
pub(crate) fn restore_sigchld() -> io::Result<()> {
    // SAFETY: SIG_DFL installs no handler, so no code of ours can run in a signal context.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// The leader of this process's session; none where it is in another pid namespace, which rustix's call takes amiss.
pub(crate) fn session_leader() -> Option<i32> {
    // SAFETY: the call takes an integer and changes nothing.
    Some(unsafe { libc::getsid(0) }).filter(|leader| *leader > 0)
}

/// Who has sent a signal. The handler only stores, so that it may run at any instant.
#[derive(Debug)]
pub(crate) struct Senders {
    /// The kernel by itself.
    pub(crate) kernel: AtomicBool,
    /// The process that was to be told from others.
    pub(crate) named: AtomicBool,
    /// Anybody else.
    pub(crate) others: AtomicBool,
}

/// Notes from now on who sends a signal; `named` is the one process that is to be told from others, if there is one.
pub(crate) fn note_senders(signal: i32, named: Option<i32>) -> io::Result<Arc<Senders>> {
    let nobody = || AtomicBool::new(false);
    let senders = Arc::new(Senders { kernel: nobody(), named: nobody(), others: nobody() });
    let noted = Arc::clone(&senders);
    let note = move |info: &libc::siginfo_t| {
        // SAFETY: of a signal that comes from neither the kernel nor a fault, kill(2) and sigqueue(3) fill the pid; of
        // any other the number read is some part of the structure, and is not used.
        let pid = unsafe { info.si_pid() };
        let sender = match info.si_code {
            libc::SI_KERNEL => &noted.kernel,
            libc::SI_USER | libc::SI_QUEUE | libc::SI_TKILL if Some(pid) == named => &noted.named,
            _ => &noted.others,
        };
        sender.store(true, Ordering::Release);
    };
    // SAFETY: the action reads its argument and stores to atomics that live as long as it does: both are
    // async-signal-safe. It neither allocates nor panics.
    unsafe { signal_hook_registry::register_sigaction(signal, note) }?;
    Ok(senders)
}

/// Signals that the calling thread keeps blocked for as long as the value lives.
#[must_use = "the signals are unblocked when this is dropped"]
pub(crate) struct BlockedSignals {
    before: libc::sigset_t,
}

impl BlockedSignals {
    pub(crate) fn new(signals: &[i32]) -> io::Result<BlockedSignals> {
        change_mask(libc::SIG_BLOCK, signals).map(|before| BlockedSignals { before })
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `before` was filled by an earlier, successful call; restoring a mask cannot fail with a valid `how`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut()) };
    }
}

/// Unblocks signals for the calling thread, and so for every thread that it starts from then on.
pub(crate) fn unblock_signals(signals: &[i32]) -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, signals).map(drop)
}

/// Unblocks every signal for the calling thread, and so for every thread that it starts from then on.
pub(crate) fn unblock_all_signals() -> io::Result<()> {
    change_mask(libc::SIG_SETMASK, &[]).map(drop)
}

fn change_mask(how: libc::c_int, signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset fills the set before anything reads it, sigaddset refuses a number that is no signal, and
    // both pointers outlive the calls.
    let result = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for &signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), before.as_mut_ptr())
    };
    match result {
        // SAFETY: the call succeeded, so it has written the former mask.
        0 => Ok(unsafe { before.assume_init() }),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// An allocator for programs whose work is many small allocations: mimalloc, asked without an alignment where it gives
/// enough by itself.
///
/// Rust names an alignment with each allocation, and mimalloc's entry for those takes twice the instructions of its plain
/// one. It is for `#[global_allocator]`.
#[cfg(feature = "allocator")]
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

/// Each block of mimalloc's is aligned for a word, whatever its size.
#[cfg(feature = "allocator")]
const ALIGNMENT_OF_ALL: usize = size_of::<usize>();

// SAFETY: each call goes to mimalloc's own function of that name, whose contract is that of malloc and its kin: a block is
// of the size asked for, nobody else's, and stays until it is freed; a failure is a null pointer; none of them unwinds.
// `mi_free` and `mi_realloc` take blocks from each of the others. The alignment is that of the layout: up to
// `ALIGNMENT_OF_ALL` all blocks have it, and `mi_realloc` keeps that; beyond, it is asked for.
#[cfg(feature = "allocator")]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: both take any size, and alignments that are a power of two, as those of layouts are.
        let block = unsafe {
            match layout.align() {
                ..=ALIGNMENT_OF_ALL => libmimalloc_sys::mi_malloc(layout.size()),
                alignment => libmimalloc_sys::mi_malloc_aligned(layout.size(), alignment),
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let block = unsafe {
            match layout.align() {
                ..=ALIGNMENT_OF_ALL => libmimalloc_sys::mi_zalloc(layout.size()),
                alignment => libmimalloc_sys::mi_zalloc_aligned(layout.size(), alignment),
            }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller gives back a block that is his and came from here.
        unsafe { libmimalloc_sys::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller exchanges a block that is his and came from here.
        let block = unsafe {
            match layout.align() {
                ..=ALIGNMENT_OF_ALL => libmimalloc_sys::mi_realloc(block.cast(), size),
                alignment => libmimalloc_sys::mi_realloc_aligned(block.cast(), size, alignment),
            }
        };
        block.cast()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::os::fd::{AsFd, IntoRawFd};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn the_peer_of_a_socket_pair_is_this_user() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert_eq!(peer_uid(ours.as_fd()).unwrap(), rustix::process::geteuid().as_raw());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(peer_uid(file.as_fd()).is_err());
    }

    #[cfg(feature = "allocator")]
    #[test]
    fn each_block_has_its_layout_and_keeps_what_is_in_it() {
        for (size, align) in (0..12).flat_map(|log| [1, 7, 24, 100, 3000].map(|size| (size, 1 << log))) {
            let layout = Layout::from_size_align(size, align).unwrap();
            let is_aligned = |block: *mut u8| !block.is_null() && block.addr().is_multiple_of(align);
            // SAFETY: the sizes are not zero, what is read was written within the block, and each block is given back once,
            // with the layout that it has.
            unsafe {
                let (plain, zeroed) = (Allocator.alloc(layout), Allocator.alloc_zeroed(layout));
                assert!(is_aligned(plain) && is_aligned(zeroed), "{layout:?}");
                assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                plain.write_bytes(b'x', size);
                let larger = Allocator.realloc(plain, layout, size + 1000);
                assert!(is_aligned(larger), "{layout:?}");
                assert!(std::slice::from_raw_parts(larger, size).iter().all(|byte| *byte == b'x'));
                Allocator.dealloc(larger, Layout::from_size_align(size + 1000, align).unwrap());
                Allocator.dealloc(zeroed, layout);
            }
        }
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        let error = take(987_654).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }

    fn take(raw: RawFd) -> io::Result<OwnedFd> {
        take_inherited(raw, |_| Ok::<(), Infallible>(())).map(|Ok(fd)| fd)
    }

    #[test]
    fn only_what_was_inherited_is_taken_and_only_once() {
        assert!(take(0).unwrap_err().to_string().contains("standard stream"));
        let own = std::fs::File::open("/dev/null").unwrap();
        assert!(take(own.as_raw_fd()).unwrap_err().to_string().contains("itself"));
        let inherited = rustix::io::fcntl_dupfd_cloexec(&own, 100).unwrap();
        rustix::io::fcntl_setfd(&inherited, FdFlags::empty()).unwrap();
        let raw = inherited.into_raw_fd();
        assert_eq!(take_inherited(raw, |_| Err("no")).unwrap().unwrap_err(), "no");
        let taken = take(raw).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&taken).unwrap(), FdFlags::CLOEXEC);
        assert!(take(raw).is_err());
    }

    #[test]
    fn stray_descriptors_become_close_on_exec() {
        let (reader, _writer) = rustix::pipe::pipe().unwrap();
        let high = rustix::io::fcntl_dupfd_cloexec(&reader, 500).unwrap();
        rustix::io::fcntl_setfd(&high, rustix::io::FdFlags::empty()).unwrap();
        close_on_exec_from(high.as_raw_fd()).unwrap();
        assert_eq!(rustix::io::fcntl_getfd(&high).unwrap(), rustix::io::FdFlags::CLOEXEC);
    }

    #[test]
    fn a_blocked_signal_is_blocked_until_the_guard_is_dropped() {
        let blocked = || {
            let now = change_mask(libc::SIG_BLOCK, &[]).unwrap();
            // SAFETY: the set was filled by the call above.
            unsafe { libc::sigismember(&raw const now, libc::SIGUSR2) == 1 }
        };
        let guard = BlockedSignals::new(&[libc::SIGUSR2]).unwrap();
        assert!(blocked());
        drop(guard);
        assert!(!blocked());
    }
}
