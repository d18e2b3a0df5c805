// SPDX-License-Identifier: Apache-2.0

//! What mounter and worker write to each other: a JSON object a line.

use std::fmt::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::base64::decode_padded;
use common::json::{members, string};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::policy::Rules;
use crate::proxy::Proxies;
use crate::question::{Answer, Files, Question, Wanted};
use crate::registry::manifest::MAX_LAYERS;
use crate::registry::platform::Platform;
use crate::registry::{Login, Secret};
use crate::worker::confinement::{Confinement, Part};

/// The longest line of the mounter: a request has certificates, and the keys of policies.
pub(super) const MAX_LINE: usize = 4 << 20;

/// The longest line of the worker: a packet of a layer's key has 64 KiB at most, a result 500 digests, a failure the text for
/// each of a few places. The mounter makes values of it, which take many times as much.
pub(super) const MAX_LINE_OF_WORKER: usize = 256 << 10;

/// The longest message of a failure, in characters: several times what an answer to the daemon has.
const MAX_MESSAGE: usize = 16_000;

/// How many failures of places that were asked before come with one. A configuration has a few mirrors for an image.
const MAX_BEFORE: usize = 32;

/// The longest message of each of them, in characters: more than an answer to the daemon shows of one. All of them fit a line,
/// even if each character takes six bytes there.
const MAX_MESSAGE_BEFORE: usize = 700;

/// A place where an image may be.
#[derive(Clone, Debug)]
pub struct Place {
    /// The registry, with its port.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag or digest.
    pub reference: String,
    /// The login for the registry.
    pub login: Option<Login>,
    /// Without TLS.
    pub plain_http: bool,
    /// The signatures that the image must have there, if any.
    pub rules: Option<Rules>,
}

/// What the worker is to do.
#[derive(Clone)]
pub struct Request {
    /// Where the image may be: the first place that has it counts.
    pub places: Vec<Place>,
    /// The platform.
    pub platform: Platform,
    /// Certificates of authorities in PEM, beside the system's.
    pub certificates: Vec<String>,
    /// Through which servers places are asked.
    pub proxies: Proxies,
    /// How many layers are fetched at once.
    pub layers_at_once: usize,
    /// Whether no layer is fetched: whether a pull would succeed is all that is asked.
    pub only_verify: bool,
}

/// The layers that the worker has put into the store.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The number of the place that had the image, beginning with 0.
    pub place: usize,
    /// The digest of the image's manifest.
    pub manifest: Digest,
    /// The digests of the layers' archives, the lowest first.
    pub layers: Vec<Digest>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_digest = self.reference.contains(':');
        let mark = if is_digest { '@' } else { ':' };
        write!(
            f,
            "{}/{}{mark}{}",
            self.registry, self.repository, self.reference
        )
    }
}

impl Place {
    fn to_json(&self) -> Value {
        json!({
            "registry": self.registry, "repository": self.repository, "reference": self.reference,
            "login": self.login.as_ref().map(login_to_json), "plain_http": self.plain_http,
            "rules": self.rules.as_ref().map(Rules::to_json),
        })
    }

    fn parse(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self {
            registry: text("registry")?,
            repository: text("repository")?,
            reference: text("reference")?,
            login: parse_login(&value["login"])?,
            plain_http: value["plain_http"].as_bool()?,
            rules: match value.get("rules")? {
                Value::Null => None,
                rules => Some(Rules::of_json(rules)?),
            },
        })
    }
}

fn login_to_json(login: &Login) -> Value {
    let (form, text) = match &login.secret {
        Secret::Password(text) => ("password", text),
        Secret::IdentityToken(text) => ("identity_token", text),
        Secret::RegistryToken(text) => ("registry_token", text),
    };
    json!({"entry": login.entry, "user": login.user, form: text.as_str()})
}

/// A login, or that there is none.
fn parse_login(value: &Value) -> Option<Option<Login>> {
    if value.is_null() {
        return Some(None);
    }
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    let forms = [
        ("password", Secret::Password as fn(_) -> _),
        ("identity_token", Secret::IdentityToken),
        ("registry_token", Secret::RegistryToken),
    ];
    let secret = |(name, form): (&str, fn(Zeroizing<String>) -> Secret)| {
        Some(form(Zeroizing::new(text(name)?)))
    };
    Some(Some(Login {
        entry: text("entry")?,
        user: text("user")?,
        secret: forms.into_iter().find_map(secret)?,
    }))
}

