//! `--trace=syscalls`: a line for every call that the kernel serves, in the style of strace, with its lane and time.

use std::time::Instant;

use coracle_kernel::SysResult;
use coracle_kernel::call::Ctx;
use coracle_kernel::syscalls;
use coracle_kernel::world::Tracer;
use std::sync::atomic::Ordering;

use crate::config::SyscallFilter;

/// Prints calls on stderr.
pub struct Strace {
    filter: SyscallFilter,
}

impl Strace {
    pub fn new(filter: SyscallFilter) -> Strace {
        Strace { filter }
    }
}

impl Tracer for Strace {
    fn enter(&self, _cx: &Ctx<'_>) -> Instant {
        Instant::now()
    }

    fn leave(&self, cx: &Ctx<'_>, before: Instant, result: &SysResult) {
        let time = before.elapsed();
        let call = syscalls::find(cx.number);
        let name = call.map_or_else(|| format!("syscall_{}", cx.number), |call| call.name.to_owned());
        if !self.filter.shows(&name) {
            return;
        }
        let arity = call.map_or(6, |call| usize::from(call.arity));
        let args: Vec<String> = cx.args.iter().take(arity).map(|arg| plain(*arg)).collect();
        let result = match result {
            Ok(value) => plain(*value),
            Err(errno) => format!("-1 {}", errno.name()),
        };
        let lane = cx.task.last_lane.load(Ordering::Relaxed);
        eprintln!(
            "[{}] {name}({}) = {result} <lane {lane}, {} ns>",
            cx.task.tid(),
            args.join(", "),
            time.as_nanos()
        );
    }
}

/// Small numbers in decimal (negative ones too), others as addresses.
fn plain(value: u64) -> String {
    let signed = value as i64;
    if (-4096..1 << 20).contains(&signed) { signed.to_string() } else { format!("{value:#x}") }
}
