//! Developers' tools: git, gcc, make, strace's like, and what shows processes.

use coracle_testkit::{Case, Content::*, Package};

const GIT: Package = Package::new("git", "/usr/bin/git");
const GCC: Package = Package::new("gcc", "/usr/bin/gcc");
const GXX: Package = Package::new("g++", "/usr/bin/g++");
const MAKE: Package = Package::new("make", "/usr/bin/make");
const PS: Package = Package::new("procps", "/usr/bin/ps");
const LSOF: Package = Package::new("lsof", "/usr/bin/lsof");

/// Each begins with `r`, a repository with two commits of the tree of files. Commit times are fixed, so that
/// hashes are the same in both runs.
#[rustfmt::skip]
const GIT_SCRIPTS: &[(&str, &str)] = &[
    ("log", "git log --stat --format='%H %s' | cat; git show --stat HEAD | tail -3; git log -p | md5sum; git shortlog -s HEAD; git describe --always; git rev-list --objects --all | sort | md5sum"),
    ("status_diff", "echo x >> tree/f0.txt; rm tree/f9.txt; echo new > new; git mv words w2; git status -s; git diff | md5sum; git diff --cached --stat -M | cat; git stash -q; git status -s; git stash pop -q; git add -A; git commit -qm third; git diff HEAD~1 --stat | cat"),
    ("branch_merge", "git checkout -qb side; echo side >> tree/f0.txt; git commit -qam side; git checkout -q main; echo main >> tree/f9.txt; git commit -qam main2; git merge -q --no-edit side; git log --graph --format='%h %s' | cat; git checkout -qb c1 HEAD~1; echo conflict >> tree/f0.txt; git commit -qam c; git merge main; echo $?; git merge --abort; git rebase -q main; echo $?; git rebase --abort; git branch -a; git tag -a v1 -m v1; git tag -v v1 2>/dev/null; git tag"),
    ("clone", "git clone -q . ../c1 2>&1; git clone -q --bare . ../c2.git; git clone -q --no-local . ../c3; git -C ../c3 log --format=%H | cat; cd ../c1; echo y > y; git add y; git commit -qm fromclone; git push -q ../c2.git main; git -C ../c2.git log --format=%H -1 | cat; cd ../c3; git remote set-url origin ../c2.git; git pull -q; git log --format=%s | cat; git ls-remote origin; git fsck --full; git clone -q nothing x; echo $?"),
    ("gc_fsck", "git gc -q; git count-objects -v | grep -v size; git fsck --full; git repack -adfq; git verify-pack -v .git/objects/pack/*.idx | tail -1 | cut -c1-10; git cat-file -p HEAD^{tree} | md5sum; git archive HEAD | md5sum; git bundle create -q ../b main; git bundle verify -q ../b; echo $?; git prune; git reflog | cat"),
    ("grep_blame", "git grep -c alalex | head; git blame -s words | head -3; git log -S alalex --format=%s | cat; git ls-files -s | md5sum; git check-ignore -v x; echo '*.o' > .gitignore; touch a.o; git status -s; git clean -ndx; git config --list --local | sort | head -3; git worktree add -q ../wt HEAD; git worktree list | wc -l; git bisect start -q HEAD HEAD~1; git bisect reset -q"),
    ("am_apply", "git format-patch -q -1 --stdout > ../p; git reset -q --hard HEAD~1; git apply --check ../p; echo $?; git am -q ../p; git log --format='%s %T' | cat; git cherry-pick HEAD~1; echo $?; git cherry-pick --abort; git revert --no-edit HEAD | tail -1; git log --oneline | wc -l; git notes add -m note; git notes show"),
    ("error", "git commit -m nothing; echo $?; git checkout nothing; echo $?; cd ..; git -C nowhere status; echo $?; mkdir e; cd e; GIT_CEILING_DIRECTORIES=$PWD/.. git log; echo $?; echo junk > ../r/.git/HEAD; cd ../r; git status; echo $?"),
];

const GIT_SETUP: &str = "exec 2>&1; git init -q -b main r && cd r && mv ../tree ../words . && git add -A \
    && git commit -qm first && sed -i 's/al/AL/' words && chmod +x tree/f0.txt && git commit -qam second || exit;";

/// A library, a program that uses it, and a Makefile; `table` is data that the program reads.
const MAKEFILE: &str = "CFLAGS = -O2 -Wall -g0
all: prog libx.a(one.o)
prog: main.o libsum.so
\t$(CC) -o $@ main.o -L. -lsum -lm -Wl,-rpath,'$$ORIGIN'
libsum.so: sum.c sum.h
\t$(CC) $(CFLAGS) -shared -fPIC -o $@ sum.c
main.o: main.c sum.h
libx.a(one.o): one.o
\tar rcsD libx.a one.o
one.c: ; echo 'int one(void) { return 1; }' > $@
check: prog; ./prog table | diff - expected
.PHONY: all check clean
clean: ; rm -f *.o *.so prog
";
const MAIN_C: &str = r#"#include "sum.h"
#include <math.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    FILE *f = fopen(argc > 1 ? argv[1] : "table", "r");
    long id, amount; char name[64]; int dep; struct sum sums[12] = {0};
    if (!f) { perror(argv[1]); return 3; }
    while (fscanf(f, "%ld,%63[^,],dep%d,%ld", &id, name, &dep, &amount) == 4) sum_add(&sums[dep], amount);
    for (dep = 0; dep < 12; dep++) printf("%d %ld %.3f\n", dep, sums[dep].n, sqrt(sum_mean(&sums[dep])));
    return 0;
}
"#;
const SUM_H: &str =
    "struct sum { long n, total; };\nvoid sum_add(struct sum *, long);\ndouble sum_mean(const struct sum *);\n";
