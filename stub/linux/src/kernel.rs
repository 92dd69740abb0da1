//! A Linux kernel found in a guest, and how it is found.

use crate::btf::Btf;
use crate::correlate::Candidates;
use crate::image::{Anchors, Image, spaces};
use crate::kallsyms::Symbols;
use crate::layout::Layout;
use crate::paging::{Paging, Space};
use crate::reader::Reader;
use crate::view::GuestView;
use crate::vmcoreinfo::Vmcoreinfo;
use dejavm_units::{Gpa, Gva};
use memchr::memmem;
use std::sync::Arc;

/// Page reads that finding a kernel may take, the copy of its image apart.
const FIND_PAGES_MAX: u64 = 2 << 20;
/// Page reads that following a pointer may take.
const POINTER_PAGES_MAX: u64 = 64;
/// vCPUs that are looked at.
const VCPUS_MAX: usize = 256;

/// Why there is nothing to tell. Each is a sentence for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No vCPU has paging on.
    #[error("the guest has not switched paging on yet; try again at a later position")]
    NoPaging,
    /// Neither LSTAR, SYSENTER_EIP nor the IDT lead into a kernel.
    #[error(
        "the guest's kernel has not set its entry points yet, or it is no Linux; try again at a later position"
    )]
    NoEntryPoints,
    /// Nothing is mapped where Linux puts its image.
    #[error("no Linux kernel image is mapped where the entry points lead")]
    NoImage,
    /// The structures' layout is not known.
    #[error("the kernel has no type information (BTF) and the place of `{0}` is not known yet")]
    NoLayout(&'static str),
    /// The list of tasks is not there, or not yet.
    #[error("the kernel's list of tasks cannot be read at this position: {0}")]
    NoTasks(&'static str),
    /// `-l` and the kernel do not agree.
    #[error(
        "this kernel is of {0} bits; linuxoffsets takes -l for a kernel of 64 bits, and only for such"
    )]
    OtherWidth(u64),
    /// The line that the user gave does not fit the guest.
    #[error("these offsets do not fit the guest's kernel at this position: {0}")]
    Offsets(String),
}

/// How much of what introspection says has been checked against the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Every invariant held.
    Verified,
    /// It works, and this could not be checked or found.
    Partial(String),
}

impl std::fmt::Display for Confidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Confidence::Verified => f.write_str("verified"),
            Confidence::Partial(reason) => write!(f, "partial: {reason}"),
        }
    }
}

/// A Linux kernel: what does not change between two looks at it.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub(crate) layout: Layout,
    pub(crate) confidence: Confidence,
    pub(crate) paging: Paging,
    /// `init_top_pgt` or `swapper_pg_dir`: the kernel's own page tables.
    pub(crate) kernel_root: Option<Gpa>,
    pub(crate) init_task: Option<Gva>,
    pub(crate) image: Image,
    pub(crate) anchors: Anchors,
    /// Large, and never changed: shared by copies.
    pub(crate) symbols: Option<Arc<Symbols>>,
    pub(crate) facts: ImageFacts,
    /// Where in RAM [`ImageFacts::banner`] stands.
    pub(crate) banner_at: Option<Gpa>,
    /// What correlation has left so far, for a kernel without types.
    pub(crate) candidates: Option<Candidates>,
}

/// What a debugger wants to know of the kernel's image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Runtime address of `_text`, randomization included: gdb's `TextSeg` of `qOffsets`.
    pub text: Option<Gva>,
    /// `_etext`, `_end`: ends of the code and of the image.
    pub etext: Option<Gva>,
    /// End of the image.
    pub end: Option<Gva>,
    /// Physical address of `_text`.
    pub text_physical: Option<Gpa>,
    /// The GNU build id.
    pub build_id: Option<Vec<u8>>,
    /// `uname -r`.
    pub release: Option<String>,
    /// The line `Linux version ...`.
    pub banner: Option<String>,
    /// The page that holds the text of VMCOREINFO, ended by a zero.
    pub vmcoreinfo_at: Option<Gpa>,
}

impl Kernel {
    /// Finds the kernel of a machine at rest, needing nothing but the machine.
    pub fn find(view: &dyn GuestView) -> Result<Kernel, Reason> {
        Ok(Kernel::find_image(view)?.learn(view))
    }

