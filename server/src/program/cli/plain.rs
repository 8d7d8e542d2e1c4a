//! The command line of a server that is plain: known flags with their values, each as it is meant to be typed.
//!
//! Nearly all are, and a start waits for it. What is not, or might not be, is left to clap, which also has the words for
//! what is wrong. A test compares what the two make of each flag.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::config::{Flag, Said, ServeArgs, Typed};

/// The flags of `serve`, which are all words of the command line behind that. None where they are not plain.
pub(super) fn read(words: &[OsString]) -> Option<ServeArgs> {
    let all = Flag { id: "", default: None, is_switch: false };
    let mut args = ServeArgs::unsaid(all);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "-g" {
            args.graceful = true;
            continue;
        }
        let word = word.as_bytes().strip_prefix(b"--")?;
        let mut parts = word.splitn(2, |&byte| byte == b'=');
        let name = str::from_utf8(parts.next()?).ok()?;
        let behind = parts.next().map(OsStr::from_bytes);
        let mut value = |flag: Flag| match behind {
            Some(value) => (!value.is_empty() || !flag.is_switch).then(|| value.to_owned()),
            None if flag.is_switch => Some("true".into()),
            None => words.next().filter(|word| !word.is_empty() && !word.as_bytes().starts_with(b"-")).cloned(),
        };
        if !args.say(all, &mut Typed { name, value: &mut value })? {
            return None;
        }
    }
    // A file is read with what clap knows of its keys.
    args.config.is_none().then_some(args)
}
