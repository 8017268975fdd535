import array, errno, os, select, selectors, socket, threading
a, b = socket.socketpair(); a.setblocking(False)
try: a.recv(1)
except BlockingIOError as e: print(errno.errorcode[e.errno])
print(select.select([a], [a], [], 0.05)[1] == [a]); b.send(b'x'); print(select.select([a], [], [], 1)[0] == [a])
p = select.poll(); p.register(a, select.POLLIN | select.POLLOUT); print(p.poll(0)[0][1]); a.recv(9); b.close(); print(p.poll(0)[0][1])
e = select.epoll(); r, w = os.pipe(); e.register(r, select.EPOLLIN | select.EPOLLET); os.write(w, b'1'); print(len(e.poll(1)), len(e.poll(0))); os.close(w); print(e.poll(1)[0][1])
s = socket.socket(socket.AF_UNIX); s.bind('\0coracle-test'); s.listen(); got = []
def server():
    for _ in range(3):
        c, _ = s.accept()
        with c: got.append(sum(len(d) for d in iter(lambda: c.recv(65536), b'')))
t = threading.Thread(target=server); t.start()
for n in range(3):
    with socket.socket(socket.AF_UNIX) as c: c.connect('\0coracle-test'); c.sendall(open('bytes', 'rb').read() * (n + 1))
t.join(); print(got)
d = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2)]
d[0].bind('d0'); d[1].bind('d1'); d[1].sendto(b'datagram', 'd0'); print(d[0].recvfrom(100)); os.unlink('d0'); os.unlink('d1')
x, y = socket.socketpair(); f = open('words'); socket.send_fds(x, [b'take'], [f.fileno()]); m, fds, fl, ad = socket.recv_fds(y, 10, 4); print(m, os.pread(fds[0], 10, 0), os.fstat(fds[0]).st_ino == os.fstat(f.fileno()).st_ino)
y.settimeout(0.05)
try: y.recv(1)
except TimeoutError: print('timed out')
print(y.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4] == os.getpid().to_bytes(4, 'little'), y.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
x.close()
try: y.send(b'x'); y.send(b'x')
except BrokenPipeError: print('EPIPE')
for path in ('nothing', 'words'):
    try: socket.socket(socket.AF_UNIX).connect(path)
    except OSError as er: print(errno.errorcode[er.errno])
sel = selectors.DefaultSelector(); u, v = socket.socketpair(); sel.register(u, selectors.EVENT_READ, 'data'); v.send(b'1'); print([(k.data, m) for k, m in sel.select(1)])
