"""What goes to the hub goes with its card, and to everybody only where that was said."""

import importlib

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from stillhouse.commands.export.command import chosen
from stillhouse.commands.export.hub import push
from stillhouse.core.errors import StillhouseError

from .conftest import assert_refused_in_one_line, stillhouse

httpx = importlib.import_module(HTTPError.__module__.partition(".")[0])  # its name is the hub's client's choice
ASKED = httpx.Request("GET", "https://huggingface.co/api")


def answer(code):
    return httpx.Response(code, request=ASKED)


class PlayedHub(HfApi):
    """A hub that holds one repository, or none, and notes what it was asked."""

    def __init__(self, *, private=None, fails=None):
        super().__init__()
        self.private, self.fails, self.asked = private, fails, []

    def whoami(self):
        if self.fails:
            raise self.fails

    def repo_info(self, repo):
        if self.private is None:
            raise RepositoryNotFoundError("none", response=answer(404))
        return self

    def create_repo(self, repo, *, private, exist_ok):
        self.asked.append(("made", repo, private, exist_ok))
        return f"https://huggingface.co/{repo}"

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns, commit_message):
        self.asked.append(("sent", repo_id, folder_path))


@pytest.fixture
def student(tmp_path):
    for name in ("config.json", "README.md", "model.safetensors", ".cache"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    return tmp_path


def test_a_student_goes_to_a_private_repository_unless_said_otherwise(student):
    hub = PlayedHub()
    done = push(student, repo="me/fox", api=hub)
    assert hub.asked == [("made", "me/fox", True, True), ("sent", "me/fox", student)]
    assert (
        done.is_private
        and done.url.endswith("me/fox")
        and done.files == ("README.md", "config.json", "model.safetensors")
    )
    hub = PlayedHub(private=True)
    assert push(student, repo="me/fox", api=hub).is_private and len(hub.asked) == 2
    hub = PlayedHub(private=False)
    assert not push(student, repo="me/fox", public=True, api=hub).is_private and hub.asked[0][2] is False


def test_a_repository_is_neither_opened_nor_filled_before_everybodys_eyes_by_accident(student):
    for private, public, mend in ((False, False, "Say --public"), (True, True, "Leave out --public")):
        hub = PlayedHub(private=private)
        with pytest.raises(StillhouseError, match=mend):
            push(student, repo="me/fox", public=public, api=hub)
        assert not hub.asked


def test_what_stands_in_the_way_is_said_and_nothing_is_sent(student):
    for fails, words in (
        (LocalTokenNotFoundError("none"), "hf auth login"),
        (httpx.ConnectError("name not known"), "cannot be reached: name not known"),
        (HfHubHTTPError("403 Forbidden\nmore", response=answer(403)), "the hub refused: 403 Forbidden$"),
    ):
        hub = PlayedHub(fails=fails)
        with pytest.raises(StillhouseError, match=words):
            push(student, repo="me/fox", api=hub)
        assert not hub.asked
    with pytest.raises(StillhouseError, match="an owner and a name"):
        push(student, repo="fox", api=PlayedHub())
    with pytest.raises(StillhouseError, match="me/fo x"):
        push(student, repo="me/fo x", api=PlayedHub())
    (student / "README.md").unlink()
    with pytest.raises(StillhouseError, match="has no README.md"):
        push(student, repo="me/fox", api=PlayedHub())
    with pytest.raises(StillhouseError, match=r"stillhouse\.push"):
        chosen("hub")


def test_the_command_says_that_the_hub_is_out_of_reach(student, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert_refused_in_one_line(stillhouse("export", student, "--to", "hub"), "--repo OWNER/NAME")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    said = stillhouse("export", student, "--to", "hub", "--repo", "me/fox")
    assert_refused_in_one_line(said, "cannot be reached")