    /// All that the machine tells of the kernel whose image this is.
    pub(crate) fn learn(mut self, view: &dyn GuestView) -> Kernel {
        let copy = self.image.copy(view);
        self.learn_from_image(view, &copy);
        self.find_init_task(view, &copy);
        if self.layout.missing().is_some() {
            // Whatever is missing yet, `check` says.
            let _ = self.observe_with(view, Some(&copy));
        }
        drop(copy);
        self.check(view);
        self
    }

    /// What the kernel says of itself: symbols, types, VMCOREINFO.
    pub(crate) fn learn_from_image(&mut self, view: &dyn GuestView, copy: &[u8]) {
        self.find_symbols(copy);
        self.find_root(view);
        let btf = Btf::find(copy);
        if let Some(layout) = btf.and_then(|btf| Layout::from_btf(&btf, self.pointer_bytes())) {
            self.layout = layout;
        }
        self.apply_symbols(view, copy);
    }

    /// Bytes of a pointer: 4 or 8.
    pub fn pointer_bytes(&self) -> u64 {
        match self.paging {
            Paging::TwoLevel | Paging::Pae => 4,
            Paging::FourLevel | Paging::FiveLevel => 8,
        }
    }

    /// An address of the kernel's half, which all processes share.
    pub fn is_kernel_address(&self, at: Gva) -> bool {
        match self.image.page_offset {
            Some(page_offset) => at.0 >= page_offset,
            None => at.0 >= 1 << 63,
        }
    }

    /// How far the running kernel is from where it was linked: what gdb's `symbol-file -o` takes. 0xffffffff81000000 on 64
    /// bits; on 32 bits 16 MiB above the start of the linear map, as `CONFIG_PHYSICAL_START` has it unless configured.
    pub fn slide(&self) -> Option<u64> {
        let linked = self
            .image
            .page_offset
            .map_or(0xffff_ffff_8100_0000, |page_offset| page_offset + 0x100_0000);
        Some(self.facts.text?.0.wrapping_sub(linked))
    }

    /// How much was checked.
    pub fn confidence(&self) -> &Confidence {
        &self.confidence
    }

    /// Where things are in the kernel's structures.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What a debugger wants to know of the image.
    pub fn facts(&self) -> &ImageFacts {
        &self.facts
    }

    /// The kernel's own entry points.
    pub fn anchors(&self) -> &Anchors {
        &self.anchors
    }

    /// The kernel's symbol table, if it was found.
    pub fn symbols(&self) -> Option<&Symbols> {
        self.symbols.as_deref()
    }

    /// `init_task`, if it is known.
    pub fn init_task(&self) -> Option<Gva> {
        self.init_task
    }

    /// The kernel's image as the page tables of some vCPU show it.
    pub(crate) fn find_image(view: &dyn GuestView) -> Result<Kernel, Reason> {
        let mut reason = Reason::NoPaging;
        let mut best: Option<Kernel> = None;
        for vcpu in 0..view.vcpus().min(VCPUS_MAX) {
            let cpu = view.cpu_state(vcpu);
            for space in spaces(&cpu) {
                let reader = Reader::new(view, space, FIND_PAGES_MAX);
                let anchors = Anchors::of(&cpu, &reader);
                if anchors.any().is_none() {
                    if reason == Reason::NoPaging {
                        reason = Reason::NoEntryPoints;
                    }
                    continue;
                }
                let Some(image) = Image::find(&reader, &anchors) else {
                    reason = Reason::NoImage;
                    continue;
                };
                // The user half of isolated page tables maps little of the image.
                if best.as_ref().is_none_or(|best| image.bytes > best.image.bytes) {
                    best = Some(Kernel {
                        layout: Layout::default(),
                        confidence: Confidence::Partial(
                            "only the kernel's image was looked for".to_owned(),
                        ),
                        paging: space.paging,
                        kernel_root: None,
                        init_task: None,
                        image,
                        anchors,
                        symbols: None,
                        facts: ImageFacts::default(),
                        banner_at: None,
                        candidates: None,
                    });
                }
            }
        }
        best.ok_or(reason)
    }

