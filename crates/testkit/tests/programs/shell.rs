//! Scripts for bash and for the system's sh (dash): pipelines, here-documents, job control, traps.

use coracle_testkit::{Case, Content::*, Package};

const DASH: Package = Package::new("dash", "/bin/dash");

/// What both shells must do.
#[rustfmt::skip]
const POSIX: &[(&str, &str)] = &[
    ("pipeline", "cat words | tr a-z A-Z | sort | uniq -c | sort -rn | head -5; yes | head -3; seq 100000 | tail -1; true | false; echo $?; seq 10 | while read i; do echo $((i * i)); done | paste -s -d' ' -; cat words | head -1 > /dev/null; ls nothing 2>&1 | wc -l"),
    ("here_document", "cat <<A; cat <<'B'; cat <<-C | tr a-z A-Z\nhome is ${HOME##*/} $((1+2)) `echo sub`\nA\nnot $expanded\nB\n\t\ttabs go\n\tC\nwhile read x y; do echo \"$y $x\"; done <<E\n1 one\n2 two\nE\nbig=$(cat words); cat <<X | md5sum\n$big\nX"),
    ("redirection", "echo a > f; echo b >> f; cat < f; exec 3> g; echo three >&3; exec 3>&-; echo closed >&3; cat g; { echo o; echo e >&2; } 2>&1 > h | cat; exec 4<> f; read l <&4; echo $l; echo Z >&4; exec 4>&-; cat f h; set -C; echo x > f; echo $?; : > nothing/x; echo $?"),
    ("functions", "fib() { if [ $1 -lt 2 ]; then echo $1; else echo $(( $(fib $(($1 - 1))) + $(fib $(($1 - 2))) )); fi; }; fib 11; f() { return 42; }; f; echo $?; (exit 3); echo $?; IFS=,; set -- a,b c; for x in $1; do echo \"[$x]\"; done; echo \"$*\" $#; shift; echo $1"),
    ("expansion", "x=/usr/lib/file.tar.gz; echo ${x##*/} ${x%%.*} ${x%/*} ${#x} ${y:-d} ${y:=e} ${y:+z}; echo tree/*/*.txt | tr ' ' '\\n' | wc -l; echo tree/d[12] nomatch*; a='a  b'; echo $a \"$a\"; ${nothing:?is not set}; echo $?"),
    ("traps", "trap 'echo int' INT; trap 'echo term; exit 9' TERM; trap 'echo exit $?' EXIT; trap '' HUP; kill -HUP $$; kill -INT $$; echo between; (trap - INT; kill -INT $(sh -c 'echo $PPID'); echo never); echo $?; kill -TERM $$; echo never"),
    ("wait", "exec 2>/dev/null; sleep 0.1 & a=$!; (exit 5) & b=$!; sh -c 'kill -9 $$' & c=$!; wait $a; echo $?; wait $b; echo $?; wait $c 2>/dev/null; echo $?; wait; echo $?; wait 999999; echo $?"),
    ("signals", "exec 2>/dev/null; sleep 10 & kill $!; wait $! 2>/dev/null; echo $?; sleep 10 & kill -STOP $!; kill -CONT $!; kill -KILL $!; wait $! 2>/dev/null; echo $?; trap 'echo usr1' USR1; sh -c 'sleep 0.1; kill -USR1 '$$ & sleep 0.5; wait; echo after; sh -c 'kill -SEGV $$' 2>/dev/null; echo $?"),
    ("exec_cd", "cd tree/d1 && pwd | sed 's/.*tree/tree/'; cd -P ..; cd - > /dev/null; cd /nowhere; echo $?; umask 077; : > new; ls -l new | cut -c1-10; type cat | sed 's/.* //'; command -v nothing_here; echo $?; nothing_here; echo $?; ./f1.txt; echo $?; . ./nothing"),
    ("scripts", "printf '#!/bin/sh\\necho \"script $0 $#:\" \"$@\"\\n' > s; chmod +x s; ./s a 'b c'; printf '#!./s -x\\n' > t; chmod +x t; ./t 1 2; printf 'echo no hash-bang\\n' > u; chmod +x u; ./u; printf '#!/nowhere/interp\\n' > v; chmod +x v; ./v; echo $?; printf '\\177ELF' > w; chmod +x w; ./w; echo $?"),
    ("subshells", "x=1; (x=2; echo $x); echo $x; echo $(echo $(echo $(echo deep))); for i in $(seq 200); do (exit $((i % 7))); s=$((s + $?)); done; echo $s; i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done; echo $i; { echo grouped; } | cat; ulimit -n 64; ulimit -n; sh -c 'ulimit -n'"),
    ("read", "while IFS=, read -r id name dep rest; do case $dep in dep1) n=$((n + 1));; dep[2-4]) m=$((m + 1));; esac; done < table; echo $n $m; printf 'a\\\\tb\\n' | { read -r l; echo \"$l\"; }; read x < /dev/null; echo $?"),
    ("error", "echo start; set -e; if false; then echo no; fi; false || echo saved; ls /nowhere; echo never"),
    ("syntax_error", "echo before\nif then fi\necho never"),
    ("many_processes", "i=0; while [ $i -lt 40 ]; do sh -c \"sleep 0.0$((i % 7)); exit $i\" & p=\"$p $!\"; i=$((i + 1)); done; for q in $p; do wait $q; s=$((s + $?)); done; echo $s"),
    ("background_pipe", "mkfifo p; cat words > p & wc < p; wait; (sleep 0.1; echo late) | cat; cat p & sleep 0.1; echo through > p; wait; sleep 0.2 | echo first; { seq 5; sleep 0.1; seq 3; } | tail -2"),
];

