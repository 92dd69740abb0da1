//! The layout of a kernel that says nothing of its types, by correlation.
//!
//! Every task must satisfy the same constraints at the same offsets, and some facts about some tasks are known: the idle task
//! is called `swapper`, the third in the list `kthreadd`; their pids are 0 and 2, and 1 is between them; a thread of the
//! kernel has no memory of its own; page tables map the kernel where it is; a task that was switched out has on its stack the
//! address of kernel code to return to. Each constraint leaves few offsets, the intersection over all tasks and over several
//! positions of a recording leaves one.
//!
//! All offsets here are relative to the task's node in the list of tasks, because where the structure begins is one of the
//! things to be found.

use crate::image::Image;
use crate::kernel::{Kernel, Reason};
use crate::layout::Layout;
use crate::paging::Space;
use crate::reader::Reader;
use crate::view::GuestView;
use dejavm_units::Gva;
use memchr::memmem;
use std::collections::BTreeSet;

/// Page reads of one observation.
const PAGES_MAX: u64 = 4 << 20;
/// How far before and after the node the structure may reach.
const BEFORE: u64 = 0x1000;
const AFTER: u64 = 0x2000;
/// Between `tasks` and `comm`.
const COMM_DISTANCE_MAX: u64 = 0x1000;
/// Tasks that are looked at closely; the list itself may be longer.
const SAMPLES_MAX: usize = 96;
const RING_MAX: usize = 1 << 15;
/// `pgd` lies near the start of `mm_struct`.
const PGD_MAX: u64 = 0x200;
const PF_KTHREAD: u32 = 0x0020_0000;
/// `tls_array`, three descriptors, is before `sp0` or `sp` in `thread_struct`, since 2.6.
const TLS_ARRAY_BYTES: i64 = 24;
/// `TASK_COMM_LEN`.
const COMM_BYTES: usize = 16;

/// Offsets that satisfied every constraint at every position observed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Candidates {
    /// Positions that were of use.
    observations: u32,
    /// `comm` of `init_task`, and from a node to its `comm`.
    ring: Option<(Gva, i64)>,
    /// Numbers that are 0 for the idle task, 1, 2, and nobody else's.
    ids: BTreeSet<i64>,
    /// `mm`, and `pgd` in what it points to.
    memory: BTreeSet<(i64, u64)>,
    /// The structure's start, and `group_leader`.
    starts: BTreeSet<(i64, i64)>,
    /// `stack`, `thread.sp`, `thread.sp0`, and the stack's size where `sp0` tells it.
    stacks: BTreeSet<(i64, i64, Option<i64>, Option<u64>)>,
    flags: BTreeSet<i64>,
    groups: BTreeSet<i64>,
}

/// A task as bytes around its node.
struct Sample {
    node: u64,
    comm: String,
    bytes: Vec<u8>,
}

impl Sample {
    fn u32(&self, offset: i64) -> Option<u32> {
        let at = usize::try_from(offset.checked_add(BEFORE as i64)?).ok()?;
        let bytes = self.bytes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    }

    fn word(&self, offset: i64, word: u64) -> Option<u64> {
        let low = u64::from(self.u32(offset)?);
        if word == 4 { Some(low) } else { Some(low | u64::from(self.u32(offset + 4)?) << 32) }
    }

    /// Where a word of this task points, relative to another address.
    fn relative(&self, offset: i64, word: u64, to: u64) -> Option<i64> {
        let distance = self.word(offset, word)?.wrapping_sub(to) as i64;
        (distance.unsigned_abs() < AFTER).then_some(distance)
    }
}

/// Keeps what both have, unless that is nothing: then the new observation was a misleading one.
fn intersect<T: Ord + Clone>(kept: &mut BTreeSet<T>, new: BTreeSet<T>) {
    if kept.is_empty() {
        *kept = new;
        return;
    }
    let both: BTreeSet<T> = kept.intersection(&new).cloned().collect();
    if !both.is_empty() {
        *kept = both;
    }
}

impl Kernel {
    /// Learns from the machine as it stands where in the kernel's structures the things are that the kernel does not tell;
    /// nothing if all are known. Call it at several positions of a recording: each leaves fewer possibilities.
    ///
    /// # Errors
    /// What cannot be told apart yet.
    pub fn observe(&mut self, view: &dyn GuestView) -> Result<(), Reason> {
        self.observe_with(view, None)
    }

