//! Builds a program in a fresh address space: where everything goes, and what the first instruction finds
//! (`load_elf_binary()` in fs/binfmt_elf.c, arch/x86/mm/mmap.c).
//!
//! From the top down: a random gap with the vDSO in it, the stack, a guard, a random gap, the interpreter and later mappings; far
//! below, the program (`ELF_ET_DYN_BASE` plus a random offset, or where it wants to be) and the heap behind it.
//! The gaps are mapped inaccessible, because the host places mappings from the top down by itself.

use std::sync::Arc;

use coracle_elf::{AuxInputs, Image, InitialStack, Kind, LoadPlan, Op, Placement, ProgramPlan, StackInputs};
use coracle_platform::{MapSource, MemoryCall, Regs, Space, Thread, Vdso};

use super::exec::{ExecError, elf_error};
use super::{Task, exec};
use crate::Errno;
use crate::abi::linux::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_STACK, MREMAP_DONTUNMAP, MREMAP_FIXED,
    MREMAP_MAYMOVE, PROT_EXEC, PROT_NONE, PROT_READ, PROT_WRITE, SIGSEGV,
};
use crate::abi::{PAGE_SIZE, page_floor};
use crate::fd::{Mapped, OpenFile};
use crate::mm::{AddressSpace, Image as Memory, Noted};

/// What `execve` found out about a program.
pub struct Program {
    pub file: Arc<OpenFile>,
    pub image: Image,
    pub interpreter: Option<(Arc<OpenFile>, Image)>,
    pub filename: Vec<u8>,
    pub argv: Vec<Vec<u8>>,
    pub envp: Vec<Vec<u8>>,
}

/// `ELF_ET_DYN_BASE`: two thirds of the address space.
const ET_DYN_BASE: u64 = 0x5555_5555_4000;
/// `mmap_rnd_bits`: for mappings and position-independent programs.
const RANDOM_PAGES: u64 = 1 << 28;
/// `stack_maxrandom_size()`: 16 GiB.
const STACK_RANDOM_PAGES: u64 = 1 << 22;
/// `arch_randomize_brk()`: up to 32 MiB.
const BRK_RANDOM_PAGES: u64 = 1 << 13;
/// `stack_guard_gap`.
const STACK_GUARD: u64 = 1 << 20;
/// Larger stacks are cut: the stack is mapped whole at the start.
const STACK_MAX: u64 = 1 << 30;
const STACK_MIN: u64 = 256 << 10;
/// `ADDR_NO_RANDOMIZE`.
const NO_RANDOMIZE: u32 = 0x0004_0000;

/// A source of random places.
struct Dice {
    fixed: bool,
}

impl Dice {
    fn pages(&self, below: u64) -> u64 {
        if self.fixed { 0 } else { crate::world::random_u64() % below * PAGE_SIZE }
    }

    fn any(&self) -> u64 {
        if self.fixed { 0 } else { crate::world::random_u64() }
    }
}

/// Where the parts of a program go.
struct Places {
    /// The vDSO's data, its image, the end.
    vdso: Option<Vdso>,
    /// Stack mapping: start, end.
    stack: (u64, u64),
    /// Lowest address of the gaps around the stack.
    gap: u64,
    base: u64,
    interpreter: u64,
}

fn no_room() -> ExecError {
    ExecError { errno: Errno::ENOMEM, reason: String::from("does not fit into the address space") }
}

fn place(task: &Task, program: &Program, space: &dyn Space, dice: &Dice) -> Result<Places, ExecError> {
    let layout = space.layout();
    let limit = exec::rlimit_stack(task).clamp(STACK_MIN, STACK_MAX);
    let source = space.vdso();
    let room = source.map_or(0, |source| source.end - source.vvar);
    let gap = dice.pages(STACK_RANDOM_PAGES);
    let stack_end = layout.top.checked_sub(room + gap).ok_or_else(no_room)?;
    let vdso = source.map(|source| {
        let vvar = stack_end + dice.pages(gap / PAGE_SIZE + 1);
        Vdso { vvar, image: vvar + (source.image - source.vvar), end: vvar + room }
    });
    let stack_start = page_floor(stack_end.checked_sub(limit).ok_or_else(no_room)?);
    let gap = stack_start.checked_sub(STACK_GUARD + dice.pages(RANDOM_PAGES)).ok_or_else(no_room)?;
    let interpreter = match &program.interpreter {
        None => gap,
        Some((_, image)) => match image.placement() {
            // An interpreter that wants a place of its own gets it.
            Placement::Fixed { start, .. } => start,
            Placement::Anywhere { size, align } => {
                gap.checked_sub(size).ok_or_else(no_room)? & !align.saturating_sub(1)
            }
        },
    };
    let base = match (program.image.placement(), &program.interpreter) {
        (Placement::Fixed { start, .. }, _) => start,
        // A static PIE is an ordinary mapping on Linux, below the mapping base.
        (Placement::Anywhere { size, align }, None) => {
            gap.checked_sub(size).ok_or_else(no_room)? & !align.saturating_sub(1)
        }
        (placement @ Placement::Anywhere { .. }, Some(_)) => {
            let start = ET_DYN_BASE.saturating_add(dice.pages(RANDOM_PAGES));
            let end = interpreter.min(layout.top);
            placement.pick(start, end, 0).ok_or_else(no_room)?
        }
    };
    if base < layout.bottom {
        return Err(ExecError {
            errno: Errno::EPERM,
            reason: String::from("wants to be loaded below the lowest address that may be mapped"),
        });
    }
    Ok(Places { vdso, stack: (stack_start, stack_end), gap, base, interpreter })
}

