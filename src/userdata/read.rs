// SPDX-License-Identifier: Apache-2.0

//! What cloud-init makes of user data: bytes in, the files that it writes out.

use std::borrow::Cow;
use std::rc::Rc;

use zeroize::Zeroizing;

use crate::encoding::{Gunzip, MAX_BYTES, gunzip, is_gzip};
use crate::resource::problem::{Problem, Severity};
use crate::userdata::files::{self, Written};
use crate::userdata::merge::{Mergers, Outcome};
use crate::userdata::part::{Found, Kind, Part, label};
use crate::userdata::{FIRST_LINE, PLATFORMS, mime, peerpod};
use crate::yaml::{self, Node, Source, Value};
use common::base64;

/// How many parts an archive has at most that are read.
const MAX_ARCHIVED: usize = 100;

/// What user data is.
pub struct UserData {
    /// What it is, for a title.
    pub title: String,
    /// The files that cloud-init writes.
    pub files: Vec<Written>,
    /// What is wrong with it as a whole.
    pub problems: Vec<Problem>,
}

/// Whether some data is user data of any form, packed or not.
pub fn is_user_data(data: &[u8]) -> bool {
    let opened = open(data);
    begins_as_user_data(&opened.bytes)
}

fn begins_as_user_data(bytes: &[u8]) -> bool {
    let start = bytes.get(..mime::LOOKED_AT).unwrap_or(bytes);
    let start = String::from_utf8_lossy(start);
    let header = start
        .split('\n')
        .next()
        .and_then(|line| line.split_once(':'));
    let is_header = header.is_some_and(|(name, _)| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
    });
    let is_message = mime::is_mime(bytes) || is_multipart(&start);
    Kind::of_beginning(&start).is_some() || (is_header && is_message)
}

/// Whether a text has the header of a multipart message before its first empty line.
fn is_multipart(text: &str) -> bool {
    let headers = text.lines().take_while(|line| !line.is_empty());
    let mut headers = headers.map(str::to_ascii_lowercase);
    headers.any(|line| line.starts_with("content-type:") && line.contains("multipart/"))
}

/// User data without what it is packed in.
struct Opened<'a> {
    bytes: Cow<'a, [u8]>,
    /// How many bytes a platform takes for it.
    size: usize,
    base64: bool,
    gzip: Option<Result<(), Gunzip>>,
}

fn open(data: &[u8]) -> Opened<'_> {
    let inner = |bytes: &[u8]| match is_gzip(bytes) {
        true => gunzip(bytes).is_ok_and(|inner| begins_as_user_data(&inner)),
        false => begins_as_user_data(bytes),
    };
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=\r\n \t".contains(byte);
    let decoded = Some(data)
        .filter(|data| data.len() <= MAX_BYTES && data.iter().all(is_base64))
        .and_then(|data| base64::decode(std::str::from_utf8(data).ok()?).ok())
        .filter(|bytes| inner(bytes));
    let base64 = decoded.is_some();
    let packed = match decoded {
        Some(bytes) => Cow::Owned(bytes.to_vec()),
        None => Cow::Borrowed(data),
    };
    let size = packed.len();
    let (bytes, gzip) = match is_gzip(&packed).then(|| gunzip(&packed)) {
        None => (packed, None),
        Some(Ok(bytes)) => (Cow::Owned(bytes.to_vec()), Some(Ok(()))),
        Some(Err(error)) => (packed, Some(Err(error))),
    };
    Opened {
        bytes,
        size,
        base64,
        gzip,
    }
}

/// Reads user data as cloud-init does.
pub fn read(data: &[u8]) -> UserData {
    let opened = open(data);
    let mut reader = Reader::default();
    let what = reader.opened(&opened);
    let title = match (opened.base64, opened.gzip.is_some()) {
        (false, false) => what.to_owned(),
        (true, false) => format!("{what}, in base64"),
        (false, true) => format!("{what}, in gzip"),
        (true, true) => format!("{what}, in gzip and base64"),
    };
    let Reader {
        mut found,
        list,
        fails,
        is_foreign,
    } = reader;
    let files = match &list {
        Some((list, _)) if !fails => files::written(list, &mut found),
        _ => Vec::new(),
    };
    found.problems.extend(files::misplaced(&files));
    // Of what is a script or the like as a whole, one note says all.
    let is_said =
        list.is_none() && matches!(&found.problems[..], [only] if only.code == "user-data-unread");
    if !is_foreign && !is_said && !files.iter().any(|file| files::is_served(&file.path)) {
        files::none_served(&mut found);
    }
    found.problems.extend(peerpod::not_written(&files));
    UserData {
        title,
        files,
        problems: found.problems,
    }
}

