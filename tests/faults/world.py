"""What a fault happens to: a daemon with its database, flows that keep a ledger, and everything that must hold afterwards."""

import functools
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import psycopg2

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "integration"))
from conftest import Daemon, alive, die_with_parent, new_folder  # noqa: E402
from database import Database  # noqa: E402
from lake_files import missing_and_spare, plain  # noqa: E402
from ports import free_port  # noqa: E402

ROWS = 40  # of one publish
DEADLINE = 90  # for a round to come to rest
SETTLE = 15  # for what ends a moment after the last run; a second nursery waits ten seconds for the first one to go

# A task that proves when it ran and that it ran alone: the lock is held by every process that it starts.
MARK = """\
#!/bin/sh
me="$SLUICE_RUN_ID $SLUICE_TASK_ID $SLUICE_ATTEMPT"
exec 9>>"{folder}/locks/$SLUICE_RUN_ID.$SLUICE_TASK_ID"
flock -n 9 || echo "twice $me" >>"{folder}/ledger"
echo "begin $me" >>"{folder}/ledger"
[ "$1" = hang ] && [ "$SLUICE_ATTEMPT" = 1 ] && sleep 1000
sleep "$2"
echo "end $me" >>"{folder}/ledger"
"""
PAUSES = {"lake": 1.2, "half": 1.2, "keep": 1.0}  # of a client between two runs
RETRY = "{max_attempts: 1000, interval: 100ms}"


def command(folder, task, seconds, after=(), mode="run", keys=""):
    return (
        f"  - {{id: {task}, type: command, depends_on: [{', '.join(after)}], command: [{folder}/mark, {mode}, '{seconds}'], "
        f"retry: {RETRY}{keys}}}\n"
    )


def python(folder, task, seconds, after=()):
    """The same from an interpreter."""
    return (
        f"  - {{id: {task}, type: python, depends_on: [{', '.join(after)}], args: {{mark: {folder}/mark}}, retry: {RETRY}, "
        f"code: \"import subprocess\\ndef main(mark):\\n    subprocess.run([mark, 'run', '{seconds}'], check=True)\"}}\n"
    )


def flows_of(folder):
    many = "concurrency: {max_active_runs: 100}\ntasks:\n"
    chain = "id: chain\n" + many + "".join((command, python)[i % 2](folder, f"c{i}", (0, 0.05, 0.3)[i % 3], [f"c{i - 1}"] if i else []) for i in range(6))
    fan = "id: fan\n" + many + command(folder, "top", 0)
    fan += "".join(command(folder, f"b{i}", 0.04 * i, ["top"]) for i in range(8)) + command(folder, "end", 0, [f"b{i}" for i in range(8)])
    lake = f"""\
id: lake
concurrency: {{max_active_runs: 2}}
defaults: {{retry: {RETRY}}}
tasks:
  - id: stage
    type: stage
    source: {{format: csv, path: {folder}/in.csv}}
    select: [id, name, "'${{run.id}}' AS run"]
    target: {{path: "{folder}/stage/${{run.id}}.parquet"}}
  - {{id: add, type: publish, depends_on: [stage], from: "${{tasks.stage.outputs.path}}", into: w.added, mode: append}}
  - {{id: renew, type: publish, depends_on: [stage], from: "${{tasks.stage.outputs.path}}", into: w.latest, mode: replace}}
  - {{id: look, type: validate, depends_on: [renew], table: w.latest, checks: [{{row_count: {{min: {ROWS}, max: {ROWS}}}}}, {{unique: [id]}}]}}
"""
    # Appends, and fails: nobody may ever see a row of it.
    half = f"""\
id: half
concurrency: {{max_active_runs: 2}}
tasks:
  - {{id: add, type: curate, into: w.added, mode: append, retry: {RETRY}, sql: "SELECT '1' AS id, 'half' AS name, '${{run.id}}' AS run"}}
  - {{id: fails, type: command, depends_on: [add], command: [/bin/false]}}
"""
    # Compacts, lets every snapshot go that it may, and removes what nobody needs, while the others write.
    keep = f"""\
id: keep
concurrency: {{max_active_runs: 1}}
tasks:
  - id: keep
    type: maintain
    tables: ["w.*", "*.added"]
    compact: {{min_input_files: 2}}
    rewrite_manifests: always
    expire_snapshots: {{older_than: 0s}}
    remove_orphan_files: {{older_than: 0s}}
    wait_for_writers: 2s
    retry: {RETRY}
"""
    timed = "id: timed\n" + many + command(folder, "hang", 0.1, mode="hang", keys=", timeout: 1s, stop_grace: 300ms")
    timed += command(folder, "quick", 0.3, keys=", timeout: 1s, stop_grace: 300ms")
    long = "id: long\n" + many + command(folder, "l0", 0.2) + command(folder, "l1", 30, ["l0"], keys=", stop_grace: 300ms") + command(folder, "l2", 0, ["l1"])
    return {"chain": chain, "fan": fan, "lake": lake, "half": half, "keep": keep, "timed": timed, "long": long}


