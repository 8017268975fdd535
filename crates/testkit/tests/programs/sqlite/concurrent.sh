exec 2>&1
sqlite3 d.db 'create table t (who, n)'
for w in 1 2 3 4; do
	for n in $(seq 15); do echo ".timeout 20000"; echo "insert into t values ($w, $n);"; done | sqlite3 d.db &
done
wait
sqlite3 d.db 'select who, count(*), sum(n) from t group by who; pragma integrity_check'
printf 'begin exclusive;\n.shell sqlite3 d.db "insert into t values (9, 9)"\nrollback;\n' | sqlite3 d.db
sqlite3 d.db .dump | sort | md5sum
sqlite3 -readonly d.db 'delete from t'; echo $?
echo junk > j.db; yes junk | head -1000 >> j.db; sqlite3 j.db 'select * from t'; echo $?
sqlite3 /nowhere/x.db 'select 1'; echo $?
rm d.db
