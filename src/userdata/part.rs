// SPDX-License-Identifier: Apache-2.0

//! A part of user data: what cloud-init takes it for, and what is found in all parts.

use zeroize::Zeroizing;

use crate::resource::problem::{Problem, Severity};
use crate::text::{EntryName, count};

/// What cloud-init takes a part for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Cloud-config.
    CloudConfig,
    /// A list of parts, in YAML.
    Archive,
    /// A JSON patch of the cloud-config before it.
    JsonPatch,
    /// A Jinja template of one of the others.
    Jinja,
    /// URLs of more user data.
    Include,
    /// A script that runs at the end of the boot.
    Script,
    /// A script that runs early.
    Boothook,
    /// Python code that reads parts of other types.
    PartHandler,
    /// Nothing that it knows: the content type.
    Other(String),
}

/// How the first line tells the kind: the longest beginnings first, in lower case. `handlers/__init__.py` of
/// cloud-init has these.
const BEGINNINGS: [(&str, Kind); 9] = [
    ("#cloud-config-archive", Kind::Archive),
    ("#cloud-config-jsonp", Kind::JsonPatch),
    ("## template: jinja", Kind::Jinja),
    ("#cloud-boothook", Kind::Boothook),
    ("#include-once", Kind::Include),
    ("#cloud-config", Kind::CloudConfig),
    ("#part-handler", Kind::PartHandler),
    ("#include", Kind::Include),
    ("#!", Kind::Script),
];

impl Kind {
    /// The kind by the beginning of the text; white space before it does not count, nor does case.
    pub fn of_beginning(text: &str) -> Option<Self> {
        let text = text.trim_start().as_bytes();
        let begins = |beginning: &str| {
            let start = text.get(..beginning.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(beginning.as_bytes()))
        };
        let found = BEGINNINGS.iter().find(|(beginning, _)| begins(beginning))?;
        Some(found.1.clone())
    }

    /// The kind by a content type in lower case.
    pub fn of_type(content_type: &str) -> Self {
        match content_type {
            "text/cloud-config" => Self::CloudConfig,
            "text/cloud-config-archive" => Self::Archive,
            "text/cloud-config-jsonp" => Self::JsonPatch,
            "text/jinja2" => Self::Jinja,
            "text/x-include-url" | "text/x-include-once-url" => Self::Include,
            "text/x-shellscript"
            | "text/x-shellscript-per-boot"
            | "text/x-shellscript-per-instance"
            | "text/x-shellscript-per-once" => Self::Script,
            "text/cloud-boothook" => Self::Boothook,
            "text/part-handler" => Self::PartHandler,
            other => Self::Other(other.to_owned()),
        }
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CloudConfig => "cloud-config",
            Self::Archive => "a cloud-config archive",
            Self::JsonPatch => "a JSON patch of cloud-config",
            Self::Jinja => "a Jinja template",
            Self::Include => "a list of URLs (#include)",
            Self::Script => "a shell script",
            Self::Boothook => "a boot hook",
            Self::PartHandler => "a part handler",
            Self::Other(_) => "a part of another type",
        }
    }
}

/// A part.
pub struct Part {
    /// Its number and name for messages, with a colon and a blank; empty for what is no part of anything.
    pub label: String,
    /// What cloud-init takes it for.
    pub kind: Kind,
    /// Its text.
    pub text: Zeroizing<String>,
    /// How many lines of the file are before it; none where it does not stand there as it is.
    pub lines_before: Option<usize>,
    /// Its header `Merge-Type`.
    pub merge_type: String,
}

/// The label of a part.
pub fn label(number: usize, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("part {number} ({}): ", EntryName(name)),
        None => format!("part {number}: "),
    }
}

/// What was found so far.
#[derive(Default)]
pub struct Found {
    /// The problems.
    pub problems: Vec<Problem>,
    /// Whether something was not read that may write files.
    pub unread: bool,
}

impl Found {
    /// One more problem of the whole, or of the part of this label.
    pub fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        what: impl Into<String>,
        fix: &str,
    ) {
        self.problems
            .push(Problem::of_file(severity, code, what, fix));
    }

    /// Something that can't be read here. That is no mistake, but what it does is unknown.
    pub fn unread(&mut self, what: impl Into<String>, fix: &str) {
        self.unread = true;
        self.add(Severity::Note, "user-data-unread", what, fix);
    }

    /// The same, of a part that is not cloud-config.
    pub fn unread_part(&mut self, part: &Part) {
        let (what, fix) = match part.kind {
            Kind::Include => {
                let urls = part.text.lines().map(str::trim);
                let urls = urls.filter(|line| {
                    !line.is_empty()
                        && (!line.starts_with('#') || line.to_ascii_lowercase().contains("://"))
                });
                (
                    format!(
                        "the VM fetches more user data at boot, from {}; what that writes is not known here",
                        count(urls.count(), "URL", "URLs")
                    ),
                    "check what is behind the URLs on its own",
                )
            }
            Kind::JsonPatch => (
                "a JSON patch (#cloud-config-jsonp) changes the cloud-config before it; the result is not known here"
                    .to_owned(),
                "check the cloud-config with the patch applied",
            ),
            _ => (
                format!(
                    "{} runs at boot; which files it writes is not known here",
                    part.kind.name()
                ),
                "check the files that it writes on their own",
            ),
        };
        self.unread(format!("{}{what}", part.label), fix);
    }
}