impl Request {
    /// The line for it, which is wiped: it has logins.
    pub fn to_json(&self) -> Zeroizing<String> {
        let places: Vec<_> = self.places.iter().map(Place::to_json).collect();
        let request = json!({
            "places": places, "platform": self.platform.to_string(), "certificates": self.certificates,
            "proxies": self.proxies.to_json(), "layers_at_once": self.layers_at_once,
            "only_verify": self.only_verify,
        });
        text_of(&request)
    }

    /// The request in a line, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let certificates = value["certificates"].as_array()?.iter();
        let certificates = certificates.map(|text| Some(text.as_str()?.to_owned()));
        let places = value["places"].as_array()?.iter().map(Place::parse);
        Some(Self {
            places: places.collect::<Option<_>>()?,
            platform: Platform::parse(value["platform"].as_str()?)?,
            certificates: certificates.collect::<Option<_>>()?,
            proxies: Proxies::of_json(&value["proxies"])?,
            layers_at_once: value["layers_at_once"].as_u64()?.try_into().ok()?,
            only_verify: value["only_verify"].as_bool()?,
        })
    }
}

/// A value as text, with room for all of it from the beginning: a text that grows leaves copies behind, which the heap does not
/// wipe if they are large.
fn text_of(value: &Value) -> Zeroizing<String> {
    let mut length = Length(0);
    // Neither of them fails.
    let _ = write!(length, "{value}");
    let mut text = Zeroizing::new(String::with_capacity(length.0));
    let _ = write!(text, "{value}");
    text
}

/// Counts the bytes of what is written.
struct Length(usize);

impl fmt::Write for Length {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0 += text.len();
        Ok(())
    }
}

impl Question {
    /// The line for it.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Login(place) => json!({"ask": {"login": place}}),
            Self::Key { provider, packet } => {
                json!({"ask": {"key": {"provider": provider, "packet": STANDARD.encode(packet)}}})
            }
            Self::Signature(wanted) => {
                let Wanted {
                    storage,
                    digest,
                    number,
                } = wanted;
                json!({"ask": {"signature": digest.to_string(), "storage": storage, "number": number}})
            }
            Self::Claim { layer, bytes } => {
                json!({"ask": {"claim": layer.to_string(), "bytes": bytes}})
            }
            Self::Finish(layer) => json!({"ask": {"finish": layer.to_string()}}),
            Self::Release(layer) => json!({"ask": {"release": layer.to_string()}}),
            Self::Hold(layer) => json!({"ask": {"hold": layer.to_string()}}),
            Self::Room(layer) => json!({"ask": {"room": layer.to_string()}}),
        }
    }

    /// Reads what `ask` holds.
    pub fn parse(value: &Value) -> Option<Self> {
        if let Some(place) = value["login"].as_u64() {
            return Some(Self::Login(usize::try_from(place).ok()?));
        }
        if let Some(digest) = value["signature"].as_str() {
            return Some(Self::Signature(Wanted {
                storage: value["storage"].as_str()?.to_owned(),
                digest: Digest::parse(digest)?,
                number: value["number"].as_u64()?.try_into().ok()?,
            }));
        }
        let layer = |name: &str| Some(Digest::parse(value.get(name)?.as_str()?));
        if let Some(layer) = layer("claim") {
            let (layer, bytes) = (layer?, value["bytes"].as_u64()?);
            return Some(Self::Claim { layer, bytes });
        }
        let of_layers = [
            ("finish", Self::Finish as fn(Digest) -> Self),
            ("release", Self::Release),
            ("hold", Self::Hold),
            ("room", Self::Room),
        ];
        for (name, question) in of_layers {
            if let Some(layer) = layer(name) {
                return layer.map(question);
            }
        }
        let key = &value["key"];
        Some(Self::Key {
            provider: key["provider"].as_str()?.to_owned(),
            packet: STANDARD.decode(key["packet"].as_str()?).ok()?,
        })
    }
}

