// SPDX-License-Identifier: Apache-2.0

//! `make compare`: this project and a stock confidential-data-hub, point by point. Each point is played by the same requests on
//! `cdh.sock` and the same registry, and the table says what was seen.
//!
//! `compare DAEMON GUEST_PULL [--cdh PATH [--stock TEXT]] [--only ID] [--json FILE] [--page FILE]`, or `compare --render JSON`

mod agent;
mod front;
mod points;
mod record;
mod registry;
mod subject;
mod tree;

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::unistd::geteuid;
use offline_fs_kbc_bench::process::Machine;
use serde_json::{Map, Value};

use crate::points::{Point, World};
use crate::record::{Record, Row};
use crate::registry::Registry;
use crate::subject::Subject;

const USAGE: &str = "compare DAEMON GUEST_PULL [--cdh PATH [--stock TEXT]] [--only ID] [--json FILE] [--page FILE], or compare --render JSON";

/// How the program calls itself for one column: its mounts are that process's alone.
const COLUMN: &str = "--column";

/// Which of the column's points it plays then.
const PART: &str = "--part";

/// Points are played in so many processes at once: much of the time, they wait for something.
const PARTS: usize = 3;

/// What the command line says.
#[derive(Debug, Default)]
struct Options {
    paths: Vec<PathBuf>,
    cdh: Option<PathBuf>,
    stock: Option<String>,
    only: Option<String>,
    json: Option<PathBuf>,
    page: Option<PathBuf>,
    render: Option<PathBuf>,
    column: Option<String>,
    part: usize,
}

impl Options {
    fn read() -> Option<Self> {
        let mut options = Self::default();
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--cdh" => options.cdh = Some(arguments.next()?.into()),
                "--stock" => options.stock = Some(arguments.next()?),
                "--only" => options.only = Some(arguments.next()?),
                "--json" => options.json = Some(arguments.next()?.into()),
                "--page" => options.page = Some(arguments.next()?.into()),
                "--render" => options.render = Some(arguments.next()?.into()),
                PART => options.part = arguments.next()?.parse().ok()?,
                COLUMN => options.column = Some(arguments.next()?),
                other if other.starts_with('-') => return None,
                path => options.paths.push(path.into()),
            }
        }
        let is_whole = options.render.is_some() != (options.paths.len() == 2);
        is_whole.then_some(options)
    }

    /// The points that are wanted.
    fn points(&self) -> Vec<Point> {
        let mut points = points::all();
        points.retain(|point| self.only.as_deref().is_none_or(|only| only == point.id));
        points
    }

    /// What the stock program is called in the tables.
    fn stock_name(&self) -> String {
        let name = self.stock.as_deref().filter(|name| !name.is_empty());
        name.unwrap_or("a stock confidential-data-hub").to_owned()
    }

    fn subject(&self, column: &str) -> Result<Subject, Box<dyn Error>> {
        let [daemon, guest_pull] = self.paths.as_slice() else {
            return Err(USAGE.into());
        };
        match (column, &self.cdh) {
            ("stock", Some(hub)) => Ok(Subject::Stock(hub.clone())),
            ("stock", None) => Err("--cdh names the stock program".into()),
            _ => Ok(Subject::Ours {
                daemon: daemon.clone(),
                guest_pull: guest_pull.clone(),
            }),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::read().ok_or(USAGE)?;
    if let Some(path) = &options.render {
        let value = serde_json::from_str(&fs::read_to_string(path)?)?;
        let record = Record::of_json(&value).ok_or("this is no record of a comparison")?;
        print!("{}", record.to_markdown());
        return Ok(());
    }
    if !geteuid().is_root() {
        return Err("compare mounts images and must run as root".into());
    }
    if let Some(column) = &options.column {
        return play(&options, column);
    }
    if options.page.is_some() && (options.cdh.is_none() || options.only.is_some()) {
        return Err(
            "the page has all points of both: name the stock program by --cdh, and play all points"
                .into(),
        );
    }
    if options.points().is_empty() {
        let all: Vec<_> = points::all().iter().map(|point| point.id).collect();
        return Err(format!("--only is one of {}", all.join(", ")).into());
    }
    let ours = column("ours")?;
    let stock = options.cdh.as_ref().map(|_| column("stock")).transpose()?;
    let answer = |column: &Map<String, Value>, id: &str| {
        let answer = column.get(id).and_then(Value::as_str);
        answer
            .map(str::to_owned)
            .ok_or_else(|| format!("{id} was not played"))
    };
    let rows = options.points().into_iter().map(|point| {
        Ok(Row {
            section: point.section.to_owned(),
            title: point.title.to_owned(),
            is_figure: point.is_figure,
            ours: answer(&ours, point.id)?,
            stock: stock
                .as_ref()
                .map(|column| answer(column, point.id))
                .transpose()?,
            id: point.id.to_owned(),
        })
    });
    let version = first_line(Command::new(&options.paths[0]).arg("--version"))?;
    let record = Record {
        rows: rows.collect::<Result<_, String>>()?,
        date: first_line(Command::new("date").args(["-u", "+%F"]))?,
        kernel: Machine::here().kernel,
        ours: version,
        stock: stock.map(|_| options.stock_name()),
    };
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", record.to_json()))?;
    }
    if let Some(page) = &options.page {
        record.write_into(page)?;
    }
    println!("{}", record.to_markdown());
    Ok(())
}

fn first_line(command: &mut Command) -> Result<String, Box<dyn Error>> {
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// Plays one column in processes of its own, with the same arguments; gives its answers by the points' ids.
fn column(name: &str) -> Result<Map<String, Value>, Box<dyn Error>> {
    let mut children = Vec::new();
    for part in 0..PARTS {
        let mut command = Command::new("/proc/self/exe");
        command
            .args(env::args().skip(1))
            .args([COLUMN, name, PART, &part.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        children.push(command.spawn()?);
    }
    let outputs: Vec<_> = children.into_iter().map(Child::wait_with_output).collect();
    let mut answers = Map::new();
    for output in outputs {
        let output = output?;
        if !output.status.success() {
            let status = output.status;
            return Err(format!("the column {name} is not played to its end: {status}").into());
        }
        let value: Value = serde_json::from_slice(&output.stdout)?;
        answers.extend(value.as_object().cloned().unwrap_or_default());
    }
    Ok(answers)
}

fn play(options: &Options, column: &str) -> Result<(), Box<dyn Error>> {
    let subject = options.subject(column)?;
    subject.enter()?;
    let world = World {
        subject,
        registry: Registry::start(),
        tool: options.paths[0].clone(),
    };
    let mut answers = Map::new();
    let points = options.points().into_iter().skip(options.part);
    for point in points.step_by(PARTS) {
        let begin = Instant::now();
        let answer = (point.play)(&world);
        let seconds = begin.elapsed().as_secs_f64();
        eprintln!("{column}: {} ({seconds:.1} s): {answer}", point.id);
        answers.insert(point.id.to_owned(), answer.into());
    }
    println!("{}", Value::Object(answers));
    Ok(())
}
