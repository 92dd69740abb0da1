//! The `monitor` commands: one table, from which `help` and the gdb script are made too.

mod inspection;
mod linux;
mod registers;
mod time;

use crate::bridge::Bridge;
use crate::target::Refusal;
use dejavm_units::Position;
use std::fmt::Write;

/// What a command did, or why not.
type Answer = Result<String, Refusal>;

/// A command.
struct Command {
    name: &'static str,
    /// Another name for it.
    alias: Option<&'static str>,
    /// Its arguments, as help shows them.
    arguments: &'static str,
    /// One line.
    summary: &'static str,
    /// What else `monitor help NAME` says; may be empty.
    more: &'static str,
    /// How many arguments there may be.
    least: usize,
    most: usize,
    /// It may move or change the machine, so that what gdb remembers of it is wrong then.
    moves: bool,
    run: fn(&mut Bridge<'_>, &[&str]) -> Answer,
}

const NOTHING: Command = Command {
    name: "",
    alias: None,
    arguments: "",
    summary: "",
    more: "",
    least: 0,
    most: 0,
    moves: false,
    run: |_, _| Ok(String::new()),
};

/// All of them, in the order in which help lists them.
const COMMANDS: &[Command] = &[
    Command {
        name: "help",
        arguments: "[COMMAND]",
        summary: "lists the commands, or explains one",
        most: 1,
        run: help,
        ..NOTHING
    },
    Command {
        name: "position",
        summary: "where the machine stands: instructions completed since it started",
        more: "The number that `monitor stopat` and `monitor goto` take.",
        run: time::position,
        ..NOTHING
    },
    Command {
        name: "when",
        summary: "position, guest time, CPU and what it executes",
        run: time::when,
        ..NOTHING
    },
    Command {
        name: "stopat",
        arguments: "[N|+N|-N|MARK|off]",
        summary: "the next continue or reverse-continue stops at this position too",
        more: "+N and -N count from where the machine stands. Without an argument it says what is set.\n\
               Once reached it is gone.",
        most: 1,
        run: time::stopat,
        ..NOTHING
    },
    Command {
        name: "goto",
        alias: Some("seek"),
        arguments: "N|+N|-N|MARK|start|end",
        summary: "goes to a position of the recording, either way",
        more: "gdb does not notice: type `maintenance flush register-cache` behind it, or use the command\n\
               `goto` of the script that `dejavm gdbinit` prints, which does.",
        least: 1,
        most: 1,
        moves: true,
        run: time::goto,
    },
    Command {
        name: "mark",
        arguments: "NAME",
        summary: "names this position",
        least: 1,
        most: 1,
        run: time::mark,
        ..NOTHING
    },
    Command { name: "marks", summary: "lists the named positions", run: time::marks, ..NOTHING },
    Command {
        name: "checkpoint",
        summary: "makes coming back to this position fast",
        run: |bridge, _| bridge.target.checkpoint(),
        ..NOTHING
    },
    Command {
        name: "snapshot",
        arguments: "[NAME.vmss]",
        summary: "writes the machine as it stands as a VMware checkpoint, beside the recording",
        more: "NAME.vmem beside it holds the memory; other programs open both, and `dejavm record --from` goes on from them.\n\
               Ending in .zst: compressed. Without a name: the recording's, and the position. The machine does not notice.",
        most: 1,
        run: |bridge, arguments| bridge.target.snapshot(arguments.first().copied()),
        ..NOTHING
    },
    Command {
        name: "branch",
        summary: "makes a live machine of the replay, from this position on",
        more: "Registers and memory can be written then; there is no way back in time until the session\n\
               returns to the recording with `monitor goto`. The recording never changes.",
        run: |bridge, _| bridge.target.branch(),
        ..NOTHING
    },
    Command {
        name: "pace",
        alias: Some("halt_delay"),
        arguments: "[N]",
        summary: "how slowly a replay runs: 0 is full speed, 1000 the guest's own",
        most: 1,
        run: time::pace,
        ..NOTHING
    },
    Command {
        name: "last-write",
        arguments: "ADDRESS [BYTES]",
        summary: "which instruction wrote to memory last, before now; the machine stays here",
        more: "BYTES is 8 unless given. The address is virtual, seen through the present page tables.",
        least: 1,
        most: 2,
        run: inspection::last_write,
        ..NOTHING
    },
    Command {
        name: "events",
        arguments: "[POSITION] [COUNT]",
        summary: "what entered the machine from outside, from here or from a position on",
        most: 2,
        run: time::events,
        ..NOTHING
    },
    Command {
        name: "info",
        summary: "about the machine and its recording",
        run: time::info,
        ..NOTHING
    },
    Command {
        name: "r",
        arguments: "REGISTER",
        summary: "a register as the CPU has it: with base, limit and rights, if it is a segment's",
        more: "cr0 cr2 cr3 cr4 cr8 efer  cs ss ds es fs gs  gdtr idtr ldtr tr  dr0-dr3 dr6 dr7\n\
               rax-r15 rip rflags  star lstar cstar sfmask sysenter_cs sysenter_esp sysenter_eip pat k_gs_base",
        least: 1,
        most: 1,
        run: registers::register,
        ..NOTHING
    },
    Command {
        name: "phys",
        summary: "memory addresses are physical from now on",
        moves: true,
        run: |bridge, _| inspection::address_space(bridge, true),
        ..NOTHING
    },
    Command {
        name: "virt",
        summary: "memory addresses are virtual from now on, as they are at first",
        moves: true,
        run: |bridge, _| inspection::address_space(bridge, false),
        ..NOTHING
    },
    Command {
        name: "translate",
        arguments: "ADDRESS",
        summary: "the physical address behind a virtual one",
        least: 1,
        most: 1,
        run: inspection::translate,
        ..NOTHING
    },
    Command {
        name: "interrupts",
        arguments: "[skip|show]",
        summary: "whether stepping runs through interrupts (it does at first), or shows them",
        most: 1,
        run: inspection::interrupts,
        ..NOTHING
    },
    Command {
        name: "layout",
        arguments: "[32|64|follow|mode]",
        summary: "which registers gdb is told of when it asks next (`unset tdesc filename`)",
        more: "`follow`: those of the CPU's mode at that time; `mode` says what that is now. The script that `dejavm gdbinit` prints does all this.",
        most: 1,
        run: registers::layout,
        ..NOTHING
    },
    Command {
        name: "linux",
        arguments: "[user|kernel|tasks|off]",
        summary: "threads are the tasks of the guest's Linux from now on; it is found by itself",
        more: "`info threads` lists every task; `thread N` selects one: its registers, its memory. Of a process that\n\
               does not run the registers are those of user mode, or with `kernel` where it was switched out.\n\
               A breakpoint on a user address belongs to the process whose thread is selected when it is first\n\
               set. `tasks` prints the list and switches nothing, `off` makes threads CPUs again.",
        most: 1,
        moves: true,
        run: linux::linux,
        ..NOTHING
    },
    Command {
        name: "linuxoffsets",
        arguments: "[[-l] VERSION,MM,NEXT_TASK,TASKS,COMM,PID,THREAD,PGD,SP0,FS,THREADSIZE,GROUP_LEADER,THREAD_GROUP,COMMSIZE]",
        summary: "as `linux`, with the kernel's offsets given; without them, prints those that were found",
        most: 32,
        moves: true,
        run: linux::linuxoffsets,
        ..NOTHING
    },
    Command {
        name: "symbol",
        arguments: "ADDRESS|NAME",
        summary: "what is where in the guest's Linux, by its own symbol table",
        least: 1,
        most: 1,
        run: linux::symbol,
        ..NOTHING
    },
];

/// Does what the user typed behind `monitor`; the text to show.
pub(crate) fn execute(bridge: &mut Bridge<'_>, line: &str) -> String {
    let mut words = line.split_whitespace();
    let name = words.next().unwrap_or("help");
    let arguments: Vec<&str> = words.collect();
    let Some(command) = find(name) else {
        return format!("there is no command `{}`; `monitor help` lists them\n", shown(name));
    };
    if !(command.least..=command.most).contains(&arguments.len()) {
        return format!("usage: monitor {} {}\n", command.name, command.arguments);
    }
    match (command.run)(bridge, &arguments) {
        Ok(mut text) => {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text
        }
        Err(refusal) => format!("{refusal}\n"),
    }
}

/// A word of the user's, without what a terminal might take for an order.
fn shown(word: &str) -> String {
    word.chars().map(|letter| if letter.is_control() { '?' } else { letter }).take(40).collect()
}

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name || command.alias == Some(name))
}

