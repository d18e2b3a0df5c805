// SPDX-License-Identifier: Apache-2.0

//! Why there is no answer that can be used.

use std::borrow::Cow;
use std::time::Duration;

use thiserror::Error;
use ureq::Body;
use ureq::http::{Response, StatusCode};

use crate::document::Part;
use crate::registry::body::read_small;
use crate::registry::retry_after::retry_after;

/// How much of a registry's own message is read.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// How many errors it may list, so that their messages are shown. Real ones list one.
const MAX_ERRORS: usize = 100;

/// How long it may take to come. The failure is known without it, and to be told.
const MESSAGE: Duration = Duration::from_secs(5);

/// How much of it is shown.
pub(super) const SHOWN_MESSAGE: usize = 300;

/// Why a registry gave no answer that can be used.
#[derive(Debug, Error)]
pub enum Error {
    /// It can't be reached.
    #[error("{host} can't be reached: {what}")]
    Unreachable {
        /// The server.
        host: String,
        /// Why.
        what: String,
    },
    /// It is there, but can't be talked to: its certificate counts for nothing, or it doesn't speak TLS or HTTP.
    #[error("{host} can't be reached: {what}")]
    Incompatible {
        /// The server.
        host: String,
        /// Why.
        what: String,
    },
    /// It has no time, or a passing trouble.
    #[error("{host} answers {what}")]
    Busy {
        /// The server.
        host: String,
        /// Its status, and for what.
        what: String,
        /// When it wants to be asked again.
        after: Option<Duration>,
    },
    /// It was tried again and again.
    #[error("{error}; {tried}")]
    GivenUp {
        /// The last failure.
        error: Box<Error>,
        /// How often it was tried, and how far that led.
        tried: String,
    },
    /// It wants another login, or any.
    #[error("{host} refuses {login}: {status}{message}")]
    Refused {
        /// The server.
        host: String,
        /// Who asked.
        login: String,
        /// Its status.
        status: StatusCode,
        /// Its message, with a colon before it.
        message: String,
    },
    /// It knows the login, and does not let it have the repository.
    #[error("{host} accepts {login}, and does not let it pull {repository}: {status}{message}")]
    Denied {
        /// The server.
        host: String,
        /// Who asked.
        login: String,
        /// For what.
        repository: String,
        /// Its status.
        status: StatusCode,
        /// Its message, with a colon before it.
        message: String,
    },
    /// It has no such thing.
    #[error("{host} has no {what}{message}")]
    Missing {
        /// The server.
        host: String,
        /// What was asked for.
        what: String,
        /// Its message, with a colon before it.
        message: String,
    },
    /// The proxy on the way to it refuses to help.
    #[error("the proxy {proxy} {what}")]
    Proxy {
        /// The proxy, without its login.
        proxy: String,
        /// What it does, and what to do about it.
        what: String,
    },
    /// It answers something else.
    #[error("{host} answers {what}")]
    Answer {
        /// The server.
        host: String,
        /// What.
        what: String,
    },
}

impl Error {
    /// Of a status that a registry has no reason to give. `hide` takes secrets out of what it says.
    pub(super) fn of_status(
        host: String,
        what: &str,
        response: Response<Body>,
        hide: &dyn Fn(String) -> String,
    ) -> Self {
        let status = response.status();
        let after = retry_after(response.headers());
        let message = message_without(response, hide);
        let mut text = format!("{status} to the request for {what}{message}");
        if !is_passing(status) {
            return Self::Answer { host, what: text };
        }
        if let Some(after) = after {
            text.push_str(&format!(" (it says to ask again in {} s)", after.as_secs()));
        }
        let what = text;
        Self::Busy { host, what, after }
    }

    /// Whether it may be another time.
    pub(super) fn passes(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy { .. })
    }

    /// Whether there is no answer at all, however often it was asked.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Incompatible { .. } => true,
            Self::GivenUp { error, .. } => error.is_unreachable(),
            _ => false,
        }
    }

    /// When the registry wants to be asked again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { after, .. } => *after,
            _ => None,
        }
    }

    /// With what is known of the tries before, if there were some.
    pub(super) fn given_up(self, tried: String) -> Self {
        let error = Box::new(self);
        Self::GivenUp { error, tried }
    }
}

/// Whether a status says that the same request may be answered later.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// What a registry says about a failure, without what `hide` takes out of it: the messages of its JSON, or a short text;
/// else nothing.
pub(super) fn message_without(response: Response<Body>, hide: &dyn Fn(String) -> String) -> String {
    let mut text = Vec::new();
    if read_small(response.into_body(), MAX_MESSAGE_BYTES, MESSAGE, &mut text).is_err() {
        return String::new();
    }
    let said = match Part::document(&text) {
        Ok(document) => messages(document),
        Err(_) => plain(&text),
    };
    let shown: String = hide(said).chars().take(SHOWN_MESSAGE).collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!(": {}", shown.escape_debug()),
    }
}

/// The messages of a registry, or of a token server, which have other forms.
fn messages(document: Part<'_>) -> String {
    let names = ["errors", "message", "details", "error", "error_description"];
    let Ok([errors, alone @ ..]) = document.pick(names) else {
        return String::new();
    };
    let of_error = |error: Part<'_>| {
        let parts = error.pick(["message", "code"]).ok()?;
        let mut texts = parts.into_iter().filter_map(text);
        texts.find(|text| !text.is_empty())
    };
    let errors = errors.list(MAX_ERRORS).ok().flatten().unwrap_or_default();
    let errors = errors.into_iter().filter_map(of_error);
    let mut all: Vec<_> = errors.chain(alone.into_iter().filter_map(text)).collect();
    all.dedup();
    all.join("; ")
}

/// A text that can be read.
fn text(part: Part<'_>) -> Option<String> {
    part.text().ok().flatten().map(Cow::into_owned)
}

/// A text of one line, if it is that. A page for browsers says nothing here.
fn plain(text: &[u8]) -> String {
    let text = std::str::from_utf8(text).unwrap_or_default().trim();
    let is_short = text.len() <= SHOWN_MESSAGE && !text.contains(['<', '\n', '{']);
    match is_short {
        true => text.to_owned(),
        false => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The forms in which registries and token servers say why.
    #[test]
    fn messages_are_found() {
        for (value, expected) in [
            (
                json!({"errors": [{"code": "DENIED", "message": "no"}, {"code": "X"}]}),
                "no; X",
            ),
            (json!({"details": "incorrect"}), "incorrect"),
            (
                json!({"error": "invalid_grant", "error_description": "old"}),
                "invalid_grant; old",
            ),
            (json!({"error": "no", "message": "no"}), "no"),
            (
                json!({"errors": vec![json!({"message": "x"}); 101], "message": "y"}),
                "y",
            ),
            (json!({"errors": "x", "message": 1}), ""),
        ] {
            let text = value.to_string();
            let document = Part::document(text.as_bytes());
            assert_eq!(document.map(messages).as_deref(), Ok(expected), "{value}");
        }
        assert_eq!(plain(b" Not Authorized\n"), "Not Authorized");
        assert_eq!(plain(b"<html>Not</html>"), "");
    }
}
