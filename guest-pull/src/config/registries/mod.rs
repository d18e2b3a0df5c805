// SPDX-License-Identifier: Apache-2.0

//! containers-registries.conf(5), version 2: from which places an image is pulled.
//!
//! As the stock puller has it, `insecure` is plain HTTP and nothing else. The tools of containers/image would rather ask
//! with TLS and look at no certificate.

mod read;

use common::auth_json::image::ImageName;
use common::text::{Escaped, RegistryName};

use crate::spelling::plainest;

/// The file, or the table `[image.registry_config]`, which has the same form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// `unqualified-search-registries`: where a name without a registry is looked for.
    search: Option<Vec<String>>,
    registries: Vec<Registry>,
}

/// One `[[registry]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Registry {
    /// The beginning of the names of images that it is for.
    prefix: String,
    /// What the prefix stands for, if that is something else.
    location: Option<String>,
    /// Whether it is asked in plain HTTP.
    insecure: bool,
    /// Whether nothing is pulled from it.
    blocked: bool,
    /// What is asked before.
    mirrors: Vec<Mirror>,
}

/// One `[[registry.mirror]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    pulls: Pulls,
}

/// `pull-from-mirror`: which images a mirror is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Pulls {
    #[default]
    All,
    ByDigest,
    ByTag,
}

/// A place where an image may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The image's name there.
    pub image: ImageName,
    /// The image that it stands for: what was asked for, with a registry.
    pub named: ImageName,
    /// Whether it is asked in plain HTTP.
    pub plain_http: bool,
    /// Whether it is a mirror of the place that the name means.
    pub is_mirror: bool,
}

impl Registries {
    /// The places where the image of this name may be, in the order in which they are asked.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn places(&self, text: &str) -> Result<Vec<Location>, String> {
        let parse = |text: &str| ImageName::parse(text).map_err(|error| error.to_string());
        let names = match &self.search {
            Some(search) if !ImageName::names_registry(text) => {
                if search.is_empty() {
                    return Err("the image's name has no registry, and unqualified-search-registries is empty; \
                                write REGISTRY/REPOSITORY:TAG".to_owned());
                }
                let names = search
                    .iter()
                    .map(|registry| parse(&format!("{registry}/{text}")));
                names.collect::<Result<_, _>>()?
            }
            _ => vec![parse(text)?],
        };
        let mut places = Vec::new();
        let mut blocked = None;
        for name in &names {
            if let Some((registry, _)) = self
                .choose(&plainest(name))
                .filter(|(registry, _)| registry.blocked)
            {
                blocked = Some(&registry.prefix);
                continue;
            }
            match self.choose(name) {
                Some((registry, _)) if registry.blocked => blocked = Some(&registry.prefix),
                Some((registry, rest)) => places.extend(registry.places(name, &rest)?),
                None => places.push(Location {
                    image: name.clone(),
                    named: name.clone(),
                    plain_http: false,
                    is_mirror: false,
                }),
            }
        }
        match blocked {
            Some(prefix) if places.is_empty() => {
                let shown = RegistryName(prefix).plain();
                let shown = Escaped(&shown);
                Err(format!(
                    "[[registry]] blocked: the configuration forbids images of {shown}"
                ))
            }
            _ => Ok(places),
        }
    }

    /// The one with the longest prefix, of equals the first; and what of the name follows it.
    fn choose(&self, image: &ImageName) -> Option<(&Registry, Rest)> {
        let fits = self.registries.iter();
        let fits = fits.filter_map(|registry| Some((registry, rest(&registry.prefix, image)?)));
        fits.rev().max_by_key(|(registry, _)| registry.prefix.len())
    }
}

impl Registry {
    /// The mirrors that count for the image, and then the location itself.
    fn places(&self, image: &ImageName, rest: &Rest) -> Result<Vec<Location>, String> {
        let is_digest = image.suffix.starts_with('@');
        let mut places = Vec::new();
        for mirror in &self.mirrors {
            let counts = match mirror.pulls {
                Pulls::All => true,
                Pulls::ByDigest => is_digest,
                Pulls::ByTag => !is_digest,
            };
            if counts {
                let at = rest.at(&mirror.location)?;
                places.push(Location {
                    image: at,
                    named: image.clone(),
                    plain_http: mirror.insecure,
                    is_mirror: true,
                });
            }
        }
        let at = match &self.location {
            Some(location) => rest.at(location)?,
            None => image.clone(),
        };
        places.push(Location {
            image: at,
            named: image.clone(),
            plain_http: self.insecure,
            is_mirror: false,
        });
        Ok(places)
    }
}

