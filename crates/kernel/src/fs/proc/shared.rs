//! What `/proc` and `/sys` keep between looks; a field of the [`crate::world::World`].

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

use parking_lot::Mutex;

use super::load::Load;

/// One sandbox's.
pub struct Shared {
    pub load: Mutex<Load>,
    /// Opened at the start, since the kernel process may not open it later; read when it is first asked for.
    cpuinfo: Option<File>,
    cpuinfo_text: OnceLock<String>,
    boot_id: OnceLock<String>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            load: Mutex::default(),
            cpuinfo: File::open("/proc/cpuinfo").ok(),
            cpuinfo_text: OnceLock::new(),
            boot_id: OnceLock::new(),
        }
    }
}

/// Most that is read of the host's file.
const MAX_TEXT: usize = 8 << 20;

impl Shared {
    /// The host's `/proc/cpuinfo`.
    pub fn host_cpuinfo(&self) -> &str {
        self.cpuinfo_text.get_or_init(|| self.cpuinfo.as_ref().map(read_all).unwrap_or_default())
    }

    /// A number that names this run of the sandbox.
    pub fn boot_id(&self) -> &str {
        self.boot_id.get_or_init(uuid)
    }
}

fn read_all(file: &File) -> String {
    let mut text = Vec::new();
    let mut chunk = [0; 16384];
    while text.len() < MAX_TEXT {
        match file.read_at(&mut chunk, text.len() as u64) {
            Ok(count) if count > 0 => text.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            _ => break,
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A random UUID (version 4).
pub fn uuid() -> String {
    let mut bytes = [0; 16];
    let _ = crate::world::random_bytes(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}