    pub(crate) fn find_symbols(&mut self, copy: &[u8]) {
        let Image { start, exact, .. } = self.image;
        let Anchors { syscall, sysenter, page_fault } = self.anchors;
        let judge = |symbols: &Symbols| {
            let [text, entry_64, entry_32, entry_compat, fault, old_fault] =
                symbols.addresses_of([
                    "_text",
                    "entry_SYSCALL_64",
                    "entry_SYSENTER_32",
                    "entry_SYSENTER_compat",
                    "asm_exc_page_fault",
                    "page_fault",
                ]);
            let equal =
                |symbol: Option<Gva>, anchor: Option<Gva>| symbol.is_some() && symbol == anchor;
            exact && text == Some(start)
                || equal(entry_64, syscall)
                || equal(entry_32, sysenter)
                || equal(entry_compat, sysenter)
                || equal(fault, page_fault)
                || equal(old_fault, page_fault)
        };
        self.symbols =
            Symbols::find(copy, start, self.pointer_bytes() as usize, &judge).map(Arc::new);
    }

    /// The page tables of `init_mm`, which no process takes with it when it ends.
    fn find_root(&mut self, view: &dyn GuestView) {
        let Some(symbols) = &self.symbols else { return };
        let [top, swapper, level4] =
            symbols.addresses_of(["init_top_pgt", "swapper_pg_dir", "init_level4_pgt"]);
        let root =
            [top, swapper, level4].into_iter().flatten().find_map(|at| self.image.to_physical(at));
        self.kernel_root = root.filter(|&root| {
            let space = Space { root, paging: self.paging };
            space.translate(view, self.image.start) == Some(self.image.physical)
        });
    }

    /// A space in which the kernel is mapped, now.
    pub(crate) fn kernel_space(&self, view: &dyn GuestView) -> Option<Space> {
        let maps = |space: &Space| {
            space.paging == self.paging
                && space.translate(view, self.image.start) == Some(self.image.physical)
        };
        if let Some(root) = self.kernel_root {
            return Some(Space { root, paging: self.paging }).filter(maps);
        }
        (0..view.vcpus().min(VCPUS_MAX))
            .flat_map(|vcpu| spaces(&view.cpu_state(vcpu)).into_iter().rev())
            .find(maps)
    }