    /// [`Kernel::observe`] with a copy of the kernel's image, if there is one already.
    pub(crate) fn observe_with(
        &mut self,
        view: &dyn GuestView,
        copy: Option<&[u8]>,
    ) -> Result<(), Reason> {
        if self.layout.missing().is_none() && self.candidates.is_none() {
            return Ok(());
        }
        let mut candidates = self.candidates.take().unwrap_or_default();
        let observed = self.observe_into(view, copy, &mut candidates);
        self.solve(&candidates);
        self.candidates = Some(candidates);
        observed?;
        self.check(view);
        match self.layout.missing() {
            Some(field) => Err(Reason::NoLayout(field)),
            None if self.layout.thread_group.is_none() => Err(Reason::NoLayout("thread_group")),
            None => Ok(()),
        }
    }

    fn observe_into(
        &self,
        view: &dyn GuestView,
        copy: Option<&[u8]>,
        candidates: &mut Candidates,
    ) -> Result<(), Reason> {
        let reader =
            self.reader(view, PAGES_MAX).ok_or(Reason::NoTasks("the kernel is not mapped"))?;
        if candidates.ring.is_none_or(|(comm, distance)| ring(&reader, comm, distance).is_none()) {
            candidates.ring = match copy {
                Some(copy) => find_ring(&reader, &self.image, copy),
                None => find_ring(&reader, &self.image, &self.image.copy(view)),
            };
        }
        let (comm, distance) =
            candidates.ring.ok_or(Reason::NoTasks("no list of tasks was recognized"))?;
        let nodes =
            ring(&reader, comm, distance).ok_or(Reason::NoTasks("the list of tasks is broken"))?;
        let samples: Vec<Sample> =
            choose(&nodes).map(|node| sample(&reader, node, distance)).collect();
        let new = Candidates {
            observations: candidates.observations,
            ring: candidates.ring,
            ids: ids(&samples),
            memory: self.memory(&reader, &samples),
            starts: starts(&reader, &samples),
            stacks: self.stacks(&reader, &samples),
            flags: BTreeSet::new(),
            groups: groups(&reader, &samples),
        };
        candidates.observations += 1;
        intersect(&mut candidates.ids, new.ids);
        intersect(&mut candidates.memory, new.memory);
        intersect(&mut candidates.starts, new.starts);
        intersect(&mut candidates.stacks, new.stacks);
        // A task with threads is no evidence against a place: nothing found is nothing learnt.
        if !new.groups.is_empty() {
            intersect(&mut candidates.groups, new.groups);
        }
        if let Some(&(mm, _)) = only(&candidates.memory) {
            intersect(&mut candidates.flags, flags(&samples, mm, reader.word_bytes()));
        }
        Ok(())
    }

    /// `mm` and `pgd`: page tables that map the kernel where it is, other ones for each process.
    fn memory(&self, reader: &Reader<'_>, samples: &[Sample]) -> BTreeSet<(i64, u64)> {
        let word = reader.word_bytes();
        let mut found = BTreeSet::new();
        for offset in offsets(word) {
            let Some(mms) = mms(reader, samples, offset) else { continue };
            for pgd in (0..PGD_MAX).step_by(word as usize) {
                let mut tables = BTreeSet::new();
                let fits = mms.iter().all(|&mm| {
                    let root = reader.pointer_at(Gva(mm), pgd).and_then(|at| reader.translate(at));
                    root.is_some_and(|root| {
                        let space = Space { root: self.paging.root(root.0), paging: self.paging };
                        space.root == root
                            && tables.insert(root)
                            && space.translate(reader.view, self.image.start)
                                == Some(self.image.physical)
                    })
                });
                if fits {
                    found.insert((offset, pgd));
                }
            }
        }
        found
    }

