//! The debugger's breakpoints and watchpoints (`Z` and `z` packets), with their conditions. The guest
//! sees none of them: a software breakpoint is no `int3` here, and both kinds are without number limit.

use crate::agent;
use crate::packet::{self, number};
use crate::registers::{self, Layout};
use crate::target::{Inspect, Vcpu};
use dejavm_cpu::{Breakpoint, CpuState, Stops, WatchKind, Watchpoint, control};
use dejavm_units::{Gpa, Gva};
use std::collections::BTreeMap;

/// Most of each that a client may set: far beyond any use, against clients that only want memory.
const POINTS_MAX: usize = 1 << 16;
/// Longest a watchpoint may be. It ends before the address space does.
const WATCH_BYTES_MAX: u64 = 1 << 40;

/// The number in front of a `Z` packet's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `Z0`
    Software,
    /// `Z1`
    Hardware,
    /// `Z2`
    Write,
    /// `Z3`
    Read,
    /// `Z4`
    Access,
}

impl Kind {
    fn watched(self) -> Option<WatchKind> {
        match self {
            Kind::Software | Kind::Hardware => None,
            Kind::Write => Some(WatchKind::Write),
            Kind::Read => Some(WatchKind::Read),
            Kind::Access => Some(WatchKind::Access),
        }
    }
}

/// A parsed `Z` or `z` packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    kind: Kind,
    at: Gva,
    /// Bytes to watch; for breakpoints what gdb says of the instruction, which means nothing here.
    bytes: u64,
    /// Bytecode; the point counts if any of them holds or if there is none.
    conditions: Vec<Vec<u8>>,
}

impl Request {
    /// The first address.
    pub fn at(&self) -> Gva {
        self.at
    }

    /// Reads what follows `Z` or `z`.
    pub fn parse(text: &[u8]) -> Option<Request> {
        let mut parts = text.split(|byte| *byte == b';');
        let mut fields = parts.next()?.split(|byte| *byte == b',');
        let kind = match fields.next()? {
            b"0" => Kind::Software,
            b"1" => Kind::Hardware,
            b"2" => Kind::Write,
            b"3" => Kind::Read,
            b"4" => Kind::Access,
            _ => return None,
        };
        let at = Gva(number(fields.next()?)?);
        let bytes = number(fields.next()?)?;
        if fields.next().is_some() {
            return None;
        }
        let mut conditions = Vec::new();
        for part in parts {
            // `cmds:` is only sent to who says BreakpointCommands+; other words are of the future.
            if let Some(list) = part.strip_prefix(b"X") {
                push_conditions(list, &mut conditions)?;
            } else if !part.is_empty() {
                return None;
            }
        }
        Some(Request { kind, at, bytes, conditions })
    }
}

