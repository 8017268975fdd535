//! poll(2), select(2) and their forms with a signal mask: fs/select.c.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::abi::types::{Pollfd, Timespec, Timeval};
use crate::call::{Addr, Ctx};
use crate::fd::OpenFile;
use crate::ipc::glue;
use crate::wait::{Deadline, Events, PollTable};
use crate::{Errno, Result, SysResult};

crate::calls! {
    7 poll poll, 3 Full;
    23 select select, 5 Full;
    270 pselect6 pselect6, 6 Full;
    271 ppoll ppoll, 5 Full;
}

/// What makes a descriptor readable, writable and exceptional to `select` (`POLLIN_SET` and so on).
const READ_SET: Events = Events::READ.union(Events::RDBAND).union(Events::HUP).union(Events::ERR);
const WRITE_SET: Events = Events::WRITE.union(Events::WRBAND).union(Events::ERR);
const EXCEPT_SET: Events = Events::PRI;

fn poll(cx: &mut Ctx<'_>, fds: Addr, count: u32, timeout: i32) -> SysResult {
    let timeout = u64::try_from(timeout).ok().map(Duration::from_millis);
    let deadline = End::after(timeout);
    match do_poll(cx, fds, count, &deadline) {
        Err(Errno::ERESTARTNOHAND) => Err(glue::restart_poll(cx, fds.0, count, deadline.instant())),
        other => other,
    }
}

/// Goes on after a signal without a handler, until the deadline of the first attempt.
pub(super) fn restart(cx: &mut Ctx<'_>, fds: u64, count: u32, deadline: Deadline) -> SysResult {
    let end = End { timeout: deadline.map(|at| at.saturating_duration_since(Instant::now())), deadline };
    match do_poll(cx, Addr(fds), count, &end) {
        Err(Errno::ERESTARTNOHAND) => Err(glue::restart_poll(cx, fds, count, deadline)),
        other => other,
    }
}

fn ppoll(cx: &mut Ctx<'_>, fds: Addr, count: u32, timeout: Addr, mask: Addr, size: u64) -> SysResult {
    let end = End::read_timespec(cx, timeout)?;
    glue::set_user_sigmask(cx, mask.0, size)?;
    let result = do_poll(cx, fds, count, &end);
    finish(cx, result, |cx| end.write_timespec(cx, timeout))
}

fn select(cx: &mut Ctx<'_>, count: i32, read: Addr, write: Addr, except: Addr, timeout: Addr) -> SysResult {
    let end = match timeout.non_null() {
        None => End::after(None),
        Some(at) => {
            let time: Timeval = cx.mem().read(at)?;
            // Whole seconds may hide in the microseconds (kern_select()).
            let carry = time.tv_usec.div_euclid(1_000_000);
            let micros = time.tv_usec.rem_euclid(1_000_000);
            let seconds = time.tv_sec.checked_add(carry).ok_or(Errno::EINVAL)?;
            if time.tv_usec < 0 {
                return Err(Errno::EINVAL);
            }
            let seconds = u64::try_from(seconds).map_err(|_| Errno::EINVAL)?;
            End::after(Some(Duration::new(seconds, (micros * 1000) as u32)))
        }
    };
    let result = do_select(cx, count, [read, write, except], &end);
    finish(cx, result, |cx| match (timeout.non_null(), end.left()) {
        (Some(at), Some(left)) => {
            let left = Timeval { tv_sec: seconds_of(left), tv_usec: i64::from(left.subsec_micros()) };
            cx.mem().write(at, &left)
        }
        _ => Ok(()),
    })
}

fn pselect6(
    cx: &mut Ctx<'_>,
    count: i32,
    read: Addr,
    write: Addr,
    except: Addr,
    timeout: Addr,
    mask: Addr,
) -> SysResult {
    let (mask, size) = match mask.non_null() {
        Some(at) => cx.mem().read::<[u64; 2]>(at)?.into(),
        None => (0, 0),
    };
    let end = End::read_timespec(cx, timeout)?;
    glue::set_user_sigmask(cx, mask, size)?;
    let result = do_select(cx, count, [read, write, except], &end);
    finish(cx, result, |cx| end.write_timespec(cx, timeout))
}

