// SPDX-License-Identifier: Apache-2.0

//! `api.SecureMountService` and `api.ImagePullService`: refused, because this daemon has no network and may
//! not mount. The refusals name what to run instead.

use crate::proto::api::{ImagePullRequest, SecureMountRequest};
use crate::rpc::status;
use crate::server::method::{Method, Subject};

/// Both services.
pub fn services() -> Vec<Method> {
    vec![
        Method::refused(
            "api.SecureMountService",
            "SecureMount",
            |request: SecureMountRequest, notes| {
                notes.subject = Subject::Quoted(request.volume_type.into());
                status::unimplemented(
                    "offline-fs-kbc mounts nothing; run the stock confidential-data-hub on cdh.sock for \
                     secure mounts, beside this daemon without --cdh-sock",
                )
            },
        ),
        Method::refused(
            "api.ImagePullService",
            "PullImage",
            |request: ImagePullRequest, notes| {
                notes.subject = Subject::Quoted(request.image_url.into());
                status::unimplemented(
                    "offline-fs-kbc pulls no images; run the stock confidential-data-hub on cdh.sock, \
                     beside this daemon without --cdh-sock, or a kata-agent that pulls by itself",
                )
            },
        ),
    ]
}
