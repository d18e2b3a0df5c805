// SPDX-License-Identifier: Apache-2.0

//! `signedIdentity`: for which name of an image a signature counts (containers-policy.json(5)).

use common::auth_json::image::ImageName;
use common::text::Quoted;

use crate::policy::object::Object;

/// Which names may be signed for an image that was asked for by its own.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rule {
    /// Nothing is said: as `matchRepoDigestOrExact`, but a signature that names a repository alone, as cosign makes
    /// them, counts for all of it.
    Unstated,
    Exact,
    RepoDigestOrExact,
    Repository,
    ExactReference(ImageName),
    ExactRepository(String),
    Remap {
        prefix: String,
        signed_prefix: String,
    },
}

/// `signedIdentity` of a requirement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    rule: Rule,
    /// As it is in the policy.
    text: Option<String>,
}

/// The name that a signature is for.
struct Signed {
    image: ImageName,
    /// It has neither tag nor digest.
    is_name_only: bool,
}

impl Identity {
    /// The default of `sigstoreSigned`.
    pub fn unstated() -> Self {
        let (rule, text) = (Rule::Unstated, None);
        Self { rule, text }
    }

    /// The default of `signedBy`.
    pub fn repo_digest_or_exact() -> Self {
        let (rule, text) = (Rule::RepoDigestOrExact, None);
        Self { rule, text }
    }

    /// Parses the JSON that a policy has.
    ///
    /// # Errors
    ///
    /// If it isn't understood, every part of it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let kind = Object::parse(text)?.need_text("type")?;
        let known: &[_] = match kind.as_str() {
            "matchExact" | "matchRepoDigestOrExact" | "matchRepository" => &["type"],
            "exactReference" => &["type", "dockerReference"],
            "exactRepository" => &["type", "dockerRepository"],
            "remapIdentity" => &["type", "prefix", "signedPrefix"],
            _ => return Err(format!("the type {} is not known", Quoted(&kind))),
        };
        let object = Object::of(text, known)?;
        let rule = match kind.as_str() {
            "matchExact" => Rule::Exact,
            "matchRepoDigestOrExact" => Rule::RepoDigestOrExact,
            "matchRepository" => Rule::Repository,
            "exactReference" => {
                let signed = Signed::parse(&object.need_text("dockerReference")?);
                let signed = signed.filter(|signed| !signed.is_name_only);
                let signed = signed.ok_or("dockerReference is not REGISTRY/REPOSITORY:TAG")?;
                Rule::ExactReference(signed.image)
            }
            "exactRepository" => {
                let signed = Signed::parse(&object.need_text("dockerRepository")?);
                // The tag would not count, and whoever wrote it meant that it does.
                let signed = signed.filter(|signed| signed.is_name_only);
                let signed = signed.ok_or(
                    "dockerRepository is not REGISTRY/REPOSITORY, without a tag or digest",
                )?;
                Rule::ExactRepository(name(&signed.image))
            }
            _ => Rule::Remap {
                prefix: prefix(&object, "prefix")?,
                signed_prefix: signed_prefix(&object)?,
            },
        };
        let text = Some(text.to_owned());
        Ok(Self { rule, text })
    }

    /// The JSON that [`Identity::parse`] takes; none if the policy says nothing.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Whether a signature that is for the name `signed` counts for the image that was asked for.
    ///
    /// # Errors
    ///
    /// The reason if not, with the names.
    pub fn check(&self, asked: &ImageName, signed: &str) -> Result<(), String> {
        let is_good = Signed::parse(signed).is_some_and(|signed| self.is_for(asked, &signed));
        if is_good {
            return Ok(());
        }
        let fix = match self.rule {
            Rule::Unstated => {
                "; if that is meant, give the rule a signedIdentity of exactRepository or remapIdentity"
            }
            _ => "",
        };
        Err(format!(
            "it is for {}, which is not {}{fix}",
            Quoted(signed),
            self.wanted(asked)
        ))
    }

    /// Whether a signature that is for a digest alone, and for no name, counts.
    ///
    /// # Errors
    ///
    /// The reason if not.
    pub fn check_nameless(&self) -> Result<(), String> {
        match self.rule {
            Rule::Unstated => Ok(()),
            _ => Err(
                "it names no repository, as cosign's bundles don't, and the rule has a signedIdentity: leave that out, \
                 or sign with `cosign sign --new-bundle-format=false`"
                    .to_owned(),
            ),
        }
    }

    fn is_for(&self, asked: &ImageName, signed: &Signed) -> bool {
        match &self.rule {
            Rule::Unstated if signed.is_name_only => name(asked) == name(&signed.image),
            Rule::Unstated | Rule::RepoDigestOrExact => is_exact_or_by_digest(asked, signed),
            Rule::Exact => !signed.is_name_only && signed.image == *asked,
            Rule::Repository => name(asked) == name(&signed.image),
            Rule::ExactReference(wanted) => !signed.is_name_only && signed.image == *wanted,
            Rule::ExactRepository(wanted) => name(&signed.image) == *wanted,
            Rule::Remap { .. } => {
                let remapped = self.remapped(asked);
                remapped.is_some_and(|remapped| is_exact_or_by_digest(&remapped, signed))
            }
        }
    }

    /// The image under the name that `remapIdentity` gives it.
    fn remapped(&self, asked: &ImageName) -> Option<ImageName> {
        let Rule::Remap {
            prefix,
            signed_prefix,
        } = &self.rule
        else {
            return None;
        };
        let whole = name(asked);
        let rest = whole.strip_prefix(prefix);
        match rest.filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            Some(rest) => {
                let text = format!("{signed_prefix}{rest}{}", asked.suffix);
                // Without a registry it would be a name of Docker Hub's, which nobody meant.
                let text = Some(text).filter(|text| ImageName::names_registry(text))?;
                ImageName::parse(&text).ok()
            }
            None => Some(asked.clone()),
        }
    }

    /// What must be signed, for messages.
    fn wanted(&self, asked: &ImageName) -> String {
        let exact_or_by_digest = |image: &ImageName| match image.suffix.starts_with('@') {
            true => format!("a tag of {}", name(image)),
            false => image.to_string(),
        };
        match &self.rule {
            Rule::Unstated => format!("{asked} or its repository"),
            Rule::Exact => asked.to_string(),
            Rule::RepoDigestOrExact => exact_or_by_digest(asked),
            Rule::Repository => format!("of the repository {}", name(asked)),
            Rule::ExactReference(wanted) => wanted.to_string(),
            Rule::ExactRepository(wanted) => format!("of the repository {wanted}"),
            Rule::Remap { .. } => match self.remapped(asked) {
                Some(remapped) => exact_or_by_digest(&remapped),
                None => "what remapIdentity makes of the name, since that is no image".to_owned(),
            },
        }
    }
}