    /// `stack` and `thread.sp`: where the latter points, the frame of a task that was switched out lies.
    fn stacks(
        &self,
        reader: &Reader<'_>,
        samples: &[Sample],
    ) -> BTreeSet<(i64, i64, Option<i64>, Option<u64>)> {
        let word = reader.word_bytes();
        // The task that runs has left an old frame; the idle task's stack is the one that booted.
        let mut found = BTreeSet::new();
        let limit = 2 * self.thread_size();
        for stack in offsets(word) {
            let bases: Option<Vec<u64>> = samples
                .iter()
                .map(|sample| {
                    sample.word(stack, word).filter(|&at| {
                        at.is_multiple_of(0x1000) && reader.is_kernel_pointer(Gva(at))
                    })
                })
                .collect();
            let Some(bases) = bases else { continue };
            if bases.iter().collect::<BTreeSet<_>>().len() != bases.len() {
                continue;
            }
            let distance = |index: usize, offset: i64| {
                let value = samples[index].word(offset, word)?;
                value.checked_sub(bases[index]).filter(|&distance| (1..=limit).contains(&distance))
            };
            for sp in offsets(word) {
                let frames = (0..samples.len()).filter(|&index| {
                    distance(index, sp)
                        .is_some_and(|distance| self.is_frame(reader, bases[index] + distance))
                });
                // All but those that run, of which one is being looked at.
                if frames.count() + reader.view.vcpus() < samples.len() {
                    continue;
                }
                // `sp0` is the word before, at one distance from the stack for all but the idle task.
                let tops: BTreeSet<Option<u64>> =
                    (1..samples.len()).map(|index| distance(index, sp - word as i64)).collect();
                let top = only(&tops)
                    .copied()
                    .flatten()
                    .filter(|&top| top + 64 >= (top + 64).next_power_of_two() / 2);
                found.insert(match top {
                    Some(top) => (stack, sp, Some(sp - word as i64), Some(top.next_power_of_two())),
                    None => (stack, sp, None, None),
                });
            }
        }
        found
    }

    /// What `__switch_to_asm` leaves: an address to return to in the kernel's code.
    fn is_frame(&self, reader: &Reader<'_>, sp: u64) -> bool {
        let places: &[u64] = if reader.word_bytes() == 8 { &[48, 56] } else { &[16, 20] };
        places
            .iter()
            .any(|&place| reader.word_at(Gva(sp), place).is_some_and(|to| self.is_text(to)))
    }

    /// Takes what is settled into the layout.
    fn solve(&mut self, candidates: &Candidates) {
        let Candidates { observations: _, ring, ids, memory, starts, stacks, flags, groups } =
            candidates;
        let (Some((init_comm, comm)), Some(&(start, leader))) = (*ring, only(starts)) else {
            return;
        };
        let word = self.pointer_bytes() as i64;
        // From the node to the structure's start.
        let offset = |from_node: i64| u64::try_from(from_node - start).ok();
        let mut layout = Layout { pointer_bytes: self.pointer_bytes(), ..Layout::default() };
        layout.thread_size = self.layout.thread_size;
        layout.per_cpu_current = self.layout.per_cpu_current;
        layout.tasks = offset(0);
        layout.comm = offset(comm);
        layout.comm_bytes = Some(COMM_BYTES as u64);
        layout.group_leader = offset(leader);
        // `pid` and `tgid` are neighbours.
        let pairs: BTreeSet<i64> =
            ids.iter().copied().filter(|pid| ids.contains(&(pid + 4))).collect();
        if let Some(&pid) = only(&pairs) {
            layout.pid = offset(pid);
            layout.tgid = offset(pid + 4);
        }
        if let Some(&(mm, pgd)) = only(memory) {
            layout.mm = offset(mm);
            layout.active_mm = offset(mm + word);
            layout.pgd = Some(pgd);
        }
        if let Some(&(stack, sp, sp0, size)) = only(stacks) {
            let thread = sp0.unwrap_or(sp) - TLS_ARRAY_BYTES;
            layout.stack = offset(stack);
            layout.thread = offset(thread);
            layout.thread_sp = u64::try_from(sp - thread).ok();
            layout.thread_sp0 = sp0.and_then(|sp0| u64::try_from(sp0 - thread).ok());
            layout.thread_size = layout.thread_size.or(size);
            // `state` (since 5.14 `__state`) is right before `stack`.
            layout.state = offset(stack - word);
        }
        layout.flags = only(flags).and_then(|&flags| offset(flags));
        layout.thread_group = only(groups).and_then(|&group| offset(group));
        self.init_task = Some(Gva(init_comm.0.wrapping_add_signed(start - comm)));
        self.layout = layout;
    }
}

