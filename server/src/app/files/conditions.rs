//! Whether a request's conditions hold (RFC 9110, section 13), and the validators that they are compared with.
//!
//! Pure: it sees headers, the facts of a file and the time. Evaluated in the order of section 13.2.2. It reads lists of
//! entity tags itself because `http_types` splits them within the quotes and refuses a list for one bad member.
//!
//! A date is a validator only where it must have changed with the content. Whoever unpacks an archive sets the times of
//! modification to what they were (npm's are of 1985, those of Nix of 1970), so that all versions of a file may have the
//! same; nobody can set the time of the last change of its inode. So a date counts only as far as that one bears it out.

use std::time::{Duration, SystemTime};

use crate::config::Etag;

/// How long a file has to be left alone until its tag is a strong one: timestamps have a resolution, and within it two
/// changes look like one.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// How old a date has to be until it is told: within its own second a file may still change without changing it, and the
/// clock of file systems is a little behind.
const TOLD_AFTER: Duration = Duration::from_secs(2);

/// The way in which the facts of a file become its tag. Another way needs another number, so that no tag means two states.
const TAG_VERSION: u8 = 1;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Facts {
    /// The file's number in its file system: a file that was put in another's place has another.
    pub(super) inode: u64,
    /// Its length in bytes.
    pub(super) length: u64,
    /// When its content changed last, as far as its owner says so.
    pub(super) modified: SystemTime,
    /// When anything about it changed last; nobody can set this one back.
    pub(super) changed: SystemTime,
}

/// The validators of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validators {
    /// What stands between the quotes.
    tag: String,
    is_strong: bool,
    dates: Dates,
}

/// What dates can be compared with, in seconds since 1970, as HTTP has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dates {
    /// Last-Modified; none where the file has no date, which is what 1970 stands for.
    told: Option<u64>,
    /// When anything about the file changed last, if it has changed before what may still be going on.
    changed: Option<u64>,
    /// Whether the date of its content is that of its last change.
    is_exact: bool,
    now: u64,
}

impl Dates {
    fn of(facts: &Facts, now: SystemTime) -> Self {
        let over = seconds(now.checked_sub(TOLD_AFTER).unwrap_or(SystemTime::UNIX_EPOCH)).unwrap_or(0);
        let (modified, changed) = (seconds(facts.modified).filter(|at| *at > 0), seconds(facts.changed));
        Self {
            // Also what lies in the future would say nothing.
            told: modified.map(|at| at.min(over)),
            changed: changed.filter(|at| *at <= over),
            is_exact: modified == changed,
            now: seconds(now).unwrap_or(0),
        }
    }

    /// Whether a file that was fetched when it had this date, or when it was this date, is certain to be the same still.
    fn are_unchanged_since(self, date: u64) -> bool {
        self.changed.is_some_and(|changed| changed < date || changed == date && self.is_exact)
    }

    /// Whether this is the date of the very state that is there now.
    fn are_strongly(self, date: u64) -> bool {
        self.is_exact && self.changed == Some(date) && self.told == Some(date)
    }
}

impl Facts {
    /// All of them, the same in each build and on each machine, so that a new program does not change every tag.
    fn encoded(&self) -> [u8; 49] {
        let mut bytes = [TAG_VERSION; 49];
        bytes[1..9].copy_from_slice(&self.inode.to_le_bytes());
        bytes[9..17].copy_from_slice(&self.length.to_le_bytes());
        bytes[17..33].copy_from_slice(&nanoseconds(self.modified).to_le_bytes());
        bytes[33..].copy_from_slice(&nanoseconds(self.changed).to_le_bytes());
        bytes
    }
}

/// FNV-1a with 128 bits (draft-eastlake-fnv): it hides the inode's number, and tells any two states apart that a site will
/// ever have. It is no defence against who may choose the times of its files.
fn fnv1a(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

/// The nanoseconds since 1970, modulo 2^128 before.
fn nanoseconds(at: SystemTime) -> u128 {
    match at.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => since.as_nanos(),
        Err(before) => before.duration().as_nanos().wrapping_neg(),
    }
}

