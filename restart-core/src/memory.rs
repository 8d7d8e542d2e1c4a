//! How much memory this process takes, as people and the newest generation are told.

/// The memory that this process occupies, in bytes (`proc_pid_statm(5)`); 0 where the kernel does not tell.
pub fn resident_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}
