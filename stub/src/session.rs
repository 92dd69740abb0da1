//! A session with one client: packets in, replies out, and in between the wish to run.

use crate::breakpoints::{Points, Request};
use crate::bridge::{Bridge, Wire};
use crate::lasting::Lasting;
use crate::packet::{self, PACKET_BYTES_MAX, Received, Receiver, number};
use crate::registers::{Layout, expedited, read};
use crate::running::{Halt, Why, Wish};
use crate::target::{Interrupted, Target};
use crate::threads::ThreadId;
use gdbstub::stub::GdbStubBuilder;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;

/// All addresses, as RAM. gdb applies the map to whatever addresses it uses, linear ones mostly, and refuses those outside
/// it, so the guest's physical map would hide its kernel. A length of 2^64 cannot be written, so there are two regions;
/// the end of the second wraps to 0, which gdb takes for the end of all addresses.
const MEMORY_MAP: &str = "<?xml version=\"1.0\"?>\
    <!DOCTYPE memory-map PUBLIC \"+//IDN gnu.org//DTD GDB Memory Map V1.0//EN\" \
    \"http://sourceware.org/gdb/gdb-memory-map.dtd\">\
    <memory-map>\
    <memory type=\"ram\" start=\"0\" length=\"0x8000000000000000\"/>\
    <memory type=\"ram\" start=\"0x8000000000000000\" length=\"0x8000000000000000\"/>\
    </memory-map>";

type Crate<'t> = GdbStubStateMachine<'static, Bridge<'t>, Wire>;

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Bytes of the client: [`Session::receive`].
    Input,
    /// [`Session::work`]: it may take long, so what there is to send should be sent first.
    Work,
    /// It is over.
    Ended(Ended),
}

/// How a session ends, other than by a lost connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// `detach`: the machine goes on.
    Detached,
    /// `kill`: the machine is not wanted any more.
    Killed,
}

/// Choices of a session.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The registers that gdb sees first; `None`: what [`Target::is_64_bit`](Target::is_64_bit)
    /// says.
    pub layout: Option<Layout>,
    /// What the session before it left to this one.
    pub lasting: Lasting,
}

enum Work {
    Run(Wish),
    /// A packet for the crate that may take long.
    Forward(Vec<u8>),
}

/// One client and the target. Dropping it leaves the target where it stands.
pub struct Session<'t> {
    bridge: Bridge<'t>,
    /// `None` only while it handles a packet.
    stub: Option<Crate<'t>>,
    receiver: Receiver,
    input: VecDeque<u8>,
    output: Vec<u8>,
    last_reply: Vec<u8>,
    acknowledged: bool,
    work: Option<Work>,
    ended: Option<Ended>,
}