#[derive(Default)]
struct Reader {
    found: Found,
    /// The value of `write_files` so far, with the label of the part that it is from.
    list: Option<(Rc<Node>, String)>,
    /// Whether cloud-init fails at it.
    fails: bool,
    /// Whether it is nothing that cloud-init knows, so that no more has to be said.
    is_foreign: bool,
}

impl Reader {
    /// Reads what was unpacked; gives its name for a title.
    fn opened(&mut self, opened: &Opened<'_>) -> &'static str {
        const ANY: &str = "user data";
        self.sizes(opened.size);
        if opened.base64 {
            self.found.add(
                Severity::Note,
                "user-data-base64",
                "it is in base64, as the interfaces of some clouds want it, which decode it; where nothing decodes it (NoCloud, \
                 libvirt), cloud-init writes no file of it",
                "give a platform that does not decode it the output of `base64 -d FILE`",
            );
        }
        match opened.gzip {
            Some(Err(Gunzip::Broken)) => {
                self.is_foreign = true;
                self.found.add(
                    Severity::Error,
                    "user-data-header",
                    "it begins as gzip and is broken or cut off; cloud-init writes no file of it",
                    "write it again with `gzip -c FILE`",
                );
                return ANY;
            }
            Some(Err(Gunzip::TooLarge)) => {
                self.too_large();
                return ANY;
            }
            _ => {}
        }
        if opened.bytes.len() > MAX_BYTES {
            self.too_large();
            return ANY;
        }
        let Ok(text) = std::str::from_utf8(&opened.bytes) else {
            if opened.bytes.starts_with(b"#!") {
                self.take(&whole(Kind::Script, "", false));
                return "user data: a shell script";
            }
            self.is_foreign = true;
            self.found.add(
                Severity::Error,
                "encoding",
                "not UTF-8; cloud-init writes no file of it",
                "save it as UTF-8",
            );
            return ANY;
        };
        let is_file = !opened.base64 && opened.gzip.is_none();
        if mime::is_mime(&opened.bytes) {
            for part in mime::parts(text, is_file, &mut self.found) {
                self.take(&part);
            }
            // The reason was said.
            let is_error = |problem: &Problem| problem.severity == Severity::Error;
            self.is_foreign = self.found.problems.iter().any(is_error) && self.list.is_none();
            return "multipart user data";
        }
        let kind = Kind::of_beginning(text);
        if kind.is_none() && self.unknown(text) {
            return ANY;
        }
        let is_known = kind.is_some();
        let kind = kind.unwrap_or(Kind::CloudConfig);
        let title = match kind {
            Kind::CloudConfig => "cloud-config user data",
            Kind::Archive => "user data: a cloud-config archive",
            Kind::Jinja => "user data: a Jinja template",
            Kind::Include => "user data: a list of URLs",
            Kind::Script => "user data: a shell script",
            Kind::Boothook => "user data: a boot hook",
            Kind::PartHandler => "user data: a part handler",
            _ => ANY,
        };
        let before = self.found.problems.len();
        self.take(&whole(kind, text, is_file));
        if !is_known && self.list.is_none() {
            // Its first line says all that is to say.
            self.found.problems.truncate(before);
            self.is_foreign = true;
        }
        title
    }

    fn too_large(&mut self) {
        let what = format!("more than {MAX_BYTES} bytes, which are not read here");
        self.found.unread(what, "check the files on their own");
    }

    fn sizes(&mut self, size: usize) {
        for platform in PLATFORMS.iter().filter(|platform| !platform.takes(size)) {
            let what = format!(
                "{} bytes, as {} measures it, which takes {}; there the VM does not start or gets none of it",
                platform.measure(size),
                platform.name,
                platform.most
            );
            let fix =
                "leave out registries that the VM doesn't need, or bake the file into the image";
            self.found
                .add(Severity::Warning, "user-data-size", what, fix);
        }
    }

    /// Says what is wrong with the first line of what cloud-init takes for nothing; whether that is all there is
    /// to say.
    fn unknown(&mut self, text: &str) -> bool {
        let (what, fix, is_all) = if text.starts_with('\u{feff}') {
            (
                "it begins with a byte order mark; cloud-init does not find its first line and writes no file of it",
                "save it as UTF-8 without a byte order mark",
                true,
            )
        } else if is_multipart(text) {
            (
                "a multipart message without the header MIME-Version in its first 4096 bytes, by which cloud-init knows it; it \
                 writes no file of it",
                "write the line `MIME-Version: 1.0` below the header Content-Type",
                true,
            )
        } else if is_nearly_jinja(text) {
            (
                "its first line is nearly that of a Jinja template, and cloud-init knows that by its very spelling; it writes no \
                 file of it",
                "write `## template: jinja` as the first line",
                true,
            )
        } else if text.trim_start().starts_with('{') && text.contains("\"ignition\"") {
            self.found.unread(
                "an Ignition config, which Ignition reads, and cloud-init does not",
                "check the files that it writes on their own",
            );
            return true;
        } else {
            (
                "its first line is not #cloud-config; cloud-init writes no file of it",
                "write #cloud-config as the first line, with nothing before it",
                false,
            )
        };
        self.is_foreign = is_all;
        self.found
            .add(Severity::Error, "user-data-header", what, fix);
        is_all
    }

    fn take(&mut self, part: &Part) {
        match part.kind {
            Kind::CloudConfig => self.config(part, &part.text, 0, false),
            Kind::Archive => self.archive(part),
            Kind::Jinja => self.template(part),
            _ => self.found.unread_part(part),
        }
    }

    /// A template, without its first line.
    fn template(&mut self, part: &Part) {
        let rest = part.text.split_once('\n').map_or("", |(_, rest)| rest);
        let unread = |found: &mut Found, what: &str| {
            found.unread(
                format!("{}{what}", part.label),
                "check what it renders to (`cloud-init devel render` in the VM)",
            );
        };
        if rest.contains("{%") || rest.contains("{#") {
            let what = "a Jinja template with statements, which are carried out at boot; what it writes is not known here";
            unread(&mut self.found, what);
            return;
        }
        match Kind::of_beginning(rest) {
            Some(Kind::CloudConfig) => {}
            None if rest.contains("{{") => {
                let what = "a Jinja template whose first line is known only at boot";
                return unread(&mut self.found, what);
            }
            Some(Kind::Script) => {
                return unread(
                    &mut self.found,
                    "a template of a shell script, which runs at boot",
                );
            }
            _ => {
                self.found.add(
                    Severity::Error,
                    "user-data-header",
                    format!(
                        "{}the second line of the template is not {FIRST_LINE}; cloud-init writes no file of it",
                        part.label
                    ),
                    "write #cloud-config below the line `## template: jinja`",
                );
                return;
            }
        }
        self.config(part, rest, 1, true);
    }

    /// Cloud-config: `lines` of the part are before the text.
    fn config(&mut self, part: &Part, text: &str, lines: usize, is_template: bool) {
        let Some(root) = self.load(part, text, lines, is_template) else {
            return;
        };
        if !matches!(root.value, Value::Mapping(_)) {
            let what = format!(
                "{}{} and not a mapping; cloud-init writes no file of it",
                part.label,
                root.value.name()
            );
            self.yaml(
                root.position,
                what,
                "write `write_files:` and the list of files below it",
            );
            return;
        }
        let Some(mergers) = Mergers::of(&root, &part.merge_type) else {
            self.found.add(
                Severity::Error,
                "user-data-merge",
                format!(
                    "{}cloud-init can't read how to merge it, and leaves it out",
                    part.label
                ),
                "write `list(append)+dict(recurse_list)+str()`",
            );
            return;
        };
        self.merge(part, root.get("write_files"), &mergers);
    }

    fn merge(&mut self, part: &Part, new: Option<&Rc<Node>>, mergers: &Mergers) {
        let items = |node: &Node| match &node.value {
            Value::Sequence(items) => items.len(),
            _ => 0,
        };
        let old = self.list.take();
        let (list, outcome) = mergers.key(old.as_ref().map(|(list, _)| list), new);
        let both = [old.as_ref().map(|(list, _)| list), new]
            .map(|list| list.map_or(0, |list| items(list)));
        let after = list.as_ref().map_or(0, |list| items(list));
        let first = old.map(|(_, label)| label);
        if new.is_some() && after < both[0] + both[1] {
            let before = match first.as_deref() {
                Some("") | None => "the part before",
                Some(label) => label.trim_end_matches(": "),
            };
            let what = match outcome {
                Outcome::Replaced => format!(
                    "{}its write_files replaces that of {before}, whose files cloud-init does not write",
                    part.label
                ),
                Outcome::Kept => format!(
                    "{}by its merge type cloud-init leaves its write_files out",
                    part.label
                ),
                Outcome::Joined => format!(
                    "{}its write_files replaces entries of {before}, which cloud-init does not write",
                    part.label
                ),
            };
            let fix =
                "give this part the header `Merge-Type: list(append)+dict(recurse_list)+str()`";
            self.found
                .add(Severity::Warning, "user-data-merge", what, fix);
        }
        let label = match (outcome, new) {
            (Outcome::Kept, _) | (_, None) => first.unwrap_or_else(|| part.label.clone()),
            _ => part.label.clone(),
        };
        self.list = list.map(|list| (list, label));
    }

    fn yaml(&mut self, position: Option<crate::json::Position>, what: String, fix: &str) {
        let problem = Problem::of_file(Severity::Error, "user-data-yaml", what, fix);
        self.found.problems.push(Problem {
            position,
            ..problem
        });
    }

    /// The YAML of a part; none where it is empty, or is none.
    fn load(
        &mut self,
        part: &Part,
        text: &str,
        lines: usize,
        is_template: bool,
    ) -> Option<Rc<Node>> {
        let source = Source {
            lines_before: part.lines_before.map(|before| before + lines),
            is_template,
        };
        match yaml::load(text, source) {
            Ok(root) => root.filter(|root| !root.is_null()),
            Err(error) if error.limit || (is_template && text.contains("{{")) => {
                let what = match error.limit {
                    true => format!("{}{}; it is not read here", part.label, error.what),
                    false => format!(
                        "{}a template that is YAML only once it is rendered",
                        part.label
                    ),
                };
                self.found
                    .unread(what, "check the files that it writes on their own");
                None
            }
            Err(error) => {
                let what = format!(
                    "{}not YAML: {}; cloud-init writes no file of it",
                    part.label, error.what
                );
                self.yaml(
                    error.position,
                    what,
                    "repair the place; `cloud-init schema --config-file FILE` shows what cloud-init says of it",
                );
                None
            }
        }
    }

    /// The parts of an archive. They are taken as they are: none is a list of URLs or an archive, and `text/plain` is
    /// nothing.
    fn archive(&mut self, part: &Part) {
        let Some(root) = self.load(part, &part.text, 0, false) else {
            return;
        };
        let Value::Sequence(items) = &root.value else {
            let what = format!(
                "{}{} and not a list of parts; cloud-init fails at it and writes no file",
                part.label,
                root.value.name()
            );
            self.yaml(
                root.position,
                what,
                "write `- type: text/cloud-config` and `content: |` for each part",
            );
            return;
        };
        for (index, item) in items.iter().enumerate() {
            if index == MAX_ARCHIVED {
                let what = format!(
                    "it has more than {MAX_ARCHIVED} parts; those after them are not read here"
                );
                self.found
                    .unread(what, "check each of its parts on its own");
                return;
            }
            match self.archived(item, index) {
                Some(part) => self.take(&part),
                None if self.fails => return,
                None => {}
            }
        }
    }

    /// What makes cloud-init give up on all of the user data.
    fn fail<T>(&mut self, what: String) -> Option<T> {
        self.fails = true;
        let what = format!("{what}; cloud-init fails at it and writes no file");
        let fix = "write `- type: text/cloud-config` and `content: |` for each part";
        self.found.add(Severity::Error, "user-data-part", what, fix);
        None
    }

    fn archived(&mut self, item: &Node, index: usize) -> Option<Part> {
        let is_mapping = matches!(item.value, Value::Mapping(_));
        let member = |name: &str| item.get(name).and_then(|node| node.text());
        let label = label(index + 1, member("filename"));
        let content = if is_mapping {
            item.get("content").map(|node| &**node)
        } else {
            Some(item)
        };
        let text = match (
            content.map(|node| &node.value),
            content.and_then(|node| node.text()),
        ) {
            (_, Some(text)) => text,
            (Some(Value::Bytes(bytes)), _) => std::str::from_utf8(bytes).ok()?,
            (None, _) if is_mapping => "",
            // cloud-init passes over what is neither text nor a mapping.
            _ if !is_mapping => return None,
            _ => return self.fail(format!("{label}its content is not text")),
        };
        if member("type").is_some_and(|name| !name.is_empty() && !name.contains('/')) {
            return self.fail(format!("{label}its type is no content type"));
        }
        let kind = match member("type").filter(|name| !name.is_empty()) {
            Some(name) => Kind::of_type(&name.to_ascii_lowercase()),
            None => Kind::of_beginning(text).unwrap_or(Kind::CloudConfig),
        };
        let ignored = match &kind {
            Kind::Other(name) => Some(name.as_str()),
            Kind::Archive => Some("text/cloud-config-archive"),
            Kind::Include => Some("text/x-include-url"),
            _ => None,
        };
        if let Some(name) = ignored {
            mime::ignored(&label, name, "", &mut self.found);
            return None;
        }
        let merge_type = member("Merge-Type").filter(|name| !name.is_empty());
        Some(Part {
            label,
            kind,
            text: Zeroizing::new(text.to_owned()),
            lines_before: None,
            merge_type: merge_type
                .or_else(|| member("X-Merge-Type"))
                .unwrap_or_default()
                .to_owned(),
        })
    }
}

/// All of the user data as one part.
fn whole(kind: Kind, text: &str, is_file: bool) -> Part {
    Part {
        label: String::new(),
        kind,
        text: Zeroizing::new(text.to_owned()),
        lines_before: is_file.then_some(0),
        merge_type: String::new(),
    }
}

/// `##template:jinja` and the like.
fn is_nearly_jinja(text: &str) -> bool {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let dense: String = line.split_whitespace().collect();
    dense.to_ascii_lowercase().starts_with("##template:jinja")
}
