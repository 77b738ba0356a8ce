"""Labelling by actors on a cluster of two nodes: the same bytes, and in `make faults`, whoever is killed."""

import json
import os
import signal
import time
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest

from stillhouse.core.errors import StillhouseError
from stillhouse.core.progress import Silent
from stillhouse.data.shelf import open_shelf, write_shelf
from stillhouse.labelling import label
from stillhouse.labelling.cluster import (
    ALONE,
    ENVIRONMENT,
    Cluster,
    RayCrew,
    Room,
    _places,
    check_cluster,
    check_room,
    room_in,
)
from stillhouse.labelling.label import label_by

os.environ.update(ENVIRONMENT | ALONE)
ray = pytest.importorskip("ray", reason="stillhouse[ray] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, in threads of its own
ROW_TOKENS, SHARD_TOKENS = 32, 60
SECONDS = 0.4
"""In which a shard is under way, so that whoever is killed has one."""
FULL = os.environ.get("STILLHOUSE_FAULTS") == "full"
"""Whether somebody is killed: whoever takes over begins anew, and loads all libraries again."""
FAST = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
"""In which a node that died is missed."""


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": FAST})
    try:
        nodes.victim = nodes.add_node(num_cpus=1)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


class Watched(Silent):
    """Does something after so many steps."""

    def __init__(self, at):
        self.steps, self.at = 0, at

    def advance(self, amount=1, note=""):
        self.steps += 1
        self.at.get(self.steps, int)()


def members(folder, log):
    """What makes the teacher of an actor, which writes down what it begins and ends."""

    def load():
        import torch
        from transformers import LlamaForCausalLM

        from stillhouse.teachers import LocalTeacher

        class Slow(LocalTeacher):
            def signals(self, batch, wanted):
                first, place = (
                    batch.ids[0, :3].tolist(),
                    {"pid": os.getpid(), "node": os.environ.get("RAY_NODE_ID", "")},
                )
                with Path(log).open("a") as file:
                    file.write(json.dumps({"call": "begins", "first": first, **place}) + "\n")
                time.sleep(SECONDS)
                found = super().signals(batch, wanted)
                with Path(log).open("a") as file:
                    file.write(json.dumps({"call": "ends", "first": first, **place}) + "\n")
                return found

        torch.set_num_threads(1)
        return Slow(LlamaForCausalLM.from_pretrained(folder))

    return load


def calls(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_two_nodes_write_the_bytes_of_one_process_and_the_killed_cost_their_shards_alone(
    cluster, build_model, build_example, tmp_path
):
    folder, log = tmp_path / "teacher", tmp_path / "log"
    build_model("llama", layers=2).save_pretrained(folder)
    examples = [build_example(seed, 5 + 3 * seed % 20) for seed in range(60)]
    given = {"made_from": "malt", "row_tokens": ROW_TOKENS, "shard_tokens": SHARD_TOKENS}
    alone = label(members(folder, tmp_path / "mine")(), examples, tmp_path / "alone", **given)
    killed = []

    def kill_actor():
        killed.append(calls(log)[-1]["pid"])
        os.kill(killed[0], signal.SIGKILL)

    def kill_node():
        cluster.remove_node(cluster.victim, allow_graceful=False)

    watched = Watched({3: kill_actor, 8: kill_node} if FULL else {})
    crew = RayCrew(Cluster(cluster.address, 2), members(folder, log), watched)
    assert label_by(crew, examples, tmp_path / "many", progress=watched, **given) == alone
    for file in (tmp_path / "alone").iterdir():
        assert (tmp_path / "many" / file.name).read_bytes() == file.read_bytes(), file.name
    _each_is_done_once_and_two_at_most_at_a_time(calls(log), num_killed=2 if FULL else 0)


def _each_is_done_once_and_two_at_most_at_a_time(calls, *, num_killed):
    """By what the actors have written down: lost is what the killed were at, and nothing waits in an actor's memory."""
    counts = {call: Counter(tuple(one["first"]) for one in calls if one["call"] == call) for call in ("begins", "ends")}
    lost = counts["begins"] - counts["ends"]
    assert set(counts["ends"].values()) == {1}
    assert lost.total() <= num_killed
    assert all(
        len({one["pid"] for one in calls if tuple(one["first"]) == shard}) > 1 for shard in lost
    )  # by others, then
    going = list(accumulate({"begins": 1, "ends": -1}[one["call"]] for one in calls))
    assert max(going) <= 2 + num_killed


def test_an_actor_is_given_three_numbers_a_shard_and_reads_no_text_but_that_shards(
    build_example, tmp_path, monkeypatch
):
    examples = [build_example(seed, 5) for seed in range(200)]
    tasks = {number: examples[2 * number : 2 * number + 2] for number in range(100)}
    places = _places(tasks)
    assert places[7] == {"number": 7, "start": 14, "end": 16}
    write_shelf(examples, tmp_path / "texts")
    shelf, read = open_shelf(tmp_path / "texts"), []
    monkeypatch.setattr("os.pread", lambda file, size, at, _pread=os.pread: read.append(size) or _pread(file, size, at))
    assert shelf[14:16] == tasks[7]
    assert len(read) == 2  # of 200


@pytest.mark.parametrize(
    ("nodes", "wanted", "room"),
    [
        ([{"CPU": 8}, {"CPU": 8}], None, Room(2, {"num_cpus": 8})),
        ([{"CPU": 8}, {"CPU": 8}], 4, Room(4, {"num_cpus": 4})),
        ([{"CPU": 8}, {"CPU": 2}], 3, Room(3, {"num_cpus": 1})),
        ([{"CPU": 8}], 100, Room(8, {"num_cpus": 1})),
        ([{"CPU": 8}, {"CPU": 64, "GPU": 8}], None, Room(8, {"num_gpus": 1})),
        ([{"CPU": 64, "GPU": 8}], 3, Room(3, {"num_gpus": 1})),
    ],
)
def test_actors_share_what_nodes_have(nodes, wanted, room):
    assert room_in(nodes, wanted) == room


def test_a_cluster_that_is_not_there_or_too_small_is_refused_in_a_line(monkeypatch):
    refused = {
        Cluster("127.0.0.1:1"): "nobody answers there",
        Cluster("somewhere"): "HOST:PORT",
        Cluster("local", 0): "1 or more",
    }
    for cluster, words in refused.items():
        with pytest.raises(StillhouseError, match=words):
            check_cluster(cluster)
    with pytest.raises(StillhouseError, match="--actors 9: the cluster has 8 CPUs"):
        check_room([{"CPU": 8.0}], 9)
    monkeypatch.setattr("stillhouse.labelling.cluster.find_spec", lambda name: None)
    with pytest.raises(StillhouseError, match=r"stillhouse\[ray\]"):
        check_cluster(Cluster("local"))
