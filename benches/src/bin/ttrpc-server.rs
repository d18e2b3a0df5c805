// SPDX-License-Identifier: Apache-2.0

//! A minimal server on the ttrpc crate's own `Server`, with a service from ttrpc's code generator, that
//! answers every request with BYTES bytes.
//!
//! `ttrpc-server SOCKET BYTES`

use std::env;
use std::error::Error;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::asynchronous::{Server, TtrpcContext};

use generated::getresource::{GetResourceRequest, GetResourceResponse};
use generated::getresource_ttrpc::{GetResourceService, create_get_resource_service};

#[allow(missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/generated.rs"));
}

struct Fixed(Vec<u8>);

#[async_trait]
impl GetResourceService for Fixed {
    async fn get_resource(
        &self,
        _context: &TtrpcContext,
        _request: GetResourceRequest,
    ) -> ttrpc::Result<GetResourceResponse> {
        Ok(GetResourceResponse {
            Resource: self.0.clone(),
            ..GetResourceResponse::default()
        })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let usage = "ttrpc-server SOCKET BYTES";
    let socket = args.next().ok_or(usage)?;
    let bytes = args.next().ok_or(usage)?.parse()?;
    let value = (0..bytes).map(|at: usize| (at * 7 % 251) as u8).collect();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let mut server = Server::new()
                .bind(&format!("unix://{socket}"))?
                .register_service(create_get_resource_service(Arc::new(Fixed(value))));
            server.start().await?;
            std::future::pending().await
        })
}
