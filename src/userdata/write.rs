// SPDX-License-Identifier: Apache-2.0

//! Writes cloud-config in the form of cloud-api-adaptor.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::userdata::FIRST_LINE;
use crate::userdata::mime;

/// Why a file can't be a block of user data: its text would not come back as it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// It has no content.
    #[error("it is empty")]
    Empty,
    /// A character that YAML does not carry in a block, or takes for the end of a line.
    #[error(
        "line {0} has a character that a block of YAML can't hold (a control character, or a line break other than LF)"
    )]
    Character(usize),
    /// The first line would be taken for the block's indentation.
    #[error("its first line is empty or begins with white space")]
    Indented,
    /// All but one line break at the end would be lost.
    #[error("it ends with empty lines")]
    EmptyLines,
    /// What cloud-init takes for the header of a message, wherever it stands in the first 4,096 bytes.
    #[error(
        "it has \"MIME-Version:\", for which cloud-init would take the user data for a message in several parts"
    )]
    Message,
}

/// User data that writes these files, each given by path and content, in this order.
///
/// It has the very form of cloud-api-adaptor's: a path and a block, and so root's with mode 0644. A file
/// gets a line break at its end if it has none.
///
/// # Errors
///
/// Where a content would not come back as it is.
pub fn write(files: &[(&str, &str)]) -> Result<Zeroizing<String>, Error> {
    const INDENTATION: &str = "      ";
    const PER_FILE: usize = "  - path: \n    content: |\n\n".len();
    // Room for all of it, since a text that grows leaves copies behind.
    let room: usize = files
        .iter()
        .map(|(path, text)| {
            let lines = text.lines().count();
            PER_FILE + path.len() + text.len() + lines * (INDENTATION.len() + 1)
        })
        .sum();
    let before = [FIRST_LINE, "\n\nwrite_files:\n"];
    let mut data = Zeroizing::new(String::with_capacity(room + before.concat().len()));
    data.extend(before);
    for (path, text) in files {
        check(text)?;
        data.extend(["  - path: ", path, "\n    content: |\n"]);
        for line in text.lines() {
            data.extend([INDENTATION, line, "\n"]);
        }
    }
    if mime::is_mime(data.as_bytes()) {
        return Err(Error::Message);
    }
    Ok(data)
}

fn check(text: &str) -> Result<(), Error> {
    let first = text.chars().next().ok_or(Error::Empty)?;
    if first.is_whitespace() {
        return Err(Error::Indented);
    }
    if text.ends_with("\n\n") {
        return Err(Error::EmptyLines);
    }
    let breaks = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(
                c,
                '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
            )
    };
    match text.split('\n').position(|line| line.contains(breaks)) {
        Some(line) => Err(Error::Character(line + 1)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::userdata::{DAEMON_PATH, RESOURCES_PATH};

    /// The text that cloud-api-adaptor's template gives for the same files.
    #[test]
    fn the_form_is_that_of_cloud_api_adaptor() {
        let files = [(DAEMON_PATH, "{\n  \"a\": 1\n}"), (RESOURCES_PATH, "{}\n")];
        let expected = "#cloud-config\n\nwrite_files:\n  - path: /peerpod/daemon.json\n    content: |\n      \
            {\n        \"a\": 1\n      }\n  - path: /etc/aa-offline_fs_kbc-resources.json\n    content: |\n      {}\n";
        assert_eq!(*write(&files).unwrap(), expected);
    }

    #[test]
    fn what_would_not_come_back_is_refused() {
        for (text, expected) in [
            ("", Error::Empty),
            (" {}", Error::Indented),
            ("\n{}", Error::Indented),
            ("{}\n\n", Error::EmptyLines),
            ("{\"mime-version: 1\"}", Error::Message),
            ("{\n\r\n}", Error::Character(2)),
            ("{\"a\u{85}\"}", Error::Character(1)),
            ("{\"\u{2028}\"}", Error::Character(1)),
            ("a\0", Error::Character(1)),
        ] {
            assert_eq!(write(&[("/x", text)]).unwrap_err(), expected, "{text:?}");
        }
        assert!(write(&[("/x", "{\n\n\t1}\n")]).is_ok());
    }
}
