"""
Faults at random moments and at named points, and after each of them everything must be as if nothing had happened.

    SEED=7 make faults ROUNDS=500        the long matrix; counts go to tests/faults/README.md
    SEED=7 make faults ONLY=31           one round of it again
    faults.py --seconds 60               what `make check` runs
"""

import argparse
import collections
import http.client
import json
import os
import pathlib
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback

from world import RETRY, Finding, OwnDatabase, SmallDisks, World, below, can_mount, stat_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = pathlib.Path(__file__).parent / "README.md"
FLOWS = ["chain", "chain", "fan", "lake", "lake", "long"]
ROUNDS_A_WORLD = 20  # tables grow by every publish
WORTH_WRITING = 300  # rounds, for README.md

POINTS = {
    "daemon": (
        "store.commit.before store.commit.sent store.commit.after attempt.spawn.before attempt.spawn.after attempt.exit.heard "
        "lake.publish.before lake.publish.after"
    ).split(),
    "nursery": "nursery.fork.before nursery.fork.after nursery.exit.before nursery.exit.after".split(),
    "attempt": (
        "task.begin task.end stage.finish.before stage.finish.after write.data.before write.data.after write.commit.before write.commit.after"
    ).split(),
}
# Every step of a commit to a table, of a run's end, and of the removal of what failed attempts left.
LAKE_POINTS = {
    "attempt": "write.data.before write.data.after write.commit.before write.commit.after task.end cleanup.remove.before cleanup.remove.between".split(),
    "daemon": (
        "catalog.commit.before catalog.commit.after attempt.exit.heard lake.publish.before lake.publish.after lake.rebase.before lake.rebase.after "
        "store.commit.sent store.commit.after cleanup.forget.before"
    ).split(),
}
# Every step of a maintenance: of compaction and of expiry, and of the removal of files after it.
MAINTAIN_POINTS = {
    "attempt": (
        "maintain.data.before maintain.data.after write.commit.before write.commit.after maintain.expire.before maintain.expire.after "
        "cleanup.remove.before cleanup.remove.between task.end"
    ).split(),
    "daemon": "catalog.swap.before catalog.swap.after attempt.exit.heard cleanup.forget.before".split(),
}
RARE = "lake.rebase cleanup. maintain."  # not passed often in a round
ROLES = ["attempt", "daemon", "nursery", "postgres", "backend"]


# ---- what happens in a round: each takes the world and a source of chance ----


def moment(rng, most=1.2):
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
        w.spawn()
        time.sleep(rng.uniform(0, 0.7))
    w.kill("daemon")


def arm(w, text):
    w.fault.write_text(text + "\n")


def until_hit(w, seconds=3):
    until = time.monotonic() + seconds
    while w.fault.read_text() and time.monotonic() < until:
        time.sleep(0.01)
    return not w.fault.read_text()


def times(rng, point, many):
    return rng.choice((1, 1, 2) if any(point.startswith(rare) for rare in RARE.split()) else many)


def at_point(role, point, and_also=None):
    def run(w, rng):
        w.mortal = role == "daemon"
        arm(w, f"{point}:{times(rng, point, (1, 1, 2, 3, 5, 8, 13))}=kill")
        w.reached = until_hit(w)
        if and_also and w.reached:
            w.kill(and_also)
        w.tend()
        arm(w, "")

    return run


def held(role, point, victim):
    """A process is held at a point; another one is killed meanwhile."""

    def run(w, rng):
        w.mortal = "daemon" in (role, victim)
        arm(w, f"{point}:{times(rng, point, (1, 2, 3, 5))}=stop")
        w.reached = until_hit(w)
        until, held = time.monotonic() + 5, []
        while w.reached and not held and time.monotonic() < until:  # it is taken from the file a moment before
            held = [p for p in {w.daemon.process.pid, *below(w.nursery())} if (s := stat_of(p)) and s[0] == "T"]
        if held:
            w.kill(victim)
            time.sleep(rng.choice((0, 0.1, 0.5)))
        for pid in held:
            send(pid, signal.SIGCONT)
        w.tend()
        arm(w, "")

    return run


