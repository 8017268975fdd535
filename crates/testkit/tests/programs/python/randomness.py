# Random bytes by every way that Python has, in threads and forked children: nobody gets what another got.
import os
import random
import secrets
import threading
import uuid

WAYS = [
    lambda: os.urandom(16),
    lambda: os.getrandom(16),
    lambda: secrets.token_bytes(16),
    lambda: uuid.uuid4().bytes,
    lambda: random.SystemRandom().getrandbits(128).to_bytes(16, "little"),
    # Seeded from the system, in a child anew.
    lambda: random.Random().randbytes(16),
    lambda: random.randbytes(16),
    lambda: raw.read(16),
]
raw = open("/dev/urandom", "rb", buffering=0)
buffered = open("/dev/random", "rb")


def draw(rounds):
    return [way() for _ in range(rounds) for way in WAYS]


def in_child(rounds):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        with open(writer, "wb") as out:
            out.write(b"".join(draw(rounds)))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as got:
        text = got.read()
    assert os.waitpid(pid, 0)[1] == 0
    return [text[at : at + 16] for at in range(0, len(text), 16)]


seen = draw(300)
for _ in range(8):
    seen += in_child(50)
    seen += draw(50)
lists = []
threads = [threading.Thread(target=lambda: lists.append(draw(200))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
for part in lists:
    seen += part
print(len(seen), len(seen) - len(set(seen)), sum(len(one) != 16 for one in seen))
# Python's buffer is the child's, too; what comes after it is not.
buffered.read(1)
rest = len(buffered.peek())
if os.fork() == 0:
    os._exit(0)
os.wait()
print(rest, len(buffered.read(100_000)))
# No bit is always the same, or much more often 1 than 0.
ones = sum(bin(int.from_bytes(os.urandom(1000), "big")).count("1") for _ in range(100))
print(abs(ones - 400_000) < 4000)
for wrong in (-1, 1 << 40):
    try:
        os.urandom(wrong)
    except (ValueError, MemoryError, OverflowError) as error:
        print(type(error).__name__)
