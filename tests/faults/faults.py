"""
Faults at random moments and at named points, and after each of them everything must be as if nothing had happened.

    SEED=7 make faults ROUNDS=500        the long matrix; counts go to tests/faults/README.md
    SEED=7 make faults ONLY=31           one round of it again
    faults.py --seconds 60               what `make check` runs
"""

import argparse
import collections
import os
import pathlib
import platform
import random
import signal
import subprocess
import sys
import time
import traceback

from world import Finding, World, below

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = pathlib.Path(__file__).parent / "README.md"
FLOWS = ["chain", "chain", "fan", "lake", "lake", "long"]
ROUNDS_A_WORLD = 20  # tables grow by every publish

POINTS = {
    "daemon": (
        "store.commit.before store.commit.sent store.commit.after attempt.spawn.before attempt.spawn.after attempt.exit.heard "
        "catalog.swap.before catalog.swap.after"
    ).split(),
    "nursery": "nursery.fork.before nursery.fork.after nursery.exit.before nursery.exit.after".split(),
    "attempt": (
        "task.begin task.end stage.finish.before stage.finish.after write.data.before write.data.after write.commit.before write.commit.after"
    ).split(),
}
ROLES = ["attempt", "daemon", "nursery", "postgres", "backend"]


# ---- what happens in a round: each takes the world and a source of chance ----


def moment(rng, most=1.6):
    time.sleep(rng.uniform(0, most))


def kill(*names):
    """SIGKILL, one after the other within a fifth of a second."""

    def run(w, rng):
        moment(rng)
        for i, name in enumerate(names):
            if i:
                time.sleep(rng.choice((0, 0.01, 0.05, 0.2)))
            w.kill(name)

    return run


def immediate(w, rng):
    """PostgreSQL's own immediate shutdown."""
    moment(rng)
    w.kill("postgres", signal.SIGQUIT)


def while_it_starts(w, rng):
    """The daemon again and again, while it comes back."""
    moment(rng)
    for _ in range(3):
        w.kill("daemon")
        until = time.monotonic() + 5
        while w.daemon.process.poll() is None and time.monotonic() < until:
            time.sleep(0.005)
        w.spawn_again()
        time.sleep(rng.uniform(0, 0.7))
    w.kill("daemon")


def arm(w, text):
    w.fault.write_text(text + "\n")


def until_hit(w, seconds=3):
    until = time.monotonic() + seconds
    while w.fault.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    return not w.fault.read_text()


def at_point(role, point, and_also=None):
    def run(w, rng):
        if role == "daemon":
            w.expect_death()
        arm(w, f"{point}:{rng.choice((1, 1, 2, 3, 5, 8, 13))}=kill")
        hit = until_hit(w)
        if and_also and hit:
            w.kill(and_also)
        w.tend()
        arm(w, "")
        if role == "daemon" and not hit and not w.fault.read_text() and w.daemon.process.poll() is None:
            w.expected_deaths -= 1
        w.reached = hit

    return run


def stopped(name, seconds):
    """SIGSTOP for longer than any timeout in use, then SIGCONT."""

    def run(w, rng):
        moment(rng)
        targets = [w.pid(name)]
        if name == "postgres":
            targets += below(targets[0])
        for pid in filter(None, targets):
            send(pid, signal.SIGSTOP)
        time.sleep(seconds)
        for pid in filter(None, targets):
            send(pid, signal.SIGCONT)

    return run


def send(pid, sig):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


KINDS = {}
for role in ROLES:
    KINDS[f"kill -9 {role}"] = (kill(role), 3)
KINDS["postgres: immediate shutdown"] = (immediate, 2)
for a, b in (
    ("daemon", "nursery"), ("nursery", "daemon"), ("daemon", "postgres"), ("postgres", "daemon"), ("nursery", "postgres"), ("attempt", "daemon"),
    ("attempt", "nursery"), ("attempt", "postgres"), ("nursery", "nursery"), ("attempt", "attempt"), ("postgres", "postgres"),
):
    KINDS[f"kill -9 {a}, then {b}"] = (kill(a, b), 1)
KINDS["kill -9 daemon while it starts"] = (while_it_starts, 2)
for role, points in POINTS.items():
    for point in points:
        KINDS[f"{point}: kill -9"] = (at_point(role, point), 1)
for point, other in (("store.commit.sent", "postgres"), ("attempt.spawn.after", "nursery"), ("nursery.fork.after", "daemon"), ("write.commit.before", "daemon")):
    role = next(r for r, points in POINTS.items() if point in points)
    KINDS[f"{point}: kill -9, then {other}"] = (at_point(role, point, other), 1)
