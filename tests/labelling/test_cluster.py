"""Labelling and writing by actors on a cluster of two nodes: the same bytes, and in `make faults`, whoever is killed: who takes
over begins anew, and loads all libraries again."""

import json
import os
import signal
import time
from collections import Counter
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from threading import Timer

import pytest
import torch
from apart import AT_LENGTH, FULL
from transformers import LlamaForCausalLM, PhiForCausalLM

from stillhouse.core.cluster import ALONE, ENVIRONMENT, Cluster, Room, check_cluster, check_room, room_in
from stillhouse.core.errors import RunError, StillhouseError
from stillhouse.core.files import write_atomic
from stillhouse.core.progress import Silent
from stillhouse.data.asked import Asked
from stillhouse.data.chat_forms import Conversation
from stillhouse.data.packing import PackedRows
from stillhouse.data.shelf import open_shelf, write_shelf
from stillhouse.kernels.terms import Term
from stillhouse.labelling import label
from stillhouse.labelling.cluster import RayCrew, _places
from stillhouse.labelling.label import label_by
from stillhouse.models.generate import Sampling
from stillhouse.models.load import load_causal_lm
from stillhouse.synthesis import rewrite_by, synthesize_by, write_answers_by
from stillhouse.synthesis.records import asking
from stillhouse.teachers.answering import Answering
from stillhouse.teachers.hands import OwnHands, RayHands
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.on_ray import faculty
from stillhouse.teachers.writer import SpreadWriter
from stillhouse.training.trainer import Schedule, train