def stopped(name):
    """SIGSTOP for longer than any timeout in use, then SIGCONT."""

    def run(w, rng):
        moment(rng)
        targets = [pid for pid in [w.pid(name)] if pid]
        if name == "postgres":
            targets += below(targets[0])
        for pid in targets:
            send(pid, signal.SIGSTOP)
        time.sleep(rng.choice((2.5, 12)) if w.long else 2.5)
        for pid in targets:
            send(pid, signal.SIGCONT)

    return run


def orderly(name=None, sig=signal.SIGTERM):
    """The daemon is asked to end (SIGUSR2: and to let attempts run on) right after something was killed, and is started again."""

    def run(w, rng):
        moment(rng)
        if name:
            w.kill(name)
            time.sleep(rng.choice((0, 0.05, 0.2)))
        w.daemon.process.send_signal(sig)
        try:
            status = w.daemon.process.wait(45)
        except subprocess.TimeoutExpired:
            raise Finding("the daemon was asked to end and did not in 45 s") from None
        if status != 0:
            raise Finding(f"the daemon was asked to end and did with status {status}: {w.daemon.log[-3000:]}")
        w.start()

    return run


def database_stopped(w, rng):
    moment(rng)
    w.database.stop(rng.choice((signal.SIGINT, signal.SIGQUIT)))
    time.sleep(30 if w.long else 3)
    w.database.start()


def database_stopped_and_daemon_killed(w, rng):
    moment(rng)
    w.database.stop()
    time.sleep(1)
    w.kill("daemon")
    w.lenient = True  # it finds no database and may end
    w.spawn()
    time.sleep(2)
    w.database.start()


def database_slow(w, rng):
    moment(rng)
    w.database.proxy.delay = rng.choice((0.02, 0.1, 0.5))
    time.sleep(4)
    w.database.proxy.delay = 0


def database_refuses(w, rng):
    """No new connection, and none of the old ones."""
    moment(rng)
    w.database.proxy.refuse = True
    w.database.proxy.drop()
    time.sleep(3)
    w.database.proxy.refuse = False


def database_silent(w, rng):
    """What is sent arrives late, or never when the connection ends."""
    moment(rng)
    w.database.proxy.silent = True
    time.sleep(rng.choice((1, 3)))
    if rng.random() < 0.5:
        w.database.proxy.drop()
    w.database.proxy.silent = False


def connections_dropped(w, rng):
    """Again and again, in the midst of statements: was it committed?"""
    moment(rng, 0.3)
    for _ in range(rng.randrange(3, 12)):
        w.database.proxy.drop()
        time.sleep(rng.uniform(0.05, 0.4))


def full(place, and_also=None):
    """No byte is left on the disk of that folder for three seconds."""

    def run(w, rng):
        folder = w.folder / place
        moment(rng)
        until = time.monotonic() + 3
        w.lenient = and_also == "daemon"
        with open(folder / "ballast", "ab", buffering=0) as f:
            for n, size in enumerate((1 << 20, 4096, 1)):
                try:
                    while True:
                        f.write(b"\0" * size)
                except OSError:
                    pass
            if and_also:
                time.sleep(0.5)
                w.kill(and_also)
                if and_also == "daemon":
                    w.spawn()
            while time.monotonic() < until:
                try:
                    f.write(b"\0" * 4096)  # what was freed meanwhile
                except OSError:
                    time.sleep(0.05)
        (folder / "ballast").unlink()
        w.note = f"{len(re.findall('No space left', w.daemon.log + (w.database or w).database_log()))} complaints"

    return run


