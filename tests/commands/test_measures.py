"""A recipe that asks for everything, from beginning to end, and what is refused before a model is loaded."""

import json

from stillhouse.core.files import read_lines
from stillhouse.core.results import EvaluationResult
from stillhouse.core.run import RunFolder
from stillhouse.core.suite_results import found_by

from .conftest import assert_refused, stillhouse, write_rows

PAIRS = [
    {"sentence_good": f"the fox ran {n}", "sentence_bad": f"the fox run {n}", "kind": "ab"[n % 2]} for n in range(6)
]
ASKED = [{"question": f"the girl {n}", "answer": "the girl sang again and again to the sea"} for n in range(4)]


def _suites(folder):
    pairs, asked = write_rows(folder / "pairs.jsonl", PAIRS), write_rows(folder / "asked.jsonl", ASKED)
    return {
        "control": "none",
        "samples": 0,
        "curves": {"documents": 2},
        "suites": ["tasks", "similarity", "calibration"],
        "similarity": {"prompts": 2, "max_new_tokens": 4},
        "tasks": [
            {"kind": "minimal_pairs", "path": str(pairs), "groups": "kind"},
            {"kind": "generation", "path": str(asked), "metrics": ["f1"], "max_new_tokens": 4},
        ],
    }


def test_everything_is_measured_logged_and_shown(recipe, texts_file, tmp_path):
    whole, run = _suites(tmp_path), tmp_path / "run"
    first = {**whole, "suites": ["tasks", "similarity"], "tasks": whole["tasks"][:1]}

    def asking_for(evaluation):
        return recipe({"synthesis": None, "data.path": str(texts_file), "labels": None, "evaluation": evaluation})

    said = stillhouse("distill", asking_for(first))
    assert said.code == 0, said.err
    before, (pairs,) = RunFolder(run).stages(), (run / "evaluation" / "tasks").iterdir()
    measured_at = pairs.stat().st_mtime_ns

    path = asking_for(whole)  # a finished run is asked for a task and a suite more
    said = stillhouse("distill", path)
    assert said.code == 0, said.err
    stages = RunFolder(run).stages()
    assert {name for name in stages if stages[name] != before.get(name)} == {
        *("tasks", "calibration", "contamination", "report")
    }
    assert pairs.stat().st_mtime_ns == measured_at  # what is known of the first task is not asked again
    assert "calibration" in (run / "recipe.yaml").read_text(encoding="utf-8")
    suites = {name: stages[name]["result"] for name in ("tasks", "similarity", "calibration")}
    result = EvaluationResult.from_dict({**stages["evaluate"]["result"], "suites": suites})
    found = found_by(result)
    assert [task.name for task in found["tasks"].tasks] == ["pairs", "asked"]
    assert found["similarity"].divergences[0].metrics["forward_kl"].value == 0
    assert [len(one.cka) for one in found["similarity"].layers] == [5, 5]
    assert [one["name"] for one in stages["contamination"]["sets"]] == ["held out", "pairs", "asked"]
    lines = [line for line in read_lines(run / "metrics.jsonl") if "suite" in line]
    assert {line["suite"] for line in lines} == set(suites)
    steps = [line for line in read_lines(run / "metrics.jsonl") if line.get("arm") == "student"]
    looks = [line["held_out_forward_kl"] for line in steps if "held_out_forward_kl" in line]
    assert len(looks) > 2 and looks[-1] < looks[0]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in page for name in suites)
    assert "Seen in training, too" in page
    again = stillhouse("distill", path)  # nothing is measured twice
    assert (again.code, RunFolder(run).stages()) == (0, stages)


def test_a_fault_in_a_task_is_found_before_a_model_is_loaded(recipe, texts_file, tmp_path, no_model):
    evaluation = _suites(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"sentence_good": "a"}) + "\n", encoding="utf-8")
    said = stillhouse("distill", recipe({"synthesis": None, "data.path": str(texts_file), "evaluation": evaluation}))
    assert_refused(said, "pairs.jsonl, line 1 has no 'sentence_bad'", "evaluation.tasks")


def test_tasks_that_no_suite_asks_for_are_refused(recipe, texts_file, tmp_path, no_model):
    evaluation = {**_suites(tmp_path), "suites": ["similarity"]}
    said = stillhouse("distill", recipe({"synthesis": None, "data.path": str(texts_file), "evaluation": evaluation}))
    assert_refused(said, "evaluation.suites does not name 'tasks'")
