// SPDX-License-Identifier: Apache-2.0

//! The commands, a file each, and the historic command lines.

mod check;
mod client;
#[cfg(feature = "tools")]
mod document;
mod findings;
mod get;
mod historic;
mod inherited;
#[cfg(feature = "tools")]
mod keygen;
#[cfg(feature = "tools")]
mod keyprovider;
#[cfg(feature = "tools")]
mod pack;
mod private_file;
#[cfg(feature = "tools")]
mod seal;
mod serve;
mod standing;
mod status;
#[cfg(feature = "tools")]
mod unpack;
#[cfg(feature = "tools")]
mod unseal;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::config::Component;

/// Serves registry credentials and other KBS resources from files to kata-agent in a pod VM
#[derive(Parser)]
#[command(name = "offline-fs-kbc", version, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Serve),
    Get(get::Get),
    Check(Box<check::Check>),
    Status(status::Status),
    #[cfg(feature = "tools")]
    Pack(pack::Pack),
    #[cfg(feature = "tools")]
    Unpack(unpack::Unpack),
    #[cfg(feature = "tools")]
    Keygen(keygen::Keygen),
    #[cfg(feature = "tools")]
    Keyprovider(keyprovider::Keyprovider),
    #[cfg(feature = "tools")]
    Seal(seal::Seal),
    #[cfg(feature = "tools")]
    Unseal(unseal::Unseal),
}

/// Does what the command line says; the exit status is 0 for done, 1 for failed or problems found,
/// and 2 for a command line that means nothing.
///
/// # Errors
///
/// What went wrong, for the exit status 1.
pub fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    if let Some(component) = historic_component(&args) {
        return historic::run(component, args.get(1..).unwrap_or_default());
    }
    let by_name = args
        .first()
        .and_then(|arg| historic::component(Path::new(arg)));
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output, and are no failure.
            let _ = error.print();
            return Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)));
        }
    };
    match cli.command {
        Command::Serve(mut serve) => {
            serve.component = by_name.unwrap_or_default();
            serve.run()
        }
        Command::Get(get) => get.run(),
        Command::Check(check) => check.run(),
        Command::Status(status) => status.run(),
        #[cfg(feature = "tools")]
        Command::Pack(pack) => pack.run(),
        #[cfg(feature = "tools")]
        Command::Unpack(unpack) => unpack.run(),
        #[cfg(feature = "tools")]
        Command::Keygen(keygen) => keygen.run(),
        #[cfg(feature = "tools")]
        Command::Keyprovider(keyprovider) => keyprovider.run(),
        #[cfg(feature = "tools")]
        Command::Seal(seal) => seal.run(),
        #[cfg(feature = "tools")]
        Command::Unseal(unseal) => unseal.run(),
    }
}

/// Writes to standard output. A reader that has had enough is no failure.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_ref())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to standard output"),
    }
}

/// Says on standard error what is no failure. Where nobody can read it, nothing is lost.
#[cfg(feature = "tools")]
fn warn(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "offline-fs-kbc: warning: {text}");
}

/// The component that the program is started as: under that one's name, or with its flags. Those had
/// no commands, so a command is ours under any name.
fn historic_component(args: &[OsString]) -> Option<Component> {
    let by_name = args
        .first()
        .and_then(|arg| historic::component(Path::new(arg)));
    match args.get(1).map(|arg| arg.to_string_lossy()) {
        None => by_name,
        Some(first) if ["--help", "-h", "--version", "-V"].contains(&&*first) => None,
        Some(first) if !first.starts_with('-') => None,
        Some(first) if historic::is_flag(&first) => Some(by_name.unwrap_or_default()),
        Some(_) => by_name,
    }
}
