// SPDX-License-Identifier: Apache-2.0

//! One pull, from its turn to its answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};
use ttrpc::proto::KeyValue;
use ttrpc::{Code, Request, Response, get_status};

use crate::pulls::puller::Puller;
use crate::pulls::{Pull, Ticket};
use crate::text::{Escaped, count};

/// How long a pull may take if the client sets no deadline; kata-agent sets one of 20 minutes. A client that waits for ever
/// would let a registry that never ends hold a place for ever.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The longest deadline that is taken from a client: nothing is pulled for a day.
const MAX_DEADLINE: Duration = Duration::from_secs(24 * 3600);

/// How much earlier guest-pull's deadline is. The client's clock began before this program's, and a mount that comes after the
/// client has given up would stay.
const MARGIN: Duration = Duration::from_secs(2);

/// Asks guest-pull to tell how the pull goes.
const PROGRESS: &str = "progress";

/// Pulls when its turn has come, within the client's deadline.
pub async fn run(puller: Arc<Puller>, ticket: Ticket, mut request: Request) -> Response {
    let limit = match u64::try_from(request.timeout_nano) {
        Ok(0) | Err(_) => DEADLINE,
        Ok(nanoseconds) => Duration::from_nanos(nanoseconds).min(MAX_DEADLINE),
    };
    let end = Instant::now() + limit;
    let pulled = timeout_at(end, async {
        ticket.turn().await;
        let left = end.saturating_duration_since(Instant::now());
        // guest-pull should be the first to see that the time is over: it knows what it was waiting for, and takes back what
        // it has mounted.
        let left = left.saturating_sub(MARGIN.min(left / 10));
        request.timeout_nano = i64::try_from(left.as_nanos()).unwrap_or(i64::MAX);
        request.metadata.push(KeyValue {
            key: PROGRESS.to_owned(),
            ..Default::default()
        });
        puller
            .pull(&request, |progress| ticket.tell(progress))
            .await
    });
    let pulled = pulled.await.unwrap_or_else(|_| {
        let text = format!("the image was not there within {} s", limit.as_secs());
        Err(get_status(Code::DEADLINE_EXCEEDED, text))
    });
    let response = pulled.unwrap_or_else(|status| {
        let mut response = Response::new();
        response.set_status(status);
        response
    });
    let outcome = response.status.code();
    if let Some(pull) = ticket.end(outcome) {
        log(&pull, &response);
    }
    response
}

/// A pull is rare, and the first thing that somebody looks for.
fn log(pull: &Pull, response: &Response) {
    let took = pull.since.elapsed();
    let took = format!("{}.{} s", took.as_secs(), took.subsec_millis() / 100);
    let image = &pull.image;
    if response.status.code() == Code::OK {
        let layers = count(pull.progress.layers as usize, "layer", "layers");
        let fetched = pull.progress.bytes_fetched;
        info!("pulled {image} in {took}: {layers}, {fetched} bytes fetched");
    } else {
        let status = &response.status;
        let text = Escaped(&status.message);
        warn!(
            "can't pull {image}: {:?} after {took}: {text}",
            status.code()
        );
    }
}
