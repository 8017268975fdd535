use std::os::unix::ffi::OsStringExt;

use super::*;

fn host(vars: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    vars.iter().map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn environment_is_minimal_and_overridable() {
    let mut env = Environment::default();
    let vars = host(&[("PATH", "/bin"), ("SECRET", "x"), ("TERM", "xterm")]);
    assert_eq!(env.resolve(vars.clone()), ["PATH=/bin", "TERM=xterm"]);
    env.set = host(&[("A", "1"), ("TERM", "dumb"), ("A", "2")]);
    assert_eq!(env.resolve(vars.clone()), ["PATH=/bin", "TERM=dumb", "A=2"]);
    env.clear = true;
    assert_eq!(env.resolve(vars), ["A=2", "TERM=dumb"]);
    assert_eq!(
        Environment::default().resolve(None),
        [OsString::from(format!("PATH={}", Environment::DEFAULT_PATH))]
    );
}

#[test]
fn filters_show_what_they_name() {
    let mut filter = SyscallFilter::default();
    assert!(filter.shows("read"));
    filter.names = vec!["read".into()];
    assert!(filter.shows("read") && !filter.shows("write"));
    filter.invert = true;
    assert!(!filter.shows("read") && filter.shows("write"));
}

#[test]
fn config_survives_the_trip_as_json() {
    let odd = OsString::from_vec(vec![b'/', 0xff, b'x']);
    let mut config = Config::new(["/bin/true"]);
    config.argv.push(odd.clone());
    config.rootfs = Rootfs::Dir(odd.clone().into());
    config.binds.push(Bind { src: odd.clone().into(), dst: "/x".into(), read_only: true });
    config.write.push(odd.clone().into());
    config.workdir = Some(odd.into());
    config.user = Some(User::Id { uid: 1, gid: None });
    config.timeout = Some(Timeout { after: Duration::from_millis(1), grace: DEFAULT_GRACE });
    config.trace.syscalls = Some(SyscallFilter::default());
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
}

#[test]
fn errors_name_the_option() {
    let says = |change: &dyn Fn(&mut Config), part: &str| {
        let mut config = Config::new(["/bin/true"]);
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert!(message.contains(part) && !message.contains('\n'), "{message}");
    };
    let bind = |src: &str, dst: &str| Bind { src: src.into(), dst: dst.into(), read_only: false };
    says(&|c| c.argv.clear(), "no program");
    says(&|c| c.argv.push("a\0b".into()), "NUL");
    says(&|c| c.binds.push(bind("/nowhere", "/x")), "--bind /nowhere: the source does not exist");
    says(&|c| c.binds.push(bind("/etc", "x")), "absolute");
    says(&|c| c.write.push("/etc/passwd".into()), "--write /etc/passwd: it is not a directory");
    says(&|c| c.rootfs = Rootfs::Tar("/nowhere.tar".into()), "--rootfs /nowhere.tar: it does not exist");
    says(&|c| c.workdir = Some("x".into()), "--workdir x");
    says(&|c| c.save = Some("/etc".into()), "--save /etc: it is not empty");
    says(&|c| c.save = Some("/nowhere/x".into()), "--save /nowhere/x: its parent directory does not exist");
    says(&|c| c.hostname = "a b".into(), "--hostname");
    says(&|c| c.env.set.push(("".into(), "x".into())), "--env");
    says(&|c| c.limits.cpus = Some(0), "--cpus 0");
    says(&|c| c.limits.memory = Some(1), "--memory 1");
}

#[test]
fn defaults_and_fresh_save_directories_pass() {
    let scratch = tempfile::tempdir().unwrap();
    let mut config = Config::new(["/bin/true"]);
    config.save = Some(scratch.path().to_owned());
    config.validate().unwrap();
    config.save = Some(scratch.path().join("new"));
    config.validate().unwrap();
}

#[test]
fn write_directories_are_mounts_at_their_own_path() {
    let mut config = Config::new(["/bin/true"]);
    config.binds.push(Bind { src: "/a".into(), dst: "/b".into(), read_only: true });
    config.write.push("/c".into());
    let mounts = config.mounts();
    assert_eq!(mounts.len(), 2);
    assert_eq!(mounts.last().unwrap(), &Bind { src: "/c".into(), dst: "/c".into(), read_only: false });
}

#[test]
fn outer_places_are_mounted_first_and_later_ones_over_earlier_ones() {
    let mut config = Config::new(["/bin/true"]);
    for (src, dst) in [("/1", "/w/a/b"), ("/2", "/w/a"), ("/3", "//w/./a/"), ("/4", "/")] {
        config.binds.push(Bind { src: src.into(), dst: dst.into(), read_only: true });
    }
    config.write.push("/w".into());
    let order: Vec<_> = config.mounts().into_iter().map(|bind| bind.src).collect();
    assert_eq!(order, ["/4", "/w", "/2", "/3", "/1"].map(std::path::PathBuf::from));
}
