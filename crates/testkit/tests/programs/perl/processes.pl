use strict; $| = 1; use POSIX ':sys_wait_h';
print `echo from backticks`; print $? >> 8, "\n"; system('sh', '-c', 'exit 3'); print $? >> 8, "\n";
my $pid = fork(); if (!$pid) { exit 7 } waitpid($pid, 0); print WEXITSTATUS($?), "\n";
pipe(my $r, my $w); if (!($pid = fork())) { close $r; print $w "line $_\n" for 1 .. 1000; exit 0 } close $w; my @l = <$r>; waitpid($pid, 0); print scalar(@l), " $l[-1]";
open(my $p, '-|', 'sort -u words | head -3') or die; print <$p>; close $p; open($p, '|-', 'tr a-z A-Z') or die; print $p "to upper\n"; close $p;
my $got = 0; $SIG{USR1} = sub { $got++ }; kill 'USR1', $$; print "got $got\n"; $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; sleep 10; }; print $@;
$pid = fork(); if (!$pid) { sleep 100 } kill 'KILL', $pid; waitpid($pid, 0); print $? & 127, "\n"; print waitpid(-1, WNOHANG), "\n";
use Socket; socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC); syswrite $a, 'hello'; sysread $b, my $buf, 99; print "$buf\n"; my $rin = ''; vec($rin, fileno($b), 1) = 1; print scalar select($rin, undef, undef, 0.05), "\n";
my @k = map { my $i = $_; my $q = fork(); exit $i unless $q; $q } 1 .. 10; my $s = 0; for (@k) { waitpid $_, 0; $s += $? >> 8 } print "$s\n"; exec 'echo', 'exec at the end';
