use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex};

use super::*;

/// A sandbox that remembers what it was asked; `cat`s on exec.
#[derive(Default)]
struct Mock {
    killed: Mutex<Vec<i32>>,
    hung_up: Arc<(Mutex<bool>, Condvar)>,
}

struct Job {
    code: u8,
    hung_up: Option<Arc<(Mutex<bool>, Condvar)>>,
}

impl Handler for Mock {
    fn status(&self) -> Status {
        Status {
            argv: vec!["sh".into()],
            hostname: "box".into(),
            pid: 1,
            started: 2,
            processes: 3,
            memory: 4,
            cpu_ns: 5,
        }
    }

    fn kill(&self, signal: i32) -> Result<(), Refused> {
        if signal == 64 {
            return Err(Refused::new("not this one"));
        }
        self.killed.lock().unwrap().push(signal);
        Ok(())
    }

    fn exec(&self, request: ExecRequest, stdio: [OwnedFd; 3]) -> Result<Arc<dyn Executed>, Refused> {
        if request.argv == ["forever"] {
            return Ok(Arc::new(Job { code: 129, hung_up: Some(Arc::clone(&self.hung_up)) }));
        }
        let [stdin, stdout, _] = stdio;
        let mut text = String::new();
        std::fs::File::from(stdin).read_to_string(&mut text).unwrap();
        std::fs::File::from(stdout).write_all(text.to_uppercase().as_bytes()).unwrap();
        Ok(Arc::new(Job { code: 7, hung_up: None }))
    }
}

impl Executed for Job {
    fn wait(&self) -> u8 {
        if let Some(hung_up) = &self.hung_up {
            let mut gone = hung_up.0.lock().unwrap();
            while !*gone {
                gone = hung_up.1.wait(gone).unwrap();
            }
        }
        self.code
    }

    fn signal(&self, signal: i32) -> bool {
        if let (15, Some(hung_up)) = (signal, &self.hung_up) {
            *hung_up.0.lock().unwrap() = true;
            hung_up.1.notify_all();
        }
        false
    }

    fn hang_up(&self) {
        if let Some(hung_up) = &self.hung_up {
            *hung_up.0.lock().unwrap() = true;
            hung_up.1.notify_all();
        }
    }
}

fn start_in(dir: &Path, handler: Arc<dyn Handler>) -> io::Result<Server> {
    let handler = Arc::new(std::sync::OnceLock::from(handler));
    let (server, service) = Server::open(server::Place::prepare_in(dir)?)?;
    std::thread::spawn(move || service.run(&handler, None));
    Ok(server)
}

fn request(program: &str) -> ExecRequest {
    ExecRequest {
        argv: vec![program.into()],
        env: Vec::new(),
        workdir: None,
        user: None,
        inherited: Inherited::default(),
    }
}

#[test]
fn sandboxes_are_found_asked_and_steered() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("coracle");
    assert!(sandboxes_in(&dir).unwrap().is_empty());
    let mock = Arc::new(Mock::default());
    let server = start_in(&dir, Arc::clone(&mock) as Arc<dyn Handler>).unwrap();
    let sandbox = find_in(&dir, &server.id()[..4]).unwrap();
    assert_eq!(sandbox.status().unwrap(), mock.status());
    sandbox.kill(15).unwrap();
    assert_eq!(*mock.killed.lock().unwrap(), [15]);
    assert!(matches!(sandbox.kill(64), Err(ControlError::Refused { .. })));
    assert!(matches!(find_in(&dir, "x"), Err(ControlError::NoSuchSandbox(_))));
    assert!(matches!(find_in(&dir, ""), Err(ControlError::NoSuchSandbox(_))));
    drop(server);
    assert!(sandboxes_in(&dir).unwrap().is_empty());
    assert!(matches!(sandbox.status(), Err(ControlError::Unreachable { .. })));
}

#[test]
fn exec_lends_its_streams() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("coracle");
    let server = start_in(&dir, Arc::new(Mock::default())).unwrap();
    let (input, output) = (scratch.path().join("in"), scratch.path().join("out"));
    std::fs::write(&input, "hello").unwrap();
    let (stdin, stdout) = (std::fs::File::open(&input).unwrap(), std::fs::File::create(&output).unwrap());
    let streams = [stdin.as_fd(), stdout.as_fd(), stdout.as_fd()];
    assert_eq!(find_in(&dir, server.id()).unwrap().exec(request("cat"), streams).unwrap(), 7);
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "HELLO");
}

#[test]
fn a_client_that_goes_away_hangs_up() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("coracle");
    let mock = Arc::new(Mock::default());
    let server = start_in(&dir, Arc::clone(&mock) as Arc<dyn Handler>).unwrap();
    let stream = UnixStream::connect(dir.join(format!("{}.sock", server.id()))).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    wire::send(&stream, &Request::Exec(request("forever")), &[null.as_fd(); 3]).unwrap();
    drop(stream);
    let (gone, told) = &*mock.hung_up;
    let (gone, wait) =
        told.wait_timeout_while(gone.lock().unwrap(), Duration::from_secs(20), |gone| !*gone).unwrap();
    assert!(*gone && !wait.timed_out());
}

#[test]
fn signals_reach_what_was_started() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("coracle");
    let mock = Arc::new(Mock::default());
    let server = start_in(&dir, Arc::clone(&mock) as Arc<dyn Handler>).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let mut sent = None;
    let code = find_in(&dir, server.id()).unwrap().executed(request("forever"), [null.as_fd(); 3], |stream| {
        sent = Some(wire::send(stream, &Request::Signal(15), &[]).is_ok());
        Ok(())
    });
    assert_eq!((code.unwrap(), sent), (129, Some(true)));
}

#[test]
fn what_the_dead_left_is_removed_and_foreign_directories_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("coracle");
    Directory::make(&dir).unwrap();
    let dead = dir.join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    assert!(sandboxes_in(&dir).unwrap().is_empty());
    assert!(!dead.exists());
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(sandboxes_in(&dir), Err(ControlError::Directory { .. })));
    assert!(start_in(&dir, Arc::new(Mock::default())).is_err());
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink(&dir, &link).unwrap();
    assert!(start_in(&link, Arc::new(Mock::default())).is_err());
}

#[test]
fn a_directory_that_was_opened_is_meant_whatever_its_name_leads_to() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, moved) = (scratch.path().join("coracle"), scratch.path().join("moved"));
    let directory = Directory::make(&dir).unwrap();
    std::fs::rename(&dir, &moved).unwrap();
    std::fs::create_dir(&dir).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(directory.address("a")).unwrap();
    assert!(moved.join("a.sock").exists() && !dir.join("a.sock").exists());
    directory.connect("a").unwrap();
    assert_eq!(directory.ids().unwrap(), ["a"]);
    drop(listener);
    directory.remove("a").unwrap();
    assert!(!moved.join("a.sock").exists());
}