/// What follows a prefix in the name of an image.
struct Rest {
    /// The port, where the prefix is a domain's.
    port: String,
    /// Repository and suffix, or the end of them.
    name: String,
}

/// What follows the prefix, if the name begins with it, as a whole part of it.
fn rest(prefix: &str, image: &ImageName) -> Option<Rest> {
    let (host, path) = prefix.split_once('/').unwrap_or((prefix, ""));
    let mut port = "";
    match host.strip_prefix('*') {
        Some(domain) if image.registry.ends_with(domain) => {}
        Some(domain) => {
            let (bare, _) = image.registry.split_once(':')?;
            port = image.registry.get(bare.len()..)?;
            bare.ends_with(domain).then_some(())?;
        }
        None => (image.registry == host).then_some(())?,
    }
    let name = format!("{}{}", image.repository, image.suffix);
    let name = match path {
        "" => format!("/{name}"),
        path => name.strip_prefix(path)?.to_owned(),
    };
    let is_whole = name.is_empty() || name.starts_with(['/', ':', '@']);
    is_whole.then(|| Rest {
        port: port.to_owned(),
        name,
    })
}

impl Rest {
    /// The image's name at another location.
    fn at(&self, location: &str) -> Result<ImageName, String> {
        let (host, path) = match location.find('/') {
            Some(slash) => location.split_at(slash),
            None => (location, ""),
        };
        let port = if host.contains(':') { "" } else { &self.port };
        let text = format!("{host}{port}{path}{}", self.name);
        let image = ImageName::parse(&text).ok();
        // A tag in the middle is none; and without a repository, the registry would be taken for one of Docker Hub.
        let image = image.filter(|image| !image.repository.contains([':', '@']));
        let image = image.filter(|_| ImageName::names_registry(&text));
        image.ok_or_else(|| {
            format!(
                "[[registry]] location: {} is not the name of an image",
                Escaped(&text)
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Registries, String> {
        Registries::parse(text.as_bytes(), "file", &mut Vec::new())
    }

    /// The places, in plain HTTP with a `!`, and mirrors with a `~`.
    fn places(registries: &Registries, image: &str) -> Vec<String> {
        let places = registries
            .places(image)
            .unwrap_or_else(|error| panic!("{image}: {error}"));
        let shown = places.iter().map(|place| {
            let (plain, mirror) = (place.plain_http, place.is_mirror);
            format!(
                "{}{}{}",
                if mirror { "~" } else { "" },
                if plain { "!" } else { "" },
                place.image
            )
        });
        shown.collect()
    }

    /// The example of the manual page: mirrors in order, then the location, each with its own scheme.
    #[test]
    fn mirrors_come_first() {
        let registries = parse(
            "unqualified-search-registries = ['s.example', 'docker.io']\n\
             [[registry]]\nprefix = 'e.example/foo'\nlocation = 'in.example/bar/'\n\
             [[registry.mirror]]\nlocation = 'm.example/for-foo'\n\
             [[registry.mirror]]\nlocation = 'localhost:5000'\ninsecure = true\n\
             [[registry]]\nprefix = 'e.example/banned'\nblocked = true\n\
             [[registry]]\nlocation = 'docker.io'\ninsecure = false\n[[registry.mirror]]\nlocation = 'hub.example'\n",
        )
        .unwrap();
        for (image, expected) in [
            (
                "e.example/foo/a:1",
                &[
                    "~m.example/for-foo/a:1",
                    "~!localhost:5000/a:1",
                    "in.example/bar/a:1",
                ][..],
            ),
            ("e.example/food/a:1", &["e.example/food/a:1"]),
            ("e.example/a", &["e.example/a:latest"]),
            (
                "alpine:3",
                &[
                    "s.example/alpine:3",
                    "~hub.example/library/alpine:3",
                    "docker.io/library/alpine:3",
                ],
            ),
            (
                "org/a",
                &[
                    "s.example/org/a:latest",
                    "~hub.example/org/a:latest",
                    "docker.io/org/a:latest",
                ],
            ),
            (
                "docker.io/alpine",
                &[
                    "~hub.example/library/alpine:latest",
                    "docker.io/library/alpine:latest",
                ],
            ),
        ] {
            assert_eq!(places(&registries, image), expected, "{image}");
        }
        for image in [
            "e.example/banned/a",
            "e.example/banned:1",
            "E.example:443/banned/a",
            "e.example./banned/a",
        ] {
            let error = registries.places(image).unwrap_err();
            assert!(
                error.contains("blocked") && error.contains("e.example/banned"),
                "{image}: {error}"
            );
        }
        assert!(registries.places("").is_err());
        let hub = parse("[[registry]]\nlocation = 'docker.io'\nblocked = true\n").unwrap();
        for image in [
            "a",
            "docker.io/a",
            "index.docker.io/a",
            "registry-1.docker.io/library/a",
            "Docker.IO:443/library/a",
        ] {
            assert!(hub.places(image).is_err(), "{image}");
        }
        // Without the list, such a name is Docker Hub's; with an empty one, nobody's.
        assert_eq!(
            places(&Registries::default(), "a"),
            ["docker.io/library/a:latest"]
        );
        let error = parse("unqualified-search-registries = []")
            .unwrap()
            .places("a")
            .unwrap_err();
        assert!(error.contains("unqualified-search-registries"), "{error}");
    }

    /// The longest prefix counts alone, as a whole part of the name; a domain stands for all hosts below it.
    #[test]
    fn the_longest_prefix_counts() {
        let registries = parse(
            "[[registry]]\nprefix = 'r.example'\nlocation = 'one.example'\n\
             [[registry]]\nprefix = 'r.example/a'\nlocation = 'two.example'\n\
             [[registry]]\nprefix = 'r.example/a/b:1'\nlocation = 'three.example/c:2'\n\
             [[registry]]\nprefix = '*.corp.example'\nlocation = 'four.example'\n\
             [[registry]]\nprefix = '*.corp.example/x'\nlocation = 'five.example:80/y'\n\
             [[registry]]\nprefix = 'hh.corp.example'\ninsecure = true\n\
             [[registry]]\nprefix = 'hh.corp.example'\nlocation = 'never.example'\ninsecure = true\n",
        )
        .unwrap();
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, expected) in [
            ("r.example/x:1", "one.example/x:1"),
            ("r.example/a/b:1", "three.example/c:2"),
            ("r.example/a/b:12", "two.example/b:12"),
            ("r.example/ab:1", "one.example/ab:1"),
            ("r.example:5000/x:1", "r.example:5000/x:1"),
            ("x.corp.example/a:1", "four.example/a:1"),
            ("x.y.corp.example:5000/a:1", "four.example:5000/a:1"),
            ("x.corp.example:5000/x/a:1", "five.example:80/y/a:1"),
            ("corp.example/a:1", "corp.example/a:1"),
            (
                "e.example/x.corp.example/a:1",
                "e.example/x.corp.example/a:1",
            ),
            ("hh.corp.example/a:1", "!hh.corp.example/a:1"),
        ] {
            assert_eq!(places(&registries, image), [expected], "{image}");
        }
        // The prefix is the image's whole name, and the location a registry alone: it is no image of Docker Hub.
        for image in ["r.example/a:1", &format!("r.example/a@{digest}")] {
            let error = registries.places(image).unwrap_err();
            assert!(error.contains("two.example"), "{image}: {error}");
        }
    }

    /// A mirror can be for digests or tags alone.
    #[test]
    fn mirrors_may_be_for_digests_or_tags_alone() {
        let mirror = |location: &str, more: &str| {
            format!("[[registry.mirror]]\nlocation = '{location}'\n{more}\n")
        };
        let some = parse(&format!(
            "[[registry]]\nlocation = 'r.example'\n{}{}{}",
            mirror("all.example", "pull-from-mirror = 'all'"),
            mirror("digest.example", "pull-from-mirror = 'digest-only'"),
            mirror("tag.example", "pull-from-mirror = 'tag-only'"),
        ))
        .unwrap();
        let all = format!(
            "[[registry]]\nlocation = 'r.example'\nmirror-by-digest-only = true\n{}",
            mirror("m.example", "")
        );
        let all = parse(&all).unwrap();
        let digest = format!("a@sha256:{}", "0".repeat(64));
        let hosts = |registries: &Registries, image: &str| {
            let places = registries.places(&format!("r.example/{image}")).unwrap();
            places
                .into_iter()
                .map(|place| place.image.registry)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            hosts(&some, "a:1"),
            ["all.example", "tag.example", "r.example"]
        );
        assert_eq!(
            hosts(&some, &digest),
            ["all.example", "digest.example", "r.example"]
        );
        assert_eq!(hosts(&all, "a:1"), ["r.example"]);
        assert_eq!(hosts(&all, &digest), ["m.example", "r.example"]);
    }
}
