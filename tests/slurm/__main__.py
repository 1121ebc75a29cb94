"""`python -m tests.slurm start | stop`: a cluster to try things on by hand."""

from __future__ import annotations

import fcntl
import os
import sys

from tests.slurm.cluster import BY_HAND, FOLDER, Cluster
from tests.slurm.packages import ASKED, Unavailable, allowed


def main(words: list[str]) -> int:
    if words not in (["start"], ["stop"]):
        print(__doc__, file=sys.stderr)
        return 2
    os.environ[ASKED] = "1"  # asked for it is
    cluster = Cluster()
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        allowed()
        with (FOLDER / "lock").open("w") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if words == ["stop"]:
                cluster.stop()
                return 0
            if not cluster.is_up():
                cluster.start()
                (FOLDER / BY_HAND).touch()
    except Unavailable as reason:
        print(f"error: no cluster here: {reason}", file=sys.stderr)
        return 1
    except BlockingIOError:
        print("error: tests are using the cluster; wait for them", file=sys.stderr)
        return 1
    for name, value in cluster.variables.items():
        print(f"export {name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
