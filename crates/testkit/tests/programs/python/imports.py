import importlib, sys
names = 'argparse ast base64 calendar configparser contextlib copy ctypes dataclasses datetime decimal difflib email enum fileinput fnmatch fractions functools getpass glob heapq html http.client inspect ipaddress itertools locale logging math ntpath numbers operator optparse pathlib pickle pkgutil platform pprint pty pwd queue random readline resource sched secrets shelve shlex smtplib socketserver ssl string struct syslog tarfile telnetlib termios textwrap timeit token trace traceback types typing unittest urllib.request uuid venv warnings wave weakref xml.etree.ElementTree xmlrpc.client zipapp zoneinfo'
missing = []
for name in names.split():
    try: importlib.import_module(name)
    except ImportError: missing.append(name)
print(missing, len(sys.modules) > 200)
import ctypes, decimal, pathlib, pickle, pwd, struct, uuid, xml.etree.ElementTree as ET, datetime, zoneinfo
libc = ctypes.CDLL('libc.so.6', use_errno=True); print(libc.abs(-5), libc.open(b'/nowhere', 0), ctypes.get_errno())
print(decimal.Decimal(2).sqrt(), struct.pack('<Qd', 7, 1.5), pickle.loads(pickle.dumps({1: [2]})), pwd.getpwuid(0).pw_name, uuid.uuid5(uuid.NAMESPACE_DNS, 'x'), len({uuid.uuid4() for _ in range(100)}))
print(ET.fromstring('<a><b c="1"/></a>')[0].attrib, datetime.datetime(2024, 7, 1, tzinfo=datetime.timezone.utc).isoformat(), sum(1 for _ in pathlib.Path('.').glob('*')))
import random; random.seed(1); print(random.random(), [random.randrange(9) for _ in range(5)])
CB = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)); arr = (ctypes.c_int * 5)(5, 3, 1, 4, 2)
libc.qsort(arr, 5, 4, CB(lambda a, b: a[0] - b[0])); print(list(arr))
