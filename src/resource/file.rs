// SPDX-License-Identifier: Apache-2.0

//! A resources or keys file: read safely, parsed with each entry on its own.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::json::{self, Fault, Member, Position};
use crate::keyprovider::KEY_BYTES;
use crate::resource::base64;
use crate::resource::exposure::Exposure;
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::problem::{Problem, Severity};
use crate::resource::secret::Secret;
use crate::text::EntryName;

/// The largest file that is read: what ttrpc can carry in one answer (4 MiB), sixteen times. Memory
/// of a pod VM is dear, and what is larger is a mistake.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The largest file that is one resource: ttrpc can carry no larger one.
pub const MAX_WHOLE_BYTES: u64 = 4 << 20;

/// The most entries of one file, far above any use, so that memory for names is bounded too.
pub const MAX_ENTRIES: usize = 100_000;

/// How long a file's time stamps may fail to tell a second change from the first: before Linux 6.13
/// they advance by the timer's tick of up to 10 ms. A file that changed less than this before it was
/// read is read again at the next check.
const CLOCK_DOUBT: Duration = Duration::from_millis(50);

/// How often a file that changes while it is read is read again, before it counts as unreadable for
/// now. A part of the old content with a part of the new must not be served.
const READ_ATTEMPTS: usize = 3;

/// What a file, or a directory of files, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Resources by name: a JSON object of base64.
    Resources,
    /// Keys that encrypt image layers' keys, by key id, in the same form. Each has 32 bytes.
    Keys,
    /// One resource: the file's bytes as they are.
    Whole(Name),
    /// A directory of such files, whose paths are the names.
    Directory,
}

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// The identity of the file at `path` as it is now, symbolic links followed.
    ///
    /// # Errors
    ///
    /// As `stat` fails: absent, or a directory on the way that may not be entered.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether a change right after `now` would show in the identity.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (seconds.try_into(), nanoseconds.try_into()) else {
            return false;
        };
        now.abs_diff(Duration::new(seconds, nanoseconds)) > CLOCK_DOUBT
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file's bytes with what they were read from.
pub struct Content {
    /// The bytes, wiped when dropped.
    pub text: Zeroizing<Vec<u8>>,
    /// The file that they were read from.
    pub identity: Identity,
    /// Whether the identity is sure to change with the next change of the file.
    pub settled: bool,
    /// What else about the file is worth saying.
    pub exposures: Vec<Exposure>,
}

/// Reads the file at `path`, which must be regular and at most [`MAX_FILE_BYTES`] long.
///
/// # Errors
///
/// `NotFound` or `NotADirectory` where it is absent; otherwise an error whose text says what is
/// wrong without the path.
pub fn read(path: &Path) -> io::Result<Content> {
    read_within(path, None)
}

/// Reads the same file if it is below `root`, whatever links led to it.
///
/// # Errors
///
/// As for [`read`]; and where it is elsewhere.
pub fn read_within(path: &Path, root: Option<&Path>) -> io::Result<Content> {
    for _ in 0..READ_ATTEMPTS {
        // Without O_NONBLOCK a FIFO would hang the only thread.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(path)?;
        if let Some(root) = root {
            // What was opened counts, not what was there when the directory was listed.
            let opened = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            if !opened.starts_with(root) {
                return Err(io::Error::other("a link out of the directory"));
            }
        }
        let before = file.metadata()?;
        let identity = Identity::from(&before);
        let settled = identity.is_settled(SystemTime::now());
        let text = read_regular(&file, &before)?;
        // Where the clock would not show a change during the read, a second read may.
        let whole = settled || {
            file.rewind()?;
            *read_regular(&file, &before)? == *text
        };
        if whole && identity == Identity::from(&file.metadata()?) {
            return Ok(Content {
                text,
                identity,
                settled,
                exposures: Exposure::of(&file, &before),
            });
        }
    }
    Err(io::Error::other("it is being written to all the time"))
}

fn no_memory(bytes: usize) -> io::Error {
    io::Error::other(format!("no memory for its {bytes} bytes"))
}

fn read_regular(file: &File, metadata: &Metadata) -> io::Result<Zeroizing<Vec<u8>>> {
    if !metadata.is_file() {
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        return Err(io::Error::other(format!("{kind}, not a regular file")));
    }
    let too_large = |bytes| {
        io::Error::other(format!(
            "{bytes} bytes long, over the cap of {MAX_FILE_BYTES}"
        ))
    };
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large(metadata.len()));
    }
    // One byte more than the file has: the end is then seen without growing, which would leave an
    // unwiped copy.
    let capacity = usize::try_from(metadata.len()).map_err(io::Error::other)? + 1;
    let mut text = Zeroizing::new(Vec::new());
    // Where memory is limited, a file that is too large for it is an error and no end of the process.
    text.try_reserve_exact(capacity)
        .map_err(|_| no_memory(capacity))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(text.len() as u64));
    }
    Ok(text)
}

