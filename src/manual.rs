// SPDX-License-Identifier: Apache-2.0

//! Generates the man pages and the shell completions from the definitions of the command line (`make
//! manual`). It is built only with the feature `manual` and is not part of any image.

// The binary's modules are compiled in, but only the command line's definitions are used.
#![allow(dead_code)]

mod cli;
mod config;
mod logging;
mod process;
mod sys;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use offline_fs_kbc::resource::file::MAX_FILE_BYTES;
use offline_fs_kbc::resource::parse::MAX_ENTRIES;
use offline_fs_kbc::server::limits::MAX_MESSAGE_BYTES;

/// The SEE ALSO section of each page.
const SEE_ALSO: &[(&str, &str)] = &[
    ("aa-offline_fs_kbc-resources.json", "5"),
    ("aa-offline_fs_kbc-keys.json", "5"),
];

/// The EXIT STATUS section.
const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "Done."),
    ("1", "Failed, or problems found."),
    ("2", "The command line is invalid."),
];

fn main() -> io::Result<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(sources), Some(directory)) = (args.next(), args.next()) else {
        return Err(io::Error::other("usage: manual SOURCES DIRECTORY"));
    };
    // The directory may hold pages of commands that no longer exist.
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    let mut program = cli::definition().disable_help_subcommand(true);
    program.build();
    let pages = directory.join("man1");
    fs::create_dir_all(&pages)?;
    page(&program, &pages)?;
    for command in program.get_subcommands() {
        page(command, &pages)?;
    }
    formats(&sources, &directory.join("man5"))?;

    let completions = directory.join("completions");
    fs::create_dir_all(&completions)?;
    let name = program.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let path = clap_complete::generate_to(shell, &mut program, &name, &completions)?;
        if shell == Shell::Bash {
            fix_bash_labels(&path, &name)?;
        }
    }
    Ok(())
}

/// Works around a bug of clap_complete 4.6: if the program's name has a hyphen, the bash script sets a
/// subcommand under one name and looks it up under another, so bash would complete no flags of any command.
fn fix_bash_labels(path: &Path, name: &str) -> io::Result<()> {
    let text = fs::read_to_string(path)?;
    let looked_for = name.replace('-', "__subcmd__");
    fs::write(path, text.replace(&looked_for, &name.replace('-', "__")))
}

/// Writes the page of the program, or of one of its commands.
fn page(command: &Command, directory: &Path) -> io::Result<()> {
    let name = command
        .get_display_name()
        .unwrap_or(command.get_name())
        .to_owned();
    let example = example(command);
    let man = Man::new(command.clone().after_help(None));
    // No date: with one, the page would differ from build to build.
    let title = name.to_uppercase().replace('-', r"\-");
    let version = env!("CARGO_PKG_VERSION");
    let mut text =
        format!(".TH {title} 1 \"\" \"offline\\-fs\\-kbc {version}\" \"User Commands\"\n")
            .into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().next().is_some() {
        man.render_options_section(&mut text)?;
    }
    let commands: Vec<_> = command.get_subcommands().collect();
    let mut rest = Roff::default();
    if !commands.is_empty() {
        rest.control("SH", ["COMMANDS"]);
        for command in &commands {
            let name = command.get_display_name().unwrap_or(command.get_name());
            let about = command
                .get_about()
                .map(ToString::to_string)
                .unwrap_or_default();
            described(&mut rest, &[bold(name), roman("(1)")], &about);
        }
    }
    rest.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in EXIT_STATUS {
        described(&mut rest, &[bold(*status)], meaning);
    }
    rest.control("SH", ["EXAMPLES"]);
    rest.control("EX", []);
    // The first line is "Example:", or "Example, <of what>:".
    let (title, lines) = example.split_once('\n').unwrap_or(("", &example));
    if let Some(of_what) = title.strip_prefix("Example, ") {
        rest.text([roman(of_what)]);
    }
    for line in lines.lines() {
        rest.text([roman(line.strip_prefix("  ").unwrap_or(line))]);
    }
    rest.control("EE", []);
    rest.control("SH", ["SEE ALSO"]);
    let mut also: Vec<Inline> = Vec::new();
    if commands.is_empty() {
        also.extend([bold("offline-fs-kbc"), roman("(1), ")]);
    }
    for (index, (name, section)) in SEE_ALSO.iter().enumerate() {
        let comma = if index == 0 { ", " } else { "" };
        also.extend([bold(*name), roman(format!("({section}){comma}"))]);
    }
    rest.text(also);
    rest.to_writer(&mut text)?;
    fs::write(directory.join(format!("{name}.1")), text)
}

/// The command's example, which is either its `after_help` or a paragraph of its long description.
fn example(command: &Command) -> String {
    let after = command.get_after_help().map(ToString::to_string);
    let about = command
        .get_long_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let paragraph = about
        .split("\n\n")
        .find_map(|text| text.strip_prefix("Example: "));
    after
        .or_else(|| Some(format!("Example:\n{}", paragraph?)))
        .unwrap_or_default()
}

fn described(roff: &mut Roff, term: &[Inline], text: &str) {
    roff.control("TP", []);
    roff.text(term.to_vec());
    roff.text([roman(text)]);
}

/// Writes the pages of the file formats, which are written by hand, with the program's limits filled in.
fn formats(sources: &Path, directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let bounds = [
        ("@VERSION@", env!("CARGO_PKG_VERSION").to_owned()),
        ("@MAX_ENTRIES@", MAX_ENTRIES.to_string()),
        ("@MAX_FILE_MIB@", (MAX_FILE_BYTES >> 20).to_string()),
        ("@MAX_MESSAGE_MIB@", (MAX_MESSAGE_BYTES >> 20).to_string()),
    ];
    for entry in fs::read_dir(sources)? {
        let source = entry?.path();
        let mut text = fs::read_to_string(&source)?;
        for (name, value) in &bounds {
            text = text.replace(name, value);
        }
        fs::write(directory.join(source.file_name().unwrap_or_default()), text)?;
    }
    Ok(())
}
