// SPDX-License-Identifier: Apache-2.0

//! What a pull of an image would do, found out without asking a registry: which places it asks in which order, each by
//! which login and through which proxy.

use std::path::Path;

use common::auth_json::image::ImageName;
use common::text::{Escaped, RegistryName};
use serde_json::{Value, json};

use crate::config::{Image, Location, Registries};
use crate::credential::{self, Found};
use crate::failure::{Failure, Kind};
use crate::policy::{self, Rules};
use crate::registry;
use crate::resource;
use crate::worker::Place;

/// The largest rules of all places together. The worker gets them in a line of 4 MiB at most, a copy for each place; a MiB
/// is left for logins, proxies and certificates.
const MAX_RULES_OF_PLACES: usize = 3 << 20;

/// What a pull would do.
#[derive(Debug)]
pub struct Plan {
    /// The image, as it was asked for.
    pub image: String,
    /// Where it may be, in the order in which that is tried.
    pub places: Vec<Planned>,
    /// What of the configuration is ignored.
    pub warnings: Vec<String>,
}

/// A place where the image may be.
#[derive(Debug)]
pub struct Planned {
    /// The image's name there.
    pub image: ImageName,
    /// Whether it is a mirror of the place that the name means.
    pub is_mirror: bool,
    /// What the worker is told of it.
    pub place: Place,
    /// The proxy on the way, without its login.
    pub proxy: Option<String>,
    /// The key of the credential's entry that the login is of.
    pub entry: Option<String>,
    /// Why it is asked without a login.
    pub why_anonymous: Option<String>,
    /// Why it is not asked.
    pub problem: Option<String>,
}

impl Plan {
    /// Makes the plan. The daemon at the socket `daemon` is asked for the credential, and for what the configuration says
    /// that it has.
    ///
    /// # Errors
    ///
    /// If nothing would be asked.
    pub fn make(config: &Image, image: &str, daemon: &Path) -> Result<Self, Failure> {
        let refused = |what: String| Failure::new(Kind::Configuration, what);
        let invalid = |what: String| Failure::new(Kind::Invalid, what);
        let name = ImageName::parse(image).map_err(|error| invalid(error.to_string()))?;
        registry::reference(&name).map_err(invalid)?;
        let mut warnings = config.warnings.clone();
        let registries = registries(config, daemon, &mut warnings)?;
        let locations = registries.places(image).map_err(refused)?;
        // The policy is about the image that was meant, and not about where it comes from.
        let mut rules: Vec<(ImageName, Result<Option<Rules>, Failure>)> = Vec::new();
        let (policy, sigstore) = (config.policy.as_ref(), config.sigstore.as_ref());
        for Location { named, .. } in &locations {
            if !rules.iter().any(|(name, _)| name == named) {
                let of_name = policy::rules_for(policy, sigstore, daemon, named);
                rules.push((named.clone(), of_name));
            }
        }
        let failures = rules.iter().map(|(_, of_name)| of_name.as_ref().err());
        if let Some(all) = failures.collect::<Option<Vec<_>>>() {
            if let Some(failure) = all.first() {
                return Err((*failure).clone());
            }
        }
        let text = resource::fetch(&config.credential, daemon, credential::WHAT)?;
        let text = text.as_ref().map(|text| text.as_slice());
        let places = locations.into_iter();
        let places = places.map(|location| planned(config, location, text, &rules));
        let places = places.collect::<Result<Vec<_>, _>>()?;
        let bytes = places.iter().filter_map(|place| place.place.rules.as_ref());
        let bytes: usize = bytes.map(Rules::bytes).sum();
        if bytes > MAX_RULES_OF_PLACES {
            return Err(refused(format!(
                "the keys of the image policy, once for each of the {} places of {name}, are too large; \
                 use key rings with the keys that are needed, or fewer mirrors",
                places.len()
            )));
        }
        let problems = places.iter().map(|place| place.problem.clone());
        match problems.collect::<Option<Vec<_>>>() {
            Some(mut all) => Err(refused(all.pop().unwrap_or_default())),
            None => Ok(Self {
                image: image.to_owned(),
                places,
                warnings,
            }),
        }
    }

    /// The places that are asked.
    pub fn asked(&self) -> impl Iterator<Item = &Planned> {
        self.places.iter().filter(|place| place.problem.is_none())
    }

    /// What the worker is told of the places that are asked. The logins go along: they are read anew if a registry refuses one,
    /// so nothing here needs them any more.
    pub fn hand_over(&mut self) -> Vec<Place> {
        let asked = self.places.iter_mut();
        let asked = asked.filter(|planned| planned.problem.is_none());
        let places = asked.map(|Planned { place, .. }| Place {
            login: place.login.take(),
            ..place.clone()
        });
        places.collect()
    }

    /// For people, a line each. They hold no secret.
    pub fn lines(&self, config: &Image) -> Vec<String> {
        let mut lines = vec![
            format!("configuration: {}", Escaped(&config.source)),
            format!("credential: {}", config.credential),
        ];
        lines.push(match &config.policy {
            Some(policy) => format!("policy: {policy}"),
            None => "policy: none, so any image is pulled".to_owned(),
        });
        lines.push(format!(
            "layers: {} at once, kept in {}",
            config.layers_at_once,
            config.work_dir.display()
        ));
        let places = (1..).zip(&self.places);
        lines.extend(places.map(|(number, place)| format!("{number}. {}", place.line())));
        let warnings = self.warnings.iter();
        lines.extend(warnings.map(|warning| format!("warning: {warning}")));
        lines
    }

