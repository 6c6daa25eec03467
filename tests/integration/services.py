"""The servers of tests/services for tests: started once a module, stopped at its end."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from conftest import ROOT

BUILD = pathlib.Path(os.environ.get("SLUICE_BUILD") or ROOT / "build")


def needs(name, package):
    if not (BUILD / "services" / name / ".complete").exists():
        pytest.skip(f"{package} is not installed: run tools/services build {name}", allow_module_level=True)
    python = BUILD / "services" / name / "python"
    if python.exists() and str(python) not in sys.path:
        sys.path.append(str(python))


@contextlib.contextmanager
def running(name, **env):
    """Its address."""
    folder = tempfile.mkdtemp(prefix="sl-")
    script = [str(ROOT / "tests" / "services" / name)]
    env = {**os.environ, "SLUICE_BUILD": str(BUILD), **env}
    try:
        subprocess.run([*script, "start", folder], env=env, check=True, capture_output=True, text=True)
        yield pathlib.Path(folder, "address").read_text().strip()
    finally:
        subprocess.run([*script, "stop", folder], env=env, check=True)
        shutil.rmtree(folder, ignore_errors=True)