/// The decoded bytes of an entry, or why there are none.
pub type Value = Result<Secret, String>;

/// The entries of a file, apart by the two ways to write a name.
#[derive(Default)]
pub struct Entries {
    /// Those written as a path, a URI, or by any other text.
    pub by_path: BTreeMap<Name, Value>,
    /// Those written by an old name; here too the name is the path.
    pub by_old_name: BTreeMap<Name, Value>,
    /// What is wrong with single entries.
    pub problems: Vec<Problem>,
}

impl Entries {
    /// How many names there are.
    pub fn len(&self) -> usize {
        let only_old = self.by_old_name.keys();
        let only_old = only_old.filter(|name| !self.by_path.contains_key(name));
        self.by_path.len() + only_old.count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Parses a file's text: a JSON object of base64, or one resource as it is.
///
/// An entry that is wrong is kept as such and reported among the problems; the others are not
/// touched. Of a name that comes twice the last value counts.
///
/// # Errors
///
/// The one problem of a file that can't be used as a whole: because it is no JSON object, or as a
/// credential one that is half-written.
pub fn parse(text: Zeroizing<Vec<u8>>, kind: &Kind) -> Result<Entries, Problem> {
    match kind {
        Kind::Whole(name) => whole(text, name),
        Kind::Resources | Kind::Keys | Kind::Directory => parse_object(&text, kind),
    }
}

/// The one resource that the file is.
fn whole(text: Zeroizing<Vec<u8>>, name: &Name) -> Result<Entries, Problem> {
    // A credential that is being written must not take away what was good, as with every other file.
    let is_json = text
        .trim_ascii_start()
        .first()
        .is_none_or(|&first| first == b'{');
    if name.as_str() == CREDENTIAL && is_json {
        json::members(&text, MAX_ENTRIES).map_err(|error| not_an_object(error, AUTH_FILE_MEND))?;
    }
    if text.is_empty() {
        // It is being written, or was left so: no reason to take away what was good.
        let mend = "the file was left empty or is half-written: write it again";
        return Err(Problem::of_file(Severity::Error, "empty", "empty", mend));
    }
    let mut entries = Entries::default();
    entries.by_path.insert(name.clone(), Ok(Secret::new(text)));
    Ok(entries)
}

/// Parses the text of a resources or keys file: a JSON object of base64.
///
/// # Errors
///
/// As for [`parse`].
pub fn parse_object(text: &[u8], kind: &Kind) -> Result<Entries, Problem> {
    let members = json::members(text, MAX_ENTRIES)
        .map_err(|error| not_an_object(error, mend_object(kind)))?;
    let mut entries = Entries::default();
    let mut names: BTreeMap<Name, String> = BTreeMap::new();
    let mut old_positions: BTreeMap<Name, Position> = BTreeMap::new();

    for member in members {
        let problem = |severity, code, what: String, mend: &str| {
            Problem::of_file(severity, code, what, mend)
                .about_entry(&member.name, Some(member.position))
        };
        let name = match Name::parse(&member.name) {
            Ok(name) => name,
            // An id of a key is any text.
            Err(_) if *kind == Kind::Keys => Name::Other(member.name.as_str().into()),
            Err(error) => {
                let mend = "name it <repository>/<type>/<tag>";
                let what = format!("{error}; it is not served");
                entries
                    .problems
                    .push(problem(Severity::Error, "name-plugin", what, mend));
                continue;
            }
        };
        let value = value(&member, kind);
        match &value {
            Ok(value) if value.is_empty() => entries.problems.push(problem(
                Severity::Warning,
                "value-empty",
                "the value is empty and is served so".to_owned(),
                mend_value(kind),
            )),
            Ok(_) => {}
            Err((code, reason)) => {
                let meaning = match (kind, name.as_str()) {
                    (Kind::Keys, _) => "layers that need it can't be decrypted",
                    (_, CREDENTIAL) => "requests for it are refused, and clients pull anonymously",
                    _ => "requests for it are refused",
                };
                let what = format!("{reason}; {meaning}");
                let mend = mend_value(kind);
                entries
                    .problems
                    .push(problem(Severity::Error, code, what, mend));
            }
        }
        let value = value.map_err(|(_, reason)| reason);
        let twice = if Name::is_old(&member.name) {
            old_positions.insert(name.clone(), member.position);
            let before = entries.by_old_name.insert(name, value);
            before.map(|_| TWICE.to_owned())
        } else {
            let before = names.insert(name.clone(), member.name.clone());
            entries.by_path.insert(name, value);
            before.map(|before| {
                if before == member.name {
                    return TWICE.to_owned();
                }
                let before = EntryName(&before);
                format!("the same resource as {before} above; the last value counts")
            })
        };
        if let Some(what) = twice {
            let mend = "leave one of them";
            entries
                .problems
                .push(problem(Severity::Warning, "name-twice", what, mend));
        }
    }

    for (name, old) in &entries.by_old_name {
        let (Ok(old), Some(Ok(new))) = (old, entries.by_path.get(name)) else {
            continue;
        };
        if old.expose() != new.expose() {
            let path = EntryName(name.as_str());
            let conflict = Problem::of_file(
                Severity::Warning,
                "name-conflict",
                format!("the same resource as {path}, with another value; {path} counts"),
                "remove this one",
            );
            let entry = name.old().unwrap_or_default();
            let position = old_positions.get(name).copied();
            entries.problems.push(conflict.about_entry(entry, position));
        }
    }
    Ok(entries)
}

const TWICE: &str = "the name comes more than once; the last value counts";

fn not_an_object(error: json::Error, otherwise: &str) -> Problem {
    let (code, mend) = match error.what {
        Fault::LineBreakInString => (
            "line-break",
            "encode with `base64 -w 0`, which breaks no lines",
        ),
        Fault::Empty => (
            "empty",
            "the file was left empty or is half-written: write it again",
        ),
        Fault::CutOff => (
            "cut-off",
            "the file is half-written or cut off: write it again",
        ),
        Fault::ByteOrderMark | Fault::NotUtf8 => {
            ("encoding", "save it as UTF-8 without a byte order mark")
        }
        Fault::TooManyMembers(_) => (
            "too-many",
            "split the file, or remove what no client asks for",
        ),
        Fault::NotAnObject(_) | Fault::Syntax(_) => ("not-json", otherwise),
    };
    let mut problem = Problem::of_file(Severity::Error, code, error.what.to_string(), mend);
    problem.entry = error.member;
    problem.position = error.position;
    problem
}

/// What a credential is made by.
const AUTH_FILE_MEND: &str = "make it with `skopeo login --authfile auth.json REGISTRY`";

fn mend_object(kind: &Kind) -> &'static str {
    match kind {
        Kind::Keys => r#"write {"<key id>": "<output of openssl rand -base64 32>"}"#,
        _ => {
            r#"write {"default/credential/test": "<output of base64 -w 0>"}, or use `offline-fs-kbc pack`"#
        }
    }
}

fn mend_value(kind: &Kind) -> &'static str {
    match kind {
        Kind::Keys => "put the key's 32 bytes there, as by `openssl rand -base64 32`",
        _ => "put the output of `base64 -w 0 FILE` there",
    }
}