/// The whole seconds since 1970; none before.
fn seconds(at: SystemTime) -> Option<u64> {
    at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}

impl Validators {
    /// Those of a file as it is `now`, with a tag of such a kind.
    pub(super) fn of(facts: &Facts, etag: Etag, now: SystemTime) -> Self {
        let age = now.duration_since(facts.changed).unwrap_or_default();
        let (tag, is_strong) = match etag {
            Etag::State => (format!("{:032x}", fnv1a(&facts.encoded())), age >= SETTLED_AFTER),
            Etag::SizeMtime => (format!("{:x}-{:x}", seconds(facts.modified).unwrap_or(0), facts.length), false),
        };
        Self { tag, is_strong, dates: Dates::of(facts, now) }
    }

    /// Those of the same file in a coding that is made of it here: another tag, and a weak one.
    pub(super) fn coded(self, coding: &str) -> Self {
        Self { tag: format!("{}-{coding}", self.tag), is_strong: false, ..self }
    }

    /// The value of ETag.
    pub(super) fn etag(&self) -> String {
        format!("{}\"{}\"", if self.is_strong { "" } else { "W/" }, self.tag)
    }

    /// The value of Last-Modified.
    pub(super) fn last_modified(&self) -> Option<httpdate::HttpDate> {
        self.dates.told.map(|at| (SystemTime::UNIX_EPOCH + Duration::from_secs(at)).into())
    }

    /// Whether a tag is the same opaque value, be it weak or strong.
    fn is_weakly(&self, tag: Tag<'_>) -> bool {
        tag.opaque == self.tag
    }

    fn is_strongly(&self, tag: Tag<'_>) -> bool {
        self.is_strong && !tag.is_weak && self.is_weakly(tag)
    }
}

/// The conditions of a request for a file that exists. Lists have all their lines, joined by commas.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Conditions<'a> {
    /// `If-Match`, and so on.
    pub(super) matching: Option<&'a str>,
    pub(super) unmodified_since: Option<&'a str>,
    pub(super) none_match: Option<&'a str>,
    pub(super) modified_since: Option<&'a str>,
    pub(super) range: Option<&'a str>,
}

/// What conditions come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The file is to be sent; its Range counts if there is one.
    Send,
    /// The file is to be sent whole: the client's part is of another state.
    SendWhole,
    /// 304: the client has this state already.
    NotModified,
    /// 412: the client did not want this state.
    Failed,
}

/// Evaluates the conditions of a GET or HEAD. A date that is none is as good as absent, and so is each where the file has
/// no date; one in the future says nothing of what has changed.
pub(super) fn judge(conditions: Conditions<'_>, validators: &Validators) -> Verdict {
    let dates = validators.dates;
    let date = |text: &str| dates.told.and(parse_date(text));
    let precondition = match (conditions.matching, conditions.unmodified_since.and_then(date)) {
        (Some(list), _) => matches(list, |tag| validators.is_strongly(tag)),
        (None, Some(date)) => dates.are_unchanged_since(date),
        (None, None) => true,
    };
    if !precondition {
        return Verdict::Failed;
    }
    let is_news = match (conditions.none_match, conditions.modified_since.and_then(date)) {
        (Some(list), _) => !matches(list, |tag| validators.is_weakly(tag)),
        (None, Some(date)) => date > dates.now || !dates.are_unchanged_since(date),
        (None, None) => true,
    };
    match conditions.range {
        _ if !is_news => Verdict::NotModified,
        Some(text) if !is_same_state(text, validators) => Verdict::SendWhole,
        _ => Verdict::Send,
    }
}

/// Whether an If-Range speaks of this very state.
fn is_same_state(if_range: &str, validators: &Validators) -> bool {
    match Tag::parse(if_range) {
        Some((tag, rest)) => rest.is_empty() && validators.is_strongly(tag),
        None => parse_date(if_range).is_some_and(|date| validators.dates.are_strongly(date)),
    }
}

