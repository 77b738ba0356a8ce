"""A teacher behind an API in a recipe: what it cannot tell is refused, and what it can is learnt within one budget."""

import math

import pytest
from transformers import AutoTokenizer

from stillhouse.commands.recipe import Recipe
from stillhouse.commands.remote import spent_elsewhere
from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import RecipeError
from stillhouse.core.files import append_line, read_lines
from stillhouse.models.token_bytes import token_bytes

from .conftest import CHATS, FAULT_SERVER, assert_refused, stillhouse, write_recipe, write_rows

KEY = "sk-a-key-that-nobody-may-see"
REMOTE = {"kind": "remote", "base_url": "http://127.0.0.1:9/v1", "model": "m", "key_env": "STILLHOUSE_TEST_KEY"}
TOKENS = {**REMOTE, "tokenizer": "t"}
SOURCE = {"kind": "teacher", "sampling": {"temperature": 1.0, "max_new_tokens": 16}}
SPARSE = [{"name": "forward_kl"}, {"name": "next_token"}]
LABELLED = {"labels": {"signal": "sparse"}, "objectives": SPARSE}
VALUES = {
    "run": "run",
    "teacher": REMOTE,
    "student": {"kind": "checkpoint", "model": "s"},
    "data": {"kind": "chat", "path": "x.jsonl"},
    "objectives": [{"name": "next_token"}],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": {"kind": "from_layers", "keep": 2}}, "student.kind is from_layers, which keeps layers of its teacher"),
        ({"student": {"kind": "from_config"}}, "student.config is left out, which means the teacher's own"),
        ({"objectives": [{"name": "forward_kl"}]}, "store that first: labels: {signal: sparse}"),
        ({"objectives": [{"name": "hidden_mse"}]}, "hidden_mse looks inside the teacher"),
        ({"objectives": [{"name": "span_forward_kl"}]}, "forward_kl with labels: {signal: sparse}"),
        ({"teacher": TOKENS, "labels": {}, "objectives": SPARSE}, "labels.signal is last_hidden, but an API"),
        ({"labels": {"signal": "sparse"}, "source": SOURCE, "objectives": SPARSE}, "Name the model's tokenizer"),
        ({"teacher": TOKENS, "labels": {"signal": "sparse"}, "objectives": SPARSE}, "scores_by does not say how"),
        (
            {"teacher": TOKENS, **LABELLED, "source": {"kind": "teacher", "sampling": {"top_p": 0.9}}},
            "draw at temperature 1, without top_k and top_p",
        ),
        (
            {"teacher": {**TOKENS, "scores_by": "echo"}, **LABELLED, "objectives": [{**SPARSE[0], "temperature": 2.0}]},
            "forward_kl has temperature 2, but a server tells the teacher at temperature 1",
        ),
        ({"source": {"kind": "student"}}, "the teacher would have to be asked about each step"),
        ({"source": {"kind": "teacher", "method": "beam"}}, "an API only draws answers"),
        ({"data": {"kind": "masked_text", "path": "x"}, "objectives": [{"name": "masked_token"}]}, "data of kind chat, rag or"),
        ({"evaluation": {"reward": {"reward": {"kind": "length"}}}}, "evaluation.reward is watched beside what a teacher"),
        ({"teacher": {"model": "m"}, "student": {"kind": "from_config", "tokenizer": "t"}}, "student.tokenizer is given"),
        ({"teacher": {**REMOTE, "api_key": KEY}}, "holds what looks like a key"),
        ({"teacher": {**REMOTE, "budget": {"money": 1.0}}}, "budget.money is given, but no prices"),
    ],
)  # fmt: skip
def test_what_an_api_cannot_tell_is_refused_while_the_recipe_is_read(changes, words):
    with pytest.raises(RecipeError) as refused:
        parse_recipe(Recipe, {**VALUES, **changes}, source="a recipe")
    assert words in str(refused.value) and KEY not in str(refused.value)


def test_what_an_api_can_write_is_let_through():
    for changes in ({"history": {}}, {"data": {}, "synthesis": {"templates": ["a"], "tokens": 9}}):
        parse_recipe(Recipe, {**VALUES, **changes}, source="a recipe")


def test_a_control_that_would_be_the_student_itself_is_not_trained():
    assert parse_recipe(Recipe, VALUES, source="x").control == "none"
    answered = {**VALUES, "source": SOURCE}
    assert parse_recipe(Recipe, answered, source="x").control == "hard_labels"  # which learns the data's own answers
    assert parse_recipe(Recipe, {**VALUES, "evaluation": {"control": "both"}}, source="x").control == "both"


def test_one_budget_is_for_all_ledgers_of_a_run(tmp_path):
    for folder, tokens in (("data", 10), ("answers", 20)):
        (tmp_path / folder).mkdir()
        line = {"key": "k", "tokens": tokens, "prompt_tokens": 1, "lost_tokens": 2, "cost": 0.5}
        append_line(tmp_path / folder / "ledger.jsonl", line)
    append_line(tmp_path / "scores.jsonl", {"key": "k", "tokens": 40, "cost": 0.25, "places": []})
    assert spent_elsewhere(tmp_path, "") == (76, 1.25)
    assert spent_elsewhere(tmp_path, "answers/ledger.jsonl") == (53, 0.75)
    assert spent_elsewhere(tmp_path, "scores.jsonl") == (36, 1.0)


