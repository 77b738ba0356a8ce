"""vLLM as the one who writes: for a student on a GPU, whose weights it is given anew before every step's answers."""

import math
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

from transformers import PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.models.anatomy import text_config
from stillhouse.models.generate import Continuation, Sampling, stop_ids_of

MEMORY_SHARE = 0.3
"""Of the GPU that vLLM may fill: training needs the rest."""


def check_vllm() -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        ModelError: if vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise ModelError(
            "source.engine is vllm, but vllm is not installed here. Install it (pip install vllm), or leave source.engine out."
        )


class VllmEngine:
    """Writes as `stillhouse.models.generate.sample` does, with vLLM's kernels and its own random numbers.

    The same seed, prompt and number give the same draws, but vLLM's sums depend on the batch: a run that goes on after a kill
    need not end with the same bytes.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, *, max_tokens: int, batch_size: int) -> None:
        """Begin from the architecture in `folder`, where `model` was loaded from."""
        check_vllm()
        os.environ.setdefault(
            "VLLM_ENABLE_V1_MULTIPROCESSING", "0"
        )  # so that weights are handed over within this process
        from vllm import LLM

        self.llm: Any = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=str(model.dtype).removeprefix("torch."),
            max_model_len=max_tokens,
            max_num_seqs=batch_size,
            gpu_memory_utilization=MEMORY_SHARE,
            enable_prefix_caching=False,  # what is kept of a prompt is of the weights of another step
            logprobs_mode="raw_logprobs",  # at temperature 1, with no token left out
        )

    def __call__(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        *,
        sampling: Sampling,
        seed: int | str,
        numbers: Sequence[int] | None = None,
        stop_ids: set[int] | None = None,
        vocab_size: int | None = None,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        advance: Callable[[int], None] = lambda num_tokens: None,
    ) -> list[Continuation]:
        """What the model, as it is now, writes after each prompt. How many at once, the engine was told when it was made."""
        if not prompts:
            return []
        self._push(model)
        stops = stop_ids_of(model) if stop_ids is None else stop_ids
        allowed = None if vocab_size is None or vocab_size >= text_config(model).vocab_size else range(vocab_size)
        wanted = [
            _parameters(
                sampling,
                seed=Random(f"{seed}, prompt {number}").getrandbits(31),
                stops=stops,
                allowed=allowed,
                room=None if max_tokens is None else max_tokens - len(prompt),
            )
            for number, prompt in zip(numbers or range(len(prompts)), prompts, strict=True)
        ]
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        written = [_continuation(answer) for answer in self.llm.generate(asked, wanted, use_tqdm=False)]
        advance(sum(len(one.tokens) for one in written))
        return written

    def _push(self, model: PreTrainedModel) -> None:
        """Let vLLM have the weights as they are now; a tied head goes with its embeddings."""
        weights = [(name, parameter.detach()) for name, parameter in model.named_parameters()]

        def take(theirs: Any) -> None:
            theirs.load_weights(weights)

        self.llm.apply_model(take)


def _parameters(
    sampling: Sampling, *, seed: int, stops: set[int], allowed: Sequence[int] | None, room: int | None
) -> Any:
    """One prompt's sampling, in vLLM's words."""
    from vllm import SamplingParams

    most = sampling.max_new_tokens
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=-1 if sampling.top_k is None else sampling.top_k,
        top_p=sampling.top_p,
        max_tokens=most if room is None else min(most, room),
        stop_token_ids=sorted(stops),
        ignore_eos=True,  # only the tokens above end a text
        allowed_token_ids=None if allowed is None else list(allowed),
        seed=seed,
        logprobs=0,  # of the token that was drawn, and no other
        detokenize=False,
    )


def _continuation(answer: Any) -> Continuation:
    """The tokens of one answer, its stop token included, with what the model gave each; how likely each was to be drawn, vLLM
    does not say.
    """
    (said,) = answer.outputs
    tokens = list(said.token_ids)
    logprobs = [given[token].logprob for token, given in zip(tokens, said.logprobs, strict=True)]
    return Continuation(tokens, logprobs, [math.nan] * len(tokens))
