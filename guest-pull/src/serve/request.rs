// SPDX-License-Identifier: Apache-2.0

//! The request: one frame of ttrpc.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::client::read_frame;
use common::proto::api::ImagePullRequest;
use common::text::Quoted;
use protobuf::Message as _;
use ttrpc::proto::{MESSAGE_LENGTH_MAX, MESSAGE_TYPE_REQUEST};
use ttrpc::{Code, Request, Status, get_status};

/// How long the request may take to come. The caller connects because it has one.
const FRAME_TIME: Duration = Duration::from_secs(10);

/// How long a pull may take if the caller says nothing: longer than any client of today waits.
const USUAL_TIME: Duration = Duration::from_secs(60 * 60);

/// How long a pull may take whatever the caller says, so that none stays for ever.
const MOST_TIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The request's metadata by which a caller asks to be told how the pull goes.
const PROGRESS: &str = "progress";

/// A call that can be served.
#[derive(Debug)]
pub struct Call {
    /// What the answer must have too.
    pub stream_id: u32,
    /// The name of the image, as the caller has it.
    pub image: String,
    /// Where the bundle is.
    pub bundle: PathBuf,
    /// Until when the caller waits.
    pub deadline: Instant,
    /// How long that was at the beginning.
    pub time: Duration,
    /// Whether the caller wants to be told how it goes.
    pub wants_progress: bool,
}

/// Why there is no call.
#[derive(Debug)]
pub enum Refused {
    /// Nobody can be answered.
    Silently(String),
    /// The answer for this stream.
    Answered(u32, Status),
}

/// Reads the request.
pub fn read(stream: &mut UnixStream) -> Result<Call, Refused> {
    let frame = read_frame(stream, Instant::now() + FRAME_TIME);
    let frame = frame.map_err(|error| {
        Refused::Silently(match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                format!("none came within {} s", FRAME_TIME.as_secs())
            }
            _ => error.to_string(),
        })
    })?;
    // A frame that is not read has no stream id that can be trusted.
    let Some((header, body)) = frame else {
        let text = format!("the frame would have more than {MESSAGE_LENGTH_MAX} bytes");
        return Err(Refused::Silently(text));
    };
    let refuse =
        |code, text: String| Err(Refused::Answered(header.stream_id, get_status(code, text)));
    if header.type_ != MESSAGE_TYPE_REQUEST {
        let text = format!("a frame of type {} is no request", header.type_);
        return refuse(Code::INVALID_ARGUMENT, text);
    }
    let Ok(request) = Request::parse_from_bytes(&body) else {
        let text = "the frame is no request of ttrpc".to_owned();
        return refuse(Code::INVALID_ARGUMENT, text);
    };
    if (&*request.service, &*request.method) != ("api.ImagePullService", "PullImage") {
        let text = format!(
            "guest-pull serves api.ImagePullService/PullImage alone, and not {}",
            Quoted(&format!("{}/{}", request.service, request.method))
        );
        return refuse(Code::UNIMPLEMENTED, text);
    }
    let Ok(pull) = ImagePullRequest::parse_from_bytes(&request.payload) else {
        let text = "the payload is no ImagePullRequest".to_owned();
        return refuse(Code::INVALID_ARGUMENT, text);
    };
    let time = time(request.timeout_nano);
    Ok(Call {
        stream_id: header.stream_id,
        image: pull.image_url,
        bundle: pull.bundle_path.into(),
        deadline: Instant::now() + time,
        time,
        wants_progress: request.metadata.iter().any(|pair| pair.key == PROGRESS),
    })
}

/// How long a pull may take for a caller that says so much.
fn time(nanoseconds: i64) -> Duration {
    match u64::try_from(nanoseconds) {
        Ok(0) | Err(_) => USUAL_TIME,
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds).min(MOST_TIME),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A caller without a deadline gets a bound, and no caller gets days.
    #[test]
    fn every_pull_has_a_bound() {
        assert_eq!(time(0), USUAL_TIME);
        assert_eq!(time(-1), USUAL_TIME);
        assert_eq!(time(1_000_000), Duration::from_millis(1));
        assert_eq!(time(i64::MAX), MOST_TIME);
    }
}
