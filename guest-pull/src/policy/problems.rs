// SPDX-License-Identifier: Apache-2.0

//! What is wrong with the signatures of an image, for the message that refuses it.

use crate::policy::MAX_SIGNATURES;

/// What is wrong with signatures; each thing once, and a few of them: it becomes an event of the pod.
#[derive(Default)]
pub(super) struct Problems(pub Vec<String>);

impl Problems {
    /// How many are told.
    const MOST: usize = 5;

    pub(super) fn add(&mut self, which: &str, problem: String) {
        let text = format!("{which}: {problem}");
        if self.0.len() < Self::MOST && !self.0.contains(&text) {
            self.0.push(text);
        }
    }

    pub(super) fn too_many(&mut self) {
        let text =
            format!("there are more than {MAX_SIGNATURES} signatures, and no more are looked at");
        if !self.0.contains(&text) {
            self.0.push(text);
        }
    }
}
