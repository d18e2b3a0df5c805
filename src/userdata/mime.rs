// SPDX-License-Identifier: Apache-2.0

//! The parts of multipart user data, as `user_data.py` of cloud-init takes them apart.

use mailparse::body::Body;
use mailparse::{MailHeaderMap as _, ParsedMail};
use zeroize::Zeroizing;

use crate::encoding::{Gunzip, base64_as_python, gunzip};
use crate::resource::problem::Severity;
use crate::text::EntryName;
use crate::userdata::part::{Found, Kind, Part, label};

/// How many parts are read at most. People have a handful.
const MAX_PARTS: usize = 100;

/// In how many of the first bytes cloud-init looks for the header by which it knows MIME.
pub const LOOKED_AT: usize = 4096;

/// Content types of gzip.
const GZIP: [&str; 8] = [
    "application/gzip",
    "application/gzip-compressed",
    "application/gzipped",
    "application/x-compress",
    "application/x-compressed",
    "application/x-gunzip",
    "application/x-gzip",
    "application/x-gzip-compressed",
];

/// Whether cloud-init takes the data for a MIME message.
pub fn is_mime(data: &[u8]) -> bool {
    let start = data.get(..LOOKED_AT).unwrap_or(data);
    let name = b"mime-version:";
    start
        .windows(name.len())
        .any(|window| window.eq_ignore_ascii_case(name))
}

/// The parts in order, without the containers. `is_file` tells whether the text is the file as it is.
pub fn parts(text: &str, is_file: bool, found: &mut Found) -> Vec<Part> {
    // Without an empty line after the headers, the library takes what follows for more of them.
    let end = end_of_headers(text);
    let is_apart = text.get(..end).is_none_or(ends_in_empty_line);
    let repaired = (!is_apart).then(|| {
        let (headers, body) = text.split_at(end);
        Zeroizing::new([headers, "\n", body].concat())
    });
    let is_file = is_file && repaired.is_none();
    let text = repaired.as_ref().map_or(text, |text| text.as_str());
    let mail = match mailparse::parse_mail(text.as_bytes()) {
        Ok(mail) => mail,
        Err(_) => {
            found.unread(
                "its MIME headers can't be read here",
                "check each of its parts on its own",
            );
            return Vec::new();
        }
    };
    let mut parts = Vec::new();
    let is_whole = !is_container(&mail);
    for (index, mail) in mail.parts().filter(|mail| !is_container(mail)).enumerate() {
        if index == MAX_PARTS {
            let what =
                format!("it has more than {MAX_PARTS} parts; those after them are not read here");
            found.unread(what, "check each of its parts on its own");
            break;
        }
        let label = match is_whole {
            true => String::new(),
            false => label(index + 1, name(mail).as_deref()),
        };
        match part(mail, label, text, is_file, found) {
            Read::Part(part) => parts.push(part),
            Read::Nothing => {}
            // cloud-init gives up on all of it.
            Read::End => return Vec::new(),
        }
    }
    let containers = mail.parts().filter(|mail| is_container(mail));
    if containers.into_iter().any(|mail| is_ambiguous(mail)) {
        found.unread(
            "a line begins with the boundary of its parts and goes on; where parts end is not certain here",
            "give the parts a boundary with which no other line begins",
        );
    }
    if parts.is_empty() && !found.unread && !is_whole {
        found.add(
            Severity::Error,
            "user-data-part",
            "a multipart message without a part: no line is `--` and the boundary that its Content-Type names; cloud-init writes \
             no file of it",
            "make it with `cloud-init devel make-mime`",
        );
    }
    parts
}

/// Where the headers of a message end, as Python has it: after an empty line, or before a line that is no header.
fn end_of_headers(text: &str) -> usize {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end_matches(['\r', '\n']).is_empty() {
            return end + line.len();
        }
        let is_name = |name: &str| name.bytes().all(|byte| (33..=126).contains(&byte));
        let is_header = line.starts_with([' ', '\t'])
            || line.starts_with("From ")
            || line.split_once(':').is_some_and(|(name, _)| is_name(name));
        if !is_header {
            return end;
        }
        end += line.len();
    }
    end
}

