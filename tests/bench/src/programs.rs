//! The guest programs that are measured, by the names that `images/bench/programs` knows.

/// What a program stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// User code that stays in one loop: judged by the geometric mean of all of them.
    Hot,
    /// Much code, none of it hot.
    Large,
    /// Everything else, judged one by one.
    Other,
}

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What it stands for.
    pub group: Group,
}

const fn program(name: &'static str, group: Group) -> Program {
    Program { name, group }
}

/// All of them, in the order of the table.
pub const PROGRAMS: [Program; 22] = [
    program("fib", Group::Hot),
    program("sieve", Group::Hot),
    program("qsort", Group::Hot),
    program("crc", Group::Hot),
    program("hash", Group::Hot),
    program("bytecode", Group::Hot),
    program("lz", Group::Hot),
    program("sha256", Group::Hot),
    program("strings", Group::Hot),
    program("matmul", Group::Hot),
    program("list", Group::Hot),
    program("objects", Group::Hot),
    program("large", Group::Large),
    program("float", Group::Other),
    program("sha256sum", Group::Other),
    program("gzip", Group::Other),
    program("syscall", Group::Other),
    program("fork", Group::Other),
    program("exec", Group::Other),
    program("pingpong", Group::Other),
    program("fault", Group::Other),
    program("mprotect", Group::Other),
];

impl Group {
    /// The ratio to QEMU's speed that is wanted of the group: of its geometric mean, or of each program.
    pub fn wanted(self) -> f64 {
        match self {
            Group::Hot => 4.0,
            Group::Large => 6.0,
            Group::Other => 1.5,
        }
    }
}

/// The program of that name.
pub fn named(name: &str) -> Option<Program> {
    PROGRAMS.into_iter().find(|program| program.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_knows_every_program() {
        let script = include_str!("../../../images/bench/programs");
        for program in PROGRAMS {
            let case = format!("        {}) echo \"", program.name);
            assert_eq!(script.matches(&case).count(), 1, "{}", program.name);
            assert_eq!(named(program.name), Some(program));
        }
        assert_eq!(script.matches(") echo \"").count(), PROGRAMS.len() + 1, "one more: `*)`");
        assert_eq!(named("doom"), None);
    }
}
