"""`stillhouse serve`: a student behind an OpenAI-compatible endpoint, by a server that others keep."""

import os
import shutil
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NoReturn

from huggingface_hub import constants

from stillhouse.commands import guarded
from stillhouse.commands.local_server import is_loopback
from stillhouse.core.errors import ModelError, StillhouseError
from stillhouse.core.run import RunFolder
from stillhouse.models.load import check_weights

Engine = Literal["vllm", "transformers", "llama.cpp"]
NEEDED_BY_TRANSFORMERS = ("fastapi", "uvicorn", "openai")


def show(source: str, *, engine: str, host: str, port: int) -> NoReturn:
    """Start the server in this process's place.

    Raises:
        StillhouseError: if there is nothing to serve, no server, or no free port.
    """
    model = model_of(source)
    engine = engine or default_engine(model)
    command = command_of(engine, model, host=host, port=port)
    check_port(host, port)
    if engine == "transformers":  # its list of models fails where nothing was ever fetched from the hub
        Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)
    print(f"{engine} serves {model} at http://{_in_address(host)}:{port}/v1 once it has loaded; Ctrl-C ends it.")
    if not is_loopback(host):
        print(f"--host {host}: whoever reaches this machine can ask it, without a key.", file=sys.stderr)
    sys.stdout.flush()
    os.execvp(command[0], command)


def model_of(source: str) -> str:
    """The folder or GGUF file to serve, whole, as any working directory finds it.

    Raises:
        StillhouseError: if there is none.
    """
    path = Path(source).expanduser()
    if (path / "recipe.yaml").exists():
        path = RunFolder(path).student
        if not path.exists():
            raise StillhouseError(
                f"{source} has no student yet. First: stillhouse distill {Path(source) / 'recipe.yaml'}"
            )
    elif not path.exists():
        raise StillhouseError(f"{source} is neither a run folder, nor a folder with a model, nor a GGUF file.")
    check_weights(str(path))
    return str(path.resolve())


def default_engine(model: str) -> Engine:
    """llama.cpp for its own files; else vLLM where it is installed, and what every installation has."""
    if model.endswith(".gguf"):
        return "llama.cpp"
    return "vllm" if find_spec("vllm") else "transformers"


def command_of(engine: str, model: str, *, host: str, port: int) -> list[str]:
    """What starts this engine.

    Raises:
        ModelError: if it is not installed, or does not read such a model.
    """
    is_gguf = model.endswith(".gguf")
    address = ["--host", host, "--port", str(port)]
    if is_gguf != (engine == "llama.cpp"):
        reads = "GGUF files" if engine == "llama.cpp" else "folders with safetensors"
        raise ModelError(f"--engine {engine} reads {reads}, and {model} is none.")
    match engine:
        case "llama.cpp":
            return [
                _program("llama-server", "llama.cpp (its releases and most package managers have it)"),
                "-m",
                model,
                *address,
            ]
        case "vllm":
            return [_program("vllm", "vLLM: pip install vllm"), "serve", model, *address]
        case _:
            missing = [name for name in NEEDED_BY_TRANSFORMERS if find_spec(name) is None]
            if missing:
                raise ModelError(
                    f"transformers' server needs {', '.join(missing)}, which is not installed. Run "
                    "`pip install 'stillhouse[serve]'`."
                )
            return [sys.executable, "-m", guarded.__name__, "serve", model, *address]


def _program(name: str, comes_with: str) -> str:
    """Beside this Python first, as in a virtual environment that was not activated."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise ModelError(f"the program {name} is not here. It comes with {comes_with}.")
    return found


def check_port(host: str, port: int) -> None:
    """Refuse a port that cannot be had, before a model is loaded for it.

    Raises:
        StillhouseError: naming another.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except (OSError, OverflowError) as error:
        raise StillhouseError(f"--host {host} --port {port} cannot be listened on: {error}. Name another.") from None


def _in_address(host: str) -> str:
    return f"[{host}]" if ":" in host else host
