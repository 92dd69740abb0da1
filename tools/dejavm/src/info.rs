//! `dejavm info` and `dejavm ls`.

use crate::arguments::{Info, Ls};
use crate::disks::packed_images;
use crate::exit::{Exit, Failure};
use crate::progress::{seconds, size};
use crate::record::{debug_exit, ending_name, ending_text, name};
use crate::recording::counted;
use crate::{Outcome, console, open, processors};
use dejavm_machine::TimeBase;
use dejavm_replay::{CutShort, Kind, Summary};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

/// Says what is in a recording.
pub fn info(arguments: &Info) -> Result<Outcome, Failure> {
    let (file, name) = open::file(arguments.file.as_deref())?;
    let packed_blocks = packed_blocks(&file);
    let summary = Summary::read(file).map_err(|error| Failure::from(error).about(&name))?;
    if !arguments.json {
        console::print(&describe(&name, &summary, packed_blocks))?;
    }
    let mut value = summary_json(&name, &summary);
    value["packed_blocks"] = json!(packed_blocks);
    Ok(Outcome::ok(value))
}

/// Blocks of disk images that it holds; of a file that cannot be read to its end, none.
fn packed_blocks(file: &File) -> usize {
    let packed = packed_images(file).ok().flatten();
    packed.map_or(0, |packed| packed.drives().values().map(BTreeSet::len).sum())
}

/// `complete`, `cut short` or `damaged`.
fn status(summary: &Summary) -> &'static str {
    match &summary.cut_short {
        None => "complete",
        Some(CutShort::Ends { .. }) => "cut short",
        Some(CutShort::Damaged(_)) => "damaged",
    }
}

fn describe(name: &str, summary: &Summary, packed_blocks: usize) -> String {
    let header = &summary.header;
    let config = &header.config;
    let mut lines = vec![format!("{name}: {}", status(summary))];
    let mut line = |label: &str, text: String| lines.push(format!("  {label:<14}{text}"));
    match (&summary.ending, &summary.cut_short) {
        (Some(ending), _) => line("ending", ending_text(*ending)),
        (None, Some(cut_short)) => line("ending", format!("none: {cut_short}")),
        (None, None) => {}
    }
    line(counted(header), summary.last.position.to_string());
    line("guest time", seconds(summary.last));
    line("machine", format!("{}, {} MiB of RAM", config.cpu, config.ram.total_bytes() >> 20));
    if let Some(processors) = processors::described(&config.hardware) {
        line("processors", processors);
    }
    for (role, text) in &header.guest {
        line(role, text.clone());
    }
    for external in &summary.externals {
        line("needs", format!("{} ({}, {} bytes)", external.path, external.role, external.bytes));
    }
    if packed_blocks > 0 {
        line("packed", format!("{packed_blocks} blocks of disk images: it replays without these"));
    }
    if let Some(parent) = &summary.parent {
        line("branched from", format!("{} at {}", parent.name, parent.at));
    }
    line("inputs", summary.inputs.to_string());
    line("file", size(summary.file_bytes));
    line("log", size(summary.log_bytes));
    line("checkpoints", checkpoints(summary));
    for (kind, total) in &summary.kinds {
        let chunks = total.chunks;
        line("", format!("{:<11}{chunks:>6} chunks, {}", kind_name(*kind), size(total.bytes)));
    }
    line("creator", header.creator.clone());
    lines.push(String::new());
    lines.join("\n")
}

/// How many checkpoints there are, and what they take of what they may.
fn checkpoints(summary: &Summary) -> String {
    let (count, bytes) = checkpoint_totals(summary);
    let memory = summary.header.config.ram.total_bytes();
    let percent = bytes.saturating_mul(100).div_ceil(memory.max(1));
    format!(
        "{count}, {}, {percent} % of the guest's memory (at most 30 %, unless told otherwise)",
        size(bytes)
    )
}

/// Checkpoints, and their bytes in the file: with the contents of pages that they refer to.
fn checkpoint_totals(summary: &Summary) -> (u64, u64) {
    let of = |kind| summary.kinds.get(&kind).copied().unwrap_or_default();
    let (checkpoints, contents) = (of(Kind::Checkpoint), of(Kind::Contents));
    (checkpoints.chunks, checkpoints.bytes.saturating_add(contents.bytes))
}

