// SPDX-License-Identifier: Apache-2.0

//! How a client is let in: what the registry asked for, what it let in last, and whom to ask for another login.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ureq::Body;
use ureq::http::header::WWW_AUTHENTICATE;
use ureq::http::{Response, StatusCode};
use zeroize::Zeroizing;

use crate::registry::challenge::{Challenge, choose};
use crate::registry::error::{Error, SHOWN_MESSAGE, message_without};
use crate::registry::login::{Login, hide};
use crate::registry::token::{Asker, Granted};
use crate::registry::transport::Transport;

/// Asks for the login anew; an error says why it can't be had.
pub(super) type Renew = dyn Fn() -> Result<Option<Login>, String> + Send + Sync;

/// Sends one request, with this header for the login.
pub(super) type Sending<'s> =
    dyn Fn(Option<&Zeroizing<String>>) -> Result<Response<Body>, Error> + 's;

/// The login of one client, and what it has opened.
pub(super) struct Access {
    /// The registry, with its port.
    pub host: String,
    pub repository: String,
    /// The login, and what the registry let in last, which that login got.
    state: Mutex<State>,
    /// The token that was given last. It is locked while one is asked for, so that requests whose token ended together get
    /// one between them.
    given: Mutex<Option<Given>>,
    pub renew: Option<Box<Renew>>,
}

#[derive(Clone)]
struct State {
    login: Option<Arc<Login>>,
    granted: Option<Granted>,
}

/// A token that a server gave.
struct Given {
    login: Option<Arc<Login>>,
    granted: Granted,
    when: Instant,
    /// Whether another request has it too.
    is_shared: bool,
}

/// An answer that is no refusal, and the header that the request had.
pub(super) type LetIn = (Response<Body>, Option<Arc<Zeroizing<String>>>);

impl Access {
    pub(super) fn new(host: String, repository: String, login: Option<Login>) -> Self {
        Self {
            host,
            repository,
            state: Mutex::new(State::of(login.map(Arc::new))),
            given: Mutex::default(),
            renew: None,
        }
    }

    /// Sends a request to the registry, with the login as the registry wants it. If it is refused, with today's.
    ///
    /// # Errors
    ///
    /// If the registry refuses, or can't be reached.
    pub(super) fn send(
        &self,
        transport: &Transport,
        url: &str,
        send: &Sending<'_>,
    ) -> Result<LetIn, Error> {
        let state = lock(&self.state).clone();
        let refusal = match self.send_with(&state, transport, url, send) {
            Err(refusal @ (Error::Refused { .. } | Error::Denied { .. })) => refusal,
            other => return other,
        };
        let Some(renewed) = self.renewed(state.login.as_deref()) else {
            return Err(refusal);
        };
        self.send_with(&renewed, transport, url, send)
    }

    /// What a server says, without the login and what this header has.
    pub(super) fn hide(&self, header: Option<&Zeroizing<String>>, text: String) -> String {
        let text = without_header(header.map(|header| header.as_str()), text);
        match &lock(&self.state).login {
            Some(login) => login.hide(text),
            None => text,
        }
    }

    /// Today's login, if it is another one than that which was refused.
    fn renewed(&self, refused: Option<&Login>) -> Option<State> {
        let renew = self.renew.as_ref()?;
        let mut state = lock(&self.state);
        // Another request may have asked already.
        if state.login.as_deref() == refused {
            // That there is none any more is no reason to try without one.
            let login = renew().ok().flatten()?;
            if Some(&login) == refused {
                return None;
            }
            *state = State::of(Some(Arc::new(login)));
        }
        Some(state.clone())
    }

    fn send_with(
        &self,
        state: &State,
        transport: &Transport,
        url: &str,
        send: &Sending<'_>,
    ) -> Result<LetIn, Error> {
        let login = state.login.as_deref();
        let asker = Asker {
            transport,
            host: &self.host,
            repository: &self.repository,
            login,
        };
        let begin = Instant::now();
        let mut used = state.granted.clone().filter(Granted::is_current);
        let mut response = send(used.as_ref().map(|granted| &*granted.header))?;
        let mut challenge = challenge_of(&response);
        // A token that is too old: some say so in another way than by a new challenge, and Amazon's public
        // registry by 400 (github.com/aws/containers-roadmap/issues/2835).
        let is_odd = match response.status() {
            StatusCode::BAD_REQUEST => true,
            StatusCode::UNAUTHORIZED => challenge.is_none(),
            _ => false,
        };
        if is_odd && used.as_ref().is_some_and(|granted| granted.is_token) {
            used = None;
            response = send(None)?;
            challenge = challenge_of(&response);
        }
        let mut is_fresh = false;
        // With a token that another request got, if there is one; and then with one of its own.
        for since in [Some(begin), None] {
            let (StatusCode::UNAUTHORIZED, Some(asked)) = (response.status(), challenge.clone())
            else {
                break;
            };
            let (granted, is_shared) = self.grant(&asker, state, url, &asked, since)?;
            // The same password again would be refused again, and may lock the account.
            let is_new = |granted: &Granted| {
                let before = used.as_ref().map(|used| &**used.header);
                before != Some(&**granted.header)
            };
            let Some(granted) = granted.filter(is_new) else {
                break;
            };
            response = send(Some(&granted.header))?;
            challenge = challenge_of(&response);
            if !refuses(response.status()) && response.status() != StatusCode::BAD_REQUEST {
                self.keep(login, &granted);
            }
            is_fresh = granted.is_token;
            let is_shared = is_shared || self.was_taken(&granted);
            used = Some(granted);
            if !is_shared {
                break;
            }
        }
        // Amazon's registry says 400 to a password that isn't one.
        let is_password = used.as_ref().is_some_and(|granted| !granted.is_token);
        let header = used.map(|granted| granted.header);
        let is_refused = match response.status() {
            StatusCode::BAD_REQUEST => is_password,
            status => refuses(status),
        };
        if !is_refused {
            return Ok((response, header));
        }
        let refusal = Refusal {
            header: header.as_ref().map(|header| header.as_str()),
            is_fresh,
            challenge,
        };
        Err(refusal.error(&asker, response))
    }

