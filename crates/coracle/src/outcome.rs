//! How a run ended. This is also the `--json` line: field names are a promise.

use serde::{Deserialize, Serialize};

/// Why the first process of the sandbox is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It exited by itself; `status` says how.
    Exit,
    /// A signal killed it; `signal` says which.
    Signal,
    /// `--timeout` ran out.
    Timeout,
    /// It needed more memory than `--memory` grants.
    OutOfMemory,
    /// Somebody outside ended the sandbox (`coracle kill`, the embedding program).
    Killed,
    /// A fault of Coracle's own; please report it.
    Internal,
}

/// System calls by the lane that served them (docs/architecture.md says what the lanes are).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lanes {
    /// Answered in the guest from its port.
    #[serde(rename = "1")]
    pub identity: u64,
    /// Executed by the host in the guest's own thread.
    #[serde(rename = "2")]
    pub memory: u64,
    /// Carried by the port to the kernel.
    #[serde(rename = "3")]
    pub port: u64,
    /// Trapped.
    #[serde(rename = "4")]
    pub trap: u64,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Exit status (0..=255) when it exited.
    pub status: Option<i32>,
    /// Signal number when a signal killed it.
    pub signal: Option<i32>,
    /// Why.
    pub reason: Reason,
    /// Nanoseconds from start to end.
    pub wall_ns: u64,
    /// Nanoseconds of CPU that guest code used (user and system, workers only).
    pub cpu_ns: u64,
    /// Most bytes that the guest held resident at once.
    pub peak_memory: u64,
    /// Calls per lane.
    pub lanes: Lanes,
}

impl Outcome {
    /// The exit status that a shell would show: the guest's own, or 128 + signal.
    pub fn exit_code(&self) -> u8 {
        match (self.signal, self.status) {
            (Some(signal), _) => u8::try_from(128_i32.saturating_add(signal)).unwrap_or(255),
            (None, Some(status)) => status.to_le_bytes()[0],
            (None, None) => 125,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: Option<i32>, signal: Option<i32>) -> Outcome {
        Outcome {
            status,
            signal,
            reason: Reason::Exit,
            wall_ns: 1,
            cpu_ns: 2,
            peak_memory: 3,
            lanes: Lanes::default(),
        }
    }

    #[test]
    fn exit_codes_are_the_shell_s() {
        assert_eq!(ended(Some(0), None).exit_code(), 0);
        assert_eq!(ended(Some(7), None).exit_code(), 7);
        assert_eq!(ended(None, Some(9)).exit_code(), 137);
        assert_eq!(ended(None, Some(64)).exit_code(), 192);
        assert_eq!(ended(None, None).exit_code(), 125);
    }

    #[test]
    fn json_line_is_stable() {
        let line = serde_json::to_string(&ended(Some(0), None)).unwrap();
        assert_eq!(
            line,
            r#"{"status":0,"signal":null,"reason":"exit","wall_ns":1,"cpu_ns":2,"peak_memory":3,"lanes":{"1":0,"2":0,"3":0,"4":0}}"#
        );
        assert_eq!(serde_json::from_str::<Outcome>(&line).unwrap(), ended(Some(0), None));
    }
}
