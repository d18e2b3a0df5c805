// SPDX-License-Identifier: Apache-2.0

//! How much of what only the daemon or the VM's files have a worker can ask for. The mounter can't tell whether a packet is
//! of this image, and can count.

use crate::failure::{Failure, Kind};
use crate::question::Question;

/// How often a login can be asked for anew: a token that ends now and then in a pull of hours, at each of a few mirrors.
const MAX_LOGINS: usize = 64;

/// How many keys can be asked for: four for each of the most layers, since an annotation may have packets for several
/// recipients and a layer may be made again.
const MAX_KEYS: usize = 2_000;

/// How many signatures can be asked for: the most of each document, for dozens of documents and rules.
const MAX_SIGNATURES: usize = 4_096;

/// How many layers can be held, finished and given back: each of the most layers four times, at each of a few mirrors, and
/// each of these ways. `PullLayers` counts the claims: those that wait for another pull are asked again and again.
const MAX_LAYER_QUESTIONS: usize = 50_000;

/// How often more room can be asked for. Each of the most layers may wait for it three times, for ten seconds with ten
/// questions in each.
const MAX_ROOMS: usize = 160_000;

/// What is left.
pub(super) struct Quota {
    logins: usize,
    keys: usize,
    signatures: usize,
    layers: usize,
    rooms: usize,
}

impl Default for Quota {
    fn default() -> Self {
        Self {
            logins: MAX_LOGINS,
            keys: MAX_KEYS,
            signatures: MAX_SIGNATURES,
            layers: MAX_LAYER_QUESTIONS,
            rooms: MAX_ROOMS,
        }
    }
}

impl Quota {
    /// Takes what a question needs.
    pub(super) fn take(&mut self, question: &Question) -> Result<(), Failure> {
        let (left, what) = match question {
            Question::Login(_) => (&mut self.logins, "logins"),
            Question::Key { .. } => (&mut self.keys, "keys"),
            Question::Signature(_) => (&mut self.signatures, "signatures"),
            Question::Hold(_) | Question::Finish(_) | Question::Release(_) => {
                (&mut self.layers, "layers")
            }
            Question::Room(_) => (&mut self.rooms, "room"),
            Question::Claim { .. } => return Ok(()),
        };
        *left = left.checked_sub(1).ok_or_else(|| {
            let text = format!("the worker asks for more {what} than an image can need");
            Failure::new(Kind::Other, text)
        })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::digest::Digest;

    /// A worker that was taken over can't have packets unwrapped without end, and one kind of question leaves the others.
    #[test]
    fn questions_are_counted() {
        let mut quota = Quota::default();
        let key = Question::Key {
            provider: String::new(),
            packet: Vec::new(),
        };
        for _ in 0..MAX_KEYS {
            quota.take(&key).unwrap();
        }
        assert!(quota.take(&key).is_err());
        for _ in 0..MAX_LOGINS {
            quota.take(&Question::Login(0)).unwrap();
        }
        assert!(quota.take(&Question::Login(0)).is_err());
        let layer = Digest::of(b"layer");
        for _ in 0..MAX_ROOMS {
            quota.take(&Question::Room(layer)).unwrap();
        }
        assert!(quota.take(&Question::Room(layer)).is_err());
        for number in 0..MAX_LAYER_QUESTIONS {
            let all = [Question::Hold, Question::Finish, Question::Release];
            quota.take(&all[number % all.len()](layer)).unwrap();
        }
        assert!(quota.take(&Question::Release(layer)).is_err());
        assert!(quota.take(&Question::Hold(layer)).is_err());
    }
}
