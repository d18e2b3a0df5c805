// SPDX-License-Identifier: Apache-2.0

//! Why there is no answer that can be used.

use std::io::{self, Read as _};

use serde_json::Value;
use thiserror::Error;
use ureq::Body;
use ureq::http::{Response, StatusCode};

/// How much of a registry's own message is read.
const MAX_MESSAGE_BYTES: u64 = 64 * 1024;

/// How much of it is shown.
const SHOWN_MESSAGE: usize = 300;

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

/// What a registry says about a failure: the messages of its JSON, else nothing.
pub(super) fn message(response: Response<Body>) -> String {
    let mut text = Vec::new();
    let mut reader = response.into_body().into_reader().take(MAX_MESSAGE_BYTES);
    let read: io::Result<usize> = reader.read_to_end(&mut text);
    let value = read
        .ok()
        .and_then(|_| serde_json::from_slice::<Value>(&text).ok());
    let Some(value) = value else {
        return String::new();
    };
    let errors = value["errors"].as_array().into_iter().flatten();
    let messages = errors.filter_map(|error| error["message"].as_str());
    let alone = ["message", "details"].map(|name| value[name].as_str());
    let all: Vec<_> = messages.chain(alone.into_iter().flatten()).collect();
    let shown: String = all.join("; ").chars().take(SHOWN_MESSAGE).collect();
    match shown.is_empty() {
        true => String::new(),
        false => format!(": {}", shown.escape_debug()),
    }
}
