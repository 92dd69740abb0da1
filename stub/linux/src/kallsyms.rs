//! The kernel's symbol table (`kernel/kallsyms.c`, `scripts/kallsyms.c`), found by the structure of its parts.
//!
//! No adjacency is assumed between the parts: distributions insert tables. Each is recognized by what it must satisfy:
//!
//! ```text
//!   token_table   256 NUL-terminated strings, the digits at 0x30..0x39
//!   token_index   256 u16 that equal the starts of those strings
//!   markers       offsets (u32, before 4.20 unsigned long) of every 256th name, from 0 upward
//!   names         length-prefixed token strings; walking 256 of them lands on marker[1], 512 on marker[2] ...
//!   num_syms      the number right before the names
//!   addresses     absolute words, or 32-bit offsets and a base (three ways): decoded every way and judged by the caller
//! ```

use dejavm_units::Gva;
use memchr::memmem;

/// Symbols in a block of `markers`.
const BLOCK: usize = 256;
/// A name's token string is at most this long: 2-byte lengths end at 0x3fff, real ones far earlier.
const NAME_TOKENS_MAX: usize = 2048;
/// More symbols than any kernel has.
const SYMBOLS_MAX: usize = 4 << 20;
/// How far before the token table names and markers may begin.
const REACH: usize = 24 << 20;

/// How an entry of the offsets becomes an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// Words (until 6.10, without `KALLSYMS_BASE_RELATIVE`).
    Absolute,
    /// Base + offset (since 4.6).
    Relative,
    /// Not negative: the value itself (a per-CPU offset); negative: base - 1 - offset (since 4.6, SMP).
    AbsolutePerCpu,
    /// Relative to the entry's own place (since 7.0).
    PlaceRelative,
}

/// A kernel's symbols.
#[derive(Clone, Debug)]
pub struct Symbols {
    tokens: Vec<u8>,
    token_index: Vec<u16>,
    names: Vec<u8>,
    markers: Vec<u32>,
    /// Runtime addresses, in the order of `names`.
    addresses: Vec<u64>,
    /// Lengths may take two bytes (since 6.1).
    big: bool,
}

/// A symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Its type letter, as `nm` shows it.
    pub kind: char,
    /// Its address in the running kernel; for a per-CPU variable of an older kernel, its offset.
    pub address: Gva,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().expect("two bytes")))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().expect("four bytes")))
}

fn word_at(bytes: &[u8], at: usize, word: usize) -> Option<u64> {
    if word == 4 {
        return u32_at(bytes, at).map(u64::from);
    }
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().expect("eight bytes")))
}

/// A name's length prefix: the number of tokens and of bytes of the prefix itself.
fn length(names: &[u8], at: usize, big: bool) -> Option<(usize, usize)> {
    let first = usize::from(*names.get(at)?);
    if big && first & 0x80 != 0 {
        return Some((first & 0x7f | usize::from(*names.get(at + 1)?) << 7, 2));
    }
    Some((first, 1))
}

/// Walks `count` names from `at`; where the next one begins. `None`: a length no name has.
fn skip(names: &[u8], mut at: usize, count: usize, big: bool) -> Option<usize> {
    for _ in 0..count {
        let (tokens, prefix) = length(names, at, big)?;
        // The type letter is part of the text, so no name is empty.
        if tokens == 0 || tokens > NAME_TOKENS_MAX {
            return None;
        }
        at += prefix + tokens;
    }
    (at <= names.len()).then_some(at)
}

struct Tokens {
    start: usize,
    index_start: usize,
    index_end: usize,
    index: Vec<u16>,
    end: usize,
}

/// The token table whose digits stand at `digits`.
fn tokens(image: &[u8], digits: usize) -> Option<Tokens> {
    const DIGIT_ZERO: usize = 0x30;
    // Tokens before the digits: 48 strings, rarely longer than 16 bytes.
    let lowest = digits.saturating_sub(DIGIT_ZERO * 32);
    let ends: Vec<usize> =
        (lowest..digits).rev().filter(|&at| image[at] == 0).take(DIGIT_ZERO + 1).collect();
    // The NUL before the first token may be padding, or missing where data ends in another byte: then the aligned
    // place after the NUL before it is tried, by the table's own alignment.
    let after_nul = ends.get(DIGIT_ZERO).map(|&nul| nul + 1);
    let first_end = *ends.get(DIGIT_ZERO - 1)?;
    let aligned = (first_end.saturating_sub(32)..=first_end).filter(|at| at % 4 == 0);
    after_nul.into_iter().chain(aligned).find_map(|start| tokens_from(image, start, digits))
}

