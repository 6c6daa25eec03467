"""Publishing to an S3 store against DuckDB's own COPY of the same rows to the same server."""
import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time

from daemon import Daemon, Failed, read, write
from measure_tasks import in_run
from programs import number_of
from results import ROOT

sys.path.append(os.path.join(ROOT, "tests", "integration"))
from ports import free_ports  # noqa: E402

KEY, SECRET, BUCKET = "sluice-bench", "sluice-bench-secret", "bench"
PORTS = ("s3.port", "s3.port.grpc", "s3.port.iceberg", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port",
         "filer.port.grpc")


def weed(binary):
    """SLUICE_WEED, what tools/stores installed beside the binary, or what is on PATH."""
    ours = os.path.join(os.path.dirname(binary), "stores", "bin", "weed")
    return os.environ.get("SLUICE_WEED") or (ours if os.path.exists(ours) else shutil.which("weed"))


@contextlib.contextmanager
def store(program, folder):
    """SeaweedFS with one bucket; gives its address."""
    os.makedirs(folder)
    who = {"name": "bench", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin", "Read", "Write", "List"]}
    write(os.path.join(folder, "s3.json"), json.dumps({"identities": [who]}))
    ports = free_ports(len(PORTS))
    argv = [program, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-webdav=false", "-admin.ui=false",
            "-s3.port.lance=0", f"-s3.config={folder}/s3.json", f"-bucket={BUCKET}", *(f"-{n}={p}" for n, p in zip(PORTS, ports))]
    with open(os.path.join(folder, "log"), "wb") as log:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder)
    try:
        until = time.monotonic() + 60
        while not answers(ports[0]):
            if process.poll() is not None or time.monotonic() > until:
                raise Failed(f"SeaweedFS does not start:\n{read(os.path.join(folder, 'log'))[-3000:]}")
            time.sleep(0.05)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        process.kill()
        process.wait()


def answers(port):
    """Anything but a failure of its own: without keys nobody may look into the bucket."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("HEAD", f"/{BUCKET}")
        return connection.getresponse().status < 500
    except OSError:
        return False
    finally:
        connection.close()


def rows_sql(rows, path):
    return (f"COPY (SELECT i AS id, 'employee ' || (i * 7919 % {rows}) AS name, 'department ' || (i % 97) AS department, "
            "(hash(i) % 5000000)::BIGINT AS salary, (hash(i + 1) / 1e17)::DOUBLE AS factor, "
            f"DATE '2005-01-01' + (i % 7000)::INTEGER AS hired_on FROM range({rows}) t(i)) TO '{path}' (FORMAT parquet, COMPRESSION zstd);\n")


def copy_sql(libdir, endpoint, source, options):
    return (f"LOAD '{libdir}/httpfs.duckdb_extension';\n"
            f"CREATE SECRET s (TYPE s3, KEY_ID '{KEY}', SECRET '{SECRET}', REGION 'us-east-1', ENDPOINT '{endpoint}', URL_STYLE 'path', "
            f"USE_SSL false);\nCOPY (SELECT * FROM read_parquet('{source}')) TO 's3://{BUCKET}/{options};\n")


def begin(folder, binary, endpoint, source):
    """A daemon whose warehouse is on the store."""
    config, flows = os.path.join(folder, "sluice.yaml"), os.path.join(folder, "flows")
    os.makedirs(flows)
    write(config, f"catalog: {{warehouse: 's3://{BUCKET}/warehouse'}}\ns3: {{endpoint: 'http://{endpoint}', path_style: true, "
                  f"access_key: {KEY}, secret_key: {SECRET}}}\n")
    write(os.path.join(flows, "ship.yaml"), f"id: ship\ntasks:\n  - {{id: p, type: publish, from: '{source}', into: local.bench.rows, mode: overwrite}}\n")
    return Daemon(binary, folder, config)


def measure_s3(binary, program, folder, rows, rounds, results):
    server = weed(binary)
    if server is None:
        print("s3: SeaweedFS is not there, so it is left out: run tools/stores build")
        return
    base = os.path.join(folder, "s3")
    os.makedirs(base)
    source, libdir = os.path.join(base, "rows.parquet"), os.path.join(os.path.dirname(binary), "lib")
    makes, copies, files = (os.path.join(base, f"{name}.sql") for name in ("make", "copy", "files"))
    write(makes, rows_sql(rows, source))
    number_of([program, base, makes])
    with store(server, os.path.join(base, "store")) as endpoint:
        write(copies, copy_sql(libdir, endpoint, source, "copy.parquet' (FORMAT parquet, COMPRESSION zstd)"))
        write(files, copy_sql(libdir, endpoint, source, "files' (FORMAT parquet, COMPRESSION zstd, FILE_SIZE_BYTES 134217728, OVERWRITE_OR_IGNORE)"))
        daemon = begin(base, binary, endpoint, source)
        try:
            plain, split, inside, total = [], [], [], []
            for i in range(rounds + 1):
                figures = number_of([program, base, copies]), number_of([program, base, files])
                run, seconds = daemon.run("ship")
                if i:  # not the first use of everything
                    plain.append(figures[0])
                    split.append(figures[1])
                    inside.append(in_run(run))
                    total.append(seconds)
        finally:
            daemon.stop()
    size = f"{rows:,} rows, {os.path.getsize(source) / 1e6:.0f} MB"
    floor = results.add(f"floor: COPY to an S3 store in a DuckDB process, one file, {size}", plain)
    results.add("the same in files of 128 MB", split, floor=floor)
    results.add(f"publish to the same store, {size}: started to ended", inside, floor=floor)
    results.add(f"publish to the same store, {size}: trigger to answer", total, floor=floor, ratio_at_most=1.2)
