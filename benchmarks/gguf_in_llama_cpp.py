"""Does llama.cpp say what transformers says of an exported GGUF file? Needs llama-cpp-python beside stillhouse."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stillhouse.commands.export.check import kl_of_rows
from stillhouse.commands.export.gguf_file import HARD_TEXT, read_gguf
from stillhouse.models.load import load_causal_lm

TEXTS = ("The capital of France is", "Once upon a time there was a fox who", HARD_TEXT)
GREEDY_TOKENS = 32


def main() -> None:
    """Print a line for each text."""
    from llama_cpp import Llama

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("student", help="the folder that was exported")
    parser.add_argument("file", type=Path, help="what `stillhouse export STUDENT --to gguf` wrote")
    options = parser.parse_args()
    loaded = load_causal_lm(options.student)
    ours = read_gguf(loaded, options.file)
    theirs = Llama(str(options.file), n_ctx=256, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False)
    for text in TEXTS:
        ids = list(loaded.tokenizer(text)["input_ids"])
        same = "same tokens" if theirs.tokenize(text.encode(), add_bos=True, special=True) == ids else "OTHER tokens"
        with torch.no_grad():
            before = ours(torch.tensor([ids])).logits[0].double().numpy()
        distance = float(kl_of_rows(before, _scores(theirs, ids)).mean())
        print(
            f"{same}, KL {distance:.1e} nats, {_together(ours, theirs, ids)} of {GREEDY_TOKENS} greedy tokens the same"
        )


def _scores(theirs: Any, ids: list[int]) -> NDArray[np.float64]:
    theirs.reset()
    theirs.eval(ids)
    return np.asarray(theirs.scores[: len(ids)], dtype=np.float64)


def _together(ours: Any, theirs: Any, ids: list[int]) -> int:
    """How many tokens both write before they part."""
    said = list(ids)
    for number in range(GREEDY_TOKENS):
        with torch.no_grad():
            token = int(ours(torch.tensor([said])).logits[0, -1].argmax())
        if token != int(_scores(theirs, said)[-1].argmax()):
            return number
        said.append(token)
    return GREEDY_TOKENS


if __name__ == "__main__":
    main()