/// poll_select_finish(): the mask is restored, and the time left is reported.
fn finish(cx: &mut Ctx<'_>, result: SysResult, write: impl FnOnce(&mut Ctx<'_>) -> Result<()>) -> SysResult {
    glue::restore_saved_sigmask_unless(cx, result == Err(Errno::ERESTARTNOHAND));
    match (write(cx), result) {
        // A timeout in read-only memory: restarting would wait anew.
        (Err(_), Err(Errno::ERESTARTNOHAND)) => Err(Errno::EINTR),
        (_, result) => result,
    }
}

/// When a wait ends.
struct End {
    timeout: Option<Duration>,
    deadline: Deadline,
}

impl End {
    fn after(timeout: Option<Duration>) -> End {
        End { timeout, deadline: timeout.and_then(crate::wait::deadline_after) }
    }

    fn read_timespec(cx: &mut Ctx<'_>, at: Addr) -> Result<End> {
        match at.non_null() {
            Some(at) => Ok(End::after(Some(glue::timespec(cx.mem().read::<Timespec>(at)?)?))),
            None => Ok(End::after(None)),
        }
    }

    fn write_timespec(&self, cx: &mut Ctx<'_>, at: Addr) -> Result<()> {
        match (at.non_null(), self.left()) {
            (Some(at), Some(left)) => {
                let left = Timespec { tv_sec: seconds_of(left), tv_nsec: i64::from(left.subsec_nanos()) };
                cx.mem().write(at, &left)
            }
            _ => Ok(()),
        }
    }

    /// Only a look, no wait.
    fn immediate(&self) -> bool {
        self.timeout == Some(Duration::ZERO)
    }

    fn instant(&self) -> Deadline {
        self.deadline
    }

    /// What is left of the timeout, if there is one.
    fn left(&self) -> Option<Duration> {
        let timeout = self.timeout?;
        Some(self.deadline.map_or(timeout, |at| at.saturating_duration_since(Instant::now())))
    }
}