impl Signed {
    fn parse(text: &str) -> Option<Self> {
        let image = ImageName::parse(text).ok()?;
        let before = text.split('@').next().unwrap_or(text);
        let last = before.rsplit('/').next().unwrap_or(before);
        // A tag beside a digest would be dropped, and could then be any.
        if last.contains(':') && text.contains('@') {
            return None;
        }
        let is_name_only = !text.contains('@') && !last.contains(':');
        Some(Self {
            image,
            is_name_only,
        })
    }
}

/// As `matchRepoDigestOrExact` means it: the same name, or another tag of the repository where the image was asked for by
/// its digest.
fn is_exact_or_by_digest(asked: &ImageName, signed: &Signed) -> bool {
    if signed.is_name_only {
        return false;
    }
    match asked.suffix.starts_with('@') {
        true => name(asked) == name(&signed.image),
        false => signed.image == *asked,
    }
}

/// Registry and repository.
fn name(image: &ImageName) -> String {
    format!("{}/{}", image.registry, image.repository)
}

fn prefix(object: &Object<'_>, key: &str) -> Result<String, String> {
    let prefix = object.need_text(key)?;
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._:/[]".contains(c);
    let is_good = !prefix.is_empty()
        && prefix.chars().all(is_part)
        && !prefix.split('/').any(str::is_empty)
        // A colon after the host would be a tag's.
        && !prefix.split('/').skip(1).any(|part| part.contains(':'));
    match is_good {
        true => Ok(prefix),
        false => Err(format!(
            "{key} is not a registry, or a registry with a repository or the beginning of one"
        )),
    }
}

