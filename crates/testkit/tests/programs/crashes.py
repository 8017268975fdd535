"""What gdb finds in a core, in words that do not depend on addresses."""
import gdb
import re

seen = open("seen", "w")


def say(*words):
    print(*words, file=seen)


gdb.execute("set pagination off")
auxv = gdb.execute("info auxv", to_string=True)
vdso = int(re.search(r"^33 .* (0x[0-9a-f]+)$", auxv, re.M).group(1), 16)
entry = int(re.search(r"^9 .* (0x[0-9a-f]+)$", auxv, re.M).group(1), 16)


def describe(frame):
    if vdso <= frame.pc() < vdso + 0x4000:
        return "[vdso]"
    if frame.type() == gdb.SIGTRAMP_FRAME:
        return "<signal handler called>"
    where = frame.find_sal()
    variables = []
    if where.symtab and where.symtab.filename.endswith("crash.c"):
        for symbol in frame.block():
            if symbol.is_argument and str(symbol.type) == "int":
                variables.append(f"{symbol.name}={symbol.value(frame)}")
        return f"{frame.name()}({', '.join(variables)}) at line {where.line}"
    return f"{frame.name()}"


threads = sorted(gdb.selected_inferior().threads(), key=lambda thread: thread.ptid[1])
died = gdb.selected_thread()
for number, thread in enumerate(threads):
    thread.switch()
    say(f"thread {number}{' died' if thread == died else ''}")
    frame = gdb.newest_frame()
    while frame is not None:
        # Where in its loop the spinner was is chance.
        text = describe(frame)
        say("   ", "spinner" if text.startswith("spinner") else text)
        frame = frame.older()
died.switch()
say("signal", gdb.parse_and_eval("$_siginfo.si_signo"), "code", gdb.parse_and_eval("$_siginfo.si_code"))
say("entry", gdb.execute(f"info symbol {entry}", to_string=True).split()[0])
say("here", gdb.parse_and_eval("here"))
for line in gdb.execute("info proc mappings", to_string=True).splitlines():
    fields = line.split()
    if len(fields) == 5 and fields[0].startswith("0x"):
        say("mapped", fields[2], fields[3], fields[4])
seen.close()
