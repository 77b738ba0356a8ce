"""The command line: a table of verbs. Nothing heavy is imported before a verb is chosen."""

import argparse
import errno
import importlib
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from stillhouse.core.plugins import plugins

INTERRUPTED, TERMINATED = 130, 143
"""What shells expect of a program that Ctrl-C ended."""


class Verb(NamedTuple):
    """A command: the stage that it goes on to, and what it does in a line."""

    until: str
    summary: str


VERBS = {
    "distill": Verb("report", "run a recipe from beginning to end"),
    "synthesize": Verb("synthesize", "let the teacher write the data"),
    "label": Verb("label", "run the teacher over the data once and store what it says"),
    "train": Verb("train", "make the student and train it"),
    "evaluate": Verb("evaluate", "measure teacher, student and controls on held-out text"),
    "report": Verb("report", "write report.html and the student's model card"),
}

EPILOG = """Each verb first does whatever it needs that is not done yet, and nothing twice.
Stopped at any instant, the same command goes on where it was.

example: stillhouse distill recipes/demo.yaml training.learning_rate=1e-4 run=runs/mine"""


EVALUATE = """With a recipe: does whatever it needs that is not done yet, and nothing twice. With a model and --teacher:
measures any two models, whoever made them, and writes report.html, summary.md and metrics.jsonl.

examples: stillhouse evaluate recipes/demo.yaml
          stillhouse evaluate ./student --teacher HuggingFaceTB/SmolLM2-135M-Instruct --data stories.jsonl
          stillhouse evaluate ./small --teacher ./large --data reviews.csv --kind classification data.label=stars"""


REPORT = """With a recipe: does whatever it needs that is not done yet, and nothing twice. With run folders: writes one report
of them all, with quality against latency and size. Runs that differ in training.seed alone are combined.

examples: stillhouse report recipes/demo.yaml
          stillhouse report runs/small runs/large --out comparison.html"""


PLAN = """Runs every stage of the recipe on a few rows, up to ten steps of training among them, in a folder of its own that is
removed. Where the memory is not enough, it says which keys to change. After the run, `stillhouse distill` and the report
say by how much the plan was wrong. With --launch N the ten steps are made by so many processes; with --ray and --actors N,
what the teacher labels and writes is reckoned to take an Nth of the time.

example: stillhouse plan recipes/demo.yaml --price-per-hour 1.20"""


SWEEP = """Each run is an ordinary run folder below FOLDER/runs; stopped at any instant, the same command goes on. What the
teacher wrote, its labels and the controls are taken over from one run to the next where they are the same. Runs that
differ in training.epochs or synthesis.tokens and the seed alone are one curve over budgets.

example: stillhouse sweep recipes/language_model.yaml --grid student.keep=4,8 --grid training.epochs=0.25,0.5,1,2 --seeds 3"""


CHAT = (
    "Every line is asked of both, each behind its own former answers; lines may come from a pipe. "
    "/diff shows where they part, /system TEXT, /reset and /quit do what they say. Ctrl-C stops an answer, Ctrl-D ends."
)
INIT = """Asks what is not said: the teacher, what you have got, what should come out, and how long it may take. The recipe
is one of the shipped ones, with its comments; `stillhouse recipes` lists them.

examples: stillhouse init
          stillhouse init mine.yaml --teacher ./model.gguf --have chats --data chats.jsonl --out chat --time 2h"""


INIT_ANSWERS = {
    "teacher": ("MODEL", "a hub id, a folder, or a GGUF file"),
    "have": ("WHAT", "nothing, texts, chats, rows (texts with labels), pairs (of answers) or documents"),
    "data": ("FILE", "where that is"),
    "out": ("WHAT", "what should come out: of chats, for example, chat, answers or adapter"),
    "time": ("TIME", "how long it may take on this machine: 30m, 2h, 1d"),
    "questions": ("FILE", "with documents: questions about them"),
    "student": ("MODEL", "the student to begin with, where it is not made of the teacher's layers"),
}


