//! Runs, forwards and backwards, to where somebody wants to stop.

use super::log::Cursor;
use super::travel::Moved;
use super::{Direction, Rewind, Timeline, TimelineStop, Watcher};
use crate::replayer::ReplayError;
use dejavm_machine::{Stop, Stops};
use dejavm_units::{GuestNs, Position};
use std::io::{Read, Seek};

/// Whether a stop that was met counts; `false` runs on. The machine stands where it would stop: running
/// backwards, a watchpoint's access has happened all the same.
pub type Judge<'a, G> = dyn FnMut(&G, &Stop) -> bool + 'a;

/// A place of the machine, exactly: at one position it arrives, time and inputs come, and interrupts and
/// exceptions are delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    position: Position,
    guest_ns: GuestNs,
    cursor: Cursor,
    deliveries: u32,
}

/// Stops that count, in one stretch, after which it is cheaper to look at the stretch's end first.
const HITS_MANY: u32 = 2000;

/// A stop that counts.
struct Hit {
    point: Point,
    stop: Stop,
}

/// What a stretch holds.
enum Found {
    Nothing,
    Last(Hit),
    /// So many that the last one is better sought from the end.
    Many,
    Interrupted,
}

impl<R: Read + Seek, G: Rewind> Timeline<R, G> {
    pub(super) fn point(&self) -> Point {
        Point {
            position: self.guest.position(),
            guest_ns: self.guest.guest_ns(),
            cursor: self.cursor,
            deliveries: self.guest.deliveries(),
        }
    }

    /// Runs until something stops it: a breakpoint or watchpoint that the judge lets count, the position
    /// `until`, an end of the recording, or the watcher. Forwards it stands before a breakpoint's
    /// instruction and after a watched access; backwards before both, so that memory is as it was before the
    /// access. A breakpoint where it stands already does not stop it.
    pub fn run(
        &mut self,
        direction: Direction,
        until: Option<Position>,
        stops: &Stops,
        judge: &mut Judge<'_, G>,
        watcher: &mut Watcher<'_>,
    ) -> Result<TimelineStop, ReplayError> {
        let stop = match direction {
            Direction::Forward => self.run_forward(until, stops, judge, watcher),
            Direction::Backward => self.run_backward(until, stops, judge, watcher),
        };
        self.recover(stop)
    }

    fn run_forward(
        &mut self,
        until: Option<Position>,
        stops: &Stops,
        judge: &mut Judge<'_, G>,
        watcher: &mut Watcher<'_>,
    ) -> Result<TimelineStop, ReplayError> {
        let end = self.end();
        let goal = until.map_or(end, |until| until.min(end));
        self.guest.set_stops(stops);
        self.plan.depart();
        while self.guest.position() < goal {
            match self.advance_towards(goal, watcher)? {
                Moved::Interrupted => return Ok(TimelineStop::Interrupted),
                Moved::Arrived => {
                    self.plan.focus_on(self.guest.position());
                    self.arrived(watcher)?;
                    self.guest.set_stops(stops);
                    if self.guest.position() < goal && !watcher(self.now()) {
                        return Ok(TimelineStop::Interrupted);
                    }
                }
                Moved::Stopped(stop) => {
                    if let Some(stop) = self.judged(stop, judge) {
                        self.plan.focus_on(self.guest.position());
                        return Ok(reason(stop));
                    }
                }
            }
        }
        self.plan.focus_on(self.guest.position());
        Ok(if until.is_some_and(|until| until <= end) {
            TimelineStop::Position
        } else {
            TimelineStop::End
        })
    }

    /// The stop that counts, if one does: a watchpoint's hides the breakpoint at the same place.
    fn judged(&mut self, stop: Stop, judge: &mut Judge<'_, G>) -> Option<Stop> {
        if judge(&self.guest, &stop) {
            return Some(stop);
        }
        let Stop::Watchpoint { .. } = stop else { return None };
        let stop = Stop::Breakpoint { at: self.guest.breakpoint_here()? };
        judge(&self.guest, &stop).then_some(stop)
    }