impl<'t> Session<'t> {
    /// A session over `target`. `interrupted` is asked every few milliseconds while it runs, and says
    /// whether the client sent anything or is gone.
    pub fn new(
        target: &'t mut dyn Target,
        interrupted: Box<Interrupted<'t>>,
        options: Options,
    ) -> Session<'t> {
        let bits = if target.is_64_bit() { Layout::Bits64 } else { Layout::Bits32 };
        let layout = options.layout.unwrap_or(bits);
        let threads = options.lasting.threads();
        let selected = threads.current(target.inspect());
        let mut bridge = Bridge {
            target,
            interrupted,
            threads,
            selected,
            layout,
            follow_mode: false,
            stepped: None,
            physical: false,
            points: Points::default(),
            stop_at: None,
            skip_interrupts: true,
            files: RefCell::default(),
            lasting: options.lasting,
            refusal: None,
            note: String::new(),
        };
        let stub = Some(new_crate(&mut bridge));
        Session {
            bridge,
            stub,
            receiver: Receiver::default(),
            input: VecDeque::new(),
            output: Vec::new(),
            last_reply: Vec::new(),
            acknowledged: true,
            work: None,
            ended: None,
        }
    }

    /// What it waits for.
    pub fn state(&self) -> State {
        match (self.ended, &self.work) {
            (Some(ended), _) => State::Ended(ended),
            (None, Some(_)) => State::Work,
            (None, None) => State::Input,
        }
    }

    /// Bytes to send to the client, in order.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// The client is silent. See [`Target::quiet`].
    pub fn quiet(&mut self) {
        self.bridge.target.quiet();
    }

    /// Bytes from the client, in any pieces.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.input.extend(bytes);
        self.advance();
    }

    /// Runs the machine, or does whatever else takes long, and replies.
    pub fn work(&mut self) {
        match self.work.take() {
            None => {}
            Some(Work::Forward(packet)) => self.forward(&packet),
            Some(Work::Run(wish)) => {
                // `^C` right behind the packet: it must not be lost.
                let at_once = self.input.front() == Some(&3);
                let halt = self.bridge.run(wish, at_once);
                self.bridge.selected = self.current();
                let note = std::mem::take(&mut self.bridge.note) + &halt.note;
                self.say(&note);
                self.reply_stop(&halt);
            }
        }
        self.advance();
    }

    fn advance(&mut self) {
        while self.ended.is_none() && self.work.is_none() {
            let Some(byte) = self.input.pop_front() else { return };
            match self.receiver.byte(byte) {
                None | Some(Received::Ack) => {}
                // The machine stands already: gdb's interrupt and our stop crossed.
                Some(Received::Interrupt) => {}
                Some(Received::Nack) if self.acknowledged => {
                    self.output.extend_from_slice(&self.last_reply);
                }
                Some(Received::Broken) if self.acknowledged => self.output.push(b'-'),
                Some(Received::Nack | Received::Broken) => {}
                Some(Received::Packet(packet)) => {
                    if self.acknowledged {
                        self.output.push(b'+');
                    }
                    self.last_reply.clear();
                    self.packet(&packet);
                }
            }
        }
    }

    fn reply(&mut self, payload: &[u8]) {
        let start = self.output.len();
        packet::push_framed(&mut self.output, payload);
        if self.acknowledged {
            self.last_reply.extend(self.output.iter().skip(start));
        }
    }

    /// Console text, in front of a stop reply.
    fn say(&mut self, text: &str) {
        if !text.is_empty() {
            let mut payload = b"O".to_vec();
            packet::push_hex(&mut payload, text.as_bytes());
            self.reply(&payload);
        }
    }

    /// An error with a sentence: gdb shows it since version 15, and before where it shows the reply.
    fn reply_error(&mut self, sentence: &str) {
        self.reply(format!("E.{}", sentence.replace(['#', '$', '}', '*'], "?")).as_bytes());
    }

    fn reply_ok_or_error(&mut self, ok: bool) {
        self.reply(if ok { b"OK" } else { b"E01" });
    }

    /// The thread that a stop is told of.
    fn current(&self) -> ThreadId {
        let machine = self.bridge.target.inspect();
        let vcpu = self.bridge.stepped.unwrap_or(machine.current_vcpu());
        self.bridge.threads.on(machine, vcpu)
    }

    /// Answers what the crate cannot, or not well; the rest is its.
    fn packet(&mut self, packet: &[u8]) {
        let strip = |prefix: &[u8]| packet.strip_prefix(prefix);
        if packet == b"?" {
            // The client is new: breakpoints of another are not its.
            self.bridge.points.clear();
            self.bridge.selected = self.current();
            let halt = Halt { why: Why::Stepped, note: String::new() };
            self.reply_stop(&halt);
        } else if packet == b"qSupported" || strip(b"qSupported:").is_some() {
            self.reply_supported();
        } else if packet == b"QStartNoAckMode" {
            self.reply(b"OK");
            self.acknowledged = false;
        } else if let Some(wish) = self.parse_wish(packet) {
            match wish {
                Ok(wish) => self.work = Some(Work::Run(wish)),
                Err(sentence) => self.reply_error(sentence),
            }
        } else if packet == b"vCont?" {
            self.reply(b"vCont;c;C;s;S;r;t");
        } else if packet == b"vCtrlC" {
            self.reply(b"OK");
        } else if let Some(text) = strip(b"Z") {
            self.set_point(text);
        } else if let Some(text) = strip(b"z") {
            self.remove_point(text);
        } else if let Some(text) = strip(b"m") {
            self.read_memory(text, false);
        } else if let Some(text) = strip(b"x") {
            self.read_memory(text, true);
        } else if packet == b"D" || strip(b"D;").is_some() {
            self.reply(b"OK");
            self.ended = Some(Ended::Detached);
        } else if strip(b"vKill").is_some() {
            self.reply(b"OK");
            self.ended = Some(Ended::Killed);
        } else if packet == b"k" {
            self.ended = Some(Ended::Killed);
        } else if let Some(text) = strip(b"qqemu.").or_else(|| strip(b"Qqemu.")) {
            self.qemu(text);
        } else if strip(b"qRcmd,").is_some() {
            self.work = Some(Work::Forward(packet.to_vec()));
        } else if packet == b"qOffsets" {
            self.offsets();
        } else if let Some(text) = strip(b"qXfer:memory-map:read::") {
            self.transfer(text, MEMORY_MAP.as_bytes());
        } else if !self.thread_packet(packet) {
            if strip(b"qXfer:features:read:target.xml:0,").is_some() {
                self.bridge.choose_layout();
            }
            self.forward(packet);
        }
    }

    fn reply_supported(&mut self) {
        let mut reply = format!("PacketSize={PACKET_BYTES_MAX:x}");
        reply += ";QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+;qXfer:features:read+;qXfer:memory-map:read+\
                  ;qXfer:threads:read+;qXfer:exec-file:read+;ConditionalBreakpoints+;binary-upload+";
        if self.bridge.target.capabilities().reverse {
            reply += ";ReverseStep+;ReverseContinue+";
        }
        self.reply(reply.as_bytes());
    }

    /// A packet that makes the machine run, or why it cannot.
    fn parse_wish(&mut self, packet: &[u8]) -> Option<Result<Wish, &'static str>> {
        const NO_REVERSE: &str = "a live machine runs forwards only";
        let reverse = self.bridge.target.capabilities().reverse;
        let backward = |wish| Some(if reverse { Ok(wish) } else { Err(NO_REVERSE) });
        match packet {
            b"bs" => return backward(Wish::StepBack),
            b"bc" => return backward(Wish::ContinueBack),
            _ => {}
        }
        let wish = match packet.split_first()? {
            // With an address to go on at, or a signal to deliver: neither exists here.
            (b'c', []) => Wish::Continue,
            (b's', []) => Wish::Step,
            (b'C', rest) if packet::number(rest).is_some() => Wish::Continue,
            (b'S', rest) if packet::number(rest).is_some() => Wish::Step,
            (b'c' | b's', rest) if packet::number(rest).is_some() => {
                return Some(Err("write the instruction pointer first, then go on"));
            }
            _ => {
                let actions = packet.strip_prefix(b"vCont;")?;
                let wish = Wish::of_actions(actions);
                if let Some((_, thread)) = wish
                    && let Some(id) = thread_id(thread, self.current())
                {
                    self.bridge.selected = id;
                }
                let wish = wish.map(|(wish, _)| wish);
                return Some(wish.ok_or("these actions make no sense here"));
            }
        };
        Some(Ok(wish))
    }

    fn set_point(&mut self, text: &[u8]) {
        let machine = self.bridge.target.inspect();
        let set = Request::parse(text).is_some_and(|request| {
            let (threads, selected) = (&self.bridge.threads, self.bridge.selected);
            let space = threads.breakpoint_space(machine, selected, request.at());
            self.bridge.points.insert(request, space)
        });
        self.reply_ok_or_error(set);
    }

    fn remove_point(&mut self, text: &[u8]) {
        let request = Request::parse(text);
        if let Some(request) = &request {
            self.bridge.points.remove(request);
        }
        self.reply_ok_or_error(request.is_some());
    }

    /// `m` and `x`: as many bytes as there are.
    fn read_memory(&mut self, text: &[u8], binary: bool) {
        let mut fields = text.split(|byte| *byte == b',').map(number);
        let (Some(Some(at)), Some(Some(bytes)), None) =
            (fields.next(), fields.next(), fields.next())
        else {
            return self.reply(b"E01");
        };
        if binary && bytes == 0 {
            // Old LLDB asks so whether `x` is there, and understands it otherwise than gdb.
            return self.reply(b"");
        }
        let most = (PACKET_BYTES_MAX - 16) / 2;
        let mut memory = vec![0; usize::try_from(bytes).unwrap_or(most).min(most)];
        let read = self.bridge.read_memory(at, &mut memory).min(memory.len());
        if read == 0 && bytes > 0 {
            return self.reply(b"E14");
        }
        let mut reply = Vec::new();
        if binary {
            reply.push(b'b');
            packet::push_escaped(&mut reply, &memory[..read]);
        } else {
            packet::push_hex(&mut reply, &memory[..read]);
        }
        self.reply(&reply);
    }

    /// Where a `vmlinux` belongs that gdb has read: address-space randomization has moved the kernel.
    fn offsets(&mut self) {
        let machine = self.bridge.target.inspect();
        let reply = match self.bridge.files.borrow_mut().kernel(machine, &self.bridge.lasting).text
        {
            Some(text) => format!("TextSeg={:x}", text.0),
            None => String::new(),
        };
        self.reply(reply.as_bytes());
    }

    /// QEMU's own packets, which WinDbg and scripts know.
    fn qemu(&mut self, text: &[u8]) {
        let flag = |value: bool| if value { b"1" } else { b"0" };
        match text {
            b"PhyMemMode" => self.reply(flag(self.bridge.physical)),
            b"PhyMemMode:0" | b"PhyMemMode:1" => {
                self.bridge.physical = text.ends_with(b"1");
                self.reply(b"OK");
            }
            b"sstepbits" => self.reply(b"ENABLE=1,NOIRQ=2,NOTIMER=4"),
            b"sstep" => self.reply(if self.bridge.skip_interrupts { b"0x7" } else { b"0x1" }),
            _ => match text.strip_prefix(b"sstep=").and_then(number) {
                Some(bits) => {
                    self.bridge.skip_interrupts = bits & 2 != 0;
                    self.reply(b"OK");
                }
                None => self.reply(b""),
            },
        }
    }

    /// Packets about threads. `false`: it is none.
    fn thread_packet(&mut self, packet: &[u8]) -> bool {
        let machine = self.bridge.target.inspect();
        if let Some(text) = packet.strip_prefix(b"Hg") {
            let id = thread_id(text, self.current());
            let there = id.filter(|id| self.bridge.threads.view(machine, *id).is_some());
            if let Some(id) = there {
                self.bridge.selected = id;
            }
            self.reply_ok_or_error(there.is_some());
        } else if packet.starts_with(b"H") {
            // Who runs is in the packet that makes it run; a virtual machine runs as a whole.
            self.reply(b"OK");
        } else if packet == b"qC" {
            let reply = format!("QC{:x}", self.bridge.selected.0);
            self.reply(reply.as_bytes());
        } else if let Some(text) = packet.strip_prefix(b"T") {
            let alive = thread_id(text, self.current())
                .is_some_and(|id| self.bridge.threads.view(machine, id).is_some());
            self.reply_ok_or_error(alive);
        } else if packet == b"qfThreadInfo" {
            let mut reply = String::from("m");
            for thread in self.bridge.threads.list(machine) {
                // Ten digits at most; what does not fit one packet is nothing that people read.
                if reply.len() + 10 > PACKET_BYTES_MAX {
                    break;
                }
                let comma = if reply.len() > 1 { "," } else { "" };
                let _ = write!(reply, "{comma}{:x}", thread.id.0);
            }
            self.reply(reply.as_bytes());
        } else if packet == b"qsThreadInfo" {
            self.reply(b"l");
        } else if let Some(text) = packet.strip_prefix(b"qThreadExtraInfo,") {
            let id = thread_id(text, self.current());
            let threads = self.bridge.threads.list(machine);
            let found = threads.into_iter().find(|thread| Some(thread.id) == id);
            let mut reply = Vec::new();
            if let Some(thread) = found {
                packet::push_hex(
                    &mut reply,
                    format!("{} {}", thread.name, thread.detail).as_bytes(),
                );
            }
            self.reply(&reply);
        } else if let Some(text) = packet.strip_prefix(b"qXfer:threads:read::") {
            let xml = threads_xml(&self.bridge);
            self.transfer(text, xml.as_bytes());
        } else {
            return false;
        }
        true
    }

    /// The part of `text` that `qXfer` asks for: `OFFSET,LENGTH`.
    fn transfer(&mut self, wanted: &[u8], text: &[u8]) {
        let mut fields = wanted.split(|byte| *byte == b',').map(number);
        let (Some(Some(offset)), Some(Some(length)), None) =
            (fields.next(), fields.next(), fields.next())
        else {
            return self.reply(b"E00");
        };
        let most = PACKET_BYTES_MAX / 2 - 16;
        let length = usize::try_from(length).unwrap_or(most).min(most);
        let rest = usize::try_from(offset).ok().and_then(|offset| text.get(offset..));
        let rest = rest.unwrap_or(&[]);
        let part = rest.get(..length).unwrap_or(rest);
        let mut reply = vec![if part.len() == rest.len() { b'l' } else { b'm' }];
        packet::push_escaped(&mut reply, part);
        self.reply(&reply);
    }

    fn reply_stop(&mut self, halt: &Halt) {
        let thread = self.current();
        let machine = self.bridge.target.inspect();
        let mut reply = format!("T{:02x}", if halt.why == Why::Interrupted { 2 } else { 5 });
        if let Some(view) = self.bridge.threads.view(machine, thread) {
            let mut bytes = Vec::new();
            for number in expedited(self.bridge.layout) {
                bytes.clear();
                read(self.bridge.layout, &view.registers, 0, number, &mut bytes);
                let mut digits = Vec::new();
                packet::push_hex(&mut digits, &bytes);
                let _ = write!(reply, "{number:02x}:{};", String::from_utf8_lossy(&digits));
            }
            let _ = write!(reply, "core:{:x};", view.vcpu.0);
        }
        let _ = write!(reply, "thread:{:x};", thread.0);
        let _ = match halt.why {
            Why::Stepped | Why::Interrupted => Ok(()),
            Why::Software => write!(reply, "swbreak:;"),
            Why::Hardware => write!(reply, "hwbreak:;"),
            Why::Written(at) => write!(reply, "watch:{:x};", at.0),
            Why::Read(at) => write!(reply, "rwatch:{:x};", at.0),
            Why::Accessed(at) => write!(reply, "awatch:{:x};", at.0),
            Why::LogBegins => write!(reply, "replaylog:begin;"),
            Why::LogEnds => write!(reply, "replaylog:end;"),
        };
        self.reply(reply.as_bytes());
    }

    /// Lets the crate answer.
    fn forward(&mut self, packet: &[u8]) {
        let mut framed = Vec::with_capacity(packet.len() + 4);
        packet::push_framed(&mut framed, packet);
        self.bridge.refusal = None;
        let mut stub = self.stub.take();
        let mut answer = Vec::new();
        for byte in framed {
            stub = match stub {
                Some(GdbStubStateMachine::Idle(idle)) => {
                    idle.incoming_data(&mut self.bridge, byte).ok()
                }
                other => other,
            };
        }
        if let Some(GdbStubStateMachine::Idle(idle)) = &mut stub {
            answer = std::mem::take(&mut idle.borrow_conn().0);
        } else {
            // What it cannot parse, it takes for the end of the session; we do not.
            stub = Some(new_crate(&mut self.bridge));
        }
        self.stub = stub;
        let mut receiver = Receiver::default();
        let replies: Vec<Received> =
            answer.iter().filter_map(|byte| receiver.byte(*byte)).collect();
        let mut answered = false;
        for reply in replies {
            let Received::Packet(payload) = reply else { continue };
            answered = true;
            match self.bridge.refusal.take() {
                Some(refusal) if payload.starts_with(b"E") => {
                    self.reply_error(&refusal.to_string())
                }
                _ => self.reply(&payload),
            }
        }
        if !answered {
            self.reply(b"E01");
        }
    }
}

