"""Right answers are told from wrong ones, and programs run only where somebody lets them."""

import sys
import time

import pytest
from pydantic import TypeAdapter

from stillhouse.core.errors import DataError, ModelError, StillhouseError
from stillhouse.core.plugins import plugins
from stillhouse.synthesis.checkers import CheckConfig, result_of
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.unit_tests import code_of, passes


def answered(answer, **lineage):
    messages = ({"role": "user", "content": "how many?"}, {"role": "assistant", "content": answer})
    return Record(messages, lineage=lineage)


def check(**values):
    return TypeAdapter(CheckConfig).validate_python(values).build()


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("so 3 + 4 = 7\n#### 7", "7"),
        ("#### Step 1\nwe find \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{1} and then \\boxed{ 18 }", "18"),
        ("It costs $1,234.50.", "2469/2"),
        ("x = -5", "-5"),
        ("from 3-5 apples", "5"),
        ("1, 2,3", "3"),
        ("that is 1/2", "1/2"),
        ("1/0 is no number", "1/0 is no number"),
        ("Paris.", "paris"),
        ("", None),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_the_result_of_an_answer_is_found(text, result):
    assert result_of(text) == result


@pytest.mark.parametrize(
    ("answer", "reference", "is_right"),
    [
        ("He has 18 apples.", "18", True),
        ("#### $1,800.00", "She sells ...\n#### 1800", True),
        ("17 or 18", "17", False),
        ("0.5", "\\boxed{1/2}", True),
        ("5 %", "5", True),
        ("The answer is Paris", "Paris", False),
        ("  PARIS. ", "Paris", True),
        ("\\boxed{Paris}", "paris", True),
        ("the year 1066", "the year 1066", True),
        ("in 1066", "the year 1066", False),
        ("no idea", "18", False),
    ],
)
def test_an_answer_is_held_against_its_reference(answer, reference, is_right):
    assert check(kind="exact")([answered(answer, reference=reference)]) == [is_right]


def test_where_the_result_stands_may_be_told():
    record = answered("\\boxed{4}, not 5", reference="4")
    found = {read: check(kind="exact", read=read)([record])[0] for read in ("auto", "marked", "last_number", "text")}
    assert found == {"auto": True, "marked": True, "last_number": False, "text": False}
    assert check(kind="exact", read="marked")([answered("4", reference="4")]) == [False]


def test_a_question_without_a_reference_is_named():
    with pytest.raises(DataError, match="'how many\\?' has none under 'gold'"):
        check(kind="exact", reference="gold")([answered("4")])


def test_an_expression_matches_some_or_all_of_an_answer():
    records = [answered("yes, 4"), answered("4")]
    assert check(kind="regex", pattern=r"\d")(records) == [True, True]
    assert check(kind="regex", pattern=r"\d", match="whole")(records) == [False, True]


def test_the_program_of_an_answer_is_its_first_block():
    assert code_of("Here:\n```python\nx = 1\n```\nuse it:\n```python\nx\n```") == "x = 1\n"
    assert code_of("```bash\nls\n```\n```\nx = 1\n```") == "x = 1\n"
    assert code_of("x = 1") == "x = 1"


ADD = "def add(a, b):\n    return a + b\n"
TESTS = ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"]


@pytest.mark.parametrize(
    ("code", "is_right"),
    [
        (ADD, True),
        (ADD.replace("+", "-"), False),
        ("def add(a, b:", False),
        ("raise SystemExit(0)", False),
        ("import os\nos._exit(0)", False),
        (ADD + "print('x' * 100000)", True),
        (ADD + "x = bytearray(3 * 2**30)", False),
        (ADD + "open('big', 'wb').write(bytes(2**22))", False),
        (ADD + "open('small', 'w').write('x')", True),
        (ADD + "import os\nassert 'SECRET_OF_OURS' not in os.environ", True),
        (ADD + "input()", False),
        ("def add(a, b):\n    return '\udcff'", False),
    ],
)
def test_a_program_passes_only_if_all_of_it_and_every_test_runs(code, is_right, monkeypatch):
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    assert passes(code, TESTS, seconds=20) is is_right


def test_a_program_without_an_end_is_ended():
    started = time.monotonic()
    assert not passes("import time\nwhile True:\n    time.sleep(1)", [], seconds=0.5)
    assert time.monotonic() - started < 10


def test_programs_run_only_where_code_may():
    with pytest.raises(StillhouseError, match=r"choose.check.kind is 'unit_tests'.*--allow-plugins"):
        check(kind="unit_tests")
    with plugins(allowed=True):
        tests = check(kind="unit_tests", seconds=20.0)
    records = [answered(f"```python\n{ADD}```", tests=TESTS), answered("I cannot.", tests=TESTS[0])]
    assert tests(records) == [True, False]
    with pytest.raises(DataError, match="has None under 'tests'"):
        tests([answered(ADD)])


def test_a_checker_of_ones_own_says_true_or_false(tmp_path, monkeypatch):
    (tmp_path / "own_checks.py").write_text("def short(r):\n    return len(r.answer) < 3\ndef odd(r):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(StillhouseError, match="--allow-plugins"):
        check(kind="function", function="own_checks:short")
    with plugins(allowed=True):
        assert check(kind="function", function="own_checks:short")([answered("4"), answered("four")]) == [True, False]
        with pytest.raises(ModelError, match="True or False"):
            check(kind="function", function="own_checks:odd")([answered("4")])
    sys.modules.pop("own_checks", None)