fn only<T: Ord>(set: &BTreeSet<T>) -> Option<&T> {
    set.first().filter(|_| set.len() == 1)
}

/// Every place in a sample where a word may be.
fn offsets(word: u64) -> impl Iterator<Item = i64> {
    (-(BEFORE as i64)..AFTER as i64).step_by(word as usize)
}

/// `comm` of the idle task in the kernel's data, and the way from the list's nodes to `comm`.
fn find_ring(reader: &Reader<'_>, image: &Image, copy: &[u8]) -> Option<(Gva, i64)> {
    let word = reader.word_bytes();
    for at in memmem::find_iter(copy, b"swapper").take(256) {
        let rest = copy.get(at + 7..at + COMM_BYTES).unwrap_or_default();
        if !(rest.starts_with(b"/0\0") || rest.starts_with(b"\0")) {
            continue;
        }
        let comm = Gva(image.start.0.wrapping_add(at as u64));
        // `comm` is aligned to nothing, the node to a word.
        let first = comm.0.wrapping_sub(COMM_DISTANCE_MAX).next_multiple_of(word);
        for node in
            (0..2 * COMM_DISTANCE_MAX / word).map(|number| first.wrapping_add(number * word))
        {
            let distance = comm.0.wrapping_sub(node) as i64;
            let third = || {
                let next = reader.pointer_at(Gva(node), 0)?;
                let third = reader.pointer_at(next, 0).filter(|third| third.0 != node)?;
                reader.text(Gva(third.0.wrapping_add_signed(distance)), COMM_BYTES)
            };
            if third().as_deref() == Some("kthreadd") && ring(reader, comm, distance).is_some() {
                return Some((comm, distance));
            }
        }
    }
    None
}

/// All nodes of the list, the idle task's first, if it closes, is linked both ways, and each node has a name.
fn ring(reader: &Reader<'_>, comm: Gva, distance: i64) -> Option<Vec<u64>> {
    let start = comm.0.wrapping_add_signed(distance.checked_neg()?);
    let idle = reader.text(comm, COMM_BYTES)?;
    if !idle.starts_with("swapper") {
        return None;
    }
    let mut nodes = vec![start];
    let mut node = start;
    while nodes.len() < RING_MAX {
        let next = reader.pointer_at(Gva(node), 0)?;
        if reader.word_at(next, reader.word_bytes())? != node {
            return None;
        }
        if next.0 == start {
            return (nodes.len() >= 3).then_some(nodes);
        }
        let name = reader.text(Gva(next.0.wrapping_add_signed(distance)), COMM_BYTES)?;
        if name.is_empty() || name.contains('?') {
            return None;
        }
        nodes.push(next.0);
        node = next.0;
    }
    None
}

/// The first tasks and the last ones: threads of the kernel, and processes.
fn choose(nodes: &[u64]) -> impl Iterator<Item = u64> {
    let half = SAMPLES_MAX / 2;
    let skipped = half..nodes.len().saturating_sub(half).max(half);
    nodes
        .iter()
        .copied()
        .enumerate()
        .filter(move |(index, _)| !skipped.contains(index))
        .map(|(_, node)| node)
}

fn sample(reader: &Reader<'_>, node: u64, distance: i64) -> Sample {
    let mut bytes = vec![0; (BEFORE + AFTER) as usize];
    // What is not mapped stays zero: the structure ends earlier.
    let start = node.wrapping_sub(BEFORE);
    let mut done = 0;
    while done < bytes.len() {
        let at = Gva(start.wrapping_add(done as u64));
        let count = ((0x1000 - at.page_offset()) as usize).min(bytes.len() - done);
        if reader.read(at, &mut bytes[done..done + count]).is_none() {
            bytes[done..done + count].fill(0);
        }
        done += count;
    }
    let comm = reader.text(Gva(node.wrapping_add_signed(distance)), COMM_BYTES).unwrap_or_default();
    Sample { node, comm, bytes }
}

