// SPDX-License-Identifier: Apache-2.0

//! The output of `--help` of every command.

use crate::support::daemon::run;

/// The usual width of a terminal.
const WIDTH: usize = 80;

/// The commands that the program's own help lists.
fn commands() -> Vec<String> {
    let (stdout, _, _) = run(&["--help"]);
    let lines = stdout.lines().skip_while(|line| *line != "Commands:");
    let rows = lines.skip(1).take_while(|line| !line.is_empty());
    // Continuation lines are indented further.
    let rows = rows.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = rows.filter_map(|line| line.split_whitespace().next());
    names.map(str::to_owned).collect()
}

#[test]
fn help_fits_a_terminal_and_shows_an_example() {
    let mut commands = commands();
    assert!(commands.len() > 3, "{commands:?}");
    commands.retain(|command| command != "help");
    let of_commands = commands.iter().flat_map(|command| {
        let command = command.as_str();
        [
            vec![command, "--help"],
            vec![command, "-h"],
            vec!["help", command],
        ]
    });
    for args in of_commands.chain([vec!["--help"], vec!["help"]]) {
        let (stdout, stderr, code) = run(&args);
        assert_eq!((stderr.as_str(), code), ("", Some(0)), "{args:?}");
        for line in stdout.lines() {
            let width = line.chars().count();
            assert!(width <= WIDTH, "{args:?}: {width} columns: {line}");
        }
        if args.contains(&"-h") {
            continue;
        }
        let example = stdout.split_once("\nExample").map(|(_, example)| example);
        assert!(
            example.is_some_and(|example| example.contains("offline-fs-kbc")),
            "{args:?} shows no example: {stdout}"
        );
    }
}
