"""What the README shows works as it stands there."""

import json
import re
import shutil

from pyiceberg.catalog.rest import RestCatalog

from conftest import ROOT, sluice, why

README = (ROOT / "README.md").read_text()


def block(language):
    return re.search(rf"```{language}\n(.*?)```", README, re.S).group(1)


def test_the_flow_and_its_commands(make_daemon, employees, folder):
    flows = folder / "flows"
    shutil.copytree(employees / "data" / "raw", flows / "data" / "raw")
    path = flows / "employees.yaml"
    path.write_text(block("yaml"))
    assert sluice("validate", path).returncode == 0

    run = json.loads(sluice("run", path, "--json", env={"SLUICE_HOME": folder / "home"}).stdout)
    assert run["state"] == "success", why(run)

    daemon = make_daemon()
    daemon.cli("trigger", "employees_pipeline", "--wait")
    counts = {r["department"]: r["cnt"] for r in daemon.sql("SELECT * FROM cur.employee_counts")}
    assert sum(counts.values()) == 7
    catalog = RestCatalog("local", uri=daemon.url + "/iceberg", token=daemon.token)
    rows = catalog.load_table("cur.employee_counts").scan().to_arrow().to_pylist()
    assert {r["department"]: r["cnt"] for r in rows} == counts


def test_every_make_target_that_it_names_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake ([a-z][a-z-]*)", README)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_file_that_it_links_exists():
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / link).exists(), link
