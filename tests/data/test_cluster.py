"""Work on a cluster whose machines are lost all the time: each piece is done once, or the command says so."""

from __future__ import annotations

import sys

import pytest

from benchmarks.cluster_plan import PretendedRay
from dataset_tools.cluster import TRIES, Cluster, connected
from dataset_tools.errors import DataError, UsageError

NAMES = [str(number) for number in range(400)]


def test_each_piece_is_done_once_however_many_are_lost():
    ray = PretendedRay(gpus=7, seconds=1.0, between_losses=15.0, seed=1)
    assert list(Cluster(ray).spread(lambda: lambda piece: 1, NAMES)) == [1] * len(NAMES)
    assert ray.losses > 10 and ray.tasks == len(NAMES) + ray.losses


def test_a_piece_that_takes_its_worker_with_it_ends_the_command():
    ray = PretendedRay(gpus=2, seconds=1.0, between_losses=0.01, seed=1)
    with pytest.raises(DataError, match=f"was begun {TRIES} times and lost each time"):
        list(Cluster(ray).spread(lambda: lambda piece: 1, NAMES))
    assert ray.losses <= 2 * TRIES


def test_where_ray_is_not_installed_the_command_says_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"needs Ray, not installed here: pip install 'aspo-plugin\[ray\]'"):
        with connected(None):
            pass
