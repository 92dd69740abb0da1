//! Guests made at random: nested loops, branches on data, string instructions, calls, recursion, exceptions, loops without any
//! conditional branch, device accesses. They run for ever.

/// xorshift64: reproducible.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a program is made of besides.
#[derive(Clone, Copy)]
pub struct Ingredients {
    /// One block in so many is a device access.
    pub exit_in: u64,
    /// Loops without a conditional branch whose counter is in memory, and in no register.
    pub memory_loops: bool,
}

/// R8 to R11 count loops; deeper ones there are not.
const DEPTH_MAX: u8 = 4;
/// Bytes of data behind RBX that are accessed.
const DATA_BYTES: u64 = 0x1000;

struct Assembler {
    code: Vec<u8>,
    random: Random,
    ingredients: Ingredients,
}

/// A program for [`super::machine::Machine`].
pub fn generate(seed: u64, ingredients: Ingredients) -> Vec<u8> {
    let mut asm = Assembler { code: Vec::new(), random: Random::new(seed), ingredients };
    let blocks = 3 + asm.random.below(6);
    asm.blocks(blocks, 0);
    asm.chaos();
    // jrcxz to the next: no round without a conditional branch. jmp top
    asm.put(&[0xe3, 0x00]);
    let back = -(asm.code.len() as i32 + 5);
    asm.code.push(0xe9);
    asm.code.extend(back.to_le_bytes());
    asm.code
}

