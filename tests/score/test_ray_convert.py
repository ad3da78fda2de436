"""`convert --engine ray` on two nodes: a lost node and killed processes change no byte of the result."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dataset_tools.convert.conversion import Conversion, Settings
from tests.support.machines import digests, machines_place, run_program
from tests.support.sources import rlaif_v

pytest.importorskip("ray")

# The first run, which is killed. The worker of the second node begins a range, `lost`, and is lost with its
# node. That of the first waits until then, does the others, and holds the lost one if given it: `again`.
DRIVER = """
import sys, time
from pathlib import Path
import ray
from dataset_tools.cluster import Cluster, connected
from dataset_tools.convert.conversion import Conversion, Settings

source, out, address, first, lost, again = sys.argv[1:]

def held(function, first, lost, again):
    def call(piece):
        if type(piece).__name__ != "Range":
            return function(piece)
        if ray.get_runtime_context().get_node_id() != first:
            lost.with_suffix(".part").write_text(str(piece))
            lost.with_suffix(".part").rename(lost)
            time.sleep(600)
        while not lost.exists():
            time.sleep(0.1)
        if str(piece) == lost.read_text():
            again.touch()
            time.sleep(600)
        return function(piece)
    return call

class Holding(Cluster):
    def spread(self, worker, pieces, on_each_cpu=False):
        hold, words = held, (first, Path(lost), Path(again))  # not globals: it is made on the other side
        return super().spread(lambda: hold(worker(), *words), pieces, on_each_cpu)

with connected(address):
    Conversion(Settings(source, Path(out), shard_rows=40)).run(cluster=Holding(ray))
"""

# The machines, two of one processor each, and then the command itself, one of whose workers is killed.
PROGRAM = """
import json, subprocess, sys, threading
from pathlib import Path
from dataset_tools.cli import app
from tests.support.machines import kill_one, told, two_machines, until, worker

source, out, place, program = sys.argv[1:]
lost, again = Path(out).with_name("lost"), Path(out).with_name("again")
machines, second = two_machines(place)
found = {}
words = [source, out, machines.address, machines.head_node.node_id, str(lost), str(again)]
driver = subprocess.Popen([sys.executable, "-c", program, *words])
until(lost.exists, driver)
told("the second node has a range")
parts = Path(out + ".incomplete", "parts")
until(lambda: len(list(parts.glob("0*.jsonl"))) >= 4, driver)
machines.remove_node(second, allow_graceful=False)
until(again.exists, driver)
told("the first node has it")
driver.kill()
driver.wait()
found["parts"] = len(list(parts.glob("0*.jsonl")))
threading.Thread(target=kill_one, args=[found, getattr(worker(), "pid", None)], daemon=True).start()
app(["convert", source, out, "--shard-rows", "40", "--resume", "--engine", "ray", "--address",
     machines.address, "--max-bad", "100%"], standalone_mode=False)
told("converted")
machines.shutdown()
print(json.dumps(found))
"""


@pytest.mark.timeout(480)
def test_what_is_lost_in_the_middle_changes_no_byte(tmp_path: Path) -> None:
    rlaif_v(tmp_path / "source", rows=400)
    for path in (tmp_path / "source").glob("*.parquet"):
        pq.write_table(pq.read_table(path), path, row_group_size=20)
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    tally = Conversion(Settings(str(tmp_path / "source"), alone, shard_rows=40)).run()
    assert tally.reasons["duplicate id"]
    with machines_place() as place:
        done = run_program(PROGRAM, str(tmp_path / "source"), str(shared), place, DRIVER)
    told = done.stderr
    assert done.returncode == 0, done.stdout[-2000:] + told[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert "on a Ray cluster of" in told
    assert found["parts"] >= 4, "the first node did no other range than the lost one"
    assert found["killed"] and "killed a worker" in told
    assert (tmp_path / "lost").exists() and not shared.with_name("shared.incomplete").exists()
    assert len(digests(alone)) > 10 and digests(shared) == digests(alone)