def queued_at_start(w, rng):
    """Many runs wait in line when the daemon begins, and each of them is run once."""
    many, gate = 10000 if w.long else 400, w.folder / "gate"
    w.daemon.flow("many", f"id: many\ntasks:\n  - {{id: a, type: command, command: \"[ -e {gate} ] || until [ -e {gate} ]; do sleep 0.05; done\", retry: {RETRY}}}\n")
    keys = iter([f"q{time.monotonic_ns()}-{i}" for i in range(many)])
    host, headers = w.daemon.url.removeprefix("http://"), {"Authorization": f"Bearer {w.daemon.token}", "Content-Type": "application/json"}
    ids, trouble = {}, []

    def client():
        connection = http.client.HTTPConnection(host, timeout=30)
        try:
            for key in keys:
                connection.request("POST", "/api/v1/flows/many/runs", b"{}", {**headers, "Idempotency-Key": key})
                answer = connection.getresponse()
                ids[key] = json.loads(answer.read())["id"]
        except Exception as e:  # noqa: BLE001
            trouble.append(e)

    keys = Shared(keys)
    clients = [threading.Thread(target=client, daemon=True) for _ in range(8)]
    for t in clients:
        t.start()
    for t in clients:
        t.join()
    if trouble:
        raise trouble[0]
    w.mortal = True
    if rng.random() < 0.5:
        w.kill("nursery")
    w.kill("daemon")
    w.daemon.process.wait()
    began = time.monotonic()
    w.start()
    w.note = f"ready after {time.monotonic() - began:.1f} s"
    have = w.daemon.get("/api/v1/status")["runs"]
    if have["queued"] + have["running"] != many:
        raise Finding(f"{many} runs were taken, and there are {have}")
    gate.touch()
    w.runs.update((i, ("many", ("success",))) for i in ids.values())
    w.rest([], [], 60 + many / 20)
    gate.unlink()
    w.check(list(ids.values()))


class Shared:
    """An iterator for several threads."""

    def __init__(self, items):
        self.items, self.lock = items, threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            return next(self.items)


def send(pid, sig):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


# ---- the matrix: what, how often in one pass, and where ----

Kind = collections.namedtuple("Kind", "fault weight world", defaults=(1, World))
KINDS = {}
for name in ROLES:
    KINDS[f"kill -9 {name}"] = Kind(kill(name), 3)
KINDS["postgres: immediate shutdown"] = Kind(immediate, 2)
for a, b in (
    ("daemon", "nursery"), ("nursery", "daemon"), ("daemon", "postgres"), ("postgres", "daemon"), ("nursery", "postgres"), ("attempt", "daemon"),
    ("attempt", "nursery"), ("attempt", "postgres"), ("nursery", "nursery"), ("attempt", "attempt"), ("postgres", "postgres"),
):  # fmt: skip
    KINDS[f"kill -9 {a}, then {b}"] = Kind(kill(a, b))
KINDS["kill -9 daemon while it starts"] = Kind(while_it_starts, 2)
KINDS["orderly end of daemon"] = Kind(orderly())
KINDS["daemon leaves, another one takes over"] = Kind(orderly(sig=signal.SIGUSR2), 2)
for name in ("backend", "nursery", "postgres"):
    KINDS[f"kill -9 {name}, then orderly end of daemon"] = Kind(orderly(name))
for name, points in POINTS.items():
    for point in points:
        KINDS[f"{point}: kill -9"] = Kind(at_point(name, point))
for point, other in (("store.commit.sent", "postgres"), ("attempt.spawn.after", "nursery"), ("nursery.fork.after", "daemon"), ("write.commit.before", "daemon")):
    KINDS[f"{point}: kill -9, then {other}"] = Kind(at_point(next(r for r, points in POINTS.items() if point in points), point, other))
for what, steps in (("lake", LAKE_POINTS), ("maintain", MAINTAIN_POINTS)):
    for name, points in steps.items():
        for point in points:
            KINDS[f"{what}: {point}: kill -9"] = Kind(at_point(name, point))
            for victim in ("postgres", "daemon"):
                if victim != name:
                    KINDS[f"{what}: {point}: held, kill -9 {victim}"] = Kind(held(name, point, victim))
