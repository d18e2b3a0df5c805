// SPDX-License-Identifier: Apache-2.0

//! Networks and registries that are not as they should be, and ways to an image.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Point, World, login, plain, point, pulled};
use crate::front::{Asked, Does, Front};
use crate::subject::{Answer, Connection, Hub, Setting, write_resources};
use crate::tree::noise;

const NETWORKS: &str = "Networks and registries";

/// Where clients look for the credential.
pub const CREDENTIAL: &str = "default/credential/test";

/// The key of `cdh.toml` that says so.
pub const WITH_CREDENTIAL: &str =
    "authenticated_registry_credentials_uri = \"kbs:///default/credential/test\"\n";

/// How long a puller may take to find that a registry is silent: four times what guest-pull takes.
const SILENCE: Duration = Duration::from_secs(60);

pub fn points() -> Vec<Point> {
    vec![
        point(
            NETWORKS,
            "cut",
            "the connection breaks in the middle of a layer, once",
            cut,
        ),
        point(
            NETWORKS,
            "busy",
            "the registry answers 503 to two requests, then it works",
            |world| busy(world, "busy", "503 Service Unavailable", ""),
        ),
        point(
            NETWORKS,
            "limit",
            "the registry answers 429 with `Retry-After: 1`, then it works",
            |world| {
                busy(
                    world,
                    "limit",
                    "429 Too Many Requests",
                    "Retry-After: 1\r\n",
                )
            },
        ),
        point(
            NETWORKS,
            "silence",
            "the registry sends half a layer and then nothing, once",
            silence,
        ),
        point(
            NETWORKS,
            "altered",
            "a layer comes with one byte changed, always",
            altered,
        ),
        point(
            NETWORKS,
            "again",
            "the same image for a second container",
            again,
        ),
        point(
            NETWORKS,
            "password",
            "the registry's password and the credential change between two pulls",
            password,
        ),
        point(
            NETWORKS,
            "broken-entry",
            "the credential has an entry without `auth` for another registry",
            broken_entry,
        ),
        point(
            NETWORKS,
            "identitytoken",
            "a login by `identitytoken`",
            identity_token,
        ),
        point(
            NETWORKS,
            "mirror",
            "a mirror in `[image.registry_config]`",
            mirror,
        ),
        point(
            NETWORKS,
            "proxy",
            "a proxy in `[image.image_pull_proxy]`",
            proxy,
        ),
    ]
}

/// Pulls an image by a server before the registry.
fn pull_by(front: &Front, name: &str) -> Answer {
    let hub = Hub::start(&Setting {
        image: plain(&front.address),
        ..Setting::default()
    });
    hub.pull(&format!("{}/{name}", front.address), "c")
}

fn cut(world: &World) -> String {
    let pushed = world.push_file("cut", &noise(1 << 20, 2));
    let blob = pushed.blobs[0].clone();
    let cut = blob.clone();
    let front = world.front(
        move |asked| match asked.is_blob(&cut) && asked.before == 0 {
            true => Does::Cut(512 << 10),
            false => Does::Forward,
        },
    );
    let answer = pull_by(&front, &pushed.name);
    let asked = front.asked();
    let mut again = asked.iter().filter(|asked| asked.is_blob(&blob)).skip(1);
    match (&answer, again.any(|asked| asked.has_range)) {
        (Ok(_), true) => "pulled; the layer goes on where it was cut".to_owned(),
        (Ok(_), false) => "pulled; the layer is fetched again from its beginning".to_owned(),
        (Err(_), _) => pulled(&answer),
    }
}

fn silence(world: &World) -> String {
    let pushed = world.push_file("silence", &noise(1 << 20, 6));
    let blob = pushed.blobs[0].clone();
    let front = world.front(
        move |asked| match asked.is_blob(&blob) && asked.before == 0 {
            true => Does::Stall(512 << 10),
            false => Does::Forward,
        },
    );
    let _hub = Hub::start(&Setting {
        image: plain(&front.address),
        ..Setting::default()
    });
    let mut connection = Connection::new();
    connection.ask_for_image(1, &format!("{}/{}", front.address, pushed.name), "c");
    match connection.answer_within(1, SILENCE) {
        Some(answer) => pulled(&answer),
        None => format!("no answer within {} s", SILENCE.as_secs()),
    }
}

fn busy(world: &World, name: &str, status: &'static str, more: &'static str) -> String {
    let pushed = world.push_file(name, b"text");
    let times = AtomicUsize::new(2);
    let front = world.front(move |asked| {
        let is_left = |left: usize| left.checked_sub(1);
        let is_due = asked.target.contains("/blobs/")
            && times
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_left)
                .is_ok();
        match is_due {
            true => Does::Answer(status, more.to_owned(), String::new()),
            false => Does::Forward,
        }
    });
    pulled(&pull_by(&front, &pushed.name))
}

fn altered(world: &World) -> String {
    let pushed = world.push_file("altered", &noise(100_000, 3));
    let blob = pushed.blobs[0].clone();
    let front = world.front(move |asked| match asked.is_blob(&blob) {
        true => Does::Alter,
        false => Does::Forward,
    });
    pulled(&pull_by(&front, &pushed.name))
}