DOCTOR = (
    "Looks at libraries, memory, threads, GPU and disk; with a recipe also at its models, tokenizers, data and masks. Loads no "
    "model and writes no run. Exit code: 0 if nothing must be mended, 1 if something must, 2 if the recipe cannot be read."
)
EXPORT = """After it was written the export is run and held beside the student: how far apart they are, how large and how fast.
One that is too far is refused, and nothing of it stays.

examples: stillhouse export runs/mine --to onnx --quantise int8
          stillhouse export ./student --to openvino --data texts.jsonl --out ./student-openvino
          stillhouse export runs/mine --to hub --repo me/student"""
SERVE = """Finds a server that is installed, and becomes it: transformers' own (pip install 'stillhouse[serve]'), vLLM where it
is installed, or llama.cpp's for a GGUF file.

example: stillhouse serve runs/mine --port 8001"""
COMPLETION = """Put it where your shell reads it:

  bash: stillhouse completion bash > ~/.local/share/bash-completion/completions/stillhouse
  zsh:  stillhouse completion zsh > ~/.zfunc/_stillhouse     (with fpath+=~/.zfunc before compinit in ~/.zshrc)
  tcsh: stillhouse completion tcsh > ~/.stillhouse.tcsh      (with source ~/.stillhouse.tcsh in ~/.tcshrc)"""
WATCH = "Reads what the run writes and changes nothing; this machine's own browser alone can see it. Ctrl-C ends it."
EXIT_CODES = "Exit code: 0 for the same tokens, 1 for others, 2 if nothing can be done."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for what the user can mend, 130 for Ctrl-C, 143 for SIGTERM, or the
    verb's own."""
    chosen = _parse(arguments)
    try:
        with _ending_in_order():
            _set_up_libraries()
            with plugins(allowed=getattr(chosen, "allow_plugins", False)):
                return _run(chosen)
    except (KeyboardInterrupt, Terminated) as end:
        print(f"\nstopped. {_what_is_left(chosen)}", file=sys.stderr)
        return TERMINATED if isinstance(end, Terminated) else INTERRUPTED
    except Exception as error:
        message = _in_the_users_words(error)
        if message is None:
            raise
        print(f"stillhouse: {message}", file=sys.stderr)
        return 2


def _what_is_left(chosen: argparse.Namespace) -> str:
    """Of a command that was stopped."""
    if getattr(chosen, "dry_run", False) or chosen.verb == "plan":
        return f"Nothing of a {'plan' if chosen.verb == 'plan' else 'dry run'} is kept."
    return "The same command goes on from here."


class Terminated(SystemExit):
    """SIGTERM came: nothing but the end of the command may answer it."""


@contextmanager
def _ending_in_order() -> Iterator[None]:
    """What a scheduler sends some time before it kills (SIGTERM) ends a command as Ctrl-C does: what is on its way is put in
    order. A thread that is not the first cannot hear it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_signal: int, _frame: object) -> None:
        raise Terminated(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked for. Overrides may also follow an option, where argparse takes no more of them by itself."""
    parser = _parser()
    chosen, more = parser.parse_known_args(arguments)
    if not hasattr(chosen, "overrides") or any(argument.startswith("-") for argument in more):
        parser.parse_args(arguments)  # says what is wrong, and leaves
    if more:
        chosen.overrides = [*chosen.overrides, *more]
    return chosen