/// The line for an answer.
pub fn answer_to_json(answer: &Result<Answer, Failure>) -> Zeroizing<String> {
    let value = match answer {
        Ok(Answer::Login(login)) => json!({"login": login.as_ref().map(login_to_json)}),
        // Not by way of a value, which nobody would wipe.
        Ok(Answer::Key(key)) => {
            let key = Zeroizing::new(STANDARD.encode(key));
            return Zeroizing::new(["{\"key\":\"", &key, "\"}"].concat());
        }
        Ok(Answer::Signature(signature)) => {
            json!({"signature": signature.as_ref().map(|bytes| STANDARD.encode(bytes))})
        }
        Ok(Answer::Stored) => json!({"layer": "stored"}),
        Ok(Answer::Busy) => json!({"layer": "busy"}),
        Ok(Answer::Make(_)) => json!({"layer": "make"}),
        Ok(Answer::Done(is_more)) => json!({"done": is_more}),
        Err(failure) => failure_to_json(failure),
    };
    Zeroizing::new(value.to_string())
}

/// The files that go along with an answer.
pub fn files_of(answer: &Result<Answer, Failure>) -> Vec<BorrowedFd<'_>> {
    match answer {
        Ok(Answer::Make(files)) => {
            vec![
                files.layer.as_fd(),
                files.notes.as_fd(),
                files.scratch.as_fd(),
            ]
        }
        _ => Vec::new(),
    }
}

/// The answer in a line, with the files that came along.
pub fn parse_answer(text: &str, files: Vec<OwnedFd>) -> Option<Result<Answer, Failure>> {
    let members = members(text.as_bytes(), 1).ok()?;
    if let Some(key) = string(&members, "key").map(Zeroizing::new) {
        return Some(Ok(Answer::Key(decode_padded(&key)?)));
    }
    let value: Value = serde_json::from_str(text).ok()?;
    if let Some(failure) = parse_failure(&value) {
        return Some(Err(failure));
    }
    if let Some(is_more) = value["done"].as_bool() {
        return Some(Ok(Answer::Done(is_more)));
    }
    match value.get("signature") {
        Some(Value::Null) => return Some(Ok(Answer::Signature(None))),
        Some(text) => {
            let bytes = STANDARD.decode(text.as_str()?).ok()?;
            return Some(Ok(Answer::Signature(Some(bytes))));
        }
        None => {}
    }
    match value["layer"].as_str() {
        Some("stored") => return Some(Ok(Answer::Stored)),
        Some("busy") => return Some(Ok(Answer::Busy)),
        Some("make") => {
            let [layer, notes, scratch]: [OwnedFd; 3] = files.try_into().ok()?;
            return Some(Ok(Answer::Make(Files {
                layer: layer.into(),
                notes: notes.into(),
                scratch: scratch.into(),
            })));
        }
        _ => {}
    }
    let login = value.as_object()?.get("login")?;
    Some(Ok(Answer::Login(parse_login(login)?)))
}

/// How a failure is written.
pub fn failure_to_json(failure: &Failure) -> Value {
    let before = failure.before.iter().take(MAX_BEFORE);
    let before: Vec<_> = before
        .map(|failure| Value::Object(members_of(failure, MAX_MESSAGE_BEFORE)))
        .collect();
    let mut members = members_of(failure, MAX_MESSAGE);
    members.insert("before".to_owned(), before.into());
    json!({"failed": members})
}

