// SPDX-License-Identifier: Apache-2.0

//! The header with which a registry is asked: a password, or a token that another server gives for it.

use std::fmt;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::http::StatusCode;
use zeroize::Zeroizing;

use crate::registry::challenge::Challenge;
use crate::registry::error::{Error, message};
use crate::registry::transport::Transport;
use crate::registry::url::{host_of, percent_encoded};

/// The largest answer of a token server.
const MAX_TOKEN_BYTES: u64 = 1 << 20;

/// A user name and a password.
#[derive(Clone)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:[redacted]", self.user)
    }
}

/// Who asks for what.
pub(super) struct Asker<'a> {
    /// The registry, with its port.
    pub host: &'a str,
    pub repository: &'a str,
    pub login: Option<&'a Login>,
}

impl Asker<'_> {
    /// The header that a challenge asks for; none if there is no login for it.
    pub(super) fn header(
        &self,
        transport: &Transport,
        challenge: &Challenge,
    ) -> Result<Option<Zeroizing<String>>, Error> {
        let basic = self.login.map(|login| {
            let text = Zeroizing::new([&login.user, ":", &login.password].concat());
            let encoded = Zeroizing::new(STANDARD.encode(text.as_bytes()));
            Zeroizing::new(["Basic ", &encoded].concat())
        });
        let Challenge::Bearer {
            realm,
            service,
            scope,
        } = challenge
        else {
            return Ok(basic);
        };
        let scheme_fits =
            realm.starts_with("https://") || transport.plain_http && realm.starts_with("http://");
        if !scheme_fits {
            return Err(Error::Answer {
                host: self.host.to_owned(),
                what: "with a token server that it names without https".to_owned(),
            });
        }
        let mut url = realm.clone();
        let scope = scope
            .clone()
            .unwrap_or_else(|| format!("repository:{}:pull", self.repository));
        let query = service.iter().map(|service| ("service", service));
        for (name, value) in query.chain([("scope", &scope)]) {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(name);
            url.push('=');
            url.push_str(&percent_encoded(value));
        }
        let response = transport.send(&url, basic.as_ref(), &[])?;
        let host = host_of(&url).to_owned();
        let refuses = [
            StatusCode::BAD_REQUEST,
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
        ];
        if response.status() != StatusCode::OK && !refuses.contains(&response.status()) {
            return Err(Error::of_status(host, "a token", response));
        }
        if response.status() != StatusCode::OK {
            return Err(Error::Refused {
                host,
                login: match self.login {
                    Some(login) => format!("the login of {}", login.user.escape_debug()),
                    None => "an anonymous request for a token".to_owned(),
                },
                status: response.status(),
                message: message(response),
            });
        }
        let mut text = Zeroizing::new(Vec::new());
        let mut reader = response.into_body().into_reader().take(MAX_TOKEN_BYTES);
        if let Err(error) = reader.read_to_end(&mut text) {
            let what = format!("while it sent a token: {error}");
            return Err(Error::Unreachable { host, what });
        }
        let answer = serde_json::from_slice::<Value>(&text).ok();
        let token = answer.as_ref().and_then(|answer| {
            let token = |name: &str| answer[name].as_str().filter(|token| !token.is_empty());
            token("token").or_else(|| token("access_token"))
        });
        match token {
            Some(token) => Ok(Some(Zeroizing::new(["Bearer ", token].concat()))),
            None => Err(Error::Answer {
                host,
                what: "with no token".to_owned(),
            }),
        }
    }
}