def _run(chosen: argparse.Namespace) -> int:
    if getattr(chosen, "recipe", None):
        chosen.recipe = importlib.import_module("stillhouse.commands.shipped").found(chosen.recipe)
    match chosen.verb:
        case "recipes":
            importlib.import_module("stillhouse.commands.shipped").show(chosen.name)
        case "init":
            answers = {name: getattr(chosen, name) for name in INIT_ANSWERS}
            importlib.import_module("stillhouse.commands.init").show(chosen.file, answers, force=chosen.force)
        case "doctor":
            return int(importlib.import_module("stillhouse.commands.doctor").show(chosen.recipe, chosen.overrides))
        case "export" if chosen.to == "hub":
            importlib.import_module("stillhouse.commands.export.hub").show(
                chosen.source, repo=chosen.repo, public=chosen.public
            )
        case "export":
            importlib.import_module("stillhouse.commands.export.command").show(
                chosen.source,
                to=chosen.to,
                quantise=chosen.quantise,
                data=chosen.data,
                out=chosen.out,
                most=chosen.most,
            )
        case "serve":
            command = importlib.import_module("stillhouse.commands.serve")
            command.show(chosen.source, engine=chosen.engine, host=chosen.host, port=chosen.port)
        case "completion":
            print(importlib.import_module("stillhouse.commands.completion").script(_parser(), chosen.shell))
        case "objectives":
            importlib.import_module("stillhouse.commands.objectives").show(chosen.name)
        case "inspect":
            command = importlib.import_module("stillhouse.commands.inspect")
            command.show(chosen.recipe, chosen.overrides, num_examples=chosen.examples)
        case "chat":
            command = importlib.import_module("stillhouse.commands.chat")
            options = {name: value for name, value in vars(chosen).items() if name not in ("verb", "run")}
            command.chat(chosen.run, **options)
        case "watch":
            importlib.import_module("stillhouse.commands.watch").show(chosen.run, port=chosen.port)
        case "rag":
            command = importlib.import_module("stillhouse.commands.ask")
            command.show(chosen.run, chosen.question, who=chosen.who)
        case "tokenizers":
            command = importlib.import_module("stillhouse.commands.tokenizers")
            return int(command.show(chosen.teacher, chosen.student))
        case "evaluate" if chosen.teacher is not None or not _is_plain_recipe(chosen):
            _evaluate_models(chosen)
        case "report" if Path(chosen.recipe).is_dir():
            command = importlib.import_module("stillhouse.commands.runs_report")
            command.show([chosen.recipe, *chosen.overrides], out=chosen.out)
        case "sweep":
            command = importlib.import_module("stillhouse.commands.sweep")
            command.show(chosen.recipe, chosen.overrides, grid=chosen.grid, seeds=chosen.seeds, out=chosen.out)
        case "plan":
            importlib.import_module("stillhouse.commands.plan.command").show(
                chosen.recipe,
                chosen.overrides,
                rehearsal=chosen.rehearsal,
                price_per_hour=chosen.price_per_hour,
                memory=chosen.memory,
                means=_means(chosen),
            )
        case "synthesize" if chosen.dry_run:
            _refuse_beside_a_dry_run(chosen)
            importlib.import_module("stillhouse.commands.dry_run").dry_run(chosen.recipe, chosen.overrides)
        case _:
            command = importlib.import_module("stillhouse.commands.run")
            command.run(
                chosen.recipe,
                chosen.overrides,
                until=VERBS[chosen.verb].until,
                means=_means(chosen),
                check=getattr(chosen, "check", False),
            )
    return 0


def _means(chosen: argparse.Namespace) -> Any:
    """By what a recipe is run, of the options that this verb has."""
    return importlib.import_module("stillhouse.commands.means").Means(
        num_ranks=getattr(chosen, "launch", None),
        launch_config=getattr(chosen, "launch_config", None),
        held="sharded" if getattr(chosen, "sharded", False) else "whole",
        teacher_held=getattr(chosen, "teacher_held", "whole"),
        ray=getattr(chosen, "ray", None),
        actors=getattr(chosen, "actors", None),
    )


def _refuse_beside_a_dry_run(chosen: argparse.Namespace) -> None:
    from stillhouse.core.errors import StillhouseError

    if chosen.ray is not None or chosen.actors is not None:
        raise StillhouseError("--dry-run writes a few examples in this process. Leave --ray and --actors out.")


def _is_plain_recipe(chosen: argparse.Namespace) -> bool:
    """Whether `evaluate` was given a recipe, and nothing that only two models have."""
    return bool(chosen.recipe.endswith((".yaml", ".yml")) and not _only_for_models(chosen))


