// SPDX-License-Identifier: Apache-2.0

//! `api.GetResourceService`: the resources that confidential-data-hub serves.

use std::sync::Arc;

use crate::proto::api::{GetResourceRequest, GetResourceResponse};
use crate::resource::store::Store;
use crate::rpc::lookup::{self, Client};
use crate::server::method::{Method, Notes, Result};

/// The service, answering from `store`. With `expose_keys` it hands out image keys too, as the
/// stock confidential-data-hub does.
pub fn service(store: Arc<Store>, expose_keys: bool) -> Vec<Method> {
    let get = move |request, notes: &mut Notes| get_resource(&store, expose_keys, &request, notes);
    vec![Method::new("api.GetResourceService", "GetResource", get)]
}

fn get_resource(
    store: &Store,
    expose_keys: bool,
    request: &GetResourceRequest,
    notes: &mut Notes,
) -> Result<GetResourceResponse> {
    let name = lookup::name(&request.ResourcePath, notes)?;
    let snapshot = store.snapshot();
    let secret = lookup::with_consequence(Client::Later, &name, &snapshot, notes, || {
        if expose_keys {
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
