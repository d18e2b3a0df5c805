// SPDX-License-Identifier: Apache-2.0

//! Secrets stay where they are needed. Each has a mark, which is looked for in all that a pull says and leaves, and in the
//! memory of both processes.

use std::fs;

use guest_pull::worker::confinement::USER;
use serde_json::{Value, json};
use ttrpc::Code;

use crate::caller::{Answer as Told, Place, Serve, daemon, recorded, wait_until, with_progress};
use crate::credentials::{auth, image};
use crate::host::{Mounted, is_root};
use crate::image::{Repository, archive, noise};
use crate::marked::{
    assert_absent, assert_absent_below, assert_closed, assert_forgotten, search, traces,
    traces_of_key,
};
use crate::proxy::{Options, Proxy};
use crate::sealed::{Provider, Sealed, has_openssl, repository};
use crate::stand_in::{Answer, Asked, StandIn};

/// What secrets have before and after their marks, since the C library overwrites the beginning of what is freed.
const PADDING: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// The marks: of what is in the registry's entry, in another registry's, in the proxy's URL, and in the token server's answer.
const LOGIN: &str = "mArKeD7f3a91c2e5d8b604OfTheLogin";
const OTHER: &str = "mArKeDb19d0c4478aa2f13OfAnotherOne";
const PROXY: &str = "mArKeDe83c5d6612f90a7bOfTheProxy";
const TOKEN: &str = "mArKeD0a4be7713dd95c28OfTheToken";

/// The proxy's login.
const PROXY_LOGIN: &str = "vm:xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxmArKeDe83c5d6612f90a7bOfTheProxyxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// A user of the VM without rights.
const NOBODY: u32 = 65_534;

/// The secret with a mark.
fn secret(mark: &str) -> String {
    format!("{PADDING}{mark}{PADDING}")
}

fn all_traces() -> Vec<Vec<u8>> {
    [LOGIN, OTHER, PROXY, TOKEN]
        .iter()
        .flat_map(|mark| traces(mark))
        .collect()
}