const SUM_C: &str = "#include \"sum.h\"\nvoid sum_add(struct sum *s, long x) { s->n++; s->total += x; }\n\
    double sum_mean(const struct sum *s) { return s->n ? (double)s->total / s->n : 0; }\n";

#[rustfmt::skip]
const C_SCRIPTS: &[(&str, &str)] = &[
    ("gcc::compile_run", "gcc -O2 -g0 -o p main.c sum.c -lm && ./p table; ./p nothing; echo $?; gcc -static -o s main.c sum.c -lm && ./s table | md5sum; gcc -pipe -S -o - sum.c | grep -c ret; gcc -E main.c | wc -l; rm -f p s"),
    ("gcc::error", "echo 'int main(void) { return x; }' > bad.c; gcc bad.c; echo $?; gcc nothing.c; echo $?; gcc main.c -o p 2>&1 | grep -v /tmp/; gcc --nonsense main.c; echo $?"),
    ("gcc::binutils", "gcc -c -O1 sum.c main.c; nm sum.o; size -A sum.o | awk '{print $1, $2}'; objdump -d sum.o | grep -c mov; ar rcsD l.a sum.o; ar t l.a; strip main.o; readelf -S main.o | wc -l; ld -r -o r.o sum.o main.o; objcopy -O binary sum.o b; strings sum.o | md5sum; nm nothing; echo $?"),
    ("make::project", "make; ./prog table | tee expected | md5sum; make; make check; touch sum.h; make -j2 | sort; make clean; ls"),
    ("make::parallel", "printf 'all: $(patsubst %%,o%%,$(shell seq 30))\\no%%: ; @sort words | md5sum > $@\\n' > m; make -j4 -f m; cat o* | sort -u | wc -l; make -n -f m; make -q -f m; echo $?"),
    ("make::error", "make nothing; echo $?; printf 'a: b\\nb: ; false\\n' > m; make -f m; echo $?; make -k -f m a; echo $?; printf 'x\\n' > n; make -f n; echo $?; printf 'k: ; kill -9 $$$$\\n' > k; make -f k; echo $?"),
];

pub fn cases() -> Vec<Case> {
    let git = GIT_SCRIPTS.iter().map(|(name, script)| {
        Case::sh(format!("git::{name}"), &format!("{GIT_SETUP} {script}"))
            .file("words", Text(200))
            .file_tree("tree")
            .file(".gitconfig", "[user]\nname = A\nemail = a@example.org\n[advice]\ndetachedHead = false\n[gc]\nauto = 0\n[pack]\nthreads = 1\n")
            .env("GIT_DISCOVERY_ACROSS_FILESYSTEM", "1")
            .env("GIT_AUTHOR_DATE", "2024-01-01T00:00:00Z")
            .env("GIT_COMMITTER_DATE", "2024-01-01T00:00:00Z")
            // The index holds inode numbers and times.
            .may_differ("r/.git/")
            .may_differ("c1/.git/")
            .may_differ("c3/.git/")
            .may_differ("e/.git/")
            .timeout(60)
            .needs(GIT)
    });
    let init = Case::sh("git::init", "exec 2>&1; git init; git init -q --bare b.git; git status; git add nothing; echo $?; find .git b.git | sort | md5sum")
        .needs(GIT);
    let c = C_SCRIPTS.iter().map(|(name, script)| {
        Case::sh(*name, &format!("exec 2>&1; {script}"))
            .file("Makefile", MAKEFILE)
            .file("main.c", MAIN_C)
            .file("sum.h", SUM_H)
            .file("sum.c", SUM_C)
            .file("table", Csv(150))
            .file("words", Text(100))
            .timeout(60)
            .needs(GCC)
            .needs(MAKE)
    });
    let exceptions = Case::sh("c++::exceptions", "g++ -O1 -fnon-call-exceptions -o throw throw.cc && ./throw")
        .file("throw.cc", Exact(include_bytes!("../../../../guests/programs/throw.cc").to_vec()))
        .timeout(60)
        .needs(GXX);
    let processes = [
        Case::sh("procps::ps", "sleep 50 & p=$!; ps -o comm=,stat=,ppid= -p $p | sed \"s/  *$$\\$/ me/\"; ps -p $p -o args=; ps -e -o comm= | grep -c '^sleep$' > /dev/null; kill $p; wait $p 2>/dev/null; ps -p $p; echo $?; ps -p 999999 -o pid=; echo $?; ps --nonsense 2>&1 | head -1; pgrep -P $$ nothing; echo $?").needs(PS),
        Case::sh("procps::kill", "sleep 50 & sleep 60 & pkill -P $$ -x sleep; wait; echo $?; kill -0 $$; echo $?; kill -TERM 999999 2>&1; echo $?; kill -l TERM; pidof nothing_at_all; echo $?; sleep 0.1 & pwait 2>/dev/null; wait; uptime > /dev/null; echo $?; free | wc -l; free | head -1; top -bn1 > t; head -1 t | cut -c1-5; rm t; w -h > /dev/null; vmstat | wc -l; sysctl -n kernel.ostype").needs(PS),
        Case::sh("lsof::lsof", "exec 5<words; lsof -w -a -p $$ -d 5 -Fn | tail -1; lsof -w nothing 2>&1 | head -1; lsof -w -t words | wc -l").file("words", Text(100)).needs(LSOF),
    ];
    git.chain([init]).chain(c).chain([exceptions]).chain(processes).collect()
}
