//! The line of offsets that the 2007 product's `linuxoffsets` command takes.

use crate::kernel::{Confidence, Kernel, Reason};
use crate::layout::Layout;
use crate::view::GuestView;
use dejavm_units::Gva;
use memchr::memmem;
use std::fmt;
use std::str::FromStr;

/// The fields in their order, as `monitor help linuxoffsets` prints them.
pub const FIELDS: [(&str, &str); 14] = [
    ("version", "the kernel's version: major << 16 | minor << 8 | patch"),
    ("mm", "offset in task_struct"),
    ("next_task", "offset in task_struct (2.4 kernels)"),
    ("tasks", "offset in task_struct (2.6 and later)"),
    ("comm", "offset in task_struct"),
    ("pid", "offset in task_struct"),
    ("thread", "offset in task_struct"),
    ("pgd", "offset in mm_struct"),
    ("esp0|rsp0", "offset in thread_struct"),
    ("fs", "offset in thread_struct"),
    ("threadsize", "THREAD_SIZE, bytes of a kernel stack"),
    ("group_leader", "offset in task_struct"),
    ("thread_group", "offset in task_struct"),
    ("commsize", "bytes of comm"),
];

/// Offsets are within structures, and none of those is larger.
const OFFSET_MAX: u64 = 1 << 20;

/// `[-l] version,mm,next_task,tasks,comm,pid,thread,pgd,esp0|rsp0,fs,threadsize,group_leader,thread_group,commsize`, in
/// hexadecimal, 0 for what the kernel does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the line's names, see FIELDS")]
pub struct LinuxOffsets {
    /// `-l`: a kernel of 64 bits.
    pub long: bool,
    pub version: u64,
    pub mm: u64,
    pub next_task: u64,
    pub tasks: u64,
    pub comm: u64,
    pub pid: u64,
    pub thread: u64,
    pub pgd: u64,
    pub sp0: u64,
    pub fs: u64,
    pub threadsize: u64,
    pub group_leader: u64,
    pub thread_group: u64,
    pub commsize: u64,
}

/// Why a line was refused, as a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OffsetsError {
    /// Too few or too many.
    #[error(
        "linuxoffsets takes 14 fields separated by commas, here are {0}; the next one missing would be `{1}`"
    )]
    TooFew(usize, &'static str),
    /// More than there are.
    #[error(
        "linuxoffsets takes 14 fields separated by commas, here are {0}; `commsize` is the last one"
    )]
    TooMany(usize),
    /// Not a number.
    #[error("field {number} of linuxoffsets, `{field}`, is not a hexadecimal number: `{text}`")]
    NotHexadecimal {
        /// Counted from 1.
        number: usize,
        /// Its name.
        field: &'static str,
        /// What stands there.
        text: String,
    },
    /// No such offset can be.
    #[error("field {number} of linuxoffsets, `{field}`, cannot be {value:#x}: {why}")]
    Impossible {
        /// Counted from 1.
        number: usize,
        /// Its name.
        field: &'static str,
        /// What stands there.
        value: u64,
        /// The rule.
        why: &'static str,
    },
    /// An option other than `-l`.
    #[error("linuxoffsets knows the option -l (a kernel of 64 bits), not `{0}`")]
    Option(String),
}

impl LinuxOffsets {
    fn values(&self) -> [u64; 14] {
        [
            self.version,
            self.mm,
            self.next_task,
            self.tasks,
            self.comm,
            self.pid,
            self.thread,
            self.pgd,
            self.sp0,
            self.fs,
            self.threadsize,
            self.group_leader,
            self.thread_group,
            self.commsize,
        ]
    }

    fn from_values(long: bool, values: [u64; 14]) -> LinuxOffsets {
        let [
            version,
            mm,
            next_task,
            tasks,
            comm,
            pid,
            thread,
            pgd,
            sp0,
            fs,
            threadsize,
            group_leader,
            thread_group,
            commsize,
        ] = values;
        LinuxOffsets {
            long,
            version,
            mm,
            next_task,
            tasks,
            comm,
            pid,
            thread,
            pgd,
            sp0,
            fs,
            threadsize,
            group_leader,
            thread_group,
            commsize,
        }
    }

