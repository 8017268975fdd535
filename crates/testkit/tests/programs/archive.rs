//! tar and the compressors.

use coracle_testkit::{Case, Content::*, Package};

const XZ: Package = Package::new("xz-utils", "/usr/bin/xz");
const BZIP2: Package = Package::new("bzip2", "/usr/bin/bzip2");
const ZSTD: Package = Package::new("zstd", "/usr/bin/zstd");

const SORTED: &str = "--sort=name --mtime=@0 --owner=0 --group=0";

pub fn cases() -> Vec<Case> {
    let tar = |name: &str, script: &str| {
        let script = format!("exec 2>&1; {}", script.replace("SORTED", SORTED));
        Case::sh(format!("tar::{name}"), &script)
            .file("words", Text(128))
            .file("bytes", Bytes(128))
            .file_tree("tree")
    };
    let mut all = vec![
        tar("create_extract", "ln -s f0.txt tree/link; ln tree/f9.txt tree/hard; mkfifo tree/fifo; tar SORTED -cf a.tar tree words bytes; md5sum a.tar; tar -tf a.tar | md5sum; mkdir o; tar -xpf a.tar -C o; diff -r --no-dereference tree/d1 o/tree/d1 && cmp bytes o/bytes && echo same; stat -c '%a %h %F' o/tree/*"),
        tar("append_update", "tar SORTED -cf a.tar words; tar SORTED -rf a.tar bytes tree; tar --delete -f a.tar tree/d1; tar -tf a.tar | wc -l; tar -xOf a.tar words | md5sum; tar -df a.tar words; echo $?; echo x >> words; tar -df a.tar words; echo $?; rm a.tar"),
        tar("select", "tar SORTED -cf a.tar --exclude='*.dat' tree; tar -tvf a.tar --wildcards '*f1*' | awk '{print $1, $3, $6}'; mkdir o; tar -xf a.tar -C o --strip-components=1 tree/d2; find o | sort; tar -cf - tree | tar -xf - -C o --transform='s/tree/copy/'; find o | wc -l"),
        tar("sparse", "truncate -s 20M s; printf end | dd of=s bs=1 seek=10M conv=notrunc status=none; tar -Scf a.tar --mtime=@0 s; test $(stat -c %s a.tar) -lt 100000 && echo small; mkdir o; tar -xf a.tar -C o; cmp s o/s && echo same; rm a.tar s o/s"),
        tar("pipe", "tar SORTED -czf - tree words | tar -tzf - | wc -l; tar SORTED -cJf - tree | tar -xJf - -O | md5sum; tar SORTED -cf - words | gzip -n | md5sum").needs(XZ),
        tar("error", "tar -xf nothing; echo $?; tar -cf a.tar nothing; echo $?; tar -xf bytes; echo $?; tar -cf - tree | head -c 20000 | tar -tf - | wc -l; tar; echo $?; tar SORTED -cf b.tar tree; mkdir ro; tar -xf b.tar -C nowhere; echo $?; rm b.tar"),
    ];
    let tools: [(&str, &str, &str, Option<Package>); 4] = [
        ("gzip", "-n", "gz", None),
        ("xz", "-q", "xz", Some(XZ)),
        ("bzip2", "-q", "bz2", Some(BZIP2)),
        ("zstd", "-q", "zst", Some(ZSTD)),
    ];
    for (tool, quiet, suffix, package) in tools {
        let scripts = [
            (
                "round_trip",
                "T -k words bytes; T -dc words.S | cmp - words && T -dc bytes.S | cmp - bytes && echo same; md5sum words.S; rm -f words; T -d words.S; ls; cat words words bytes | T -c | T -dc | md5sum",
            ),
            (
                "levels",
                "for l in 1 3 9; do T -$l -c words | md5sum; done; T -k table; T -t table.S; echo $?; T -c table > 2; cat 2 2 | T -dc | md5sum; rm 2",
            ),
            (
                "error",
                "echo junk > j.S; T -d j.S; echo $?; T nothing; echo $?; T -c words | head -c 5000 > cut.S; T -dc cut.S > out; echo $?; T -d words; echo $?; T tree; echo $?",
            ),
        ];
        for (name, script) in scripts {
            let script = script.replace("T ", &format!("{tool} {quiet} ")).replace(".S", &format!(".{suffix}"));
            let mut case = Case::sh(format!("{tool}::{name}"), &format!("exec 2>&1; {script}"))
                .file("words", Text(200))
                .file("bytes", Bytes(100))
                .file("table", Csv(100))
                .file("tree/x", "x");
            if let Some(package) = package {
                case = case.needs(package);
            }
            all.push(case);
        }
    }
    all
}