impl Assembler {
    fn put(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    fn put_with(&mut self, bytes: &[u8], number: u32) {
        self.put(bytes);
        self.put(&number.to_le_bytes());
    }

    fn place_in_data(&mut self) -> u32 {
        (self.random.below(DATA_BYTES / 8) * 8) as u32
    }

    /// A register that never is twice what it was: imul rax, rax, odd; add rax, odd.
    fn chaos(&mut self) {
        self.put_with(&[0x48, 0x69, 0xc0], 0x5851_f42d);
        self.put_with(&[0x48, 0x05], 0x1405_7b7f);
    }

    fn blocks(&mut self, count: u64, depth: u8) {
        for _ in 0..count {
            self.block(depth);
        }
    }

    fn block(&mut self, depth: u8) {
        self.chaos();
        if self.random.once_in(self.ingredients.exit_in) {
            // in al, 0x81, or out 0x80, al
            let access = if self.random.once_in(2) { [0xe4, 0x81] } else { [0xe6, 0x80] };
            self.put(&access);
        }
        let deeper = depth < DEPTH_MAX;
        match self.random.below(13) {
            0..=2 if deeper => self.counted_loop(depth),
            3 => self.branch_on_data(depth),
            4 => self.string(),
            5 => self.loop_instruction(),
            6 => self.call(depth),
            // ud2, whose handler skips it; int 0x30
            7 => self.put(&[0x0f, 0x0b]),
            8 => self.put(&[0xcd, 0x30]),
            // mov edx, 0x10; mov ss, edx; inc r12
            9 => self.put(&[0xba, 0x10, 0, 0, 0, 0x8e, 0xd2, 0x49, 0xff, 0xc4]),
            10 if self.ingredients.memory_loops => self.loop_in_memory(),
            10 => self.loop_without_branches(),
            11 => self.recursion(),
            // add [rbx + n], rax; jrcxz to the next
            _ => {
                let at = self.place_in_data();
                self.put_with(&[0x48, 0x01, 0x83], at);
                self.put(&[0xe3, 0x00]);
            }
        }
    }

    fn counted_loop(&mut self, depth: u8) {
        let times = 1 + self.random.below(6) as u32;
        // mov r8d + depth, times
        self.put_with(&[0x41, 0xb8 + depth], times);
        let top = self.code.len();
        let blocks = 1 + self.random.below(2);
        self.blocks(blocks, depth + 1);
        // dec r8d + depth; jnz top
        self.put(&[0x41, 0xff, 0xc8 + depth]);
        let back = top as i32 - (self.code.len() as i32 + 6);
        self.put_with(&[0x0f, 0x85], back as u32);
    }

    fn branch_on_data(&mut self, depth: u8) {
        // test eax, bit; jz behind
        let bit = 1 << (8 + self.random.below(24));
        self.put_with(&[0xa9], bit);
        self.put_with(&[0x0f, 0x84], 0);
        let from = self.code.len();
        if depth < DEPTH_MAX && self.random.once_in(2) {
            self.block(depth + 1);
        }
        // inc r12
        self.put(&[0x49, 0xff, 0xc4]);
        let distance = (self.code.len() - from) as u32;
        self.code[from - 4..from].copy_from_slice(&distance.to_le_bytes());
    }

    fn string(&mut self) {
        let (from, to) = (self.place_in_data(), self.place_in_data());
        // lea rsi, [rbx + from]; lea rdi, [rbx + to]; mov ecx, n (0 too)
        self.put_with(&[0x48, 0x8d, 0xb3], from);
        self.put_with(&[0x48, 0x8d, 0xbb], to);
        let n = self.random.below(25) as u32;
        self.put_with(&[0xb9], n);
        match self.random.below(6) {
            0 => self.put(&[0xf3, 0xaa]),
            1 => self.put(&[0xf3, 0x48, 0xab]),
            2 => self.put(&[0xf3, 0xa4]),
            3 => self.put(&[0xf3, 0x48, 0xa5]),
            // repe cmpsb; repne scasb
            4 => self.put(&[0xf3, 0xa6]),
            _ => self.put(&[0xf2, 0xae]),
        }
    }

    fn loop_instruction(&mut self) {
        // mov ecx, n; add r12, rcx; loop; the second without a body
        let n = 1 + self.random.below(12) as u32;
        self.put_with(&[0xb9], n);
        self.put(&[0x49, 0x01, 0xcc, 0xe2, 0xfb]);
        self.put_with(&[0xb9], n);
        self.put(&[0xe2, 0xfe]);
    }

    fn call(&mut self, depth: u8) {
        // jmp over; f: ...; ret; over: call f
        self.put_with(&[0xe9], 0);
        let from = self.code.len();
        if depth < DEPTH_MAX {
            self.block(depth + 1);
        }
        self.put(&[0x49, 0xff, 0xc4, 0xc3]);
        let distance = (self.code.len() - from) as u32;
        self.code[from - 4..from].copy_from_slice(&distance.to_le_bytes());
        let back = from as i32 - (self.code.len() as i32 + 5);
        self.put_with(&[0xe8], back as u32);
    }

    /// mov ecx, n; call f; jmp over; f: jrcxz out; dec ecx; push rax; call f; pop rax; out: ret
    fn recursion(&mut self) {
        let n = self.random.below(10) as u32;
        self.put_with(&[0xb9], n);
        self.put(&[0xe8, 2, 0, 0, 0, 0xeb, 12]);
        self.put(&[0xe3, 9, 0xff, 0xc9, 0x50, 0xe8, (-10i8) as u8, 0xff, 0xff, 0xff, 0x58, 0xc3]);
    }

    /// Rounds that only R13 tells apart: mov r13d, n; top: dec r13; lea rdx, behind; lea rdi, top; test r13, r13; cmovnz rdx, rdi;
    /// jmp rdx
    fn loop_without_branches(&mut self) {
        let n = 2 + self.random.below(5) as u32;
        self.put_with(&[0x41, 0xbd], n);
        self.put(&[0x49, 0xff, 0xcd, 0x48, 0x8d, 0x15, 16, 0, 0, 0]);
        self.put(&[0x48, 0x8d, 0x3d, (-17i8) as u8, 0xff, 0xff, 0xff]);
        self.put(&[0x4d, 0x85, 0xed, 0x48, 0x0f, 0x45, 0xd7, 0xff, 0xe2]);
    }

    /// Rounds that nothing but memory tells apart: mov qword [rbx + n], 6; top: lea rdx, top; lea rdi, behind; dec qword [rbx + n];
    /// cmovz rdx, rdi; test rbx, rbx; jmp rdx
    fn loop_in_memory(&mut self) {
        let at = self.place_in_data();
        self.put_with(&[0x48, 0xc7, 0x83], at);
        self.put(&6u32.to_le_bytes());
        self.put(&[0x48, 0x8d, 0x15, (-7i8) as u8, 0xff, 0xff, 0xff]);
        self.put(&[0x48, 0x8d, 0x3d, 16, 0, 0, 0]);
        self.put_with(&[0x48, 0xff, 0x8b], at);
        self.put(&[0x48, 0x0f, 0x44, 0xd7, 0x48, 0x85, 0xdb, 0xff, 0xe2]);
    }
}
