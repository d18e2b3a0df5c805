// SPDX-License-Identifier: Apache-2.0

//! Registries as their users meet them, played by a server of the tests: how they ask for a login, and how they refuse one.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::image::{Image, Repository};
use crate::stand_in::{Answer, Asked, StandIn};

/// A repository for which a login is needed, one for everybody, and one that isn't there.
pub const PRIVATE: &str = "team/app";
pub const PUBLIC: &str = "public/app";
pub const NO_SUCH: &str = "team/no-such";

/// A status, and what is said with it.
pub type Said = (u16, &'static str);

/// How a registry behaves. `HOST` and `NAME` stand for the registry and the repository.
#[derive(Clone, Copy)]
pub struct Manners {
    /// The headers `WWW-Authenticate` of its first answer.
    pub challenges: &'static [&'static str],
    /// The answer's body.
    pub unauthorized: &'static str,
    /// Its token server; none if it takes passwords itself.
    pub tokens: Option<Tokens>,
    /// Its answer to a login that is wrong, by the token server if there is one.
    pub wrong_login: Said,
    /// Who may not have a repository, or asks for one that isn't there.
    pub denied: Denied,
    /// Its answer to a token or login that was good.
    pub expired: Expired,
    /// What the host that has the blobs says to a request with a login; none if the registry has them itself.
    pub blob_store: Option<Said>,
}

/// A token server.
#[derive(Clone, Copy)]
pub struct Tokens {
    /// Its path.
    pub path: &'static str,
    /// What the request for a token must have.
    pub service: Option<&'static str>,
    /// The scopes that a request must have, in their order.
    pub scopes: &'static [&'static str],
    /// Its answer, with `TOKEN`.
    pub answer: &'static str,
    /// Its answer to POST; none if it knows OAuth2.
    pub post: Option<Said>,
}

/// Who says that a repository is out of reach.
#[derive(Clone, Copy)]
pub enum Denied {
    /// The token server.
    ByTokens(Said),
    /// The registry, to a token that opens nothing. With 401 a challenge comes along, which has this error.
    ByRegistry(Said, &'static str),
}

/// How a registry says that a token is too old.
#[derive(Clone, Copy)]
pub enum Expired {
    /// By a challenge, which has this error.
    Challenge(&'static str),
    /// By something else.
    Said(Said),
}

/// The login that a registry takes.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub user: String,
    pub password: String,
    /// What OAuth2 calls a refresh token, and `auth.json` an identity token.
    pub refresh_token: Option<String>,
}

/// A running one.
pub struct Played {
    pub server: StandIn,
    pub blob_store: StandIn,
    pub image: Image,
    state: Arc<State>,
}

struct State {
    manners: Manners,
    repository: Arc<Repository>,
    blob_store: String,
    accepted: Mutex<Accepted>,
    /// The tokens that were given: what they open, and for how many requests.
    tokens: Mutex<HashMap<String, (String, usize)>>,
    /// For how many requests a new token is good, or a password if there are no tokens.
    uses: AtomicUsize,
    /// What happens then.
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Played {
    pub fn start(manners: Manners, accepted: Accepted, layers: &[Vec<u8>]) -> Self {
        let (repository, image) = Repository::of(layers);
        let repository = Arc::new(repository);
        let blobs = Arc::clone(&repository);
        let with_login = manners.blob_store;
        let blob_store = StandIn::start(move |asked| match (&asked.authorization, with_login) {
            (Some(_), Some((status, body))) => Answer::new(status, body),
            _ => blobs.answer(&asked.path),
        });
        let state = Arc::new(State {
            manners,
            repository,
            blob_store: blob_store.address.clone(),
            accepted: Mutex::new(accepted),
            tokens: Mutex::default(),
            uses: AtomicUsize::new(usize::MAX),
            then: Mutex::default(),
        });
        let answering = Arc::clone(&state);
        Self {
            server: StandIn::start(move |asked| answering.answer(asked)),
            blob_store,
            image,
            state,
        }
    }

    /// Lets each token be good for so many requests, or the password if there are no tokens.
    pub fn expire_after(&self, requests: usize) {
        self.state.uses.store(requests, Ordering::SeqCst);
    }

    /// When the password is used up, this one is right, and `then` happens.
    pub fn change_password(&self, password: &str, then: impl FnOnce() + Send + 'static) {
        let (state, password) = (Arc::clone(&self.state), password.to_owned());
        let change = move || {
            then();
            state.accepted.lock().unwrap().password = password;
            state.uses.store(usize::MAX, Ordering::SeqCst);
        };
        *self.state.then.lock().unwrap() = Some(Box::new(change));
    }

    /// The requests to the token server.
    pub fn asked_for_tokens(&self) -> Vec<Asked> {
        let path = self
            .state
            .manners
            .tokens
            .map_or("none", |tokens| tokens.path);
        let mut asked = self.server.asked();
        asked.retain(|asked| asked.path.split('?').next() == Some(path));
        asked
    }
}

impl State {
    fn answer(&self, asked: &Asked) -> Answer {
        let path = asked.path.split('?').next().unwrap();
        match self.manners.tokens {
            Some(tokens) if path == tokens.path => self.answer_token(&tokens, asked),
            _ => self.answer_registry(asked),
        }
    }