    pub(crate) fn reader<'a>(&self, view: &'a dyn GuestView, pages_max: u64) -> Option<Reader<'a>> {
        Some(Reader::new(view, self.kernel_space(view)?, pages_max))
    }

    /// Takes from the symbols, VMCOREINFO and the image what they say about the kernel.
    pub(crate) fn apply_symbols(&mut self, view: &dyn GuestView, copy: &[u8]) {
        self.layout.pointer_bytes = self.pointer_bytes();
        let mut facts = ImageFacts::default();
        if self.image.exact {
            facts.text = Some(self.image.start);
        }
        let mut banner = None;
        let mut notes = (None, None);
        let mut stext = None;
        let mut vmcoreinfo = None;
        if let Some(symbols) = &self.symbols {
            let [
                text,
                stext_found,
                etext,
                end,
                init_task,
                current,
                stack_start,
                stack_end,
                linux_banner,
                notes_start,
                notes_end,
                vmcoreinfo_data,
            ] = symbols.addresses_of([
                "_text",
                "_stext",
                "_etext",
                "_end",
                "init_task",
                "current_task",
                "__start_init_task",
                "__end_init_task",
                "linux_banner",
                "__start_notes",
                "__stop_notes",
                "vmcoreinfo_data",
            ]);
            vmcoreinfo = vmcoreinfo_data;
            stext = stext_found;
            facts.text = text.or(facts.text);
            facts.etext = etext;
            facts.end = end;
            self.init_task = init_task;
            // Kernels that have `pcpu_hot` instead have no such symbol, and BTF told.
            if let Some(current) = current {
                self.layout.per_cpu_current = Some(current.0);
            }
            if let (Some(start), Some(end)) = (stack_start, stack_end) {
                let bytes = end.0.wrapping_sub(start.0);
                self.layout.thread_size = (bytes.is_power_of_two()
                    && (0x1000..=0x10_0000).contains(&bytes))
                .then_some(bytes);
            }
            banner = linux_banner;
            notes = (notes_start, notes_end);
        }
        facts.text_physical = facts.text.and_then(|text| self.image.to_physical(text));
        // The information must be about this kernel, not one that ran before a reboot.
        let agrees = |info: &Vmcoreinfo| match (info.symbol("_stext"), stext) {
            (Some(said), Some(found)) => said == found,
            (Some(said), None) => self.image.to_physical(said).is_some(),
            (None, _) => true,
        };
        // Where the kernel itself remembers it; else at the start of some page.
        let remembered = vmcoreinfo.and_then(|pointer| {
            let reader = self.reader(view, POINTER_PAGES_MAX)?;
            let at = reader.translate(reader.pointer_at(pointer, 0)?)?;
            Some((at, Vmcoreinfo::at(view, at).filter(|info| agrees(info))?))
        });
        let found = remembered.or_else(|| Vmcoreinfo::find(view, &agrees));
        facts.vmcoreinfo_at = found.as_ref().map(|(at, _)| *at);
        let info = found.map(|(_, info)| info);
        let banner = self.banner(copy, banner);
        self.banner_at =
            banner.as_ref().map(|(at, _)| self.image.physical.wrapping_add(*at as u64));
        facts.banner = banner.map(|(_, text)| text);
        facts.build_id = info
            .as_ref()
            .and_then(Vmcoreinfo::build_id)
            .or_else(|| build_id(self.slice(copy, notes.0?, notes.1?)?));
        facts.release =
            info.as_ref().and_then(|info| info.value("OSRELEASE")).map(str::to_owned).or_else(
                || {
                    let banner = facts.banner.as_ref()?;
                    banner.strip_prefix("Linux version ")?.split(' ').next().map(str::to_owned)
                },
            );
        if self.kernel_root.is_none()
            && let Some(info) = &info
        {
            let root = info.symbol("swapper_pg_dir").or(info.symbol("init_top_pgt"));
            self.kernel_root = root.and_then(|root| self.image.to_physical(root)).filter(|&root| {
                let space = Space { root, paging: self.paging };
                space.translate(view, self.image.start) == Some(self.image.physical)
            });
        }
        self.facts = facts;
    }

    fn slice<'a>(&self, copy: &'a [u8], start: Gva, end: Gva) -> Option<&'a [u8]> {
        let from = start.0.checked_sub(self.image.start.0)? as usize;
        let to = end.0.checked_sub(self.image.start.0)? as usize;
        copy.get(from..to)
    }

    /// The line `Linux version ...`, at its symbol or anywhere in the image, and its offset there.
    fn banner(&self, copy: &[u8], at: Option<Gva>) -> Option<(usize, String)> {
        let line = |at: usize| {
            let bytes: Vec<u8> = copy
                .get(at..)?
                .iter()
                .copied()
                .take(512)
                .take_while(|&byte| byte != 0 && byte != b'\n')
                .collect();
            let text = String::from_utf8(bytes).ok()?;
            // The same words stand in format strings.
            let digit = text
                .strip_prefix("Linux version ")?
                .starts_with(|first: char| first.is_ascii_digit());
            digit.then_some((at, text))
        };
        if let Some(found) = at.and_then(|at| line(at.0.checked_sub(self.image.start.0)? as usize))
        {
            return Some(found);
        }
        memmem::find_iter(copy, b"Linux version ").take(256).find_map(line)
    }
}

/// The build id in a run of ELF notes (type 3, owner `GNU`).
fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let mut at: usize = 0;
    let field = |at: usize| {
        let bytes = notes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().expect("four bytes")) as usize)
    };
    loop {
        let (name_bytes, bytes, kind) = (field(at)?, field(at + 4)?, field(at + 8)?);
        let name = at + 12;
        let content = name.checked_add(name_bytes.checked_next_multiple_of(4)?)?;
        let end = content.checked_add(bytes)?;
        if kind == 3 && notes.get(name..name + 4) == Some(b"GNU\0".as_slice()) && bytes <= 64 {
            return notes.get(content..end).map(<[u8]>::to_vec);
        }
        at = end.checked_next_multiple_of(4)?;
    }
}
