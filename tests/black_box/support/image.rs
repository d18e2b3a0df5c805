// SPDX-License-Identifier: Apache-2.0

//! An image pull as kata-agent does it: the credential over ttrpc, matched to the image, then
//! manifest, config and layers.

use std::fmt;
use std::path::Path;

use oci_client::Reference;
use oci_client::secrets::RegistryAuth;
use offline_fs_kbc::credential::AuthFile;
use offline_fs_kbc::proto::getresource::{GetResourceRequest, GetResourceResponse};
use protobuf::Message as _;
use sha2::{Digest as _, Sha256};

use super::registry::client;

/// A pulled image.
pub struct Image {
    /// The digest of the manifest.
    pub digest: String,
    /// The number of layers.
    pub layers: usize,
    /// The number of bytes in all layers.
    pub bytes: usize,
}

/// The login for a pull.
pub enum Credential {
    /// From the daemon's credential, with this user.
    User(String, RegistryAuth),
    /// No login; the client pulls anonymously, and shows nobody the reason.
    Anonymous(String),
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user, _) => write!(f, "as {user}"),
            Self::Anonymous(why) => write!(f, "anonymously ({why})"),
        }
    }
}

/// Asks the daemon at `socket` for the credential as kata-agent of 2023 does, and finds the image's
/// entry in it. Like that client it goes on anonymously, whatever answer it gets. (Where no daemon answers, that client
/// fails the pull; this one goes on too, to show what the registry says.)
pub async fn credential(socket: &Path, image: &Reference) -> Credential {
    match ask(socket).await {
        Err(why) => Credential::Anonymous(why),
        Ok(text) => match AuthFile::parse(&text) {
            Err(error) => Credential::Anonymous(error.to_string()),
            Ok(file) => match file.find(image.registry(), image.repository()) {
                None => Credential::Anonymous("the credential has no entry for it".to_owned()),
                Some((entry, _)) => match &entry.login {
                    Ok(login) => Credential::User(
                        login.user.clone(),
                        RegistryAuth::Basic(login.user.clone(), login.password.to_string()),
                    ),
                    Err(error) => Credential::Anonymous(error.to_string()),
                },
            },
        },
    }
}

async fn ask(socket: &Path) -> Result<Vec<u8>, String> {
    let address = format!("unix://{}", socket.display());
    let client = ttrpc::asynchronous::Client::connect(&address)
        .await
        .map_err(|_| "no daemon answers".to_owned())?;
    let request = GetResourceRequest {
        ResourcePath: "/default/credential/test".to_owned(),
        KbcName: "offline_fs_kbc".to_owned(),
        KbsUri: "localhost".to_owned(),
        ..GetResourceRequest::default()
    };
    let request = ttrpc::Request {
        service: "getresource.GetResourceService".to_owned(),
        method: "GetResource".to_owned(),
        timeout_nano: 50_000_000_000,
        payload: request
            .write_to_bytes()
            .map_err(|error| error.to_string())?,
        ..ttrpc::Request::default()
    };
    let answer = client.request(request).await;
    let answer = answer.map_err(|error| error.to_string())?;
    GetResourceResponse::parse_from_bytes(&answer.payload)
        .map(|answer| answer.Resource)
        .map_err(|error| error.to_string())
}

/// Pulls the image with this credential and verifies every digest.
pub async fn pull(image: &Reference, credential: &Credential) -> Result<Image, String> {
    let anonymous = RegistryAuth::Anonymous;
    let login = match credential {
        Credential::User(_, login) => login,
        Credential::Anonymous(_) => &anonymous,
    };
    let client = client();
    let (manifest, digest, config) = client
        .pull_manifest_and_config(image, login)
        .await
        .map_err(|error| error.to_string())?;
    verify(&manifest.config.digest, config.as_bytes())?;
    let mut bytes = 0;
    for layer in &manifest.layers {
        let mut blob = Vec::new();
        let pulled = client.pull_blob(image, layer, &mut blob).await;
        pulled.map_err(|error| error.to_string())?;
        verify(&layer.digest, &blob)?;
        bytes += blob.len();
    }
    Ok(Image {
        digest,
        layers: manifest.layers.len(),
        bytes,
    })
}

fn verify(digest: &str, content: &[u8]) -> Result<(), String> {
    let hex: String = Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    if digest == format!("sha256:{hex}") {
        Ok(())
    } else {
        Err(format!("{digest} is not the digest of what came"))
    }
}
