// SPDX-License-Identifier: Apache-2.0

//! `api.SecureMountService` and `api.ImagePullService`: what a daemon without network and without the
//! right to mount does not do, and what does it instead.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::asynchronous::{Service, TtrpcContext};

use crate::proto::api::{
    ImagePullRequest, ImagePullResponse, SecureMountRequest, SecureMountResponse,
};
use crate::proto::api_ttrpc::{
    ImagePullService, SecureMountService, create_image_pull_service, create_secure_mount_service,
};
use crate::rpc::status;
use crate::server::call;
use crate::text::Shown;

/// Both services.
pub fn services() -> HashMap<String, Service> {
    let mut services = create_secure_mount_service(Arc::new(Unavailable));
    services.extend(create_image_pull_service(Arc::new(Unavailable)));
    services
}

struct Unavailable;

#[async_trait]
impl SecureMountService for Unavailable {
    async fn secure_mount(
        &self,
        _context: &TtrpcContext,
        request: SecureMountRequest,
    ) -> ttrpc::Result<SecureMountResponse> {
        call::set_subject(Shown(&request.volume_type).to_string());
        Err(status::unimplemented(
            "offline-fs-kbc mounts nothing; run the stock confidential-data-hub on cdh.sock for \
             secure mounts, beside this daemon without --cdh-sock",
        ))
    }
}

#[async_trait]
impl ImagePullService for Unavailable {
    async fn pull_image(
        &self,
        _context: &TtrpcContext,
        request: ImagePullRequest,
    ) -> ttrpc::Result<ImagePullResponse> {
        call::set_subject(Shown(&request.image_url).to_string());
        Err(status::unimplemented(
            "offline-fs-kbc pulls no images; run the stock confidential-data-hub on cdh.sock, \
             beside this daemon without --cdh-sock, or a kata-agent that pulls by itself",
        ))
    }
}
