//! What a new program finds on its stack: `create_elf_tables()` in Linux's `fs/binfmt_elf.c`.
//!
//! From the top down: eight zero bytes, the name of the file, the environment, the arguments, a random gap, the
//! platform's name, sixteen random bytes, padding, the auxiliary vector, `envp`, `argv`, `argc` (here `rsp`
//! points, a multiple of 16).

use std::ops::Range;

use crate::args::ArgSpace;
use crate::error::ArgError;
use crate::header::PHDR_SIZE;
use crate::plan::ProgramPlan;
use crate::{PAGE_SIZE, TASK_SIZE};

const PLATFORM: &[u8] = b"x86_64\0";
const WORD: u64 = 8;
/// The largest gap of `arch_align_stack()`, exclusive.
const MAX_GAP: u64 = 8192;

/// What the auxiliary vector says, `getauxval(3)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuxInputs {
    /// `AT_SYSINFO_EHDR`: address of the vDSO, left out if there is none.
    pub sysinfo_ehdr: Option<u64>,
    /// `AT_MINSIGSTKSZ`.
    pub minsigstksz: u64,
    /// `AT_HWCAP`: `edx` of CPUID leaf 1.
    pub hwcap: u64,
    /// `AT_HWCAP2`.
    pub hwcap2: u64,
    /// `AT_PHDR`.
    pub phdr: u64,
    /// `AT_PHNUM`.
    pub phnum: u16,
    /// `AT_BASE`.
    pub base: u64,
    /// `AT_FLAGS`.
    pub flags: u64,
    /// `AT_ENTRY`.
    pub entry: u64,
    /// `AT_UID`.
    pub uid: u32,
    /// `AT_EUID`.
    pub euid: u32,
    /// `AT_GID`.
    pub gid: u32,
    /// `AT_EGID`.
    pub egid: u32,
    /// `AT_SECURE`.
    pub secure: bool,
    /// The bytes that `AT_RANDOM` points at.
    pub random: [u8; 16],
    /// `AT_RSEQ_FEATURE_SIZE` and `AT_RSEQ_ALIGN`, left out if there is no rseq.
    pub rseq: Option<(u64, u64)>,
}

impl AuxInputs {
    /// Sets what follows from the loaded program: phdr, phnum, base, entry.
    pub fn with_program(mut self, plan: &ProgramPlan) -> Self {
        self.phdr = plan.exe.phdr;
        self.phnum = plan.exe.phnum;
        self.base = plan.at_base();
        self.entry = plan.exe.entry;
        self
    }

    /// Entries in Linux's order: `ARCH_DLINFO` first, `AT_NULL` last.
    fn entries(&self, random: u64, execfn: u64, platform: u64) -> Vec<(u64, u64)> {
        let mut entries = Vec::with_capacity(24);
        entries.extend(self.sysinfo_ehdr.map(|address| (33, address)));
        entries.extend([
            (51, self.minsigstksz),
            (16, self.hwcap),
            (6, PAGE_SIZE),
            (17, 100), // AT_CLKTCK: USER_HZ
            (3, self.phdr),
            (4, PHDR_SIZE as u64),
            (5, u64::from(self.phnum)),
            (7, self.base),
            (8, self.flags),
            (9, self.entry),
            (11, u64::from(self.uid)),
            (12, u64::from(self.euid)),
            (13, u64::from(self.gid)),
            (14, u64::from(self.egid)),
            (23, u64::from(self.secure)),
            (25, random),
            (26, self.hwcap2),
            (31, execfn),
            (15, platform),
        ]);
        entries.extend(self.rseq.into_iter().flat_map(|(size, align)| [(27, size), (28, align)]));
        entries.push((0, 0));
        entries
    }
}

/// What to lay out.
#[derive(Debug, Clone)]
pub struct StackInputs<'a, S> {
    /// Arguments; none at all becomes one empty string (Linux 5.18).
    pub argv: &'a [S],
    /// Environment.
    pub envp: &'a [S],
    /// `AT_EXECFN`: the path as given to `execve` (of the script, not of its interpreter).
    pub execfn: &'a [u8],
    /// The auxiliary vector.
    pub aux: AuxInputs,
    /// End of the stack's mapping, page-aligned.
    pub top: u64,
    /// Random bytes of gap between strings and vectors; taken modulo 8192, 0 for none.
    pub gap: u64,
    /// Soft `RLIMIT_STACK`.
    pub rlimit_stack: u64,
}

/// A stack, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitialStack {
    /// The first `rsp`, a multiple of 16 (also `startstack` of `/proc/PID/stat`).
    pub sp: u64,
    /// What lies from `sp` to the top.
    pub bytes: Vec<u8>,
    /// The argument strings (`arg_start`, `arg_end`).
    pub args: Range<u64>,
    /// The environment strings (`env_start`, `env_end`).
    pub env: Range<u64>,
    /// The auxiliary vector on the stack, `AT_NULL` included.
    pub auxv: Range<u64>,
    /// The same as bytes, for `/proc/PID/auxv`: the program may change its own copy.
    pub saved_auxv: Vec<u8>,
}