fn parse_date(text: &str) -> Option<u64> {
    httpdate::parse_http_date(text).ok().and_then(seconds)
}

/// Whether a list is `*`, or has a tag that is accepted. Behind a malformed member nothing counts.
fn matches(list: &str, accepts: impl Fn(Tag<'_>) -> bool) -> bool {
    if list.trim() == "*" {
        return true;
    }
    let separators = |character: char| matches!(character, ',' | ' ' | '\t');
    let mut rest = list.trim_start_matches(separators);
    while let Some((tag, after)) = Tag::parse(rest) {
        if accepts(tag) {
            return true;
        }
        rest = after.trim_start_matches(separators);
    }
    false
}

/// An entity tag as a client wrote it.
#[derive(Clone, Copy)]
struct Tag<'a> {
    is_weak: bool,
    opaque: &'a str,
}

impl<'a> Tag<'a> {
    /// The tag at the start of a text, and what comes behind it.
    fn parse(text: &'a str) -> Option<(Self, &'a str)> {
        let (is_weak, quoted) = text.strip_prefix("W/").map_or((false, text), |quoted| (true, quoted));
        let (opaque, rest) = quoted.strip_prefix('"')?.split_once('"')?;
        Some((Self { is_weak, opaque }, rest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 1994-11-06 08:49:37 UTC, and half a second.
    const MODIFIED: Duration = Duration::from_millis(784_111_777_500);
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn facts() -> Facts {
        let at = SystemTime::UNIX_EPOCH + MODIFIED;
        Facts { inode: 7, length: 1000, modified: at, changed: at }
    }

    fn settled() -> Validators {
        Validators::of(&facts(), Etag::State, SystemTime::UNIX_EPOCH + MODIFIED + TOLD_AFTER)
    }

    fn fresh() -> Validators {
        Validators::of(&facts(), Etag::State, SystemTime::UNIX_EPOCH + MODIFIED)
    }

    #[test]
    fn each_change_of_a_file_changes_its_tag() {
        let later = facts().changed + Duration::from_nanos(1);
        for other in [
            Facts { inode: 8, ..facts() },
            Facts { length: 1001, ..facts() },
            Facts { modified: later, ..facts() },
            Facts { changed: later, ..facts() },
        ] {
            let now = SystemTime::UNIX_EPOCH + MODIFIED + SETTLED_AFTER * 2;
            assert_ne!(Validators::of(&other, Etag::State, now).etag(), settled().etag(), "{other:?}");
        }
    }

    #[test]
    fn a_tag_is_the_same_whoever_built_the_program() {
        // The examples of the draft.
        assert_eq!(fnv1a(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
        assert_eq!(fnv1a(b"foobar"), 0x343e_1662_793c_64bf_6f0d_3597_ba44_6f18);
        assert_eq!(settled().etag(), "\"9869facb3d6c1f93006ec3c8a4b82006\"");
    }

    #[test]
    fn what_is_compressed_here_has_a_weak_tag_of_its_own() {
        let coded = settled().coded("br");
        assert_eq!(coded.etag(), format!("W/\"{}-br\"", settled().tag));
        assert_verdict(&coded, &["if-none-match: TAG"], Verdict::NotModified);
        assert_verdict(&coded, &["if-match: TAG"], Verdict::Failed);
        assert_verdict(&settled(), &[&format!("if-none-match: {}", coded.etag())], Verdict::Send);
    }

    #[test]
    fn a_tag_is_weak_while_a_second_change_could_look_like_the_first() {
        assert!(fresh().etag().starts_with("W/\""));
        assert_eq!(fresh().etag(), format!("W/{}", settled().etag()));
    }

    #[test]
    fn a_date_is_in_whole_seconds_and_never_in_the_future() {
        assert_eq!(settled().last_modified().unwrap().to_string(), DATE);
        let clock_behind = SystemTime::UNIX_EPOCH + MODIFIED - Duration::from_secs(1);
        for now in [clock_behind, SystemTime::UNIX_EPOCH + MODIFIED] {
            let told = SystemTime::from(Validators::of(&facts(), Etag::State, now).last_modified().unwrap());
            assert!(told + Duration::from_secs(1) < now, "its second is over");
        }
    }

    #[test]
    fn a_file_of_1970_or_before_has_no_date() {
        for before in [0, 1] {
            let modified = SystemTime::UNIX_EPOCH - Duration::from_secs(before);
            let validators = Validators::of(&Facts { modified, ..facts() }, Etag::State, SystemTime::now());
            assert!(validators.last_modified().is_none());
            for header in ["if-modified-since", "if-unmodified-since"] {
                assert_verdict(&validators, &[&format!("{header}: {LATER}")], Verdict::Send);
                assert_verdict(&validators, &[&format!("{header}: Thu, 01 Jan 1970 00:00:00 GMT")], Verdict::Send);
            }
            let if_range = "if-range: Thu, 01 Jan 1970 00:00:00 GMT";
            assert_verdict(&validators, &[if_range], Verdict::SendWhole);
        }
    }

    #[test]
    fn a_date_that_stayed_while_the_file_changed_is_no_validator() {
        // Unpacked an hour later, with the date that it had in the archive.
        let changed = SystemTime::UNIX_EPOCH + MODIFIED + Duration::from_secs(3600);
        let replaced = Validators::of(&Facts { changed, ..facts() }, Etag::State, changed + Duration::from_secs(60));
        assert_eq!(replaced.last_modified().unwrap().to_string(), DATE);
        assert_verdict(&replaced, &[&format!("if-range: {DATE}")], Verdict::SendWhole);
        assert_verdict(&replaced, &[&format!("if-modified-since: {DATE}")], Verdict::Send);
        assert_verdict(&replaced, &[&format!("if-unmodified-since: {DATE}")], Verdict::Failed);
        assert_verdict(&replaced, &["if-range: TAG"], Verdict::Send);
        // Since the second after it was unpacked nothing has changed, whatever its date is.
        for (seconds, modified) in [(0, Verdict::Send), (1, Verdict::NotModified), (61, Verdict::Send)] {
            let date = httpdate::fmt_http_date(changed + Duration::from_secs(seconds));
            assert_verdict(&replaced, &[&format!("if-modified-since: {date}")], modified);
        }
    }

    /// Headers as `name: value`, in which TAG stands for the file's tag.
    #[track_caller]
    fn assert_verdict(validators: &Validators, headers: &[&str], expected: Verdict) {
        let tag = format!("\"{}\"", validators.tag);
        let headers: Vec<String> = headers.iter().map(|header| header.replace("TAG", &tag)).collect();
        let mut conditions = Conditions::default();
        for header in &headers {
            let (name, value) = header.split_once(": ").unwrap();
            let value = Some(value);
            match name {
                "if-match" => conditions.matching = value,
                "if-unmodified-since" => conditions.unmodified_since = value,
                "if-none-match" => conditions.none_match = value,
                "if-modified-since" => conditions.modified_since = value,
                "if-range" => conditions.range = value,
                _ => panic!("{name}"),
            }
        }
        assert_eq!(judge(conditions, validators), expected, "{headers:?}");
    }

    #[test]
    fn conditions_have_their_meaning_and_their_precedence() {
        use Verdict::{Failed, NotModified, Send, SendWhole};
        let date = |name: &str, date: &str| format!("{name}: {date}");
        let (unmodified, modified) = (|at| date("if-unmodified-since", at), |at| date("if-modified-since", at));
        let cases: Vec<(Vec<String>, Verdict)> = vec![
            (vec![], Send),
            (vec!["if-match: TAG".into()], Send),
            (vec!["if-match: *".into()], Send),
            (vec!["if-match: \"a\", TAG".into()], Send),
            (vec!["if-match: \"a,b\" , ,TAG".into()], Send),
            (vec!["if-match: W/TAG".into()], Failed),
            (vec!["if-match: \"a\"".into()], Failed),
            (vec!["if-match: garbage, TAG".into()], Failed),
            (vec!["if-match: \"TAG".into()], Failed),
            (vec!["if-match:  ".into()], Failed),
            (vec![unmodified(DATE)], Send),
            (vec![unmodified(LATER)], Send),
            (vec![unmodified(EARLIER)], Failed),
            (vec![unmodified("yesterday")], Send),
            (vec!["if-match: TAG".into(), unmodified(EARLIER)], Send),
            (vec!["if-match: \"a\"".into(), unmodified(LATER)], Failed),
            (vec!["if-none-match: TAG".into()], NotModified),
            (vec!["if-none-match: W/TAG".into()], NotModified),
            (vec!["if-none-match: \"a\", W/TAG".into()], NotModified),
            (vec!["if-none-match: *".into()], NotModified),
            (vec!["if-none-match: \"a\"".into()], Send),
            (vec!["if-none-match: garbage".into()], Send),
            (vec![modified(DATE)], NotModified),
            (vec![modified(LATER)], NotModified),
            (vec![modified(EARLIER)], Send),
            (vec![modified("Sunday, 06-Nov-94 08:49:37 GMT")], NotModified),
            (vec![modified("Sun Nov  6 08:49:37 1994")], NotModified),
            (vec![modified("784111777")], Send),
            (vec!["if-none-match: \"a\"".into(), modified(LATER)], Send),
            (vec!["if-none-match: TAG".into(), modified(EARLIER)], NotModified),
            (vec!["if-match: \"a\"".into(), "if-none-match: TAG".into()], Failed),
            (vec!["if-match: TAG".into(), "if-none-match: TAG".into()], NotModified),
            (vec![unmodified(EARLIER), modified(DATE)], Failed),
            (vec!["if-range: TAG".into()], Send),
            (vec!["if-range: W/TAG".into()], SendWhole),
            (vec!["if-range: \"a\"".into()], SendWhole),
            (vec!["if-range: TAG, \"a\"".into()], SendWhole),
            (vec![date("if-range", DATE)], Send),
            (vec![date("if-range", LATER)], SendWhole),
            (vec![date("if-range", EARLIER)], SendWhole),
            (vec!["if-range: never".into()], SendWhole),
            (vec!["if-range: \"a\"".into(), "if-none-match: TAG".into()], NotModified),
            (vec!["if-range: TAG".into(), "if-match: \"a\"".into()], Failed),
        ];
        for (headers, verdict) in cases {
            let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
            assert_verdict(&settled(), &headers, verdict);
        }
    }

    #[test]
    fn a_file_that_has_just_changed_is_never_pieced_together() {
        for header in ["if-range: TAG", "if-range: W/TAG", &format!("if-range: {DATE}")] {
            assert_verdict(&fresh(), &[header], Verdict::SendWhole);
        }
        assert_verdict(&fresh(), &[&format!("if-modified-since: {DATE}")], Verdict::Send);
        assert_verdict(&fresh(), &[&format!("if-unmodified-since: {DATE}")], Verdict::Failed);
        assert_verdict(&fresh(), &["if-match: TAG"], Verdict::Failed);
        assert_verdict(&fresh(), &["if-none-match: TAG"], Verdict::NotModified);
    }

    proptest! {
        #[test]
        fn lists_from_strangers_never_panic_and_other_tags_never_match(list in "(W/|\"|,| |\\*|[a-f0-9]{32}|\\PC){0,12}") {
            prop_assume!(list.trim() != "*");
            let validators = settled();
            prop_assume!(!list.contains(&validators.tag));
            let conditions = Conditions { none_match: Some(&list), ..Conditions::default() };
            prop_assert_eq!(judge(conditions, &validators), Verdict::Send);
            let conditions = Conditions { matching: Some(&list), ..Conditions::default() };
            prop_assert_eq!(judge(conditions, &validators), Verdict::Failed);
        }
    }
}