class Telling:
    """Says words, and of each of their tokens that it was likely, and another one less so."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.spelt = token_bytes(self.tokenizer)

    def __call__(self, path, body):
        if "prompt_logprobs" in body:
            return self.scored(body["prompt"])
        answer = FAULT_SERVER.in_words(path, body)
        if body.get("logprobs"):
            choice = answer["choices"][0]
            ids = self.tokenizer(choice["message"]["content"], add_special_tokens=False)["input_ids"]
            choice["logprobs"] = {"content": [self.entry(number) for number in ids]}
        return answer

    def scored(self, ids):
        """In the form of vLLM."""
        likely = [{str(n): {"logprob": math.log(0.6)}, str((n + 1) % 9): {"logprob": math.log(0.3)}} for n in ids]
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": [None, *likely[1:]]}
        return {"model": "m", "choices": [choice], "usage": {"prompt_tokens": len(ids), "completion_tokens": 1}}

    def entry(self, number):
        pair = [self.named(number, 0.6), self.named((number + 1) % len(self.tokenizer), 0.3)]
        return {**pair[0], "top_logprobs": pair}

    def named(self, number, probability):
        spelt = self.spelt[number]
        token = {"token": self.tokenizer.decode([number]), "bytes": list(spelt) if spelt else None}
        return {"id": number, "logprob": math.log(probability), **token}


def test_a_student_learns_what_a_server_tells_of_its_own_answers(tmp_path, student_folder, monkeypatch):
    monkeypatch.setenv("STILLHOUSE_TEST_KEY", KEY)
    with FAULT_SERVER.FaultServer(answer=Telling(student_folder)) as server:
        teacher = {**REMOTE, "base_url": server.url, "tokenizer": str(student_folder), "concurrency": 1}
        teacher["prices"] = {"per_million_input_tokens": 1000, "per_million_output_tokens": 2000}
        path = write_recipe(
            tmp_path,
            student_folder,
            **{f"teacher.{name}": value for name, value in {**teacher, "budget": {"money": 0.15}}.items()},
            student={"kind": "from_config", "config": str(student_folder), "changes": {"num_hidden_layers": 1}},
            synthesis=None,
            data={"kind": "chat", "path": str(write_rows(tmp_path / "rows.jsonl", CHATS)), "sequence_tokens": 96},
            source=SOURCE,
            labels={"signal": "sparse"},
            objectives=SPARSE,
            training={"epochs": 1, "learning_rate": 1e-3, "rows_per_step": 4, "rows_per_micro_batch": 4},
        )
        poor = stillhouse("distill", path)
        assert_refused(poor, "the budget is used up", "Raise the budget")
        kept = len(read_lines(tmp_path / "run" / "answers" / "ledger.jsonl"))
        assert 0 < kept < len(CHATS)
        rich = stillhouse("distill", path, "teacher.budget.money=100")
        assert rich.code == 0, rich.err
        assert set(server.answered.values()) == {1}, "nothing is asked, or paid for, twice"
    run = tmp_path / "run"
    keys = [line["key"] for line in read_lines(run / "answers" / "ledger.jsonl")]
    assert len(keys) == len(set(keys)) > kept
    steps = [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student" and "loss" in line]
    assert steps and all(step["forward_kl"] > 0 for step in steps)
    report = (run / "report.html").read_text()
    assert "behind an API" in report and "an API tells no logits" in report
    card = (run / "student" / "README.md").read_text()
    assert "base_model" not in card and "Beside the teacher's answers" in card
    assert all(KEY.encode() not in file.read_bytes() for file in run.rglob("*") if file.is_file())
    assert KEY not in poor.err + rich.err + rich.out
    talk = stillhouse("chat", run)
    assert talk.code == 2 and "is behind an API, and chat shows models of this machine" in talk.err


def test_a_student_learns_what_a_server_says_of_texts_that_it_is_given(tmp_path, student_folder):
    with FAULT_SERVER.FaultServer(answer=Telling(student_folder)) as server:
        teacher = {
            **REMOTE,
            "key_env": None,
            "base_url": server.url,
            "tokenizer": str(student_folder),
            "concurrency": 1,
        }
        path = write_recipe(
            tmp_path,
            student_folder,
            **{f"teacher.{name}": value for name, value in {**teacher, "scores_by": "prompt_logprobs"}.items()},
            student={"kind": "from_config", "config": str(student_folder), "changes": {"num_hidden_layers": 1}},
            synthesis=None,
            data={"kind": "chat", "path": str(write_rows(tmp_path / "rows.jsonl", CHATS)), "sequence_tokens": 96},
            labels={"signal": "sparse"},
            objectives=[{"name": "forward_kl"}],
            evaluation={"control": "none", "teacher_answers": 0, "samples": 0},
            training={"epochs": 1, "learning_rate": 1e-3, "rows_per_step": 4, "rows_per_micro_batch": 4},
        )
        poor = stillhouse("label", path, "teacher.budget.tokens=120")
        assert_refused(poor, "the budget is used up", "Raise the budget")
        scores = tmp_path / "run" / "scores.jsonl"
        kept = len(read_lines(scores))
        rich = stillhouse("distill", path, "teacher.budget.tokens=100000")
        assert rich.code == 0, rich.err
        assert set(server.answered.values()) == {1}, "nothing is scored, or paid for, twice"
    lines = read_lines(scores)
    assert len({line["key"] for line in lines}) == len(lines) == len(server.answered) > kept > 0
    steps = [line for line in read_lines(tmp_path / "run" / "metrics.jsonl") if line.get("arm") == "student"]
    assert [step for step in steps if step.get("forward_kl", 0) > 0]
    assert f"{sum(line['tokens'] for line in lines):,}" in (tmp_path / "run" / "report.html").read_text()
