"""Which layers a student keeps: KL from the teacher before any training, for each method, and the time it takes.

The teacher writes the texts. Layers are chosen on the first and judged on others that the choice never saw.
"""

import argparse
import time

from stillhouse.core.batch import Batch
from stillhouse.data.packing import to_batch
from stillhouse.data.text import Row, to_examples
from stillhouse.models.generate import Sampling, generate
from stillhouse.models.load import LoadedModel, load_causal_lm
from stillhouse.students import layer_choice
from stillhouse.students.layer_choice import LayerMethod, choose_layers, kl_when_kept, uniform_layers
from stillhouse.synthesis.write import as_prompt

HEROES = ["fox", "girl", "fisherman", "robot", "mouse", "farmer", "knight", "owl"]


def main() -> None:
    """Print one line a method and size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("teacher")
    parser.add_argument("--keep", type=int, nargs="+", default=[24, 20, 15, 12])
    parser.add_argument("--shortlists", type=int, nargs="+", default=[3, 5, 10])
    options = parser.parse_args()
    teacher = load_causal_lm(options.teacher)
    calibration, judged = _texts(teacher)
    print(f"{int(calibration.predicts.sum())} calibration tokens, judged on {int(judged.predicts.sum())} others")
    print(f"{'keep':>4}  {'method':<18} {'nats, calibration':>17} {'nats, other text':>17} {'seconds':>8}")
    for keep in options.keep:
        uniform = uniform_layers(teacher.model.config.num_hidden_layers, keep)
        _measure(teacher, calibration, judged, keep=list(uniform), name="uniform")
        _measure(teacher, calibration, judged, keep=keep, name="block_influence")
        for shortlist in options.shortlists:
            layer_choice.GREEDY_SHORTLIST = shortlist
            _measure(teacher, calibration, judged, keep=keep, name="greedy", note=f" of {shortlist}")


def _texts(teacher: LoadedModel) -> tuple[Batch, Batch]:
    prompts = [as_prompt(teacher.tokenizer, f"Write a short story about a {hero}.") for hero in HEROES]
    ids = [teacher.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    written = generate(teacher.model, ids, sampling=Sampling(temperature=0.8, max_new_tokens=160), seed=0)
    rows = [Row(str(teacher.tokenizer.decode(w)), p, finished=False) for p, w in zip(prompts, written, strict=True)]
    examples = to_examples(rows, teacher.tokenizer, max_tokens=256)
    return to_batch([[example] for example in examples[:2]]), to_batch([[example] for example in examples[2:]])


def _measure(
    teacher: LoadedModel, calibration: Batch, judged: Batch, *, keep: int | list[int], name: str, note: str = ""
) -> None:
    started = time.perf_counter()
    method: LayerMethod = "greedy" if name == "greedy" else "block_influence"
    choice = choose_layers(teacher.model, calibration, keep=keep, method=method)
    seconds = time.perf_counter() - started
    other = kl_when_kept(teacher.model, judged, choice.kept)
    print(
        f"{len(choice.kept):>4}  {name + note:<18} {choice.start_kl_nats:>17.2f} {other:>17.2f} {seconds:>8.1f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
