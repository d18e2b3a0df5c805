// SPDX-License-Identifier: Apache-2.0

//! Cloud-config user data, by which cloud-api-adaptor hands files to a pod VM: how it is written, and
//! how large it may be.

use thiserror::Error;
use zeroize::Zeroizing;

/// The first line, by which cloud-init knows the format.
pub const FIRST_LINE: &str = "#cloud-config";

/// Where the resources file goes in the VM.
pub const RESOURCES_PATH: &str = "/etc/aa-offline_fs_kbc-resources.json";

/// Where the configuration of cloud-api-adaptor's own daemon in the VM goes.
pub const DAEMON_PATH: &str = "/peerpod/daemon.json";

/// An `auth.json` of this many bytes or more was left out of the user data by cloud-api-adaptor, with no
/// more than a line in its own log.
pub const AUTH_JSON_BYTES: usize = 12_288;

/// In which form a platform measures user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Raw,
    /// Encoded in base64, as it is sent.
    Base64,
}

/// How much user data a platform takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Its name.
    pub name: &'static str,
    /// The most bytes.
    pub most: usize,
    /// Of which form.
    pub form: Form,
}

/// The platforms that document a limit. libvirt has none: its user data is a file on an ISO image.
pub const PLATFORMS: &[Platform] = &[
    // "16 KB, in raw form, before it is base64-encoded": EC2's user guide.
    Platform {
        name: "AWS EC2",
        most: 16 << 10,
        form: Form::Raw,
    },
    // "cannot exceed 16 KB before it is encoded": the ECS user guide.
    Platform {
        name: "Alibaba Cloud ECS",
        most: 16 << 10,
        form: Form::Raw,
    },
    // "restricted to 65535 bytes", encoded: Nova's user guide.
    Platform {
        name: "OpenStack",
        most: 65_535,
        form: Form::Base64,
    },
    // 65,535 bytes decoded, by its API reference; its error says 87,380 characters, which is the same.
    Platform {
        name: "Azure (custom data)",
        most: 65_535,
        form: Form::Raw,
    },
    // "64 K bytes": the documentation of VPC.
    Platform {
        name: "IBM Cloud VPC",
        most: 64 << 10,
        form: Form::Raw,
    },
    // 262144 bytes for a value of the metadata: the API's reference.
    Platform {
        name: "Google Cloud",
        most: 256 << 10,
        form: Form::Raw,
    },
];

impl Platform {
    /// The size of user data of `raw` bytes as this platform measures it.
    pub fn measure(&self, raw: usize) -> usize {
        match self.form {
            Form::Raw => raw,
            Form::Base64 => raw.div_ceil(3) * 4,
        }
    }

    /// Whether user data of `raw` bytes is small enough.
    pub fn takes(&self, raw: usize) -> bool {
        self.measure(raw) <= self.most
    }
}

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
            ("{\n\r\n}", Error::Character(2)),
            ("{\"a\u{85}\"}", Error::Character(1)),
            ("{\"\u{2028}\"}", Error::Character(1)),
            ("a\0", Error::Character(1)),
        ] {
            assert_eq!(write(&[("/x", text)]).unwrap_err(), expected, "{text:?}");
        }
        assert!(write(&[("/x", "{\n\n\t1}\n")]).is_ok());
    }

    /// The last size that a platform takes, and the first that it doesn't.
    #[test]
    fn each_platform_has_an_edge() {
        for platform in PLATFORMS {
            let last = match platform.form {
                Form::Raw => platform.most,
                Form::Base64 => platform.most / 4 * 3,
            };
            assert!(platform.takes(last), "{}", platform.name);
            assert!(!platform.takes(last + 1), "{}", platform.name);
        }
    }
}