fn help(_: &mut Bridge<'_>, arguments: &[&str]) -> Answer {
    let mut text = String::new();
    let Some(name) = arguments.first() else {
        for Command { name, arguments, summary, .. } in COMMANDS {
            let _ = writeln!(text, "{:<28} {summary}", format!("{name} {arguments}"));
        }
        text += "`monitor help COMMAND` says more\n";
        return Ok(text);
    };
    let Some(command) = find(name) else {
        let sentence = format!("there is no command `{}`; `monitor help` lists them", shown(name));
        return Err(Refusal::Unsupported(sentence));
    };
    let Command { name, alias, arguments, summary, more, .. } = command;
    let _ = writeln!(text, "monitor {name} {arguments}\n{summary}");
    if let Some(alias) = alias {
        let _ = writeln!(text, "also: monitor {alias}");
    }
    if !more.is_empty() {
        let _ = writeln!(text, "{more}");
    }
    if *name == "linuxoffsets" {
        text += &linux::fields();
    }
    Ok(text)
}

/// Names and summaries, for the gdb script and the documentation. The flag: it moves the machine behind
/// gdb's back.
pub fn commands() -> impl Iterator<Item = (&'static str, &'static str, &'static str, bool)> {
    COMMANDS.iter().map(|command| (command.name, command.arguments, command.summary, command.moves))
}

/// A number, decimal or with `0x`.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => crate::packet::number(digits.as_bytes()),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        None => None,
    }
}

/// An address: a number, or hexadecimal digits alone where those are no decimal number.
fn address(text: &str) -> Result<u64, Refusal> {
    let value = number(text).or_else(|| crate::packet::number(text.as_bytes()));
    value.ok_or_else(|| {
        Refusal::Unsupported(format!("`{}` is no address: write it as 0x1234", shown(text)))
    })
}

/// A position: a number, one relative to here, a mark, or an end of the recording.
fn position(bridge: &Bridge<'_>, text: &str) -> Result<Position, Refusal> {
    let now = bridge.target.inspect().position();
    let found = match (text.strip_prefix('+'), text.strip_prefix('-'), text) {
        (Some(more), _, _) => number(more).and_then(|more| now.0.checked_add(more)).map(Position),
        (_, Some(less), _) => number(less).map(|less| Position(now.0.saturating_sub(less))),
        (_, _, "start") => Some(bridge.target.extent().0),
        (_, _, "end") => Some(bridge.target.extent().1),
        _ => number(text).map(Position).or_else(|| {
            bridge.target.marks().iter().find(|mark| mark.name == text).map(|mark| mark.at)
        }),
    };
    found.ok_or_else(|| {
        Refusal::Unsupported(format!("`{}` is neither a position nor a mark", shown(text)))
    })
}

#[cfg(test)]
mod tests;
