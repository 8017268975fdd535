//! The rows, as data. A new row is a line here and, if the guest measures it, a line in guests/bench/bench.c.

/// One row of the table.
#[derive(Debug)]
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    /// What is to be reached.
    pub goal: Goal,
    /// One operation, in words.
    pub what: &'static str,
}

/// How a row is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The guest program measures its row of this name inside itself.
    Inside(&'static str),
    /// The same, with everything bound to one CPU.
    InsideOneCpu(&'static str),
    /// As `Inside`, but what runs natively is another row of the guest program: what there is without the short cut.
    Against { native: &'static str, inside: &'static str },
    /// A whole process, from spawn to exit.
    Whole(Program),
}

/// Programs whose whole life is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    HelloStatic,
    HelloDynamic,
    Python,
}

/// What a row is meant to reach on the reference machine.
#[derive(Debug, Clone, Copy)]
pub enum Goal {
    /// At most this many times native.
    Ratio(f64),
    /// At most this many nanoseconds.
    Nanos(f64),
    /// Nothing was promised.
    Free,
}

impl Goal {
    /// Is it reached? `None` when there is nothing to reach.
    pub fn met(self, coracle_ns: f64, ratio: f64) -> Option<bool> {
        match self {
            Self::Ratio(most) => Some(ratio <= most),
            Self::Nanos(most) => Some(coracle_ns <= most),
            Self::Free => None,
        }
    }
}

const fn inside(name: &'static str, goal: Goal, what: &'static str) -> Row {
    Row { name, kind: Kind::Inside(name), goal, what }
}

const fn one_cpu(name: &'static str, of: &'static str, goal: Goal, what: &'static str) -> Row {
    Row { name, kind: Kind::InsideOneCpu(of), goal, what }
}

const fn against(name: &'static str, native: &'static str, goal: Goal, what: &'static str) -> Row {
    Row { name, kind: Kind::Against { native, inside: name }, goal, what }
}

const fn whole(name: &'static str, program: Program, goal: Goal, what: &'static str) -> Row {
    Row { name, kind: Kind::Whole(program), goal, what }
}

use Goal::{Free, Nanos, Ratio};

pub const ROWS: &[Row] = &[
    inside("getpid", Ratio(0.05), "getpid()"),
    inside("getuid", Ratio(0.05), "getuid()"),
    inside("clock_gettime", Free, "clock_gettime(CLOCK_MONOTONIC), the vDSO's"),
    inside("null_port", Ratio(1.0), "getpriority(), which only the kernel can answer"),
    one_cpu("null_port_1cpu", "null_port", Free, "the same with both sides on one CPU"),
    inside("null_trap", Ratio(20.0), "the same from a site that cannot be rewritten"),
    one_cpu("null_trap_1cpu", "null_trap", Ratio(60.0), "null_trap with both sides on one CPU"),
    inside("read_dev_zero_1", Ratio(3.0), "read() of one byte of /dev/zero"),
    inside("read_dev_urandom_1", Ratio(0.1), "read() of one byte of /dev/urandom"),
    inside("getrandom_32", Free, "getrandom() of 32 bytes, the system call"),
    against(
        "getrandom_32_vdso",
        "getrandom_32",
        Ratio(0.25),
        "getrandom() of 32 bytes by the vDSO, beside the native system call",
    ),
    inside("pread_file_16", Free, "pread() of 16 bytes of a file"),
    inside("read_file_4k", Ratio(4.0), "read() of 4 KiB of a file, in order"),
    inside("read_file_1m", Ratio(1.5), "pread() of 1 MiB of a file"),
    inside("write_dev_null_4k", Ratio(4.0), "write() of 4 KiB to /dev/null"),
    inside("stat", Ratio(6.0), "stat() of a file"),
    inside("open_close", Ratio(6.0), "open() and close() of a file"),
    inside("mmap_touch_munmap_1m", Ratio(1.15), "mmap() of 1 MiB, a write to each page, munmap()"),
    inside("mmap_file_1m", Ratio(6.0), "mmap() of a 1 MiB file, a read of each page, munmap()"),
    inside("page_fault", Ratio(1.05), "the first write to a page"),
    inside("futex_pingpong", Ratio(1.15), "a round trip between two threads by futex"),
    one_cpu("futex_pingpong_1cpu", "futex_pingpong", Ratio(1.15), "the same on one CPU, which is steady"),
    inside("pipe_pingpong", Ratio(3.0), "a round trip between two processes by pipes"),
    one_cpu("pipe_pingpong_1cpu", "pipe_pingpong", Ratio(3.0), "the same on one CPU, which is steady"),
    inside("thread_create_join", Ratio(4.0), "pthread_create() and pthread_join()"),
    inside("fork_wait", Ratio(4.0), "fork(), _exit(), waitpid()"),
    inside("fork_exec_wait", Ratio(5.0), "fork(), execv() of a static program, waitpid()"),
    inside("signal_roundtrip", Ratio(6.0), "kill() of oneself, the handler, the return"),
    inside("cpu_loop", Ratio(1.02), "a thousand rounds of arithmetic"),
    whole("start_hello_static", Program::HelloStatic, Nanos(2.5e6), "a static program, from spawn to exit"),
    whole("start_hello_dynamic", Program::HelloDynamic, Free, "a dynamic program, from spawn to exit"),
    whole("start_python", Program::Python, Ratio(2.0), "/usr/bin/python3 -c pass, from spawn to exit"),
];

/// The rows of these names in the table's order, all of them for no names. The error is a name without a row.
pub fn choose(names: &[String]) -> Result<Vec<&'static Row>, String> {
    if let Some(unknown) = names.iter().find(|name| ROWS.iter().all(|row| row.name != name.as_str())) {
        return Err(unknown.clone());
    }
    Ok(ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_choose_rows() {
        assert_eq!(choose(&[]).unwrap().len(), ROWS.len());
        let two = choose(&["stat".into(), "getpid".into()]).unwrap();
        assert_eq!(two.iter().map(|row| row.name).collect::<Vec<_>>(), ["getpid", "stat"]);
        assert_eq!(choose(&["nonsense".into()]).unwrap_err(), "nonsense");
    }

    #[test]
    fn every_inside_row_is_in_the_guest() {
        for row in ROWS {
            let names: &[&str] = match &row.kind {
                Kind::Inside(name) | Kind::InsideOneCpu(name) => &[name],
                Kind::Against { native, inside } => &[native, inside],
                Kind::Whole(_) => &[],
            };
            for name in names {
                assert!(super::super::guest::SOURCE.contains(&format!("{{\"{name}\",")), "{name}");
            }
        }
    }
}