fn tokens_from(image: &[u8], start: usize, digits: usize) -> Option<Tokens> {
    let mut index = Vec::with_capacity(256);
    let mut at = start;
    for token in 0..256 {
        if token == 0x30 && at != digits {
            return None;
        }
        index.push(u16::try_from(at - start).ok()?);
        let bytes = image.get(at..)?.iter().take(64).position(|&byte| byte == 0)?;
        at += bytes + 1;
    }
    // The index follows at the next multiple of 2, 4 or 8.
    for align in [8, 4, 2] {
        let index_start = at.next_multiple_of(align);
        if (0..256).all(|token| u16_at(image, index_start + 2 * token) == Some(index[token])) {
            return Some(Tokens {
                start,
                index_start,
                index_end: index_start + 512,
                index,
                end: at,
            });
        }
    }
    None
}

struct Markers {
    start: usize,
    width: usize,
    values: Vec<u32>,
}

/// Runs of marker-like numbers that begin in `image[from..to]`, longest first.
fn markers(image: &[u8], from: usize, to: usize) -> Vec<Markers> {
    let mut found: Vec<Markers> = Vec::new();
    for width in [4, 8] {
        let mut at = from.next_multiple_of(width);
        while at + 2 * width <= to {
            // Nearly every place fails here, and most memory is zeros.
            let second = word_at(image, at + width, width);
            if word_at(image, at, width) != Some(0) || second.is_none_or(|step| !is_step(step)) {
                at += width;
                continue;
            }
            let values = run(image, at, to, width);
            let count = values.len();
            if count >= 3 {
                found.push(Markers { start: at, width, values });
                at += width * (count - 1);
            } else {
                at += width;
            }
        }
    }
    found.sort_by_key(|markers| std::cmp::Reverse(markers.values.len()));
    found.truncate(8);
    found
}

/// Two tokens a name at least; a hundred and sixty at most on the average of a block.
fn is_step(bytes: u64) -> bool {
    (3 * BLOCK as u64..=160 * BLOCK as u64).contains(&bytes)
}

/// Numbers from 0 upward in steps that 256 names can take.
fn run(image: &[u8], start: usize, to: usize, width: usize) -> Vec<u32> {
    let mut values: Vec<u32> = Vec::new();
    let mut at = start;
    while at + width <= to {
        let Some(value) = word_at(image, at, width).and_then(|value| u32::try_from(value).ok())
        else {
            break;
        };
        let fits = match values.last() {
            None => value == 0,
            Some(&last) => value > last && is_step(u64::from(value - last)),
        };
        if !fits {
            break;
        }
        values.push(value);
        at += width;
    }
    values
}

/// Where names begin, and whether lengths may be big.
fn names(image: &[u8], markers: &Markers) -> Option<(usize, bool)> {
    let last = *markers.values.last()? as usize;
    let highest = markers.start.checked_sub(last)?;
    // The last block has at most 256 names, of 160 tokens on average.
    let lowest = highest.saturating_sub(BLOCK * 160 + 64);
    let lands = |start: usize, big: bool| {
        let mut at = start;
        markers.values.windows(2).all(|pair| match skip(image, at, BLOCK, big) {
            Some(next) => {
                at = next;
                next - start == pair[1] as usize
            }
            None => false,
        })
    };
    (lowest..=highest).rev().filter(|start| start % 4 == 0).find_map(|start| {
        [true, false].into_iter().find(|&big| lands(start, big)).map(|big| (start, big))
    })
}

impl Symbols {
    /// Finds the tables in `image`, whose first byte has linear address `base`, on a kernel with words of `word` bytes.
    /// `judge` decides which decoding of the addresses is right, given the addresses of `_text`, `_stext` and of
    /// further anchors by name.
    pub(crate) fn find(
        image: &[u8],
        base: Gva,
        word: usize,
        judge: &dyn Fn(&Symbols) -> bool,
    ) -> Option<Symbols> {
        let pattern = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
        memmem::find_iter(image, pattern)
            .take(64)
            .find_map(|digits| Symbols::around(image, base, word, &tokens(image, digits)?, judge))
    }

