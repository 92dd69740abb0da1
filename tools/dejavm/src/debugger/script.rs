//! `dejavm gdbinit`: a gdb script with our commands as gdb's own.

use dejavm_stub::monitor_commands;
use std::fmt::Write;

/// Names that gdb has a command or an abbreviation of its own for.
const GDBS: [&str; 6] = ["help", "info", "r", "when", "mark", "layout"];

const HEAD: &str = r#"# gdb commands of dejavm: `source` this, or `gdb -x` it. Made by `dejavm gdbinit`.
# Each is the monitor command of the same name; those that move the machine make gdb look again, and
# their arguments may be gdb expressions: `goto $bug`, `last-write &list->next`.
python
import gdb

# A guest that changes between 16, 32 and 64 bits: gdb asks for the registers again when the mode that
# it was told of is not the CPU's any more.
class DejavmMode(gdb.Command):
    """Follows the CPU's mode, 32 or 64 bits, from stop to stop (dejavm follow-mode).
Usage: dejavm-follow-mode"""
    def __init__(self):
        super().__init__("dejavm-follow-mode", gdb.COMMAND_RUNNING)
        self.on = False

    def invoke(self, arguments, from_tty):
        gdb.execute("monitor layout follow")
        if not self.on:
            self.on = True
            gdb.events.stop.connect(lambda event: self.check())
        self.check()

    def check(self):
        told = 64 if "x86-64" in gdb.selected_inferior().architecture().name() else 32
        mode = gdb.execute("monitor layout mode", to_string=True)
        if mode.strip().isdigit() and int(mode) != told:
            gdb.execute("unset tdesc filename", to_string=True)
            gdb.execute("maintenance flush register-cache", to_string=True)

dejavm_mode = DejavmMode()

class DejavmSymbols(gdb.Command):
    """Reads the symbols that the guest's Linux kernel has of itself, where it is now.
Usage: kernel-symbols"""
    def __init__(self):
        super().__init__("kernel-symbols", gdb.COMMAND_FILES)

    def invoke(self, arguments, from_tty):
        gdb.execute("symbol-file target:/kernel", from_tty)

DejavmSymbols()

class DejavmCommand(gdb.Command):
    def __init__(self, name, monitor, usage, summary, moves):
        self.__doc__ = summary + "\nUsage: " + name + " " + usage
        self.monitor, self.moves = monitor, moves
        super().__init__(name, gdb.COMMAND_RUNNING if moves else gdb.COMMAND_STATUS)

    def word(self, text):
        if not text.startswith(("$", "&", "(")):
            return text
        value = gdb.parse_and_eval(text)
        return hex(int(value) & 0xffffffffffffffff)

    def invoke(self, arguments, from_tty):
        words = [self.word(word) for word in gdb.string_to_argv(arguments)]
        gdb.execute(" ".join(["monitor", self.monitor] + words))
        if self.moves:
            gdb.execute("maintenance flush register-cache", to_string=True)
            if dejavm_mode.on:
                dejavm_mode.check()
            gdb.execute("frame", from_tty)

"#;

/// The script.
pub fn gdbinit() -> String {
    let mut text = HEAD.to_owned();
    for (name, usage, summary, moves) in monitor_commands() {
        let ours = if GDBS.contains(&name) { format!("dejavm-{name}") } else { name.to_owned() };
        let moves = if moves { "True" } else { "False" };
        let _ =
            writeln!(text, "DejavmCommand({ours:?}, {name:?}, {usage:?}, {summary:?}, {moves})");
    }
    text + "end\n"
}