for name in ROLES:
    KINDS[f"stop {name}, go on later"] = Kind(stopped(name))
KINDS["database stopped"] = Kind(database_stopped, 1, OwnDatabase)
KINDS["database stopped, then daemon killed and started"] = Kind(database_stopped_and_daemon_killed, 1, OwnDatabase)
KINDS["database slow"] = Kind(database_slow, 2, OwnDatabase)
KINDS["database refuses connections"] = Kind(database_refuses, 1, OwnDatabase)
KINDS["database silent"] = Kind(database_silent, 2, OwnDatabase)
KINDS["database connections dropped"] = Kind(connections_dropped, 3, OwnDatabase)
KINDS["database out of disk"] = Kind(full("db"), 1, OwnDatabase)
KINDS["state folder full"] = Kind(full("home"), 1, SmallDisks)
KINDS["state folder full, then daemon killed and started"] = Kind(full("home", "daemon"), 1, SmallDisks)
KINDS["log folder full"] = Kind(full("home/runs"), 1, SmallDisks)
KINDS["log folder full, then nursery killed"] = Kind(full("home/runs", "nursery"), 1, SmallDisks)
KINDS["table folder full"] = Kind(full("home/warehouse"), 1, SmallDisks)
QUEUED = "10,000 queued runs at start (400 in the sample)"
KINDS[QUEUED] = Kind(queued_at_start)


# ---- rounds ----


def plan(seed, i):
    """Which fault round `i` is, and its source of chance: every kind once, in an order of the seed's, then again in another one."""
    names = [n for n, kind in KINDS.items() for _ in range(kind.weight)]
    random.Random(f"{seed}/{i // len(names)}").shuffle(names)
    return names[i % len(names)], random.Random(f"{seed}:{i}")


def flows_for(kind):
    if kind.startswith("lake:"):
        return ["lake", "lake", "half", "half"]
    if kind.startswith("maintain:"):
        return ["lake", "keep", "keep"]
    return FLOWS + (["timed"] if kind.startswith("stop") else [])


def play(world, kind, rng):
    fault = KINDS[kind].fault
    if kind == QUEUED:
        fault(world, rng)
    else:
        world.round(flows_for(kind), lambda: fault(world, rng), cancel_after=rng.uniform(0, 1))


class Matrix:
    def __init__(self, seed, long):
        self.seed, self.long = seed, long
        self.worlds, self.used = {}, collections.Counter()  # of each sort one, and the rounds that it has seen
        self.counts = collections.defaultdict(lambda: [0, 0])  # rounds, passed
        self.skipped = collections.Counter()
        self.failed = []

    def world(self, sort):
        if sort in self.worlds and self.used[sort] >= ROUNDS_A_WORLD:
            self.worlds[sort].end()
            self.forget(sort)
        if sort not in self.worlds:
            self.worlds[sort], self.used[sort] = sort(self.long), 0
            self.worlds[sort].open()
        self.used[sort] += 1
        return self.worlds[sort]

    def forget(self, sort):
        if world := self.worlds.pop(sort, None):
            world.close()

    def end(self):
        for sort in list(self.worlds):
            self.forget(sort)

    def one(self, i):
        kind, rng = plan(self.seed, i)
        sort, began, why, note = KINDS[kind].world, time.monotonic(), None, ""
        if needs_mount(kind) and not can_mount():
            self.skipped[kind] += 1
            return
        try:
            world = self.world(sort)
            world.reached, world.note = True, ""
            play(world, kind, rng)
            note = world.note or ("" if world.reached else "(the point was not passed often enough)")
            if kind == QUEUED:
                self.used[sort] = ROUNDS_A_WORLD
        except Finding as e:
            why = str(e)
        except Exception:  # noqa: BLE001
            why = traceback.format_exc()
        self.counts[kind][0] += 1
        self.counts[kind][1] += why is None
        print(f"{i:4} {'ok  ' if why is None else 'FAIL'} {time.monotonic() - began:5.1f} s  {kind} {note}", flush=True)
        if why:
            self.failed.append((i, kind, why))
            print(f"     {why}\n     again: SEED={self.seed} make faults ONLY={i}{' ARGS=--long' if self.long else ''}", flush=True)
            if keep := os.environ.get("KEEP"):  # a folder for what the daemon said
                (pathlib.Path(keep) / f"{self.seed}-{i}.log").write_text(self.worlds[sort].daemon.log if sort in self.worlds else "")
            self.forget(sort)


