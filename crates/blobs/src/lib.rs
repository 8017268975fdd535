//! The code that runs inside workers, as bytes, with the offsets of its labels.
#![no_std]
#![forbid(unsafe_code)]

/// The shim's text, to be mapped read-execute at a multiple of [`coracle_abi::port::SHIM_ALIGN`].
pub const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shim.bin"));

/// Offsets into [`SHIM`], as `guest/shim/src/entry.rs` names them.
pub mod label {
    include!(concat!(env!("OUT_DIR"), "/labels.rs"));
}

/// The vDSO's image, a whole ELF file, to be mapped read-execute directly above the vvar pages.
pub const VDSO: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vdso.bin"));

/// Offsets into [`VDSO`].
pub mod vdso {
    include!(concat!(env!("OUT_DIR"), "/vdso.rs"));
}
