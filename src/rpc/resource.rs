// SPDX-License-Identifier: Apache-2.0

//! `api.GetResourceService`: what confidential-data-hub serves.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::asynchronous::{Service, TtrpcContext};

use crate::proto::api::{GetResourceRequest, GetResourceResponse};
use crate::proto::api_ttrpc::{GetResourceService, create_get_resource_service};
use crate::resource::store::Store;
use crate::rpc::lookup;

/// The service, answering from `store`. With `expose_keys` it hands out image keys too, as the
/// stock confidential-data-hub does.
pub fn service(store: Arc<Store>, expose_keys: bool) -> HashMap<String, Service> {
    create_get_resource_service(Arc::new(GetResource { store, expose_keys }))
}

struct GetResource {
    store: Arc<Store>,
    expose_keys: bool,
}

#[async_trait]
impl GetResourceService for GetResource {
    async fn get_resource(
        &self,
        _context: &TtrpcContext,
        request: GetResourceRequest,
    ) -> ttrpc::Result<GetResourceResponse> {
        let name = lookup::name(&request.ResourcePath)?;
        let snapshot = self.store.snapshot();
        let secret = lookup::explained(&name, &snapshot, || {
            if self.expose_keys {
                lookup::resource_or_key(&snapshot, &name)
            } else {
                lookup::resource(&snapshot, &name)
            }
        })?;
        Ok(GetResourceResponse {
            Resource: secret.expose().to_vec(),
            ..GetResourceResponse::default()
        })
    }
}