def _only_for_models(chosen: argparse.Namespace) -> list[str]:
    names = ("teacher", "data", "baseline", "kind", "suites", "out")
    return [f"--{name}" for name in names if getattr(chosen, name)]


def _evaluate_models(chosen: argparse.Namespace) -> None:
    """Any two models, without a recipe.

    Raises:
        StillhouseError: for a recipe with what two models need, and for a model without a teacher.
    """
    from stillhouse.core.errors import StillhouseError

    if chosen.recipe.endswith((".yaml", ".yml")):
        option = _only_for_models(chosen)[0]
        raise StillhouseError(
            f"{option} is for two models, and {chosen.recipe} is a recipe, which says that itself: leave {option} out, or name "
            "a model in the recipe's place."
        )
    if chosen.teacher is None:
        raise StillhouseError(
            f"evaluate takes a recipe, which is a YAML file, or a student with --teacher: {chosen.recipe!r} is neither. To "
            f"measure a model: stillhouse evaluate {chosen.recipe} --teacher TEACHER --data FILE."
        )
    importlib.import_module("stillhouse.commands.any_models").show(
        chosen.recipe,
        chosen.overrides,
        teacher=chosen.teacher,
        data=chosen.data,
        baselines=chosen.baseline,
        kind=chosen.kind or "text",
        suites=[name for name in chosen.suites.split(",") if name],
        out=chosen.out,
    )