impl InitialStack {
    /// Lays out a stack.
    pub fn build<S: AsRef<[u8]>>(inputs: &StackInputs<'_, S>) -> Result<Self, ArgError> {
        check_limits(inputs)?;
        let strings = Strings::place(inputs)?;
        // arch_align_stack()
        let p = strings.args.start.checked_sub(inputs.gap % MAX_GAP).ok_or(ArgError::NoRoom)? & !15;
        let platform = p.checked_sub(PLATFORM.len() as u64).ok_or(ArgError::NoRoom)?;
        let random = platform.checked_sub(16).ok_or(ArgError::NoRoom)?;

        let entries = inputs.aux.entries(random, strings.execfn, platform);
        let saved_auxv: Vec<u8> =
            entries.iter().flat_map(|(key, value)| [*key, *value]).flat_map(u64::to_le_bytes).collect();
        let words = strings.words();
        let vectors = (words.len() as u64).saturating_mul(WORD);
        // STACK_ADD() and STACK_ROUND()
        let room = vectors.saturating_add(saved_auxv.len() as u64);
        let sp = random.checked_sub(room).ok_or(ArgError::NoRoom)? & !15;
        let auxv_start = sp.saturating_add(vectors);
        let auxv = auxv_start..auxv_start.saturating_add(saved_auxv.len() as u64);

        let mut image = Writer { bytes: Vec::new(), base: sp };
        words.iter().for_each(|word| image.bytes.extend(word.to_le_bytes()));
        image.bytes.extend(&saved_auxv);
        image.put(random, &inputs.aux.random);
        image.put(platform, PLATFORM);
        image.put(strings.args.start, &strings.bytes);
        image.put(inputs.top.saturating_sub(WORD), &[0; WORD as usize]);
        Ok(Self { sp, bytes: image.bytes, args: strings.args, env: strings.env, auxv, saved_auxv })
    }
}

fn check_limits<S: AsRef<[u8]>>(inputs: &StackInputs<'_, S>) -> Result<(), ArgError> {
    if inputs.top > TASK_SIZE || !inputs.top.is_multiple_of(PAGE_SIZE) {
        return Err(ArgError::NoRoom);
    }
    let mut space = ArgSpace::new(inputs.argv.len(), inputs.envp.len(), inputs.rlimit_stack)?;
    let strings = inputs.envp.iter().chain(inputs.argv).map(AsRef::as_ref);
    for string in std::iter::once(inputs.execfn).chain(strings) {
        space.charge(string.len())?;
        if string.contains(&0) {
            return Err(ArgError::Nul);
        }
    }
    if inputs.argv.is_empty() { space.charge(0) } else { Ok(()) }
}

/// The strings with their addresses.
struct Strings {
    args: Range<u64>,
    env: Range<u64>,
    execfn: u64,
    bytes: Vec<u8>,
    argv: Vec<u64>,
    envp: Vec<u64>,
}

impl Strings {
    fn place<S: AsRef<[u8]>>(inputs: &StackInputs<'_, S>) -> Result<Self, ArgError> {
        let argv: Vec<&[u8]> = match inputs.argv {
            [] => vec![b""],
            argv => argv.iter().map(AsRef::as_ref).collect(),
        };
        let envp: Vec<&[u8]> = inputs.envp.iter().map(AsRef::as_ref).collect();
        let size = |strings: &[&[u8]]| strings.iter().map(|string| string.len() as u64 + 1).sum::<u64>();
        let below = |end: u64, size: u64| end.checked_sub(size).ok_or(ArgError::NoRoom);
        let execfn = below(inputs.top, size(&[inputs.execfn]).saturating_add(WORD))?;
        let env = below(execfn, size(&envp))?..execfn;
        let args = below(env.start, size(&argv))?..env.start;

        let mut writer = Writer { bytes: Vec::new(), base: args.start };
        let argv = argv.iter().map(|string| writer.push_string(string)).collect();
        let envp = envp.iter().map(|string| writer.push_string(string)).collect();
        writer.push_string(inputs.execfn);
        Ok(Self { args, env, execfn, bytes: writer.bytes, argv, envp })
    }

    /// `argc`, `argv`, `envp`, each list with its NULL.
    fn words(&self) -> Vec<u64> {
        let argc = std::iter::once(self.argv.len() as u64);
        argc.chain(self.argv.iter().copied()).chain([0]).chain(self.envp.iter().copied()).chain([0]).collect()
    }
}

/// Bytes that grow upwards from an address.
struct Writer {
    bytes: Vec<u8>,
    base: u64,
}

impl Writer {
    /// Fills up with zeros to `addr` and appends; addresses come in ascending order.
    fn put(&mut self, addr: u64, bytes: &[u8]) {
        let at = usize::try_from(addr.saturating_sub(self.base)).unwrap_or(0);
        self.bytes.resize(at.max(self.bytes.len()), 0);
        self.bytes.extend(bytes);
    }

    fn push_string(&mut self, string: &[u8]) -> u64 {
        let addr = self.base.saturating_add(self.bytes.len() as u64);
        self.bytes.extend(string);
        self.bytes.push(0);
        addr
    }
}
