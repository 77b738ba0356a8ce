"""What does `stillhouse serve` hold? Asks a running server many things at once, and says how long each waited."""

import argparse
import asyncio
import statistics
import time

from openai import AsyncOpenAI


def main() -> None:
    """Print a line for each number of askers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="the path that `stillhouse serve` prints")
    parser.add_argument("--address", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 2, 32])
    parser.add_argument("--tokens", type=int, default=16)
    options = parser.parse_args()
    print("asked at once | answered | all after, s | median, s | worst, s | tokens/s in all")
    for number in options.at_once:
        print(asyncio.run(_held(options.address, options.model, number, options.tokens)), flush=True)


async def _held(address: str, model: str, number: int, tokens: int) -> str:
    started = time.perf_counter()
    async with AsyncOpenAI(base_url=address, api_key="none", timeout=600, max_retries=0) as client:
        found = await asyncio.gather(
            *(_asked(client, model, which, tokens) for which in range(number)), return_exceptions=True
        )
    whole = time.perf_counter() - started
    answered = [one for one in found if not isinstance(one, BaseException)]
    seconds = [one[0] for one in answered] or [float("nan")]
    said = sum(one[1] for one in answered)
    waited = f"{statistics.median(seconds):.1f} | {max(seconds):.1f}"
    return f"{number} | {len(answered)} | {whole:.1f} | {waited} | {said / whole:.1f}"


async def _asked(client: AsyncOpenAI, model: str, which: int, tokens: int) -> tuple[float, int]:
    started = time.perf_counter()
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": f"Tell story number {which}."}], max_tokens=tokens
    )
    return time.perf_counter() - started, answer.usage.completion_tokens if answer.usage else 0


if __name__ == "__main__":
    main()
