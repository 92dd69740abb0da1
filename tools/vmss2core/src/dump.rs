//! `vmss2core dump`: what is in a checkpoint.

use serde_json::{Value as Json, json};
use std::io::{self, Write};
use std::path::Path;
use vmss::{Checkpoint, Tag, Value};

/// Lists groups and tags. What is damaged ends the list of its group, with a sentence.
pub fn dump(
    path: &Path,
    as_json: bool,
    out: &mut impl Write,
) -> Result<io::Result<()>, vmss::Error> {
    let checkpoint = Checkpoint::of(vmss::open_file(path)?)?;
    Ok(if as_json { list_json(&checkpoint, out) } else { list(&checkpoint, out) })
}

fn list(checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
    let table = checkpoint.table();
    writeln!(out, "magic {:#010x}, version {}", table.magic.value(), table.version)?;
    for group in &table.groups {
        writeln!(out, "{} at {:#x}, {} bytes", group.name, group.position, group.size)?;
        match checkpoint.tags(group) {
            Ok(tags) => {
                for tag in tags {
                    match tag {
                        Ok(tag) => {
                            writeln!(out, "  {}{} = {}", tag.name, indices(&tag), shown(&tag))?
                        }
                        Err(error) => writeln!(out, "  {error}")?,
                    }
                }
            }
            Err(error) => writeln!(out, "  {error}")?,
        }
    }
    Ok(())
}

fn list_json(checkpoint: &Checkpoint, out: &mut impl Write) -> io::Result<()> {
    let table = checkpoint.table();
    let groups = table.groups.iter().map(|group| {
        let tags: Vec<Json> = match checkpoint.tags(group) {
            Ok(tags) => tags.map(|tag| tag.map_or_else(|error| json!({ "error": error.to_string() }), |tag| {
                json!({ "name": tag.name, "indices": tag.indices, "position": tag.position, "value": value(&tag) })
            })).collect(),
            Err(error) => vec![json!({ "error": error.to_string() })],
        };
        json!({ "name": group.name, "position": group.position, "size": group.size, "tags": tags })
    });
    let groups: Vec<Json> = groups.collect();
    writeln!(
        out,
        "{:#}",
        json!({ "magic": table.magic.value(), "version": table.version, "groups": groups })
    )
}

fn indices(tag: &Tag) -> String {
    tag.indices.iter().map(|index| format!("[{index}]")).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(tag: &Tag) -> String {
    match (&tag.value, tag.integer()) {
        (_, Some(value)) => format!("{value:#x}"),
        (Value::Inline(bytes), None) => hex(bytes),
        (Value::Block(block), None) => {
            let how = if block.is_compressed { ", compressed" } else { "" };
            format!(
                "{} bytes at {:#x}, {} in memory{how}",
                block.bytes, block.position, block.bytes_in_memory
            )
        }
    }
}

fn value(tag: &Tag) -> Json {
    match (&tag.value, tag.integer()) {
        // Not every reader of JSON has 64 bits for a number.
        (Value::Inline(bytes), Some(value)) if bytes.len() == 8 => json!(format!("{value:#x}")),
        (_, Some(value)) => json!(value),
        (Value::Inline(bytes), None) => json!(hex(bytes)),
        (Value::Block(block), None) => json!({
            "position": block.position,
            "bytes": block.bytes,
            "bytes_in_memory": block.bytes_in_memory,
            "compressed": block.is_compressed,
        }),
    }
}
