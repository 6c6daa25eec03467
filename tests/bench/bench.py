#!/usr/bin/env python3
"""Measures a real daemon on a temporary state folder and writes the results into tests/bench/README.md.

Only the standard library. What is measured, and why so, stands in that README.
"""
import argparse
import os
import shutil
import sys
import tempfile

from daemon import Daemon, Failed, read
from measure_catalog import measure_catalog
from measure_death import measure_death
from measure_engine import measure_big, measure_employees
from measure_engines import measure_engines
from measure_kafka import measure_kafka
from measure_load import measure_load, measure_loop
from measure_maintain import measure_large, measure_maintain
from measure_s3 import measure_s3
from measure_tasks import measure_chain, measure_fan, measure_idle, measure_python, measure_start
from measure_transaction import measure_transaction
from programs import Employees, compile_c, libduckdb_flags, libpq_flags, write_flows
from results import ROOT, Results, write_readme

PARTS = ["idle", "chain", "python", "fan", "start", "death", "employees", "transaction", "big", "load", "loop", "catalog", "s3", "maintain", "engines", "kafka"]
ASKED = ["large"]  # minutes, and not for every table of results


def measure(args, folder, results):
    os.chmod(folder, 0o755)  # the private PostgreSQL of a daemon started by root runs as another user
    only, flows = args.only, os.path.join(folder, "flows")
    write_flows(flows)
    employees = Employees(folder, flows)
    if "big" in only:
        employees.make_big(args.rows)
    floor = compile_c(folder, "floor", libpq_flags()) if "chain" in only else None
    engine = compile_c(folder, "engine_floor", libduckdb_flags(args.binary)) if {"employees", "big", "s3", "maintain"} & set(only) else None
    load = compile_c(folder, "load", []) if "load" in only or "loop" in only else None
    few = min(args.rounds, 3)
    daemon = Daemon(args.binary, folder, employees.config)
    how = {
        "chain": lambda: measure_chain(daemon, floor, args.rounds, results),
        "python": lambda: measure_python(daemon, args.rounds, results),
        "fan": lambda: measure_fan(daemon, args.rounds, results),
        "start": lambda: measure_start(daemon, args.starts, results),
        "death": lambda: measure_death(daemon, args.starts, results),
        "employees": lambda: measure_employees(daemon, engine, employees, folder, args.rounds, results),
        "transaction": lambda: measure_transaction(daemon, args.starts, results),
        "big": lambda: measure_big(daemon, engine, employees, folder, args.rows, few, results),
        "load": lambda: measure_load(daemon, load, few, args.seconds, results),
        "loop": lambda: measure_loop(daemon, load, few, args.seconds, results),
        "catalog": lambda: measure_catalog(daemon, folder, min(args.seconds, 5), results),
        "s3": lambda: measure_s3(args.binary, engine, folder, args.rows, few, results),
        "maintain": lambda: measure_maintain(args.binary, engine, folder, results),
        "engines": lambda: measure_engines(args.binary, folder, args.rows, few, results),
        "kafka": lambda: measure_kafka(args.binary, folder, args.messages, few, results),
        "large": lambda: measure_large(args.binary, folder, results),
    }
    try:
        if "idle" in only:
            results.begin("idle")
            results.add("first `serve` (new cluster) to ready", daemon.start_seconds)
            measure_idle(daemon, 5, "after the start", results)
        for part in [part for part in PARTS + ASKED if part in only and part in how]:
            results.begin(part)
            how[part]()
        if "idle" in only:
            results.begin("idle")
            measure_idle(daemon, args.idle, "after all runs", results)
    except BaseException:
        print(f"bench: the end of the daemon's log:\n{read(daemon.log)[-3000:]}", file=sys.stderr)
        raise
    finally:
        daemon.stop()


def main():
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--binary", default=os.path.join(ROOT, "build", "sluice"), help="default: build/sluice")
    p.add_argument("--rounds", type=int, default=5, help="of each measurement (5); long ones at most 3")
    p.add_argument("--starts", type=int, default=100, help="runs for the start delay (100)")
    p.add_argument("--seconds", type=float, default=10, help="of each load (10)")
    p.add_argument("--idle", type=float, default=60, help="seconds of the last look at the idle daemon (60)")
    p.add_argument("--rows", type=int, default=10_000_000, help="of the big employees file (10000000)")
    p.add_argument("--messages", type=int, default=1000000, help="of the part kafka (1000000)")
    p.add_argument("--only", nargs="+", choices=PARTS + ASKED, default=PARTS, metavar="PART", help=" ".join(PARTS) + "; and, only when asked for: " + " ".join(ASKED))
    p.add_argument("--no-write", action="store_true", help="leave README.md as it is")
    args = p.parse_args()
    args.binary = os.path.abspath(args.binary)
    if not os.access(args.binary, os.X_OK):
        sys.exit(f"bench: there is no {args.binary}; run make first")
    load, results = os.getloadavg(), Results()
    folder = tempfile.mkdtemp(prefix="sluice-bench-")
    try:
        measure(args, folder, results)
        if not args.no_write:
            write_readme(results, load, PARTS + ASKED)
    except Failed as e:
        sys.exit(f"bench: {e}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
