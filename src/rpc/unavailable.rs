// SPDX-License-Identifier: Apache-2.0

//! `api.SecureMountService`: refused, because this daemon may not mount. The refusal names what to run instead.

use crate::proto::api::SecureMountRequest;
use crate::rpc::status;
use crate::server::method::{Method, Subject};

/// The service.
pub fn service() -> Vec<Method> {
    vec![Method::refused(
        "api.SecureMountService",
        "SecureMount",
        |request: SecureMountRequest, notes| {
            notes.subject = Subject::Quoted(request.volume_type.into());
            status::unimplemented(
                "offline-fs-kbc mounts nothing; run the stock confidential-data-hub on cdh.sock for \
                 secure mounts, beside this daemon without --cdh-sock",
            )
        },
    )]
}