for role in ROLES:
    KINDS[f"stop {role} 2.5 s"] = (stopped(role, 2.5), 1)


# ---- rounds ----


def plan(seed, i):
    """Which fault round `i` is, and its source of chance: every kind once, in an order of the seed's, then again in another one."""
    names = [n for n, (_, weight) in KINDS.items() for _ in range(weight)]
    random.Random(f"{seed}/{i // len(names)}").shuffle(names)
    return names[i % len(names)], random.Random(f"{seed}:{i}")


def flows_for(kind):
    return FLOWS + (["timed"] if kind.startswith("stop") else [])


def play(world, kind, rng):
    fault = KINDS[kind][0]
    world.reached = True
    world.round(flows_for(kind), lambda: fault(world, rng), cancel_after=rng.uniform(0, 1))


class Matrix:
    def __init__(self, seed):
        self.seed, self.world, self.used = seed, None, 0
        self.counts = collections.defaultdict(lambda: [0, 0, 0])  # rounds, passed, and how often the point was passed
        self.failed = []

    def one(self, i):
        kind, rng = plan(self.seed, i)
        began = time.monotonic()
        try:
            if self.world and self.used >= ROUNDS_A_WORLD:
                self.world.end()
                self.end()
            if self.world is None:
                self.world, self.used = World(), 0
                self.world.open()
            self.used += 1
            play(self.world, kind, rng)
            why = None
        except Finding as e:
            why = str(e)
        except Exception:  # noqa: BLE001
            why = traceback.format_exc()
        count = self.counts[kind]
        count[0] += 1
        count[1] += why is None
        count[2] += bool(self.world and getattr(self.world, "reached", False))
        print(f"{i:4} {'ok  ' if why is None else 'FAIL'} {time.monotonic() - began:5.1f} s  {kind}", flush=True)
        if why:
            self.failed.append((i, kind, why))
            print(f"     {why}\n     again: SEED={self.seed} make faults ONLY={i}", flush=True)
            if self.world and os.environ.get("KEEP"):
                print(f"---- daemon ----\n{self.world.daemon.log[-6000:]}", flush=True)
            self.end()

    def end(self):
        world, self.world = self.world, None
        if world:
            world.close()


def machine():
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, commit {commit or 'unknown'}, {os.cpu_count()} cores, {memory:.0f} GB, Linux {platform.release()}"


def write_readme(matrix, seconds):
    total, passed = (sum(c[k] for c in matrix.counts.values()) for k in (0, 1))
    out = [f"Seed {matrix.seed}; {machine()}; {seconds / 60:.0f} minutes.", "", f"**{total} rounds, {passed} passed.**", ""]
    out += ["| fault | rounds | passed |", "| --- | ---: | ---: |"]
    out += [f"| {kind} | {matrix.counts[kind][0]} | {matrix.counts[kind][1]} |" for kind in KINDS if kind in matrix.counts]
    head, rest = README.read_text().split("<!-- faults:begin -->\n")
    README.write_text(head + "<!-- faults:begin -->\n" + "\n".join(out) + "\n<!-- faults:end -->" + rest.split("<!-- faults:end -->")[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", default=os.environ.get("SEED") or str(random.SystemRandom().randrange(10**6)))
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seconds", type=float, help="begin no round after this time")
    parser.add_argument("--only", type=int, help="this round alone")
    parser.add_argument("--kind", help="only faults whose name holds this text")
    parser.add_argument("--write", action="store_true", help="put the counts into README.md")
    parser.add_argument("--sum", help='a file for "passed failed skipped"')
    args = parser.parse_args()
    if args.kind:
        for name in [n for n in KINDS if args.kind not in n]:
            del KINDS[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"faults: seed {args.seed}", flush=True)
    matrix, began = Matrix(args.seed), time.monotonic()
    try:
        for i in [args.only] if args.only is not None else range(args.rounds):
            if args.seconds and time.monotonic() - began > args.seconds:
                break
            matrix.one(i)
    finally:
        matrix.end()
    total, passed = (sum(c[k] for c in matrix.counts.values()) for k in (0, 1))
    print(f"faults: {passed} of {total} rounds passed in {time.monotonic() - began:.0f} s, seed {args.seed}")
    if args.write:
        write_readme(matrix, time.monotonic() - began)
    if args.sum:
        pathlib.Path(args.sum).write_text(f"{passed} {total - passed} 0\n")
    return 1 if matrix.failed else 0


if __name__ == "__main__":
    sys.exit(main())