/// `X` has been read; `LENGTH,BYTECODE`, and again `X...` right behind it.
fn push_conditions(mut list: &[u8], conditions: &mut Vec<Vec<u8>>) -> Option<()> {
    loop {
        let comma = list.iter().position(|byte| *byte == b',')?;
        let (length, rest) = list.split_at(comma);
        let digits = usize::try_from(number(length)?).ok()?.checked_mul(2)?;
        let code = rest.get(1..)?.get(..digits)?;
        conditions.push(packet::bytes(code)?);
        list = rest.get(1 + digits..)?;
        match list.split_first() {
            None => return Some(()),
            Some((b'X', more)) => list = more,
            Some(_) => return None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    at: Gva,
    kind: Kind,
    bytes: u64,
    space: Option<Gpa>,
}

/// What is set.
#[derive(Clone, Debug, Default)]
pub struct Points {
    set: BTreeMap<Place, Vec<Vec<u8>>>,
}

impl Points {
    /// `Z`: sets a point, or replaces its conditions. `space`: only while these page tables are in use.
    /// `false` if it cannot be.
    pub fn insert(&mut self, request: Request, space: Option<Gpa>) -> bool {
        let Some(place) = place(&request, space) else { return false };
        if self.set.len() >= POINTS_MAX && !self.set.contains_key(&place) {
            return false;
        }
        self.set.insert(place, request.conditions);
        true
    }

    /// `z`: one that is not set is no error, as the manual wants it. Whichever page tables it is bound to:
    /// gdb knows nothing of those, and selects another thread in between.
    pub fn remove(&mut self, request: &Request) {
        if let Some(Place { at, kind, bytes, space: _ }) = place(request, None) {
            self.set.retain(|place, _| (place.at, place.kind, place.bytes) != (at, kind, bytes));
        }
    }

    /// All are gone.
    pub fn clear(&mut self) {
        self.set.clear();
    }

    /// As a machine takes them; watchpoints in the order of [`Points::watched`].
    pub fn stops(&self) -> Stops {
        let mut stops = Stops::default();
        for Place { at, kind, bytes, space } in self.set.keys().copied() {
            match kind.watched() {
                None => {
                    let point = Breakpoint { at, space };
                    // A software and a hardware one at the same place are one stop.
                    if stops.breakpoints.last() != Some(&point) {
                        stops.breakpoints.push(point);
                    }
                }
                Some(kind) => {
                    stops.watchpoints.push(Watchpoint { start: at, bytes, kind, space });
                }
            }
        }
        stops
    }

    /// Whether a breakpoint that was met counts, and as which kind it is reported.
    pub fn judge(&self, at: Gva, view: &mut View<'_>) -> Option<Kind> {
        let from = Place { at, kind: Kind::Software, bytes: 0, space: None };
        let here = self.set.range(from..).take_while(|(place, _)| place.at == at);
        for (place, conditions) in here {
            let ours = place.space.is_none_or(|space| space == view.space());
            if place.kind.watched().is_none() && ours && holds(conditions, view) {
                return Some(place.kind);
            }
        }
        None
    }
}

fn place(request: &Request, space: Option<Gpa>) -> Option<Place> {
    let Request { kind, at, bytes, conditions: _ } = *request;
    let bytes = match kind.watched() {
        None => 0,
        Some(_) => {
            let fits =
                bytes > 0 && bytes <= WATCH_BYTES_MAX && at.0.checked_add(bytes - 1).is_some();
            fits.then_some(bytes)?
        }
    };
    Some(Place { at, kind, bytes, space })
}

/// Any of them; one that does not evaluate counts, so that gdb sees to it.
fn holds(conditions: &[Vec<u8>], view: &mut View<'_>) -> bool {
    conditions.is_empty() || conditions.iter().any(|code| agent::evaluate(code, view) != Ok(0))
}

/// A machine as a condition sees it: the registers of the CPU that met the point.
pub struct View<'a> {
    machine: &'a dyn Inspect,
    vcpu: Vcpu,
    layout: Layout,
    registers: Option<CpuState>,
}

impl<'a> View<'a> {
    /// The CPU that executed last.
    pub fn new(machine: &'a dyn Inspect, layout: Layout) -> View<'a> {
        View { machine, vcpu: machine.current_vcpu(), layout, registers: None }
    }

    /// Its registers, fetched once.
    pub fn registers(&mut self) -> &CpuState {
        self.registers.get_or_insert_with(|| self.machine.registers(self.vcpu))
    }

    /// Which page tables are in use.
    pub fn space(&mut self) -> Gpa {
        space(self.registers())
    }
}

/// CR3's base; with PAE paging it is a multiple of 32 only (SDM vol. 3A, 4.4.1).
pub fn space(state: &CpuState) -> Gpa {
    let pae = state.cr4 & control::CR4_PAE != 0 && state.efer & control::EFER_LMA == 0;
    Gpa(state.cr3 & if pae { 0xffff_ffe0 } else { 0x000f_ffff_ffff_f000 })
}

impl agent::Machine for View<'_> {
    fn register(&mut self, number: u16) -> Option<u64> {
        let layout = self.layout;
        let mut bytes = Vec::with_capacity(16);
        if !registers::read(layout, self.registers(), 0, usize::from(number), &mut bytes) {
            return None;
        }
        bytes.resize(8, 0);
        bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
    }

    fn memory(&mut self, at: Gva, into: &mut [u8]) -> bool {
        self.machine.read_virtual(self.vcpu, at, None, into) == into.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let plain = Request::parse(b"0,ffffffff81000000,1").unwrap();
        assert_eq!(plain.at, Gva(0xffff_ffff_8100_0000));
        assert_eq!((plain.kind, plain.conditions.len()), (Kind::Software, 0));
        let conditional = Request::parse(b"1,10,1;X3,220127X2,2227").unwrap();
        assert_eq!(conditional.conditions, [vec![0x22, 1, 0x27], vec![0x22, 0x27]]);
        assert_eq!(Request::parse(b"0,10,1;").unwrap().conditions.len(), 0);
        for text in [
            &b""[..],
            b"5,1,1",
            b"0,1",
            b"0,1,1,1",
            b"0,x,1",
            b"0,1,1;X",
            b"0,1,1;X1",
            b"0,1,1;X2,22",
            b"0,1,1;X1,2227",
            b"0,1,1;cmds:0,X1,22",
            b"0,1,1;Xffffffffffffffff,22",
            b"0,1ffffffffffffffff,1",
        ] {
            assert_eq!(Request::parse(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn points_come_and_go() {
        let mut points = Points::default();
        let request = |text: &[u8]| Request::parse(text).unwrap();
        for text in [&b"0,20,1"[..], b"1,20,1", b"0,10,1", b"2,30,7", b"4,30,7", b"0,20,1;X1,27"] {
            assert!(points.insert(request(text), None));
        }
        let point = |at| Breakpoint { at: Gva(at), space: None };
        let stops = points.stops();
        assert_eq!(stops.breakpoints, [point(0x10), point(0x20)]);
        let kinds: Vec<WatchKind> = stops.watchpoints.iter().map(|watch| watch.kind).collect();
        assert_eq!(kinds, [WatchKind::Write, WatchKind::Access]);
        points.remove(&request(b"1,20,1"));
        points.remove(&request(b"0,99,1"));
        assert_eq!(points.stops(), stops);
        points.remove(&request(b"0,20,1"));
        assert_eq!(points.stops().breakpoints, [point(0x10)]);
        assert!(!points.insert(request(b"2,30,0"), None));
        assert!(!points.insert(request(b"2,ffffffffffffffff,2"), None));
        assert!(points.insert(request(b"2,ffffffffffffffff,1"), None));
        assert!(!points.insert(request(b"2,0,ffffffffffffffff"), None));
    }
}
