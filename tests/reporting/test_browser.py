"""The report as a browser shows it: it fits, its script works, and what a model wrote does nothing."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stillhouse.core.departures import Choice, Departure, Departures, TokenDeparture
from stillhouse.reporting.html import render_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium to open the report in")

HOSTILE = "<script>document.title='stolen'</script><img src=x onerror=\"document.title='stolen'\">"
LOOK = """
<script>
window.addEventListener("load", () => {
  const say = (found) => {
    const line = document.createElement("pre");
    line.id = "found";
    line.textContent = JSON.stringify(found);
    document.body.append(line);
  };
  const search = document.getElementById("sift-text");
  search.value = "Bearhugger";
  search.dispatchEvent(new Event("input", { bubbles: true }));
  const tokens = [...document.querySelectorAll(".departure:not([hidden]) .heat i")];
  tokens[0].focus();
  tokens[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  say({
    title: document.title,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    shown: document.querySelectorAll(".departure:not([hidden])").length,
    count: document.getElementById("sift-count").textContent,
    focus: tokens.indexOf(document.activeElement),
    hint: getComputedStyle(document.activeElement, "::after").content,
    dial: document.querySelector(".dial svg").getBoundingClientRect().width,
    paper: getComputedStyle(document.body).backgroundColor,
  });
});
</script>
"""


@pytest.fixture
def page(inputs, tmp_path: Path) -> Path:
    """A report with something hostile in every place where a model may write, and our own eyes in it."""
    choices = [Choice(HOSTILE, 0.6), Choice(" the", 0.2)]
    told = [TokenDeparture(f" word {HOSTILE}", 0.5 * place, choices, choices) for place in range(12)]
    other = [TokenDeparture(" Bearhugger", 1.0, choices, choices), TokenDeparture(" fox", 7.0, choices, choices)]
    found = Departures(9, [Departure(0, 3.0, 0.1, told), Departure(1, 1.0, 0.9, other)])
    text = render_report(**{**inputs, "title": HOSTILE, "result": replace(inputs["result"], departures=found)})
    # What looks at the page is let in by a policy that forbids no script: then escaping alone protects it.
    loose, num_changed = re.subn(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
    assert num_changed == 1
    file = tmp_path / "report.html"
    file.write_text(loose.replace("</body>", f"{LOOK}</body>"), encoding="utf-8")
    return file


def look(page: Path, *, width: int, options: tuple[str, ...] = ()) -> dict[str, object]:
    """What the page says of itself in a window of this width."""
    assert BROWSER is not None
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}")
    command = [BROWSER, *flags, f"--window-size={width},900", *options, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    (found,) = re.findall(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    return json.loads(found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"'))


def test_the_page_fits_its_script_works_and_what_a_model_wrote_does_nothing(page: Path):
    seen = look(page, width=1280)
    assert seen["title"] != "stolen" and "report" in seen["title"]
    assert (seen["shown"], seen["count"]) == (1, "1 of 2")
    assert seen["focus"] == 1  # the arrow key went on to the next token
    assert "teacher:" in seen["hint"] and "script" in seen["hint"]
    assert seen["wide"] <= 0
    assert seen["dial"] > 150


def test_the_page_fits_a_phone_and_follows_the_dark(page: Path):
    light = look(page, width=500)  # no narrower window is made without a screen
    dark = look(page, width=500, options=("--blink-settings=preferredColorScheme=0",))
    assert light["wide"] <= 0
    assert light["paper"] != dark["paper"]
