// SPDX-License-Identifier: Apache-2.0

//! `keyprovider.KeyProviderService`: unwraps the keys of image layers.

use std::sync::Arc;

use crate::keyprovider::{self, protocol};
use crate::proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput,
};
use crate::resource::store::Store;
use crate::rpc::{lookup, status};
use crate::server::method::{Method, Notes, Result, Subject};

const SERVICE: &str = "keyprovider.KeyProviderService";

/// The service, with the keys of `store`.
pub fn service(store: Arc<Store>) -> Vec<Method> {
    let unwrap = move |request, notes: &mut Notes| unwrap_key(&store, &request, notes);
    vec![
        Method::new(SERVICE, "UnWrapKey", unwrap),
        Method::refused(
            SERVICE,
            "WrapKey",
            |_: KeyProviderKeyWrapProtocolInput, _| {
                status::unimplemented(
                    "keys are wrapped on the build host, by `offline-fs-kbc keyprovider` as ocicrypt's key-provider \
                     command; a peer on a socket may not choose a key or a file for the daemon to use",
                )
            },
        ),
    ]
}

fn unwrap_key(
    store: &Store,
    request: &KeyProviderKeyWrapProtocolInput,
    notes: &mut Notes,
) -> Result<KeyProviderKeyWrapProtocolOutput> {
    let packet = protocol::read_unwrap(&request.KeyProviderKeyWrapProtocolInput)
        .map_err(status::invalid_argument)?;
    notes.subject = Subject::Quoted(packet.kid.as_str().into());
    let key = lookup::key(&store.snapshot(), &packet.kid)?;
    let unwrapped = keyprovider::unwrap(&packet, key.expose()).map_err(status::invalid_argument)?;
    Ok(KeyProviderKeyWrapProtocolOutput {
        KeyProviderKeyWrapProtocolOutput: protocol::write_unwrapped(&unwrapped),
        ..KeyProviderKeyWrapProtocolOutput::default()
    })
}
