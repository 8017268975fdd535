import asyncio, os
async def main():
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line.upper()); await writer.drain()
        writer.close()
    server = await asyncio.start_unix_server(serve, path='sock')
    async def client(n):
        r, w = await asyncio.open_unix_connection('sock')
        got = 0
        for line in open('words').readlines()[n * 50:n * 50 + 50]:
            w.write(line.encode()); await w.drain(); got += len(await r.readline())
        w.close(); await w.wait_closed(); return got
    print(await asyncio.gather(*(client(n) for n in range(10))))
    server.close(); await server.wait_closed()
    p = await asyncio.create_subprocess_exec('md5sum', 'bytes', stdout=asyncio.subprocess.PIPE)
    print((await p.communicate())[0], p.returncode)
    try: await asyncio.wait_for(asyncio.sleep(10), 0.05)
    except asyncio.TimeoutError: print('timeout')
    print(await asyncio.get_running_loop().run_in_executor(None, sum, range(1000)))
    order = []
    async def nap(t): await asyncio.sleep(t); order.append(t)
    await asyncio.gather(nap(0.15), nap(0.05), nap(0.1)); print(order)
asyncio.run(main()); os.unlink('sock')
