import json, random
random.seed(7)
data = {w: [random.randint(0, 9) for _ in range(5)] for w in open('words').read().split()}
text = json.dumps(data, sort_keys=True, indent=1)
open('out.json', 'w').write(text)
assert json.load(open('out.json')) == data
print(len(data), len(text))
try:
    json.loads('{"a": }')
except json.JSONDecodeError as e:
    print(e)
