// SPDX-License-Identifier: Apache-2.0

//! `getresource.GetResourceService`: the service of the attestation-agent of 2023. Its one request message
//! has had two meanings, and both are served.

use std::borrow::Cow;
use std::sync::Arc;

use protobuf::rt::compute_raw_varint64_size;

use crate::json;
use crate::proto::getresource::{GetResourceRequest, GetResourceResponse};
use crate::resource::name::KBC_NAME;
use crate::resource::store::Store;
use crate::rpc::lookup::{self, Client};
use crate::rpc::status;
use crate::server::method::{Method, Notes, Result};
use crate::server::output::response_bytes;
use crate::text::Quoted;

/// The most members of a resource description, which has two.
const MAX_DESCRIPTION_MEMBERS: usize = 100;

/// The service, answering from `store`.
pub fn service(store: Arc<Store>) -> Vec<Method> {
    let get = move |request, notes: &mut Notes| get_resource(&store, &request, notes);
    vec![Method::new(
        "getresource.GetResourceService",
        "GetResource",
        get,
    )]
}

/// The length of the body of a frame that carries a resource of `length` bytes, to compare with ttrpc's
/// limit.
pub fn answer_bytes(length: usize) -> u64 {
    let length = length as u64;
    response_bytes(match length {
        0 => 0,
        _ => 1 + compute_raw_varint64_size(length) + length,
    })
}

fn get_resource(
    store: &Store,
    request: &GetResourceRequest,
    notes: &mut Notes,
) -> Result<GetResourceResponse> {
    let asked = ParsedRequest::from(request);
    let name = lookup::name(&asked.name, notes)?;
    let snapshot = store.snapshot();
    let secret = lookup::with_consequence(Client::Of2023, &name, &snapshot, notes, || {
        if !asked.kbc.is_empty() && asked.kbc != KBC_NAME {
            return Err(status::invalid_argument(format_args!(
                "this is {KBC_NAME}, the request is for the KBC {}; fix aa_kbc_params",
                Quoted(asked.kbc)
            )));
        }
        lookup::resource(&snapshot, &name)
    })?;
    Ok(GetResourceResponse {
        Resource: secret.expose().to_vec(),
        ..GetResourceResponse::default()
    })
}

/// What a request of either generation asks for.
struct ParsedRequest<'a> {
    name: Cow<'a, str>,
    kbc: &'a str,
}

impl<'a> From<&'a GetResourceRequest> for ParsedRequest<'a> {
    fn from(request: &'a GetResourceRequest) -> Self {
        match name_in_description(&request.KbsUri) {
            // The first generation (image-rs 0.3 and 0.4): KBC, KBS URI, resource description.
            Some(name) => Self {
                name: Cow::Owned(name),
                kbc: &request.ResourcePath,
            },
            // The second (0.5 to 0.7): resource path, KBC, KBS URI.
            None => Self {
                name: Cow::Borrowed(&request.ResourcePath),
                kbc: &request.KbcName,
            },
        }
    }
}

/// The name in a resource description, `{"name":"…","optional":{}}`. Returns none if the text is not one.
fn name_in_description(text: &str) -> Option<String> {
    if !text.trim_ascii_start().starts_with('{') {
        return None;
    }
    let members = json::members(text.as_bytes(), MAX_DESCRIPTION_MEMBERS).ok()?;
    json::string(&members, "name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protobuf::Message as _;

    fn asked(fields: [&str; 3]) -> (String, String) {
        let [first, second, third] = fields.map(str::to_owned);
        let request = GetResourceRequest {
            ResourcePath: first,
            KbcName: second,
            KbsUri: third,
            ..GetResourceRequest::default()
        };
        let asked = ParsedRequest::from(&request);
        (asked.name.into_owned(), asked.kbc.to_owned())
    }

    /// The size that `check` predicts is the size of the server's answer.
    #[test]
    fn the_size_of_an_answer_is_known_beforehand() {
        for length in [1, 127, 128, 16_383, 16_384, 4 << 20] {
            let resource = GetResourceResponse {
                Resource: vec![0; length],
                ..GetResourceResponse::default()
            };
            let mut answer = ttrpc::Response::new();
            answer.set_status(ttrpc::get_status(ttrpc::Code::OK, ""));
            answer.payload = resource.write_to_bytes().unwrap_or_default();
            assert_eq!(answer_bytes(length), answer.compute_size());
        }
        let cap = crate::server::limits::MAX_MESSAGE_BYTES as u64;
        assert_eq!(answer_bytes(crate::lint::MAX_RESOURCE_BYTES), cap);
    }

    /// The third field decides which of the two meanings a request has.
    #[test]
    fn generations_are_told_apart() {
        let old = ("Credential".to_owned(), "offline_fs_kbc".to_owned());
        for third in [
            r#"{"name":"Credential","optional":{}}"#,
            r#" {"more":[1],"optional":{"a":"b"},"name":"Credential"}"#,
        ] {
            assert_eq!(asked(["offline_fs_kbc", "null", third]), old, "{third}");
        }
        let new = ("/a/b/c".to_owned(), "offline_fs_kbc".to_owned());
        for third in [
            "localhost",
            "null",
            "",
            "{}",
            r#"{"name":1}"#,
            r#""name""#,
            "{",
        ] {
            assert_eq!(asked(["/a/b/c", "offline_fs_kbc", third]), new, "{third}");
        }
    }
}
