"""`stillhouse export RUN --to hub`: a student and its card in a repository of the Hugging Face hub, by the hub's own client."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as NoAnswer  # type: ignore[attr-defined]  # whichever client the hub's is made of
from huggingface_hub.utils._validators import validate_repo_id

from stillhouse.commands.export.place import place_of
from stillhouse.core.errors import StillhouseError

CARD = "README.md"
LEFT_AT_HOME = (".*", "*/.*", "*.tmp", "*.part*")
"""Hidden files, and what an interrupted write left behind."""


@dataclass(frozen=True)
class Pushed:
    """What is on the hub now."""

    url: str
    is_private: bool
    files: tuple[str, ...]


def push(source: str | Path, *, repo: str, public: bool = False, api: HfApi | None = None) -> Pushed:
    """Put a run's student, or a model's folder, on the hub with its card: into a private repository, which is made if it is
    not there, unless `public` says otherwise. Who pushes is whoever is logged in (`hf auth login`, or `HF_TOKEN`).

    Raises:
        StillhouseError: if there is no card, nobody is logged in, the hub cannot be reached or refuses, or the repository is
            open to everybody and that was not asked for.
    """
    folder = place_of(str(source))[0]
    _check_card(folder, str(source))
    owner, _, name = repo.partition("/")
    if not owner or not name:
        raise StillhouseError(
            f"--repo {repo!r}: an owner and a name were expected, as in --repo me/{name or 'student'}."
        )
    client = api or HfApi()
    with _in_words(repo):
        validate_repo_id(repo)
        client.whoami()
        was_private = _visibility(client, repo)
        if was_private is not None and was_private == public:
            raise StillhouseError(
                f"--repo {repo} is there and is {'private' if was_private else 'public'}, and "
                f"{'public' if public else 'private'} was asked for. "
                + (
                    "Leave out --public, or open it on the hub."
                    if public
                    else "Say --public if everybody may read this."
                )
            )
        url = client.create_repo(repo, private=not public, exist_ok=True)
        client.upload_folder(
            repo_id=repo,
            folder_path=folder,
            commit_message="Upload the student and its card",
            ignore_patterns=list(LEFT_AT_HOME),
        )
    files = tuple(sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")))
    return Pushed(str(url), not public, files)


def show(source: str, *, repo: str, public: bool) -> None:
    """Push, and say where it is.

    Raises:
        StillhouseError: as `push`.
    """
    if not repo:
        raise StillhouseError("--to hub needs --repo OWNER/NAME, where the student goes.")
    done = push(source, repo=repo, public=public)
    print(f"{', '.join(done.files)}\n{'private' if done.is_private else 'public'}  {done.url}")


def _check_card(folder: Path, source: str) -> None:
    if not (folder / CARD).is_file():
        mend = f"First: stillhouse report {source}" if (Path(source) / "recipe.yaml").exists() else "Write one."
        raise StillhouseError(f"{folder} has no {CARD}: on the hub nobody would know what it is. {mend}")


def _visibility(client: HfApi, repo: str) -> bool | None:
    """Whether it is private; None where there is none yet."""
    try:
        return bool(client.repo_info(repo).private)
    except RepositoryNotFoundError:
        return None


@contextmanager
def _in_words(repo: str) -> Iterator[None]:
    try:
        yield
    except LocalTokenNotFoundError:
        raise StillhouseError("nobody is logged in to the hub. Run `hf auth login`, or set HF_TOKEN.") from None
    except HFValidationError as error:
        raise StillhouseError(f"--repo {repo!r}: {error}") from None
    except HfHubHTTPError as error:
        raise StillhouseError(f"--repo {repo}: the hub refused: {str(error).strip().splitlines()[0]}") from None
    except (OfflineModeIsEnabled, NoAnswer, ConnectionError) as error:
        raise StillhouseError(
            f"the hub cannot be reached: {str(error).strip() or type(error).__name__}. The same command tries again; what was "
            "uploaded before is not uploaded twice."
        ) from None
