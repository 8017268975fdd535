//! What runs guest code. One module a platform; the kernel sees only [`coracle_platform`].

pub mod seccomp;
