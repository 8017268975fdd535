//! Interpreters: Debian's python3 and perl, and the sqlite3 shell.

use coracle_testkit::{Case, Content::*, Package};

const SQLITE: Package = Package::new("sqlite3", "/usr/bin/sqlite3");
const PERL: Package = Package::new("perl", "/usr/bin/perl");

/// Name and script; `words`, `table`, `numbers` and `bytes` are in the directory.
const PYTHON: &[(&str, &str)] = &[
    ("text", include_str!("python/text.py")),
    ("json", include_str!("python/json.py")),
    ("subprocess", include_str!("python/subprocess.py")),
    ("threading", include_str!("python/threading.py")),
    ("multiprocessing", include_str!("python/multiprocessing.py")),
    ("multiprocessing_spawn", include_str!("python/multiprocessing_spawn.py")),
    ("shared_memory", include_str!("python/shared_memory.py")),
    ("sqlite3", include_str!("python/sqlite3.py")),
    ("tempfile", include_str!("python/tempfile.py")),
    ("signal", include_str!("python/signal.py")),
    ("asyncio", include_str!("python/asyncio.py")),
    ("select_sockets", include_str!("python/select_sockets.py")),
    ("os_files", include_str!("python/os_files.py")),
    ("mmap_fcntl", include_str!("python/mmap_fcntl.py")),
    ("os_processes", include_str!("python/os_processes.py")),
    ("randomness", include_str!("python/randomness.py")),
    ("compression", include_str!("python/compression.py")),
    ("imports", include_str!("python/imports.py")),
    ("error", "import sys\nprint('before')\nsys.stdout.flush()\nraise ValueError('on purpose')\n"),
];

const PERL_SCRIPTS: &[(&str, &str)] = &[
    ("text", include_str!("perl/text.pl")),
    ("processes", include_str!("perl/processes.pl")),
    ("files", include_str!("perl/files.pl")),
    ("error", "$| = 1; print \"before\\n\"; open(F, '<', 'nothing') or print \"$!\\n\"; die \"on purpose\\n\";"),
];

pub fn cases() -> Vec<Case> {
    let with_files = |case: Case| {
        case.file("words", Text(128))
            .file("table", Csv(128))
            .file("numbers", Numbers(100))
            .file("bytes", Bytes(128))
    };
    let python = PYTHON
        .iter()
        .map(|(name, script)| with_files(Case::python(format!("python3::{name}"), script)).timeout(60));
    let perl = PERL_SCRIPTS.iter().map(|(name, script)| {
        let case = Case::new(format!("perl::{name}"), &["/usr/bin/perl", "-w", "script.pl"]);
        with_files(case.file("script.pl", *script)).needs(PERL)
    });
    let single = [
        Case::new("python3::start", &["/usr/bin/python3", "-c", "print('hello from inside')"]),
        Case::new(
            "python3::isolated",
            &["/usr/bin/python3", "-IS", "-c", "import sys; print(sys.flags.isolated, sys.argv); sys.exit(3)"],
        ),
        Case::new("python3::stdin", &["/usr/bin/python3", "-"]).stdin("print(sum(range(10**6)))\n"),
        Case::new("python3::missing_script", &["/usr/bin/python3", "nothing.py"]),
        Case::new("python3::abort", &["/usr/bin/python3", "-c", "import os; os.abort()"]),
    ];
    let sqlite = |name: &str, script: &str| {
        let case = Case::new(format!("sqlite3::{name}"), &["/usr/bin/sqlite3", "-batch", "data.db"]);
        with_files(case.stdin(script)).needs(SQLITE)
    };
    let sqlite = [
        sqlite("query", include_str!("sqlite/query.sql")),
        sqlite("wal", include_str!("sqlite/wal.sql")),
        sqlite(
            "error",
            "select 1;\nselect * from nothing;\n.bail on\ninsert into nothing values (1);\nselect 2;\n",
        ),
        with_files(Case::sh("sqlite3::concurrent", include_str!("sqlite/concurrent.sh"))).needs(SQLITE),
    ];
    python.chain(perl).chain(single).chain(sqlite).collect()
}
