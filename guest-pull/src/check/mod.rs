// SPDX-License-Identifier: Apache-2.0

//! What in the VM would make a pull fail, whatever the image: kernel, store, names, clock, authorities, configuration and
//! policy. Where a pull does something that can be done without an image, it is done: the mount of a layer, for example.

mod clock;
mod kernel;
mod names;
mod program;
mod store;
mod trial;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::config::{self, Image};
use crate::failure::Failure;
use crate::policy;
use crate::registry::{PLACES_OF_ROOTS, has_system_roots};
use crate::resource::{Source, Text};

pub use store::{LEAST_FILES, LEAST_ROOM, nearest};

/// How bad it is. The daemon's `check` has the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No mistake for certain, and yet it may be why a pull fails.
    Note,
    /// A pull may fail.
    Warning,
    /// A pull will fail.
    Error,
}

impl Severity {
    /// In a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something that would make a pull fail, without any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of problem it is, in a word that stays the same from release to release.
    pub code: &'static str,
    /// What is wrong, and what it means for a pull.
    pub message: String,
    /// What to do.
    pub fix: String,
}

impl Finding {
    /// One that makes pulls fail.
    pub fn error(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            code,
            message: message.into(),
            fix: fix.into(),
        }
    }

    /// One that may make pulls fail.
    pub fn warning(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(code, message, fix)
        }
    }

    /// One that need not be a mistake.
    pub fn note(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::error(code, message, fix)
        }
    }

    /// As `offline-fs-kbc check` takes it.
    pub fn to_json(&self) -> Value {
        json!({
            "severity": self.severity.name(), "code": self.code, "message": self.message, "fix": self.fix,
        })
    }
}

/// The root file system that is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Root<'r> {
    /// Another one than this system's: an image that is being built, for example.
    pub other: Option<&'r Path>,
}

impl Root<'_> {
    /// The place of a path of the system.
    pub fn path(&self, path: &Path) -> PathBuf {
        match self.other {
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.to_owned(),
        }
    }

    /// A text file, if it is there and can be read.
    pub fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(Path::new(path))).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The configuration that a pull would read, with the file system's root put before its default places.
///
/// # Errors
///
/// As for a pull.
pub fn configuration(root: Root<'_>, path: Option<&Path>) -> Result<Image, Failure> {
    match (root.other, path) {
        (None, path) => Image::of_environment(path),
        (Some(_), Some(path)) => Image::read(Some(path), None),
        (Some(_), None) => config::of_root(&|path| root.path(path)),
    }
}

/// What would make any pull fail, by this configuration, or by what is wrong with it. The daemon at the socket `daemon`
/// is asked for the policy, if the configuration says that it has one.
pub fn system(
    root: Root<'_>,
    config: &Result<Image, Failure>,
    daemon: Option<&Path>,
) -> Vec<Finding> {
    let usual = Image::default();
    let work_dir = config.as_ref().map_or(&usual.work_dir, |it| &it.work_dir);
    let mut found: Vec<_> = store::look(root, work_dir).into_iter().collect();
    let has_store = found.is_empty();
    found.extend(kernel::look(root, work_dir, has_store));
    found.extend(names::look(root));
    match root.other {
        None => found.extend(clock::look(clock::now())),
        Some(_) => found.extend(program::look(root)),
    }
    found.extend(authorities(root));
    match config {
        Err(failure) => found.push(Finding::error(
            "pull-configuration",
            format!("no image is pulled: {failure}"),
            "repair what it names: the configuration may hold a policy, so nothing is pulled without it",
        )),
        Ok(config) => {
            found.extend(config.warnings.iter().map(|text| {
                let fix = "remove it, or write what is meant; `guest-pull plan IMAGE` has what counts";
                Finding::warning("pull-configuration", text, fix)
            }));
            found.extend(policy_of(root, config, daemon));
        }
    }
    found
}

/// Whether there is anybody by whom registries' certificates can be signed.
fn authorities(root: Root<'_>) -> Option<Finding> {
    let has_roots = match root.other {
        None => has_system_roots(),
        Some(_) => PLACES_OF_ROOTS
            .iter()
            .any(|path| root.path(Path::new(path)).exists()),
    };
    let fix = "install the package ca-certificates if registries are signed by an authority that is installed that way; \
               extra_root_certificates in [image] of cdh.toml adds one without it";
    (!has_roots).then(|| {
        let what = "the system has no certificates of authorities, so those of Mozilla that are built into guest-pull count, \
                    which age with it";
        Finding::note("roots-missing", what, fix)
    })
}

/// Whether the policy lets any image in.
fn policy_of(root: Root<'_>, config: &Image, daemon: Option<&Path>) -> Option<Finding> {
    let text = config.policy.as_ref()?;
    let at = match text {
        Text::At(Source::File(path)) => Text::At(Source::File(root.path(path))),
        other => other.clone(),
    };
    let is_asked = matches!(at, Text::At(Source::Resource(_)));
    let bytes = match daemon {
        // Nobody can be asked.
        None if is_asked => return None,
        daemon => at.fetch(daemon.unwrap_or(Path::new("")), "the image policy"),
    };
    let fix = "repair the policy; no image is pulled until then";
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(failure) => {
            return Some(Finding::error("policy-missing", failure.message, fix));
        }
    };
    match policy::refuses_all(&bytes) {
        Ok(false) => None,
        Ok(true) => Some(Finding::error(
            "policy-refuses-all",
            format!(
                "the image policy {text} rejects every image: neither its default nor any scope of docker accepts one"
            ),
            "give the registry of the images a scope under transports.docker, with insecureAcceptAnything or the signatures \
             that it must have",
        )),
        Err(what) => Some(Finding::error(
            "policy-unreadable",
            format!("the image policy {text} is not understood, and refuses every image: {what}"),
            fix,
        )),
    }
}
