"""`--engine ray`: a lost node, a killed driver and a killed worker change no byte of the result."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dataset_tools.cluster import connected
from dataset_tools.errors import UsageError
from dataset_tools.scoring.folder import _Worker
from tests.support import converted, data
from tests.support.machines import digests, machines_place, run_program

pytest.importorskip("ray")
pytest.importorskip("torch")

# The first run, which is killed. The second node's worker begins a file, `lost`, and is lost with its node.
# The first node's waits until then, does the others, and holds the lost file if given that one: `again`.
DRIVER = """
import sys, time
from pathlib import Path
import ray
from dataset_tools.cluster import Cluster, connected
from dataset_tools.scoring.folder import score_dataset

folder, encoder, address, first, lost, again = sys.argv[1:]

def held(function, first, lost, again):
    def call(piece):
        if ray.get_runtime_context().get_node_id() != first:
            lost.with_suffix(".part").write_text(piece)
            lost.with_suffix(".part").rename(lost)
            time.sleep(600)
        while not lost.exists():
            time.sleep(0.1)
        if piece == lost.read_text():
            again.touch()
            time.sleep(600)
        return function(piece)
    return call

class Holding(Cluster):
    def spread(self, worker, pieces):
        hold, words = held, (first, Path(lost), Path(again))  # not globals: it is made on the other side
        return super().spread(lambda: hold(worker(), *words), pieces)

with connected(address):
    score_dataset(folder, encoder, cluster=Holding(ray))
"""

# The machines, two of one processor each, and then the command itself, one of whose workers is killed.
PROGRAM = """
import json, subprocess, sys, threading
from pathlib import Path
from dataset_tools.cli import app
from dataset_tools.cluster import connected
from tests.support.machines import kill_one, told, two_machines, until, worker

folder, encoder, place, program = sys.argv[1:]
lost, again = Path(folder).with_name("lost"), Path(folder).with_name("again")
machines, second = two_machines(place)
found = {"first": machines.head_node.node_id}
words = [folder, encoder, machines.address, found["first"], str(lost), str(again)]
driver = subprocess.Popen([sys.executable, "-c", program, *words])
until(lost.exists, driver)
told("the second node has a file")
machines.remove_node(second, allow_graceful=False)
until(again.exists, driver)
told("the first node has it")
driver.kill()
driver.wait()

threading.Thread(target=kill_one, args=[found, getattr(worker(), "pid", None)], daemon=True).start()
app(["score", folder, "--model", encoder, "--engine", "ray", "--address", machines.address],
    standalone_mode=False)
told("scored")

def mistaken(piece):
    raise ValueError(f"{piece} is odd")

with connected(machines.address) as cluster:
    try:
        list(cluster.spread(lambda: mistaken, ["one"]))
    except ValueError as error:
        found["mistake"] = str(error)
machines.shutdown()
told("done")
print(json.dumps(found))
"""


@pytest.mark.timeout(480)
def test_what_is_lost_in_the_middle_changes_no_byte(encoder, tmp_path: Path) -> None:
    from dataset_tools.scoring.folder import score_dataset

    rows = data.rows(30, 5, similarity=False)
    for name in ("alone", "shared"):
        converted.write(tmp_path / name, [rows[start::5] for start in range(5)])
    model = str(encoder("clip"))
    score_dataset(tmp_path / "alone", model)
    with machines_place() as place:
        done = run_program(PROGRAM, str(tmp_path / "shared"), model, place, DRIVER)
    told = done.stderr
    assert done.returncode == 0, done.stdout[-2000:] + told[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    lost = (tmp_path / "lost").read_text()
    assert "on a Ray cluster of 1 nodes, 1 CPUs, 0 GPUs" in told
    kept = re.search(r"(\d+) of 30 rows are already scored by this model", told)
    assert kept and 6 <= int(kept[1]) < 30, "the second run did not go on with what the first had left"
    assert found["killed"] and "killed a worker" in told
    alone, shared = digests(tmp_path / "alone"), digests(tmp_path / "shared")
    assert len([name for name in alone if name.endswith(".parquet")]) == 5 and shared == alone
    assert lost in {str(tmp_path / "shared" / name) for name in shared}
    assert found["mistake"] == "one is odd"


def test_a_machine_without_the_folder_is_told() -> None:
    with pytest.raises(UsageError, match="give a folder that all of its machines"):
        _Worker(lambda: pytest.fail("a model was loaded"), False)("/nowhere/x.parquet")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", None])
def test_no_cluster_is_told_at_once(address: str | None, tmp_path: Path, monkeypatch) -> None:
    """Ray itself tries for a minute and then ends the process."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1\n")  # a killed cluster leaves it
    with pytest.raises(
        UsageError, match="no Ray cluster answers at .*127.0.0.1:1.*start one with `ray start"
    ):
        with connected(address):
            pass
