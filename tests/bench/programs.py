"""The flows that are measured, and the C programs beside them: floors and load."""
import os
import re
import shutil
import subprocess
import sys

from daemon import Failed, read, write
from results import HERE, ROOT

CHAIN = 40
FIB = "fib = lambda n: n if n < 2 else fib(n - 1) + fib(n - 2)"
FAN = 200
FAN_SLOTS = 4
WIDE = 50


def task(name, depends_on=(), command="/bin/true"):
    line = f"  - {{id: {name}, type: command, command: [{command}]"
    return line + (f", depends_on: [{', '.join(depends_on)}]}}" if depends_on else "}") + "\n"


def write_flows(folder):
    os.makedirs(folder)

    def flow(name, tasks, concurrency=""):
        write(os.path.join(folder, f"{name}.yaml"), f"id: {name}\n{concurrency}tasks:\n" + "".join(tasks))

    names = [f"t{i:02}" for i in range(1, CHAIN + 1)]
    flow("chain", [task(name, [before] if before else []) for before, name in zip([None] + names, names)])
    middle = [f"m{i:03}" for i in range(1, FAN + 1)]
    flow("fan", [task("first")] + [task(name, ["first"]) for name in middle] + [task("last", middle)],
         f"concurrency: {{max_active_tasks: {FAN_SLOTS}}}\n")
    python = "type: python, python: %s, args: {n: 10}, code: \"def main(n):\\n    global fib\\n    %s\\n    return {'fib': fib(n)}\"" % (sys.executable, FIB)
    flow("fibs", [f"  - {{id: {name}, depends_on: [{before or ''}]}}\n" for before, name in zip([None] + names, names)],
         f"defaults: {{{python}}}\n")
    # The process itself says when it started.
    flow("clock", [task("only", command="/bin/date, +%s%N")])
    flow("victim", [task("only", command="/bin/sleep, 1000")])
    four = [("a", None), ("b", "a"), ("c", "b"), ("d", "c")]
    flow("four-commands", [task(name, [before] if before else []) for name, before in four])
    flow("four-tables", [f"  - {{id: {name}, type: curate, depends_on: [{before or ''}], into: four.{name}, mode: overwrite, sql: SELECT 1 AS n}}\n"
                         for name, before in four])
    # Their runs do not wait for each other.
    flow("single", [task("only")], "concurrency: {overlap: allow}\n")
    flow("wide", [task(f"w{i:02}") for i in range(1, WIDE + 1)], "concurrency: {overlap: allow}\n")


class Employees:
    """examples/employees, copied with its 10 rows; and the same flow over a large file, as employees_big."""

    def __init__(self, folder, flows):
        source = os.path.join(ROOT, "examples", "employees")
        self.folder, self.flows = os.path.join(folder, "employees"), flows
        shutil.copytree(source, self.folder, ignore=shutil.ignore_patterns("data"))
        self.generate(10)
        self.config = os.path.join(self.folder, "sluice.yaml")
        self.csv = os.path.join(self.folder, "data", "raw", "employees.csv")
        self.big_csv = os.path.join(folder, "big", "employees.csv")
        self.text = read(os.path.join(self.folder, "employees.yaml"))
        write(os.path.join(flows, "employees.yaml"), self.text)

    def generate(self, rows):
        subprocess.run([os.path.join(self.folder, "generate")], env={**os.environ, "ROWS": str(rows)}, check=True,
                       stdout=subprocess.DEVNULL)

    def make_big(self, rows):
        self.generate(rows)
        os.makedirs(os.path.dirname(self.big_csv))
        os.rename(self.csv, self.big_csv)
        self.generate(10)
        text = self.text
        for old, new in [("id: employees_pipeline", "id: employees_big"), ("${config.paths.raw_employees}", self.big_csv),
                         ("${config.paths.stage_root}", os.path.join(os.path.dirname(self.big_csv), "staging")),
                         ("${config.tables.stg_active_employees}", "local.stg.big_employees"),
                         ("${config.tables.cur_employee_counts}", "local.cur.big_counts")]:
            if old not in text:
                raise Failed(f"examples/employees/employees.yaml has no {old} any more")
            text = text.replace(old, new)
        write(os.path.join(self.flows, "big.yaml"), re.sub(r"^schedule:.*\n", "", text, flags=re.M))


def compile_c(folder, name, flags):
    path = os.path.join(folder, name)
    out = subprocess.run([os.environ.get("CC", "cc"), "-std=c17", "-D_GNU_SOURCE", "-O2", os.path.join(HERE, name + ".c"), "-o", path]
                         + flags, capture_output=True, text=True)
    if out.returncode != 0:
        raise Failed(f"{name}.c does not compile:\n{out.stderr}")
    return path


def libpq_flags():
    for tool in (["pkg-config", "--cflags", "--libs", "libpq"], ["pg_config", "--includedir"]):
        if shutil.which(tool[0]):
            out = subprocess.run(tool, capture_output=True, text=True)
            if out.returncode == 0:
                return out.stdout.split() if tool[0] == "pkg-config" else ["-I" + out.stdout.strip(), "-lpq"]
    return ["-lpq"]


def libduckdb_flags(binary):
    built = os.path.dirname(binary)
    lib, include = os.path.join(built, "lib"), os.path.join(built, "include")
    if not os.path.exists(os.path.join(include, "duckdb.h")):
        raise Failed(f"there is no {include}/duckdb.h; run make deps")
    return [f"-I{include}", f"-L{lib}", f"-Wl,-rpath,{lib}", "-lduckdb"]


def number_of(argv):
    """What a floor prints: seconds."""
    out = subprocess.run(argv, capture_output=True, text=True)
    if out.returncode != 0:
        raise Failed(out.stderr.strip())
    return float(out.stdout)
