// SPDX-License-Identifier: Apache-2.0

//! What a registry is asked, and what it answers, whichever program asks.

use offline_fs_kbc::credential::Login;
use offline_fs_kbc::text::Escaped;

/// What the registry makes of a login.
pub enum Answer {
    /// It gives the image.
    Accepted,
    /// It takes the login, and has no such image.
    NoImage(String),
    /// It doesn't take the login.
    Refused(String),
    /// It could not be asked.
    Unreachable(String),
    /// It was not asked, since there is nothing to ask with.
    NotAsked(String),
}

impl Answer {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NoImage(_) => "no such image",
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::NotAsked(_) => "not asked",
        }
    }
}

/// A file by whose name a program can open its standard input.
pub const INPUT: &str = "/proc/self/fd/0";

/// The reason in what a program said, for a message. It has no reason to say the password; should it, that is not
/// repeated.
pub fn shown(program: &str, said: &str, reason: &str, login: Option<&Login>) -> String {
    let has_secret = login.is_some_and(|login| {
        let password = login.password.as_str();
        said.contains(&*login.encode()) || !password.is_empty() && said.contains(password)
    });
    match has_secret {
        true => format!("(what {program} says has the password, and is not shown)"),
        false => Escaped(reason).to_string(),
    }
}
