import errno, functools, os, signal, threading, time
print = functools.partial(print, flush=True)
log = []
signal.signal(signal.SIGUSR1, lambda s, f: log.append(signal.Signals(s).name))
os.kill(os.getpid(), signal.SIGUSR1); print(log)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02); n = 0
def tick(s, f):
    global n; n += 1
signal.signal(signal.SIGALRM, tick)
end = time.monotonic() + 5
while n < 10 and time.monotonic() < end: time.sleep(0.5 if n < 3 else 0)
signal.setitimer(signal.ITIMER_REAL, 0); print(n >= 10)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR1); print(sorted(signal.sigpending()), len(log))
print(signal.sigwait([signal.SIGUSR1])); print(signal.sigtimedwait([signal.SIGUSR2], 0.05))
os.kill(os.getpid(), signal.SIGUSR2); i = signal.sigwaitinfo([signal.SIGUSR2]); print(i.si_signo, i.si_pid == os.getpid(), i.si_uid == os.getuid())
r, w = os.pipe(); os.set_blocking(w, False); signal.set_wakeup_fd(w)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1]); os.kill(os.getpid(), signal.SIGUSR1); print(os.read(r, 10)); signal.set_wakeup_fd(-1)
t = threading.Thread(target=lambda: (time.sleep(0.1), os.kill(os.getpid(), signal.SIGINT))); t.start()
try: time.sleep(10)
except KeyboardInterrupt: print('interrupted')
t.join()
def boom(s, f): raise TimeoutError
signal.signal(signal.SIGALRM, boom); signal.alarm(1)
try: os.read(r, 1)
except TimeoutError: print('timeout in read')
for sig in (signal.SIGTERM, signal.SIGSEGV, signal.SIGKILL, signal.SIGHUP):
    if (pid := os.fork()) == 0:
        signal.signal(sig, signal.SIG_DFL) if sig != signal.SIGKILL else None
        os.kill(os.getpid(), sig); os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
go, told = os.pipe()
if (pid := os.fork()) == 0:
    os.kill(os.getpid(), signal.SIGSTOP); os.read(go, 1); os._exit(7)
_, st = os.waitpid(pid, os.WUNTRACED); print(os.WIFSTOPPED(st), os.WSTOPSIG(st)); os.kill(pid, signal.SIGCONT)
_, st = os.waitpid(pid, os.WCONTINUED); print(os.WIFCONTINUED(st)); os.write(told, b'x'); print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
try: os.kill(2 ** 22 + 5, 0)
except OSError as e: print(errno.errorcode[e.errno])
signal.raise_signal(signal.SIGTERM)
