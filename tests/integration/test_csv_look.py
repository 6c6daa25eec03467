"""What the bytes of CSV files say of them (tasks/engines/python/sluice/engines/csv_look.py)."""

import json
import os
import random
import re
import subprocess

from conftest import ROOT, link_engine

LOOK = """
import json, sys
from sluice.engines import csv_look

csv_look._CHUNK, csv_look._LONGEST = 64, 1000
what, *files = sys.argv[1:]
if what == "quotes":
    told = [csv_look.quotes([f], '"', "|") for f in files]
else:
    looks = [csv_look.Look([f], headers, empty) for f in files for headers, empty in (([], False), ([], True), (["a,b", "x"], False))]
    told = [look.lines() for look in [*looks, csv_look.Look(files[:2])]]
print(json.dumps(told))
"""
UNKNOWN = b"a\n\xff\n", b"a" * 3000 + b"\n"
FILES = [b"a,b\n1,2\n", b"a,b\r\n\r\n1,2\r\n3,4", b"", b"\n\n", b" \n\t \nx\n", b"a\rb\r\rc", "ü,€\n".encode() * 50, *UNKNOWN, "ü".encode() * 32 + b"\nb\n"]


def look(folder, *arguments):
    link_engine(folder, "spark")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tasks/engines/python")}
    told = subprocess.run([folder / "engines/spark/bin/python", "-c", LOOK, *arguments], env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def test_lines_that_count(folder):
    random.seed(7)
    ends = [b"\n", b"\r\n", b"\r"]
    files = FILES + [b"".join(random.choice([*ends, b" ", b"x", "ü".encode()]) for _ in range(400)) for _ in range(40)]
    files += [b"a,b" + random.choice(ends) + b"x,1\n" * n + random.choice([b"a,b", b"x", b"xx", b"a,b "]) + random.choice([*ends, b""]) for n in range(40)]
    paths = [folder / f"{i}.csv" for i in range(len(files))]
    for path, text in zip(paths, files):
        path.write_bytes(text)
    told = look(folder, "lines", *paths)
    wanted = []
    for text in files:
        lines = re.split(b"\r\n|\r|\n", text)
        lines = lines if lines[-1] else lines[:-1]
        full = [line for line in lines if line]
        again = any(line in (b"a,b", b"x") for line in lines[1:])
        wanted += [None] * 3 if text in UNKNOWN else [len(full), len(lines), None if again else len(full)]
    assert told == [*wanted, wanted[0] + wanted[3]]


def test_quotes_in_lines_and_beyond(folder):
    random.seed(8)
    parts = [b'"x"', b'""', b"a", b"|", b"\n", b"\r\n", b"\r", b"b|c"]
    texts = [b"".join(random.choice(parts + [b'"', b" ", b"\t"] * (i % 3 == 0)) for _ in range(random.randrange(12))) for i in range(900)]
    for i, text in enumerate(texts):
        (folder / f"{i}.csv").write_bytes(text)
    wanted = []
    for text in texts:
        lines = re.split(b"\r\n|\r|\n", text)
        across = any(line.count(b'"') % 2 or (line and not line.strip()) for line in lines)
        stray = any(re.search(rb'(^|\|) "|[^"|]"[^"|]', line) for line in lines)
        wanted.append(0 if b'"' not in text else 3 if stray else 2 if across else 1)
    assert set(wanted) == {0, 1, 2, 3} and look(folder, "quotes", *(folder / f"{i}.csv" for i in range(len(texts)))) == wanted
