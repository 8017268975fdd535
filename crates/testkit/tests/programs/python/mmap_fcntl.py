import errno, fcntl, mmap, os
data = open('bytes', 'rb').read()
with open('bytes', 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0); print(m[:] == data, m.find(data[70000:70010])); m[100:105] = b'HELLO'; m.flush(); print(os.pread(f.fileno(), 5, 100))
    os.pwrite(f.fileno(), b'WORLD', 200); print(m[200:205]); p = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_COPY); p[0:3] = b'abc'; print(os.pread(f.fileno(), 3, 0) == data[:3]); m.resize(len(data) + 5000); print(os.fstat(f.fileno()).st_size); m.close()
a = mmap.mmap(-1, 1 << 20); pid = os.fork()
if pid == 0: a[5:9] = b'kid!'; os._exit(0)
os.waitpid(pid, 0); print(a[5:9])
f = open('lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX, 10, 5)
if (pid := os.fork()) == 0:
    g = open('lock', 'w')
    try: fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 3, 7); print('got')
    except OSError as e: print(errno.errorcode[e.errno], flush=True)
    fcntl.lockf(g, fcntl.LOCK_EX | fcntl.LOCK_NB, 3, 30); print('elsewhere is free', flush=True); os._exit(0)
os.waitpid(pid, 0)
h = open('lock'); k = open('lock'); fcntl.flock(h, fcntl.LOCK_SH); fcntl.flock(k, fcntl.LOCK_SH)
try: fcntl.flock(k, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as e: print(errno.errorcode[e.errno])
print(fcntl.fcntl(f, fcntl.F_GETFD), fcntl.fcntl(f, fcntl.F_GETFL) & os.O_ACCMODE, fcntl.fcntl(f, fcntl.F_DUPFD, 77)); r, w = os.pipe(); print(fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 8192), fcntl.fcntl(r, 1032))