os.environ.update(ENVIRONMENT | ALONE)
ray = pytest.importorskip("ray", reason="stillhouse[ray] is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, in threads of its own
ROW_TOKENS, SHARD_TOKENS = 32, 60
TERMS = (Term("forward_kl", weight=0.9, temperature=2.0), Term("next_token", weight=0.1))
SECONDS = 0.4
"""In which something is under way, so that whoever is killed has it."""
MEETING_SECONDS = 240.0
"""After which nobody waits any more for processes that are to be at work together."""
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


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Watched(Silent):
    """Does something after so many steps."""

    def __init__(self, at):
        self.steps, self.at = 0, at

    def advance(self, amount=1, note=""):
        self.steps += 1
        self.at.get(self.steps, int)()


def members(folder, log, kind=LlamaForCausalLM):
    """What makes the teacher of an actor, which writes down what it begins and ends."""

    def load():
        import torch

        from stillhouse.teachers import LocalTeacher

        class Slow(LocalTeacher):
            def signals(self, batch, wanted):
                first, place = (
                    batch.ids[0, :3].tolist(),
                    {"pid": os.getpid(), "node": os.environ.get("RAY_NODE_ID", "")},
                )
                with Path(log).open("a") as file:
                    file.write(json.dumps({"call": "begins", "first": first, **place}) + "\n")
                time.sleep(SECONDS if FULL else 0)
                found = super().signals(batch, wanted)
                with Path(log).open("a") as file:
                    file.write(json.dumps({"call": "ends", "first": first, **place}) + "\n")
                return found

        torch.set_num_threads(1)
        return Slow(kind.from_pretrained(folder))

    return load


def logged(log, *, together=1):
    """What writes a batch, and writes down when it begins and ends: none ends before so many have begun,
    as many as there are processes."""

    def write(model, tokenizer, batch, advance):
        import ray

        node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
        place = {"pid": os.getpid(), "first": batch, "node": node}
        with Path(log).open("a") as file:
            file.write(json.dumps({"call": "begins", **place}) + "\n")
        time.sleep(SECONDS)
        until = time.monotonic() + MEETING_SECONDS
        while Path(log).read_text().count('"begins"') < together and time.monotonic() < until:
            time.sleep(SECONDS)
        with Path(log).open("a") as file:
            file.write(json.dumps({"call": "ends", **place}) + "\n")
        return [*batch, int(model.config.vocab_size)]

    return write


def calls(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_what_actors_write_is_what_one_process_writes_and_whoever_is_killed_costs_a_batch(
    cluster, build_model, build_example, tokenizer, tmp_path
):
    folder, log = tmp_path / "teacher", tmp_path / "log"
    build_model(vocab=len(tokenizer), layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def load():
        import torch

        torch.set_num_threads(1)
        return load_causal_lm(str(folder))

    loaded = load()
    own, batches = OwnHands(loaded.model, loaded.tokenizer), {number: [number] for number in range(8)}
    with RayHands(Cluster(cluster.address, 2), load) as hands:
        told = {}
        for number, said in hands(logged(log), batches):
            told[number] = said
            if FULL and len(told) == 2:
                os.kill(calls(log)[-1]["pid"], signal.SIGKILL)
        assert told == dict(own(logged(tmp_path / "mine"), batches))
        _each_is_done_once_and_two_at_most_at_a_time(calls(log), num_killed=int(FULL))
        with pytest.raises(RunError, match="ZeroDivisionError"):
            list(hands(lambda *_: 1 / 0, {0: 0}))
        for name, who in (("alone", own), ("many", hands)):
            _write_all(who, tokenizer, build_example, tmp_path / name)
    for file in (tmp_path / "alone").rglob("*.json*"):
        assert (tmp_path / "many" / file.relative_to(tmp_path / "alone")).read_bytes() == file.read_bytes(), file.name
    assert not list((tmp_path / "many").rglob("*-from-*"))


def _write_all(hands, tokenizer, build_example, folder):
    """All that a teacher writes, by this one's hands: what is asked of it in words, texts, answers and conversations."""
    sampling = Sampling(max_new_tokens=6)
    requests = [
        asking(f"{n}", [{"role": "user", "content": f"who ran {n % 3}?"}], sampling=sampling) for n in range(10)
    ]
    writer = SpreadWriter(hands, tokenizer, name="tiny", fingerprint="0", batch_size=1)
    replies = Ledger(folder.with_suffix(".jsonl"), writer).ask(requests)
    texts = {"prompts": [f"Write {n}." for n in range(40)], "num_tokens": 400, "batch_size": 4, "seed": 1}
    synthesize_by(hands, tokenizer, folder=folder / "texts", sampling=Sampling(max_new_tokens=24), **texts)
    asked = [Asked(one.ids[:n], (one,)) for n in (4, 7, 2, 5) for one in [build_example(n, n + 5, prompt=n, vocab=300)]]
    answering = Answering(batch_size=2, sampling=sampling)
    limits = {"ends": {1}, "vocab_size": len(tokenizer), "max_tokens": 14}
    write_answers_by(hands, asked, folder=folder / "answers", answering=answering, **limits)
    said = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "so"}]
    conversations = [Conversation(json.dumps({"messages": said, "tools": []}), (0.0, 1.0)) for _ in range(3)]
    file = folder / "conversations.jsonl"
    rewrite_by(hands, conversations, file=file, max_tokens=64, sampling=sampling, batch_size=1)
    write_atomic(folder / "replies.json", json.dumps([asdict(one) for one in replies]))


def test_a_student_learns_the_same_of_actors_that_answer_in_every_step_and_whoever_is_killed_is_asked_again(
    cluster, one_thread, build_model, build_example, tmp_path
):
    folder, log = tmp_path / "teacher", tmp_path / "log"
    build_model("phi", layers=2).save_pretrained(folder)
    examples = [build_example(seed, 5 + 3 * seed % 20) for seed in range(24)]
    steps = []

    def learnt(teacher, name):
        def told(line):
            steps.append(name)
            if FULL and steps == ["far"] * 3:  # it is killed at the next step's question
                Timer(SECONDS / 2, os.kill, (calls(log)[-1]["pid"], signal.SIGKILL)).start()

        student = build_model("phi", layers=1, seed=1)
        schedule = Schedule(rows_per_step=4, rows_per_micro_batch=2, epochs=2.0, learning_rate=1e-2)
        given = {"terms": TERMS, "vocab_size": 300, "schedule": schedule, "checkpoints": tmp_path / name}
        rows = PackedRows(examples, row_tokens=ROW_TOKENS)
        return train(student, rows, teacher=teacher, log_line=told, **given).state_dict()

    with faculty(Cluster(cluster.address, 1), members(folder, log, PhiForCausalLM), num_asking=1) as held:
        assert held.actors == 1
        far = learnt(held.teacher(3), "far")
    here = learnt(members(folder, tmp_path / "mine", PhiForCausalLM)(), "here")
    assert here.keys() == far.keys() and all(torch.equal(far[name], weight) for name, weight in here.items())
    assert steps.count("far") == steps.count("here") == 6
    pids = [{one["pid"] for one in calls(file)} for file in (log, tmp_path / "mine")]
    begun, ended = (sum(one["call"] == call for one in calls(log)) for call in ("begins", "ends"))
    assert begun - ended == FULL
    assert pids[1] == {os.getpid()} and os.getpid() not in pids[0] and len(pids[0]) == 1 + FULL


@AT_LENGTH
def test_a_node_that_is_lost_while_writing_costs_the_batches_of_its_actor(cluster, build_model, tokenizer, tmp_path):
    folder, log = tmp_path / "teacher", tmp_path / "log"
    build_model(vocab=len(tokenizer), layers=2).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    batches = {number: [number] for number in range(60)}
    lost = cluster.add_node(num_cpus=1)

    def at_it():
        return Counter(one["call"] for one in calls(log) if one["node"] == lost.node_id)

    actors = len(cluster.list_all_nodes())
    with RayHands(Cluster(cluster.address, actors), partial(load_causal_lm, str(folder))) as hands:
        told, num_lost = {}, 0
        for number, said in hands(logged(log, together=actors), batches):
            told[number] = said
            if not num_lost and at_it()["begins"] > at_it()["ends"]:
                cluster.remove_node(lost, allow_graceful=False)
                num_lost = at_it()["begins"] - at_it()["ends"]
    assert told == {number: [number, len(tokenizer)] for number in batches}
    begun, ended = (
        Counter(one["first"][0] for one in calls(log) if one["call"] == call) for call in ("begins", "ends")
    )
    assert num_lost == 1 and set(ended.values()) == {1}
    assert (begun - ended).total() == num_lost


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
    assert len(read) == 4, "of 200, two and where each of them lies"


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
    monkeypatch.setattr("stillhouse.core.cluster.find_spec", lambda name: None)
    with pytest.raises(StillhouseError, match=r"stillhouse\[ray\]"):
        check_cluster(Cluster("local"))
