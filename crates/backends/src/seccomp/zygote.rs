//! Starts the first worker: a static program of one segment, the shim, at a base that differs per sandbox. It clones
//! itself to make the zygote, from which all later workers are cloned.
//!
//! On the way to the first program nobody is woken who could have been awake: the thread that needs the worker waits for
//! it by looking, and answers its notifications itself until it is docked.

use std::ffi::{CStr, c_int, c_void};
use std::io::Write;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use coracle_abi::Errno;
use coracle_abi::port::{PORTS_OFFSET, SHIM_ALIGN, STAGE_IN_SIZE, UNCONFINED, VDSO_SIZE, word};
use coracle_blobs::SHIM;
use coracle_platform::{Death, ForkError, Gone, PlatformError, VvarMemory, Waiting, startup};
use parking_lot::{Condvar, Mutex};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::notify::{Docked, Expected, Notifier, Slot};
use super::ports::Ports;
use super::reaper::Reaper;
use super::thread::{BIRTH, NEW_WORKER_ARGS, SeccompThread, lay_down_clone, prepare_space};
use super::vvar::{self, Vvar};
use super::worker::Worker;
use super::{Shared, filter, frame, random};

/// The shim lies in `[LOWEST, HIGHEST)`, in units of [`SHIM_ALIGN`]: below the lowest place where the host's
/// search for free memory may start (`mmap_base`: at most 1 TiB of randomness and a stack below the top), so
/// that the reservation above the shim always covers that start.
const LOWEST: u64 = 0x7a00;
const HIGHEST: u64 = 0x7e80;
/// Where `boot` expects its ports, and the vvar.
const PORTS_FD: i32 = 3;
const VVAR_FD: i32 = 4;
/// Where the program's descriptors wait meanwhile.
const ASIDE_FD: i32 = 10;

/// The first worker on its way. It takes longer than all else before the first program, so it has a thread of its
/// own, and whoever needs it waits.
pub struct Start {
    vvar: Arc<VvarMemory>,
    waiting: Arc<Waiting>,
    outcome: Mutex<Option<Result<Arc<Started>, PlatformError>>>,
    arrived: Condvar,
    /// Why the first worker, once executed, never came to be.
    failure: Arc<Mutex<Option<PlatformError>>>,
}

/// The first worker, the zygote, and what all workers share.
pub struct Started {
    pub shared: Arc<Shared>,
    first: Mutex<Option<(Arc<Worker>, First)>>,
    zygote: Mutex<Zygote>,
}

/// What is done with the pid of the first worker before it runs on; all others descend from it.
pub type Born = Box<dyn FnOnce(i32) + Send>;

/// Begins. `meanwhile` is done while the first worker makes itself ready, on the thread that has executed it.
pub fn start(
    waiting: Arc<Waiting>,
    born: Option<Born>,
    meanwhile: impl FnOnce() + Send + 'static,
) -> Result<Arc<Start>, PlatformError> {
    require()?;
    let vvar = VvarMemory::new().map_err(host("cannot make the vDSO's data"))?;
    let failure = Arc::default();
    let start = Arc::new(Start { vvar, waiting, outcome: Mutex::default(), arrived: Condvar::new(), failure });
    let own = start.clone();
    // One thread starts the zygote and then waits for children: workers are told of the death of the thread that
    // started them, so it must last.
    std::thread::Builder::new()
        .name("reaper".into())
        .stack_size(256 << 10)
        .spawn(move || own.run(born, meanwhile))
        .map_err(host("cannot start a thread"))?;
    Ok(start)
}

fn host(what: &'static str) -> impl Fn(std::io::Error) -> PlatformError {
    move |source| PlatformError::Host { what, source }
}

impl Start {
    /// What the vDSO reads.
    pub fn vvar(&self) -> Arc<VvarMemory> {
        self.vvar.clone()
    }

