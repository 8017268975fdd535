//! coreutils, findutils, diffutils and the text tools grep, sed and awk.

use coracle_testkit::{Case, Content::*, Package};

const MAWK: Package = Package::new("mawk", "/usr/bin/mawk");
const GAWK: Package = Package::new("gawk", "/usr/bin/gawk");
const BC: Package = Package::new("bc", "/usr/bin/bc");

/// Name and script. The directory holds `words`, `table`, `numbers`, `bytes` and the directory `tree`.
#[rustfmt::skip]
const SCRIPTS: &[(&str, &str)] = &[
    ("coreutils::sort", "sort words words | uniq -c | sort -rn | head -40; sort -t, -k3,3 -k4nr table | md5sum; sort -g numbers | md5sum; sort -S 64K --parallel=2 words table bytes numbers | md5sum; sort -c words; echo $?"),
    ("coreutils::head_tail", "head -c 5000 bytes | md5sum; tail -n +100 words | head -n -100 | md5sum; tail -c 77 bytes | od -An -tx1; head -3 words table"),
    ("coreutils::cut_paste_join", "cut -d, -f2,3 table | paste -d'|' - - - | md5sum; seq 100 > a; seq 50 150 > b; sort a > as; sort b > bs; join as bs | wc -l; comm -12 as bs | md5sum; paste -s a | md5sum"),
    ("coreutils::tr_fold_fmt", "tr a-z A-Z < words | fold -sw 40 | fmt -w 60 | expand | unexpand -a | md5sum; tr -cd 'a-e\\n' < words | md5sum; nl -ba words | tail -1; pr -l 60 words | tail -n +6 | md5sum"),
    ("coreutils::split_csplit", "split -b 30K -d bytes piece.; cat piece.* | cmp - bytes && echo same; split -n l/5 words w.; csplit -s words 100 '{5}'; wc -l xx* | tail -1"),
    ("coreutils::checksums", "md5sum words bytes; sha1sum words; sha224sum words; sha256sum bytes; sha384sum words; sha512sum table; b2sum table; cksum words; sum bytes; md5sum words > s; echo x >> words; md5sum -c s; echo $?"),
    ("coreutils::base", "base64 bytes | base64 -d | cmp - bytes && echo ok; base32 bytes | md5sum; basenc --base16 bytes | md5sum; echo '!!' | base64 -d; echo $?"),
    ("coreutils::od", "od -Ax -tx1z bytes | tail -3; od -tfF -N 32 bytes | head -2; od -td8 -j 500 -N 40 bytes"),
    ("coreutils::cp", "cp -a tree c1; cp -rl tree c2; cp -rs $PWD/tree c3; cp --sparse=always bytes c4; cp --reflink=auto words c5; cp -u words c5; cp -b words c5; cp --parents tree/d1/f1.txt tree/d2; cp words; echo $?; cp nothing x; echo $?; cp tree x; echo $?"),
    ("coreutils::mv", "mv words w; mv -t tree w table; mkdir d e; touch e/x; mv -T d e; echo $?; mv -b tree/w numbers; mv -n bytes numbers; mv nothing x; echo $?; mv tree tree/d1; echo $?"),
    ("coreutils::rm", "rm -r tree/d1; rm -rf tree nothing; rm nothing; echo $?; mkdir d; rm d; echo $?; rm -d d; touch -- -x; rm -- -x; ls"),
    ("coreutils::ln", "ln words h; ln -s words s; ln -sr tree/d1/f1.txt tree/d2/rel; ln -sfn tree l; ln -sfn words l; readlink tree/d2/rel l; ln words h; echo $?; ln -L s h2; stat -c %h words; ln tree x; echo $?"),
    ("coreutils::mkdir", "mkdir -p a/b/c -m 700; mkdir -m u=rwx,g=rx,o= d; mkdir a; echo $?; rmdir -p a/b/c; mkdir words/x; echo $?; mkfifo -m 600 p; mknod q p; stat -c '%F %a' p q d"),
    ("coreutils::chmod", "chmod 4755 words; chmod u+s,g-w,o=t tree; chmod -R a-x,u+X tree; chmod --reference=words table; chmod 999 words; echo $?; chmod 644 nothing; echo $?; stat -c %a words table tree; install -m 750 -D words i/j/k; stat -c %a i/j/k"),
    ("coreutils::ls", "ls -R tree; ls -l --time-style=+X tree/d1 | awk '{print $1,$2,$3,$4,$NF}'; ls -1S tree/d2; ls -F; ls -d tree/*/; ls -i words | wc -l; ls -la nothing; echo $?"),
    ("coreutils::stat", "stat -c '%n %s %a %A %F %h %u %g' words tree tree/d1; stat -f -c %T . >/dev/null; stat -L nothing; echo $?; touch -d '2001-02-03 04:05:06.789 UTC' words; stat -c '%y %Y' words"),
    ("coreutils::touch", "touch -d @1000000000 f; touch -r f g; touch -a -d @5 g; stat -c '%n %X %Y' f g; touch -c none; ls none; touch -h -d @77 s; ln -s f l; touch -h -d @99 l; stat -c %Y l f; touch x/y; echo $?"),
    ("coreutils::dd", "dd if=bytes of=o bs=1000 skip=3 count=50 status=none; dd if=bytes of=o bs=1k seek=500 conv=notrunc status=none; dd if=words conv=ucase status=none | md5sum; dd if=/dev/zero bs=1M count=3 status=none | md5sum; dd if=nothing; echo $?; stat -c %s o"),
    ("coreutils::truncate", "truncate -s 1M sparse; truncate -s -100 words; truncate -s +7 table; stat -c %s sparse words table; du --apparent-size -k sparse; md5sum sparse; truncate -s x words; echo $?"),
    ("coreutils::tee", "cat words | tee a b c | md5sum; seq 5 | tee -a a > /dev/null; seq 3 | tee /nowhere/x; echo $?"),
    ("coreutils::seq_shuf", "seq -f %.3f 1 .5 4; seq 200000 | md5sum; seq 1000 | shuf --random-source=bytes | md5sum; shuf -e a b c | sort | tr -d '\\n'; seq 9 | tac | numfmt --to=iec --field=1; yes | head -100000 | md5sum; seq a; echo $?"),
    ("coreutils::date", "date -u -d '2024-02-29 +1 year' +%F; date -u -d @1700000000 '+%c %V %j'; TZ=Asia/Tokyo date -d @0 +%T; date -d nonsense; echo $?"),
    ("coreutils::env", "env -i A=1 env; env -u HOME sh -c 'echo ${HOME-unset}'; env -C tree pwd | sed 's/.*tree/tree/'; printenv TZ; env nothing; echo $?; env ./words; echo $?"),
    ("coreutils::timeout", "timeout 0.2 sleep 10; echo $?; timeout -s INT 0.2 sleep 10; echo $?; timeout -k 0.1 0.2 sh -c 'trap \"\" TERM; sleep 3'; echo $?; timeout 5 sh -c 'exit 7'; echo $?; timeout 1 nothing; echo $?"),
    ("coreutils::expr_test", "expr 17 % 5 '*' 3; expr substr abcdef 2 3; expr match abc 'a\\(.\\)'; expr 1 / 0; echo $?; test words -nt nothing; echo $?; [ tree -ef tree/. ]; echo $?; factor 1234567890123; numfmt --from=iec 1.5M; expr 2 + x; echo $?"),
    ("coreutils::du_df", "du -s --apparent-size --block-size=1 tree/d1/deep5 | cut -f2; df -P . | wc -l; df nothing; echo $?; sync words; sync -f .; sync nothing; echo $?"),
    ("coreutils::tsort_ptx", "printf 'a b\\nb c\\na d\\nd c\\n' | tsort; printf 'a b\\nb a\\n' | tsort; echo $?; head -20 words | ptx -w 60 | md5sum; wc words table; wc -m < words; wc --files0-from=- < /dev/null; echo $?"),
    ("coreutils::nohup_nice_stdbuf", "nice -n 5 nice; nohup sh -c 'echo out' 2>&1 | cat; stdbuf -oL echo buffered; nice -n 3 false; echo $?; setsid -w sh -c 'exit 9'; echo $?; chroot /nowhere true; echo $?"),
    ("coreutils::pathchk_readlink", "readlink -f tree/../tree/d1/./f1.txt | sed \"s#$PWD##\"; realpath --relative-to=tree/d2 tree/d1; realpath -e nothing; echo $?; pathchk -p 'a b'; echo $?; mktemp -u XXXXXX | wc -c; mktemp nothing; echo $?; basename -s .txt a.txt b.txt; dirname /a/b c"),
    ("coreutils::id", "id -u; id -gn; whoami; groups; logname >/dev/null; id no_such_user_; echo $?; users; tty; echo $?; uname -sm; arch; nproc > /dev/null; echo $?"),
    ("coreutils::error", "cat missing; ls /nowhere; sort --nonsense; wc tree; exit 7"),
    ("findutils::find", "find tree -type f -name '*.txt' -size +2k | sort; find tree -printf '%y %m %s %d %P\\n' | grep -v '^d' | sort | md5sum; find tree -newer words | wc -l > /dev/null; find tree -path '*deep*' -prune -o -type f -print | sort | md5sum; find tree -type d -empty; find . -maxdepth 1 -type f | sort"),
    ("findutils::exec", "find tree -type f -exec md5sum {} + | sort | md5sum; find tree -name '*.txt' -exec sh -c 'wc -c < \"$1\"' _ {} ';' | sort | md5sum; find tree -execdir basename {} ';' | sort | md5sum; find tree -name '*.dat' -delete; find tree -type d -empty -delete; find tree | sort; find tree -exec false ';' -quit"),
    ("findutils::xargs", "find tree -type f -print0 | xargs -0 -n 5 -P 2 cat | wc -c; seq 5000 | xargs -s 2000 echo | md5sum; seq 4 | xargs -I{} sh -c 'echo {}; exit 0'; seq 3 | xargs -n1 sh -c 'exit 3'; echo $?; echo x | xargs nothing; echo $?; seq 3 | xargs sh -c 'kill -9 $$'; echo $?"),
    ("findutils::error", "find nowhere tree/d1 -name f1.txt; echo $?; find tree -nonsense; echo $?; xargs -a nothing echo; echo $?"),
    ("diffutils::diff", "sed 's/al/AL/;7,9d' words > w; diff -u words w | tail -n +3 | md5sum; diff -y -W 60 words w | md5sum; diff -q words w; cp -r tree t; echo x >> t/f0.txt; rm t/f9.txt; diff -r tree t | md5sum; diff3 words w words | md5sum; cmp words w; sdiff -s words w | wc -l; diff words nothing; echo $?"),
    ("diffutils::patch", "cp words w; sed -i 's/be/BE/;20d' w; diff -u --label words --label words words w > p; patch < p; cmp words w && echo same; patch -R < p; patch --dry-run -R -f words < p > /dev/null; echo $?; echo junk | patch words; echo $?"),
    ("grep::grep", "grep -c al words; grep -nE '^(al|be)+ [a-m]*um' words | head; grep -rlZ alalex tree | sort -z | tr '\\0' '\\n'; grep -o 'n[a-z]*x' words | sort | uniq -c; grep -vF -f tree/f0.txt words | wc -l; grep -B1 -A2 -m3 'quo quo' words; grep -P '(?<=al )be\\b' words | wc -l; grep -c . bytes; grep -q nothing words; echo $?"),
    ("grep::error", "grep x nothing; echo $?; grep '[' words; echo $?; grep -r x tree nothing | wc -l; grep -E 'a{1' words | wc -l"),
    ("sed::sed", "sed -n '/^al/,/^be/p' words | md5sum; sed -E 's/([a-z]+) ([a-z]+)/\\2 \\1/g;y/abc/xyz/' words | md5sum; sed -i.bak '1~3d;$a end' words; wc -l words words.bak; sed ':a;N;$!ba;s/\\n/,/g' numbers | md5sum; sed -n '$=' table; sed 's/a/b/w out' words > /dev/null; sed -e '1{h;d}' -e '$G' table | tail -1; printf 'x\\n' | sed 's/x/a\\nb/;P;D'"),
    ("sed::error", "sed 's/(' words; echo $?; sed p nothing; echo $?; sed -i p nothing; echo $?; sed '1q5' words; echo $?"),
];

