//! Threads, channels, locks, thread-locals and files, with a result that does not depend on scheduling.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, RwLock, mpsc};
use std::thread;

thread_local! {
    static LINES_OF_THIS_THREAD: Cell<u64> = const { Cell::new(0) };
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (Some("count"), Some(path)) => count(&path),
        (Some("ring"), _) => ring(16, 200),
        (Some("many"), _) => many(1000),
        (Some("locks"), _) => locks(8, 5000),
        (Some("panic"), _) => panics(),
        _ => {
            eprintln!("threads: which test?");
            ExitCode::from(2)
        }
    }
}

/// Counts words with a reader, four workers, and channels between them.
fn count(path: &str) -> ExitCode {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => {
            println!("{path}: {:?}", error.kind());
            return ExitCode::from(1);
        }
    };
    let (sender, receiver) = mpsc::sync_channel::<String>(64);
    let receiver = Arc::new(Mutex::new(receiver));
    let totals = Arc::new(RwLock::new(BTreeMap::<String, u64>::new()));
    let seen = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (receiver, totals, seen) = (receiver.clone(), totals.clone(), seen.clone());
            thread::spawn(move || {
                loop {
                    let Ok(line) = receiver.lock().unwrap().recv() else {
                        break;
                    };
                    LINES_OF_THIS_THREAD.set(LINES_OF_THIS_THREAD.get() + 1);
                    let mut totals = totals.write().unwrap();
                    for word in line.split_whitespace() {
                        *totals.entry(word.to_owned()).or_default() += 1;
                    }
                }
                seen.fetch_add(LINES_OF_THIS_THREAD.get(), Ordering::Relaxed);
            })
        })
        .collect();
    for line in BufReader::new(file).lines() {
        sender.send(line.unwrap()).unwrap();
    }
    drop(sender);
    for worker in workers {
        worker.join().unwrap();
    }
    println!("{} lines", seen.load(Ordering::Relaxed));
    let totals = totals.read().unwrap();
    let mut out = BufWriter::new(File::create("counts").unwrap());
    for (word, n) in totals.iter() {
        writeln!(out, "{n} {word}").unwrap();
    }
    println!("{} words", totals.values().sum::<u64>());
    ExitCode::SUCCESS
}

/// A token goes around a ring of threads that sleep on condition variables.
fn ring(size: usize, rounds: usize) -> ExitCode {
    let state = Arc::new((Mutex::new(0usize), Condvar::new()));
    let start = Arc::new(Barrier::new(size));
    let threads: Vec<_> = (0..size)
        .map(|me| {
            let (state, start) = (state.clone(), start.clone());
            thread::spawn(move || {
                start.wait();
                for _ in 0..rounds {
                    let (token, moved) = &*state;
                    let mut token = token.lock().unwrap();
                    while *token % size != me {
                        token = moved.wait(token).unwrap();
                    }
                    *token += 1;
                    moved.notify_all();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    println!("token {}", state.0.lock().unwrap());
    ExitCode::SUCCESS
}

/// More threads, one after another and together, than fit in a small table.
fn many(n: u64) -> ExitCode {
    let mut sum = 0;
    for i in 0..n {
        sum += thread::spawn(move || i * i).join().unwrap();
    }
    let together: Vec<_> = (0..100).map(|i| thread::spawn(move || i)).collect();
    sum += together.into_iter().map(|t| t.join().unwrap()).sum::<u64>();
    println!("sum {sum}");
    ExitCode::SUCCESS
}

fn locks(threads: u64, rounds: u64) -> ExitCode {
    let (plain, atomic) = (Mutex::new(0u64), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..rounds {
                    *plain.lock().unwrap() += 1;
                    atomic.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    println!("{} {}", plain.into_inner().unwrap(), atomic.into_inner());
    ExitCode::SUCCESS
}

/// A panic in a thread unwinds and is reported to who joins; one in the main thread exits with 101.
fn panics() -> ExitCode {
    let result = thread::spawn(|| -> u32 { panic!("on purpose") }).join();
    println!("joined: {}", result.is_err());
    let result = std::panic::catch_unwind(|| {
        let v: Vec<u32> = Vec::new();
        v[std::hint::black_box(3)]
    });
    println!("caught: {}", result.is_err());
    panic!("and now the main thread");
}