    /// What waits share.
    pub fn waiting(&self) -> Arc<Waiting> {
        self.waiting.clone()
    }

    /// Waits until the first worker is on its own way. An error is told once.
    pub fn wait(&self) -> Result<Arc<Started>, PlatformError> {
        let mut outcome = self.outcome.lock();
        while outcome.is_none() {
            self.arrived.wait(&mut outcome);
        }
        match outcome.as_mut() {
            Some(Err(error)) => Err(std::mem::replace(error, PlatformError::Died(Death::Killed))),
            Some(Ok(started)) => Ok(started.clone()),
            None => Err(PlatformError::Died(Death::Killed)),
        }
    }

    /// Why the first worker did not arrive. Told once.
    pub fn failure(&self) -> Option<PlatformError> {
        self.failure.lock().take()
    }

    fn put(&self, outcome: Result<Arc<Started>, PlatformError>) {
        *self.outcome.lock() = Some(outcome);
        self.arrived.notify_all();
    }

    fn run(self: Arc<Start>, born: Option<Born>, meanwhile: impl FnOnce()) {
        let reaper = Arc::<Reaper>::default();
        if let Err(error) = self.launch(&reaper, born) {
            self.put(Err(error));
        }
        drop(self);
        meanwhile();
        reaper.serve();
    }

    /// Executes the first worker.
    fn launch(self: &Arc<Start>, reaper: &Arc<Reaper>, born: Option<Born>) -> Result<(), PlatformError> {
        let no_ports = |source| PlatformError::Host { what: "cannot make ports", source };
        let base = (LOWEST + random() % (HIGHEST - LOWEST)) * SHIM_ALIGN;
        let shared = Arc::new(Shared::new(reaper.clone(), self.waiting.clone(), base));
        let ports = Ports::new().map_err(no_ports)?;
        prepare_space(&ports, base, &shared, true);
        put_filter(&ports.port(0), base);
        let birth = Birth::<i32>::new(&shared, base).map_err(no_ports)?;
        lay_down_clone(&ports.port(0), birth.cookie);
        let program = program(base).map_err(host("cannot make the first worker's program"))?;
        let vvar = Vvar::new(self.vvar.clone(), base, &program).map_err(host("cannot make the vDSO's data"))?;
        let vvar = Arc::new(vvar);
        startup::step("filter and first worker's program built");

        let pid = execute(&program, &ports, &vvar).map_err(host("cannot start the first worker"))?;
        drop(program);
        startup::step("first worker executed");
        // It cannot clone itself before somebody answers it.
        if let Some(born) = born {
            born(pid);
        }

        let worker = Worker::new(pid, base, ports, 0, vvar.clone());
        reaper.adopt(&worker);
        let dock = Arc::<Slot<Docked>>::default();
        shared.notifier.expect(pid as u32, Expected::CloneThenDock(NEW_WORKER_ARGS, dock.clone()));
        let zygote = Zygote { base, vvar, birth, notifier: shared.notifier.clone(), thread: None, coming: None };
        let first = First { failure: self.failure.clone(), dock };
        let first = Mutex::new(Some((worker, first)));
        self.put(Ok(Arc::new(Started { shared, first, zygote: Mutex::new(zygote) })));
        Ok(())
    }
}

impl Started {
    /// A fresh worker. The first is there by itself, or on its way; all others are cloned from the zygote.
    pub fn take(&self) -> Result<(Arc<Worker>, Dock), ForkError> {
        if let Some((worker, first)) = self.first.lock().take() {
            return Ok((worker, Dock::Coming(first)));
        }
        let mut zygote = self.zygote.lock();
        let (worker, docked) = zygote.take(&self.shared)?;
        // Most sandboxes run one program only. This one executes others: the next worker is made ahead.
        if let Err(error) = zygote.order(&self.shared) {
            // Whoever needs it tries again, and reports.
            log::debug!("no worker could be cloned ahead: {error}");
        }
        Ok((worker, Dock::There(docked)))
    }
}

