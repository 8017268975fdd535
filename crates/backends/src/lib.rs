//! What runs guest code, one module a platform, and what confines the kernel process; the kernel sees only
//! [`coracle_platform`].

mod bpf;
pub mod confine;
mod host_proc;
pub mod seccomp;
