//! `/proc/sysvipc` (ipc/shm.c, ipc/sem.c, ipc/msg.c).

use std::fmt::Write;

use super::{About, Entry};
use crate::Result;
use crate::fs::Who;

pub const ENTRIES: &[Entry] = &[
    Entry::text("msg", 0o444, show_msg),
    Entry::text("sem", 0o444, show_sem),
    Entry::text("shm", 0o444, show_shm),
];

fn show_msg(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut text = String::from(concat!(
        "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid",
        "      stime      rtime      ctime\n",
    ));
    for (id, queue) in about.world.ipc.sysv.msg.list() {
        queue.look(|state| {
            let perm = &state.perm;
            _ = writeln!(
                text,
                "{:>10} {id:>10}  {:>4o}  {:>10} {:>10} {:>5} {:>5} {:>5} {:>5} {:>5} {:>5} {:>10} {:>10} {:>10}",
                perm.key,
                perm.mode & 0o777,
                state.bytes,
                state.messages.len(),
                state.last_sender,
                state.last_receiver,
                perm.uid,
                perm.gid,
                perm.cuid,
                perm.cgid,
                state.send_time,
                state.receive_time,
                state.change_time,
            );
        });
    }
    Ok(text.into_bytes())
}

fn show_sem(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let head = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
    let mut text = String::from(head);
    for (id, set) in about.world.ipc.sysv.sem.list() {
        set.look(|state| {
            let perm = &state.perm;
            _ = writeln!(
                text,
                "{:>10} {id:>10}  {:>4o} {:>10} {:>5} {:>5} {:>5} {:>5} {:>10} {:>10}",
                perm.key,
                perm.mode & 0o777,
                state.semaphores.len(),
                perm.uid,
                perm.gid,
                perm.cuid,
                perm.cgid,
                state.operation_time,
                state.change_time,
            );
        });
    }
    Ok(text.into_bytes())
}

fn show_shm(about: &About, _who: Who<'_>) -> Result<Vec<u8>> {
    let mut text = String::from(concat!(
        "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid",
        "      atime      dtime      ctime                   rss                  swap\n",
    ));
    for (id, segment) in about.world.ipc.sysv.shm.list() {
        let state = segment.state();
        let perm = &state.perm;
        let resident = segment.resident();
        _ = writeln!(
            text,
            "{:>10} {id:>10}  {:>4o} {:>21} {:>5} {:>5}  {:>5} {:>5} {:>5} {:>5} {:>5} {:>10} {:>10} {:>10} {resident:>21} {:>21}",
            perm.key,
            perm.mode,
            segment.size,
            state.creator,
            state.last,
            state.attached,
            perm.uid,
            perm.gid,
            perm.cuid,
            perm.cgid,
            state.attach_time,
            state.detach_time,
            state.change_time,
            0,
        );
    }
    Ok(text.into_bytes())
}
