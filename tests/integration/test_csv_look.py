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
files = sys.argv[1:]
looks = [csv_look.Look([f], headers, empty) for f in files for headers, empty in (([], False), ([], True), (["a,b", "x"], False))]
print(json.dumps([look.lines() for look in [*looks, csv_look.Look(files[:2])]]))
"""
UNKNOWN = b"a\n\xff\n", b"a" * 3000 + b"\n"
FILES = [b"a,b\n1,2\n", b"a,b\r\n\r\n1,2\r\n3,4", b"", b"\n\n", b" \n\t \nx\n", b"a\rb\r\rc", "ü,€\n".encode() * 50, *UNKNOWN, "ü".encode() * 32 + b"\nb\n"]


def test_lines_that_count(folder):
    random.seed(7)
    ends = [b"\n", b"\r\n", b"\r"]
    files = FILES + [b"".join(random.choice([*ends, b" ", b"x", "ü".encode()]) for _ in range(400)) for _ in range(40)]
    files += [b"a,b" + random.choice(ends) + b"x,1\n" * n + random.choice([b"a,b", b"x", b"xx", b"a,b "]) + random.choice([*ends, b""]) for n in range(40)]
    paths = [folder / f"{i}.csv" for i in range(len(files))]
    for path, text in zip(paths, files):
        path.write_bytes(text)
    link_engine(folder, "spark")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tasks/engines/python")}
    told = subprocess.run([folder / "engines/spark/bin/python", "-c", LOOK, *paths], env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    wanted = []
    for text in files:
        lines = re.split(b"\r\n|\r|\n", text)
        lines = lines if lines[-1] else lines[:-1]
        full = [line for line in lines if line]
        again = any(line in (b"a,b", b"x") for line in lines[1:])
        wanted += [None] * 3 if text in UNKNOWN else [len(full), len(lines), None if again else len(full)]
    assert json.loads(told.stdout) == [*wanted, wanted[0] + wanted[3]]
