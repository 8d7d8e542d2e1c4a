//! Which signal reloads beside HUP and USR2: its name or number, and why some signals cannot be it.
//!
//! A signal is refused where it cannot be caught, where it means something else to this server or to its runtime, and
//! where the kernel or a terminal sends it on occasions that have nothing to do with a reload.

use rustix::process::Signal;

use super::given::{Error, Given};

const UNCATCHABLE: &str = "the kernel lets no process catch it";
const FAULT: &str = "it reports a fault of the program itself";
const TERMINAL: &str = "the terminal sends it to a process in the background";
const TIMER: &str = "a timer or a resource limit sends it";

/// The signals that can be it, and those that cannot with the reason.
const SIGNALS: [(&str, Signal, Option<&str>); 30] = [
    ("HUP", Signal::HUP, None),
    ("INT", Signal::INT, None),
    ("QUIT", Signal::QUIT, None),
    ("USR1", Signal::USR1, None),
    ("USR2", Signal::USR2, None),
    ("WINCH", Signal::WINCH, None),
    ("PWR", Signal::POWER, None),
    ("IO", Signal::IO, None),
    ("KILL", Signal::KILL, Some(UNCATCHABLE)),
    ("STOP", Signal::STOP, Some(UNCATCHABLE)),
    ("TERM", Signal::TERM, Some("it stops the server")),
    ("CHLD", Signal::CHILD, Some("it reports the end of child processes")),
    ("PIPE", Signal::PIPE, Some("a closed connection raises it")),
    ("CONT", Signal::CONT, Some("it only continues a stopped process")),
    ("TSTP", Signal::TSTP, Some("the terminal's Ctrl-Z sends it")),
    ("TTIN", Signal::TTIN, Some(TERMINAL)),
    ("TTOU", Signal::TTOU, Some(TERMINAL)),
    ("URG", Signal::URG, Some("urgent data on a connection raises it")),
    ("ABRT", Signal::ABORT, Some(FAULT)),
    ("BUS", Signal::BUS, Some(FAULT)),
    ("FPE", Signal::FPE, Some(FAULT)),
    ("ILL", Signal::ILL, Some(FAULT)),
    ("SEGV", Signal::SEGV, Some(FAULT)),
    ("SYS", Signal::SYS, Some(FAULT)),
    ("TRAP", Signal::TRAP, Some(FAULT)),
    ("ALRM", Signal::ALARM, Some(TIMER)),
    ("PROF", Signal::PROF, Some(TIMER)),
    ("VTALRM", Signal::VTALARM, Some(TIMER)),
    ("XCPU", Signal::XCPU, Some(TIMER)),
    ("XFSZ", Signal::XFSZ, Some(TIMER)),
];

/// Reads `USR1`, `SIGUSR1`, `usr1` or `10`. HUP and USR2 reload anyway: naming them adds nothing, and gives `None`.
pub(super) fn parse(given: &Given) -> Result<Option<i32>, Error> {
    let upper = given.text().to_ascii_uppercase();
    let wanted = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = wanted.parse().ok();
    let known = SIGNALS.iter().find(|(name, signal, _)| *name == wanted || Some(signal.as_raw()) == number);
    match known {
        Some((_, Signal::HUP | Signal::USR2, None)) => Ok(None),
        Some((_, signal, None)) => Ok(Some(signal.as_raw())),
        Some((name, _, Some(reason))) => Err(given.refuse(format!("{name} cannot reload: {reason}"), advice())),
        None => Err(given.refuse("no such signal", advice())),
    }
}

fn advice() -> String {
    let usable = SIGNALS.iter().filter(|(_, _, reason)| reason.is_none()).map(|(name, ..)| *name);
    format!("use one of {}", usable.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::given::{ValueSource, given};

    fn parsed(text: &str) -> Result<Option<i32>, String> {
        parse(&given(ValueSource::Flag, "reload-signal", text)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_signal_is_known_by_name_and_number() {
        let interrupt = Signal::INT.as_raw();
        for text in ["INT", "SIGINT", "int", "SigInt", &interrupt.to_string()] {
            assert_eq!(parsed(text), Ok(Some(interrupt)), "{text}");
        }
    }

    #[test]
    fn those_that_reload_anyway_add_nothing() {
        assert_eq!((parsed("HUP"), parsed("SIGUSR2")), (Ok(None), Ok(None)));
    }

    #[test]
    fn a_signal_that_cannot_reload_is_refused_with_the_reason() {
        for (name, signal, reason) in SIGNALS {
            let (by_name, by_number) = (parsed(name), parsed(&signal.as_raw().to_string()));
            match reason {
                None => assert!(by_name.is_ok() && by_number.is_ok(), "{name}"),
                Some(reason) => {
                    assert!(by_name.unwrap_err().contains(reason), "{name}");
                    assert!(by_number.unwrap_err().contains(&format!("{name} cannot reload: {reason}")), "{name}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_signal_is_refused_with_those_that_can_be() {
        for text in ["FOO", "0", "-1", "999", "SIG", "HUP INT"] {
            let error = parsed(text).unwrap_err();
            assert!(error.contains("no such signal; use one of HUP, INT, QUIT, USR1"), "{error}");
        }
    }
}
