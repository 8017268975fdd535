import os, stat, tempfile
with tempfile.TemporaryFile() as f:
    f.write(open('bytes', 'rb').read()); f.seek(0); print(len(f.read()), os.fstat(f.fileno()).st_nlink)
with tempfile.NamedTemporaryFile(dir='.') as f:
    print(oct(stat.S_IMODE(os.stat(f.name).st_mode)), os.path.exists(f.name)); name = f.name
print(os.path.exists(name))
with tempfile.TemporaryDirectory() as d:
    print(oct(stat.S_IMODE(os.stat(d).st_mode)), d.startswith('/tmp/'))
    for i in range(50): open(f'{d}/{i}', 'w').write('x' * i)
    os.makedirs(f'{d}/a/b/c'); print(sum(e.stat().st_size for e in os.scandir(d) if e.is_file()))
print(os.path.exists(d))
with tempfile.SpooledTemporaryFile(max_size=100) as f:
    f.write(b'x' * 1000); f.seek(0); print(len(f.read()))
fd, p = tempfile.mkstemp(suffix='.x', dir='.'); os.write(fd, b'hi'); os.close(fd); print(open(p).read()); os.unlink(p)
try: tempfile.mkdtemp(dir='/nowhere')
except OSError as e: print(e.errno)