/// The decoded value of one entry, or what is wrong with it: its code, and the words.
fn value(member: &Member<'_>, kind: &Kind) -> Result<Secret, (&'static str, String)> {
    let Some(inner) = member
        .value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        let first = member.value.bytes().next().unwrap_or_default();
        let found = json::other_kind(first).unwrap_or("an object");
        return Err((
            "not-a-string",
            format!("{found} instead of a string of base64"),
        ));
    };
    let decoded = if inner.contains('\\') {
        let unescaped: Zeroizing<String> =
            serde_json::from_str(member.value)
                .map(Zeroizing::new)
                .map_err(|_| ("not-a-string", "a string with a broken escape".to_owned()))?;
        base64::decode(&unescaped)
    } else {
        base64::decode(inner)
    };
    let bytes = decoded.map_err(|error| ("base64", error.to_string()))?;
    if *kind == Kind::Keys && bytes.len() != KEY_BYTES {
        let len = bytes.len();
        let what = format!("decodes to {len} bytes; a key has {KEY_BYTES}");
        return Err(("key-size", what));
    }
    Ok(Secret::new(bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn owned(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    fn resources(text: &str) -> Entries {
        parse(owned(text), &Kind::Resources).unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn credential(entries: &Entries) -> Result<Vec<u8>, String> {
        let name = Name::parse(CREDENTIAL).unwrap();
        let value = entries.by_path.get(&name);
        let value = value.or(entries.by_old_name.get(&name)).unwrap();
        value.clone().map(|value| value.expose().to_vec())
    }

    /// One broken entry must not cost the others; each is reported with name, place and mend.
    #[test]
    fn a_broken_entry_stands_alone() {
        let entries = resources(
            "{\"Credential\": \"aGVsbG8\",\n \"a/b/bad\": \"aG!s\", \"a/b/list\": [1],\n \"a/b/ok\": \"eA==\"}",
        );
        assert_eq!(credential(&entries).unwrap(), b"hello");
        assert_eq!(entries.len(), 4);
        let shown: Vec<_> = entries.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "line 2 column 13: entry \"a/b/bad\": not base64: offset 2 has a character outside the alphabet; requests for it are refused; put the output of `base64 -w 0 FILE` there",
                "line 2 column 33: entry \"a/b/list\": an array instead of a string of base64; requests for it are refused; put the output of `base64 -w 0 FILE` there",
            ]
        );
    }

    #[test]
    fn the_last_duplicate_counts_and_is_reported() {
        for text in [
            r#"{"Credential":"YQ==","Credential":"aGVsbG8="}"#,
            r#"{"default/credential/test":"YQ==","/default/credential/test":"aGVsbG8="}"#,
        ] {
            let entries = resources(text);
            assert_eq!(credential(&entries).unwrap(), b"hello");
            assert_eq!(entries.problems.len(), 1, "{:?}", entries.problems);
        }
    }

    /// Both names with different values are reported; with one value, or one of them broken, there is
    /// nothing to choose.
    #[test]
    fn old_name_and_path_in_conflict_are_reported() {
        let good = "aGVsbG8=";
        for (old, path, problems) in [
            ("YQ==", good, 1),
            (good, good, 0),
            (good, "!", 1),
            ("!", good, 1),
        ] {
            for text in [
                format!(r#"{{"Credential":"{old}","default/credential/test":"{path}"}}"#),
                format!(r#"{{"default/credential/test":"{path}","Credential":"{old}"}}"#),
            ] {
                let entries = resources(&text);
                assert_eq!(entries.len(), 1, "{text}");
                assert_eq!(entries.problems.len(), problems, "{text}");
            }
        }
    }

    /// A value that changes at every look is never put together from parts.
    #[test]
    fn a_file_that_is_being_written_is_never_read_in_part() {
        use std::os::unix::fs::FileExt as _;
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, vec![b'a'; 256 << 10]).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = OpenOptions::new().write(true).open(&path).unwrap();
            let stop = &stop;
            scope.spawn(move || {
                for byte in (b'a'..=b'z').cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    writer.write_all_at(&vec![byte; 256 << 10], 0).unwrap();
                }
            });
            for _ in 0..50 {
                if let Ok(content) = read(&path) {
                    let first = content.text[0];
                    let whole = content.text.iter().all(|&byte| byte == first);
                    stop.fetch_or(!whole, Ordering::Relaxed);
                    assert!(whole, "parts of two contents");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// JSON encoders may escape the slash, and a line break may stand escaped.
    #[test]
    fn escapes_are_undone() {
        let entries = resources(r#"{"Credential":"Pz8\/\nPz8/"}"#);
        assert_eq!(credential(&entries).unwrap(), b"??????");
    }

    #[test]
    fn a_key_has_32_bytes() {
        let long = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let text = format!(r#"{{"good":"{long}","short":"AAAA"}}"#);
        let entries = parse(owned(&text), &Kind::Keys).ok().unwrap();
        assert_eq!(entries.problems.len(), 1);
        assert!(
            entries.problems[0]
                .to_string()
                .contains("\"short\": decodes to 3 bytes")
        );
    }

    #[test]
    fn a_file_in_lines_names_the_mend() {
        let problem = parse(owned("{\"Credential\":\"aGVs\nbG8=\"}"), &Kind::Resources)
            .err()
            .unwrap();
        let shown = problem.to_string();
        assert!(
            shown.contains("base64 -w 0") && shown.contains("\"Credential\""),
            "{shown}"
        );
    }

    /// Only regular files are read, and none that would fill the memory.
    #[test]
    fn what_is_read_is_regular_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = dir.path().join("large");
        File::create(&large)
            .unwrap()
            .set_len(MAX_FILE_BYTES + 1)
            .unwrap();
        for (path, text) in [
            (fifo.as_path(), "a FIFO, not a regular file"),
            (dir.path(), "a directory, not a regular file"),
            (
                large.as_path(),
                "67108865 bytes long, over the cap of 67108864",
            ),
            (Path::new("/dev/null"), "a device, not a regular file"),
        ] {
            assert_eq!(read(path).err().unwrap().to_string(), text);
        }
    }

    /// A file that changed a moment ago may change again unseen; one that rested may not.
    #[test]
    fn a_fresh_file_is_unsettled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "{}").unwrap();
        let identity = Identity::of(&path).unwrap();
        let changed =
            UNIX_EPOCH + Duration::new(identity.changed.0 as u64, identity.changed.1 as u32);
        assert!(!identity.is_settled(changed + Duration::from_millis(49)));
        assert!(!identity.is_settled(changed - Duration::from_millis(49)));
        assert!(identity.is_settled(changed + Duration::from_millis(51)));
        assert!(identity.is_settled(UNIX_EPOCH));
    }
}
