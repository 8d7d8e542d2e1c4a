//! The processes of one peer, found by the process group that it was started in, and what they take of the machine.

use std::fs;

/// Processes that share a group.
#[derive(Clone, Copy, Debug)]
pub struct Group(pub u32);

impl Group {
    /// The pids of its living processes.
    pub fn members(self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| group_of(*pid) == Some(self.0)).collect()
    }

    /// The time that its living threads have run, in nanoseconds.
    pub fn cpu_ns(self) -> u64 {
        let tasks = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let ran = |task: fs::DirEntry| -> Option<u64> {
            fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse().ok()
        };
        self.members().into_iter().flat_map(tasks).filter_map(ran).sum()
    }

    /// Its memory in bytes, each shared page counted once (PSS).
    pub fn memory_bytes(self) -> u64 {
        let of = |pid: u32| -> Option<u64> {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse().ok()
        };
        self.members().into_iter().filter_map(of).sum::<u64>() * 1024
    }
}

/// The process group of a process that lives; a zombie has none.
fn group_of(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let group = fields.nth(1)?.parse().ok()?;
    (state != "Z").then_some(group)
}
