// SPDX-License-Identifier: Apache-2.0

//! Helpers of the fuzz targets: a marked value that no output may contain, a connection to a daemon, and what is shared with
//! guest-pull's tests.

use std::collections::HashMap;
use std::fmt::{Debug, Display};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offline_fs_kbc::resource::entries::Entries;
use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::parse::parse;
use offline_fs_kbc::resource::problem::Problem;
use offline_fs_kbc::resource::snapshot::Source;
use offline_fs_kbc::resource::store::Store;
use offline_fs_kbc::rpc::sealedsecret::Verification;
use offline_fs_kbc::rpc::{
    attestation, getresource, keyprovider, resource, sealedsecret, unavailable,
};
use offline_fs_kbc::server::admission::Admission;
use offline_fs_kbc::server::connection;
use offline_fs_kbc::server::limits::MAX_MESSAGE_BYTES;
use offline_fs_kbc::server::peer::Peer;
use offline_fs_kbc::server::request_log::RequestLog;
use offline_fs_kbc::server::router::Router;
use protobuf::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Response};
use zeroize::Zeroizing;

// With the names that they have in guest-pull's tests.
#[path = "../../guest-pull/tests/support/any_archive.rs"]
pub mod any_archive;
#[path = "../../guest-pull/tests/support/erofs_reader.rs"]
pub mod erofs_reader;
pub mod layers;
#[path = "../../guest-pull/tests/support/raw_tar.rs"]
pub mod raw_tar;

/// The mark of a secret. It is valid base64, and 32 bytes long like a key.
pub const MARK: &str = "hunter2+IT/IS+A/SECRET+hunter2++";

/// The byte that is replaced by a marked value in an input.
const PLACE: u8 = 1;

/// A text that each recognizable part of a mark contains.
const WORD: &str = "hunter2";

/// The input with each mark that the fuzzer has learned replaced by another word.
pub fn unmarked(input: &[u8]) -> Vec<u8> {
    let mut input = input.to_vec();
    while let Some(at) = input
        .windows(WORD.len())
        // Readers may lower the case of what they show.
        .position(|part| part.eq_ignore_ascii_case(WORD.as_bytes()))
    {
        input[at] = b'_';
    }
    input
}

/// The input with a marked value in each of its places, and no mark anywhere else. The value is so long that
/// a message does not show it as the name of an entry.
pub fn marked(input: &[u8]) -> Vec<u8> {
    let input = unmarked(input);
    let mut text = Vec::with_capacity(input.len());
    for &byte in &input {
        match byte {
            PLACE => text.extend(MARK.repeat(4).bytes()),
            byte => text.push(byte),
        }
    }
    text
}

/// Panics if a message contains a part of a marked value.
pub fn assert_no_secret(text: &str) {
    assert!(!text.contains(WORD), "said: {text}");
}

/// The same for an error, with `Display` and `Debug`.
pub fn assert_error_is_clean(error: &(impl Display + Debug)) {
    assert_no_secret(&error.to_string());
    assert_no_secret(&format!("{error:?}"));
}

/// Panics if a text would break a line of the log.
pub fn assert_one_line(text: &str) {
    assert!(
        !text.contains(char::is_control),
        "control characters: {text:?}"
    );
}

/// The entries of a file's text.
pub fn parse_file(text: &[u8], keys: bool) -> Result<Entries, Problem> {
    let kind = if keys { Kind::Keys } else { Kind::Resources };
    parse(Zeroizing::new(text.to_vec()), &kind)
}

/// A request frame as a peer sends it.
pub fn frame(stream_id: u32, body: &[u8]) -> Vec<u8> {
    let header = MessageHeader::new_request(stream_id, body.len() as u32);
    let mut bytes = Vec::from(header);
    bytes.extend(body);
    bytes
}

/// The stream ids of the complete frames, and how many bytes the incomplete last one still needs.
pub fn frames(mut bytes: &[u8]) -> (Vec<u32>, usize) {
    let mut ids = Vec::new();
    while let Some(header) = bytes.get(..MESSAGE_HEADER_LENGTH) {
        let header = MessageHeader::from(header);
        let length = MESSAGE_HEADER_LENGTH + header.length as usize;
        if bytes.len() < length {
            return (ids, length - bytes.len());
        }
        ids.push(header.stream_id);
        bytes = &bytes[length..];
    }
    (ids, 0)
}

/// A daemon with marked resources and keys, whose log is discarded.
pub struct Daemon {
    runtime: Runtime,
    router: Arc<Router>,
    admission: Arc<Admission>,
    stop: watch::Receiver<bool>,
    _running: watch::Sender<bool>,
}

