//! The debug adapters behind VS Code's extensions, driven as the editor drives them, over a replay of a
//! program that dies of an old store. A slow judge: `make judges` installs the adapters.
//!
//! - `lldb-dap` is the adapter of the extension LLDB DAP, over the same library as CodeLLDB's;
//! - `cdt-gdb-adapter` is the adapter of the extension CDT GDB, over gdb.

use dejavm_gdb_tests::{
    Adapter, Gdb, hunted, hunted_as_init, hunted_program, printed_folder, serve_while,
};
use dejavm_stub::Target;
use dejavm_units::Position;
use serde_json::json;

/// LLDB waits five seconds otherwise, and then interrupts.
const PATIENCE: &str = "settings set plugin.process.gdb-remote.packet-timeout 100";

/// The replay stands where the kernel runs: debuggers ask then where it is, and slide what they have read.
fn standing_in_the_kernel() -> impl Target {
    let mut replay = hunted(1);
    let (_, end) = replay.extent();
    replay.seek(Position(end.0 - 100_000_000), &mut || false).unwrap();
    replay
}

/// The newest LLDB there is: `lldb-dap-22`, `lldb-dap`, ...
fn lldb_dap() -> String {
    let there = |name: &String| {
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .any(|folder| folder.join(name).is_file())
    };
    let names = (19..40).rev().map(|version| format!("lldb-dap-{version}"));
    names.chain(["lldb-dap".to_owned()]).find(there).expect("LLDB is installed: `make judges`")
}

/// Attaches as `launch.json` in `docs/debugging.md` says, and continues to where the program dies.
fn lldb_at_farewell(port: u16) -> Adapter {
    let program = hunted_program().display().to_string();
    let mut adapter = Adapter::start(&lldb_dap(), &[]);
    let can = adapter.ask("initialize", json!({ "adapterID": "lldb-dap", "pathFormat": "path" }));
    println!("{}", can["$__lldb_version"]);
    let attach = adapter.send(
        "attach",
        json!({
            "program": program,
            "initCommands": [PATIENCE],
            "attachCommands": [
                format!("gdb-remote 127.0.0.1:{port}"),
                format!("target modules load --slide 0 --file {program}"),
            ],
            "stopOnEntry": true,
        }),
    );
    adapter.event("initialized");
    let set =
        adapter.ask("setFunctionBreakpoints", json!({ "breakpoints": [{ "name": "farewell" }] }));
    assert_eq!(set["breakpoints"][0]["verified"], true, "{set}");
    adapter.ask("configurationDone", json!({}));
    adapter.response(attach);
    assert_eq!(adapter.event("stopped")["reason"], "entry");
    adapter.ask("continue", json!({ "threadId": 1 }));
    assert_eq!(adapter.event("stopped")["reason"], "breakpoint");
    adapter
}

#[test]
fn lldb_dap_hunts() {
    serve_while(&mut standing_in_the_kernel(), |port| {
        let mut adapter = lldb_at_farewell(port);
        let stack = adapter.stack(1);
        assert_eq!((stack[0].0.as_str(), stack[1].0.as_str()), ("farewell", "_start"), "{stack:?}");

        let scopes = adapter.ask("scopes", json!({ "frameId": stack[0].2 }));
        let session = adapter.variables(&scopes["scopes"][0]["variablesReference"]).remove(0);
        assert_eq!(session.0, "session");
        let members = adapter.variables(&session.2);
        assert_eq!((members[0].0.as_str(), members[0].1.as_str()), ("greet", "0x0000000041414140"));
        let memory = json!({ "memoryReference": session.1, "count": 8 });
        assert_eq!(adapter.ask("readMemory", memory)["data"], "QEFBQQAAAAA=");

        // What CodeLLDB asks for before it shows memory.
        let region = adapter.console(&format!("`memory region {}", session.1));
        assert!(region.contains(") rw"), "{region}");

        let before = position(&mut adapter);
        let wanted = json!({ "variablesReference": session.2, "name": "greet" });
        let place = adapter.ask("dataBreakpointInfo", wanted)["dataId"].clone();
        let watch = json!({ "breakpoints": [{ "dataId": place, "accessType": "write" }] });
        assert_eq!(adapter.ask("setDataBreakpoints", watch)["breakpoints"][0]["verified"], true);
        adapter.console("`process continue --reverse");
        adapter.event("stopped");
        let stack = adapter.stack(1);
        assert_eq!((stack[0].0.as_str(), stack[1].0.as_str()), ("account", "_start"), "{stack:?}");
        assert!(position(&mut adapter) < before);

        // The store alone.
        adapter.ask("setDataBreakpoints", json!({ "breakpoints": [] }));
        let here = position(&mut adapter);
        adapter.ask("next", json!({ "threadId": 1, "granularity": "instruction" }));
        adapter.event("stopped");
        assert_eq!(position(&mut adapter), here + 1);
        // LLDB keeps the direction until it is told.
        adapter.console("`process continue --forward");
        assert_eq!(adapter.event("stopped")["reason"], "breakpoint");
        assert_eq!(position(&mut adapter), before);
        adapter.ask("disconnect", json!({ "terminateDebuggee": false }));
    });
}

