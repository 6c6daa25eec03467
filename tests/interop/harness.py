"""What the integration tests have already: the daemon, waiting, HTTP. Theirs is a conftest.py, too, so it gets another name here."""

import importlib.util
import pathlib
import sys

_path = pathlib.Path(__file__).resolve().parents[1] / "integration" / "conftest.py"
_spec = importlib.util.spec_from_file_location("integration_conftest", _path)
_module = importlib.util.module_from_spec(_spec)
sys.modules["integration_conftest"] = _module
sys.path.append(str(_path.parent))  # for the modules beside it
_spec.loader.exec_module(_module)
globals().update({k: v for k, v in vars(_module).items() if not k.startswith("__")})
