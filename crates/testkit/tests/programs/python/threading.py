import queue, threading, time
from concurrent.futures import ThreadPoolExecutor
q, results, lock = queue.Queue(maxsize=16), [], threading.Lock()
def worker():
    while (line := q.get()) is not None:
        with lock:
            results.append(len(line.split()))
threads = [threading.Thread(target=worker) for _ in range(8)]
for t in threads: t.start()
for line in open('words'): q.put(line)
for _ in threads: q.put(None)
for t in threads: t.join()
print(len(results), sum(results))
for i in range(300):
    t = threading.Thread(target=lambda: None); t.start(); t.join()
with ThreadPoolExecutor(16) as pool:
    print(sum(pool.map(lambda n: n * n, range(2000))))
barrier, order = threading.Barrier(6), []
def meet(i):
    barrier.wait(); order.append(i); barrier.wait()
ts = [threading.Thread(target=meet, args=(i,)) for i in range(6)]
[t.start() for t in ts]; [t.join() for t in ts]
print(sorted(order))
cond, turn = threading.Condition(), [0]
def ping(me):
    for _ in range(500):
        with cond:
            cond.wait_for(lambda: turn[0] % 2 == me)
            turn[0] += 1
            cond.notify()
ts = [threading.Thread(target=ping, args=(i,)) for i in range(2)]
[t.start() for t in ts]; [t.join() for t in ts]
print(turn)
local = threading.local(); local.x = 1
def check(): print(hasattr(local, 'x'))
t = threading.Thread(target=check); t.start(); t.join()
timer = threading.Timer(0.05, lambda: print('timer')); timer.start(); timer.join()
print(threading.Event().wait(0.05), lock.acquire(timeout=0.01), lock.acquire(timeout=0.05), threading.active_count())
sem = threading.Semaphore(2); print([sem.acquire(blocking=False) for _ in range(3)])
t = threading.Thread(target=lambda: time.sleep(100), daemon=True); t.start()
def bad(): raise RuntimeError('in thread')
threading.excepthook = lambda a: print('hook', a.exc_value)
t = threading.Thread(target=bad); t.start(); t.join()