/// The program's vDSO: two mappings, of which the address space keeps the originals.
fn move_vdso(from: &Vdso, to: &Vdso) -> [MemoryCall; 2] {
    [(from.vvar, from.image, to.vvar), (from.image, from.end, to.image)].map(|(old, end, new)| {
        let len = end - old;
        let flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
        MemoryCall::Remap { old, old_len: len, new_len: len, flags, new }
    })
}

fn anonymous(address: u64, len: u64, prot: u32, flags: u32) -> MemoryCall {
    MemoryCall::MapAnonymous { address, len, prot, flags: flags | MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED }
}

/// What is to be mapped, and what to be zeroed in it afterwards: the end of a file's last page.
#[derive(Default)]
struct Steps {
    calls: Vec<MemoryCall>,
    zeros: Vec<(u64, u64)>,
    /// Something could not be zeroed: the file ends before its segment does.
    torn: bool,
    /// Files that are about to be mapped.
    noted: Vec<Noted>,
}

impl Steps {
    /// Adds the steps of a plan.
    fn add(
        &mut self,
        plan: &LoadPlan,
        file: &Arc<OpenFile>,
        mm: &AddressSpace,
        thread: &mut dyn Thread,
    ) -> Result<(), ExecError> {
        let source = match file.file.map(file.key, false) {
            Ok(Mapped::File(source)) => source,
            Ok(Mapped::Zero) | Err(Errno::ENODEV) => return Err(Errno::ENODEV.into()),
            Err(errno) => return Err(errno.into()),
        };
        self.noted.extend(mm.note_file(&source, file));
        for op in &plan.ops {
            match *op {
                Op::MapFile { addr, len, prot, offset } => {
                    let file = MapSource { file: source.file.clone(), key: source.key };
                    let flags = MAP_PRIVATE | MAP_FIXED;
                    let call = MemoryCall::MapFile { address: addr, len, prot, flags, file, offset };
                    self.map((addr, len), call, mm, thread)?;
                }
                Op::Zero { addr, len } => self.zeros.push((addr, len)),
                Op::MapAnon { addr, len, prot } => {
                    self.map((addr, len), anonymous(addr, len, prot, 0), mm, thread)?;
                }
            }
        }
        Ok(())
    }

    /// A segment that lies over what an earlier one has zeroed wins, as with Linux: the order is kept.
    fn map(
        &mut self,
        (start, len): (u64, u64),
        call: MemoryCall,
        mm: &AddressSpace,
        thread: &mut dyn Thread,
    ) -> Result<(), ExecError> {
        let end = start.saturating_add(len);
        if self.zeros.iter().any(|(zero, size)| *zero < end && start < zero.saturating_add(*size)) {
            self.carry_out(mm, thread)?;
        }
        self.calls.push(call);
        Ok(())
    }

    /// Does what there is to be done so far.
    fn carry_out(&mut self, mm: &AddressSpace, thread: &mut dyn Thread) -> Result<(), ExecError> {
        let done = thread.load(&self.calls).map_err(|_| ExecError {
            errno: Errno::EAGAIN,
            reason: String::from("the worker ended while the program was loaded"),
        })?;
        done.map_err(|errno| ExecError { errno, reason: format!("mapping the program failed: {errno}") })?;
        self.calls.clear();
        for (address, len) in self.zeros.drain(..) {
            let zeros = vec![0; usize::try_from(len).unwrap_or(0)];
            self.torn |= mm.space.write(address, &zeros) != zeros.len();
        }
        Ok(())
    }
}

/// The auxiliary vector's facts about machine and caller.
fn auxiliary(task: &Task) -> crate::Result<AuxInputs> {
    let cred = task.cred();
    let (hwcap, hwcap2) = rustix::param::linux_hwcap();
    let mut random = [0; 16];
    crate::world::random_bytes(&mut random)?;
    Ok(AuxInputs {
        minsigstksz: rustix::param::linux_minsigstksz() as u64,
        hwcap: hwcap as u64,
        hwcap2: hwcap2 as u64,
        uid: cred.uid,
        euid: cred.euid,
        gid: cred.gid,
        egid: cred.egid,
        random,
        rseq: task.world.platform.rseq_features(),
        ..AuxInputs::default()
    })
}

fn stack(
    task: &Task,
    program: &Program,
    plan: &ProgramPlan,
    places: &Places,
    dice: &Dice,
) -> Result<InitialStack, ExecError> {
    let inputs = StackInputs {
        argv: &program.argv,
        envp: &program.envp,
        execfn: &program.filename,
        aux: AuxInputs { sysinfo_ehdr: places.vdso.map(|vdso| vdso.image), ..auxiliary(task)?.with_program(plan) },
        top: places.stack.1,
        gap: dice.any(),
        rlimit_stack: exec::rlimit_stack(task),
    };
    InitialStack::build(&inputs)
        .map_err(|error| ExecError::new(Errno::from_raw(error.errno()), &program.filename, &error))
}