/// Numbers that are 0, 1, 2 for the first three, and others for the others.
fn ids(samples: &[Sample]) -> BTreeSet<i64> {
    const PID_MAX: u32 = 4 << 20;
    let fits = |offset: &i64| {
        let mut seen = BTreeSet::new();
        samples.iter().enumerate().all(|(index, sample)| {
            sample.u32(*offset).is_some_and(|id| {
                (index >= 3 || id as usize == index) && id < PID_MAX && seen.insert(id)
            })
        })
    };
    offsets(4).filter(fits).collect()
}

/// The different values of a word that may be `mm`: none for the idle task and for `kthreadd`, one for the first process, and
/// the word after it (`active_mm`) equal where there is one.
fn mms(reader: &Reader<'_>, samples: &[Sample], offset: i64) -> Option<BTreeSet<u64>> {
    let word = reader.word_bytes();
    let mut found = BTreeSet::new();
    for (index, sample) in samples.iter().enumerate() {
        let mm = sample.word(offset, word)?;
        let none = mm == 0;
        if index == 1 && none || (index == 0 || sample.comm == "kthreadd") && !none {
            return None;
        }
        if !none {
            if !reader.is_kernel_pointer(Gva(mm)) || sample.word(offset + word as i64, word)? != mm
            {
                return None;
            }
            found.insert(mm);
        }
    }
    Some(found)
}

/// Where the structure begins: `group_leader` points there from each process's first thread, and `real_parent` of the first
/// process and of `kthreadd` to the idle task's.
fn starts(reader: &Reader<'_>, samples: &[Sample]) -> BTreeSet<(i64, i64)> {
    let word = reader.word_bytes();
    let mut found = BTreeSet::new();
    let [idle, first, kthreadd, ..] = samples else { return found };
    let parents: BTreeSet<i64> = offsets(word)
        .filter_map(|offset| {
            let start = first.relative(offset, word, idle.node)?;
            (kthreadd.relative(offset, word, idle.node) == Some(start)).then_some(start)
        })
        .collect();
    for offset in offsets(word) {
        let Some(start) = idle.relative(offset, word, idle.node) else { continue };
        let same = || {
            samples.iter().all(|sample| sample.relative(offset, word, sample.node) == Some(start))
        };
        // An empty list points to itself; nothing begins after the list of tasks.
        let empty = start == offset || start == offset - word as i64;
        if start < 0 && !empty && offset > start && parents.contains(&start) && same() {
            found.insert((start, offset));
        }
    }
    found
}

/// `flags` has `PF_KTHREAD` exactly where there is no `mm`.
fn flags(samples: &[Sample], mm: i64, word: u64) -> BTreeSet<i64> {
    let fits = |offset: &i64| {
        samples.iter().all(|sample| {
            let (Some(flags), Some(mm)) = (sample.u32(*offset), sample.word(mm, word)) else {
                return false;
            };
            (flags & PF_KTHREAD != 0) == (mm == 0)
        })
    };
    offsets(4).filter(fits).collect()
}

/// `thread_group`, alone in nearly all processes, and after it `thread_node`, whose only neighbour is in `signal_struct`.
/// Task structures that lie side by side each show most of the others' too: the own one is where most samples have it.
fn groups(reader: &Reader<'_>, samples: &[Sample]) -> BTreeSet<i64> {
    let word = reader.word_bytes() as i64;
    let alone = |offset: i64| {
        let alone = samples.iter().filter(|sample| {
            let own = sample.node.wrapping_add_signed(offset);
            let value = |at: i64| sample.word(at, word as u64);
            let node = sample.node.wrapping_add_signed(offset + 2 * word);
            let head = value(offset + 2 * word);
            value(offset) == Some(own)
                && value(offset + word) == Some(own)
                && head.is_some()
                && head == value(offset + 3 * word)
                && head != Some(node)
                && head.is_some_and(|head| {
                    reader.is_kernel_pointer(Gva(head))
                        && reader.word_at(Gva(head), 0) == Some(node)
                        && reader.word_at(Gva(head), word as u64) == Some(node)
                })
        });
        alone.count()
    };
    let counts: Vec<(i64, usize)> =
        offsets(word as u64).map(|offset| (offset, alone(offset))).collect();
    let most = counts.iter().map(|&(_, count)| count).max().unwrap_or(0);
    let fits = |&(_, count): &(i64, usize)| count == most && count * 4 >= samples.len() * 3;
    counts.into_iter().filter(fits).map(|(offset, _)| offset).collect()
}
