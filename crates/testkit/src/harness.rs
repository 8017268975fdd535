//! Turns cases into libtest-mimic trials: filters by name, two at a time, a skip says why.

use crate::case::Case;
use crate::compare;
use crate::target::Target;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;

/// The `main` of a test target.
pub fn run(cases: Vec<Case>) -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(2);
    let target = Arc::new(Target::from_environment());
    // What a program inherits is the same on every machine.
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    // A case that is about cores raises the limit itself.
    let no_core = Rlimit { current: Some(0), maximum: getrlimit(Resource::Core).maximum };
    let _ = setrlimit(Resource::Core, no_core);

    let trials = cases.into_iter().map(|case| trial(case, &target)).collect();
    let conclusion = libtest_mimic::run(&args, trials);
    if !target.keep {
        // Only a case that is being looked at leaves something here.
        let _ = fs::remove_dir(&target.scratch);
    }
    conclusion.exit_code()
}

fn trial(case: Case, target: &Arc<Target>) -> Trial {
    let target = Arc::clone(target);
    let kind = if case.expected_failure.is_some() && !target.is_native() { "expected failure" } else { "" };
    Trial::ignorable_test(case.name.clone(), move || judge(&case, &target)).with_kind(kind)
}

fn judge(case: &Case, target: &Target) -> Result<Completion, Failed> {
    if let Some(missing) = case.needs.iter().find(|p| !p.is_installed()) {
        return Ok(Completion::ignored_with(format!(
            "needs {} from Debian package {}",
            missing.proof, missing.name
        )));
    }
    if case.dumps_core
        && let Some(reason) = no_cores_here()
    {
        return Ok(Completion::ignored_with(reason));
    }
    let guest = match case.guest.as_ref().map(|g| g.build()).transpose() {
        Ok(path) => path,
        Err(crate::guests::BuildError::NoCompiler(what)) => {
            return Ok(Completion::ignored_with(what));
        }
        Err(crate::guests::BuildError::Failed(log)) => return Err(log.into()),
    };
    let result = compare::run(case, guest.as_deref(), target);
    report(case, target, result.as_ref().err());
    match (result, &case.expected_failure) {
        (Ok(()), Some(reason)) if !target.is_native() => {
            Err(format!("passes, but is marked as an expected failure ({reason}): take the mark away").into())
        }
        (Err(_), Some(_)) if !target.is_native() => Ok(Completion::Completed),
        (Ok(()), _) => Ok(Completion::Completed),
        (Err(text), _) => Err(text.into()),
    }
}

/// Why a native run would leave no file called `core` (core(5)).
fn no_cores_here() -> Option<String> {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
    let (pattern, uses_pid) = (setting("core_pattern"), setting("core_uses_pid"));
    if pattern.trim_end() != "core" || uses_pid.trim_end() != "0" {
        return Some(format!("needs \"core\" in the host's kernel.core_pattern, not {:?}", pattern.trim_end()));
    }
    let limited = getrlimit(Resource::Core).maximum.is_some();
    limited.then(|| "needs a hard RLIMIT_CORE that is unlimited".to_owned())
}

/// Keeps one file for each case that fails now.
fn report(case: &Case, target: &Target, failure: Option<&String>) {
    let Some(dir) = &target.failures else {
        return;
    };
    let path = dir.join(format!("{}.txt", case.name.replace('/', "_")));
    let _ = match failure {
        Some(text) => fs::create_dir_all(dir).and_then(|()| fs::write(path, text)),
        None => fs::remove_file(path),
    };
}