/// Where a worker waits for its program.
pub enum Dock {
    There(Docked),
    Coming(First),
}

impl Dock {
    /// Waits for it.
    pub fn arrive(self, shared: &Arc<Shared>, worker: &Arc<Worker>) -> Result<Docked, Gone> {
        match self {
            Dock::There(docked) => Ok(docked),
            Dock::Coming(first) => first.meet(shared, worker).map_err(|error| {
                *first.failure.lock() = Some(error);
                Gone
            }),
        }
    }
}

/// The first worker on its way to its dock.
pub struct First {
    failure: Arc<Mutex<Option<PlatformError>>>,
    dock: Arc<Slot<Docked>>,
}

impl First {
    /// Answers it until it is docked, and starts the thread that answers from then on.
    fn meet(&self, shared: &Arc<Shared>, worker: &Arc<Worker>) -> Result<Docked, PlatformError> {
        let notifier = shared.notifier.clone();
        notifier.open(listener(worker, &shared.waiting)?);
        startup::step("first worker confined");
        let until = Instant::now() + BIRTH;
        let docked = loop {
            if let Some(docked) = self.dock.get() {
                break docked;
            }
            if !notifier.answer_next(until, &shared.waiting) {
                let refused = Errno::check(worker.ports.port(0).get64(word::RESULT)).err();
                return Err(match refused.filter(|_| worker.death().is_some()) {
                    Some(errno) => PlatformError::Host {
                        what: "cannot clone a worker",
                        source: std::io::Error::from_raw_os_error(errno.raw()),
                    },
                    None => PlatformError::Died(worker.death().unwrap_or(Death::Killed)),
                });
            }
        };
        startup::step("first worker docked");
        let builder = std::thread::Builder::new().name("notify".into()).stack_size(128 << 10);
        builder.spawn(move || notifier.serve()).map_err(host("cannot start a thread"))?;
        Ok(docked)
    }
}

/// An address space that has been ordered and will announce itself; `T` is what it says.
struct Birth<T> {
    cookie: u64,
    ports: Arc<Ports>,
    slot: Arc<Slot<T>>,
}

impl Birth<i32> {
    /// One that will be ready for orders.
    fn new(shared: &Shared, base: u64) -> std::io::Result<Birth<i32>> {
        let (ports, cookie) = (Ports::new()?, shared.cookie());
        prepare_space(&ports, base, shared, false);
        let slot = shared.notifier.expect_newborn(cookie, ports.clone());
        Ok(Birth { cookie, ports, slot })
    }
}

impl Birth<Docked> {
    /// One that will dock itself until its program is known.
    fn new(shared: &Shared, base: u64) -> std::io::Result<Birth<Docked>> {
        let (ports, cookie) = (Ports::new()?, shared.cookie());
        prepare_space(&ports, base, shared, true);
        let slot = shared.notifier.expect_docked(cookie, ports.clone());
        Ok(Birth { cookie, ports, slot })
    }
}

/// The process that workers are cloned from. It can be one clone ahead.
pub struct Zygote {
    base: u64,
    vvar: Arc<Vvar>,
    birth: Birth<i32>,
    notifier: Arc<Notifier>,
    /// Once it was needed.
    thread: Option<SeccompThread>,
    coming: Option<Birth<Docked>>,
}

impl Zygote {
    /// Its thread.
    fn thread(&mut self, shared: &Arc<Shared>) -> Result<&mut SeccompThread, ForkError> {
        if self.thread.is_none() {
            let pid = self.birth.slot.wait(BIRTH).ok_or(ForkError::Gone)?;
            let worker = Worker::new(pid, self.base, self.birth.ports.clone(), 0, self.vvar.clone());
            shared.reaper.adopt(&worker);
            self.thread = Some(SeccompThread::new(shared.clone(), worker, 0, pid as u32));
        }
        self.thread.as_mut().ok_or(ForkError::Gone)
    }