#[rustfmt::skip]
const BASH: &[(&str, &str)] = &[
    ("arrays", "declare -A n; while IFS=, read -r id name dep amount; do n[$dep]=$((${n[$dep]:-0} + amount)); done < table; for k in \"${!n[@]}\"; do echo $k ${n[$k]}; done | sort; a=(one 'two three' four); echo ${#a[@]} \"${a[1]}\" ${a[@]: -2:1}; a+=(five); printf '<%s>' \"${a[@]/e/E}\"; mapfile -t l < words; echo ${#l[@]} \"${l[7]}\""),
    ("expansion", "shopt -s extglob globstar nullglob\necho {a..e}{1..3} ${PATH//bin/BIN} ${x:-$((16#ff))}; v=hello; echo ${v^^} ${v:1:3} ${v/l/L} $'tab\\there' \"${v@Q}\"; [[ words =~ ^(w.r)d ]] && echo ${BASH_REMATCH[1]}; echo !(words|tree) tree/**/f1*.txt none*; printf -v w '%05d' 42; echo $w; echo $((2**40)) $(( (7 & 3) << 2 ))"),
    ("process_substitution", "diff <(sort words | head -300) <(sort -u words | head -300) | wc -l; tee >(md5sum > sum1) >(wc -l > sum2) < words > /dev/null; sleep 0.3; cat sum1 sum2; paste <(seq 5) <(seq 5 9)"),
    ("here_string", "cat <<< \"one $((1+1))\"; read a b c <<< 'x y z w'; echo \"$c\"; md5sum <<< \"$(< words)\"; exec {fd}<words; read -u $fd first; echo $first; exec {fd}<&-; read -n 3 k < words; echo $k; read -t 0.1 z < <(sleep 1); echo $?"),
    ("job_control", "set -m; sleep 100 & jobs | sed 's/  */ /g'; kill -STOP %1; sleep 0.2; jobs | sed 's/  */ /g'; bg %1 > /dev/null; sleep 0.1; jobs | sed 's/  */ /g'; kill %1; wait %1; echo $?; sleep 0.2 & fg %1 > /dev/null; echo $?; (sleep 0.2; exit 7) & wait -n; echo $?; sh -c 'kill -STOP $$; exit 3' & sleep 0.2; fg > /dev/null; echo $?; jobs"),
    ("process_groups", "set -m; sh -c 'sleep 50 & sleep 50 & wait' & sleep 0.1; p=$!; [[ $(ps -o pgid= -p $p) -eq $p ]] && echo own group; kill -- -$p; wait $p; echo $?; ps -o pid= --ppid $$ | wc -l; disown -a; set +m"),
    ("traps", "trap 'echo ERR at $LINENO' ERR; trap 'echo EXIT $?' EXIT; trap 'echo usr1' USR1; trap 'echo chld' CHLD; false; kill -USR1 $BASHPID; trap - CHLD; f() { trap 'echo returned' RETURN; false; }; f; trap -p USR1; (kill -USR1 $BASHPID; echo in subshell); kill -l 11; sleep 0.1 & wait; exit 4"),
    ("trap_wait", "trap 'echo interrupted; n=$((n+1))' USR1; (sleep 0.2; kill -USR1 $$; sleep 0.2; kill -USR1 $$) & wait $!; echo $?; wait; wait; echo done $n"),
    ("coproc", "coproc B { while read l; do echo \"got $l\"; done; }; echo one >&${B[1]}; read x <&${B[0]}; echo $x; echo two >&${B[1]}; read x <&${B[0]}; echo $x; exec {B[1]}>&-; wait; echo $?"),
    ("pipestatus", "set -o pipefail; true | false | (exit 3) | cat; echo \"${PIPESTATUS[@]}\"; false | true; echo $?; yes | head -1; echo \"${PIPESTATUS[@]}\"; ! true; echo $?"),
    ("ulimit", "ulimit -n 32; exec 20<words; exec 40<words; echo $?; exec 2>/dev/null; ulimit -f 10; (cat words > big) 2>/dev/null; echo $?; stat -c %s big; ulimit -c; ulimit -S -s 4096; ulimit -s; ulimit -n 16; echo $?; ulimit -n; ulimit -t 10; ulimit -t"),
    ("time_random", "{ time -p true; } 2> t; wc -l < t; TIMEFORMAT=%0U; time :; [[ $SECONDS -lt 100 && $EPOCHSECONDS -gt 1600000000 ]] && echo sane; a=$RANDOM b=$RANDOM c=$RANDOM; [[ $a$b != $b$c ]] && echo random; rm t; echo $((BASHPID == $$)) $SHLVL $UID ${#GROUPS[@]}; times | wc -l"),
    ("dirs", "pushd tree > /dev/null; pushd d1 > /dev/null; dirs | wc -w; popd > /dev/null; echo ${PWD##*/}; cd nothing; echo $?; CDPATH=.. cd tree | wc -l; [[ -d . && ! -e /nowhere || -x nothing ]]; echo $?; test -t 0; echo $?; [[ words -nt /etc/passwd ]] && echo newer"),
    ("long_script", "s=0; for ((i = 0; i < 30000; i++)); do ((s += i % 7)); done; echo $s; for i in {1..100}; do x=$(echo $i); ((t += x)); done; echo $t; str=; while read -r l; do str+=${l:0:1}; done < words; echo ${#str}; printf '%s\\n' \"$str\" | md5sum"),
    ("error", "set -euo pipefail; echo start; trap 'echo failed on line $LINENO with $?' ERR; x=$(cat nothing); echo never"),
    ("unset_error", "set -u; echo ${nothing_set}; echo never"),
    ("exit_by_signal", "ulimit -c 0; kill -ABRT $$"),
];

fn with_files(case: Case) -> Case {
    case.file("words", Text(128)).file("table", Csv(100)).file_tree("tree")
}

pub fn cases() -> Vec<Case> {
    let all = |script: &str| format!("exec 2>&1\n{script}");
    let bash = POSIX.iter().chain(BASH).map(|(name, script)| {
        let kind = if BASH.iter().any(|b| b.1 == *script) { "bash" } else { "bash-sh" };
        with_files(Case::bash(format!("{kind}::{name}"), &all(script)))
    });
    let dash = POSIX.iter().map(|(name, script)| {
        let script = all(script);
        with_files(Case::new(format!("dash::{name}"), &["/bin/dash", "-c", &script])).needs(DASH)
    });
    let input = [
        Case::new("bash::stdin", &["/bin/bash"]).stdin("echo from stdin; read x\nvalue\necho \"$x\"; exit 3\n"),
        Case::new("bash::missing_script", &["/bin/bash", "nothing.sh"]),
        Case::new("bash::interactive", &["/bin/bash", "--norc", "-i"]).stdin("echo hi; false; echo $?; exit 5\n"),
    ];
    bash.chain(dash).chain(input).collect()
}