    fn around(
        image: &[u8],
        base: Gva,
        word: usize,
        tokens: &Tokens,
        judge: &dyn Fn(&Symbols) -> bool,
    ) -> Option<Symbols> {
        for markers in markers(image, tokens.start.saturating_sub(REACH), tokens.start) {
            let Some((names_start, big)) = names(image, &markers) else { continue };
            let blocks = markers.values.len();
            let last_block = names_start + *markers.values.last()? as usize;
            // The count stands before the names, aligned as they are.
            let count = [4, 8].into_iter().find_map(|gap| {
                let at = names_start.checked_sub(gap)?;
                let count = u32_at(image, at)? as usize;
                let fits =
                    count > (blocks - 1) * BLOCK && count <= blocks * BLOCK && count <= SYMBOLS_MAX;
                fits.then_some((count, at))
            });
            let Some((count, count_at)) = count else { continue };
            let Some(names_end) = skip(image, last_block, count - (blocks - 1) * BLOCK, big) else {
                continue;
            };
            if names_end > markers.start + markers.width * blocks && names_end > markers.start {
                continue;
            }
            let mut symbols = Symbols {
                tokens: image[tokens.start..tokens.end].to_vec(),
                token_index: tokens.index.clone(),
                names: image[names_start..names_end].to_vec(),
                markers: markers.values,
                addresses: Vec::new(),
                big,
            };
            if symbols.decode_addresses(image, base, word, count, count_at, tokens, judge) {
                return Some(symbols);
            }
        }
        None
    }