    /// For programs. It holds no secret.
    pub fn to_json(&self, config: &Image) -> Value {
        let places: Vec<_> = self.places.iter().map(Planned::to_json).collect();
        let shown = |text: &Option<_>| text.as_ref().map(ToString::to_string);
        json!({
            "image": RegistryName(&self.image).plain(), "configuration": config.source, "places": places,
            "credential": config.credential.to_string(), "policy": shown(&config.policy),
            "sigstore": shown(&config.sigstore), "work_dir": config.work_dir.display().to_string(),
            "layers_at_once": config.layers_at_once, "warnings": self.warnings,
        })
    }
}

impl Planned {
    /// For people.
    fn line(&self) -> String {
        let mirror = if self.is_mirror { " (mirror)" } else { "" };
        let scheme = match self.place.plain_http {
            true => "plain HTTP",
            false => "TLS",
        };
        let way = match &self.proxy {
            Some(proxy) => format!("{scheme} through the proxy {proxy}"),
            None => format!("{scheme}, directly"),
        };
        let login = match (&self.problem, &self.place.login) {
            (Some(problem), _) => format!("not asked: {problem}"),
            (None, Some(login)) => format!("with {}", login.shown()),
            (None, None) => {
                let why = self.why_anonymous.as_deref().unwrap_or("no login");
                format!("anonymously: {why}")
            }
        };
        let rules = self.place.rules.as_ref().map(Rules::shown);
        let rules = rules.map(|rules| format!("; signed: {}", rules.join("; and ")));
        let rules = rules.unwrap_or_default();
        format!("{}{mirror}: {way}; {login}{rules}", self.image)
    }

    fn to_json(&self) -> Value {
        let Place {
            registry,
            repository,
            reference,
            plain_http,
            ..
        } = &self.place;
        json!({
            "image": self.image.to_string(), "registry": registry, "repository": repository, "reference": reference,
            "mirror": self.is_mirror, "plain_http": plain_http, "proxy": self.proxy,
            "user": self.place.login.as_ref().map(|login| &login.user), "entry": self.entry,
            "anonymous": self.why_anonymous, "rules": self.place.rules.as_ref().map(Rules::shown), "problem": self.problem,
        })
    }
}

/// The registries' configuration, wherever it is.
fn registries(
    config: &Image,
    daemon: &Path,
    warnings: &mut Vec<String>,
) -> Result<Registries, Failure> {
    if let Some(registries) = &config.registries {
        return Ok(registries.clone());
    }
    let Some(source) = &config.registries_at else {
        return Ok(Registries::default());
    };
    let text = resource::fetch_required(source, daemon, "the registry configuration")?;
    let parsed = Registries::parse(&text, &source.to_string(), warnings);
    parsed.map_err(|what| {
        Failure::new(
            Kind::Configuration,
            format!("the registry configuration {what}"),
        )
    })
}

fn planned(
    config: &Image,
    location: Location,
    credential: Option<&[u8]>,
    rules: &[(ImageName, Result<Option<Rules>, Failure>)],
) -> Result<Planned, Failure> {
    let Location {
        image,
        named,
        plain_http,
        is_mirror,
    } = location;
    let reference = registry::reference(&image);
    let reference = reference.map_err(|what| Failure::new(Kind::Invalid, what))?;
    let server = registry::server(&image.registry);
    let proxy = config.proxies.of(!plain_http, server);
    let mut planned = Planned {
        place: Place {
            registry: image.registry.clone(),
            repository: image.repository.clone(),
            reference: reference.to_owned(),
            login: None,
            plain_http,
            rules: None,
        },
        proxy: proxy.map(ToString::to_string),
        entry: None,
        why_anonymous: None,
        problem: None,
        is_mirror,
        image,
    };
    match credential::find(&config.credential, credential, &planned.image) {
        Ok(Found::Login(login)) => {
            planned.entry = Some(login.entry.clone());
            planned.place.login = Some(login);
        }
        Ok(Found::Anonymous(why)) => planned.why_anonymous = Some(why),
        // An entry that is broken is no reason to ask without a login.
        Err(failure) => planned.problem = Some(failure.message),
    }
    let of_name = rules.iter().find(|(name, _)| *name == named);
    match of_name.map(|(_, of_name)| of_name) {
        Some(Ok(rules)) => planned.place.rules = rules.clone(),
        Some(Err(failure)) => planned.problem = Some(failure.message.clone()),
        // Without a look at the policy, it is not asked.
        None => planned.problem = Some(format!("no policy was looked up for {named}")),
    }
    Ok(planned)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A place whose policy nobody looked at is not asked.
    #[test]
    fn a_place_without_a_look_at_the_policy_is_not_asked() {
        let places = Registries::default().places("r.example/a:1").unwrap();
        let location = places[0].clone();
        let named = location.named.clone();
        let config = Image::default();
        let problem = |rules: &[_]| {
            let planned = planned(&config, location.clone(), None, rules).unwrap();
            planned.problem
        };
        assert_eq!(problem(&[(named, Ok(None))]), None);
        assert!(problem(&[]).unwrap().contains("r.example/a:1"));
    }
}
