import multiprocessing as mp, os
from multiprocessing import shared_memory as sm
def child(name):
    s = sm.SharedMemory(name=name); s.buf[:4] = b'back'; s.close()
if __name__ == '__main__':
    s = sm.SharedMemory(create=True, size=200000); s.buf[:5] = b'hello'; s.buf[-1] = 7
    print(len(s.buf) >= 200000, os.path.exists('/dev/shm/' + s.name.lstrip('/')))
    p = mp.Process(target=child, args=(s.name,)); p.start(); p.join()
    print(bytes(s.buf[:5]), s.buf[199999], p.exitcode); s.close(); s.unlink()
    try: sm.SharedMemory(name='no_such_thing_')
    except FileNotFoundError as e: print(e.errno)
    l = sm.ShareableList([1, 'two', 3.0, None]); print(list(sm.ShareableList(name=l.shm.name))); l.shm.close(); l.shm.unlink()
