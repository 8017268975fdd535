import os, signal, subprocess as sp, sys
print(sp.run(['sort', '-u', 'words'], capture_output=True).stdout[:50])
print(sp.run('wc -l < table', shell=True, capture_output=True, text=True).stdout.strip())
p1 = sp.Popen(['cat', 'words'], stdout=sp.PIPE)
p2 = sp.Popen(['md5sum'], stdin=p1.stdout, stdout=sp.PIPE, text=True)
p1.stdout.close()
print(p2.communicate()[0], p1.wait(), p2.returncode)
big = open('bytes', 'rb').read() * 20
print(sp.run(['cat'], input=big, capture_output=True).stdout == big)
try:
    sp.run(['sleep', '10'], timeout=0.2)
except sp.TimeoutExpired as e:
    print('timeout', e.cmd)
p = sp.Popen(['sleep', '10']); p.terminate(); print(p.wait())
p = sp.Popen(['sleep', '10']); p.kill(); print(p.wait())
p = sp.Popen(['sleep', '10'], start_new_session=True); os.killpg(p.pid, signal.SIGINT); print(p.wait())
for bad in (['/nowhere/prog'], ['./words']):
    try:
        sp.run(bad)
    except OSError as e:
        print(type(e).__name__, e.errno, e.filename)
try:
    sp.run(['true'], cwd='/nowhere')
except OSError as e:
    print(type(e).__name__, e.filename)
print(sp.run(['env'], env={'ONLY': 'this'}, capture_output=True, text=True).stdout)
r, w = os.pipe()
p = sp.Popen(['sh', '-c', f'echo passed >&{w}'], pass_fds=[w]); os.close(w); p.wait()
print(os.read(r, 100))
print(sp.call(['sh', '-c', 'exit 9']), sp.getoutput('echo a; echo b >&2'))
print(sp.run([sys.executable, '-c', 'import os; os.kill(os.getpid(), 11)'], preexec_fn=lambda: None).returncode)
print(sum(sp.call(['true']) for _ in range(60)))