/// The resources, by name and value.
fn resources() -> Vec<(&'static str, Vec<u8>)> {
    let auth = STANDARD.encode(format!("user:{MARK}"));
    let auth = format!(r#"{{"auths":{{"quay.io":{{"auth":"{auth}"}}}}}}"#);
    // The public key of the test vectors.
    let jwk = include_str!("signing-key.jwk");
    vec![
        ("default/credential/test", auth.into_bytes()),
        ("default/key/k1", MARK.as_bytes().to_vec()),
        ("default/signing-key/1", jwk.as_bytes().to_vec()),
        ("default/secret/long", MARK.repeat(100).into_bytes()),
    ]
}

fn store() -> Arc<Store> {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, entries: &[(&str, String)]| -> PathBuf {
        let entries: HashMap<_, _> = entries.iter().cloned().collect();
        let path = dir.path().join(name);
        let text = serde_json::to_string(&entries).expect("strings are JSON");
        fs::write(&path, text).expect("a file");
        path
    };
    let encoded: Vec<_> = resources()
        .into_iter()
        .map(|(name, value)| (name, STANDARD.encode(value)))
        .chain([("default/broken/1", format!("{{{MARK}"))])
        .collect();
    let keys = [("k2", STANDARD.encode(MARK)), ("k3", format!("!{MARK}"))];
    let source = |path, kind| Source { path, kind };
    let store = Arc::new(Store::new(vec![
        source(write("keys.json", &keys), Kind::Keys),
        source(write("resources.json", &encoded), Kind::Resources),
    ]));
    store.reload();
    // Loaded once; the directory is removed now, since libFuzzer leaves no chance to remove it at the end.
    store
}

impl Daemon {
    /// The only instance.
    pub fn get() -> &'static Self {
        static DAEMON: OnceLock<Daemon> = OnceLock::new();
        DAEMON.get_or_init(Self::new)
    }

    fn new() -> Self {
        let store = store();
        let mut methods = Vec::new();
        methods.extend(getresource::service(Arc::clone(&store)));
        methods.extend(keyprovider::service(Arc::clone(&store)));
        methods.extend(attestation::service(|| "sample"));
        methods.extend(unavailable::service());
        methods.extend(resource::service(Arc::clone(&store), false));
        let nowhere = Path::new("/nonexistent/keys").to_owned();
        methods.extend(sealedsecret::service(store, Verification::On(nowhere)));
        let (running, stop) = watch::channel(false);
        Self {
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
            router: Arc::new(Router::new(methods, Arc::new(RequestLog::default()), || {})),
            admission: Arc::new(Admission::new(|| {})),
            stop,
            _running: running,
        }
    }

    /// Sends the bytes in pieces of `piece` bytes, closes this side, and returns the answers.
    ///
    /// Panics if an answer is malformed, or if the daemon closes the connection with an error.
    pub fn talk(&self, bytes: &[u8], piece: usize) -> Vec<(u32, Response)> {
        let answers = self.runtime.block_on(async {
            let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
            let ticket = self
                .admission
                .admit(Peer::of(&theirs))
                .expect("a free place");
            let served = connection::run(
                theirs,
                ticket,
                None,
                Arc::clone(&self.router),
                self.stop.clone(),
            );
            let (mut answers_in, mut requests_out) = ours.into_split();
            let asks = async {
                for piece in bytes.chunks(piece.max(1)) {
                    requests_out
                        .write_all(piece)
                        .await
                        .expect("the daemon reads");
                    tokio::task::yield_now().await;
                }
                // Closes this side.
                drop(requests_out);
            };
            let reads = async {
                let mut answers = Vec::new();
                answers_in
                    .read_to_end(&mut answers)
                    .await
                    .expect("the daemon writes");
                answers
            };
            let (served, (), answers) = tokio::join!(served, asks, reads);
            served.expect("the daemon keeps the connection");
            answers
        });
        parse_answers(&answers)
    }
}

fn parse_answers(mut bytes: &[u8]) -> Vec<(u32, Response)> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let header = MessageHeader::from(&bytes[..MESSAGE_HEADER_LENGTH]);
        let end = MESSAGE_HEADER_LENGTH + header.length as usize;
        assert_eq!(header.type_, MESSAGE_TYPE_RESPONSE);
        assert!(header.length as usize <= MAX_MESSAGE_BYTES);
        let response =
            Response::parse_from_bytes(&bytes[MESSAGE_HEADER_LENGTH..end]).expect("a response");
        answers.push((header.stream_id, response));
        bytes = &bytes[end..];
    }
    answers
}

/// Panics if a refusal contains a value, or would break a line of the log.
pub fn assert_harmless(response: &Response) {
    let status = response.status();
    if status.code() == Code::OK {
        return;
    }
    assert_no_secret(&status.message);
    assert_one_line(&status.message);
    assert!(response.payload.is_empty(), "a refusal has a payload");
}
