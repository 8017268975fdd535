import collections, csv, hashlib, re, statistics, sys
words = collections.Counter(open('words').read().split())
for word, n in sorted(words.items(), key=lambda p: (-p[1], p[0]))[:20]:
    print(n, word)
rows = list(csv.reader(open('table')))
by = collections.defaultdict(list)
for _, _, dep, amount in rows:
    by[dep].append(int(amount))
with open('report', 'w') as out:
    for dep in sorted(by):
        print(dep, len(by[dep]), statistics.median(by[dep]), file=out)
print(hashlib.sha256(open('bytes', 'rb').read()).hexdigest())
print(len(re.findall(r'\b(?:al|be)\w*um\b', open('words').read())))
print(sorted(map(int, open('numbers')))[::1000])
print(sys.getsizeof([]) > 0, sys.byteorder, 2 ** 300 % 1000007)