DEPENDS = {"chain": {f"c{i}": [f"c{i - 1}"] for i in range(1, 6)}, "fan": {**{f"b{i}": ["top"] for i in range(8)}, "end": [f"b{i}" for i in range(8)]}}


class Finding(Exception):
    """Something that must hold does not."""


def stat_of(pid):
    """State, parent and process group; None when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return fields[0], int(fields[1]), int(fields[2])


def pids():
    return [int(p) for p in os.listdir("/proc") if p.isdigit()]


def comm_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return None


def below(root):
    """The living descendants of a process."""
    parents = {p: s[1] for p in pids() if (s := stat_of(p)) and s[0] != "Z"}
    found, grown = {root}, True
    while grown:
        more = {p for p, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found - {root}


def words(pid):
    """Everything that could name a folder: command line, environment, working folder."""
    out = b""
    for name in ("cmdline", "environ"):
        try:
            out += pathlib.Path(f"/proc/{pid}/{name}").read_bytes() + b"\0"
        except OSError:
            pass
    try:
        out += os.readlink(f"/proc/{pid}/cwd").encode()
    except OSError:
        pass
    return out


class World:
    """A daemon with a private PostgreSQL, all on one disk."""

    def __init__(self, long=False):
        self.folder = new_folder()
        self.long = long
        for name in ("flows", "locks", "stage"):
            (self.folder / name).mkdir(exist_ok=True)
        self.fault = self.folder / "fault"
        self.fault.touch()
        self.ledger = self.folder / "ledger"
        self.ledger.touch()
        mark = self.folder / "mark"
        mark.write_text(MARK.replace("{folder}", str(self.folder)))
        mark.chmod(0o755)
        (self.folder / "in.csv").write_text("id,name\n" + "".join(f"{i},name {i * 7}\n" for i in range(1, ROWS + 1)))
        (self.folder / "flows" / "sluice.yaml").write_text("catalog: {cleanup_after: 200ms}\n")
        for name, text in flows_of(self.folder).items():
            (self.folder / "flows" / f"{name}.yaml").write_text(text)
        self.home = self.folder / "home"
        self.mounts, self.database = [], None
        # One address for life, so that attempts find the daemon that adopts them.
        args = ["--listen", f"127.0.0.1:{free_port()}", *self.prepare()]
        self.daemon = Daemon(self.home, self.folder / "flows", env={"SLUICE_FAULT": self.fault}, args=args)
        self.mortal = False  # the daemon may be killed in this round
        self.lenient = False  # it may even end by itself: it was started while something was withheld from it
        self.reached = True  # the point that was armed was passed
        self.runs = {}  # id: (flow, wanted states)
        self.baseline = None

    def prepare(self):
        """What must be there before the daemon; returns further arguments of it."""
        return []

    # ---- life ----

    def mount(self, path, megabytes):
        """A small disk, in the mount namespace of this test alone."""
        path.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "none", path], check=True)
        self.mounts.insert(0, path)

    def open(self):
        self.start()
        self.round(["chain", "fan", "lake"], lambda: None)
        while self.baseline != (have := self.descriptors()):  # a spare that was just taken is counted once too often
            self.baseline = have
            time.sleep(0.2)
        self.reference = self.digest()[0][1:]
        return self

    def end(self):
        """An orderly end, which leaves nothing behind."""
        status = self.daemon.stop()
        if status != 0:
            raise Finding(f"the daemon ended with status {status} when it was asked to")
        until = time.monotonic() + SETTLE
        while strays := [p for p in self.ours() if not self.database or p not in below(self.postmaster()) | {self.postmaster()}]:
            if time.monotonic() > until:
                raise Finding("the daemon has ended, but not all of it: " + ", ".join(f"{p} {words(p)[:200]!r}" for p in strays))
            time.sleep(0.05)

    def close(self):
        """Ends every process of this world, and only those: each names its folder."""
        if self.daemon.process and self.daemon.process.poll() is None:
            self.daemon.kill()
        for _ in range(100):
            if not (left := self.ours()):
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)
        if self.database:
            self.database.close()
        for path in self.mounts:
            subprocess.run(["umount", "-l", path], check=False)
        link = self.daemon.home / "pg"
        if link.is_symlink():  # as root, where the cluster's user cannot reach the home
            shutil.rmtree(link.resolve().parent, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self):
        """As a service manager would: again and again until it stays."""
        until = time.monotonic() + DEADLINE
        while True:
            try:
                self.daemon.start()
                return
            except AssertionError as e:
                died = self.daemon.process.poll()
                if died is None:
                    raise Finding(f"the daemon does not become ready: {str(e)[-3000:]}") from None
                if not (self.mortal and died == -signal.SIGKILL) and not self.lenient or time.monotonic() > until:
                    raise Finding(f"the daemon does not start: {str(e)[-3000:]}") from None
                time.sleep(0.1)

    def spawn(self):
        """Starts the daemon without waiting for it."""
        d = self.daemon
        (d.home / "url").unlink(missing_ok=True)
        with open(d.log_path, "ab") as log:
            d.process = subprocess.Popen(d.command(), env=d.env, cwd=d.flows, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent)

    def tend(self):
        """Starts what was killed again; that the daemon ended by itself is a finding."""
        if self.database:
            self.database.tend()
        status = self.daemon.process.poll()
        if status is None:
            return
        if status == -signal.SIGKILL and not self.mortal:
            raise Finding("the daemon was killed by something else than this test")
        if status != -signal.SIGKILL and not self.lenient:
            raise Finding(f"the daemon ended by itself with status {status}:\n{self.daemon.log[-3000:]}")
        self.start()

    def database_log(self):
        path = self.home / "pg.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # ---- processes ----

    def nursery(self):
        return int((self.daemon.home / "nursery.pid").read_text())

    def postmaster(self):
        return self.database.pid() if self.database else int((self.daemon.home / "pg" / "postmaster.pid").read_text().split()[0])

    def pid(self, name):
        """The process of that role now, or None."""
        try:
            if name == "daemon":
                return self.daemon.process.pid
            if name == "nursery":
                return self.nursery()
            if name == "postgres":
                return self.postmaster()
            if name == "backend":
                return next((p for p in below(self.postmaster()) if b"sluice postgres" in words(p)), None)
            if name == "attempt":
                found = [p for p in below(self.nursery()) if stat_of(p) and stat_of(p)[1] == self.nursery()]
                return found[len(found) // 2] if found else None
        except (OSError, ValueError, IndexError):
            return None

    def kill(self, name, sig=signal.SIGKILL):
        until = time.monotonic() + 2
        while (pid := self.pid(name)) is None or not alive(pid):
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        if name == "daemon":
            self.mortal = True
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return False
        return True

    def ours(self):
        """Every process that names our folder, but those of the test itself."""
        mark = str(self.folder).encode() + b"/"
        return [p for p in pids() if p != os.getpid() and (s := stat_of(p)) and s[0] != "Z" and mark in words(p)]

    def strays(self):
        known = {self.daemon.process.pid, self.nursery()}
        database = below(self.postmaster()) | {self.postmaster()}
        spares = self.spares()
        children = [p for p in below(self.nursery()) if p not in known and p not in spares]
        return [p for p in self.ours() if p not in known and p not in database and p not in spares] + children

    def spares(self):
        """Children that wait for a task, and what forks them in Python: the nursery holds one descriptor for each."""
        return {p for p in below(self.nursery()) if comm_of(p) in ("sluice-spare", "sluice-python")}

    def descriptors(self):
        """Of the daemon and of the nursery."""
        daemon, nursery = (len(os.listdir(f"/proc/{p}/fd")) for p in (self.daemon.process.pid, self.nursery()))
        return daemon, nursery - len(self.spares())

    # ---- runs ----

    def ask(self, method, path, body=None, headers=None):
        """One request; None when there is nobody to answer, or not now."""
        try:
            answer = self.daemon.request(method, path, body, headers=headers, timeout=10)
        except OSError:
            return None
        if answer.status == 503:
            return None
        if answer.status >= 500:
            raise Finding(f"{method} {path}: {answer}")
        return answer

    def trigger(self, flow, key):
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            answer = self.ask("POST", f"/api/v1/flows/{flow}/runs", {}, {"Idempotency-Key": key})
            if answer and answer.status in (200, 201):
                return answer.json["id"]
            if answer:
                raise Finding(f"trigger of {flow}: {answer}")
            time.sleep(0.05)
        raise Finding(f"no trigger of {flow} was taken in {DEADLINE} s")

    def cancel(self, run):
        """Until it is taken or comes too late; returns the states in which the run may end."""
        until, asked = time.monotonic() + DEADLINE, 0
        while time.monotonic() < until:
            asked += 1
            if answer := self.ask("POST", f"/api/v1/runs/{run}/cancel", {}):
                if answer.status == 202:
                    return ("cancelled",)
                if any(f": {state}" in answer.text for state in ("queued", "running")):
                    raise Finding(f"cancel of {run}: {answer.text}")
                return ("success",) if asked == 1 else ("success", "cancelled")  # an earlier one may have been taken without an answer
            time.sleep(0.05)
        raise Finding(f"no cancel was taken in {DEADLINE} s")

    def round(self, flows, fault, cancel_after=None):
        """Several clients trigger flows again and again while the fault happens; then waits for rest and checks everything."""
        stamp = f"{time.monotonic_ns()}"
        self.mortal = self.lenient = False
        ids, trouble, over = {}, [], threading.Event()

        def client(i, flow):
            try:
                over.wait(0.06 * i)
                for n in range(1000):
                    key = f"{stamp}-{i}-{n}"
                    ids[key] = run = self.trigger(flow, key)
                    self.runs[run] = (flow, ("failed",) if flow == "half" else ("success",))
                    if flow == "long":
                        time.sleep(cancel_after or 0.5)
                        self.runs[run] = (flow, self.cancel(run))
                    if flow in ("long", "timed") or over.wait(PAUSES.get(flow, 0.4)):
                        return
            except Exception as e:  # noqa: BLE001
                trouble.append(e)

        threads = [threading.Thread(target=client, args=(i, f), daemon=True) for i, f in enumerate(flows)]
        watcher = threading.Thread(target=self.watch, args=(over, trouble), daemon=True)
        watcher.start()
        for t in threads:
            t.start()
        try:
            fault()
        finally:
            over.set()
        watcher.join()
        self.rest(threads, trouble)
        if half := self.check_whole():
            raise Finding(f"half visible: {half}")
        with self.connect() as db, db.cursor() as cursor:
            cursor.execute("SELECT idempotency_key, count(*), min(id) FROM sluice.runs WHERE idempotency_key LIKE %s GROUP BY 1", (stamp + "-%",))
            found = {k: (n, i) for k, n, i in cursor.fetchall()}
        if found != {k: (1, i) for k, i in ids.items()}:
            raise Finding(f"triggered {ids}, but the database has {found}")
        self.check(list(ids.values()))

    def watch(self, over, trouble):
        """As somebody who reads all the time. Never waits for the database: the daemon may be dead that would start it, and who starts the daemon waits for this."""
        while not over.wait(0.1):
            try:
                half = self.check_whole(wait=0)
            except Finding:  # no database
                continue
            if half:
                trouble.append(Finding(f"half visible: {half}"))
                return

    def rest(self, threads, trouble, seconds=DEADLINE):
        """Waits until every client has its answer and nothing is queued or running."""
        until, slow = time.monotonic() + seconds, None
        while True:
            self.tend()
            if trouble:
                raise trouble[0]
            status = None if any(t.is_alive() for t in threads) else self.ask("GET", "/api/v1/status")
            if status and status.status == 200:
                s = status.json
                if s["database"]["connected"] and s["runs"] == {"queued": 0, "running": 0} and s["slots"]["used"] == 0 and not self.open_rows():
                    return  # and what the daemon counts is committed
            if not slow and time.monotonic() > until - seconds + 15:
                slow = self.note = f"slow to come to rest: {[t.name for t in threads if t.is_alive()]} {status and status.text} {self.open_rows()}"
            if time.monotonic() > until:
                waiting = [t for t in threads if t.is_alive()]
                raise Finding(f"no rest in {seconds:.0f} s: {len(waiting)} clients wait, status {status}\n{self.open_rows()}")
            time.sleep(0.03)

    # ---- what must hold ----

    def connect(self, wait=DEADLINE):
        """A fault late in a round may still be at work in the database; `wait` is in seconds."""
        until = time.monotonic() + wait
        while True:
            try:
                if self.database:
                    return psycopg2.connect(self.database.dsn)
                sock = self.daemon.home / "pg.run"
                port = int(next(sock.glob(".s.PGSQL.*[0-9]")).name.rsplit(".", 1)[1])
                return psycopg2.connect(host=str(sock), port=port, user="sluice", dbname="postgres", connect_timeout=10)
            except (psycopg2.OperationalError, StopIteration) as e:
                if time.monotonic() > until:
                    raise Finding(f"the database did not come back in {wait} s: {e}") from None
                time.sleep(0.05)

    def open_rows(self):
        """Empty when nothing is open; why that cannot be known while there is no database."""
        try:
            with self.connect(wait=0) as db, db.cursor() as cursor:
                cursor.execute(
                    "SELECT r.id, r.state, t.id, t.state, a.n, a.state, a.pid FROM sluice.runs r JOIN sluice.tasks t ON t.run_id = r.id LEFT JOIN "
                    "sluice.attempts a ON a.run_id = t.run_id AND a.task_id = t.id WHERE r.state IN ('queued', 'running', 'publishing') LIMIT 20"
                )
                return "\n".join(map(str, cursor.fetchall()))
        except (psycopg2.Error, Finding) as e:
            return str(e)

    def check(self, ids):
        self.check_rows(ids)
        self.check_ledger(ids)
        self.check_tables()
        self.check_files()
        self.check_leftovers()
        if re.search(r"Sanitizer|runtime error:|assertion failed|BUG", self.daemon.log):
            raise Finding("the daemon's log tells of a bug:\n" + self.daemon.log[-3000:])

    def check_rows(self, ids):
        with self.connect() as db, db.cursor() as cursor:
            cursor.execute("SELECT id, state, error FROM sluice.runs WHERE id = ANY(%s)", (ids,))
            states = {r: (s, e) for r, s, e in cursor.fetchall()}
            for run in ids:
                if run not in states:
                    raise Finding(f"run {run} was answered, but is lost")
                flow, wanted = self.runs[run]
                if states[run][0] not in wanted:
                    raise Finding(f"run {run} of {flow} is {states[run]}, not {wanted}")
            cursor.execute("SELECT count(*) FROM sluice.runs WHERE NOT id = ANY(%s)", (list(self.runs),))
            if n := cursor.fetchone()[0]:
                raise Finding(f"{n} runs that nobody asked for")
            for table, open_states in (("tasks", "waiting ready running retry_wait"), ("attempts", "running stopping")):
                cursor.execute(f"SELECT run_id, * FROM sluice.{table} WHERE state = ANY(%s)", (open_states.split(),))
                if rows := cursor.fetchall():
                    raise Finding(f"{table} that are still open: {rows}")
            cursor.execute(
                "SELECT run_id, task_id, array_agg(n ORDER BY n), array_agg(state ORDER BY n), array_agg(wall_us ORDER BY n) "
                "FROM sluice.attempts WHERE run_id = ANY(%s) GROUP BY 1, 2",
                (ids,),
            )
            self.attempts = {(r, t): dict(zip(n, s)) for r, t, n, s, _ in cursor.fetchall()}
            cursor.execute("SELECT run_id FROM sluice.attempts WHERE cause = 'conflict'")
            conflicts = {r for (r,) in cursor.fetchall()}
        for (run, task), states in self.attempts.items():
            if list(states) != list(range(1, len(states) + 1)):
                raise Finding(f"attempts of {run}/{task} are not numbered in a row: {states}")
            # A run whose table was changed by another one does that part again, and what depends on it.
            if run not in conflicts and "success" in list(states.values())[:-1]:
                raise Finding(f"{run}/{task} was tried again after its success: {states}")

    def check_ledger(self, ids):
        begun, ended = {}, {}
        for place, line in enumerate(self.ledger.read_text().splitlines()):
            what, run, task, n = line.split()
            if run not in ids:
                continue
            flow, key = self.runs[run][0], (run, task, int(n))
            if what == "twice":
                raise Finding(f"{run}/{task}: attempt {n} began while another one ran")
            if what == "end":
                ended.setdefault((run, task), {})[int(n)] = place
                continue
            if key in begun:
                raise Finding(f"attempt {run}/{task}/{n} was started twice")
            begun[key] = place
            if int(n) not in self.attempts.get((run, task), {}):
                raise Finding(f"attempt {run}/{task}/{n} ran, but the database does not know it")
            for before in DEPENDS.get(flow, {}).get(task, ()):
                if (run, before) not in ended:
                    raise Finding(f"{run}/{task} began before {before} had ended")
        for (run, task), states in self.attempts.items():
            if self.runs[run][0] in ("lake", "half", "keep", "many"):
                continue
            for n, state in states.items():
                if state == "success" and ((run, task, n) not in begun or n not in ended.get((run, task), {})):
                    raise Finding(f"attempt {run}/{task}/{n} is a success, but did not run to its end")

    def digest(self):
        """Of every run's rows in the table that is only added to: how many, of which values."""
        query = "SELECT run, count(*) AS n, count(DISTINCT id) AS ids, sum(id::BIGINT)::BIGINT AS total, bit_xor(hash(id, name))::VARCHAR AS mix FROM w.%s GROUP BY run ORDER BY run"
        out = []
        for table in ("added", "latest"):
            until = time.monotonic() + 20
            while True:
                done = self.daemon.cli("sql", query % table, "--json", check=False)
                if done.returncode == 0:
                    break
                if time.monotonic() > until:
                    raise Finding(f"table w.{table} cannot be read: {done.stdout}{done.stderr}")
                time.sleep(0.1)
            out.append([tuple(r.values()) for r in json.loads(done.stdout)])
        added, latest = out
        if len(latest) != 1 or latest[0][1:] != added[0][1:]:
            raise Finding(f"table w.latest is not one publish: {latest}")
        return added

    def check_tables(self):
        added = self.digest()
        lakes = sorted(r for r, (flow, _) in self.runs.items() if flow == "lake")
        if [r[0] for r in added] != lakes:
            raise Finding(f"table w.added has rows of runs {sorted(r[0] for r in added)}, but these succeeded: {lakes}")
        wanted = added[0][1:] if self.baseline is None else self.reference
        for row in added:
            if row[1] != ROWS or row[1:] != wanted:
                raise Finding(f"table w.added has {row[1:]} of run {row[0]}, and {wanted} in an undisturbed run")

    def check_files(self):
        """Every file that a table needs is there, and no other one: what failed attempts left is gone after its time."""
        until = time.monotonic() + DEADLINE

        def rows():
            with self.connect() as db, db.cursor() as cursor:
                cursor.execute("SELECT * FROM sluice.cleanup")
                return cursor.fetchall()

        while left := rows():
            if time.monotonic() > until:
                raise Finding(f"what attempts left is not removed: {left}")
            self.tend()
            time.sleep(0.05)
        missing, spare = missing_and_spare(self.daemon)
        spare -= self.once_current()
        if missing or spare:
            raise Finding(f"files that a table needs and are not there: {sorted(missing)}\nfiles that no table needs: {[(f, self.who_wrote(f)) for f in sorted(spare)]}")

    def once_current(self):
        """Metadata files that were a table's: its log holds the last hundred, and older ones wait for the next maintenance."""
        with self.connect() as db, db.cursor() as cursor:
            cursor.execute("SELECT metadata_after FROM sluice.commits WHERE state = 'visible'")
            return {str(pathlib.Path(plain(row[0])).resolve()) for row in cursor.fetchall() if row[0]}

    def who_wrote(self, file):
        """The attempts whose name is on the file."""
        with self.connect() as db, db.cursor() as cursor:
            cursor.execute("SELECT run_id || '/' || task_id || '/' || n, state, started_at::text, ended_at::text, report::text FROM sluice.attempts")
            marks = ((row, hashlib.sha256(row[0].encode()).hexdigest()) for row in cursor.fetchall())
            return [row for row, mark in marks if f"{mark[:8]}-{mark[8:12]}" in file or row[0].replace("/", "-") in file]

    def check_whole(self, wait=DEADLINE):
        """Of no run that is under way, or failed, is anything visible, and of one that succeeded nothing is not."""
        try:
            with self.connect(wait) as db, db.cursor() as cursor:
                cursor.execute(
                    "SELECT r.id, r.state, array_agg(c.name || ' ' || c.state) FROM sluice.runs r JOIN sluice.commits c ON c.run_id = r.id WHERE c.state <> 'abandoned' AND c.task_id <> 'keep' "
                    "GROUP BY r.id, r.state HAVING bool_or((c.state = 'visible') <> (r.state = 'success'))"
                    " UNION ALL SELECT t.table_name, t.metadata_location, NULL FROM iceberg_tables t JOIN sluice.commits c ON c.metadata_after = t.metadata_location "
                    "WHERE c.state <> 'visible'"
                )
                return cursor.fetchall()
        except psycopg2.Error:
            return None

    def check_leftovers(self):
        if self.baseline is None:
            return
        until = time.monotonic() + SETTLE

        def left():
            if scratch := list(self.daemon.home.glob("scratch/*")):
                return f"scratch folders are left: {scratch[:3]}"
            if strays := self.strays():
                return "processes are left: " + ", ".join(f"{p} {words(p)[:200]!r} {stat_of(p)}" for p in strays[:4])
            have = self.descriptors()
            if any(h > b for h, b in zip(have, self.baseline)):
                return f"descriptors of (daemon, nursery): {have}, before {self.baseline}"
            return None

        while what := left():
            if time.monotonic() > until:
                raise Finding(what)
            time.sleep(0.05)


class OwnDatabase(World):
    """A daemon with a PostgreSQL that somebody else looks after, reached through a proxy; on a disk of its own where that can be had."""

    def prepare(self):
        if can_mount():
            self.mount(self.folder / "db", 160)
        self.database = Database(self.folder)
        self.database.start()
        with self.connect():
            pass
        return ["--database", self.database.proxied]


class SmallDisks(World):
    """The state folder on a small disk, attempts' folders and tables on others."""

    def prepare(self):
        self.mount(self.home, 320)
        self.mount(self.home / "runs", 24)
        self.mount(self.home / "warehouse", 24)
        return []


@functools.cache
def can_mount():
    """In a mount namespace of our own, as root."""
    if not os.environ.get("SLUICE_FAULTS_NAMESPACE"):
        return False
    with tempfile.TemporaryDirectory() as path:
        if subprocess.run(["mount", "-t", "tmpfs", "none", path], capture_output=True).returncode != 0:
            return False
        subprocess.run(["umount", path], check=True)
    return True