    /// Orders a clone, unless there is one; does not wait for it.
    fn order(&mut self, shared: &Arc<Shared>) -> Result<(), ForkError> {
        if self.coming.is_some() {
            return Ok(());
        }
        let refused = |_| ForkError::Refused(Errno::ENOMEM);
        let coming = Birth::<Docked>::new(shared, self.base).map_err(refused)?;
        if let Err(Gone) = self.thread(shared)?.begin_clone(coming.cookie) {
            shared.notifier.forget_newborn(coming.cookie);
            return Err(ForkError::Gone);
        }
        self.coming = Some(coming);
        Ok(())
    }

    fn take(&mut self, shared: &Arc<Shared>) -> Result<(Arc<Worker>, Docked), ForkError> {
        self.order(shared)?;
        let coming = self.coming.take().ok_or(ForkError::Gone)?;
        let thread = self.thread(shared)?;
        let docked = arrival(&coming.slot, thread.worker(), || thread.clone_refused());
        shared.notifier.forget_newborn(coming.cookie);
        let docked = docked?;
        // Dying between its birth and here would go unnoticed: the reaper keeps what it does not know.
        let worker = Worker::new(docked.pid(), self.base, coming.ports, 0, self.vvar.clone());
        shared.reaper.adopt(&worker);
        Ok((worker, docked))
    }
}

/// Waits for a worker that docks itself. It may be that the host has `refused` the clone, or that `parent` is gone.
fn arrival(
    slot: &Slot<Docked>,
    parent: &Worker,
    refused: impl Fn() -> Option<Errno>,
) -> Result<Docked, ForkError> {
    let until = Instant::now() + BIRTH;
    loop {
        if let Some(docked) = slot.wait(Duration::from_millis(2)) {
            return Ok(docked);
        }
        if let Some(errno) = refused() {
            return Err(ForkError::Refused(errno));
        }
        if parent.death().is_some() || until <= Instant::now() {
            return Err(ForkError::Gone);
        }
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        // Nobody has let the first worker clone itself.
        if !self.notifier.is_open() {
            return;
        }
        const SOON: Duration = Duration::from_millis(50);
        let coming = self.coming.as_ref().and_then(|coming| coming.slot.wait(SOON)).map(|docked| docked.pid());
        let unused = if self.thread.is_none() { self.birth.slot.wait(SOON) } else { None };
        for pid in coming.into_iter().chain(unused) {
            // SAFETY: a plain system call. Nobody else knows this child, and its reaper reaps it after its death.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
    }
}

/// Waits until the first worker is confined, and fetches its filter's listener.
fn listener(worker: &Arc<Worker>, waiting: &Waiting) -> Result<OwnedFd, PlatformError> {
    let port = worker.ports.port(0);
    let confined = port.atomic(word::CONFINED);
    let patience = libc::timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    waiting.look(|| confined.load(Ordering::SeqCst) != 0);
    loop {
        match confined.load(Ordering::SeqCst) {
            0 => {}
            UNCONFINED => return fetch_listener(worker.pid, port.get64(word::RESULT)),
            number => return fetch_listener(worker.pid, u64::from(number - 1)),
        }
        if let Some(death) = worker.death() {
            return Err(PlatformError::Died(death));
        }
        // SAFETY: the word is mapped as long as it is borrowed. Death wakes nobody here, so look now and then.
        unsafe { libc::syscall(libc::SYS_futex, confined.as_ptr(), libc::FUTEX_WAIT, 0, &raw const patience) };
    }
}

/// What the host must have for any of this.
fn require() -> Result<(), PlatformError> {
    const HWCAP2_FSGSBASE: u64 = 2;
    // SAFETY: reads the auxiliary vector.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & HWCAP2_FSGSBASE == 0 {
        return Err(PlatformError::Missing {
            feature: "FSGSBASE",
            hint: "it needs Linux 5.9 or newer on a processor that has it (Intel since 2012, AMD since 2018)",
        });
    }
    Ok(())
}

