"""The page on Python is run, block by block, and has every command's function."""

import argparse
import os
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from little import time_little
from transformers.utils import logging as bars

import stillhouse
from stillhouse.cli import _parser
from stillhouse.commands.distillation import _no_other_bars

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE)
FOR_A_TERMINAL = {"chat", "completion", "plan", "watch"}


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_every_block_is_run_in_order(teacher_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    time_little(monkeypatch)
    shutil.copytree(teacher_folder, "teacher")
    texts = (f'{{"text": "the fox number {number} ran over the hill and sang of the sea"}}\n' for number in range(60))
    Path("texts.jsonl").write_text("".join(texts), encoding="utf-8")
    environment, names = dict(os.environ), {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert dict(os.environ) == environment
    assert len(names["curve"]) > 1 and names["verdict"] == "identical" and "chat" in names["names"]
    assert names["folder"] == Path("runs/mine/student") and names["page"].startswith("<iframe srcdoc=")
    assert names["beside"].model("student").metrics["forward_kl"].value > 0
    assert 0 < names["small"].checked.distance < 0.05
    assert "done: " in repr(names["work"]) and "Interval(" in capsys.readouterr().out


def test_the_table_has_every_command_and_every_function():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", PAGE, re.MULTILINE))
    (verbs,) = (one.choices for one in _parser()._actions if isinstance(one, argparse._SubParsersAction))
    assert verbs.keys() - FOR_A_TERMINAL <= rows.keys() <= verbs.keys()
    named = set(re.findall(r"`(\w+)\(", " ".join(rows.values()))) | {"distill_retriever", "distill_stories"}
    whole = {"Distillation", "DistillationLoss", "evaluate_models"}
    assert named | whole == set(stillhouse.__all__)
    assert all(callable(getattr(stillhouse, name)) for name in stillhouse.__all__)
    assert set(stillhouse.__all__) <= set(dir(stillhouse))


@pytest.mark.skipif(
    constants.HF_HUB_DISABLE_PROGRESS_BARS is not None, reason="the environment says whether bars are shown"
)
def test_other_bars_are_gone_while_ours_tell_and_come_back():
    before = bars.is_progress_bar_enabled()
    bars.enable_progress_bar()
    with _no_other_bars():
        assert not bars.is_progress_bar_enabled()
    assert bars.is_progress_bar_enabled()
    if not before:
        bars.disable_progress_bar()