fn again(world: &World) -> String {
    let pushed = world.push_file("again", b"text");
    let front = world.front(|_| Does::Forward);
    let hub = Hub::start(&Setting {
        image: plain(&front.address),
        ..Setting::default()
    });
    let image = format!("{}/{}", front.address, pushed.name);
    for bundle in ["c1", "c2"] {
        let answer = hub.pull(&image, bundle);
        if answer.is_err() {
            return pulled(&answer);
        }
    }
    let asked = front.asked();
    let count = asked
        .iter()
        .filter(|asked| asked.is_blob(&pushed.blobs[0]))
        .count();
    format!(
        "its layer is fetched {}",
        if count == 1 { "once" } else { "again" }
    )
}

/// Whether a request has the login of Basic.
fn has_login(asked: &Asked, text: &str) -> bool {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    asked.authorization == format!("Basic {encoded}")
}

/// The answer to who has no login.
pub fn unauthorized() -> Does {
    let text = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
    let more = "WWW-Authenticate: Basic realm=\"tests\"\r\nContent-Type: application/json\r\n";
    Does::Answer("401 Unauthorized", more.to_owned(), text.to_owned())
}

fn password(world: &World) -> String {
    let pushed = world.push_file("password", b"text");
    let other = world.push_file("password-later", b"other text");
    let front = world.front(|asked| {
        let right = match asked.target.contains("password-later") {
            true => "robot:the second",
            false => "robot:the first",
        };
        match has_login(asked, right) {
            true => Does::Forward,
            false => unauthorized(),
        }
    });
    let credential = |text: &str| vec![(CREDENTIAL, login(&front.address, text))];
    let hub = Hub::start(&Setting {
        image: format!("{WITH_CREDENTIAL}{}", plain(&front.address)),
        resources: credential("robot:the first"),
        ..Setting::default()
    });
    let first = hub.pull(&format!("{}/{}", front.address, pushed.name), "c1");
    if first.is_err() {
        return format!("the first pull {}", pulled(&first));
    }
    write_resources(&credential("robot:the second"));
    let second = hub.pull(&format!("{}/{}", front.address, other.name), "c2");
    format!("the second image: {}", pulled(&second))
}

fn broken_entry(world: &World) -> String {
    let pushed = world.push_file("broken-entry", b"text");
    let front = world.front(|asked| match has_login(asked, "robot:right") {
        true => Does::Forward,
        false => unauthorized(),
    });
    let text = String::from_utf8(login(&front.address, "robot:right")).expect("UTF-8");
    let text = text.replacen("{\"auths\":{", "{\"auths\":{\"other.example\":{},", 1);
    let hub = Hub::start(&Setting {
        image: format!("{WITH_CREDENTIAL}{}", plain(&front.address)),
        resources: vec![(CREDENTIAL, text.into_bytes())],
        ..Setting::default()
    });
    pulled(&hub.pull(&format!("{}/{}", front.address, pushed.name), "c"))
}

fn identity_token(world: &World) -> String {
    let pushed = world.push_file("identitytoken", b"text");
    let front = world.front(|asked| {
        if asked.target.starts_with("/token") {
            let is_right = asked.body.contains("refresh_token=the-identity");
            return match is_right {
                true => {
                    let text = r#"{"access_token":"granted","token":"granted","expires_in":300}"#;
                    let more = "Content-Type: application/json\r\n".to_owned();
                    Does::Answer("200 OK", more, text.to_owned())
                }
                false => unauthorized(),
            };
        }
        match asked.authorization == "Bearer granted" {
            true => Does::Forward,
            false => {
                // The server is the same; its address is in the request.
                let more =
                    "WWW-Authenticate: Bearer realm=\"http://HOST/token\",service=\"tests\"\r\n";
                Does::Answer("401 Unauthorized", more.to_owned(), String::new())
            }
        }
    });
    let text = String::from_utf8(login(&front.address, "user:")).expect("UTF-8");
    let text = text.replace("}}}", ",\"identitytoken\":\"the-identity\"}}}");
    let hub = Hub::start(&Setting {
        image: format!("{WITH_CREDENTIAL}{}", plain(&front.address)),
        resources: vec![(CREDENTIAL, text.into_bytes())],
        ..Setting::default()
    });
    pulled(&hub.pull(&format!("{}/{}", front.address, pushed.name), "c"))
}

fn mirror(world: &World) -> String {
    let pushed = world.push_file("mirror", b"text");
    let address = &world.registry.address;
    let hub = Hub::start(&Setting {
        image: format!(
            "[[image.registry_config.registry]]\nprefix = \"registry.invalid\"\nlocation = \"registry.invalid\"\n\
             [[image.registry_config.registry.mirror]]\nlocation = \"{address}\"\ninsecure = true\n"
        ),
        ..Setting::default()
    });
    pulled(&hub.pull(&format!("registry.invalid/{}", pushed.name), "c"))
}

fn proxy(world: &World) -> String {
    let pushed = world.push_file("proxy", b"text");
    let front = world.front(|_| Does::Forward);
    let registry = "registry.invalid:5000";
    let hub = Hub::start(&Setting {
        image: format!(
            "[image.image_pull_proxy]\nhttp_proxy = \"http://{}\"\n{}",
            front.address,
            plain(registry)
        ),
        ..Setting::default()
    });
    let answer = hub.pull(&format!("{registry}/{}", pushed.name), "c");
    let is_asked = front
        .asked()
        .iter()
        .any(|asked| asked.target.starts_with("http://registry.invalid:5000/"));
    match (&answer, is_asked) {
        (Ok(_), true) => "pulled by the proxy".to_owned(),
        (Ok(_), false) => "pulled past the proxy".to_owned(),
        (Err(_), _) => pulled(&answer),
    }
}
