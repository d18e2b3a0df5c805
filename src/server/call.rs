// SPDX-License-Identifier: Apache-2.0

//! What a method lets the server know of a call, beside its answer.
//!
//! A generated method gets only its request, so this goes by way of the task.

use std::cell::RefCell;
use std::future::Future;

tokio::task_local! {
    static SUBJECT: RefCell<Option<String>>;
}

/// Notes what the call in progress is about, for the log: the name of a resource, never a value.
pub fn set_subject(subject: String) {
    // Outside a call, as in a test of a method alone, there is nobody to tell.
    let _ = SUBJECT.try_with(|slot| slot.replace(Some(subject)));
}

/// Runs one call, and gives its result together with the subject that it noted.
pub async fn run<F: Future>(call: F) -> (F::Output, Option<String>) {
    SUBJECT
        .scope(RefCell::new(None), async {
            let output = call.await;
            (output, SUBJECT.with(RefCell::take))
        })
        .await
}