/// A failure without those before it. What a registry says may be in its message, and the line has a limit.
fn members_of(failure: &Failure, most: usize) -> Map<String, Value> {
    let message: String = failure.message.chars().take(most).collect();
    let members = [
        ("kind", json!(failure.kind.name())),
        ("message", json!(message)),
        ("place", json!(failure.place)),
    ];
    let members = members.into_iter();
    members
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// The failure in a line, if it is one. One before it has none before itself.
pub fn parse_failure(value: &Value) -> Option<Failure> {
    let failed = &value["failed"];
    failed.is_object().then_some(())?;
    let before = failed["before"].as_array().map_or(&[][..], Vec::as_slice);
    if before.len() > MAX_BEFORE {
        return None;
    }
    Some(Failure {
        before: before.iter().map(failure_of).collect(),
        ..failure_of(failed)
    })
}

fn failure_of(members: &Value) -> Failure {
    let text = |name: &str| members[name].as_str().unwrap_or_default();
    let place = members["place"].as_u64();
    Failure {
        place: place.and_then(|place| place.try_into().ok()),
        ..Failure::new(Kind::parse(text("kind")), text("message"))
    }
}

/// What confines the worker: for each part nothing, or why it doesn't hold.
pub fn confinement_to_json(confinement: &Confinement) -> Value {
    let parts = confinement
        .parts
        .iter()
        .map(|(part, why)| (part.name().to_owned(), json!(why)));
    json!({"confinement": parts.collect::<Map<_, _>>(), "older_landlock": confinement.older_landlock})
}

/// The same, of the worker's first line.
pub fn parse_confinement(value: &Value) -> Option<Confinement> {
    let parts = value["confinement"].as_object()?.iter();
    let parts =
        parts.filter_map(|(name, why)| Some((Part::parse(name)?, why.as_str().map(str::to_owned))));
    Some(Confinement {
        parts: parts.collect(),
        older_landlock: value["older_landlock"].as_u64(),
    })
}

impl Outcome {
    /// The line for it.
    pub fn to_json(&self) -> Value {
        let layers: Vec<_> = self.layers.iter().map(Digest::to_string).collect();
        json!({"pulled": {"place": self.place, "manifest": self.manifest.to_string(), "layers": layers}})
    }
}

/// The layers that a worker's result names.
pub fn outcome(value: &Value) -> Option<Outcome> {
    let layers = value["layers"].as_array()?;
    if layers.len() > MAX_LAYERS {
        return None;
    }
    let layers = layers.iter().map(|layer| Digest::parse(layer.as_str()?));
    Some(Outcome {
        place: value["place"].as_u64()?.try_into().ok()?,
        manifest: Digest::parse(value["manifest"].as_str()?)?,
        layers: layers.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use super::*;
    use crate::proxy::Proxy;

    fn login(form: fn(Zeroizing<String>) -> Secret) -> Login {
        Login {
            entry: "r.example/a".to_owned(),
            user: "u\n\"".to_owned(),
            secret: form(Zeroizing::new("p\u{e9}".to_owned())),
        }
    }

    /// What the worker asks is what the mounter gets, and the answer is what the worker gets.
    #[test]
    fn questions_and_answers_come_through() {
        for question in [
            Question::Login(1),
            Question::Key {
                provider: "offline-fs-kbc".to_owned(),
                packet: b"\x00\n".to_vec(),
            },
            Question::Signature(Wanted {
                storage: "file:///a b".to_owned(),
                digest: Digest::of(b"x"),
                number: 1,
            }),
            Question::Claim {
                layer: Digest::of(b"x"),
                bytes: u64::MAX,
            },
            Question::Finish(Digest::of(b"x")),
            Question::Release(Digest::of(b"x")),
            Question::Hold(Digest::of(b"x")),
            Question::Room(Digest::of(b"x")),
        ] {
            let value = question.to_json();
            assert_eq!(Question::parse(&value["ask"]), Some(question));
        }
        assert_eq!(Question::parse(&json!({"resource": "default/key/1"})), None);
        let through = |answer| {
            let line = answer_to_json(&answer);
            assert!(!line.contains('\n'));
            parse_answer(&line, Vec::new()).unwrap()
        };
        for form in [
            Secret::Password as fn(_) -> _,
            Secret::IdentityToken,
            Secret::RegistryToken,
        ] {
            let sent = login(form);
            let Ok(Answer::Login(found)) = through(Ok(Answer::Login(Some(sent.clone())))) else {
                panic!("no login");
            };
            assert!(found == Some(sent));
        }
        assert!(matches!(
            through(Ok(Answer::Login(None))),
            Ok(Answer::Login(None))
        ));
        let key = Zeroizing::new(b"\x00key".to_vec());
        assert!(
            matches!(through(Ok(Answer::Key(key.clone()))), Ok(Answer::Key(found)) if found == key)
        );
        let mut failure = Failure::new(Kind::Unreachable, "x").at(1);
        failure.before = vec![Failure::new(Kind::Missing, "y").at(0)];
        assert!(matches!(through(Err(failure.clone())), Err(found) if found == failure));
        for (answer, expected) in [(Answer::Stored, true), (Answer::Busy, false)] {
            let found = through(Ok(answer));
            assert_eq!(matches!(found, Ok(Answer::Stored)), expected);
        }
        assert!(matches!(
            through(Ok(Answer::Done(true))),
            Ok(Answer::Done(true))
        ));
        let bad = [r#"{"layer":"make"}"#, r#"{"layer":"x"}"#, "{}"];
        assert!(
            bad.iter()
                .all(|text| parse_answer(text, Vec::new()).is_none())
        );
    }

    /// What confines the worker comes through, with what Landlock lacks.
    #[test]
    fn what_confines_comes_through() {
        let parts = [(Part::Landlock, None), (Part::User, Some("x".to_owned()))];
        let confinement = Confinement {
            parts: parts.into_iter().collect(),
            older_landlock: Some(4),
        };
        let found = parse_confinement(&confinement_to_json(&confinement)).unwrap();
        assert_eq!(found, confinement);
        let names = |name: &str| vec![name.to_owned()];
        assert_eq!(found.names(), (names("landlock-abi-4"), names("user")));
    }

    /// A worker that was taken over can't have the mounter put together thousands of failures, or nest them.
    #[test]
    fn failures_are_bounded() {
        let with = |count| {
            let before = vec![Failure::new(Kind::Other, "\0".repeat(99_999)); count];
            Failure {
                before,
                ..Failure::new(Kind::Other, "\0".repeat(99_999))
            }
        };
        let value = failure_to_json(&with(MAX_BEFORE + 1));
        assert!(value.to_string().len() < MAX_LINE_OF_WORKER);
        let found = parse_failure(&value).unwrap();
        assert_eq!(found.before.len(), MAX_BEFORE);
        assert_eq!(found.message.chars().count(), MAX_MESSAGE);
        let inner = &value["failed"];
        let many = json!({"failed": {"before": vec![inner; MAX_BEFORE + 1]}});
        assert!(parse_failure(&many).is_none());
        let nested = parse_failure(&json!({"failed": {"before": [inner]}})).unwrap();
        assert!(nested.before[0].before.is_empty());
    }

    /// What the mounter sends is what the worker gets.
    #[test]
    fn a_request_comes_through() {
        let request = Request {
            places: vec![Place {
                registry: "r.example:5000".to_owned(),
                repository: "a/b".to_owned(),
                reference: "1".to_owned(),
                login: Some(login(Secret::IdentityToken)),
                plain_http: true,
                rules: None,
            }],
            platform: Platform::parse("linux/arm/v7").unwrap(),
            certificates: vec!["x\ny".to_owned()],
            proxies: Proxies {
                http: Proxy::parse("http://u:p@h:1"),
                ..Proxies::default()
            },
            layers_at_once: 2,
            only_verify: true,
        };
        let text = request.to_json();
        assert!(!text.contains('\n'));
        assert_eq!(text.capacity(), text.len());
        let parsed = Request::parse(&text).unwrap();
        assert_eq!(*parsed.to_json(), *text);
        assert!(Request::parse("{}").is_none());
    }

    /// A worker that was taken over can name digests, and nothing else.
    #[test]
    fn a_result_has_digests_alone() {
        let id = Digest::of(b"x");
        let good = json!({"place": 1, "manifest": id.to_string(), "layers": [id.to_string()]});
        assert_eq!(outcome(&good).unwrap().layers, [id]);
        for bad in [
            json!({"place": 0, "manifest": id.to_string(), "layers": ["../../etc"]}),
            json!({"place": 0, "manifest": "sha256:x", "layers": []}),
            json!({"place": "x", "manifest": id.to_string(), "layers": []}),
            json!({"place": 0, "manifest": id.to_string(), "layers": vec![id.to_string(); 501]}),
            json!(null),
        ] {
            assert_eq!(outcome(&bad), None);
        }
    }
}