def needs_mount(kind):
    return KINDS[kind].world is SmallDisks or kind == "database out of disk"


def jobs(args, matrix):
    """Runs the rounds in several processes, since most of a round is waiting; adds up what they count."""
    with tempfile.TemporaryDirectory() as folder:
        counts = [pathlib.Path(folder) / str(k) for k in range(args.jobs)]
        parts = [subprocess.Popen([sys.executable, *sys.argv, "--seed", args.seed, "--part", str(k), "--counts", c]) for k, c in enumerate(counts)]
        try:
            for part in parts:
                part.wait()
        finally:
            for part in parts:
                part.terminate()
                part.wait()
        for c in counts:
            rounds, skipped = json.loads(c.read_text())
            for kind, (n, passed) in rounds.items():
                matrix.counts[kind][0] += n
                matrix.counts[kind][1] += passed
            matrix.skipped.update(skipped)


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
    parser.add_argument("--jobs", type=int, default=2, help="so many rounds at the same time")
    parser.add_argument("--part", type=int, help=argparse.SUPPRESS)  # this process is one of the jobs
    parser.add_argument("--counts", help=argparse.SUPPRESS)  # and writes its counts here
    parser.add_argument("--kind", help="only faults whose name holds this text")
    parser.add_argument("--write", action="store_true", help="put the counts into README.md")
    parser.add_argument("--long", action="store_true", help="30 s without a database, 10,000 queued runs")
    parser.add_argument("--sum", help='a file for "passed failed skipped"')
    args = parser.parse_args()
    if os.geteuid() == 0 and not os.environ.get("SLUICE_FAULTS_NAMESPACE") and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0:
        os.execvpe("unshare", ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv], {**os.environ, "SLUICE_FAULTS_NAMESPACE": "1"})
    if args.kind:
        for name in [n for n in KINDS if args.kind not in n]:
            del KINDS[name]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    matrix, began = Matrix(args.seed, args.long), time.monotonic()
    if args.part is not None or args.only is not None:
        rounds = [args.only] if args.only is not None else range(args.part, args.rounds, args.jobs)
        try:
            for i in rounds:
                if args.seconds and time.monotonic() - began > args.seconds:
                    break
                matrix.one(i)
        finally:
            matrix.end()
            if args.counts:
                pathlib.Path(args.counts).write_text(json.dumps([matrix.counts, matrix.skipped]))
        if args.counts:
            return 0
    else:
        print(f"faults: seed {args.seed}", flush=True)
        jobs(args, matrix)
    total, passed = (sum(c[k] for c in matrix.counts.values()) for k in (0, 1))
    print(f"faults: {passed} of {total} rounds passed in {time.monotonic() - began:.0f} s, seed {args.seed}")
    if matrix.skipped:
        print(f"faults: {sum(matrix.skipped.values())} rounds skipped, which need to mount small disks (root, and a mount namespace): {', '.join(matrix.skipped)}")
    if args.write and total >= WORTH_WRITING:
        write_readme(matrix, time.monotonic() - began)
    if args.sum:
        pathlib.Path(args.sum).write_text(f"{passed} {total - passed} {sum(matrix.skipped.values())}\n")
    return 0 if passed == total else 1


if __name__ == "__main__":
    sys.exit(main())
