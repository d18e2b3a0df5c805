// SPDX-License-Identifier: Apache-2.0

//! What an entry of an `auth.json` gives to prove who asks.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::registry::url::push_encoded;

/// How short a secret may be and yet be replaced in messages: shorter ones would be found in the midst of words.
const SHORTEST_HIDDEN: usize = 4;

/// A login, and where it is from.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The key of the entry in the `auth.json`, as messages may show it.
    pub entry: String,
    /// The user name, no secret. Tokens need none.
    pub user: String,
    /// What proves it.
    pub secret: Secret,
}

/// What proves a login.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// A password: sent to the registry, or to the server that gives tokens for it.
    Password(Zeroizing<String>),
    /// `identitytoken`: a refresh token of OAuth2, for which that server gives tokens.
    IdentityToken(Zeroizing<String>),
    /// `registrytoken`: a token that the registry takes as it is.
    RegistryToken(Zeroizing<String>),
}

impl Login {
    /// The text of the secret.
    pub(super) fn secret(&self) -> &str {
        match &self.secret {
            Secret::Password(text) | Secret::IdentityToken(text) | Secret::RegistryToken(text) => {
                text
            }
        }
    }

    /// The header for Basic; none if the registry takes the secret only as a token. A registry that gave an
    /// identity token takes it in the place of the password.
    pub(super) fn basic(&self) -> Option<Zeroizing<String>> {
        if matches!(self.secret, Secret::RegistryToken(_)) {
            return None;
        }
        Some(Zeroizing::new(["Basic ", &self.encoded()].concat()))
    }

    fn encoded(&self) -> Zeroizing<String> {
        let text = Zeroizing::new([&self.user, ":", self.secret()].concat());
        Zeroizing::new(STANDARD.encode(text.as_bytes()))
    }

    /// The header of a request whose token needs no server.
    pub(super) fn own_token(&self) -> Option<Zeroizing<String>> {
        match &self.secret {
            Secret::RegistryToken(token) => Some(Zeroizing::new(["Bearer ", token].concat())),
            _ => None,
        }
    }

    /// How messages name it.
    pub fn shown(&self) -> String {
        let (user, entry) = (self.user.escape_debug(), self.entry.escape_debug());
        match self.secret {
            Secret::Password(_) => format!("the login of {user} by the entry {entry}"),
            Secret::IdentityToken(_) => format!("the identitytoken of the entry {entry}"),
            Secret::RegistryToken(_) => format!("the registrytoken of the entry {entry}"),
        }
    }

    /// What a server says, without the secret: some repeat what they were sent.
    pub(super) fn hide(&self, text: String) -> String {
        let mut in_form = Zeroizing::new(String::new());
        push_encoded(&mut in_form, self.secret());
        let text = hide(&in_form, hide(&self.encoded(), text));
        hide(self.secret(), text)
    }
}

/// The text without the secret.
pub(super) fn hide(secret: &str, text: String) -> String {
    match secret.len() < SHORTEST_HIDDEN {
        true => text,
        false => text.replace(secret, "[redacted]"),
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:[redacted]", self.user)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn login(secret: fn(Zeroizing<String>) -> Secret) -> Login {
        Login {
            entry: "r.example/org".to_owned(),
            user: "robot\n".to_owned(),
            secret: secret(Zeroizing::new("hunter2".to_owned())),
        }
    }

    /// Neither a message nor a debug line has the secret, in whatever form, and each names the entry.
    #[test]
    fn secrets_are_not_shown() {
        for secret in [
            Secret::Password as fn(_) -> _,
            Secret::IdentityToken,
            Secret::RegistryToken,
        ] {
            let login = login(secret);
            assert!(login.shown().contains("r.example/org") && !login.shown().contains('\n'));
            let said = format!("no {} and no hunter2", *login.encoded());
            let said = login.hide(said);
            assert_eq!(said, "no [redacted] and no [redacted]");
            let all = format!("{login:?} {:?} {}", login.secret, login.shown());
            assert!(!all.contains("hunter"), "{all}");
        }
        assert_eq!(hide("a", "a word".to_owned()), "a word");
    }

    /// Each form is sent in its own way.
    #[test]
    fn forms_have_their_headers() {
        let password = login(Secret::Password);
        assert_eq!(*password.basic().unwrap(), "Basic cm9ib3QKOmh1bnRlcjI=");
        assert!(password.own_token().is_none());
        let identity = login(Secret::IdentityToken);
        assert!(identity.basic().is_some() && identity.own_token().is_none());
        let registry = login(Secret::RegistryToken);
        assert_eq!(*registry.own_token().unwrap(), "Bearer hunter2");
        assert!(registry.basic().is_none());
    }
}
