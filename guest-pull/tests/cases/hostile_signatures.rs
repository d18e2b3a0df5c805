// SPDX-License-Identifier: Apache-2.0

//! Signatures and lists of them that are there to take memory or time: the good one behind them is found, and the worker has
//! less than 64 MiB all the time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_pull::digest::Digest;
use serde_json::{Value, json};
use ttrpc::Code;

use crate::caller::{Place, daemon, recorded};
use crate::host::{Mounted, is_root};
use crate::image;
use crate::memory_of::{MOST_OF_THE_WORKER, peak_of};
use crate::signing::{
    BUNDLE, MANIFEST, Repository, SIGNED, SigningKey, bundle, put_bundles, signed_by,
};
use crate::stand_in::{Answer, StandIn};

/// The largest document that is read, and the largest signature.
const MOST: usize = 4 << 20;
const MOST_OF_A_SIGNATURE: usize = 1 << 20;

/// What a registry has: documents by tag or digest, blobs by digest, lists of referrers by `referrers/` and the digest.
#[derive(Default)]
struct Memory(HashMap<String, Vec<u8>>);

impl Repository for Memory {
    fn put_blob(&mut self, blob: &[u8]) {
        self.0.insert(Digest::of(blob).to_string(), blob.to_vec());
    }

    fn put_manifest(&mut self, reference: &str, _: &str, manifest: &[u8]) {
        self.0.insert(reference.to_owned(), manifest.to_vec());
    }
}

/// A document of the largest size: a text between two others, again and again, and then white space.
fn filled(most: usize, start: &str, piece: &str, end: &str) -> Vec<u8> {
    let times = (most - start.len() - end.len()) / (piece.len() + 1);
    let mut text = [start, &vec![piece; times].join(","), end]
        .concat()
        .into_bytes();
    text.resize(most, b' ');
    text
}

/// Fills a document up.
fn pad(value: &mut Value, most: usize) {
    let room = most - value.to_string().len() - 30;
    value["padding"] = json!("x".repeat(room));
}

/// Bundles that are none, each as large as is read.
fn hostile_bundles() -> Vec<Vec<u8>> {
    let most = MOST_OF_A_SIGNATURE;
    let start = r#"{"verificationMaterial":{"publicKey":{}},"#;
    let payload = STANDARD.encode(vec![b'x'; most * 5 / 8]);
    let envelope = format!(
        r#"{start}"dsseEnvelope":{{"payloadType":"application/vnd.in-toto+json","payload":"{payload}","signatures":["#
    );
    let many = vec![json!({"sig": STANDARD.encode(b"signature")}).to_string(); 128].join(",");
    vec![
        filled(most, &format!("{start}\"more\":["), "[]", "]}"),
        filled(most, &format!("{start}\"more\":["), "{\"a\":0}", "]}"),
        filled(most, start, "\"dsseEnvelope\":{}", "}"),
        filled(most, &envelope, "{\"sig\":\"\"}", "]}}"),
        format!("{envelope}{many}]}}}}").into_bytes(),
        [vec![b'['; most / 2], vec![b']'; most / 2]].concat(),
        vec![b'x'; most],
        filled(
            most,
            &format!("{start}\"messageSignature\":{{\"signature\":\"\",\"more\":["),
            "0",
            "]}}",
        ),
    ]
}