fn seconds_of(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// Waits until `look` counts something or the time is over; `ERESTARTNOHAND` when a signal comes first.
fn wait(cx: &Ctx<'_>, end: &End, mut look: impl FnMut(&mut PollTable) -> u64) -> SysResult {
    if end.immediate() {
        return Ok(look(&mut PollTable::check()));
    }
    match cx.block(end.deadline, |table| Some(look(table)).filter(|count| *count > 0)) {
        Err(Errno::ETIMEDOUT) => Ok(0),
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
        other => other,
    }
}

/// do_sys_poll().
fn do_poll(cx: &mut Ctx<'_>, fds: Addr, count: u32, end: &End) -> SysResult {
    let count = count as usize;
    if count > cx.task.nofile() {
        return Err(Errno::EINVAL);
    }
    let mut list = read_pollfds(cx, fds.0, count)?;
    let files = cx.task.files();
    // A negative descriptor is skipped, a closed one is POLLNVAL.
    let open: Vec<Option<Arc<OpenFile>>> = list.iter().map(|entry| files.get(entry.fd).ok()).collect();
    let ready = wait(cx, end, |table| {
        let mut ready = 0;
        for (entry, file) in list.iter_mut().zip(&open) {
            let found = match file {
                _ if entry.fd < 0 => Events::empty(),
                None => Events::NVAL,
                Some(file) => {
                    let interest = Events::from_bits_truncate(u32::from(entry.events as u16));
                    table.set_interest(interest);
                    file.file.poll(table) & (interest | Events::ERR | Events::HUP)
                }
            };
            entry.revents = found.bits() as u16 as i16;
            ready += u64::from(!found.is_empty());
        }
        ready
    })?;
    write_revents(cx, fds.0, &list)?;
    Ok(ready)
}

fn read_pollfds(cx: &mut Ctx<'_>, at: u64, count: usize) -> Result<Vec<Pollfd>> {
    let mut bytes = vec![0; count * size_of::<Pollfd>()];
    cx.mem().read_bytes(at, &mut bytes)?;
    let word = |chunk: &[u8], at: usize| chunk.get(at).copied().unwrap_or_default();
    Ok(bytes
        .chunks_exact(size_of::<Pollfd>())
        .map(|chunk| Pollfd {
            fd: i32::from_ne_bytes([0, 1, 2, 3].map(|at| word(chunk, at))),
            events: i16::from_ne_bytes([4, 5].map(|at| word(chunk, at))),
            revents: 0,
        })
        .collect())
}

fn write_revents(cx: &mut Ctx<'_>, at: u64, list: &[Pollfd]) -> Result<()> {
    use zerocopy::IntoBytes;
    cx.mem().write_bytes(at, list.as_bytes())
}

/// The three sets of `select`, as bit maps of whole words.
type Sets = [Option<Vec<u64>>; 3];

/// core_sys_select().
fn do_select(cx: &mut Ctx<'_>, count: i32, at: [Addr; 3], end: &End) -> SysResult {
    let count = usize::try_from(count).map_err(|_| Errno::EINVAL)?;
    // Bits beyond the capacity of the table are not even looked at.
    let count = count.min(capacity(cx));
    let words = count.div_ceil(64);
    let mut wanted: Sets = [None, None, None];
    for (set, at) in wanted.iter_mut().zip(at) {
        if let Some(at) = at.non_null() {
            let mut bytes = vec![0; words * 8];
            cx.mem().read_bytes(at, &mut bytes)?;
            let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
            *set = Some(bytes.chunks_exact(8).map(word).collect());
        }
    }
    let open = select_files(cx, &wanted, count)?;
    let mut found: Sets = wanted.each_ref().map(|set| set.as_ref().map(|_| vec![0; words]));
    let ready = wait(cx, end, |table| {
        let mut ready = 0;
        for set in found.iter_mut().flatten() {
            set.fill(0);
        }
        for (fd, file, interest) in &open {
            let all = [READ_SET, WRITE_SET, EXCEPT_SET];
            let wants = [Events::IN, Events::OUT, Events::PRI];
            let asked = all.iter().zip(wants).filter(|(_, want)| interest.contains(*want));
            table.set_interest(asked.fold(Events::empty(), |sum, (events, _)| sum | *events));
            let now = file.file.poll(table);
            for ((set, want), events) in found.iter_mut().zip(wants).zip(all) {
                if interest.contains(want)
                    && now.intersects(events)
                    && let Some(word) = set.as_mut().and_then(|set| set.get_mut(fd / 64))
                {
                    *word |= 1 << (fd % 64);
                    ready += 1;
                }
            }
        }
        ready
    })?;
    for (set, at) in found.iter().zip(at) {
        if let Some(set) = set {
            let bytes: Vec<u8> = set.iter().flat_map(|word| word.to_ne_bytes()).collect();
            cx.mem().write_bytes(at.0, &bytes)?;
        }
    }
    Ok(ready)
}

/// Every descriptor in a set, with `IN`, `OUT` and `PRI` for the sets it is in; `EBADF` if one is closed.
fn select_files(cx: &Ctx<'_>, wanted: &Sets, count: usize) -> Result<Vec<(usize, Arc<OpenFile>, Events)>> {
    let files = cx.task.files();
    let mut open = Vec::new();
    for fd in 0..count {
        let mut interest = Events::empty();
        for (set, event) in wanted.iter().zip([Events::IN, Events::OUT, Events::PRI]) {
            let word = set.as_ref().and_then(|set| set.get(fd / 64)).copied().unwrap_or_default();
            interest.set(event, word & 1 << (fd % 64) != 0);
        }
        if !interest.is_empty() {
            open.push((fd, files.get(i32::try_from(fd).map_err(|_| Errno::EBADF)?)?, interest));
        }
    }
    Ok(open)
}

/// Size of the descriptor table as Linux grows it (alloc_fdtable()).
fn capacity(cx: &Ctx<'_>) -> usize {
    let used = cx.task.files().size();
    if used <= 64 { 64 } else { used.next_power_of_two().max(256) }
}