/// `signedPrefix`, which must begin with a registry: without one, Docker Hub's names would be signed for.
fn signed_prefix(object: &Object<'_>) -> Result<String, String> {
    let signed_prefix = prefix(object, "signedPrefix")?;
    match ImageName::names_registry(&format!("{signed_prefix}/")) {
        true => Ok(signed_prefix),
        false => Err(
            "signedPrefix does not begin with a registry; of Docker Hub, write docker.io"
                .to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DIGEST: &str = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    /// Each type, as containers-policy.json(5) has it; and nothing said, which is this program's own.
    #[test]
    fn signed_identity_counts() {
        let by_digest = &format!("r.example/a/b{DIGEST}");
        let remap =
            r#"{"type":"remapIdentity","prefix":"r.example/a","signedPrefix":"s.example/x/y"}"#;
        let bare = r#"{"type":"remapIdentity","prefix":"r.example/a","signedPrefix":"s.example"}"#;
        let reference = r#"{"type":"exactReference","dockerReference":"s.example/c:2"}"#;
        let repository = r#"{"type":"exactRepository","dockerRepository":"s.example/c"}"#;
        let library = r#"{"type":"exactRepository","dockerRepository":"alpine"}"#;
        let exact = r#"{"type":"matchExact"}"#;
        let usual = r#"{"type":"matchRepoDigestOrExact"}"#;
        let same = r#"{"type":"matchRepository"}"#;
        let asked = "r.example/a/b:1";
        for (rule, asked, signed, is_good) in [
            ("", asked, asked, true),
            ("", asked, "r.example/a/b", true),
            ("", asked, "r.example/a/b:2", false),
            ("", asked, "r.example/a", false),
            ("", by_digest, "r.example/a/b:2", true),
            ("", "alpine:1", "index.docker.io/library/alpine", true),
            (exact, asked, asked, true),
            (exact, asked, "r.example/a/b", false),
            (exact, asked, "r.example/a/b:2", false),
            (exact, "r.example/a/b", "r.example/a/b", false),
            (exact, by_digest, asked, false),
            (exact, by_digest, by_digest, true),
            (usual, asked, asked, true),
            (usual, asked, "r.example/a/b", false),
            (usual, asked, "r.example/a/b:2", false),
            (usual, asked, by_digest, false),
            (usual, by_digest, asked, true),
            (usual, by_digest, "r.example/a/c:1", false),
            (usual, by_digest, "r.example/a/b", false),
            (same, asked, "r.example/a/b", true),
            (same, asked, "r.example/a/b:2", true),
            (same, asked, "r.example/a/bc", false),
            (same, asked, "s.example/a/b:1", false),
            (same, asked, "", false),
            (same, asked, "https://r.example/a/b", false),
            (reference, asked, "s.example/c:2", true),
            (reference, asked, "s.example/c:1", false),
            (reference, asked, "s.example/c", false),
            (reference, asked, asked, false),
            (repository, asked, "s.example/c", true),
            (repository, asked, "s.example/c:7", true),
            (repository, asked, asked, false),
            (library, asked, "docker.io/library/alpine:3", true),
            (remap, asked, "s.example/x/y/b:1", true),
            (remap, asked, "s.example/x/y/b:2", false),
            (remap, asked, asked, false),
            (remap, "r.example/ab/b:1", "r.example/ab/b:1", true),
            (remap, "r.example/a:1", "s.example/x/y:1", true),
            (remap, by_digest, "s.example/x/y/b:2", true),
            // Remapped to a registry alone, which is no image of Docker Hub.
            (
                bare,
                "r.example/a:1",
                "docker.io/library/s.example:1",
                false,
            ),
            // A tag beside a digest is no tag that was checked.
            (same, asked, &format!("r.example/a/b:1{DIGEST}"), false),
        ] {
            let identity = match rule {
                "" => Identity::unstated(),
                rule => Identity::parse(rule).unwrap(),
            };
            let found = identity.check(&ImageName::parse(asked).unwrap(), signed);
            assert_eq!(found.is_ok(), is_good, "{rule} {asked} {signed} {found:?}");
        }
    }

    /// What is not understood is an error.
    #[test]
    fn unknown_identities_are_errors() {
        for text in [
            r#"{"type":"matchAll"}"#,
            r#"{"type":"matchExact","x":1}"#,
            r#"{}"#,
            r#"{"type":1}"#,
            r#""matchExact""#,
            r#"{"type":"exactReference"}"#,
            r#"{"type":"exactReference","dockerReference":"s.example/c"}"#,
            r#"{"type":"exactRepository","dockerRepository":""}"#,
            r#"{"type":"remapIdentity","prefix":"r.example"}"#,
            r#"{"type":"remapIdentity","prefix":"r.example/a:1","signedPrefix":"s.example"}"#,
            r#"{"type":"remapIdentity","prefix":"","signedPrefix":"s.example"}"#,
            r#"{"type":"remapIdentity","prefix":"r.example","signedPrefix":"library"}"#,
            r#"{"type":"remapIdentity","prefix":"r.example","signedPrefix":"a/b"}"#,
            r#"{"type":"exactRepository","dockerRepository":"s.example/c:1"}"#,
            r#"{"type":"exactRepository","dockerRepository":"s.example/c@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}"#,
        ] {
            assert!(Identity::parse(text).is_err(), "{text}");
        }
    }
}