/// An index, its manifest, the lists of signatures by cosign 2 and 3 for both, and bundles, all as large as they may be; at
/// last the good bundle.
#[test]
fn signatures_of_the_largest_size() {
    if !is_root() {
        return;
    }
    let (mut images, image) = image::Repository::of(&[image::archive(&[])]);
    let mut manifest = images.add_manifest(&image, |manifest| pad(manifest, MOST));
    manifest["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut index = json!({"schemaVersion": 2, "manifests": [manifest.clone()]});
    pad(&mut index, MOST);
    let index = images.put_document("application/vnd.oci.image.index.v1+json", &index);
    let [index, manifest] = [&index, &manifest].map(|it| it["digest"].as_str().unwrap().to_owned());
    let mut memory = Memory(images.blobs.clone());
    memory.put_manifest("1", "", &images.blobs[&index]);

    let tag = |digest: &str, end: &str| format!("{}{end}", digest.replace(':', "-"));
    let start = r#"{"schemaVersion":2,"layers":["#;
    memory.put_manifest(&tag(&index, ".sig"), "", &filled(MOST, start, "{}", "]}"));
    let payload = vec![b'x'; MOST_OF_A_SIGNATURE];
    memory.put_blob(&payload);
    let layer = json!({
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "size": payload.len(),
        "digest": Digest::of(&payload).to_string(),
        "annotations": {"dev.cosignproject.cosign/signature": STANDARD.encode(vec![b'x'; 200_000])},
    });
    let mut signatures = json!({"schemaVersion": 2, "layers": vec![layer; 12]});
    pad(&mut signatures, MOST);
    memory.put_manifest(
        &tag(&manifest, ".sig"),
        "",
        signatures.to_string().as_bytes(),
    );

    // The index has a list by the API that can't be read, and then one by the tag.
    let start = r#"{"schemaVersion":2,"manifests":["#;
    let list = filled(MOST, start, "{\"annotations\":{}}", "]}");
    memory.put_manifest(&format!("referrers/{index}"), "", &list);
    let other = json!({"digest": manifest, "artifactType": "x".repeat(300)});
    let mut list = json!({"schemaVersion": 2, "manifests": vec![other; 9_999]});
    pad(&mut list, MOST);
    memory.put_manifest(&tag(&index, ""), "", list.to_string().as_bytes());

    let key = SigningKey::new();
    let good = put_bundles(&mut memory, &manifest, &[bundle(&key, SIGNED, &manifest)]);
    let good: Value = serde_json::from_slice(&good).unwrap();
    let mut entries = Vec::new();
    for blob in hostile_bundles() {
        memory.put_blob(&blob);
        let layer = json!({"mediaType": BUNDLE, "size": blob.len(), "digest": Digest::of(&blob).to_string()});
        let mut document = json!({"schemaVersion": 2, "mediaType": MANIFEST, "layers": [layer]});
        pad(&mut document, MOST);
        let document = document.to_string();
        let id = Digest::of(document.as_bytes()).to_string();
        memory.put_manifest(&id, MANIFEST, document.as_bytes());
        entries.push(json!({"artifactType": BUNDLE, "digest": id}));
    }
    entries.push(good["manifests"][0].clone());
    let mut list = json!({"schemaVersion": 2, "manifests": entries});
    pad(&mut list, MOST);
    memory.put_manifest(
        &format!("referrers/{manifest}"),
        "",
        list.to_string().as_bytes(),
    );

    // The worker's memory is looked at whenever it asks for something.
    let (serving, peak) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU64::new(0)));
    let registry = {
        let (serving, peak) = (Arc::clone(&serving), Arc::clone(&peak));
        StandIn::start(move |asked| {
            let id = serving.load(Ordering::SeqCst);
            let path = format!("/proc/{id}/task/{id}/children");
            let children = std::fs::read_to_string(path).unwrap_or_default();
            let children = children.split_whitespace().map(|id| id.parse().unwrap());
            let peaks = children.filter_map(peak_of);
            peak.fetch_max(peaks.max().unwrap_or_default(), Ordering::SeqCst);
            let mut parts = asked.path.rsplit('/');
            let (last, kind) = (parts.next().unwrap(), parts.next().unwrap());
            let name = match kind {
                "referrers" => format!("referrers/{last}"),
                _ => last.to_owned(),
            };
            match memory.0.get(&name) {
                Some(bytes) => Answer::new(200, bytes.clone()),
                None => Answer::new(404, "{}"),
            }
        })
    };
    let place = Place::new(false);
    let _asked = daemon(&place, Err(Code::NOT_FOUND));
    place.configure(&format!(
        "[image]\nimage_security_policy = '{}'\n[[image.registry_config.registry]]\nlocation = \"{}\"\ninsecure = true\n",
        signed_by(&key.public(), ""),
        registry.address
    ));
    let image = format!("{}/a/b:1", registry.address);
    let mut serve = place.serve();
    serving.store(serve.child.id(), Ordering::SeqCst);
    serve.send(&recorded(&image, &place.bundle()));
    let answer = serve.answer();
    let _mounted = Mounted(place.rootfs());
    assert_eq!(answer.digest(), manifest);
    let asked = registry.asked();
    assert!(asked.len() > 30, "{asked:?}");
    let peak = peak.load(Ordering::SeqCst);
    println!("the worker had {peak} KiB");
    assert!(peak > 0 && peak <= MOST_OF_THE_WORKER, "{peak} KiB");
}
