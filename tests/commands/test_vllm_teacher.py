"""A teacher that vLLM runs, by a stand-in: what it writes and labels, what a run knows of it, and what it is not asked for."""

import json

import pytest
import torch

from stillhouse.core.batch import Batch
from stillhouse.core.signals import Wanted
from stillhouse.models.load import load_causal_lm
from stillhouse.synthesis.judge import odds_of_yes
from stillhouse.synthesis.records import asking
from stillhouse.teachers import LocalWriter
from stillhouse.teachers.hosted import begin_vllm, hosted_teacher, hosted_voice
from stillhouse.teachers.local import LocalTeacherConfig

from .conftest import SYNTHESIS, assert_refused_in_one_line, files_in, stillhouse

GREEDY = {**SYNTHESIS, "tokens": 100, "sampling": {"max_new_tokens": 24, "temperature": 0}}
LEARNT = {"labels": {"signal": "sparse", "shard_tokens": 100}, "objectives": [{"name": "forward_kl"}]}


@pytest.fixture
def hosted(recipe):
    """Write the tiny recipe, with a teacher that vLLM runs."""

    def write(**changes):
        return recipe({"teacher.engine": "vllm", **changes})

    return write


def test_a_run_writes_and_labels_with_it_and_then_lets_go(hosted, vllm, tmp_path):
    said = stillhouse("distill", hosted(synthesis=GREEDY, **LEARNT))
    assert said.code == 0, said.err
    assert "vLLM loads the teacher" in said.err
    assert len(vllm) == 1 and vllm[0].is_closed  # once for both, and before others need the room
    resolved = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "engine: vllm" in resolved and "precision: float32" in resolved
    assert "engine: vllm" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    done = files_in(tmp_path / "run" / "labels")
    assert stillhouse("label", tmp_path / "recipe.yaml").code == 0
    assert files_in(tmp_path / "run" / "labels") == done and len(vllm) == 1


def test_it_writes_the_likeliest_text_that_transformers_writes(hosted, recipe, vllm, tmp_path):
    assert stillhouse("synthesize", hosted(synthesis=GREEDY, **LEARNT)).code == 0
    theirs = (tmp_path / "run" / "data" / "documents.jsonl").read_text()
    path = recipe({"run": str(tmp_path / "other"), "synthesis": GREEDY, **LEARNT})
    assert stillhouse("synthesize", path).code == 0
    assert theirs == (tmp_path / "other" / "data" / "documents.jsonl").read_text()


def test_a_run_of_another_engine_is_not_gone_on_with(hosted, recipe, vllm, tmp_path):
    assert stillhouse("synthesize", recipe({"synthesis": GREEDY, **LEARNT})).code == 0
    said = stillhouse("synthesize", hosted(synthesis=GREEDY, **LEARNT))
    assert said.code == 2 and "teacher.engine" in said.err


def test_its_labels_are_those_of_the_same_model_here(teacher_folder, vllm):
    model = load_causal_lm(str(teacher_folder)).model
    ids = torch.tensor([[5, 6, 7, 8, 9, 9], [3, 4, 11, 12, 0, 0]])
    documents = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, -1, -1]])
    batch = Batch(ids, torch.arange(6).expand(2, 6).clone(), documents, torch.ones(2, 6) * (documents >= 0))
    config = LocalTeacherConfig(model=str(teacher_folder), engine="vllm")
    said = hosted_teacher(config, top=8).signals(batch, Wanted(logits=True)).logits
    for row, (start, end) in [(0, (0, 3)), (0, (3, 6)), (1, (0, 4))]:
        with torch.no_grad():
            whole = model(ids[row : row + 1, start:end]).logits[0, :-1].log_softmax(-1)
        best = whole.topk(8)
        there = (row, slice(start, end - 1))
        assert torch.equal(said.ids[there], best.indices)
        assert torch.allclose(said.logprobs[there], best.values, atol=1e-5)
        assert torch.allclose(said.tail[there].exp(), 1 - best.values.exp().sum(-1), atol=1e-5)
        assert (said.logprobs[row, end - 1] == -torch.inf).all() and said.tail[row, end - 1] == 0


