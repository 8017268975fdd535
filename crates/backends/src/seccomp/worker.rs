//! A worker: the host process that is one guest address space.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use coracle_abi::PAGE_SIZE;
use coracle_abi::port::{PORT_COUNT, SHIM_ALIGN, VDSO_SIZE, VVAR_BELOW, word};
use coracle_platform::{Death, Gone, Layout, MapMemory, Mapping, Space, Special, Touched, Usage, Vdso};
use parking_lot::Mutex;
use rustix::fs::OFlags;

use super::child::{Child, Held};
use super::frame::Place;
use super::memory;
use super::pieces;
use super::ports::{Ports, wake_word};
use super::rewrite::Sites;
use super::vvar::Vvar;
use crate::host_proc;

/// Value of a port's state once its worker is dead. Only the kernel writes it.
pub const DEAD: u32 = 3;

/// The host's vsyscall page, which is every program's (where the host has it).
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
/// End of what user space may map (`TASK_SIZE_MAX`).
const USER_END: u64 = 0x7fff_ffff_f000;

/// One worker.
pub struct Worker {
    child: Arc<Child>,
    pub base: u64,
    pub ports: Arc<Ports>,
    dead: AtomicBool,
    death: Mutex<Option<Death>>,
    killed: AtomicBool,
    ports_in_use: Mutex<Vec<bool>>,
    /// Guest threads alive.
    pub threads: AtomicU32,
    /// Host threads that it may have: made as ordered, and not ordered to end.
    pub host_threads: AtomicU32,
    /// `/proc/PID/task`, once it was needed.
    tasks: OnceLock<Option<File>>,
    parked: Mutex<Vec<Parked>>,
    /// A thread was given CPUs of its own: threads are not all alike to the host any more.
    pub own_affinity: AtomicBool,
    pub files: Mutex<Files>,
    pub sites: Mutex<Sites>,
    pub vvar: Arc<Vvar>,
    /// Where the vDSO's image was moved to.
    pub vdso: AtomicU64,
    /// `/proc/PID/mem` for writing, once it was needed.
    memory: OnceLock<Option<File>>,
    /// The same for reading, and `/proc/PID/pagemap`.
    reading: OnceLock<(Option<File>, Option<File>)>,
}

/// A host thread whose guest thread has ended, asleep in the handler of its last request.
pub struct Parked {
    pub index: usize,
    pub tid: u32,
    pub place: Place,
    /// CPU time that it has used so far.
    pub used: Duration,
}

/// So many wait for the next guest thread.
const PARKED_MAX: usize = 8;

/// Descriptors that the worker holds, for mapping.
#[derive(Clone, Default)]
pub struct Files {
    /// Number in the worker by key of the open file.
    pub numbers: HashMap<u64, i32>,
    /// To be closed with the next order.
    pub close: Vec<i32>,
}

impl Worker {
    /// A worker that is this process. Port 0 or `first_port` is in use.
    pub fn new(
        child: Arc<Child>,
        base: u64,
        ports: Arc<Ports>,
        first_port: usize,
        vvar: Arc<Vvar>,
    ) -> Arc<Worker> {
        let mut in_use = vec![false; PORT_COUNT as usize];
        in_use[first_port] = true;
        Arc::new(Worker {
            child,
            base,
            ports,
            dead: AtomicBool::new(false),
            death: Mutex::new(None),
            killed: AtomicBool::new(false),
            ports_in_use: Mutex::new(in_use),
            threads: AtomicU32::new(1),
            host_threads: AtomicU32::new(1),
            tasks: OnceLock::new(),
            parked: Mutex::default(),
            own_affinity: AtomicBool::new(false),
            files: Mutex::default(),
            sites: Mutex::default(),
            vvar,
            vdso: AtomicU64::new(0),
            memory: OnceLock::new(),
            reading: OnceLock::new(),
        })
    }

    /// Its process.
    pub fn child(&self) -> &Arc<Child> {
        &self.child
    }