    /// From checkpoint to checkpoint, the later first, each stretch is run forward to find the last stop in
    /// it.
    fn run_backward(
        &mut self,
        until: Option<Position>,
        stops: &Stops,
        judge: &mut Judge<'_, G>,
        watcher: &mut Watcher<'_>,
    ) -> Result<TimelineStop, ReplayError> {
        let floor = until.map_or(self.start(), |until| until.max(self.start()));
        let mut bound = self.point();
        let mut at_rest = self.at_rest;
        // The stretch before `bound` was shortened already, as far as memory for checkpoints allows.
        let mut shortened = false;
        while bound.position > floor || bound.position == floor && !at_rest {
            let before = Position(bound.position.0.saturating_sub(u64::from(at_rest)));
            let checkpoint = self.checkpoints.last_until(before);
            self.guest.set_stops(&Stops::default());
            self.put_back(checkpoint)?;
            self.plan.depart();
            self.plan.focus_on(bound.position);
            if checkpoint < floor && !self.forward_to(floor, watcher)? {
                return Ok(TimelineStop::Interrupted);
            }
            let start = self.point();
            self.guest.set_stops(stops);
            let many = if shortened { u32::MAX } else { HITS_MANY };
            match self.last_hit(bound, at_rest, many, stops, judge, watcher)? {
                Found::Interrupted => return Ok(TimelineStop::Interrupted),
                Found::Last(hit) => return self.stand_before(hit, stops, watcher),
                Found::Nothing => {
                    bound = start;
                    at_rest = true;
                    shortened = false;
                }
                // On the way there checkpoints are left, the denser the nearer: shorter stretches.
                Found::Many => {
                    if !self.go(before, watcher)? {
                        return Ok(TimelineStop::Interrupted);
                    }
                    shortened = true;
                }
            }
        }
        if bound.position < floor {
            return Ok(TimelineStop::Position);
        }
        Ok(match self.go(floor, watcher)? {
            false => TimelineStop::Interrupted,
            true if until == Some(floor) => TimelineStop::Position,
            true => TimelineStop::Start,
        })
    }

    /// Runs to a place and finds the last stop that counts on the way, the place left out.
    fn last_hit(
        &mut self,
        bound: Point,
        at_rest: bool,
        many: u32,
        stops: &Stops,
        judge: &mut Judge<'_, G>,
        watcher: &mut Watcher<'_>,
    ) -> Result<Found, ReplayError> {
        let mut last = None;
        let mut count = 0;
        // Where a run starts it does not stop.
        if let Some(at) = self.guest.breakpoint_here()
            && self.point() < bound
        {
            let stop = Stop::Breakpoint { at };
            if judge(&self.guest, &stop) {
                last = Some(Hit { point: self.point(), stop });
            }
        }
        // What is further on at the last position comes before the next one.
        let goal = Position(bound.position.0 + u64::from(!at_rest)).min(self.end());
        while self.guest.position() < goal {
            match self.advance_towards(goal, watcher)? {
                Moved::Interrupted => return Ok(Found::Interrupted),
                Moved::Arrived => {
                    if self.guest.position() <= bound.position {
                        self.arrived(watcher)?;
                        self.guest.set_stops(stops);
                    }
                    if self.guest.position() < goal && !watcher(self.now()) {
                        return Ok(Found::Interrupted);
                    }
                }
                Moved::Stopped(stop) => {
                    let point = self.point();
                    if point > bound {
                        break;
                    }
                    // An access that led to the bound lies before it.
                    let stop = match stop {
                        Stop::Watchpoint { .. } if point == bound => {
                            judge(&self.guest, &stop).then_some(stop)
                        }
                        _ if point == bound => None,
                        _ => self.judged(stop, judge),
                    };
                    if let Some(stop) = stop {
                        last = Some(Hit { point, stop });
                        count += 1;
                        if count > many {
                            return Ok(Found::Many);
                        }
                    }
                }
            }
        }
        Ok(last.map_or(Found::Nothing, Found::Last))
    }

    /// Goes to before a stop's instruction.
    fn stand_before(
        &mut self,
        hit: Hit,
        stops: &Stops,
        watcher: &mut Watcher<'_>,
    ) -> Result<TimelineStop, ReplayError> {
        let Hit { point, stop } = hit;
        if !self.go(point.position, watcher)? {
            return Ok(TimelineStop::Interrupted);
        }
        match stop {
            Stop::Watchpoint { .. } => {
                // If the access had happened when the machine arrived here, the instruction before did it,
                // or an interrupt on arrival; if not, something that happened here.
                if self.point() == point {
                    let before = Position(point.position.0.saturating_sub(1));
                    if !self.go(before, watcher)? {
                        return Ok(TimelineStop::Interrupted);
                    }
                }
            }
            Stop::Breakpoint { .. } => {
                self.guest.set_stops(stops);
                let next = Position(point.position.0.saturating_add(1));
                while self.point() != point {
                    match self.advance(next, watcher)? {
                        Moved::Stopped(_) => {}
                        Moved::Arrived => return Err(self.astray(self.now())),
                        Moved::Interrupted => {
                            self.come_to_rest()?;
                            return Ok(TimelineStop::Interrupted);
                        }
                    }
                }
            }
            Stop::Limit | Stop::Idle { .. } | Stop::End(_) => unreachable!("these are no stops"),
        }
        Ok(reason(stop))
    }
}

fn reason(stop: Stop) -> TimelineStop {
    match stop {
        Stop::Breakpoint { at } => TimelineStop::Breakpoint { at },
        Stop::Watchpoint { index, address, kind } => {
            TimelineStop::Watchpoint { index, address, kind }
        }
        Stop::Limit | Stop::Idle { .. } | Stop::End(_) => unreachable!("these are no stops"),
    }
}
