import csv, sqlite3, threading
db = sqlite3.connect('data.db')
db.execute('create table t (id integer primary key, name text, dep text, amount integer)')
with db: db.executemany('insert into t values (?, ?, ?, ?)', csv.reader(open('table')))
for row in db.execute('select dep, count(*), sum(amount) from t group by dep order by dep'): print(*row)
db.execute('create index i on t (name, amount)')
print(db.execute('select count(*), min(amount) from t where name = ?', ('al',)).fetchone())
try:
    with db:
        db.execute('delete from t'); db.execute('insert into t values (1, 1, 1, 1)'); db.execute('insert into t values (1, 1, 1, 1)')
except sqlite3.IntegrityError as e: print(e)
print(db.execute('select count(*) from t').fetchone(), db.execute('pragma integrity_check').fetchone())
print(db.execute('pragma journal_mode = wal').fetchone())
def write(n):
    c = sqlite3.connect('data.db', timeout=20)
    for i in range(20):
        with c: c.execute('insert into t (name, dep, amount) values (?, ?, ?)', ('new', f'w{n}', i))
    c.close()
ts = [threading.Thread(target=write, args=(n,)) for n in range(4)]
[t.start() for t in ts]; [t.join() for t in ts]
print(db.execute("select dep, sum(amount) from t where name = 'new' group by dep").fetchall())
a, b = sqlite3.connect('data.db', timeout=0, isolation_level=None), sqlite3.connect('data.db', timeout=0, isolation_level=None)
a.execute('begin immediate')
try: b.execute('begin immediate')
except sqlite3.OperationalError as e: print(e)
a.execute('rollback'); a.close(); b.close()
db.execute('pragma journal_mode = delete'); db.execute('delete from t where name = "new"'); db.commit(); db.execute('vacuum'); db.close()
try: sqlite3.connect('/nowhere/x.db')
except sqlite3.OperationalError as e: print(e)
import os; os.remove('data.db')
