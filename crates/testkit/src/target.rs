//! What is under test: which `coracle`, on which platform, with which options.

use std::env;
use std::path::{Path, PathBuf};

/// Read once from the environment; docs/testing.md lists the variables.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `native` compares native runs with each other: the check that a case is deterministic.
    pub platform: String,
    pub coracle: PathBuf,
    /// How often the second run is repeated.
    pub repeat: u32,
    /// How many times as much cases do that draw lots; 1 in CI.
    pub long: u32,
    /// More options for `coracle run`, for running the whole table under a variation.
    pub options: Vec<String>,
    pub keep: bool,
    /// Where to write one file for each failing case.
    pub failures: Option<PathBuf>,
    /// Below this the cases have their directories.
    pub scratch: PathBuf,
}

impl Target {
    pub fn from_environment() -> Target {
        let var = |name| env::var(name).ok().filter(|v: &String| !v.is_empty());
        let scratch = var("CORACLE_TEST_DIR").map_or_else(env::temp_dir, PathBuf::from);
        Target {
            platform: var("CORACLE_TEST_PLATFORM").unwrap_or_else(|| "auto".to_owned()),
            coracle: var("CORACLE_BIN").map_or_else(beside_this_test, PathBuf::from),
            repeat: var("CORACLE_TEST_REPEAT").and_then(|v| v.parse().ok()).unwrap_or(1),
            long: var("CORACLE_TEST_LONG").and_then(|v| v.parse().ok()).unwrap_or(1).max(1),
            options: var("CORACLE_TEST_OPTIONS")
                .map(|v| v.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            keep: var("CORACLE_TEST_KEEP").is_some(),
            failures: var("CORACLE_TEST_FAILURES").map(PathBuf::from),
            scratch: scratch.join(format!("coracle-test-{}", std::process::id())),
        }
    }

    pub fn is_native(&self) -> bool {
        self.platform == "native"
    }
}

/// `target/PROFILE/coracle`, seen from `target/PROFILE/deps/programs-HASH`.
fn beside_this_test() -> PathBuf {
    let test = env::current_exe().unwrap_or_default();
    let profile = test.parent().and_then(Path::parent).map(Path::to_owned);
    profile.unwrap_or_default().join("coracle")
}

/// `target/`, for what the testkit compiles itself.
pub(crate) fn target_dir() -> PathBuf {
    let coracle = beside_this_test();
    let dir = coracle.parent().and_then(Path::parent).map(Path::to_owned);
    dir.unwrap_or_else(|| repository().join("target"))
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