    /// The line for a kernel of this layout. `version` as in `uname -r`, such as `6.1.0-50-amd64`.
    pub fn of(layout: &Layout, version: &str) -> LinuxOffsets {
        let or_zero = |offset: Option<u64>| offset.unwrap_or(0);
        LinuxOffsets {
            long: layout.pointer_bytes == 8,
            version: version_number(version),
            mm: or_zero(layout.mm),
            next_task: or_zero(layout.next_task),
            tasks: or_zero(layout.tasks),
            comm: or_zero(layout.comm),
            pid: or_zero(layout.pid),
            thread: or_zero(layout.thread),
            pgd: or_zero(layout.pgd),
            sp0: or_zero(layout.thread_sp0),
            fs: or_zero(layout.thread_fs),
            threadsize: or_zero(layout.thread_size),
            group_leader: or_zero(layout.group_leader),
            thread_group: or_zero(layout.thread_group),
            commsize: or_zero(layout.comm_bytes),
        }
    }

    /// Puts what the line says over what a layout says.
    fn apply(&self, layout: &mut Layout) {
        let mut put =
            |slot: fn(&mut Layout) -> &mut Option<u64>, value: u64, zero_is_an_offset: bool| {
                if value != 0 || zero_is_an_offset {
                    *slot(layout) = Some(value);
                }
            };
        put(|layout| &mut layout.mm, self.mm, false);
        put(|layout| &mut layout.next_task, self.next_task, false);
        put(|layout| &mut layout.tasks, self.tasks, false);
        put(|layout| &mut layout.comm, self.comm, false);
        put(|layout| &mut layout.pid, self.pid, false);
        put(|layout| &mut layout.thread, self.thread, false);
        // `pgd` was the first field of `mm_struct` of no kernel.
        put(|layout| &mut layout.pgd, self.pgd, false);
        put(|layout| &mut layout.thread_sp0, self.sp0, false);
        put(|layout| &mut layout.thread_fs, self.fs, false);
        put(|layout| &mut layout.thread_size, self.threadsize, false);
        put(|layout| &mut layout.group_leader, self.group_leader, false);
        put(|layout| &mut layout.thread_group, self.thread_group, false);
        put(|layout| &mut layout.comm_bytes, self.commsize, false);
    }

    fn check(&self) -> Result<(), OffsetsError> {
        let impossible = |index: usize, value, why| {
            Err(OffsetsError::Impossible { number: index + 1, field: FIELDS[index].0, value, why })
        };
        for (index, value) in self.values().into_iter().enumerate().skip(1) {
            let offset = FIELDS[index].1.starts_with("offset");
            if offset && value >= OFFSET_MAX {
                return impossible(index, value, "no structure of the kernel is that large");
            }
        }
        if self.threadsize != 0
            && !(self.threadsize.is_power_of_two()
                && (0x1000..=0x10_0000).contains(&self.threadsize))
        {
            return impossible(
                10,
                self.threadsize,
                "a kernel stack is a power of two of at least 0x1000 bytes",
            );
        }
        if self.commsize > 64 {
            return impossible(13, self.commsize, "a name has at most 0x40 bytes");
        }
        if self.tasks == 0 && self.next_task == 0 {
            return impossible(3, 0, "either it or `next_task` must be given");
        }
        for (index, value) in [(1, self.mm), (4, self.comm), (5, self.pid), (7, self.pgd)] {
            if value == 0 {
                return impossible(index, 0, "no process can be found without it");
            }
        }
        Ok(())
    }
}

/// `6.1.0-50-amd64` as 0x60100; a number above 255 stays 255.
fn version_number(text: &str) -> u64 {
    let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
    let mut next = || numbers.next().and_then(|digits| digits.parse::<u64>().ok()).unwrap_or(0);
    let (major, minor, patch) = (next(), next(), next());
    major.min(0xffff) << 16 | minor.min(0xff) << 8 | patch.min(0xff)
}

