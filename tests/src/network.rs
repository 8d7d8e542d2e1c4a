//! A network of a test's own: a namespace with nothing in it but loopback, which a test can cut. Then every peer in it
//! has vanished without a word, as one whose machine lost its power.
//!
//! Only addresses are apart; files, Unix sockets by path and processes are the machine's.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{CommandOutput, skip::skip};

/// A namespace; it ends with the last process and socket in it.
#[derive(Debug)]
pub struct Network {
    /// Waits in it for the end of its standard input.
    holder: Child,
}

impl Network {
    /// Makes one with its loopback up; `None` where that is not permitted, after saying why.
    #[track_caller]
    pub fn new() -> Option<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo up && read _"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut holder = command.spawn().expect("unshare can be started");
        let mut line = String::new();
        let stdout = holder.stdout.take().expect("its output is a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("its output is text");
        if line == "up\n" {
            return Some(Self { holder });
        }
        let mut why = String::new();
        holder.stderr.take().expect("its errors are a pipe").read_to_string(&mut why).expect("its errors are text");
        holder.wait().expect("it was started here");
        skip(&format!("no network of its own: {}", why.trim()));
        None
    }

    /// What makes a server run in it, for [`Reborn::prelude`](super::Reborn::prelude).
    pub fn prelude(&self) -> String {
        format!("exec nsenter --target {} --net \"$0\" \"$@\"", self.holder.id())
    }

    /// Calls a function in it: sockets that it opens stay there.
    pub fn inside<T: Send>(&self, function: impl FnOnce() -> T + Send) -> T {
        inside(self.holder.id(), function)
    }

    /// Cuts loopback: nothing is delivered any more, and nobody is told.
    #[track_caller]
    pub fn cut(&self) {
        self.set_loopback("down");
    }

    /// Puts loopback together again.
    #[track_caller]
    pub fn mend(&self) {
        self.set_loopback("up");
    }

    #[track_caller]
    fn set_loopback(&self, state: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "ip", "link", "set", "lo", state]);
        CommandOutput::of(&mut command).assert_success();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        // It ends with its input, and is this process's child.
        let _ended = self.holder.wait();
    }
}

/// Calls a function in the network of a process. Threads that it starts, and their sockets, are inside too; all else
/// (files, pids) is the machine's.
pub(crate) fn inside<T: Send>(pid: u32, function: impl FnOnce() -> T + Send) -> T {
    let network = File::open(format!("/proc/{pid}/ns/net")).expect("the process lives");
    thread::scope(|scope| {
        let inside = scope.spawn(move || {
            // A namespace is each thread's own: this one enters, runs the function, and ends.
            move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).expect("it is a network");
            function()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