    /// The number of its process, for a call that knows numbers only; `None` once it is no more.
    pub fn hold(&self) -> Option<Held<'_>> {
        if self.is_dead() { None } else { self.child.hold() }
    }

    /// The number of its first thread, which stays as long as it does.
    pub fn leader(&self) -> u32 {
        self.child.number() as u32
    }

    /// A free port. One whose last host thread has not ended yet is not free.
    pub fn take_port(&self) -> Option<usize> {
        let mut in_use = self.ports_in_use.lock();
        let free = (0..in_use.len())
            .find(|index| !in_use[*index] && self.ports.port(*index).get32(word::HOST_TID) == 0)?;
        in_use[free] = true;
        Some(free)
    }

    /// The port may be taken again once its host thread has ended.
    pub fn give_port(&self, index: usize) {
        self.ports_in_use.lock()[index] = false;
    }

    /// Keeps a host thread for the next guest thread; `false` if it is to end.
    pub fn park(&self, parked: Parked) -> bool {
        let mut list = self.parked.lock();
        let keep = list.len() < PARKED_MAX && !self.own_affinity.load(Ordering::SeqCst);
        if keep {
            list.push(parked);
        }
        keep
    }

    /// A host thread that waits for a guest thread.
    pub fn unpark(&self) -> Option<Parked> {
        if self.own_affinity.load(Ordering::SeqCst) { None } else { self.parked.lock().pop() }
    }

    /// It is no more.
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }

    /// How it ended, once it has.
    pub fn death(&self) -> Option<Death> {
        if !self.dead.load(Ordering::SeqCst) {
            return None;
        }
        self.death.lock().or(Some(Death::Killed))
    }

    /// Called by the reaper: wakes everybody who waits for one of its threads.
    pub fn died(&self, death: Death) {
        let death = if self.killed.load(Ordering::SeqCst) { Death::Killed } else { death };
        self.death.lock().get_or_insert(death);
        self.dead.store(true, Ordering::SeqCst);
        let in_use = self.ports_in_use.lock();
        for index in (0..in_use.len()).filter(|index| in_use[*index]) {
            let port = self.ports.port(index);
            port.state().store(DEAD, Ordering::SeqCst);
            wake_word(port.state());
        }
    }

    /// Makes sure that it has no more host threads than were ordered: it may say that a clone failed which did not, or
    /// not end when it is told to. Those that are just ending are waited for.
    pub fn count_threads(&self) -> Result<(), Gone> {
        const LOOKS: u32 = 1000;
        for _ in 0..LOOKS {
            let open = || host_proc::open(&self.hold()?, "task", OFlags::PATH | OFlags::DIRECTORY);
            let tasks = self.tasks.get_or_init(open).as_ref().ok_or(Gone)?;
            // Each is a link to the directory (proc_task_getattr() in fs/proc/base.c).
            let links = rustix::fs::fstat(tasks).map_err(|_| Gone)?.st_nlink;
            if links <= 2 + u64::from(self.host_threads.load(Ordering::SeqCst)) {
                return Ok(());
            }
            if self.is_dead() {
                return Err(Gone);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.lied("has more threads than it was let make");
        Err(Gone)
    }

    /// It broke the protocol.
    pub fn lied(&self, how: &'static str) {
        // Whoever serves it says so to the user.
        log::debug!("worker {} {how}", self.child.number());
        self.death.lock().get_or_insert(Death::Lied(how));
        self.kill();
    }

    fn reading(&self) -> &(Option<File>, Option<File>) {
        self.reading.get_or_init(|| (self.proc("mem"), self.proc("pagemap")))
    }

    fn proc(&self, name: &str) -> Option<File> {
        host_proc::open(&self.hold()?, name, OFlags::RDONLY)
    }

    fn proc_text(&self, name: &str) -> String {
        // Room for all but the longest of these files in one read.
        let mut text = String::with_capacity(8 << 10);
        if let Some(mut file) = self.proc(name) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }
}

impl Space for Worker {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        let (Some(held), len) = (self.hold(), self.clip(address, into.len())) else { return 0 };
        memory::read(&held, address, &mut into[..len])
    }

    fn write(&self, address: u64, from: &[u8]) -> usize {
        let (Some(held), len) = (self.hold(), self.clip(address, from.len())) else { return 0 };
        memory::write(&held, address, &from[..len])
    }

    fn read_pieces(&self, pieces: &mut [(u64, &mut [u8])]) -> usize {
        let Some(held) = self.hold() else { return 0 };
        pieces::read(&held, pieces, |address, len| self.clip(address, len))
    }

    fn write_pieces(&self, pieces: &[(u64, &[u8])]) -> usize {
        let Some(held) = self.hold() else { return 0 };
        pieces::write(&held, pieces, |address, len| self.clip(address, len))
    }

    fn poke(&self, address: u64, from: &[u8]) -> usize {
        let len = self.clip(address, from.len());
        // It keeps no memory of a worker that has ended.
        let open = || host_proc::open(&self.hold()?, "mem", OFlags::WRONLY);
        let file = self.memory.get_or_init(open).as_ref();
        file.and_then(|file| file.write_at(&from[..len], address).ok()).unwrap_or(0)
    }

    fn peek(&self, address: u64, into: &mut [u8]) -> usize {
        let len = self.clip(address, into.len());
        self.reading().0.as_ref().and_then(|file| file.read_at(&mut into[..len], address).ok()).unwrap_or(0)
    }

    fn touched(&self, start: u64, end: u64) -> Touched {
        match &self.reading().1 {
            Some(pagemap) if start < end => memory::touched(pagemap, start, end),
            _ => Touched::Unknown,
        }
    }

    fn page_map(&self, page: u64, into: &mut [u64]) {
        into.fill(0);
        let top = self.layout().top / PAGE_SIZE;
        let count = usize::try_from(top.saturating_sub(page)).unwrap_or(usize::MAX).min(into.len());
        if let (Some(file), Some(into)) = (&self.reading().1, into.get_mut(..count)) {
            memory::page_map(file, page, into);
        }
    }

    fn layout(&self) -> Layout {
        Layout { bottom: 0x1_0000, top: self.base - VVAR_BELOW }
    }

    fn vdso(&self) -> Option<Vdso> {
        Some(Vdso { vvar: self.base - VVAR_BELOW, image: self.base - VDSO_SIZE, end: self.base })
    }

    fn mappings(&self) -> Vec<Mapping> {
        self.shown(self.all_mappings())
    }

    fn mappings_resident(&self) -> Vec<Mapping> {
        self.shown(self.read_maps("smaps"))
    }

    fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        let stat = self.proc_text("stat");
        // Fields after the parenthesised name, counted from `state` = 0 (proc_pid_stat(5)).
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
            .unwrap_or_default();
        let field = |index: usize| fields.get(index).copied().unwrap_or(0);
        usage.minor_faults = field(7);
        usage.major_faults = field(9);
        usage.user = Duration::from_millis(field(11) * 10);
        usage.system = Duration::from_millis(field(12) * 10);
        // What is reserved from the shim on is no guest's.
        usage.virtual_size = field(20).saturating_sub(USER_END - self.base);
        for line in self.proc_text("status").lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let number: u64 = value.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0);
            match name {
                "VmRSS" => usage.resident = number << 10,
                "VmHWM" => usage.resident_peak = number << 10,
                "RssAnon" => usage.resident_anonymous = number << 10,
                "RssShmem" => usage.resident_shared = number << 10,
                "voluntary_ctxt_switches" => usage.voluntary_switches = number,
                "nonvoluntary_ctxt_switches" => usage.involuntary_switches = number,
                _ => {}
            }
        }
        usage
    }

    fn map_exactly(&self) {
        self.sites.lock().map_exactly();
    }

    fn forget_file(&self, key: u64) {
        let mut files = self.files.lock();
        if let Some(number) = files.numbers.remove(&key) {
            files.close.push(number);
        }
    }

    fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
        self.child.kill();
    }
}