/// A kernel that is about to panic. gdb writes the symbols that it has of itself into a file: LLDB
/// cannot ask for it.
#[test]
fn lldb_dap_in_a_kernel() {
    let mut replay = hunted_as_init(1);
    let (_, end) = replay.extent();
    replay.seek(end, &mut || false).unwrap();
    let kernel = printed_folder().join("kernel.elf").display().to_string();
    let gdb = Gdb::plain().before("set remotetimeout 100");
    let said = gdb.run(&mut replay, &[&format!("remote get /kernel {kernel}"), "detach"]);
    assert!(std::fs::metadata(&kernel).is_ok_and(|file| file.len() > 1 << 20), "{said}");
    let folder = printed_folder();
    serve_while(&mut replay, move |port| {
        let mut adapter = Adapter::start(&lldb_dap(), &[]);
        adapter.ask("initialize", json!({ "adapterID": "lldb-dap", "pathFormat": "path" }));
        let attach = adapter.send(
            "attach",
            json!({
                "program": kernel,
                "initCommands": [PATIENCE],
                "attachCommands": [
                    format!("gdb-remote 127.0.0.1:{port}"),
                    format!("target modules load --slide 0 --file {kernel}"),
                ],
                "stopOnEntry": true,
            }),
        );
        adapter.event("initialized");
        let set = json!({ "breakpoints": [{ "name": "panic" }] });
        let set = adapter.ask("setFunctionBreakpoints", set);
        assert_eq!(set["breakpoints"][0]["verified"], true, "{set}");
        adapter.ask("configurationDone", json!({}));
        adapter.response(attach);
        assert_eq!(adapter.event("stopped")["reason"], "entry");
        adapter.console("`process continue --reverse");
        assert_eq!(adapter.event("stopped")["reason"], "breakpoint");
        let stack = adapter.stack(1);
        assert!(stack[0].0.starts_with("panic"), "{stack:?}");
        assert!(stack[1].0.starts_with("do_exit"), "{stack:?}");
        let here = position(&mut adapter);
        adapter.console("`process continue --forward");
        assert_eq!(adapter.event("stopped")["reason"], "history boundary");
        assert_eq!(position(&mut adapter), end.0);
        adapter.console("`process continue --reverse");
        adapter.event("stopped");
        assert_eq!(position(&mut adapter), here);
        adapter.ask("disconnect", json!({ "terminateDebuggee": false }));
    });
    std::fs::remove_dir_all(&folder).unwrap();
}

/// `stepBack` and `reverseContinue` of CodeLLDB are these commands, sent to the same library.
#[test]
fn what_codelldb_sends_to_go_back() {
    serve_while(&mut standing_in_the_kernel(), |port| {
        let mut adapter = lldb_at_farewell(port);
        let set = json!({ "breakpoints": [{ "name": "account" }] });
        adapter.ask("setFunctionBreakpoints", set);
        let dead = position(&mut adapter);
        for command in ["process plugin packet send Hc1", "process plugin packet send bc"] {
            adapter.console(&format!("`{command}"));
        }
        let store = position(&mut adapter);
        assert!(store < dead);
        adapter.console("`process plugin packet send bs");
        assert_eq!(position(&mut adapter), store - 1);
        adapter.console("`stepi");
        adapter.event("stopped");
        assert_eq!(position(&mut adapter), store);
        assert_eq!(adapter.stack(1)[0].0, "account");
        // The store, and the return behind it.
        adapter.ask("stepOut", json!({ "threadId": 1 }));
        assert_eq!(adapter.event("stopped")["reason"], "step");
        assert_eq!(position(&mut adapter), store + 2);
        adapter.console("`process plugin packet send bc");

        for command in ["send Hc1", "send bs", "send bs"] {
            adapter.console(&format!("`process plugin packet {command}"));
        }
        adapter.console("`stepi");
        adapter.event("stopped");
        assert_eq!(position(&mut adapter), store - 1);
        assert_eq!(adapter.stack(1)[0].0, "_start");
        adapter.ask("disconnect", json!({ "terminateDebuggee": false }));
    });
}

