// SPDX-License-Identifier: Apache-2.0

//! What a method lets the server know of a call, beside its answer.
//!
//! A generated method gets only its request, so this goes by way of the task.

use std::cell::RefCell;
use std::future::Future;

tokio::task_local! {
    static NOTES: RefCell<Notes>;
}

/// What a call noted.
#[derive(Debug, Default)]
pub struct Notes {
    /// What the call is about: the name of a resource, never a value.
    pub subject: Option<String>,
    /// What the answer makes the client do, where that is not what a person would expect.
    pub consequence: Option<Consequence>,
    /// Whether the call is nobody's business, as one for the status.
    pub is_private: bool,
}

/// What a client makes of an answer, in words that follow its name.
#[derive(Debug)]
pub struct Consequence {
    /// The words.
    pub text: String,
    /// Whether somebody has something to mend.
    pub is_warning: bool,
}

/// Notes what the call in progress is about.
pub fn set_subject(subject: String) {
    note(|notes| notes.subject = Some(subject));
}

/// Notes what the call's answer makes the client do.
pub fn set_consequence(consequence: Consequence) {
    note(|notes| notes.consequence = Some(consequence));
}

/// Leaves the call in progress out of what is counted and remembered.
pub fn keep_private() {
    note(|notes| notes.is_private = true);
}

fn note(change: impl FnOnce(&mut Notes)) {
    // Outside a call, as in a test of a method alone, there is nobody to tell.
    let _ = NOTES.try_with(|notes| change(&mut notes.borrow_mut()));
}

/// Runs one call, and gives its result together with what it noted.
pub async fn run<F: Future>(call: F) -> (F::Output, Notes) {
    NOTES
        .scope(RefCell::default(), async {
            let output = call.await;
            (output, NOTES.with(RefCell::take))
        })
        .await
}
