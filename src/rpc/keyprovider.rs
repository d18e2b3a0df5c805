// SPDX-License-Identifier: Apache-2.0

//! `keyprovider.KeyProviderService`: unwrapped keys of image layers.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::asynchronous::{Service, TtrpcContext};

use crate::keyprovider::{self, protocol};
use crate::proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput,
};
use crate::proto::keyprovider_ttrpc::{KeyProviderService, create_key_provider_service};
use crate::resource::store::Store;
use crate::rpc::{lookup, status};
use crate::server::call;
use crate::text::Shown;

/// The service, with the keys of `store`.
pub fn service(store: Arc<Store>) -> HashMap<String, Service> {
    create_key_provider_service(Arc::new(KeyProvider { store }))
}

struct KeyProvider {
    store: Arc<Store>,
}

#[async_trait]
impl KeyProviderService for KeyProvider {
    async fn un_wrap_key(
        &self,
        _context: &TtrpcContext,
        request: KeyProviderKeyWrapProtocolInput,
    ) -> ttrpc::Result<KeyProviderKeyWrapProtocolOutput> {
        let packet = protocol::read_unwrap(&request.KeyProviderKeyWrapProtocolInput)
            .map_err(status::invalid_argument)?;
        call::set_subject(Shown(&packet.kid).to_string());
        let key = lookup::key(&self.store.snapshot(), &packet.kid)?;
        let unwrapped =
            keyprovider::unwrap(&packet, key.expose()).map_err(status::invalid_argument)?;
        Ok(KeyProviderKeyWrapProtocolOutput {
            KeyProviderKeyWrapProtocolOutput: protocol::write_unwrapped(&unwrapped),
            ..KeyProviderKeyWrapProtocolOutput::default()
        })
    }

    async fn wrap_key(
        &self,
        _context: &TtrpcContext,
        _request: KeyProviderKeyWrapProtocolInput,
    ) -> ttrpc::Result<KeyProviderKeyWrapProtocolOutput> {
        Err(status::unimplemented(
            "keys are wrapped on the build host, by `offline-fs-kbc keyprovider` as ocicrypt's \
             command; over a socket no peer may name a key or a file for the daemon to use",
        ))
    }
}