impl Worker {
    /// The mapping that holds `address`.
    pub fn mapping_at(&self, address: u64) -> Option<Mapping> {
        match memory::query(&self.proc("maps")?, address) {
            Some(found) => {
                found.map(|mapping| Mapping { special: self.vvar.special(mapping.dev, mapping.ino), ..mapping })
            }
            // Older hosts tell all or nothing.
            None => {
                self.all_mappings().into_iter().find(|mapping| (mapping.start..mapping.end).contains(&address))
            }
        }
    }

    /// Mappings as the guest is to see them.
    fn shown(&self, mut maps: Vec<Mapping>) -> Vec<Mapping> {
        let sites = self.sites.lock();
        maps.retain(|mapping| !sites.hides(mapping.start));
        maps.iter_mut().for_each(|mapping| sites.show(mapping));
        maps
    }

    /// The guest's mappings and the areas of trampolines among them.
    pub fn all_mappings(&self) -> Vec<Mapping> {
        self.read_maps("maps")
    }

    fn read_maps(&self, name: &str) -> Vec<Mapping> {
        let Some(file) = self.proc(name) else { return Vec::new() };
        let lines = BufReader::with_capacity(16 << 10, file);
        parse_maps(lines, self.base - VVAR_BELOW, |dev, ino| self.vvar.special(dev, ino))
    }

    /// How much of a range lies below the shim: nothing above is the guest's.
    fn clip(&self, address: u64, len: usize) -> usize {
        usize::try_from(self.base.saturating_sub(address)).unwrap_or(usize::MAX).min(len)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill();
    }
}