impl FromStr for LinuxOffsets {
    type Err = OffsetsError;

    fn from_str(line: &str) -> Result<LinuxOffsets, OffsetsError> {
        let mut rest = line.trim();
        let mut long = false;
        while let Some(option) = rest.strip_prefix('-') {
            let (name, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
            if name != "l" {
                return Err(OffsetsError::Option(format!("-{name}")));
            }
            long = true;
            rest = after.trim_start();
        }
        let texts: Vec<&str> = rest.split(',').map(str::trim).collect();
        let mut values = [0; 14];
        for (index, text) in texts.iter().copied().enumerate().take(values.len()) {
            let digits =
                text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
            let hexadecimal =
                !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
            let value = hexadecimal.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
            values[index] = value.ok_or_else(|| OffsetsError::NotHexadecimal {
                number: index + 1,
                field: FIELDS[index].0,
                text: text.chars().take(40).collect(),
            })?;
        }
        if texts.len() < values.len() {
            return Err(OffsetsError::TooFew(texts.len(), FIELDS[texts.len()].0));
        }
        if texts.len() > values.len() {
            return Err(OffsetsError::TooMany(texts.len()));
        }
        let offsets = LinuxOffsets::from_values(long, values);
        offsets.check()?;
        Ok(offsets)
    }
}

impl fmt::Display for LinuxOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.long {
            f.write_str("-l ")?;
        }
        for (index, value) in self.values().into_iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            // `0` is written plainly, as the product's helper did.
            if value == 0 { write!(f, "{comma}0")? } else { write!(f, "{comma}{value:#x}")? }
        }
        Ok(())
    }
}

impl Kernel {
    /// A kernel whose structures the user describes. The line wins over what the kernel says of itself; what it does not
    /// name (stack, state) is taken from BTF or recognized. Without symbols, `init_task` is the task called `swapper` in the
    /// kernel's data.
    pub fn with_offsets(view: &dyn GuestView, offsets: &LinuxOffsets) -> Result<Kernel, Reason> {
        let mut kernel = Kernel::find_image(view)?;
        if offsets.long != (kernel.pointer_bytes() == 8) {
            return Err(Reason::OtherWidth(kernel.pointer_bytes() * 8));
        }
        let copy = kernel.image.copy(view);
        kernel.learn_from_image(view, &copy);
        if kernel.layout.missing().is_some() {
            // What the line has no field for (stack, state) may be recognized; what is not stays unknown.
            let _ = kernel.observe_with(view, Some(&copy));
            kernel.candidates = None;
        }
        offsets.apply(&mut kernel.layout);
        kernel.find_init_task(view, &copy);
        kernel.check(view);
        if let Confidence::Partial(reason) = &kernel.confidence
            && kernel.tasks(view).is_err()
        {
            return Err(Reason::Offsets(reason.clone()));
        }
        Ok(kernel)
    }

