import multiprocessing as mp
def work(x): return x * 2
def put(q): q.put('from child')
if __name__ == '__main__':
    for method in ('spawn', 'forkserver'):
        ctx = mp.get_context(method)
        with ctx.Pool(2) as pool: print(method, pool.map(work, range(5)))
        q = ctx.Queue(); p = ctx.Process(target=put, args=(q,)); p.start(); print(q.get()); p.join(); print(p.exitcode)
