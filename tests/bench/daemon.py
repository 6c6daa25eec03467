"""A real daemon on a temporary state folder, and what the kernel tells about its processes."""
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.parse


class Failed(Exception):
    pass


def failures(run):
    """Why: a line for each attempt that did not end well."""
    return "\n".join(f"  {task['id']} attempt {a['n']}: {a['state']} ({a['cause']}): {(a['error'] or {}).get('message')}"
                     for task in run.get("tasks", []) for a in task["attempts"] if a["state"] != "success")


class UnixConnection(http.client.HTTPConnection):
    """The API over HOME/api.sock, which needs no token."""

    def __init__(self, path):
        super().__init__("localhost", timeout=120)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def parents():
    """Every process of the machine: {pid: parent}."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                stat = read(f"/proc/{name}/stat")
            except OSError:
                continue
            found[int(name)] = int(stat.rpartition(")")[2].split()[1])
    return found


def command(pid):
    try:
        return read(f"/proc/{pid}/comm").strip()
    except OSError:
        return ""


def pss_kb(pid):
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise Failed(f"no Pss in /proc/{pid}/smaps_rollup")


def cpu_seconds(pid, with_ended_children=False):
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return sum(int(n) for n in fields[11:15 if with_ended_children else 13]) / os.sysconf("SC_CLK_TCK")


class Daemon:
    """`sluice serve` from its start to its end, everything it made removed."""

    def __init__(self, binary, folder, config=None):
        self.binary = binary
        self.home = os.path.join(folder, "home")
        self.log = os.path.join(folder, "serve.log")
        self.flows = os.path.join(folder, "flows")
        argv = [binary, "serve", "--home", self.home, "--flows", self.flows, "--listen", "127.0.0.1:0"]
        if config:
            argv += ["--config", config]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "PG")) or k == "SLUICE_PG_BIN"}
        started = time.perf_counter()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, cwd=folder)
        try:
            self.wait_ready(120)
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.perf_counter() - started

    def wait_ready(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise Failed(f"the daemon ended with status {self.process.returncode}:\n{read(self.log)}")
            if os.path.exists(os.path.join(self.home, "url")):
                try:
                    if self.request("GET", "/readyz")[0] == 200:
                        return
                except OSError:
                    pass
            time.sleep(0.01)
        raise Failed(f"the daemon was not ready in {seconds} s:\n{read(self.log)}")

    def request(self, method, path, body=None):
        connection = UnixConnection(os.path.join(self.home, "api.sock"))
        try:
            headers = {"Content-Type": "application/json"} if body is not None else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def run(self, flow):
        """Triggers a flow and waits; (the run, seconds from the request to the answer that it ended)."""
        started = time.perf_counter()
        status, text = self.request("POST", f"/api/v1/flows/{flow}/runs?wait=60s", {})
        if status not in (200, 201, 202):
            raise Failed(f"trigger of {flow}: HTTP {status}: {text}")
        run = json.loads(text)
        while run["ended_at"] is None:
            time.sleep(0.05)
            run = json.loads(self.request("GET", f"/api/v1/runs/{run['id']}")[1])
        seconds = time.perf_counter() - started
        if run["state"] != "success":
            raise Failed(f"{flow}: run {run['id']} is {run['state']}: {run.get('error')}\n{failures(run)}")
        return run, seconds

    def pid_of(self, *names):
        try:
            return int(read(os.path.join(self.home, *names)).split()[0])
        except (OSError, IndexError, ValueError):
            return None

    def roots(self):
        found = {"daemon": self.process.pid, "nursery": self.pid_of("nursery.pid"), "PostgreSQL": self.pid_of("pg", "postmaster.pid")}
        return {name: pid for name, pid in found.items() if pid}

    def processes(self):
        """{name: [pids]}: each root with its descendants; the nursery and PostgreSQL may be children of the daemon."""
        roots, parent = self.roots(), parents()
        owner = {pid: name for name, pid in roots.items()}
        found = {name: [] for name in roots}
        for pid in parent:
            at = pid
            while at and at not in owner:
                at = parent.get(at, 0)
            if at:
                found[owner[at]].append(pid)
        return found

    def dsn(self):
        return f"host={self.home}/pg.run user=sluice dbname=postgres connect_timeout=10"

    def address(self):
        """(host, port) of the API."""
        at = urllib.parse.urlsplit(read(os.path.join(self.home, "url")).strip())
        return at.hostname, str(at.port)

    def cpu(self):
        """Seconds of processor time so far: {name: seconds}; "tasks" are those of the nursery's children that have ended."""
        groups = self.processes()
        nursery = self.roots()["nursery"]
        taken = {"daemon": cpu_seconds(self.process.pid), "nursery": cpu_seconds(nursery)}
        taken["PostgreSQL"] = sum(cpu_seconds(pid) for pid in groups.get("PostgreSQL", []) if os.path.exists(f"/proc/{pid}"))
        taken["tasks"] = cpu_seconds(nursery, True) - taken["nursery"]
        return taken

    def stop(self):
        leftovers = self.roots()
        elsewhere = os.path.realpath(os.path.join(self.home, "pg"))
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        leftovers.pop("daemon", None)
        for name, pid in leftovers.items():
            self.end_leftover(name, pid)
        # Where the server's user cannot reach the state folder, the cluster lies outside it.
        if os.path.exists(elsewhere) and not elsewhere.startswith(os.path.realpath(self.home) + os.sep):
            shutil.rmtree(os.path.dirname(elsewhere), ignore_errors=True)

    @staticmethod
    def end_leftover(name, pid):
        """A daemon that ended in order leaves nothing; one that was killed leaves its nursery and its PostgreSQL."""
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for _ in range(100):
                try:
                    os.kill(pid, 0)
                except OSError:
                    return
                time.sleep(0.05)
            print(f"bench: {name} (process {pid}) still runs; sending {sig.name}", file=sys.stderr)
            os.kill(pid, sig)
