"""What stillhouse asks of vLLM, by a model of transformers: `test_real_vllm.py` holds it against vLLM where that is installed.

It refuses what vLLM refuses, and knows no setting but those that it is to be given.
"""

from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from stillhouse.models.generate import Sampling, sample


@dataclass
class SamplingParams:
    ignore_eos: bool
    detokenize: bool
    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop_token_ids: list[int] = field(default_factory=list)
    allowed_token_ids: list[int] | None = None
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logprob_token_ids: list[int] | None = None
    flat_logprobs: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.max_tokens, int) or self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}.")


@dataclass
class Flat:
    """vLLM's FlatLogprobs: the token that is there first, then the likeliest, of each place in turn."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    def add(self, row: torch.Tensor, own: int, top: int) -> None:
        best = row.topk(top)
        self.token_ids += [own, *best.indices.tolist()]
        self.logprobs += [float(row[own]), *best.values.tolist()]


class StandIn:
    """The engine, and all that it was asked."""

    made: ClassVar[list["StandIn"]] = []

    def __init__(self, *, model: str, max_model_len: int, dtype: str, **settings: Any) -> None:
        self.settings = {"model": model, "max_model_len": max_model_len, "dtype": dtype, **settings}
        self.asked: list[tuple[list[list[int]], Any]] = []
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        most = self.model.config.max_position_embeddings
        self.room = most if max_model_len == -1 else max_model_len
        self.is_closed = False
        core = SimpleNamespace(shutdown=self._close)
        config = SimpleNamespace(max_model_len=self.room)
        self.llm_engine = SimpleNamespace(engine_core=core, model_config=config)
        StandIn.made.append(self)

    def _close(self) -> None:
        self.is_closed = True

    def collective_rpc(self, method: str, *, kwargs: dict[str, Any]) -> list[None]:
        assert method == "reload_weights" and list(kwargs) == ["weights_iterator"]
        weights = {name: value.clone() for name, value in kwargs["weights_iterator"]}
        missing, unknown = self.model.load_state_dict(weights, strict=False)
        assert not unknown and all(name == "lm_head.weight" for name in missing)
        return [None]

    def apply_model(self, function: Any) -> list[Any]:
        return [function(self.model)]

    def generate(self, prompts: list[dict[str, list[int]]], wanted: Any, *, use_tqdm: bool) -> list[Any]:
        assert not self.is_closed and not use_tqdm
        asked = [one["prompt_token_ids"] for one in prompts]
        each = wanted if isinstance(wanted, list) else [wanted] * len(asked)
        self.asked.append((asked, each))
        return [self._answer(ids, one) for ids, one in zip(asked, each, strict=True)]

    def _answer(self, ids: list[int], wanted: SamplingParams) -> Any:
        if not ids or len(ids) + 1 > self.room:
            raise ValueError(f"The prompt of {len(ids)} tokens plus an output is longer than {self.room}.")
        allowed = wanted.allowed_token_ids
        (said,) = sample(
            self.model,
            [ids],
            sampling=Sampling(
                temperature=wanted.temperature,
                top_k=None if wanted.top_k < 1 else wanted.top_k,
                top_p=wanted.top_p,
                max_new_tokens=wanted.max_tokens,
            ),
            seed=wanted.seed or 0,
            stop_ids=set(wanted.stop_token_ids),
            vocab_size=None if allowed is None else len(allowed),
            max_tokens=self.room,
        )
        with torch.no_grad():
            rows = self.model(torch.tensor([ids + said.tokens])).logits[0].log_softmax(-1)
        output = SimpleNamespace(
            token_ids=tuple(said.tokens), logprobs=self._told(rows[len(ids) - 1 :], said.tokens, wanted)
        )
        prompt = Flat()
        for row, own in zip(rows, ids[1:], strict=False):
            if wanted.prompt_logprobs is not None:
                prompt.add(row, own, wanted.prompt_logprobs)
        return SimpleNamespace(outputs=[output], prompt_logprobs=prompt if wanted.prompt_logprobs is not None else None)

    @staticmethod
    def _told(rows: torch.Tensor, tokens: list[int], wanted: SamplingParams) -> Any:
        if wanted.logprob_token_ids is not None:
            assert wanted.logprobs is None
            known = wanted.logprob_token_ids
            return [
                {number: SimpleNamespace(logprob=float(row[number])) for number in (*known, token)}
                for row, token in zip(rows, tokens, strict=False)
            ]
        assert wanted.logprobs is not None
        if not wanted.flat_logprobs:
            assert wanted.logprobs == 0
            return [
                {token: SimpleNamespace(logprob=float(row[token]))} for row, token in zip(rows, tokens, strict=False)
            ]
        told = Flat()
        for row, token in zip(rows, tokens, strict=False):
            told.add(row, token, wanted.logprobs)
        return told


def modules() -> dict[str, ModuleType]:
    """Under which names it is imported."""
    StandIn.made = []
    vllm, distributed, state = (
        ModuleType(name) for name in ("vllm", "vllm.distributed", "vllm.distributed.parallel_state")
    )
    vllm.LLM, vllm.SamplingParams, vllm.__spec__ = StandIn, SamplingParams, ModuleSpec("vllm", None)  # type: ignore[attr-defined]
    state.cleanup_dist_env_and_memory = lambda: None  # type: ignore[attr-defined]
    return {one.__name__: one for one in (vllm, distributed, state)}
