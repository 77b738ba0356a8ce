"""`stillhouse watch`: a run in a browser, to nobody but this machine's own pages."""

import http.client
import json
import shutil
import subprocess
import threading
from contextlib import closing, contextmanager

import pytest

from stillhouse.commands.local_server import LARGEST_BODY_BYTES, Reply, listen, refusal
from stillhouse.commands.watch import Watching
from stillhouse.core.life import Kept
from stillhouse.core.progress import SILENT
from stillhouse.core.run import RunFolder

from .conftest import assert_refused_in_one_line, stillhouse

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
HOSTILE = "<script>document.title='stolen'</script><img src=x onerror=\"document.title='stolen'\">"


@contextmanager
def served(site):
    """The site on a port of its own."""
    with listen(site, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(port, path="/", *, method="GET", body=None, **headers):
    """The status and the body of one request."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = connection.getresponse()
        return reply.status, reply.read().decode()


def in_a_browser(address, folder, *options):
    """The page after its script has run."""
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}")
    command = [BROWSER, *flags, "--window-size=500,900", "--virtual-time-budget=3000", *options, "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


@pytest.fixture
def run(tmp_path):
    """A folder in which a student learns."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.recipe.write_text("teacher: {model: some/teacher}\nstudent: {kind: from_layers, keep: 3}\n")
    folder.event("started", stage="train")
    for step in (1, 2, 3):
        folder.log(arm="student", step=step, tokens=64.0 * step, forward_kl=3.0 / step, loss=3.0 / step)
    folder.event("alarm", step=2, alarm="answers_grow", says=HOSTILE)
    for who in ("teacher", "student"):
        with (folder.path / "held_out_answers.jsonl").open("a") as file:
            file.write(json.dumps({"who": who, "step": 3, "asked": "2 + 2?", "answer": f"Four. {HOSTILE}"}) + "\n")
    return folder


def test_a_request_counts_only_if_it_is_this_servers_own_pages():
    own = {"Host": "127.0.0.1:80"}
    assert refusal(own, port=80) == "" == refusal({"Host": "localhost:80", "Origin": "http://localhost:80"}, port=80)
    assert refusal({**own, "Sec-Fetch-Site": "same-origin"}, port=80) == ""
    for strange in (
        {},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1:81"},
        {"Host": "rebound.example:80"},
        {**own, "Origin": "http://evil.example"},
        {**own, "Origin": "null"},
        {**own, "Origin": "https://127.0.0.1:80"},
        {**own, "Sec-Fetch-Site": "cross-site"},
    ):
        assert refusal(strange, port=80), strange


def test_a_run_is_shown_as_it_grows_and_never_written_to(run):
    before = sorted(path.name for path in run.path.rglob("*"))
    with served(Watching(run)) as port:
        status, page = ask(port)
        assert status == 200 and "some/teacher" in page and "from layers, keep 3" in page
        assert "forward KL to the teacher" in page and "Stopped during train" in page and "Four." in page
        assert "<script>document" not in page and "<img" not in page
        assert "http://" not in page and "https://" not in page  # nothing is fetched from elsewhere
        run.log(arm="student", step=4, tokens=256.0, forward_kl=0.5, loss=0.5)
        status, parts = ask(port, "/now")
        assert status == 200 and "student ends at 0.500" in json.loads(parts)["curves"]
        assert (
            ask(port, "/recipe.yaml")[0] == ask(port, "/../run/recipe.yaml")[0] == ask(port, "/report.html")[0] == 404
        )
        assert ask(port, Host="rebound.example")[0] == ask(port, Origin="http://evil.example")[0] == 403
        assert ask(port, method="PUT")[0] == 501
        json_kind = {"Content_Type": "application/json"}
        assert ask(port, method="POST", body="{}", Content_Type="text/plain")[0] == 415
        assert ask(port, method="POST", body="[]", **json_kind)[0] == ask(port, method="POST", body="{", **json_kind)[0]
        huge = str(LARGEST_BODY_BYTES + 1)
        assert ask(port, method="POST", Content_Length=huge, **json_kind)[0] == 413
        assert ask(port, method="POST", body="{}", **json_kind)[0] == 404
    assert sorted(path.name for path in run.path.rglob("*")) == before


def test_a_run_that_ends_or_works_says_so(run):
    site = Watching(run)
    with Kept(SILENT, run.path) as kept:
        kept.stage("train", "the student learns")
        kept.start("student learns", 12, "steps")
        page = site.get("/").body.decode()
        assert "At work" in page and "Student learns" in page and "0 of 12 steps" in page
    assert "The run has ended" in site.get("/").body.decode()


def test_what_is_no_run_and_a_port_that_is_taken_are_refused_in_one_line(run, tmp_path):
    assert_refused_in_one_line(stillhouse("watch", tmp_path / "gone"), "is no run folder: it has no recipe.yaml")
    with served(Watching(run)) as port:
        assert_refused_in_one_line(
            stillhouse("watch", run.path, "--port", port), f"--port {port} cannot be listened on"
        )


@pytest.mark.skipif(BROWSER is None, reason="there is no chromium to open the page in")
def test_a_browser_draws_what_has_come_since(run, tmp_path):
    class Later(Watching):
        """A run in which something happens once its page is loaded."""

        def get(self, path: str) -> Reply | None:
            reply = super().get(path)
            if path == "/":
                run.log(arm="student", step=4, tokens=256.0, forward_kl=0.123, loss=0.123)
            return reply

    with served(Later(run)) as port:
        page = in_a_browser(f"http://127.0.0.1:{port}/", tmp_path)
    assert "student ends at 0.123" in page and "<title>run · stillhouse</title>" in page