/// Reads `/proc/PID/maps` (proc_pid_maps(5)) or `smaps`, leaving out what lies at or above `top`. Line
/// by line: with many mappings the whole text takes tens of megabytes.
fn parse_maps(mut lines: impl BufRead, top: u64, special: impl Fn(u64, u64) -> Option<Special>) -> Vec<Mapping> {
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let flags = words.next()?.as_bytes();
        let offset = hex(words.next()?)?;
        let (major, minor) = words.next()?.split_once(':')?;
        let ino = words.next()?.parse().ok()?;
        let start = hex(start)?;
        let dev = libc::makedev(hex(major)? as u32, hex(minor)? as u32);
        let bit = |at: usize, letter: u8, bit: u32| if flags.get(at) == Some(&letter) { bit } else { 0 };
        Some(Mapping {
            start,
            end: hex(end)?,
            prot: bit(0, b'r', 1) | bit(1, b'w', 2) | bit(2, b'x', 4),
            shared: flags.get(3) == Some(&b's'),
            offset,
            dev,
            ino,
            special: if start == VSYSCALL { Some(Special::Vsyscall) } else { special(dev, ino) },
            memory: MapMemory::default(),
        })
    };
    let mut maps: Vec<Mapping> = Vec::new();
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        // Names of files may be anything; what is looked at comes before them.
        let text = String::from_utf8_lossy(&line);
        // Names of smaps begin with a capital, lines of maps with an address.
        if text.starts_with(|first: char| first.is_ascii_uppercase()) {
            if let (Some(mapping), Some((name, value))) = (maps.last_mut(), text.split_once(':')) {
                note_memory(&mut mapping.memory, name, value.trim_end());
            }
        } else if let Some(mapping) = parse(&text) {
            maps.push(mapping);
        }
        line.clear();
    }
    maps.retain(|mapping| mapping.start < top || mapping.start == VSYSCALL);
    maps
}

/// One line of `smaps`.
fn note_memory(memory: &mut MapMemory, name: &str, value: &str) {
    let bytes = || value.trim_end_matches("kB").trim().parse::<u64>().unwrap_or(0) << 10;
    let shares = &mut memory.shares;
    match name {
        "Rss" => memory.resident = bytes(),
        "Pss" => shares.proportional = bytes(),
        "Pss_Dirty" => shares.proportional_dirty = bytes(),
        "Shared_Clean" => shares.shared_clean = bytes(),
        "Shared_Dirty" => shares.shared_dirty = bytes(),
        "Private_Clean" => shares.private_clean = bytes(),
        "Private_Dirty" => shares.private_dirty = bytes(),
        "Referenced" => shares.referenced = bytes(),
        "Anonymous" => {
            shares.anonymous = bytes();
            memory.own += shares.anonymous;
        }
        "LazyFree" => shares.lazily_freed = bytes(),
        "AnonHugePages" => shares.huge = bytes(),
        "Swap" => {
            shares.swap = bytes();
            memory.own += shares.swap;
        }
        "SwapPss" => shares.swap_proportional = bytes(),
        "Locked" => shares.locked = bytes(),
        "VmFlags" => {
            memory.dont_dump = value.split_ascii_whitespace().any(|flag| flag == "dd");
            memory.huge = value.split_ascii_whitespace().any(|flag| flag == "ht");
        }
        _ => {}
    }
}

const _: () = assert!(SHIM_ALIGN == 1 << 32);
const _: () = assert!(coracle_abi::vvar::VVAR_SIZE as u64 == coracle_abi::port::VVAR_SIZE);

#[cfg(test)]
mod tests {
    use coracle_platform::Shares;

    use super::*;

    #[test]
    fn smaps_tell_of_memory() {
        let text = "5555-6666 rw-p 0 00:00 0\nRss:  8 kB\nAnonymous:  4 kB\nAnonHugePages:  64 kB\nSwap:  12 kB\n\
                    SwapPss: 12 kB\nVmFlags: rd wr dd sd\n7777-8888 r--p 0 00:00 0\nRss: 4 kB\n";
        let maps = parse_maps(text.as_bytes(), 1 << 40, |_, _| None);
        let first = MapMemory {
            resident: 8 << 10,
            own: 16 << 10,
            dont_dump: true,
            shares: Shares {
                anonymous: 4 << 10,
                huge: 64 << 10,
                swap: 12 << 10,
                swap_proportional: 12 << 10,
                ..Shares::default()
            },
            ..MapMemory::default()
        };
        assert_eq!(maps.iter().map(|mapping| mapping.memory).next(), Some(first));
        assert_eq!((maps.len(), maps[1].memory.resident, maps[1].memory.own), (2, 4 << 10, 0));
    }

    #[test]
    fn maps_are_read_and_the_shim_left_out() {
        let text =
            "5555-6666 r-xp 00001000 fe:01 42   /bin/x y\n7e0100000000-7e0100010000 r-xp 0 00:01 9 /memfd:x\n";
        let maps = parse_maps(text.as_bytes(), 0x7e01_0000_0000, |_, ino| (ino == 42).then_some(Special::Vdso));
        assert_eq!(maps.len(), 1);
        assert_eq!((maps[0].start, maps[0].end, maps[0].prot, maps[0].ino), (0x5555, 0x6666, 5, 42));
        assert_eq!(maps[0].special, Some(Special::Vdso));
        assert_eq!(maps[0].dev, libc::makedev(0xfe, 1));
    }
}
