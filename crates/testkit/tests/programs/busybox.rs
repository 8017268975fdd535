//! The static busybox of Debian: each applet does its actual work, in the shell that busybox is.

use coracle_testkit::{Case, Content::*, Package};

const BUSYBOX: Package = Package::new("busybox-static", "/bin/busybox");

/// Applet (or what is shown about one), and a script in which `b` is busybox. The directory holds `words`
/// (text), `table` (comma-separated), `numbers`, `bytes` and the directory `tree`.
#[rustfmt::skip]
const APPLETS: &[(&str, &str)] = &[
    ("ascii", "b ascii | tail -5"),
    ("ash", "f() { local x=$1; [ $x -le 1 ] && echo 1 || echo $((x * $(f $((x - 1))))); }; f 10; set -- a 'b c' d; for i; do echo \"<$i>\"; done; case $2 in b*) echo yes;; esac; echo ${2#b } ${#2} ${9:-none}"),
    ("ash_error", "set -e; echo before; false; echo never"),
    ("ash_pipe", "cat words | b tr a-z A-Z | while read l; do echo \"$l\"; done | b md5sum"),
    ("ash_trap", "trap 'echo got USR1' USR1; trap 'echo bye' EXIT; kill -USR1 $$; (trap 'echo sub' TERM; b sh -c 'kill -TERM $PPID'; b sleep 0.2); echo end; exit 3"),
    ("awk", "b awk -F, '{n[$3]+=$4} END {for (d in n) print d, n[d]}' table | b sort"),
    ("base64", "b base64 bytes > b64; b base64 -d b64 | b cmp - bytes && b wc -l b64"),
    ("basename", "b basename /a/b/c.txt .txt; b basename /"),
    ("bc", "echo '2^200; scale=20; 1/7; for (i=0;i<5;i++) i*i' | b bc"),
    ("bunzip2", "b bzip2 -k words; b bunzip2 -c words.bz2 | b cmp - words; b rm words; b bunzip2 words.bz2; b wc words"),
    ("bzcat", "b bzip2 words; b bzcat words.bz2 | b md5sum"),
    ("cal", "b cal 2 2024; b cal 1999 | b md5sum"),
    ("cat", "b cat words table - < numbers | b md5sum; b cat -n words | b tail -2; b cat nothing; echo $?"),
    ("chgrp", "b chgrp 0 words; b stat -c %g words"),
    ("chmod", "b chmod 4751 words; b chmod -R go-rwx,a+X tree; b chmod +t tree; b chmod 7 nothing; echo $?"),
    ("chown", "b chown 0:0 words && b stat -c %u:%g words"),
    ("cmp", "b cp words w; echo x >> w; b cmp words w; echo $?; b cmp -l words table | b head -3"),
    ("comm_sort_uniq", "b sort -u words > a; b uniq -c a | b head -3; b sort -t, -k3,3 -k4,4nr table | b md5sum; b sort -n numbers | b uniq -d | b head"),
    ("cp", "b cp -a tree copy; b cp -r tree other; b ln -s words l; b cp -d l l2; b cp -L l l3; b cp nothing x; echo $?"),
    ("cpio", "b find tree | b sort | b cpio -o -H newc 2>/dev/null > a.cpio; b mkdir out; cd out; b cpio -id < ../a.cpio 2>/dev/null; b find . -type f | b wc -l; b rm ../a.cpio"),
    ("crc32", "b crc32 words bytes"),
    ("cut", "b cut -d, -f2,4 table | b md5sum; b cut -c1-5 words | b tail -2"),
    ("date", "b date -u -d @86400 '+%F %T %j %a'; b date -u -d 2001-02-03 +%s"),
    ("dc", "echo '3 4 + p 2 64 ^ p 10 k 2 v p' | b dc"),
    ("dd", "b dd if=bytes of=out bs=1000 count=50 skip=3 2>/dev/null; b dd if=bytes of=out bs=1k seek=200 conv=notrunc count=1 2>/dev/null; b ls -l out | b awk '{print $5}'; b md5sum out"),
    ("df", "b df -P . | b awk 'NR==1 {print $1, $6} END {print NR, ($2 > 0)}'; b df /nowhere; echo $?"),
    ("diff", "b sed 's/al/AL/;5d' words > w; b diff -u words w | b sed '1,2d' | b md5sum; b diff words w >/dev/null; echo $?; b cp -r tree t2; echo x >> t2/f0.txt; b diff -rq tree t2"),
    ("dirname", "b dirname /a/b/c; b dirname x; b dirname /"),
    ("dos2unix", "b unix2dos -d < /dev/null; b cp words w; b unix2dos w; b wc -c w; b dos2unix w; b cmp w words && echo same"),
    ("du", "b du -s tree | b awk '{print ($1 > 0), $2}'"),
    ("echo", "b echo -e 'a\\tb\\x41\\0101\\c' more; b echo; b echo -n n"),
    ("ed", "b printf '1,5p\\n2s/a/b/\\n3d\\nw out\\nq\\n' | b ed words; b wc -l out"),
    ("egrep", "b egrep -c '^(al|be)+ [a-m]*um' words; b egrep nothing_at_all words; echo $?"),
    ("env", "b env -i A=1 B=2 /bin/busybox env; b env -u HOME /bin/busybox sh -c 'echo ${HOME-unset}'; b env /nowhere; echo $?"),
    ("expand", "b printf 'a\\tbc\\td\\n' | b expand -t 4; b printf '        x\\n' | b unexpand | b od -c"),
    ("expr", "b expr 6 '*' 7; b expr abcdef : 'abc\\(.*\\)'; b expr 1 / 0; echo $?"),
    ("factor", "b factor 18446744073709551557 360 1"),
    ("fallocate", "b fallocate -l 100000 f; b stat -c %s f; b od -An -tx1 f | b head -1"),
    ("find", "b find tree -type f -name '*.txt' -size +1k | b sort; b find tree -perm 755 -exec b basename {} ';' 2>/dev/null | b wc -l; b find tree -type f | b sort | b xargs b md5sum 2>/dev/null | b wc -l; b find nowhere; echo $?"),
    ("find_rm", "b find tree -name '*.dat' -exec b rm -f {} + 2>/dev/null; b find tree -name '*.dat' | b xargs /bin/busybox rm; b find tree -mindepth 2 -type d | b sort -r | b xargs /bin/busybox rmdir; b find tree | b sort"),
    ("fold", "b fold -w 20 -s words | b md5sum"),
    ("fsync", "b cp words w; b sync w; echo $?; b sync; echo $?"),
    ("getopt", "b getopt -o ab:c -l long,arg: -- -a -bval --arg=x rest -c"),
    ("grep", "b grep -n -i 'CORcor' words | b head -3; b grep -c . words; b grep -rl alalex tree | b sort; b grep -v a words | b wc -l; b grep -o 'n[a-z]*' words | b sort | b uniq -c | b head -5; b grep x nothing; echo $?"),
    ("gunzip", "b gzip -c words > w.gz; b gunzip -c w.gz | b cmp - words && echo same; b rm w.gz; echo junk > j.gz; b gunzip j.gz; echo $?"),
    ("gzip", "b gzip -9 -c bytes | b gzip -d | b md5sum; b gzip table; b zcat table.gz | b wc; b rm table.gz"),
    ("head", "b head -n 3 words; b head -c 1000 bytes | b md5sum; b head -n -5 numbers | b wc -l; b head -qn1 words table"),
    ("hexdump", "b hexdump -C bytes | b tail -3; b hexdump -e '4/1 \"%02x \" \"\\n\"' -n 8 bytes"),
    ("id", "b id -u; b id -g; b id | b sed 's/ .*//'"),
    ("install_mktemp", "b mkdir d; f=$(b mktemp d/XXXXXX) && b test -f $f && b stat -c %a $f; b rm $f; d=$(b mktemp -d d/XXXXXX) && b stat -c %a $d; b rmdir $d"),
    ("ipcalc", "b ipcalc -bnm 10.1.2.3/20"),
    ("kill", "exec 2>/dev/null; /bin/busybox sleep 100 & b kill -0 $! && echo alive; b kill $!; wait $!; echo $?; b kill -l 9; b kill 999999999; echo $?"),
    ("less_more", "b more words | b md5sum; b less words | b md5sum"),
    ("link", "b link words l; b stat -c %h words; b unlink words; b link nothing m; echo $?"),
    ("ln", "b ln words hard; b ln -s words soft; b ln -sf table soft; b readlink soft; b ln words hard; echo $?; b ln -s a/b/c dangling; b cat dangling; echo $?"),
    ("ls", "b ls -R tree; b ls -ld tree words | b awk '{print $1, $2, $NF}'; b ls -1Sr tree/d1; b ls nothing; echo $?"),
    ("lzma", "b lzma -h 2>/dev/null; b xzcat < /dev/null; echo $?; echo bad | b unlzma; echo $?"),
    ("md5sum", "b md5sum words bytes > sums; b md5sum -c sums; echo x >> words; b md5sum -c sums 2>&1; echo $?; b rm sums"),
    ("mkdir", "b mkdir -p a/b/c; b mkdir -m 1777 s; b mkdir a; echo $?; b rmdir -p a/b/c; b rmdir tree; echo $?"),
    ("mkfifo", "b mkfifo -m 640 p; b cat words > p & b md5sum < p; wait; b stat -c '%F %a' p"),
    ("mkpasswd", "b mkpasswd -m sha512 -S saltsalt secret"),
    ("mv", "b mv words w; b mv tree t; b mkdir d; b mv w table d; b mv -n d/w t; b mv nothing x; echo $?; b ls d t | b head -4"),
    ("nl", "b nl -ba words | b tail -2"),
    ("nproc_pidof", "test $(b nproc) -ge 1 && echo some; b pidof no_such_program; echo $?"),
    ("od", "b od -An -tx4 -N 64 bytes; b od -c words | b tail -2; b od -j 100 -N 16 -td2 bytes"),
    ("paste", "b paste -d: words numbers | b md5sum; b seq 10 | b paste -s -d,"),
    ("patch", "b sed 's/be/BEE/' words > w; b diff -u words w > p; b patch words < p; b cmp words w && echo same; b patch -R words < p; b rm p; echo garbage | b patch words; echo $?"),
    ("printf", "b printf '%s|%5d|%-5s|%x|%08.3f|%b\\n' a 42 b 255 3.14159 'x\\ty'; b printf '%d\\n' zzz; echo $?"),
    ("pwd", "cd tree/d1; test $(b pwd) = $PWD && echo same; cd /nowhere; echo $?"),
    ("readlink_realpath", "b ln -s tree/d1 l; b readlink l; b realpath l/../d2 | b sed \"s#$PWD##\"; b readlink -f l/x | b sed \"s#$PWD##\"; b readlink words; echo $?"),
    ("rev", "b rev words | b md5sum"),
    ("rm", "b rm -r tree; b rm words; b rm nothing; echo $?; b rm -f nothing; echo $?; b mkdir d; b rm d; echo $?"),
    ("run_parts", "b mkdir p; for i in b a c; do printf '#!/bin/sh\\necho part %s\\n' $i > p/$i; b chmod +x p/$i; done; b chmod -x p/c; b run-parts p"),
    ("sed", "b sed -n '/^al/,/^be/p' words | b md5sum; b sed -i -e 's/a/A/2g' -e '5,9d' words; b md5sum words; b sed 's/(/' words; echo $?"),
    ("seq", "b seq 5; b seq -w 8 11; b seq 10 -3 0; b seq -s, 1 5"),
    ("setsid", "b setsid /bin/busybox sh -c 'exit 4'; echo $?"),
    ("sha", "b sha1sum words; b sha256sum bytes; b sha512sum table; b sha3sum numbers"),
    ("shred", "b shred -n1 -u words; test -e words; echo $?"),
    ("shuf", "b shuf words | b sort | b md5sum; b sort words | b md5sum; b shuf -i 1-100 -n 5 | b wc -l"),
    ("sleep", "b sleep 0.05; echo $?; b usleep 1000; echo $?; b sleep x; echo $?"),
    ("sort_large", "b cat words words table numbers > all; b sort all > sorted; b sort -c sorted && b md5sum sorted; b sort -c all 2>/dev/null; echo $?"),
    ("start_stop", "b start-stop-daemon -S -b -m -p pid -x /bin/busybox -- sleep 100; b sleep 0.3; b test -s pid && echo started; b start-stop-daemon -K -p pid | b sed 's/pid [0-9]*/pid N/'; b rm -f pid"),
    ("stat", "b stat -c '%s %a %F %h' words tree; b stat nothing; echo $?"),
    ("strings", "b strings -n 6 bytes | b md5sum; b strings words | b wc"),
    ("su_groups", "b whoami; b groups; b logname 2>/dev/null; b true"),
    ("sum", "b cksum words bytes 2>/dev/null; b sum words 2>/dev/null; b crc32 table"),
    ("tac", "b tac words | b md5sum"),
    ("tail", "b tail -n 3 words; b tail -c 100 bytes | b md5sum; b tail -n +2000 numbers | b md5sum; b tail nothing; echo $?"),
    ("tar", "b tar -cf a.tar tree words; b tar -tf a.tar | b sort | b md5sum; b mkdir o; b tar -xf a.tar -C o; b diff -r tree o/tree && echo same; b tar -xOf a.tar words | b cmp - words; b rm a.tar; b tar -xf nothing; echo $?"),
    ("tar_gz", "b tar -czf a.tgz tree; b tar -tzf a.tgz | b wc -l; b mkdir o; b tar -xzf a.tgz -C o; b find o | b sort | b md5sum; b rm a.tgz; echo junk > j.tgz; b tar -xzf j.tgz; echo $?"),
    ("tee", "b cat words | b tee one two | b md5sum; echo more | b tee -a one >/dev/null; b wc -l one two"),
    ("test", "b test -f words -a -d tree && echo 1; b test 3 -gt 10 || echo 2; b test -x words || echo 3; b test a = b; echo $?; b [ -s words ] && echo 4"),
    ("timeout", "b timeout 0.2 /bin/busybox sleep 10; echo $?; b timeout 5 /bin/busybox true; echo $?; b timeout -s KILL 0.2 /bin/busybox sleep 10; echo $?"),
    ("touch", "b touch -d '2001-02-03 04:05:06' f; b stat -c %Y f; b touch -r f g; b stat -c %Y g; b touch -c nothing; b test -e nothing; echo $?; b touch no/where; echo $?"),
    ("tr", "b tr -d aeiou < words | b md5sum; b tr -s a-z < words | b md5sum; b tr a-y b-z < words | b head -1"),
    ("truncate", "b truncate -s 10 words; b truncate -s 1M sparse; b wc -c words sparse; b md5sum sparse"),
    ("ts_time", "b time -f %C b true 2>/dev/null; echo x | b ts x"),
    ("tty", "b tty < /dev/null; echo $?"),
    ("uname", "b uname -s; b uname -m"),
    ("uniq", "b sort words | b uniq -c | b sort -rn | b head -5; b sort numbers | b uniq -u | b wc -l"),
    ("unzip", "echo junk > j.zip; b unzip j.zip; echo $?"),
    ("usr_bin_which", "b which sh busybox | b sed 's#.*/##'; b which no_such; echo $?"),
    ("uudecode", "b uuencode bytes out < bytes > u; b uudecode u; b cmp out bytes && echo same; b uuencode -m x < words | b md5sum"),
    ("vi", "b printf ':1,5d\\n:s/a/X/g\\n:wq\\n' | b vi words >/dev/null 2>&1; b md5sum words"),
    ("wc", "b wc words bytes table numbers; b wc -L words; b wc nothing; echo $?"),
    ("xargs", "b cut -c1-3 words | b head -500 | b xargs -n 50 echo | b md5sum; b seq 8 | b xargs -n 2 -I{} echo '<{}>'; b seq 3 | b xargs sh -c 'exit 255'; echo $?"),
    ("xxd", "b xxd -l 64 bytes; b xxd -p bytes > p; b xxd -r -p p | b cmp - bytes && echo same"),
    ("xz", "/usr/bin/xz -k words || exit; b xzcat words.xz | b cmp - words && echo same; b rm words; b unxz words.xz; b wc words; echo junk | b unxz; echo $?"),
    ("yes", "b yes ok | b head -n 20000 | b md5sum"),
    ("no_such_applet", "b no_such_applet; echo $?"),
];

pub fn cases() -> Vec<Case> {
    APPLETS
        .iter()
        .map(|(name, script)| {
            let script = format!("b() {{ /bin/busybox \"$@\"; }}; exec 2>&1; {script}");
            Case::new(format!("busybox::{name}"), &["/bin/busybox", "sh", "-c", &script])
                .file("words", Text(128))
                .file("table", Csv(110))
                .file("numbers", Numbers(100))
                .file("bytes", Bytes(100))
                .file_tree("tree")
                .needs(BUSYBOX)
        })
        .collect()
}
