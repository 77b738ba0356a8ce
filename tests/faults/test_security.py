"""What somebody else has written runs nothing, shows no secret and reaches no terminal."""

import ast
import json
import os
from functools import cache
from pathlib import Path

import pytest

import stillhouse as package
from stillhouse.core.plugins import load_function

from .harness import PLANTED, stillhouse

SOURCE = Path(package.__file__).parent
FORBIDDEN = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "torch.load",
    "subprocess.getoutput",
}
"""Calls that make code of text."""
ALLOWED = {
    ("synthesis/unit_tests.py", "subprocess.Popen"),  # only with --allow-plugins
    ("commands/plan/apart.py", "subprocess.run"),  # this Python, on a module of ours
    ("evaluation/stories/parsing.py", "subprocess.run"),  # Link Grammar's; texts are its input, never its arguments
    ("commands/launch/launcher.py", "subprocess.Popen"),
    ("commands/serve.py", "os.execvp"),  # the server that the command line names
}
"""Who starts a program, by a list of words and never by a shell."""
STARTING = ("subprocess.", "os.exec", "os.spawn", "os.posix_spawn")
LISTENING = (".listen", "socket.bind", "HTTPServer", "start_server", "create_server", "uvicorn.run")


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((str(file.relative_to(SOURCE)), ast.unparse(node.func), node))
    return found


def test_nothing_makes_code_of_text_calls_a_shell_or_trusts_a_models_code():
    for file, name, node in calls():
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (name, keywords.get("weights_only")) != ("torch.load", "True"):
            assert name not in FORBIDDEN, f"{file} calls {name}"
        assert keywords.get("shell", "False") == "False", f"{file} calls {name} with a shell"
        assert keywords.get("trust_remote_code", "False") == "False", f"{file} lets a model run code"
        assert keywords.get("allow_pickle", "False") == "False", f"{file} reads pickled objects"
        assert name != "yaml.load" or file == "core/yaml_text.py", f"{file} reads YAML in a way of its own"
        assert not name.startswith(STARTING) or (file, name) in ALLOWED, f"{file} calls {name}"


def test_one_place_listens_and_to_this_machine_alone():
    found = [(file, node) for file, name, node in calls() if name.endswith(LISTENING)]
    assert [file for file, _ in found] == ["commands/local_server.py"]
    address = ast.unparse(found[0][1].args[0])
    assert "LOOPBACK" in address or "127.0.0.1" in address, address


def test_a_planted_secret_is_in_no_file_of_a_run_and_in_nothing_that_was_said(undisturbed):
    kept = [file for file in undisturbed.folder.parent.rglob("*") if file.is_file()]
    assert len(kept) > 20
    for file in kept:
        content = file.read_bytes()
        assert not any(secret.encode() in content for secret in PLANTED.values()), file


def test_a_function_of_a_recipe_runs_only_where_it_was_let():
    with pytest.raises(ValueError, match="a recipe alone never runs code.*--allow-plugins"):
        load_function("os:getcwd", key="synthesis.choose.reward")


def test_no_recipe_can_allow_itself_to_run_code(recipe):
    for key in ("allow_plugins", "allow-plugins", "plugins", "trust_remote_code"):
        said = stillhouse("distill", recipe(), f"{key}=true")
        assert said.code == 2 and f"{key}: there is no such key" in said.err
        said = stillhouse("distill", recipe(), f"teacher.{key}=true")
        assert said.code == 2 and f"teacher.{key}: there is no such key" in said.err


HOSTILE = "\x1b]0;stolen\x07\x1b[2J\x9b31m\x08\x7f<script>alert(1)</script> $(touch stolen) `touch stolen`; touch stolen [bold]"


def test_what_data_says_reaches_no_terminal_and_no_shell(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"{HOSTILE} number {number}"} for number in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {"synthesis": None, "labels": None, "data": {"path": str(tmp_path / "rows.jsonl"), "held_out": 0.25}}
    said = stillhouse("inspect", recipe(changes))
    assert said.code == 0, said.err
    assert "stolen" in said.out
    for text in (said.out, said.err):
        assert not any(sign in text for sign in "\x1b\x07\x9b\x08\x7f"), repr(text)
    assert not os.path.lexists(tmp_path / "stolen")
    (tmp_path / "rows.jsonl").write_text(f'{{"body": "{HOSTILE}"}}\n')  # no JSON: a control character is none in it
    said = stillhouse("inspect", recipe(changes))
    assert said.code == 2
    assert not any(sign in said.err for sign in "\x1b\x07\x9b\x08\x7f"), repr(said.err)
