"""`--engine ray`: a node lost in the middle changes no byte, and what cannot work is said in one message."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import converted, data

pytest.importorskip("ray")
pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]

# Two machines of one processor each. The second begins a file and is then lost with it; the first waits until
# then, so that there is something to lose.
PROGRAM = """
import json, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster as Machines
from dataset_tools.cluster import Cluster, connected
from dataset_tools.errors import DataError, UsageError
from dataset_tools.scoring.folder import _Worker, score_dataset

alone, shared, encoder, mark = (Path(word) for word in sys.argv[1:])
score_dataset(alone, str(encoder))

for attempt in range(6):
    try:  # Ray gives its own processes 30 seconds to start, which a busy machine may not do
        machines = Machines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        break
    except Exception as error:
        print(f"Ray did not start: {error}", file=sys.stderr)

def held(function, mark, first):
    def call(piece):
        if ray.get_runtime_context().get_node_id() != first:
            mark.touch()
            time.sleep(600)
        while not mark.exists():
            time.sleep(0.1)
        return function(piece)
    return call

class Holding(Cluster):
    def spread(self, worker, pieces):
        wrapped, seen, head = held, mark, first  # not this program's globals: it is made on the other side
        return super().spread(lambda: wrapped(worker(), seen, head), pieces)

def lose(node, mark):
    while not mark.exists():
        time.sleep(0.1)
    machines.remove_node(node, allow_graceful=False)

found = {}
with connected(machines.address):
    first = machines.head_node.node_id
    node = machines.add_node(num_cpus=1)
    machines.wait_for_nodes()
    found["told"] = Cluster(ray).told()
    thread = threading.Thread(target=lose, args=(node, mark))
    thread.start()
    rows = []
    score_dataset(shared, str(encoder), cluster=Holding(ray), progress=rows.append)
    thread.join()
    found["rows"] = rows

    def ends(piece):
        import os
        os._exit(3)

    plain = Cluster(ray)
    for name, call in (
        ("killed", lambda: list(plain.spread(lambda: ends, ["one"]))),
        ("mistake", lambda: list(plain.spread(lambda: int, ["x"]))),
        ("unseen", lambda: list(plain.spread(lambda: _Worker(None, False), ["/nowhere/x.parquet"]))),
    ):
        try:
            call()
        except Exception as error:
            found[name] = [type(error).__name__, str(error)]
try:
    with connected("127.0.0.1:1"):
        pass
except UsageError as error:
    found["nobody"] = str(error)
machines.shutdown()
print(json.dumps(found))
"""


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.timeout(600)
def test_a_lost_node_changes_no_byte(encoder, tmp_path: Path) -> None:
    rows = data.rows(30, 5, similarity=False)
    for name in ("alone", "shared"):
        converted.write(tmp_path / name, [rows[start::5] for start in range(5)])
    places = [tmp_path / "alone", tmp_path / "shared", encoder("clip"), tmp_path / "mark"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, places)],
        capture_output=True,
        text=True,
        timeout=500,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
            "RAY_worker_niceness": "0",
        },
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (tmp_path / "mark").exists(), "nothing was lost"
    assert found["told"] == "2 nodes, 2 CPUs, 0 GPUs" and found["rows"] == [6] * 5
    alone, shared = digests(tmp_path / "alone"), digests(tmp_path / "shared")
    assert len([name for name in alone if name.endswith(".parquet")]) == 5 and shared == alone
    kind, text = found["killed"]
    assert kind == "DataError" and text.startswith("one was begun 4 times and lost each time")
    assert found["mistake"][0] == "ValueError"
    assert (
        found["unseen"][0] == "UsageError" and "give a folder that all of its machines" in found["unseen"][1]
    )
    assert found["nobody"].startswith("no Ray cluster answers at 127.0.0.1:1")