fn ends_in_empty_line(headers: &str) -> bool {
    matches!(headers, "\n" | "\r\n") || headers.ends_with("\n\n") || headers.ends_with("\n\r\n")
}

fn is_container(mail: &ParsedMail<'_>) -> bool {
    mail.ctype.mimetype.starts_with("multipart/")
}

/// Whether a line begins as a boundary does and goes on, which the library takes for a boundary, and Python doesn't.
fn is_ambiguous(mail: &ParsedMail<'_>) -> bool {
    let Some(boundary) = mail.ctype.params.get("boundary") else {
        return false;
    };
    let body = String::from_utf8_lossy(mail.raw_bytes);
    body.lines()
        .filter_map(|line| line.strip_prefix("--")?.strip_prefix(boundary.as_str()))
        .any(|rest| !rest.strip_prefix("--").unwrap_or(rest).trim().is_empty())
}

fn name(mail: &ParsedMail<'_>) -> Option<String> {
    let disposition = mail.get_content_disposition();
    let name = disposition.params.get("filename");
    name.or_else(|| mail.ctype.params.get("name")).cloned()
}

/// A part, nothing that writes files, or the end of all of it.
enum Read {
    Part(Part),
    Nothing,
    End,
}

fn part(
    mail: &ParsedMail<'_>,
    label: String,
    whole: &str,
    is_file: bool,
    found: &mut Found,
) -> Read {
    let (mut bytes, mut lines_before) = body(mail, whole, is_file, &label, found);
    let mut content_type = mail.ctype.mimetype.to_ascii_lowercase();
    if GZIP.contains(&content_type.as_str()) {
        lines_before = None;
        bytes = match gunzip(&bytes) {
            Ok(bytes) => bytes,
            Err(Gunzip::TooLarge) => {
                found.unread(
                    format!("{label}too large to be decompressed here"),
                    "check the part on its own",
                );
                return Read::Nothing;
            }
            Err(Gunzip::Broken) => {
                found.add(
                    Severity::Error,
                    "user-data-part",
                    format!(
                        "{label}its type is gzip, and its content is none; cloud-init ends with an error and writes no file"
                    ),
                    "write Content-Transfer-Encoding: base64, and the output of `gzip -c FILE | base64`",
                );
                return Read::End;
            }
        };
        content_type = "text/plain".to_owned();
    }
    let Ok(text) = std::str::from_utf8(&bytes) else {
        let kind = Kind::of_type(&content_type);
        let is_said = found
            .problems
            .iter()
            .any(|problem| problem.severity == Severity::Error && problem.what.starts_with(&label));
        if !matches!(kind, Kind::Other(_)) && !is_said {
            let what = format!("{label}not UTF-8; cloud-init writes no file of it");
            found.add(Severity::Error, "encoding", what, "save it as UTF-8");
        }
        return Read::Nothing;
    };
    // A script's type is corrected, too, since people put that on everything.
    let by_beginning = match content_type.as_str() {
        "text/plain" | "text/x-not-multipart" | "text/x-shellscript" => Kind::of_beginning(text),
        _ => None,
    };
    let kind = by_beginning.unwrap_or_else(|| Kind::of_type(&content_type));
    if let Kind::Other(content_type) = &kind {
        ignored(&label, content_type, text, found);
        return Read::Nothing;
    }
    // These are looked up by the very spelling.
    let header = |name: &str| {
        let header = mail.headers.iter().find(|header| header.get_key() == name);
        header
            .map(mailparse::MailHeader::get_value)
            .filter(|value| !value.is_empty())
    };
    Read::Part(Part {
        label,
        kind,
        text: Zeroizing::new(text.to_owned()),
        lines_before,
        merge_type: header("Merge-Type")
            .or_else(|| header("X-Merge-Type"))
            .unwrap_or_default(),
    })
}