    /// What a challenge asks for: the token that another request got since this time, or a new one; and which of both.
    fn grant(
        &self,
        asker: &Asker<'_>,
        state: &State,
        url: &str,
        challenge: &Challenge,
        since: Option<Instant>,
    ) -> Result<(Option<Granted>, bool), Error> {
        let mut given = lock(&self.given);
        let other = given.as_mut().filter(|given| {
            since.is_some_and(|since| given.when >= since)
                && given.login == state.login
                && given.granted.is_current()
        });
        if let Some(other) = other {
            other.is_shared = true;
            return Ok((Some(other.granted.clone()), true));
        }
        let granted = asker.grant(url, challenge)?;
        if since.is_none() {
            // It may be good for one request, which is this one.
            return Ok((granted, false));
        }
        let token = granted.clone().filter(|granted| granted.is_token);
        *given = token.map(|granted| Given {
            login: state.login.clone(),
            granted,
            when: Instant::now(),
            is_shared: false,
        });
        Ok((granted, false))
    }

    /// Whether another request may have used a token before the one that it was asked for.
    fn was_taken(&self, granted: &Granted) -> bool {
        let given = lock(&self.given);
        granted.is_token
            && given.as_ref().is_none_or(|given| {
                given.is_shared || !Arc::ptr_eq(&given.granted.header, &granted.header)
            })
    }

    /// Keeps what was let in for the next request, unless there is another login by now.
    fn keep(&self, login: Option<&Login>, granted: &Granted) {
        let mut state = lock(&self.state);
        if state.login.as_deref() == login {
            state.granted = Some(granted.clone());
        }
    }
}

impl State {
    /// A login that was not tried yet.
    fn of(login: Option<Arc<Login>>) -> Self {
        let own = login.as_ref().and_then(|login| login.own_token());
        Self {
            granted: own.map(Granted::of_login),
            login,
        }
    }
}

/// Whether a status says that a login was refused, or is missing.
fn refuses(status: StatusCode) -> bool {
    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status)
}

/// What is known of a refusal.
struct Refusal<'a> {
    header: Option<&'a str>,
    /// Whether the header has a token that was just given for this request.
    is_fresh: bool,
    challenge: Option<Challenge>,
}

impl Refusal<'_> {
    fn error(&self, asker: &Asker<'_>, response: Response<Body>) -> Error {
        let status = response.status();
        let mut message = message_without(response, &|text| {
            asker.hide(without_header(self.header, text))
        });
        if let Some(Challenge::Bearer {
            error: Some(error), ..
        }) = &self.challenge
        {
            let error = asker.hide(without_header(self.header, error.clone()));
            let error: String = error.chars().take(SHOWN_MESSAGE).collect();
            message.push_str(&format!(": {}", error.escape_debug()));
        }
        // Docker Hub and others answer so for what isn't there, too.
        if self.is_fresh && status == StatusCode::UNAUTHORIZED {
            message.push_str("; it may have no such repository");
        }
        let host = asker.host.to_owned();
        match asker.login {
            Some(login) if self.is_fresh => Error::Denied {
                host,
                login: login.shown(),
                repository: asker.repository.to_owned(),
                status,
                message,
            },
            Some(login) if self.header.is_none() => Error::Refused {
                host,
                login: format!(
                    "a request without a login (it names no way to log in, so that {} was not sent)",
                    login.shown()
                ),
                status,
                message,
            },
            Some(login) => Error::Refused {
                host,
                login: login.shown(),
                status,
                message,
            },
            None => Error::Refused {
                host,
                login: "an anonymous pull".to_owned(),
                status,
                message,
            },
        }
    }
}

/// The text without what a header proves the login by.
fn without_header(header: Option<&str>, text: String) -> String {
    let secret = header.and_then(|header| header.split_once(' '));
    hide(secret.map_or("", |(_, secret)| secret), text)
}

/// What the response asks for.
fn challenge_of(response: &Response<Body>) -> Option<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
    // A realm may be in any alphabet, and the others count all the same.
    choose(headers.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()))
}

/// Locks the mutex. Nothing panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