#[rustfmt::skip]
const AWK: &[(&str, &str)] = &[
    ("group", "AWK -F, '{n[$3]++; s[$3]+=$4} END {for (d in n) print d, n[d], s[d]/n[d]}' table | sort"),
    ("words", "AWK '{for (i = NF; i > 0; i--) c[$i]++} END {for (w in c) print c[w], w}' words | sort -rn | head -50"),
    ("text", "AWK '{gsub(/a+/, \"<&>\"); print toupper(substr($0, 3, 20)), length($0), index($0, \"b\")} NR == 300 {exit 3}' words | md5sum; AWK 'BEGIN {while ((getline l < \"numbers\") > 0) {s += l; n++}; close(\"numbers\"); printf \"%d %.3f\\n\", n, s / n}'"),
    ("pipes", "AWK '{print $1 | \"sort | uniq -c | sort -rn | head -5\"} END {close(\"sort | uniq -c | sort -rn | head -5\"); \"echo from command\" | getline x; print x; print system(\"exit 3\")}' words; AWK '{print > (\"out\" NR % 4)}' table; wc -l out*"),
    ("error", "AWK '{' words; echo $?; AWK 1 nothing; echo $?; AWK 'BEGIN {exit 9}'; echo $?; AWK 'BEGIN {print 1 / 0}'; echo $?"),
];

fn with_files(name: String, script: &str) -> Case {
    Case::sh(name, &format!("exec 2>&1; {script}"))
        .file("words", Text(160))
        .file("table", Csv(128))
        .file("numbers", Numbers(100))
        .file("bytes", Bytes(128))
        .file_tree("tree")
}

pub fn cases() -> Vec<Case> {
    let plain = SCRIPTS.iter().map(|(name, script)| with_files((*name).to_owned(), script));
    let awk = [("mawk", MAWK), ("gawk", GAWK)].into_iter().flat_map(|(awk, package)| {
        AWK.iter().map(move |(name, script)| {
            with_files(format!("{awk}::{name}"), &script.replace("AWK", awk)).needs(package)
        })
    });
    let bc = [
        Case::sh("bc::bc", "printf 'define f(n) {\\n if (n < 2) return n;\\n return f(n-1)+f(n-2);\\n}\\nscale=200; 4*a(1); 2^1000; f(18)\\n' | bc -lq 2>&1; seq -s+ 1 3000 | bc").needs(BC),
        Case::sh("bc::error", "echo '1/0; x y z' | bc 2>&1; bc nothing 2>&1; echo $?").needs(BC),
    ];
    plain.chain(awk).chain(bc).collect()
}