/// The bytes of a part, its transfer encoding undone, and the line where they begin.
fn body(
    mail: &ParsedMail<'_>,
    whole: &str,
    is_file: bool,
    label: &str,
    found: &mut Found,
) -> (Zeroizing<Vec<u8>>, Option<usize>) {
    let encoding = mail.headers.get_first_value("Content-Transfer-Encoding");
    let encoding = encoding.unwrap_or_default().to_ascii_lowercase();
    let part = String::from_utf8_lossy(mail.raw_bytes);
    let end = end_of_headers(&part).min(mail.raw_bytes.len());
    let raw = mail.raw_bytes.get(end..).unwrap_or_default();
    let body = Body::new(raw, &mail.ctype, &Some(encoding));
    if let Body::Base64(body) | Body::QuotedPrintable(body) = &body {
        let decoded = body.get_decoded().ok().or_else(|| {
            // Python leaves out what is not of the alphabet, and adds the padding that is missing.
            let text = String::from_utf8_lossy(raw) + "==";
            base64_as_python(&text).map(|bytes| bytes.to_vec())
        });
        let decoded = decoded.unwrap_or_else(|| raw.to_vec());
        return (Zeroizing::new(decoded), None);
    }
    let start = (raw.as_ptr() as usize).checked_sub(whole.as_ptr() as usize);
    let before = start.and_then(|start| whole.as_bytes().get(..start));
    let lines = before.map(|before| before.iter().filter(|&&byte| byte == b'\n').count());
    let bytes = match raw.is_ascii() {
        true => Zeroizing::new(raw.to_vec()),
        false => garbled(raw, label, found),
    };
    (bytes, lines.filter(|_| is_file))
}

/// What Python makes of characters outside ASCII in a part without a transfer encoding (`raw-unicode-escape`).
fn garbled(raw: &[u8], label: &str, found: &mut Found) -> Zeroizing<Vec<u8>> {
    let text = String::from_utf8_lossy(raw);
    let mut bytes = Zeroizing::new(Vec::with_capacity(raw.len() * 2));
    for c in text.chars() {
        match u32::from(c) {
            code @ 0..=0xff => bytes.push(code as u8),
            code @ 0x100..=0xffff => bytes.extend(format!("\\u{code:04x}").bytes()),
            code => bytes.extend(format!("\\U{code:08x}").bytes()),
        }
    }
    let (severity, result) = match std::str::from_utf8(&bytes) {
        Ok(_) => (Severity::Warning, "writes something else for them"),
        Err(_) => (Severity::Error, "writes no file of the part"),
    };
    found.add(
        severity,
        "user-data-part",
        format!(
            "{label}it has characters outside ASCII and no transfer encoding; cloud-init garbles them and {result}"
        ),
        "write Content-Transfer-Encoding: base64, and the part in base64",
    );
    bytes
}

/// A part of a type that cloud-init does nothing with.
pub fn ignored(label: &str, content_type: &str, text: &str, found: &mut Found) {
    if content_type.starts_with("message/") {
        let what = format!("{label}a message in the message, which is not read here");
        found.unread(what, "check the part on its own");
        return;
    }
    let meant = Kind::of_beginning(text);
    let severity = match meant {
        Some(_) => Severity::Warning,
        None => Severity::Note,
    };
    let (looks, fix) = match &meant {
        Some(Kind::CloudConfig) => (
            ", although it begins as cloud-config does",
            "write Content-Type: text/cloud-config",
        ),
        Some(_) => (
            ", although it begins as user data does",
            "write Content-Type: text/plain, which lets its first line count",
        ),
        None => ("", "leave it out, unless a part handler reads it"),
    };
    let what = format!(
        "{label}its type is {}, and cloud-init writes no file of it{looks}",
        EntryName(content_type)
    );
    found.add(severity, "user-data-part", what, fix);
}
