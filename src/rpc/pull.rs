// SPDX-License-Identifier: Apache-2.0

//! `api.ImagePullService`: passed on to guest-pull, since this daemon has no network and may not mount.

use std::sync::Arc;

use ttrpc::{Code, get_status};

use crate::proto::api::ImagePullRequest;
use crate::pulls::puller::Puller;
use crate::pulls::{Pulls, run};
use crate::server::method::{Method, Subject};

/// The longest request that is passed on: a name and a path. Those that wait are kept.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// The service.
pub fn service(puller: Puller, pulls: Arc<Pulls>) -> Vec<Method> {
    let puller = Arc::new(puller);
    let pull = Method::later(
        "api.ImagePullService",
        "PullImage",
        move |pull: ImagePullRequest, request, notes| {
            if request.payload.len() > MAX_REQUEST_BYTES {
                let text = format!("the request has more than {MAX_REQUEST_BYTES} bytes");
                return Err(get_status(Code::INVALID_ARGUMENT, text));
            }
            let ticket = pulls.begin(&pull.image_url);
            notes.subject = Subject::Quoted(pull.image_url.into());
            let ticket = ticket.ok_or_else(|| {
                let text = "too many images are being pulled; ask again when one of them is there";
                get_status(Code::RESOURCE_EXHAUSTED, text)
            })?;
            let run = run::run(Arc::clone(&puller), ticket, request.clone());
            Ok(Box::pin(run))
        },
    );
    vec![pull]
}