/// Features that XSAVE saves for the guest, and how long that gets (Intel SDM volume 1, section 13.4). Not AMX:
/// its tiles are a program's only after it asked for them.
pub fn xstate() -> (u64, u32) {
    const FP_SSE: u64 = 3;
    const AMX: u64 = 3 << 17;
    const OSXSAVE: u32 = 1 << 27;
    if core::arch::x86_64::__cpuid(1).ecx & OSXSAVE == 0 {
        return (0, 0);
    }
    let (low, high): (u32, u32);
    // SAFETY: XGETBV of XCR0 exists where OSXSAVE says so.
    unsafe { std::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high, options(nomem, nostack)) };
    let features = (u64::from(low) | u64::from(high) << 32) & !AMX;
    let leaf = |sub| core::arch::x86_64::__cpuid_count(0xd, sub);
    // A hypervisor makes every CPUID an exit of some microseconds: one says it all where there is no AMX.
    let size = if u64::from(low) & AMX == 0 {
        leaf(0).ebx
    } else {
        let end = |feature: u32| leaf(feature).ebx + leaf(feature).eax;
        (2..63).filter(|feature| features >> feature & 1 == 1).map(end).fold(512 + 64, u32::max)
    };
    if features & FP_SSE == FP_SSE && size <= frame::XSTATE_MAX as u32 { (features, size) } else { (0, 0) }
}

/// Lays the filter out in the port for the first worker to install: `struct sock_fprog`, then the instructions.
fn put_filter(port: &super::ports::Port, base: u64) {
    let instructions = filter::build(base);
    let at = word::STAGE_IN;
    port.set64(at, instructions.len() as u64);
    port.set64(at + 8, base + PORTS_OFFSET + at as u64 + 16);
    // Its first orders may be laid down beside it before it is read.
    assert!(16 + instructions.len() * 8 <= STAGE_IN_SIZE, "the filter fits into the staging area");
    for (index, instruction) in instructions.iter().enumerate() {
        port.write(at + 16 + index * 8, &instruction.bytes());
    }
}