/// The crate, in its own no-acknowledgement mode: acknowledging is ours.
fn new_crate<'t>(bridge: &mut Bridge<'t>) -> Crate<'t> {
    let stub = GdbStubBuilder::new(Wire::default())
        .packet_buffer_size(PACKET_BYTES_MAX + 16)
        .build()
        .expect("a size of a buffer is all that it can complain about");
    let mut stub = stub.run_state_machine(bridge).expect("implicit breakpoints are allowed");
    let mut hello = Vec::new();
    packet::push_framed(&mut hello, b"QStartNoAckMode");
    for byte in hello {
        stub = match stub {
            GdbStubStateMachine::Idle(idle) => {
                idle.incoming_data(bridge, byte).expect("a packet that it knows")
            }
            other => other,
        };
    }
    if let GdbStubStateMachine::Idle(idle) = &mut stub {
        idle.borrow_conn().0.clear();
    }
    stub
}

/// A thread's number in a packet: 0 and -1 are the current one.
fn thread_id(text: &[u8], current: ThreadId) -> Option<ThreadId> {
    match text {
        b"0" | b"-1" => Some(current),
        _ => number(text).and_then(|id| u32::try_from(id).ok()).map(ThreadId),
    }
}

fn threads_xml(bridge: &Bridge<'_>) -> String {
    let mut xml = String::from("<?xml version=\"1.0\"?><threads>");
    for thread in bridge.threads.list(bridge.target.inspect()) {
        let _ = write!(xml, "<thread id=\"{:x}\"", thread.id.0);
        if let Some(core) = thread.core {
            let _ = write!(xml, " core=\"{core}\"");
        }
        let _ =
            write!(xml, " name=\"{}\">{}</thread>", escape(&thread.name), escape(&thread.detail));
    }
    xml + "</threads>"
}

/// Text of the guest in XML: what XML 1.0 has no notation for becomes `?`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            _ if letter.is_control() || letter == '\u{fffe}' || letter == '\u{ffff}' => {
                escaped.push('?')
            }
            _ => escaped.push(letter),
        }
    }
    escaped
}
