// SPDX-License-Identifier: Apache-2.0

//! Pulls container images into compressed read-only layers, and mounts them.
//!
//! A pull is two processes. The mounter ([`serve`], or a person's command) finds out what is to be done ([`plan`]), starts
//! the worker and answers its questions ([`worker`], [`question`]), and mounts the layers ([`mount`]). The worker confines
//! itself, asks the registry ([`lookup`], [`registry`]) and makes of each layer one file ([`pull`], [`layer`], [`erofs`]),
//! which the mounter keeps ([`store`]). docs/design.md has a picture of it, and the layers of the modules.

pub mod check;
pub mod claim;
pub mod compression;
pub mod config;
pub mod credential;
pub mod digest;
mod directories;
mod document;
pub mod encryption;
pub mod erofs;
pub mod failure;
pub mod layer;
pub mod limits;
mod links;
pub mod lookup;
pub mod measure;
pub mod memory;
pub mod mount;
pub mod pipe;
pub mod plan;
pub mod policy;
pub mod privileges;
pub mod proxy;
pub mod pull;
pub mod question;
pub mod registry;
pub mod resource;
pub mod serve;
pub mod spelling;
pub mod store;
mod sys;
pub mod until;
mod upper;
pub mod verify;
pub mod worker;
pub mod writable;
