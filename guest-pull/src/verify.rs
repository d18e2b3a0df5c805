// SPDX-License-Identifier: Apache-2.0

//! Whether an image would be pulled: everything of a pull but the content of layers. It runs in the worker, as a pull does.

use crate::encryption;
use crate::failure::Failure;
use crate::lookup::{Found, of_registry};
use crate::pull::{Error, Event, Known, Means, Pulled, accept};
use crate::question::{Answer, Question};
use crate::registry::manifest::Descriptor;
use crate::registry::platform::Platform;

/// Checks the signatures of an image that was found, and for each layer that is not stored whether its key can be unwrapped
/// and the registry gives it.
///
/// # Errors
///
/// As for a pull, as far as it can be told without the content of layers.
pub fn verify(means: &Means<'_>, found: Found, platform: &Platform) -> Result<Pulled, Error> {
    let Known {
        digest,
        layers,
        diff_ids,
    } = accept(means, found, platform)?;
    for (at, (layer, diff_id)) in layers.iter().zip(&diff_ids).enumerate() {
        let named = |failure| Error::Layer {
            number: at + 1,
            layers: layers.len(),
            digest: layer.digest,
            failure,
        };
        let held = (means.ask)(&Question::Hold(*diff_id)).map_err(named)?;
        let stored = matches!(held, Answer::Done(true));
        if !stored {
            can_be_had(means, layer).map_err(named)?;
        }
        let bytes = layer.size;
        (means.events)(Event::Layer { bytes, stored });
    }
    Ok(Pulled {
        manifest: digest,
        layers: diff_ids,
    })
}

/// Asks for a layer as a pull does, and reads nothing of it. HEAD would not do: the links that registries give to their
/// stores are often signed for GET alone.
fn can_be_had(means: &Means<'_>, layer: &Descriptor) -> Result<(), Failure> {
    encryption::decryptor(layer, means.ask)?;
    let blob = means.client.blob(&layer.digest, layer.size, &|| false);
    let blob = blob.map_err(|error| Failure::new(of_registry(&error), error.to_string()));
    blob.map(drop)
}
