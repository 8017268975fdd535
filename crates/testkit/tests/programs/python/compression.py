import bz2, gzip, hashlib, io, lzma, tarfile, zipfile, zlib
data = open('words', 'rb').read() + open('bytes', 'rb').read()
for m in (zlib, bz2, lzma): c = m.compress(data); print(m.__name__, len(c), m.decompress(c) == data)
print(hashlib.md5(gzip.compress(data, mtime=0)).hexdigest())
with zipfile.ZipFile('a.zip', 'w', zipfile.ZIP_DEFLATED) as z:
    for n in ('words', 'table'): z.writestr(zipfile.ZipInfo(n, (2000, 1, 1, 0, 0, 0)), open(n).read())
with zipfile.ZipFile('a.zip') as z: print(z.namelist(), z.testzip())
with tarfile.open('a.tar.xz', 'w:xz') as t: i = tarfile.TarInfo('w'); i.size = len(data); t.addfile(i, io.BytesIO(data))
with tarfile.open('a.tar.xz') as t: print(t.getnames(), t.extractfile('w').read() == data)
try: zlib.decompress(b'junk')
except zlib.error as e: print(e)