/// An ELF executable in memory: the vDSO's image and, directly above, the shim at `base`.
fn program(base: u64) -> std::io::Result<OwnedFd> {
    const HEADERS: u64 = 0x1000;
    let shim_len = (SHIM.len() as u64).next_multiple_of(0x1_0000);
    let mut elf = Vec::with_capacity((HEADERS + VDSO_SIZE + shim_len) as usize);
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 62] {
        elf.extend_from_slice(&half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    elf.extend_from_slice(&1u32.to_le_bytes());
    for word in [base, 64, 0] {
        elf.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 2, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    for (offset, at, len) in [(HEADERS, base - VDSO_SIZE, VDSO_SIZE), (HEADERS + VDSO_SIZE, base, shim_len)] {
        for half in [1u32, 5] {
            elf.extend_from_slice(&half.to_le_bytes()); // PT_LOAD, read and execute
        }
        for word in [offset, at, at, len, len, 0x1000] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
    }
    debug_assert_eq!(elf.len(), 64 + 2 * 56);
    for (part, len) in [(&[][..], HEADERS), (&vvar::image(), HEADERS + VDSO_SIZE)] {
        elf.extend_from_slice(part);
        elf.resize(len as usize, 0);
    }
    elf.extend_from_slice(SHIM);
    let file = memfd_create("coracle-worker", MemfdFlags::CLOEXEC)?;
    // What is not written takes no memory and is never touched.
    ftruncate(&file, HEADERS + VDSO_SIZE + shim_len)?;
    let mut file = std::fs::File::from(file);
    file.write_all(&elf)?;
    // A file that is open for writing cannot be executed.
    Ok(std::fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

/// What the child works with between `clone` and `execveat`. It shares our memory and may not allocate.
struct Exec {
    /// Our process.
    kernel: i32,
    program: i32,
    /// Descriptors to hand over, and the numbers that `boot` expects.
    given: [(i32, i32); 2],
    errno: i32,
}

/// Executes the program in a new session with a clean environment; returns its pid. As vfork(2): a copy of our
/// page tables, and the faults that follow on it, would cost more than all the rest.
fn execute(program: &OwnedFd, ports: &Ports, vvar: &Vvar) -> std::io::Result<i32> {
    const STACK: usize = 16 << 10;
    let given = [(ports.file().as_raw_fd(), PORTS_FD), (vvar.memory.fd().as_raw_fd(), VVAR_FD)];
    let kernel = std::process::id() as i32;
    let mut exec = Exec { kernel, program: program.as_raw_fd(), given, errno: 0 };
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(STACK / 16);
    let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
    // SAFETY: signal sets are plain data. The child runs `exec_program` on a stack of its own while this thread
    // is suspended (CLONE_VFORK), with all signals blocked so that no handler of ours runs in it.
    let pid = unsafe {
        let mut all = std::mem::zeroed::<libc::sigset_t>();
        let mut old = std::mem::zeroed::<libc::sigset_t>();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut old);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(exec_program, top.cast(), flags, (&raw mut exec).cast());
        let error = std::io::Error::last_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut());
        if pid < 0 { Err(error) } else { Ok(pid) }
    }?;
    drop(stack);
    // SAFETY: the child wrote before it ended, and this thread slept until then.
    match unsafe { (&raw const exec.errno).read_volatile() } {
        0 => Ok(pid),
        errno => Err(std::io::Error::from_raw_os_error(errno)),
    }
}

extern "C" fn exec_program(exec: *mut c_void) -> c_int {
    let exec = exec.cast::<Exec>();
    let empty: &CStr = c"";
    let argv = [c"coracle-worker".as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: system calls with valid arguments; `exec` lives in the suspended parent.
    unsafe {
        libc::setsid();
        // From now on it dies with the kernel: if that has happened already, here.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != (*exec).kernel {
            libc::_exit(127);
        }
        // The default stack makes the host search for free memory from the top down.
        let stack = libc::rlimit { rlim_cur: 8 << 20, rlim_max: libc::RLIM_INFINITY };
        libc::setrlimit(libc::RLIMIT_STACK, &raw const stack);
        // Aside first: a source may have a number that another is to have.
        let aside = |source| libc::fcntl(source, libc::F_DUPFD_CLOEXEC, ASIDE_FD);
        let program = aside((*exec).program);
        let given = (*exec).given.map(|(source, number)| (aside(source), number));
        if given.iter().all(|(source, number)| libc::dup2(*source, *number) >= 0) {
            let flags = libc::AT_EMPTY_PATH;
            libc::syscall(libc::SYS_execveat, program, empty.as_ptr(), argv.as_ptr(), envp.as_ptr(), flags);
        }
        (*exec).errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Fetches the filter's listener out of the first worker, which has just installed it.
fn fetch_listener(pid: i32, number: u64) -> Result<OwnedFd, PlatformError> {
    const HINT: &str =
        "the zygote could not install its filter (is another seccomp supervisor active? see coracle doctor)";
    let number = Errno::check(number).map_err(|errno| PlatformError::Host {
        what: HINT,
        source: std::io::Error::from_raw_os_error(errno.raw()),
    })?;
    let host = |source: rustix::io::Errno| PlatformError::Host {
        what: "cannot fetch the filter's listener from the zygote",
        source: source.into(),
    };
    let process = Pid::from_raw(pid).ok_or(PlatformError::Died(Death::Killed))?;
    let pidfd = pidfd_open(process, PidfdFlags::empty()).map_err(host)?;
    pidfd_getfd(&pidfd, number as i32, PidfdGetfdFlags::empty()).map_err(host)
}