fn kind_name(kind: Kind) -> String {
    format!("{kind:?}").to_lowercase()
}

fn summary_json(name: &str, summary: &Summary) -> Value {
    let header = &summary.header;
    let config = &header.config;
    let guest: Map<String, Value> =
        header.guest.iter().map(|(role, text)| (role.clone(), json!(text))).collect();
    let kinds: Map<String, Value> = summary
        .kinds
        .iter()
        .map(|(kind, total)| {
            (kind_name(*kind), json!({ "chunks": total.chunks, "bytes": total.bytes }))
        })
        .collect();
    let externals: Vec<Value> = summary
        .externals
        .iter()
        .map(|external| {
            let hash = blake3::Hash::from_bytes(external.blake3).to_hex();
            json!({
                "role": external.role,
                "path": external.path,
                "bytes": external.bytes,
                "blake3": hash.as_str(),
            })
        })
        .collect();
    json!({
        "file": name,
        "status": status(summary),
        "ending": summary.ending.map(ending_name),
        "debug_exit": summary.ending.and_then(debug_exit),
        "cut_short": summary.cut_short.as_ref().map(CutShort::to_string),
        "position": summary.last.position.0,
        "instructions": summary.last.position.0,
        "guest_ns": summary.last.guest_ns.0,
        "console_bytes": summary.console_bytes,
        "inputs": summary.inputs,
        "file_bytes": summary.file_bytes,
        "log_bytes": summary.log_bytes,
        "checkpoints": checkpoint_totals(summary).0,
        "checkpoint_bytes": checkpoint_totals(summary).1,
        "chunks": kinds,
        "externals": externals,
        "parent": summary.parent.as_ref().map(|parent| json!({
            "name": parent.name,
            "identity": blake3::Hash::from_bytes(parent.identity).to_hex().as_str(),
            "position": parent.at.position.0,
            "guest_ns": parent.at.guest_ns.0,
        })),
        "guest": guest,
        "machine": {
            "cpu": config.cpu.to_string(),
            "ram_bytes": config.ram.total_bytes(),
            "instructions_per_us": match config.time_base {
                TimeBase::Instructions { per_us } => Some(per_us),
                TimeBase::Exits => None,
            },
            "rtc_epoch_s": config.rtc_epoch_s,
            "processors": config.hardware.processors,
            "slice": config.hardware.slice,
            "schedule_seed": config.hardware.schedule_seed,
        },
        "digest_interval": header.digest_interval,
        "semantics": header.semantics,
        "creator": header.creator,
    })
}

/// Lists the recordings in a folder.
pub fn ls(arguments: &Ls) -> Result<Outcome, Failure> {
    let folder = &arguments.folder;
    let paths = open::recordings(folder).map_err(|error| {
        let exit = match error.kind() {
            std::io::ErrorKind::NotFound => Exit::NotFound,
            _ => Exit::Failed,
        };
        Failure::new(exit, format!("{}: the folder cannot be read: {error}", folder.display()))
    })?;
    let mut values = Vec::new();
    let mut text = String::new();
    for path in paths {
        let shown = name(path.strip_prefix(".").unwrap_or(&path));
        let (value, line) = entry(&path, &shown);
        values.push(value);
        text.push_str(&line);
    }
    if !arguments.json {
        console::print(&text)?;
    }
    Ok(Outcome::ok(json!({ "recordings": values })))
}

fn entry(path: &Path, shown: &str) -> (Value, String) {
    let read =
        open::file(Some(path)).and_then(|(file, _)| Summary::read(file).map_err(Failure::from));
    match read {
        Ok(summary) => {
            let line = format!(
                "{shown}  {}, {} {}, guest time {}, {}\n",
                status(&summary),
                summary.last.position,
                counted(&summary.header),
                seconds(summary.last),
                size(summary.file_bytes),
            );
            (summary_json(shown, &summary), line)
        }
        Err(failure) => {
            let value = json!({ "file": shown, "status": "unreadable", "error": failure.sentence });
            (value, format!("{shown}  unreadable: {failure}\n"))
        }
    }
}