/// The forms of a login, each with the mark.
fn forms() -> [(&'static str, Value); 3] {
    [
        ("password", auth("robot", &secret(LOGIN))),
        ("identity token", json!({"identitytoken": secret(LOGIN)})),
        ("registry token", json!({"registrytoken": secret(LOGIN)})),
    ]
}

/// The `auth.json` with this entry for the registry.
fn credential(registry: &str, entry: &Value) -> Vec<u8> {
    let other = auth("robot", &secret(OTHER));
    json!({"auths": {registry: entry, "other.example": other}})
        .to_string()
        .into_bytes()
}

/// The configuration with a proxy and the authorities of these servers, and more lines.
fn configuration(servers: &[&StandIn], proxy: &Proxy, more: &str) -> String {
    let authorities = servers.iter().map(|server| &*server.authority);
    let authorities = authorities.filter(|authority| !authority.is_empty());
    let authorities: Vec<_> = authorities
        .map(|authority| format!("'''\n{authority}'''"))
        .collect();
    let proxy = format!("http://{PROXY_LOGIN}@{}", proxy.address);
    format!(
        "[image]\nextra_root_certificates = [{}]\n[image.image_pull_proxy]\nhttps_proxy = '{proxy}'\n\
         http_proxy = '{proxy}'\n{more}",
        authorities.join(",")
    )
}

fn proxy() -> Proxy {
    Proxy::start(Options {
        login: Some(PROXY_LOGIN),
        ..Options::default()
    })
}

/// What proves a login in a request: the header, and what a form has.
fn proof(asked: &Asked) -> String {
    let header = asked.authorization.as_deref().unwrap_or_default();
    format!("{header} {}", asked.body)
}

/// A refusal that repeats what it was sent.
fn repeat(status: u16, asked: &Asked) -> Answer {
    let message = format!("no good: {}", proof(asked));
    let body = json!({"errors": [{"message": message}], "error_description": message});
    let header = asked.authorization.as_deref().unwrap_or_default();
    let challenge = format!(
        "Bearer realm=\"https://{}/token\",error=\"{header}\"",
        asked.host
    );
    Answer::new(status, body.to_string()).with("WWW-Authenticate", challenge)
}

/// What a registry does, if it is not what a good one does.
type Misdeed = fn(&Asked) -> Option<Answer>;

fn is_token(asked: &Asked) -> bool {
    asked.path.starts_with("/token")
}

fn is_let_in(asked: &Asked) -> bool {
    asked.authorization.is_some() && !is_token(asked)
}

const MISDEEDS: [(&str, Misdeed); 10] = [
    ("nothing", |_| None),
    ("the token is refused", |asked| {
        is_token(asked).then(|| repeat(401, asked))
    }),
    ("there is no token server", |asked| {
        is_token(asked).then(|| repeat(404, asked))
    }),
    ("the token is none", |asked| {
        let token = format!("{} {}", secret(TOKEN), proof(asked));
        is_token(asked).then(|| Answer::new(200, json!({"token": token}).to_string()))
    }),
    ("the answer with the token is none", |asked| {
        let text = format!("{{\"token\":\"{}{}", secret(TOKEN), proof(asked));
        is_token(asked).then(|| Answer::new(200, text))
    }),
    ("the token opens nothing", |asked| {
        is_let_in(asked).then(|| repeat(403, asked))
    }),
    ("the token is not accepted", |asked| {
        is_let_in(asked).then(|| repeat(401, asked))
    }),
    ("what was sent is the name of a scheme", |asked| {
        let header = asked.authorization.clone().unwrap_or_default();
        let scheme = header.rsplit(' ').next().unwrap_or_default().to_owned();
        is_let_in(asked).then(|| Answer::new(401, "{}").with("WWW-Authenticate", scheme))
    }),
    ("a blob is missing", |asked| {
        let is_blob = is_let_in(asked) && asked.path.contains("/blobs/");
        is_blob.then(|| repeat(404, asked))
    }),
    ("what was sent is in a redirect", |asked| {
        let header = asked.authorization.clone().unwrap_or_default();
        let location = format!("https://127.0.0.1:1/{}", header.replace(' ', "/"));
        let is_blob = is_let_in(asked) && asked.path.contains("/blobs/");
        is_blob.then(|| Answer::new(307, "").with("Location", location))
    }),
];

/// A registry with TLS that wants a login: by Basic, or by tokens of its own. Of blobs, another server has the last.
fn registry(repository: Repository, is_basic: bool, blobs: String, misdeed: Misdeed) -> StandIn {
    StandIn::start_with_tls(move |asked| {
        if let Some(answer) = misdeed(asked) {
            return answer;
        }
        if is_token(asked) {
            return Answer::new(200, json!({"token": secret(TOKEN)}).to_string());
        }
        if asked.authorization.is_none() {
            let challenge = match is_basic {
                true => "Basic realm=\"r\"".to_owned(),
                false => format!("Bearer realm=\"https://{}/token\"", asked.host),
            };
            return Answer::new(401, "{}").with("WWW-Authenticate", challenge);
        }
        match asked.path.contains("/blobs/") {
            true => Answer::new(307, "").with("Location", format!("{blobs}{}", asked.path)),
            false => repository.answer(&asked.path),
        }
    })
}

/// That nothing of a pull has a secret: its answer, its progress, its log, and what it leaves in files.
fn assert_silent(what: &str, place: &Place, told: &Told) {
    let traces = all_traces();
    assert_absent(what, &told.body, &traces);
    assert_absent(what, told.text().as_bytes(), &traces);
    let progress = format!("{:?}", told.progress);
    assert_absent(what, progress.as_bytes(), &traces);
    assert_absent(what, place.log().as_bytes(), &traces);
    for directory in [place.at("store"), place.bundle()] {
        assert_absent_below(&directory, &traces);
    }
}

/// Whatever a registry does, and in whatever form the login is: neither a log, an answer, an event nor a file has it, nor the
/// token or the proxy's login. Registries and token servers repeat what they were sent in each way that ends up in messages.
#[test]
fn no_output_of_a_pull_has_a_secret() {
    if !is_root() {
        return;
    }
    for (form, entry) in forms() {
        for (number, (what, misdeed)) in MISDEEDS.into_iter().enumerate() {
            for is_basic in [false, true] {
                // Those are without a token server. A registry token is sent before the registry says how it wants to be asked.
                let has_tokens = !is_basic && form != "registry token";
                if !has_tokens && (1..5).contains(&number) || is_basic && form == "registry token" {
                    continue;
                }
                let is_good = what == "nothing";
                let what = format!("{form}, {what}, by Basic: {is_basic}");
                let (repository, _) = image(2);
                let blobs = repository.clone();
                let blobs = StandIn::start_with_tls(move |asked| blobs.answer(&asked.path));
                let blobs_at = format!("https://{}", blobs.address);
                let registry = registry(repository, is_basic, blobs_at, misdeed);
                let place = Place::new(false);
                let proxy = proxy();
                place.configure(&configuration(&[&registry, &blobs], &proxy, ""));
                daemon(&place, Ok(credential(&registry.address, &entry)));
                let name = format!("{}/a/b:1", registry.address);
                let told = place.ask(&with_progress(recorded(&name, &place.bundle())));
                let _mounted = Mounted(place.rootfs());
                assert_silent(&what, &place, &told);
                // Without a misdeed it is pulled, so that the marks were where they are looked for.
                if is_good {
                    assert_eq!(told.code(), Code::OK, "{what}: {}", told.text());
                }
                assert!(!proxy.asked().is_empty(), "{what}: {}", told.text());
            }
        }
    }
}

/// Nor is the proxy's login in what is said where the proxy refuses it, repeats it, or is told without TLS.
#[test]
fn no_output_has_the_login_of_the_proxy() {
    let (repository, _) = image(1);
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let name = format!("{}/a/b:1", registry.address);
    let insecure = format!(
        "[[image.registry_config.registry]]\nlocation = '{}'\ninsecure = true\n",
        registry.address
    );
    let entry = auth("robot", &secret(LOGIN));
    let repeats: fn(&Asked) -> Answer = |asked| {
        let message = format!("no: {} {}", asked.path, traces_as_text());
        Answer::new(403, json!({"errors": [{"message": message}]}).to_string())
    };
    let repeating = StandIn::start(repeats);
    let refusing = Proxy::start(Options {
        login: Some("vm:another"),
        ..Options::default()
    });
    for (what, address) in [
        ("repeats", &repeating.address),
        ("refuses", &refusing.address),
    ] {
        let place = Place::new(false);
        let proxy = format!("http://{PROXY_LOGIN}@{address}");
        place.configure(&format!(
            "[image]\n[image.image_pull_proxy]\nhttp_proxy = '{proxy}'\nhttps_proxy = '{proxy}'\n{insecure}"
        ));
        daemon(&place, Ok(credential(&registry.address, &entry)));
        let told = place.ask(&recorded(&name, &place.bundle()));
        assert_ne!(told.code(), Code::OK, "{what}");
        assert_silent(what, &place, &told);
    }
}

/// The proxy's login in the forms in which a proxy may repeat it.
fn traces_as_text() -> String {
    let header = crate::played::basic("vm", &secret(PROXY));
    format!("{header} {PROXY_LOGIN}")
}

/// A pull that is in the middle of its last layer, of which nothing more comes, and its worker.
struct Held {
    serve: Serve,
    worker: u32,
}

impl Held {
    /// Starts a pull, and waits until `is_there` says so.
    fn start(place: &Place, name: &str, is_there: impl FnMut() -> bool) -> Self {
        let mut serve = place.serve();
        serve.send(&recorded(name, &place.bundle()));
        wait_until("the pull comes to its last layer", is_there);
        let [worker] = serve.children()[..] else {
            panic!("{:?}: {}", serve.children(), place.log())
        };
        Self { serve, worker }
    }

    fn mounter(&self) -> u32 {
        self.serve.child.id()
    }
}

/// The mounter hands the logins over, and keeps none. The worker has those of its pull, and no others. Neither has them in
/// its arguments or its environment, and no other user can look into its memory, nor can the worker's own.
#[test]
fn logins_are_where_they_are_needed_alone() {
    if !is_root() {
        return;
    }
    for (form, entry) in forms() {
        let (repository, described) = image(1);
        let layer = described.layers[0].clone();
        let registry = StandIn::start_with_tls(move |asked| {
            if is_token(asked) {
                return Answer::new(200, json!({"token": secret(TOKEN)}).to_string());
            }
            if asked.authorization.is_none() {
                let challenge = format!("Bearer realm=\"https://{}/token\"", asked.host);
                return Answer::new(401, "{}").with("WWW-Authenticate", challenge);
            }
            let mut answer = repository.answer(&asked.path);
            if asked.path.ends_with(&layer) {
                answer = answer.cut(1000);
                answer.stalls = true;
            }
            answer
        });
        let place = Place::new(false);
        let proxy = proxy();
        place.configure(&configuration(&[&registry], &proxy, ""));
        daemon(&place, Ok(credential(&registry.address, &entry)));
        let name = format!("{}/a/b:1", registry.address);
        let held = Held::start(&place, &name, || {
            let asked = registry.asked();
            let mut blobs = asked.iter().filter(|asked| is_let_in(asked));
            blobs.any(|asked| asked.path.ends_with(&described.layers[0]))
        });
        for (mark, by_worker) in [(LOGIN, true), (PROXY, true), (OTHER, false)] {
            let found = search(held.worker, &traces(mark));
            assert_eq!(found[0] > 0, by_worker, "{form}, {mark}: {found:?}");
            assert!(by_worker || found == [0; 4], "{form}, {mark}: {found:?}");
        }
        assert_forgotten(form, held.mounter(), &all_traces());
        for process in [held.mounter(), held.worker] {
            assert_closed(process, &[USER, NOBODY], &all_traces());
        }
        let environment = fs::read(format!("/proc/{}/environ", held.worker)).unwrap();
        let variables = environment.split(|byte| *byte == 0);
        for variable in variables.filter(|variable| !variable.is_empty()) {
            let text = String::from_utf8_lossy(variable);
            let kept = [
                "MALLOC_ARENA_MAX=",
                "MALLOC_MMAP_THRESHOLD_=",
                "SSL_CERT_FILE=",
                "SSL_CERT_DIR=",
            ];
            assert!(kept.iter().any(|name| text.starts_with(name)), "{text}");
        }
    }
}

/// The key of a layer that is done is in no page of the worker, while another layer comes; and the mounter, which asked the
/// daemon for both, has neither.
#[test]
fn a_used_layer_key_is_in_no_page() {
    if !is_root() || !has_openssl() {
        return;
    }
    let content = |seed| archive(&[(format!("file-{seed}"), noise(seed, 300_000))]);
    let mut layers = [1, 2].map(|seed| Sealed::of(&content(seed), "+gzip"));
    for (number, layer) in layers.iter_mut().enumerate() {
        let packet = format!(r#"{{"kid":"here-{number}"}}"#);
        layer.keys("provider.attestation-agent", &[&packet]);
    }
    let repository = repository(&layers);
    let last = layers[1].blob.clone();
    let registry = StandIn::start(move |asked| {
        let mut answer = repository.answer(&asked.path);
        if answer.body == last {
            answer = answer.cut(150_000);
            answer.stalls = true;
        }
        answer
    });
    let place = Place::new(false);
    let provider = Provider::of(&place.at("cdh.sock"), &layers);
    place.configure(&format!(
        "[image]\nauthenticated_registry_credentials_uri = 'file:///none'\n\
         [[image.registry_config.registry]]\nlocation = '{}'\ninsecure = true\n",
        registry.address
    ));
    let stored = layers[0].diff_id.trim_start_matches("sha256:");
    let stored = place.at(&format!("store/layers/{stored}.notes"));
    let name = format!("{}/a/b:1", registry.address);
    let held = Held::start(&place, &name, || {
        stored.exists() && provider.asked().len() == 2
    });
    let [used, needed] = layers.map(|layer| traces_of_key(&layer.key));
    let mut found = Vec::new();
    wait_until("the search finds the key that is in use", || {
        found = search(held.worker, &needed);
        found.iter().any(|times| *times > 0)
    });
    assert_forgotten("the worker", held.worker, &used);
    assert_forgotten("the mounter", held.mounter(), &used);
    assert_forgotten("the mounter", held.mounter(), &needed);
    // Of the other, there are the keys of the rounds, and nothing that it was unwrapped from.
    assert_eq!(found[..5], [0; 5], "{found:?}");
}
