"""Engines that live in folders of their own: what is said of them, and of those that are not there. No engine is installed here."""

import http.server
import json
import shutil
import threading

import pytest

from conftest import BINARY, link_engine, sluice, task_of

FLOW = """\
id: f
tasks:
  - id: stage
    type: stage
    engine: {engine}
    source: {{format: csv, path: in.csv}}
    target: {{path: out.parquet}}
  - id: curate
    type: curate
    into: a.b
    sql: SELECT 1 AS one
"""


def listed(home):
    return {e["name"]: e for e in json.loads(sluice("engines", "list", "--json", env={"SLUICE_HOME": home}).stdout)}


def test_what_is_not_installed_is_told_with_its_command(folder):
    engines = listed(folder)
    assert engines["duckdb"]["state"] == "built-in"
    assert engines["polars"]["state"] == "absent" and engines["polars"]["mend"] == "sluice engines install polars"
    shown = sluice("engines", env={"SLUICE_HOME": folder}).stdout
    assert "not installed" in shown and "sluice engines install polars" in shown
    doctor = sluice("doctor", check=False, env={"SLUICE_HOME": folder}).stdout
    assert "polars: not installed" in doctor and "✗ engine" not in doctor  # nobody misses it yet
    assert engines["spark"]["state"] == "absent" and "spark_sql" not in engines


def test_half_an_installation_is_no_engine(folder):
    half = folder / "engines" / "polars-abc123"
    (half / "bin").mkdir(parents=True)
    assert "did not come to its end" in listed(folder)["polars"]["problem"]
    (half / "bin" / "python").write_text("#!/bin/sh\n")
    (folder / "engines" / "polars").symlink_to(half.name)
    engine = listed(folder)["polars"]
    assert engine["state"] == "broken" and "polars" in engine["missing"], engine
    # By a pip of today, and by one before 23.1 that has built it.
    for name in ("polars-2.1.0.dist-info", "pyiceberg-0.12.0-py3.11.egg-info"):
        (half / "lib" / "python3.11" / "site-packages" / name).mkdir(parents=True)
    engine = listed(folder)["polars"]
    assert engine["packages"] == {"polars": "2.1.0", "pyiceberg": "0.12.0"} and "pyarrow" in engine["missing"], engine
    doctor = sluice("doctor", check=False, env={"SLUICE_HOME": folder})
    assert doctor.returncode == 1 and "✗ engine" in doctor.stdout and "sluice engines install polars" in doctor.stdout


def test_an_environment_that_lacks_what_its_engine_needs(make_daemon, folder):
    """As one that was made for another version: said at once, with the command, and not tried again."""
    daemon = make_daemon()
    (folder / "in.csv").write_text("a\n1\n")
    made = daemon.home / "engines" / "polars"
    (made / "bin").mkdir(parents=True)
    (made / "sluice-engine.json").write_text("{}")
    (made / "bin" / "python").write_text('#!/bin/sh\nexec python3 -S "$@"\n')
    (made / "bin" / "python").chmod(0o755)
    daemon.flow("f", FLOW.format(engine="polars").replace("    engine: polars", "    engine: polars\n    retry: {max_attempts: 3, interval: 100ms}").replace("in.csv", str(folder / "in.csv")))
    attempts = task_of(daemon.trigger("f"), "stage")["attempts"]
    assert len(attempts) == 1 and "`sluice engines install polars`" in attempts[0]["error"]["message"], attempts


@pytest.mark.parametrize("name, says", [("polrs", 'did you mean "polars"?'), ("duckdb", "built in"), ("nothing", "engines to install are: polars, spark")])
def test_what_cannot_be_installed(folder, name, says):
    done = sluice("engines", "install", name, check=False, env={"SLUICE_HOME": folder})
    assert done.returncode == 2 and says in done.stderr


def test_an_interpreter_that_will_not_do(folder):
    for python, says in (("/nonexistent/python", "cannot be run"), ("/bin/true", "cannot make virtual environments")):
        done = sluice("engines", "install", "polars", "--python", python, check=False, env={"SLUICE_HOME": folder})
        assert done.returncode != 0 and says in done.stderr, done
    assert listed(folder)["polars"]["state"] == "absent"


def fake_java(folder, version):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").symlink_to("/bin/true")
    (folder / "release").write_text(f'IMPLEMENTOR="Somebody"\nJAVA_VERSION="{version}"\n')
    return {"JAVA_HOME": folder}


