// SPDX-License-Identifier: Apache-2.0

//! Black-box tests: the built program, real sockets, real clients.
//!
//! `make test` builds the release binary, without the tests' dependencies, and names it in
//! `OFFLINE_FS_KBC_BIN`; plain `cargo test` uses cargo's own build.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "../../guest-pull/tests/support/agent.rs"]
mod agent;
#[path = "../../guest-pull/tests/support/marked.rs"]
mod marked;
#[path = "../../guest-pull/tests/support/proxy.rs"]
mod proxy;

mod attestation;
mod bounds;
mod check_image;
mod check_puller;
mod check_vm;
mod commands;
mod components;
mod docs;
mod encrypted_images;
mod everything;
mod faults;
mod files;
mod freshness;
mod go_client;
mod help;
mod hub;
mod image_build;
mod image_requests;
mod keys;
mod launch_plan;
mod lifecycle;
mod odd_input;
mod peer_pod_units;
mod plan;
mod pull;
mod puller;
mod repair;
mod requests;
mod restarts;
mod same_answer;
mod sealing;
mod second_instance;
mod secrets;
mod service_manager;
mod sources;
mod status;
mod support;
mod tools;
mod try_it;
mod units;
mod user_data;
mod waiting;
mod watching;