def test_what_pads_the_head_is_no_token(teacher_folder, vllm):
    config = LocalTeacherConfig(model=str(teacher_folder), engine="vllm")
    teacher = hosted_teacher(config, top=300)
    ids = torch.tensor([[5, 6, 7]])
    batch = Batch(ids, torch.arange(3)[None], torch.zeros_like(ids), torch.ones(1, 3))
    assert (teacher.signals(batch, Wanted(logits=True)).logits.tail[0, :2] == -torch.inf).all()
    teacher.vocab_size, teacher.top = 250, 200
    said = teacher.signals(batch, Wanted(logits=True)).logits
    assert said.ids.max() < 250 and said.tail[0, 0] > -torch.inf
    assert torch.allclose(said.logprobs[0, 0].exp().sum() + said.tail[0, 0].exp(), torch.tensor(1.0), atol=1e-5)


def test_a_judge_by_it_says_yes_as_often(writing_teacher, vllm):
    config = LocalTeacherConfig(model=str(writing_teacher), engine="vllm")
    here, there = (
        LocalWriter(loaded, name="judge", fingerprint="")
        for loaded in (load_causal_lm(config.model), hosted_voice(config))
    )
    words = {"yes": [5, 6], "no": [9]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stillhouse.synthesis.judge._spelt", lambda tokenizer: words)
        requests = [asking("0", [{"role": "user", "content": text}]) for text in ("the fox", "a girl ran")]
        assert odds_of_yes(there, requests) == pytest.approx(odds_of_yes(here, requests), abs=1e-4)


def test_texts_that_are_gone_on_with_are_written_by_it(hosted, vllm, tmp_path):
    synthesis = {"kind": "continue", "number": 4, "batch_size": 4, "sampling": {"max_new_tokens": 16}}
    path = hosted(synthesis=synthesis, labels=None, objectives=[{"name": "next_token"}])
    said = stillhouse("synthesize", path)
    assert len(vllm) == 1 and vllm[0].is_closed, said.err
    ledger = [json.loads(line) for line in (tmp_path / "run" / "data" / "ledger.jsonl").read_text().splitlines()]
    assert len(ledger) == 4


def test_a_dry_run_asks_it(hosted, vllm, tmp_path):
    said = stillhouse("synthesize", hosted(synthesis=GREEDY, **LEARNT), "--dry-run")
    assert said.code == 0, said.err
    assert len(vllm) == 1 and "tried: " in said.out and not (tmp_path / "run").exists()


def test_precision_and_gpus_are_handed_on(teacher_folder, vllm):
    begin_vllm(
        LocalTeacherConfig(model=str(teacher_folder), engine="vllm", precision="bfloat16", tensor_parallel=2)
    ).close()
    assert vllm[0].settings["dtype"] == "bfloat16" and vllm[0].settings["tensor_parallel_size"] == 2


def test_without_vllm_a_teacher_is_refused(hosted, no_model, monkeypatch, tmp_path):
    monkeypatch.setattr("stillhouse.models.vllm_engine.find_spec", lambda name: None)
    path = hosted(**LEARNT)
    said = stillhouse("distill", path)
    assert_refused_in_one_line(said, "teacher.engine is vllm, but vllm is not installed here", "pip install vllm")
    assert not (tmp_path / "run").exists()
    looked = stillhouse("doctor", path)
    assert looked.code == 1 and "teacher.engine is vllm, but vllm is not installed here" in looked.out


def test_processes_that_learn_do_not_share_it(hosted, no_model, vllm):
    said = stillhouse("distill", hosted(**LEARNT), "--launch", "2", "--sharded-teacher")
    assert_refused_in_one_line(said, "teacher.engine is vllm, which shares the teacher among GPUs by itself")


def test_it_says_nothing_on_ray_while_a_student_learns(hosted, no_model, vllm):
    said = stillhouse("distill", hosted(**LEARNT), "--ray", "local", "--teacher-on-ray")
    assert_refused_in_one_line(said, "teacher.engine is vllm, which tells nothing while the student learns")
