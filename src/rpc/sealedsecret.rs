// SPDX-License-Identifier: Apache-2.0

//! `api.SealedSecretService`: opens a sealed secret, by returning the resource that it names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ttrpc::Status;

use crate::proto::api::{UnsealSecretInput, UnsealSecretOutput};
use crate::resource::file;
use crate::resource::name::Name;
use crate::resource::snapshot::Snapshot;
use crate::resource::store::Store;
use crate::rpc::{lookup, status};
use crate::sealedsecret::{Error, PublicKey, Sealed};
use crate::server::method::{Method, Notes, Result, Subject};
use crate::text::Quoted;

/// Whether signatures are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verification {
    /// They are. A public key is a resource, or a file in this directory.
    On(PathBuf),
    /// They are not: older secrets have a placeholder instead of a signature.
    Off,
}

/// The service, answering from `store`.
pub fn service(store: Arc<Store>, verification: Verification) -> Vec<Method> {
    let unseal = move |request, notes: &mut Notes| unseal(&store, &verification, &request, notes);
    vec![Method::new(
        "api.SealedSecretService",
        "UnsealSecret",
        unseal,
    )]
}

fn unseal(
    store: &Store,
    verification: &Verification,
    request: &UnsealSecretInput,
    notes: &mut Notes,
) -> Result<UnsealSecretOutput> {
    let text = std::str::from_utf8(&request.secret)
        .map_err(|_| status::invalid_argument(Error::Malformed("it is not UTF-8")))?;
    let sealed = Sealed::parse(text).map_err(refusal)?;
    // Secrets that this daemon can't open are refused before their signature is checked.
    let name = sealed.resource_name().map_err(refusal)?;
    let snapshot = store.snapshot();
    if let Verification::On(directory) = verification {
        let kid = sealed.signer().map_err(refusal)?;
        notes.subject = Subject::Text(format!("signed by {}", Quoted(&kid)).into());
        let key = public_key(&kid, &snapshot, directory)?;
        sealed.verify(&kid, &key).map_err(refusal)?;
    }
    let name = lookup::name(&name, notes)?;
    let secret = lookup::resource(&snapshot, &name)?;
    Ok(UnsealSecretOutput {
        plaintext: secret.expose().to_vec(),
        ..UnsealSecretOutput::default()
    })
}

fn refusal(error: Error) -> Status {
    match error {
        Error::KeyService { .. } => status::unimplemented(error),
        error => status::invalid_argument(error),
    }
}

/// The public key of this id: a `kbs://` URI of a resource, or the name of a file in `directory`.
fn public_key(kid: &str, snapshot: &Snapshot, directory: &Path) -> Result<PublicKey> {
    let shown = Quoted(kid);
    let key = if kid.starts_with("kbs") && kid.contains("://") {
        let name = Name::parse(kid).map_err(status::invalid_argument)?;
        let key = lookup::resource(snapshot, &name)
            .map_err(|error| status::about("the sealed secret's signing key", error))?;
        PublicKey::from_jwk(key.expose())
    } else {
        // The peer chooses the file's name, but must not choose the directory.
        if kid.is_empty() || kid.contains(['/', '\0']) || kid == "." || kid == ".." {
            return Err(status::invalid_argument(format_args!(
                "the sealed secret's kid {shown} is neither a kbs:// URI nor a file name"
            )));
        }
        let content = file::read(&directory.join(kid)).map_err(|error| {
            let directory = directory.display();
            let text = format!("the sealed secret's signing key {shown} in {directory}: {error}");
            if file::is_absent(&error) {
                status::absent(text)
            } else {
                status::failed_precondition(text)
            }
        })?;
        PublicKey::from_jwk(&content.text)
    };
    key.ok_or_else(|| {
        status::failed_precondition(format_args!(
            "the sealed secret's signing key {shown} is not a JWK of an EC key on P-256"
        ))
    })
}
