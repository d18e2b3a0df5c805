// SPDX-License-Identifier: Apache-2.0

//! What is right, case by case: each test has the name of a row of the table in docs/guest-pull.md.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/any_archive.rs"]
mod any_archive;
#[path = "../support/caller.rs"]
mod caller;
#[path = "../support/containerd.rs"]
mod containerd;
#[path = "../support/erofs_reader.rs"]
mod erofs_reader;
#[path = "../support/faulty.rs"]
mod faulty;
#[path = "../support/file_systems.rs"]
mod file_systems;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/hub.rs"]
mod hub;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/marked.rs"]
mod marked;
#[path = "../support/memory_of.rs"]
mod memory_of;
#[path = "../support/played.rs"]
mod played;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/raw_server.rs"]
mod raw_server;
#[path = "../support/raw_tar.rs"]
mod raw_tar;
#[path = "../support/registry.rs"]
mod registry;
#[path = "../support/repositories.rs"]
mod repositories;
#[path = "../support/sealed.rs"]
mod sealed;
#[path = "../support/signing.rs"]
mod signing;
#[path = "../support/stand_in.rs"]
mod stand_in;
#[path = "../support/stored.rs"]
mod stored;

mod archive_oracle;
mod archives;
mod archives_any;
mod archives_bombs;
mod archives_headers;
mod archives_refused;
mod archives_taken;
mod bad_networks;
mod both;
mod bundles;
mod check;
mod clean_up;
mod compression;
mod configuration;
mod confined;
mod cosign;
mod credentials;
mod credentials_changed;
mod differential;
mod encrypted;
mod exhausted;
mod foreign;
mod hidden_directories;
mod hostile;
mod hostile_blobs;
mod hostile_bombs;
mod hostile_documents;
mod hostile_layers;
mod hostile_signatures;
mod hostile_store;
mod indexes;
mod killed;
mod manifests;
mod measurement;
mod memory;
mod name_resolution;
mod network;
mod network_faults;
mod no_room;
mod odd_answers;
mod policy;
mod policy_evaded;
mod privileges;
mod proxies;
mod redirects;
mod references;
mod registries;
mod registries_of_clouds;
mod registry_configuration;
mod registry_configuration_oracle;
mod secrets;
mod signatures;
mod signed_by;
mod silence;
mod slow_registries;
mod system_calls;
mod token_servers;
mod unit;