    /// Tries each place and encoding until `judge` is content.
    #[expect(clippy::too_many_arguments, reason = "one call, each a part of the tables")]
    fn decode_addresses(
        &mut self,
        image: &[u8],
        base: Gva,
        word: usize,
        count: usize,
        count_at: usize,
        tokens: &Tokens,
        judge: &dyn Fn(&Symbols) -> bool,
    ) -> bool {
        let mut tries: Vec<(usize, Encoding, u64)> = Vec::new();
        // Until 6.3: offsets, relative base, number of symbols, names. Alignment may leave a gap at each place.
        for gap in [0, 4] {
            let Some(base_at) = count_at.checked_sub(word + gap) else { continue };
            let Some(relative_base) = word_at(image, base_at, word) else { continue };
            for pad in [0, 4] {
                let Some(start) = base_at.checked_sub(4 * count + pad) else { continue };
                tries.push((start, Encoding::AbsolutePerCpu, relative_base));
                tries.push((start, Encoding::Relative, relative_base));
            }
            if let Some(start) = count_at.checked_sub(word * count + gap) {
                tries.push((start, Encoding::Absolute, 0));
            }
        }
        // Since 6.4: after the token index come offsets and relative base; since 7.0 no base.
        for align in [4, 8] {
            let start = tokens.index_end.next_multiple_of(align);
            let base_at = (start + 4 * count).next_multiple_of(word);
            if let Some(relative_base) = word_at(image, base_at, word) {
                tries.push((start, Encoding::AbsolutePerCpu, relative_base));
                tries.push((start, Encoding::Relative, relative_base));
            }
            tries.push((start, Encoding::PlaceRelative, 0));
        }
        debug_assert!(tokens.index_start >= tokens.start, "the index follows the table");
        for (start, encoding, relative_base) in tries {
            let Some(addresses) = decode(image, base, word, count, start, encoding, relative_base)
            else {
                continue;
            };
            self.addresses = addresses;
            if judge(self) {
                return true;
            }
        }
        false
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// No symbol at all.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The symbol's text, type letter first, from `at` in the names; and where the next begins.
    fn expand(&self, at: usize, text: &mut Vec<u8>) -> Option<usize> {
        text.clear();
        let (tokens, prefix) = length(&self.names, at, self.big)?;
        let bytes = self.names.get(at + prefix..at + prefix + tokens)?;
        for &token in bytes {
            let start = usize::from(self.token_index[usize::from(token)]);
            // The next token begins behind this one's zero.
            let next = self.token_index.get(usize::from(token) + 1).map(|&next| usize::from(next));
            text.extend_from_slice(self.tokens.get(start..next.unwrap_or(self.tokens.len()) - 1)?);
        }
        Some(at + prefix + tokens)
    }

    /// Calls `visit` with each symbol's address, type letter and name, until it returns `false`.
    pub(crate) fn each(&self, visit: &mut dyn FnMut(Gva, u8, &[u8]) -> bool) {
        let (mut at, mut text) = (0, Vec::new());
        for &address in &self.addresses {
            let Some(next) = self.expand(at, &mut text) else { return };
            if let Some((&kind, name)) = text.split_first()
                && !visit(Gva(address), kind, name)
            {
                return;
            }
            at = next;
        }
    }

    /// The addresses of the first symbols of these names, in one pass over the table. A name is put together only if it is as
    /// long as one of them: that is most of the time of finding a kernel.
    pub fn addresses_of<const N: usize>(&self, names: [&str; N]) -> [Option<Gva>; N] {
        let mut found = [None; N];
        let (mut at, mut text) = (0, Vec::new());
        let lengths = self.token_lengths();
        // The type letter is part of the text.
        let mut wanted_lengths = [false; 256];
        for name in names {
            wanted_lengths[(name.len() + 1).min(255)] = true;
        }
        for &address in &self.addresses {
            let Some((tokens, prefix)) = length(&self.names, at, self.big) else { break };
            let Some(bytes) = self.names.get(at + prefix..at + prefix + tokens) else { break };
            let count: usize =
                bytes.iter().map(|&token| usize::from(lengths[usize::from(token)])).sum();
            if wanted_lengths[count.min(255)] {
                if self.expand(at, &mut text).is_none() {
                    break;
                }
                for (slot, wanted) in found.iter_mut().zip(names) {
                    if slot.is_none() && text.get(1..) == Some(wanted.as_bytes()) {
                        *slot = Some(Gva(address));
                    }
                }
                if found.iter().all(Option::is_some) {
                    break;
                }
            }
            at += prefix + tokens;
        }
        found
    }

    /// Bytes of each token.
    fn token_lengths(&self) -> [u16; 256] {
        std::array::from_fn(|token| {
            let next = self.token_index.get(token + 1).copied();
            let end = next.map_or(self.tokens.len(), usize::from);
            // Behind each is a zero.
            (end - 1).saturating_sub(usize::from(self.token_index[token])) as u16
        })
    }

    /// The address of the first symbol of this name.
    pub fn address_of(&self, name: &str) -> Option<Gva> {
        self.addresses_of([name])[0]
    }

    /// The symbol at or before `at`: where in the kernel an address is. `None` for more than 16 MiB beyond the last one before it.
    pub fn symbol_at(&self, at: Gva) -> Option<Symbol> {
        // Offsets of per-CPU variables and small absolute values are no addresses; user addresses are not the kernel's.
        const LOWEST: u64 = 0x4000_0000;
        if at.0 < LOWEST {
            return None;
        }
        // Sorted by address, except for those offsets: take the best of all.
        let (number, &address) = self
            .addresses
            .iter()
            .enumerate()
            .filter(|&(_, &address)| {
                address >= LOWEST && address <= at.0 && at.0 - address < 16 << 20
            })
            .max_by_key(|&(number, &address)| (address, std::cmp::Reverse(number)))?;
        let mut place = *self.markers.get(number / BLOCK)? as usize;
        let mut text = Vec::new();
        for _ in 0..number % BLOCK {
            place = self.expand(place, &mut text)?;
        }
        self.expand(place, &mut text)?;
        let (&kind, name) = text.split_first()?;
        Some(Symbol {
            name: String::from_utf8_lossy(name).into_owned(),
            kind: char::from(kind),
            address: Gva(address),
        })
    }
}

fn decode(
    image: &[u8],
    base: Gva,
    word: usize,
    count: usize,
    start: usize,
    encoding: Encoding,
    relative_base: u64,
) -> Option<Vec<u64>> {
    let width = if encoding == Encoding::Absolute { word } else { 4 };
    let bytes = image.get(start..start.checked_add(width.checked_mul(count)?)?)?;
    let mask = if word == 4 { 0xffff_ffff } else { u64::MAX };
    let address = |(number, entry): (usize, &[u8])| {
        let value = word_at(entry, 0, width).expect("an entry of this width");
        let signed = value as u32 as i32;
        mask & match encoding {
            Encoding::Absolute => value,
            Encoding::Relative => relative_base.wrapping_add(value),
            Encoding::AbsolutePerCpu if signed >= 0 => value,
            Encoding::AbsolutePerCpu => {
                relative_base.wrapping_sub(1).wrapping_add_signed(-i64::from(signed))
            }
            Encoding::PlaceRelative => base
                .0
                .wrapping_add((start + 4 * number) as u64)
                .wrapping_add_signed(i64::from(signed)),
        }
    };
    Some(bytes.chunks_exact(width).enumerate().map(address).collect())
}