/// Attaches as `launch.json` says, with a breakpoint; then it continues of itself.
fn cdt_gdb(port: u16, first: &[&str], breakpoint: &str) -> Adapter {
    let cache = std::env::var_os("DEJAVM_CACHE").expect("it is set: `make judges`");
    let program = "adapters/node_modules/cdt-gdb-adapter/dist/debugTargetAdapter.js";
    let program = std::path::Path::new(&cache).join(program).display().to_string();
    let mut adapter = Adapter::start("node", &[&program]);
    adapter.ask("initialize", json!({ "adapterID": "gdbtarget", "pathFormat": "path" }));
    let target = json!({ "type": "remote", "host": "127.0.0.1", "port": port.to_string() });
    let attach = adapter.send(
        "attach",
        json!({
            "gdb": "gdb",
            "target": target,
            "preConnectCommands": ["set remotetimeout 100"],
            "initCommands": first,
        }),
    );
    adapter.event("initialized");
    adapter.response(attach);
    let set = json!({ "breakpoints": [{ "name": breakpoint }] });
    let set = adapter.ask("setFunctionBreakpoints", set);
    assert_eq!(set["breakpoints"][0]["verified"], true, "{set}");
    adapter.ask("configurationDone", json!({}));
    adapter
}

/// Hunts in the editor's console, and steps.
#[test]
fn cdt_gdb_hunts() {
    serve_while(&mut standing_in_the_kernel(), |port| {
        let symbols = format!("add-symbol-file {}", hunted_program().display());
        let mut adapter = cdt_gdb(port, &[&symbols], "farewell");
        let stopped = adapter.event("stopped");
        assert_eq!(stopped["reason"], "function breakpoint");
        let thread = stopped["threadId"].as_u64().unwrap();

        let stack = adapter.stack(thread);
        assert_eq!((stack[0].0.as_str(), stack[1].0.as_str()), ("farewell", "_start"), "{stack:?}");
        let scopes = adapter.ask("scopes", json!({ "frameId": stack[0].2 }));
        let session = adapter.variables(&scopes["scopes"][0]["variablesReference"]).remove(0);
        let members = adapter.variables(&session.2);
        assert_eq!((members[0].0.as_str(), members[0].1.as_str()), ("greet", "0x41414140"));

        let dead = first_number(&adapter.console(">monitor position"));
        adapter.console(">watch -l session->greet");
        adapter.console(">reverse-continue");
        adapter.event("stopped");
        let stack = adapter.stack(thread);
        assert_eq!((stack[0].0.as_str(), stack[1].0.as_str()), ("account", "_start"), "{stack:?}");
        let store = first_number(&adapter.console(">monitor position"));
        assert!(store < dead);
        let bytes = json!({ "expression": "bytes", "frameId": stack[0].2, "context": "watch" });
        assert_eq!(adapter.ask("evaluate", bytes)["result"], "1094795584");

        adapter.console(">delete");
        let step = json!({ "threadId": thread, "granularity": "instruction" });
        adapter.ask("stepIn", step.clone());
        adapter.event("stopped");
        assert_eq!(first_number(&adapter.console(">monitor position")), store + 1);
        adapter.ask("next", step);
        adapter.event("stopped");
        assert_eq!(first_number(&adapter.console(">monitor position")), store + 2);
        adapter.ask("disconnect", json!({ "terminateDebuggee": false }));
    });
}

/// gdb has the kernel's symbols from us: nothing of them is in the attributes.
#[test]
fn cdt_gdb_in_a_kernel() {
    let mut replay = hunted_as_init(1);
    let (_, end) = replay.extent();
    replay.seek(Position(end.0 - 100_000_000), &mut || false).unwrap();
    serve_while(&mut replay, |port| {
        let mut adapter = cdt_gdb(port, &[], "panic");
        let stopped = adapter.event("stopped");
        assert_eq!(stopped["reason"], "function breakpoint");
        let thread = stopped["threadId"].as_u64().unwrap();
        let stack = adapter.stack(thread);
        assert!(stack[0].0.starts_with("panic"), "{stack:?}");
        assert!(stack[1].0.starts_with("do_exit"), "{stack:?}");
        let said = adapter.console(">x/s $rdi");
        assert!(said.contains("Attempted to kill init"), "{said}");
        let said = adapter.console(">monitor linux");
        assert!(said.contains("tasks; the CPU runs hunt"), "{said}");
        adapter.ask("disconnect", json!({ "terminateDebuggee": false }));
    });
}

/// LLDB has no `monitor`: this is how it sends one.
fn position(adapter: &mut Adapter) -> u64 {
    first_number(&adapter.console("`process plugin packet monitor position"))
}

fn first_number(text: &str) -> u64 {
    let digits = text.trim_start().split(|letter: char| !letter.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("no number: {text:?}"))
}
