"""An attempt's main: `PROGRAM -u run.py`, with the document on descriptor 4 and the report on descriptor 3.

`PROGRAM -u run.py --serve ENGINE` is a fork server instead: see sluice/warm.py.
"""

import sys

if sys.version_info < (3, 9):  # noqa: UP036 - said before anything is read that an older one does not understand
    import json
    import os

    version = ".".join(str(part) for part in sys.version_info[:3])
    message = f'tasks need Python 3.9 or newer, and {sys.executable} is {version}: have "python" name another interpreter'
    sys.stderr.write("error: " + message + "\n")
    if "--serve" not in sys.argv:
        os.write(3, (json.dumps({"error": {"message": message}}) + "\n").encode("ascii"))
    sys.exit(1)

from sluice import task  # noqa: E402

if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        from sluice import warm

        warm.leave(task.run(warm.serve(sys.argv[2])))
    sys.exit(task.run(task.read_document()))
