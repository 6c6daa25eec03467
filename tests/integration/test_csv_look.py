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
print(json.dumps([csv_look.Look([f]).lines() for f in sys.argv[1:]] + [csv_look.Look(sys.argv[1:3]).lines()]))
"""
FILES = [b"a,b\n1,2\n", b"a,b\r\n\r\n1,2\r\n3,4", b"", b"\n\n", b" \n\t \nx\n", b"a\rb\r\rc", "ü,€\n".encode() * 50, b"a\n\xff\n", b"a" * 3000 + b"\n", "ü".encode() * 32 + b"\nb\n"]


def test_lines_that_are_more_than_spaces(folder):
    random.seed(7)
    files = FILES + [b"".join(random.choice([b"\n", b"\r\n", b"\r", b" ", b"x", "ü".encode()]) for _ in range(400)) for _ in range(40)]
    paths = [folder / f"{i}.csv" for i in range(len(files))]
    for path, text in zip(paths, files):
        path.write_bytes(text)
    link_engine(folder, "spark")
    env = {**os.environ, "PYTHONPATH": str(ROOT / "tasks/engines/python")}
    told = subprocess.run([folder / "engines/spark/bin/python", "-c", LOOK, *paths], env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    unknown = (b"a\n\xff\n", b"a" * 3000 + b"\n")
    wanted = [None if text in unknown else sum(1 for line in re.split(b"\r\n|\r|\n", text) if line.strip()) for text in files]
    assert json.loads(told.stdout) == [*wanted, wanted[0] + wanted[1]]
