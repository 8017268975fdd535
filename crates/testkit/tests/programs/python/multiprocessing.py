import multiprocessing as mp, os, signal, time
def square(x): return x * x
def fill(q, n):
    for i in range(n): q.put('x' * (i * 97 % 5000))
    q.put(None)
def add(value, lock, n):
    for _ in range(n):
        with lock: value.value += 1
def child(conn):
    while (m := conn.recv()) != 'stop': conn.send((m, os.getppid() == parent))
    conn.close()
def dies(): os.kill(os.getpid(), signal.SIGKILL)
def meet(barrier, event, out):
    barrier.wait(); event.wait(); out.put(1)
if __name__ == '__main__':
    mp.set_start_method('fork'); parent = os.getpid()
    with mp.Pool(4) as pool:
        print(sum(pool.map(square, range(5000))))
        print(sorted(pool.imap_unordered(len, open('words').readlines(), 100))[-3:])
        try: pool.apply(int, ('x',))
        except ValueError as e: print(e)
    q = mp.Queue(); p = mp.Process(target=fill, args=(q, 400)); p.start()
    print(sum(len(x) for x in iter(q.get, None))); p.join(); print(p.exitcode)
    value, lock = mp.Value('i', 0, lock=False), mp.Lock()
    ps = [mp.Process(target=add, args=(value, lock, 2000)) for _ in range(4)]
    [p.start() for p in ps]; [p.join() for p in ps]; print(value.value)
    a, b = mp.Pipe(); p = mp.Process(target=child, args=(b,)); p.start()
    for m in (1, 'two', b'x' * 100000):
        a.send(m); r = a.recv(); print(r[0] == m, r[1])
    a.send('stop'); p.join()
    p = mp.Process(target=dies); p.start(); p.join(); print(p.exitcode)
    p = mp.Process(target=time.sleep, args=(100,)); p.start(); p.terminate(); p.join(); print(p.exitcode)
    barrier, event, out = mp.Barrier(4), mp.Event(), mp.Queue()
    ps = [mp.Process(target=meet, args=(barrier, event, out)) for _ in range(3)]
    [p.start() for p in ps]; barrier.wait(); event.set(); print(sum(out.get() for _ in ps)); [p.join() for p in ps]
    array = mp.Array('d', 100)
    def put(i): array[i] = i * 1.5
    ps = [mp.Process(target=put, args=(i,)) for i in range(10)]
    [p.start() for p in ps]; [p.join() for p in ps]; print(sum(array))
    with mp.Manager() as m:
        d = m.dict(); p = mp.Process(target=d.update, args=({'k': 1},)); p.start(); p.join(); print(dict(d))