/// Builds `program` in `space`, whose only thread is `thread`; the thread then stands at the first instruction.
pub(super) fn build(
    task: &Arc<Task>,
    program: &Program,
    space: &Arc<dyn Space>,
    thread: &mut dyn Thread,
) -> Result<Arc<AddressSpace>, ExecError> {
    let personality = task.process.personality.load(std::sync::atomic::Ordering::Relaxed);
    let dice = Dice { fixed: personality & NO_RANDOMIZE != 0 };
    let places = place(task, program, &**space, &dice)?;
    let interpreter = program.interpreter.as_ref().map(|(_, image)| (image, places.interpreter));
    let plan = ProgramPlan::new(&program.image, places.base, interpreter)
        .map_err(|error| elf_error(&program.filename, &error))?;
    let stack = stack(task, program, &plan, &places, &dice)?;
    let mm = AddressSpace::new(space.clone());

    let top = space.layout().top;
    let mut steps = Steps::default();
    steps.calls.push(anonymous(places.gap, top - places.gap, PROT_NONE, MAP_NORESERVE));
    if let (Some(from), Some(to)) = (space.vdso(), places.vdso) {
        steps.calls.extend(move_vdso(&from, &to));
    }
    let prot = PROT_READ | PROT_WRITE | if plan.exec_stack { PROT_EXEC } else { 0 };
    let (start, end) = places.stack;
    steps.calls.push(anonymous(start, end - start, prot, MAP_NORESERVE | MAP_STACK));
    steps.add(&plan.exe, &program.file, &mm, thread)?;
    if let (Some(plan), Some((file, _))) = (&plan.interp, &program.interpreter) {
        steps.add(plan, file, &mm, thread)?;
    }
    steps.carry_out(&mm, thread)?;
    if program.interpreter.is_none() {
        // Programs that translate others' code instead of running it (valgrind, emulators) map it by themselves, without a
        // dynamic loader, and know nothing of what lies outside of it.
        space.map_exactly();
    }
    if steps.torn {
        // `elf_load()` says EFAULT, but there is no program left to tell: bprm_execve() in fs/exec.c.
        task.process.begin_exit(SIGSEGV as i32);
    }
    if space.write(stack.sp, &stack.bytes) != stack.bytes.len() {
        return Err(ExecError { errno: Errno::ENOMEM, reason: String::from("the stack cannot be written") });
    }
    let brk = heap_start(program, &plan, &dice);
    *mm.image.lock() = describe(task, program, &plan, &places, &stack, brk);
    mm.hide(places.gap, start);
    match places.vdso {
        None => mm.hide(end, top),
        Some(vdso) => {
            mm.hide(end, vdso.vvar);
            mm.hide(vdso.end, top);
        }
    }
    let regs = thread.freeze(0).map_err(|_| Errno::EAGAIN)?;
    *regs = Regs { rip: plan.start(), rsp: stack.sp, rflags: 0x202, ..Regs::default() };
    Ok(mm)
}

fn heap_start(program: &Program, plan: &ProgramPlan, dice: &Dice) -> u64 {
    let random = dice.pages(BRK_RANDOM_PAGES);
    if plan.brk_moves && program.image.kind == Kind::Dyn {
        // The heap of a static PIE starts where a PIE would be.
        ET_DYN_BASE.saturating_add(dice.pages(RANDOM_PAGES))
    } else {
        plan.exe.brk.saturating_add(random)
    }
}

fn describe(
    task: &Task,
    program: &Program,
    plan: &ProgramPlan,
    places: &Places,
    stack: &InitialStack,
    brk: u64,
) -> Memory {
    let root = task.fs().root();
    // MMF_INIT_MASK: these outlive the program.
    let (dump_filter, no_huge_pages) = {
        let mm = task.mm();
        let old = mm.image.lock();
        (old.dump_filter, old.no_huge_pages)
    };
    let word = |bytes: &[u8]| bytes.first_chunk::<8>().map_or(0, |word| u64::from_le_bytes(*word));
    let pair = |pair: &[u8]| (word(pair), word(pair.get(8..).unwrap_or_default()));
    Memory {
        exe: program.file.path.as_ref().map(|path| path.path_from(&root).0).unwrap_or_default(),
        exe_file: Some(program.file.clone()),
        text: program.file.path.as_ref().map(|place| task.world.vfs.texts.claim(place.inode())),
        args: (stack.args.start, stack.args.end),
        env: (stack.env.start, stack.env.end),
        auxv: stack.saved_auxv.chunks_exact(16).map(pair).collect(),
        code: (plan.exe.code.start, plan.exe.code.end),
        data: (plan.exe.data.start, plan.exe.data.end),
        stack: places.stack,
        start_stack: stack.sp,
        start_brk: brk,
        brk,
        dumpable: 1,
        dump_filter,
        no_huge_pages,
    }
}