    /// `init_task` without its symbol: the structure in the kernel's data whose `comm` says `swapper` and whose list closes.
    pub(crate) fn find_init_task(&mut self, view: &dyn GuestView, copy: &[u8]) {
        const TRIES: usize = 256;
        let Ok(reader) = self.task_reader(view) else { return };
        let fits = |kernel: &Kernel, task: Gva| {
            kernel.looks_like_task(&reader, task)
                && kernel.next_leader(&reader, task).is_some_and(|next| next != task)
        };
        if self.init_task.is_some_and(|task| fits(self, task)) {
            return;
        }
        let Some(comm) = self.layout.comm else { return };
        self.init_task = memmem::find_iter(copy, b"swapper").take(TRIES).find_map(|at| {
            let task = Gva(self.image.start.0.checked_add(at as u64)?.checked_sub(comm)?);
            fits(self, task).then_some(task)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The product's examples.
    const UBUNTU_7_04: &str =
        "0x20614,0x80,0,0x68,0x194,0xa4,0x1b0,0x24,0x18,0x28,0x2000,0xc4,0xec,0x10";

    #[test]
    fn the_products_line_is_read_and_printed() {
        let offsets: LinuxOffsets = UBUNTU_7_04.parse().unwrap();
        assert_eq!(offsets.version, 0x20614);
        assert_eq!(
            (offsets.mm, offsets.next_task, offsets.tasks, offsets.comm),
            (0x80, 0, 0x68, 0x194)
        );
        assert_eq!(
            (offsets.pid, offsets.thread, offsets.pgd, offsets.sp0),
            (0xa4, 0x1b0, 0x24, 0x18)
        );
        assert_eq!((offsets.fs, offsets.threadsize), (0x28, 0x2000));
        assert_eq!(
            (offsets.group_leader, offsets.thread_group, offsets.commsize),
            (0xc4, 0xec, 0x10)
        );
        assert!(!offsets.long);
        assert_eq!(offsets.to_string(), UBUNTU_7_04);
        let long = format!("  -l {}", UBUNTU_7_04.replace(',', " , "));
        let long: LinuxOffsets = long.parse().unwrap();
        assert!(long.long);
        assert_eq!(long.to_string(), format!("-l {UBUNTU_7_04}"));
        // Digits without a prefix, and of a 2.4 kernel.
        let old: LinuxOffsets = "20407,2c,48,0,236,6c,260,c,0,0,0,0,0,0".parse().unwrap();
        assert_eq!((old.next_task, old.tasks), (0x48, 0));
    }

    #[test]
    fn a_bad_line_is_refused_with_the_fields_name() {
        let refused = |line: &str| line.parse::<LinuxOffsets>().unwrap_err().to_string();
        assert_eq!(
            refused(""),
            "field 1 of linuxoffsets, `version`, is not a hexadecimal number: ``"
        );
        assert_eq!(
            refused("0x20614,0x80"),
            "linuxoffsets takes 14 fields separated by commas, here are 2; the next one missing would be `next_task`"
        );
        assert_eq!(
            refused(&UBUNTU_7_04.replace("0xa4", "pid")),
            "field 6 of linuxoffsets, `pid`, is not a hexadecimal number: `pid`"
        );
        assert_eq!(
            refused(&UBUNTU_7_04.replace("0x80", "+80")),
            "field 2 of linuxoffsets, `mm`, is not a hexadecimal number: `+80`"
        );
        assert_eq!(
            refused(&UBUNTU_7_04.replace("0x194", "0xffffffffffffffffff")),
            "field 5 of linuxoffsets, `comm`, is not a hexadecimal number: `0xffffffffffffffffff`"
        );
        assert_eq!(
            refused(&UBUNTU_7_04.replace("0x194", "0xffffffffffffffff")),
            "field 5 of linuxoffsets, `comm`, cannot be 0xffffffffffffffff: no structure of the kernel is that large"
        );
        assert_eq!(
            refused(&UBUNTU_7_04.replace("0x2000", "0x1fff")),
            "field 11 of linuxoffsets, `threadsize`, cannot be 0x1fff: a kernel stack is a power of two of at least 0x1000 bytes"
        );
        assert_eq!(
            refused(&format!("{UBUNTU_7_04},1")),
            "linuxoffsets takes 14 fields separated by commas, here are 15; `commsize` is the last one"
        );
        assert_eq!(
            refused(&format!("-x {UBUNTU_7_04}")),
            "linuxoffsets knows the option -l (a kernel of 64 bits), not `-x`"
        );
        assert_eq!(
            refused(&UBUNTU_7_04.replace("0x68", "0")),
            "field 4 of linuxoffsets, `tasks`, cannot be 0x0: either it or `next_task` must be given"
        );
    }

    #[test]
    fn versions() {
        assert_eq!(version_number("6.1.0-50-amd64"), 0x6_0100);
        assert_eq!(version_number("2.6.20-15-generic"), 0x2_0614);
        assert_eq!(version_number("4.9.337"), 0x4_09ff);
        assert_eq!(version_number("nonsense"), 0);
    }
}