def test_the_java_of_spark(folder):
    old = fake_java(folder / "java11", "11.0.2")
    for env, says in (({"JAVA_HOME": "/nonexistent"}, "/nonexistent/bin/java cannot be run"), ({"JAVA_HOME": "", "PATH": "/nonexistent"}, "no java on the PATH"), (old, "java11 is Java 11.0.2")):
        done = sluice("engines", "install", "spark_sql", check=False, env={"SLUICE_HOME": folder, **env})
        assert done.returncode == 1 and says in done.stderr and "Java 17 or newer" in done.stderr and "apt-get install" in done.stderr, done
    assert not list((folder / "engines").glob("spark-*"))


def test_a_whole_engine_without_its_java_is_told(folder):
    link_engine(folder, "spark")
    home = folder / "engines" / "spark"
    whole = home.resolve()
    home.unlink()
    home.mkdir()
    for name in ("bin", "lib", "jars"):
        (home / name).symlink_to(whole / name)
    mark = json.loads((whole / "sluice-engine.json").read_text())
    (home / "sluice-engine.json").write_text(json.dumps({**mark, "java": "/nonexistent"}))
    good = listed(folder)["spark"]
    assert good["state"] == "installed" and good["java"] and good["jars"]["iceberg-aws-bundle"] == "1.12.0" and good["packages"]["pyspark"] == "4.1.4", good
    done = sluice("engines", "list", "--json", env={"SLUICE_HOME": folder, "JAVA_HOME": "/nonexistent"})
    engine = next(e for e in json.loads(done.stdout) if e["name"] == "spark")
    assert engine["state"] == "broken" and "needs Java 17" in engine["problem"] and "JAVA_HOME" in engine["mend"]
    doctor = sluice("doctor", check=False, env={"SLUICE_HOME": folder, "JAVA_HOME": "/nonexistent"})
    assert "✗ engine" in doctor.stdout and "needs Java 17" in doctor.stdout, doctor.stdout


@pytest.fixture
def repository():
    """A Maven repository that has one jar, which is not the one that was pinned."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if "iceberg-spark-runtime" in self.path else 404)
            self.end_headers()
            if "iceberg-spark-runtime" in self.path:
                self.wfile.write(b"something else")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/maven2"
    server.shutdown()
    server.server_close()


def test_jars_that_are_missing_or_others_are_refused(folder, repository):
    env = {"SLUICE_HOME": folder, "SLUICE_MAVEN_REPOSITORY": repository, **fake_java(folder / "java", "21.0.1")}
    done = sluice("engines", "install", "spark", check=False, env=env)
    assert done.returncode == 1 and "cannot get org.apache.iceberg:iceberg-aws-bundle:1.12.0" in done.stderr and "404" in done.stderr, done
    libdir = folder / "lib"
    shutil.copytree(BINARY.parent / "lib" / "python", libdir / "python")
    jars = libdir / "python" / "requirements" / "spark.jars"
    jars.write_text(jars.read_text().splitlines()[0] + "\n")
    done = sluice("engines", "install", "spark", check=False, env={**env, "SLUICE_LIB": libdir})
    assert done.returncode == 1 and "iceberg-spark-runtime-4.1_2.13-1.12.0.jar is not the file that was pinned" in done.stderr, done
    assert not list((folder / "engines").glob("spark*")), "nothing is left of it"


def test_a_run_on_an_engine_that_is_not_there_is_refused_at_once(daemon):
    daemon.flow("f", FLOW.format(engine="polars"))
    refused = daemon.request("POST", "/api/v1/flows/f/runs", {})
    assert refused.status == 422, refused
    assert refused.json["detail"] == f'{daemon.flows / "f.yaml"}:5:13: engine "polars" of task "stage" is not installed; `sluice engines install polars` makes it'
    daemon.flow("f", FLOW.format(engine="duckdb"))
    refused = daemon.request("POST", "/api/v1/flows/f/runs", {"engine": {"curate": "polars"}})
    assert refused.status == 422 and ':8:5: engine "polars" of task "curate" is not installed' in refused.json["detail"]
    done = daemon.cli("trigger", "f", "--engine", "polars", check=False)
    assert done.returncode == 2 and "sluice engines install polars" in done.stderr
    assert daemon.get("/api/v1/runs")["items"] == []
