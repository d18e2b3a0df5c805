// SPDX-License-Identifier: Apache-2.0

//! The kernel command line, which counts where there is no `cdh.toml`.

use crate::config::Image;
use crate::config::table::{exceptions, proxy};
use crate::failure::{Failure, Kind};
use crate::resource::{Source, Text};

/// How it is named.
pub const NAME: &str = "the kernel command line";

/// The parameter that switches the check of signatures on.
const CHECK: &str = "agent.enable_signature_verification";

/// The parameter that says where the policy is.
const POLICY: &str = "agent.image_policy_file";

/// Takes the parameters over that kata's runtime writes for the puller.
///
/// # Errors
///
/// If one has a value that it can't have. The reason holds no value.
pub fn parse(text: &str) -> Result<Image, Failure> {
    let mut image = Image {
        source: NAME.to_owned(),
        ..Image::default()
    };
    let parameters = text.split_whitespace();
    let parameters: Vec<_> = parameters
        .filter_map(|parameter| parameter.split_once('='))
        .collect();
    // Of a parameter that comes more than once, the last counts.
    let value = |name: &str| {
        let mut found = parameters.iter().rev().filter(|(key, _)| *key == name);
        found
            .next()
            .map(|(_, value)| *value)
            .filter(|value| !value.is_empty())
    };
    let wrong = |name: &str, wanted: &str| {
        let text = format!("{name} on {NAME} must be {wanted}");
        Failure::new(Kind::Configuration, text)
    };
    let uri = |name: &str| {
        let uri =
            value(name).map(|uri| Source::parse(uri).ok_or_else(|| wrong(name, Source::FORM)));
        uri.transpose()
    };
    let proxy =
        |name: &str| proxy(value(name).unwrap_or_default()).map_err(|wanted| wrong(name, wanted));
    if let Some(source) = uri("agent.image_registry_auth")? {
        image.credential = source;
    }
    let policy = uri(POLICY)?;
    match value(CHECK) {
        // Whoever switches checking on means that not any image is pulled.
        Some("true") => {
            let policy = policy.ok_or_else(|| {
                let text = format!(
                    "{CHECK}=true on {NAME} needs {POLICY}, which says where the policy is"
                );
                Failure::new(Kind::Configuration, text)
            })?;
            image.policy = Some(Text::At(policy));
        }
        Some("false") | None if policy.is_some() => image.warnings.push(format!(
            "{POLICY} on {NAME}: ignored, since {CHECK} is not true"
        )),
        Some("false") | None => {}
        Some(_) => return Err(wrong(CHECK, "true or false")),
    }
    image.proxies.https = proxy("agent.https_proxy")?;
    image.proxies.http = proxy("agent.http_proxy")?;
    let no_proxy = value("agent.no_proxy").unwrap_or_default();
    image.proxies.except = exceptions("agent.no_proxy", no_proxy, &mut image.warnings);
    Ok(image)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A policy counts only where checking is switched on, as with the stock puller; of a parameter that comes twice, the
    /// last counts.
    #[test]
    fn parameters_count() {
        let policy = "agent.image_policy_file=kbs:///a/b/c";
        for (text, is_checked) in [
            ("root=/dev/vda quiet", false),
            (policy, false),
            (
                &format!("{policy} agent.enable_signature_verification=false"),
                false,
            ),
            (
                &format!("{policy} agent.enable_signature_verification=true"),
                true,
            ),
        ] {
            let image = parse(text).unwrap();
            assert_eq!(image.policy.is_some(), is_checked, "{text}");
            let is_ignored = text.contains("policy_file") && !is_checked;
            let warns = image.warnings.iter().any(|text| text.contains(POLICY));
            assert_eq!(warns, is_ignored, "{text}");
        }
        let image = parse(
            "agent.https_proxy=http://u:p=x@p.example:1 agent.http_proxy=http://no.example agent.http_proxy= \
             agent.no_proxy=a.example,10.0.0.0/8 agent.image_registry_auth=file:///run/a.json\n",
        )
        .unwrap();
        assert_eq!(image.credential, Source::File("/run/a.json".into()));
        let proxy = image.proxies.of(true, "b.example").unwrap();
        assert_eq!(
            (proxy.to_string().as_str(), proxy.login()),
            ("http://p.example:1", Some(("u", "p=x")))
        );
        assert!(image.proxies.of(true, "10.1.2.3:5000").is_none());
        assert!(image.proxies.of(false, "b.example").is_none());
    }

    /// A value that can't be meant fails the pull: it may be a policy, or the only way out. It is not shown.
    #[test]
    fn wrong_values_are_errors() {
        for text in [
            "agent.image_registry_auth=hunter2",
            "agent.https_proxy=socks5://hunter2",
            "agent.http_proxy=http://hunter2:x",
            "agent.enable_signature_verification=true agent.image_policy_file=hunter2",
            "agent.image_policy_file=kbs:///a/b/c agent.enable_signature_verification=hunter2",
            "agent.image_policy_file=kbs:///a/b/c agent.enable_signature_verification=True",
        ] {
            let failure = parse(text).unwrap_err();
            let (name, _) = text.rsplit(' ').next().unwrap().split_once('=').unwrap();
            assert!(
                failure.message.contains(name) && !failure.message.contains("hunter"),
                "{failure}"
            );
            assert_eq!(failure.kind, Kind::Configuration);
        }
    }

    /// Checking without a policy would let any image in.
    #[test]
    fn checking_needs_a_policy() {
        for policy in ["", " agent.image_policy_file="] {
            let text = format!("agent.enable_signature_verification=true{policy}");
            let failure = parse(&text).unwrap_err();
            assert!(failure.message.contains(POLICY), "{failure}");
        }
    }
}