    fn answer_token(&self, tokens: &Tokens, asked: &Asked) -> Answer {
        let answer = |(status, body): Said| Answer::new(status, body);
        let is_post = asked.method == "POST";
        if let (true, Some(said)) = (is_post, tokens.post) {
            return answer(said);
        }
        let query = match is_post {
            true => asked.body.as_str(),
            false => asked.path.split_once('?').map_or("", |(_, query)| query),
        };
        let pairs: Vec<_> = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(name, value)| (name, decoded(value)))
            .collect();
        let values = |wanted: &str| {
            let all = pairs.iter().filter(|(name, _)| *name == wanted);
            all.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let service = tokens
            .service
            .map(|service| service.replace("HOST", &asked.host));
        assert_eq!(values("service"), Vec::from_iter(service), "{asked:?}");
        let mut scopes = values("scope");
        if is_post {
            let all = scopes.pop().unwrap();
            scopes = all.split(' ').map(str::to_owned).collect();
        }
        let own = scopes[0].clone();
        let name = own.strip_prefix("repository:").unwrap();
        let name = name.strip_suffix(":pull").unwrap();
        let wanted = tokens
            .scopes
            .iter()
            .map(|scope| scope.replace("NAME", name));
        assert_eq!(scopes, Vec::from_iter(wanted), "{asked:?}");
        let accepted = self.accepted.lock().unwrap().clone();
        let is_known = match (&asked.authorization, is_post) {
            (_, true) => {
                assert_eq!(values("grant_type"), ["refresh_token"]);
                assert_eq!(values("client_id"), ["guest-pull"]);
                Some(values("refresh_token").pop() == accepted.refresh_token)
            }
            (Some(header), false) => Some(accepted.headers().contains(header)),
            (None, false) => None,
        };
        if is_known == Some(false) {
            return answer(self.manners.wrong_login);
        }
        let is_open = name == PUBLIC || name == PRIVATE && is_known.is_some();
        let opens = match (is_open, self.manners.denied) {
            (true, _) => name,
            (false, Denied::ByTokens(said)) => return answer(said),
            (false, Denied::ByRegistry(..)) => "nothing",
        };
        let mut given = self.tokens.lock().unwrap();
        let token = format!("tok-{}", given.len());
        given.insert(
            token.clone(),
            (opens.to_owned(), self.uses.load(Ordering::SeqCst)),
        );
        Answer::new(200, tokens.answer.replace("TOKEN", &token))
    }

    fn answer_registry(&self, asked: &Asked) -> Answer {
        let manners = &self.manners;
        let name = asked.path.strip_prefix("/v2/").unwrap();
        let end = ["/manifests/", "/blobs/"]
            .iter()
            .find_map(|part| name.find(part));
        let name = &name[..end.unwrap()];
        let challenge = |error: &str, body: &str| {
            let mut answer = Answer::new(401, body);
            for header in manners.challenges {
                let mut header = header.replace("HOST", &asked.host).replace("NAME", name);
                if !error.is_empty() && header.starts_with("Bearer") {
                    header.push_str(&format!(",error=\"{error}\""));
                }
                answer = answer.with("WWW-Authenticate", header);
            }
            answer
        };
        let denied = || match manners.denied {
            Denied::ByRegistry((401, body), error) => challenge(error, body),
            Denied::ByRegistry((status, body), _) | Denied::ByTokens((status, body)) => {
                Answer::new(status, body)
            }
        };
        let expired = || match manners.expired {
            Expired::Challenge(error) => challenge(error, manners.unauthorized),
            Expired::Said((status, body)) => Answer::new(status, body),
        };
        let Some(header) = &asked.authorization else {
            return challenge("", manners.unauthorized);
        };
        if manners.tokens.is_none() {
            let right = self.accepted.lock().unwrap().headers();
            if !right.contains(header) {
                return match manners.wrong_login {
                    (401, body) => challenge("", body),
                    (status, body) => Answer::new(status, body),
                };
            }
            let left = self.uses.load(Ordering::SeqCst);
            if left == 0 {
                // Others wait until it is done.
                if let Some(then) = self.then.lock().unwrap().take() {
                    then();
                }
                return expired();
            }
            self.uses.store(left - 1, Ordering::SeqCst);
            return match name == NO_SUCH {
                true => denied(),
                false => self.give(asked),
            };
        }
        let token = header.strip_prefix("Bearer ").unwrap_or_default();
        let mut tokens = self.tokens.lock().unwrap();
        match tokens.get_mut(token) {
            None => challenge("invalid_token", manners.unauthorized),
            Some((opens, _)) if opens != name => denied(),
            Some((_, 0)) => expired(),
            Some((_, left)) => {
                *left -= 1;
                self.give(asked)
            }
        }
    }

    /// Gives what the registry has, or says where it is.
    fn give(&self, asked: &Asked) -> Answer {
        if self.manners.blob_store.is_none() || !asked.path.contains("/blobs/") {
            return self.repository.answer(&asked.path);
        }
        let digest = asked.path.rsplit('/').next().unwrap();
        let location = format!("http://{}/{digest}", self.blob_store);
        Answer::new(307, "").with("Location", location)
    }
}

impl Accepted {
    pub fn new(user: &str, password: &str) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_owned(),
            refresh_token: None,
        }
    }

    /// The headers for it. A server may take the refresh token as a password.
    fn headers(&self) -> Vec<String> {
        let secrets = self.refresh_token.iter().chain([&self.password]);
        secrets.map(|secret| basic(&self.user, secret)).collect()
    }
}

/// The header for user and password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A value of a query.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = rest.split_at(2);
        let digits = std::str::from_utf8(digits).unwrap();
        bytes.push(u8::from_str_radix(digits, 16).unwrap());
        rest = after;
    }
    String::from_utf8(bytes).unwrap()
}