def _parser() -> argparse.ArgumentParser:
    from stillhouse import __version__

    parser = argparse.ArgumentParser(
        prog="stillhouse",
        description="Distil a large language model into a small one, and prove how much the small one kept.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stillhouse {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_start(verbs)
    for name, verb in VERBS.items():
        added = verbs.add_parser(
            name,
            help=verb.summary,
            description=verb.summary.capitalize() + ".",
            epilog={"evaluate": EVALUATE, "report": REPORT}.get(name, EPILOG),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_recipe(added)
        if name == "evaluate":
            _add_models(added)
        if name == "report":
            help_text = "where several runs, given in the place of RECIPE, are reported on (default: comparison.html)"
            added.add_argument("--out", metavar="FILE", default="comparison.html", help=help_text)
        if name in ("distill", "train"):
            _add_launch(added)
        if name in ("distill", "train", "label", "synthesize"):
            _add_ray(added)
        if name == "label":
            help_text = (
                "fetch labels that lie elsewhere, too, and make those again that are damaged (those here always are)"
            )
            added.add_argument("--check", action="store_true", help=help_text)
        if name == "synthesize":
            added.add_argument(
                "--dry-run", action="store_true", help="show five examples and what the whole would take; keep nothing"
            )
    summary = "show what a student would learn of the data, token by token; loads no model"
    inspected = verbs.add_parser("inspect", help=summary, description=summary.capitalize() + ".")
    _add_recipe(inspected)
    inspected.add_argument("--examples", metavar="N", type=int, default=3, help="how many to print (default: 3)")
    summary = "list what a student can be asked to match, or show one of them in full"
    shown = verbs.add_parser("objectives", help=summary, description=summary.capitalize() + ".")
    shown.add_argument("name", metavar="NAME", nargs="?", help="such as forward_kl")
    summary = "say whether two models speak the same tokens, and what the way is if not"
    compared = verbs.add_parser("tokenizers", help=summary, description=f"{summary.capitalize()}. {EXIT_CODES}")
    compared.add_argument("teacher", metavar="TEACHER", help="a hub id, a folder, or a GGUF file; no weights are read")
    compared.add_argument("student", metavar="STUDENT", help="the same")
    _add_chat(verbs)
    _add_watch(verbs)
    _add_rag(verbs)
    _add_sweep(verbs)
    _add_shipping(verbs)
    _add_plan(verbs)
    summary = "print what makes a shell complete stillhouse's words"
    completed = verbs.add_parser(
        "completion",
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=COMPLETION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    completed.add_argument("shell", metavar="SHELL", choices=["bash", "zsh", "tcsh"], help="bash, zsh or tcsh")
    return parser


def _add_shipping(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What a student goes out by."""
    summary = "write a student in another format, and prove that it still says the same"
    exported = verbs.add_parser(
        "export",
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=EXPORT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    exported.add_argument("source", metavar="RUN|STUDENT", help="a run folder, or a folder with a model")
    exported.add_argument(
        "--to", metavar="FORMAT", required=True, help="gguf, onnx, openvino, safetensors or merged-lora"
    )
    exported.add_argument(
        "--quantise",
        "--quantize",
        metavar="HOW",
        default="",
        help="float32, float16, bfloat16, int8 or int4, as the format has them; for gguf q8_0, q4_1 and others",
    )
    exported.add_argument(
        "--data", metavar="FILE", default="", help="texts to compare on (default: what the run held out)"
    )
    exported.add_argument("--out", metavar="FOLDER", default="", help="where it goes (default: exports/ of the run)")
    exported.add_argument(
        "--most", metavar="X", type=float, help="the distance up to which an export is taken (default: by --quantise)"
    )
    exported.add_argument("--repo", metavar="OWNER/NAME", default="", help="of hub: where the student and its card go")
    exported.add_argument("--public", action="store_true", help="of hub: everybody may read it (default: private)")
    summary = "serve a student behind an OpenAI-compatible endpoint"
    served = verbs.add_parser(
        "serve",
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=SERVE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    served.add_argument("source", metavar="RUN|STUDENT", help="a run folder, a folder with a model, or a GGUF file")
    served.add_argument(
        "--engine",
        choices=["transformers", "vllm", "llama.cpp"],
        default="",
        help="default: the best that is installed",
    )
    served.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="to listen on (default: this machine only)"
    )
    served.add_argument("--port", metavar="N", type=int, default=8000, help="default: 8000")


def _add_start(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """What one begins with."""
    summary = "list the shipped recipes, or print one of them"
    listed = verbs.add_parser("recipes", help=summary, description=f"{summary.capitalize()}.")
    listed.add_argument("name", metavar="NAME", nargs="?", help="such as chat")
    summary = "answer four questions, and have a recipe that runs"
    begun = verbs.add_parser(
        "init",
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=INIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    begun.add_argument("file", metavar="FILE", nargs="?", default="recipe.yaml", help="to write (default: recipe.yaml)")
    for name, (metavar, meaning) in INIT_ANSWERS.items():
        begun.add_argument(f"--{name}", metavar=metavar, default="", help=meaning)
    begun.add_argument("--force", action="store_true", help="write over a file that is there")
    summary = "say whether this machine, and a recipe, are ready, and what to mend"
    examined = verbs.add_parser("doctor", help=summary, description=f"{summary.capitalize()}. {DOCTOR}")
    _add_recipe(examined, required=False)


def _add_launch(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launch", metavar="N", type=int, help="train in N processes that share each step, by `accelerate launch`"
    )
    parser.add_argument(
        "--sharded",
        action="store_true",
        help="with --launch: share the student's weights, gradients and optimiser state among the processes (FSDP2)",
    )
    teacher = parser.add_mutually_exclusive_group()
    teacher.add_argument(
        "--sharded-teacher",
        action="store_const",
        const="sharded",
        default="whole",
        dest="teacher_held",
        help="with --launch: share the weights of a teacher that answers as the student learns",
    )
    teacher.add_argument(
        "--teacher-on-ray",
        action="store_const",
        const="on_ray",
        default="whole",
        dest="teacher_held",
        help="with --ray: ask a teacher that answers as the student learns on the cluster, where actors alone load it",
    )
    parser.add_argument(
        "--launch-config",
        metavar="FILE",
        help="with --launch: a file of `accelerate config` in the place of the one that is written",
    )


def _add_ray(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let the teacher label, write and score on a Ray cluster: local begins one here, auto takes the one that runs "
        "here, or HOST:PORT",
    )
    parser.add_argument(
        "--actors",
        metavar="N",
        type=int,
        help="with --ray: how many load the teacher (default: one a GPU, or one a node)",
    )


def _add_plan(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "say what a recipe will take: tokens, memory, disk, hours and money"
    added = verbs.add_parser(
        "plan",
        help=summary,
        description=f"{summary.capitalize()}.",
        epilog=PLAN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_recipe(added)
    _add_launch(added)
    _add_ray(added)
    added.add_argument(
        "--no-rehearsal", dest="rehearsal", action="store_false", help="by shapes alone: no time, and no weight is read"
    )
    added.add_argument("--price-per-hour", metavar="X", type=float, help="of this machine, in any currency")
    added.add_argument(
        "--memory", metavar="GB", type=float, help="of the machine to plan for (default: what is free on this one)"
    )


def _add_sweep(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "run a grid of recipes, and say what all of them support together"
    swept = verbs.add_parser(
        "sweep",
        help=summary,
        description=summary.capitalize() + ".",
        epilog=SWEEP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_recipe(swept)
    swept.add_argument(
        "--grid",
        metavar="KEY=A,B",
        action="append",
        default=[],
        help="a key and its values; as often as there are keys",
    )
    swept.add_argument(
        "--seeds", metavar="N", type=int, default=1, help="run each with training.seed=0 to N-1 (default: 1)"
    )
    swept.add_argument(
        "--out", metavar="FOLDER", help="where all of it goes (default: the recipe's run folder, -sweep)"
    )


def _add_models(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("any two models", "with a model in the place of RECIPE")
    group.add_argument(
        "--teacher", metavar="MODEL", help="a hub id, a folder or a GGUF file: whom the student is held beside"
    )
    group.add_argument(
        "--baseline",
        metavar="MODEL",
        action="append",
        default=[],
        help="another model to hold beside it; up to three times",
    )
    group.add_argument("--data", metavar="FILE", help="what to measure on: all of it")
    group.add_argument(
        "--kind", metavar="KIND", default="", help="what the data is, as in a recipe: text (default), chat, ..."
    )
    group.add_argument(
        "--suites", metavar="A,B", default="", help="what is measured besides, as evaluation.suites of a recipe"
    )
    group.add_argument("--out", metavar="FOLDER", help="where the report goes (default: evaluations/...)")


def _add_chat(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "talk with a run's teacher and student, side by side"
    talk = verbs.add_parser("chat", help=summary, description=f"{summary.capitalize()}. {CHAT}")
    talk.add_argument("run", metavar="RUN", nargs="?", help="a run folder; may be left out where both models are named")
    for role in ("teacher", "student"):
        talk.add_argument(
            f"--{role}", metavar="MODEL", help=f"a hub id, a folder or a GGUF file in place of the run's {role}"
        )
    talk.add_argument("--system", metavar="TEXT", default="", help="a system prompt for both")
    talk.add_argument(
        "--temperature", metavar="T", type=float, default=0.0, help="0 takes the likeliest token (default: 0)"
    )
    talk.add_argument("--top-k", metavar="K", type=int, help="draw only from the K likeliest tokens")
    talk.add_argument(
        "--top-p", metavar="P", type=float, default=1.0, help="draw only from those that reach this share"
    )
    talk.add_argument(
        "--max-new-tokens", metavar="N", type=int, default=256, help="where an answer is cut off (default: 256)"
    )
    talk.add_argument("--seed", metavar="N", type=int, default=0, help="what is drawn depends on it (default: 0)")
    talk.add_argument("--web", action="store_true", help="in a browser of this machine, with blind votes")
    talk.add_argument("--port", metavar="N", type=int, default=8472, help="of --web; 0 takes any (default: 8472)")
    talk.add_argument(
        "--votes",
        metavar="FILE",
        help="where votes of --web go, as data of kind preferences (default: RUN/votes.jsonl)",
    )


def _add_watch(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "show a run in a browser while it goes on: progress, curves, alarms, samples"
    watched = verbs.add_parser("watch", help=summary, description=f"{summary.capitalize()}. {WATCH}")
    watched.add_argument("run", metavar="RUN", help="a run folder, whether anything works in it or not")
    watched.add_argument("--port", metavar="N", type=int, default=8471, help="0 takes any (default: 8471)")


def _add_rag(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    summary = "ask a run that answers from documents"
    rag = verbs.add_parser("rag", help=summary, description=f"{summary.capitalize()}.")
    whats = rag.add_subparsers(dest="what", required=True, metavar="WHAT")
    summary = "answer a question from the documents of a run, with its sources"
    asked = whats.add_parser("ask", help=summary, description=f"{summary.capitalize()}.")
    asked.add_argument("run", metavar="RUN", help="the folder of a run whose data is of kind rag")
    asked.add_argument("question", metavar="QUESTION", help="in quotation marks")
    asked.add_argument(
        "--who", choices=["student", "teacher"], default="student", help="who answers (default: student)"
    )


def _add_recipe(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    help_text = "a YAML file, or the name of a shipped recipe: see stillhouse recipes"
    parser.add_argument("recipe", metavar="RECIPE", nargs=None if required else "?", help=help_text)
    parser.add_argument("overrides", metavar="key=value", nargs="*", help="such as training.epochs=2 or run=runs/mine")
    parser.add_argument(
        "--allow-plugins",
        action="store_true",
        help="let the recipe run code: functions of yours that it names, and unit tests of what a model wrote",
    )


def _set_up_libraries() -> None:
    """What libraries read from the environment when they are imported; a user's own setting stays."""
    settings = {
        # Their progress bars would write across ours.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        # Threads that wait for each other by spinning hold each other up where anything else runs on the machine.
        "GOMP_SPINCOUNT": "2000",
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def _in_the_users_words(error: Exception) -> str | None:
    """One line (or one a fault) for what a user can mend; None for a fault of ours."""
    from stillhouse.core.errors import StillhouseError
    from stillhouse.core.memory import ran_out_of_memory

    if isinstance(error, StillhouseError):
        return str(error)
    if ran_out_of_memory(error):
        return (
            "memory ran out. Lower training.rows_per_micro_batch or data.sequence_tokens, or end what else runs on this "
            "machine; the same command goes on from here."
        )
    filename = error.filename if isinstance(error, OSError) else None
    match _errno_of(error):
        case errno.ENOSPC | errno.EDQUOT:
            where = f" ({filename})" if filename else ""
            return f"the disk is full{where}. Free some space; the same command goes on from here."
        case errno.EACCES | errno.EPERM | errno.EROFS:
            what = filename or "a file of this run"
            return f"{what} may not be written or read by this user. Change its permissions, or name run=FOLDER."
        case errno.ENAMETOOLONG:
            return f"the name {str(filename)[:60]!r}... is longer than the disk allows. Choose a shorter one."
        case errno.ENOTDIR | errno.EISDIR | errno.ELOOP:
            return f"{filename} is no file or no folder where one was expected. Move it away, or name another."
        case errno.EIO | errno.EFBIG:
            return f"the disk cannot take or give what is asked of it ({error}). Mend it; the same command goes on from here."
        case errno.EMFILE | errno.ENFILE:
            return "too many files are open. Raise the limit (ulimit -n); the same command goes on from here."
    return None


def _errno_of(error: Exception) -> int | None:
    """Why the operating system refused, also where a library has put it into words of its own."""
    if isinstance(error, OSError):
        return error.errno
    told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors, and all that is written in Rust
    if told:
        return int(told[1])
    # What torch.save says when its bytes do not arrive, which a full disk is the reason for.
    torch_could_not_write = ("PytorchStreamWriter failed", "iostream error", "unexpected pos")
    if isinstance(error, RuntimeError) and any(words in str(error) for words in torch_could_not_write):
        return errno.ENOSPC
    return None
