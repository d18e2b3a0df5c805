// SPDX-License-Identifier: Apache-2.0

//! The kernel command line, which counts where there is no `cdh.toml`.

use crate::config::Image;
use crate::credential::Source;
use crate::policy::Text;

/// Takes the parameters over that kata's runtime writes for the puller.
pub fn parse(text: &str) -> Image {
    let mut image = Image::default();
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
    if let Some(uri) = value("agent.image_registry_auth") {
        match Source::parse(uri) {
            Some(source) => image.credential = source,
            None => image.refusals.push(
                "agent.image_registry_auth on the kernel command line is not kbs:///REPOSITORY/TYPE/TAG or file:///PATH"
                    .to_owned(),
            ),
        }
    }
    let is_checked = value("agent.enable_signature_verification") == Some("true");
    if let Some(uri) = value("agent.image_policy_file").filter(|_| is_checked) {
        match Source::parse(uri) {
            Some(source) => image.signatures.policy = Some(Text::At(source)),
            None => image.refusals.push(
                "agent.image_policy_file on the kernel command line is not kbs:///REPOSITORY/TYPE/TAG or file:///PATH"
                    .to_owned(),
            ),
        }
    }
    let refused = [
        ("agent.https_proxy", "proxies"),
        ("agent.http_proxy", "proxies"),
    ];
    for (name, what) in refused {
        if value(name).is_some() {
            image.refusals.push(format!(
                "{name} is on the kernel command line, and guest-pull does not support {what} yet"
            ));
        }
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A policy counts only where checking is switched on, as with the stock puller.
    #[test]
    fn parameters_count() {
        let policy = "agent.image_policy_file=kbs:///a/b/c";
        for (text, refusals) in [
            ("root=/dev/vda quiet", 0),
            (policy, 0),
            (
                &format!("{policy} agent.enable_signature_verification=false"),
                0,
            ),
            (
                &format!("{policy} agent.enable_signature_verification=true"),
                0,
            ),
            (
                "agent.image_policy_file=x agent.enable_signature_verification=true",
                1,
            ),
            ("agent.https_proxy=http://p agent.no_proxy=x", 1),
            ("agent.https_proxy=", 0),
            ("agent.image_registry_auth=x", 1),
        ] {
            assert_eq!(parse(text).refusals.len(), refusals, "{text}");
        }
        let source = Some(Text::At(Source::Resource("a/b/c".to_owned())));
        let is_on = format!("{policy} agent.enable_signature_verification=true");
        assert_eq!(parse(&is_on).signatures.policy, source);
        for off in [
            policy,
            &is_on.replace("true", "false"),
            "agent.enable_signature_verification=true",
        ] {
            assert_eq!(parse(off).signatures.policy, None, "{off}");
        }
        let image = parse("agent.image_registry_auth=file:///run/a.json\n");
        assert_eq!(image.credential, Source::File("/run/a.json".into()));
    }
}
