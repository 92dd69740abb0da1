//! A timeline stands anywhere, and is there what a replay that never stopped is.

mod toy;

use dejavm_machine::{Idle, Stop};
use dejavm_memory::GuestRam;
use dejavm_replay::{
    Chunk, Direction, Guest, Hash128, Moment, Reached, Reader, Replayer, Timeline, TimelineOptions,
    TimelineStop,
};
use dejavm_units::{Pfn, Position};
use std::io::Cursor;
use toy::{Random, Toy, ToyState, recording};

/// A page's part of the sum that stands for all of RAM.
fn page_hash(ram: &GuestRam, pfn: Pfn) -> u128 {
    let mut page = [0; 4096 + 8];
    ram.read(pfn.gpa(), &mut page[..4096]).unwrap();
    page[4096..].copy_from_slice(&pfn.0.to_le_bytes());
    u128::from_le_bytes(Hash128::of(&page).0)
}

fn ram_hash(ram: &GuestRam) -> u128 {
    ram.pages().fold(0, |sum, pfn| sum.wrapping_add(page_hash(ram, pfn)))
}

/// What the toy is at rest at every position, found by going there once, step by step. Nothing of this
/// uses the timeline.
struct Reference {
    states: Vec<ToyState>,
    rams: Vec<u128>,
}

impl Reference {
    fn of(file: &[u8]) -> Reference {
        let mut replayer = Replayer::open(Cursor::new(file)).unwrap();
        let mut toy = Toy::from_state(replayer.start_state().unwrap());
        replayer.load_pages(&mut toy).unwrap();
        let mut inputs = Vec::new();
        let mut end = Position(0);
        let mut reader = Reader::new(Cursor::new(file)).unwrap();
        while let Some(located) = reader.next_chunk().unwrap() {
            match located.chunk {
                Chunk::Inputs(batch) => inputs.extend(batch),
                Chunk::End(chunk) => end = chunk.at.position,
                _ => {}
            }
        }
        let mut pages: Vec<u128> = toy.ram.pages().map(|pfn| page_hash(&toy.ram, pfn)).collect();
        let numbers: Vec<Pfn> = toy.ram.pages().collect();
        let mut sum = pages.iter().fold(0u128, |sum, page| sum.wrapping_add(*page));
        let mut reference = Reference { states: Vec::new(), rams: Vec::new() };
        let mut inputs = inputs.into_iter().peekable();
        toy.ram.take_dirty();
        toy.run(Position(0));
        loop {
            for pfn in toy.ram.take_dirty() {
                let page = &mut pages[numbers.binary_search(&pfn).unwrap()];
                sum = sum.wrapping_sub(*page);
                *page = page_hash(&toy.ram, pfn);
                sum = sum.wrapping_add(*page);
            }
            let here = toy.position();
            assert_eq!(here.0, reference.states.len() as u64);
            reference.states.push(toy.save());
            reference.rams.push(sum);
            if here == end {
                assert_eq!(sum, ram_hash(&toy.ram));
                return reference;
            }
            while toy.position() == here {
                let due = inputs.peek().map(|input| input.at).filter(|at| at.position == here);
                let next = Position(here.0 + u64::from(due.is_none()));
                let stop = toy.run(next);
                let now = Moment { position: toy.position(), guest_ns: toy.guest_ns() };
                if due == Some(now) {
                    toy.apply(&inputs.next().unwrap().input);
                } else if let (Stop::Idle { wake }, true) = (stop, toy.position() == here) {
                    let limit = due.map(|at| at.guest_ns).or(wake).unwrap();
                    let (Idle::Runnable | Idle::Waiting) = toy.idle_until(limit);
                }
            }
            toy.take_output();
        }
    }

    fn assert_at(&self, timeline: &Timeline<Cursor<&[u8]>, Toy>, position: u64, why: &str) {
        let toy = timeline.machine();
        assert_eq!(timeline.now().position, Position(position), "{why}");
        assert_eq!(toy.state, self.states[position as usize], "{why}");
        assert_eq!(ram_hash(&toy.ram), self.rams[position as usize], "{why}: RAM");
    }
}

fn timeline(file: &[u8], options: TimelineOptions) -> Timeline<Cursor<&[u8]>, Toy> {
    let mut replayer = Replayer::open(Cursor::new(file)).unwrap();
    let mut toy = Toy::from_state(replayer.start_state().unwrap());
    replayer.load_pages(&mut toy).unwrap();
    Timeline::new(replayer, toy, options).unwrap()
}

/// Small enough that checkpoints come and go.
fn tight() -> TimelineOptions {
    TimelineOptions { memory_bytes: 700 << 10, spacing: 500 }
}

#[test]
fn a_random_walk_finds_at_each_position_what_was_there() {
    let seed = 5;
    println!("seed {seed}");
    let mut random = Random::new(seed);
    for (guest, operations) in [(21, 4000), (22, 3000), (23, 3000)] {
        let (file, recorded, _) = recording(guest, 700);
        let reference = Reference::of(&file);
        let end = recorded.at.position.0;
        let mut timeline = timeline(&file, tight());
        assert_eq!(timeline.end(), Position(end));
        let mut removed = false;
        for operation in 0..operations {
            let here = timeline.now().position.0;
            let why = format!("seed {seed}, guest {guest}, operation {operation}");
            let expected = match random.below(4) {
                0 => {
                    let target = random.below(end + end / 8);
                    let reached = timeline.seek(Position(target)).unwrap();
                    let expected = if target > end { Reached::End } else { Reached::Position };
                    assert_eq!(reached, expected, "{why}");
                    target.min(end)
                }
                1 => {
                    let count = 1 + random.below(100);
                    let stop = timeline.step(Direction::Forward, count).unwrap();
                    let beyond = here + count > end;
                    let expected = if beyond { TimelineStop::End } else { TimelineStop::Position };
                    assert_eq!(stop, expected, "{why}");
                    (here + count).min(end)
                }
                _ => {
                    let count = 1 + random.below(40);
                    let stop = timeline.step(Direction::Backward, count).unwrap();
                    let expected =
                        if count > here { TimelineStop::Start } else { TimelineStop::Position };
                    assert_eq!(stop, expected, "{why}");
                    here.saturating_sub(count)
                }
            };
            reference.assert_at(&timeline, expected, &why);
            assert!(timeline.checkpoint_bytes() <= tight().memory_bytes, "{why}");
            removed |= timeline.checkpoint_bytes() > tight().memory_bytes * 3 / 4;
        }
        assert!(removed, "the bound was never near: {} bytes", timeline.checkpoint_bytes());
    }
}
