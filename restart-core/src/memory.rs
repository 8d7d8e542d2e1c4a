//! How much memory this process takes, as people and the newest generation are told, and of how many heaps.

use crate::sys;

/// The memory that this process occupies, in bytes (`proc_pid_statm(5)`); 0 where the kernel does not tell.
pub fn resident_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}

/// Has all threads that begin from now on take what they ask of `malloc(3)` from one heap, where the C library is glibc.
///
/// For programs whose Rust has another allocator: call it in `main`, before any thread exists. The standard library asks
/// `malloc(3)` a little whenever it starts a thread, for which glibc makes that thread a heap of its own: some calls, and up to
/// 128 MiB of addresses. Where libraries in C allocate much, on many threads at a time, they wait for each other in
/// the one heap: leave it out there.
pub fn share_c_heap() {
    sys::share_heap();
}
