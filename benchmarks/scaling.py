"""What to run on one GPU, on eight, on a hundred nodes: hours, storage and network by a cost model, and a simulation beside it.

Nothing is run but arithmetic and a queue of events. Constants were measured by the command or are published at the place named
beside each; what a cluster's own are is a matter of options.
"""

import argparse
import heapq
import random
from dataclasses import dataclass

# Published: NVIDIA H100 SXM data sheet, without sparsity; of NVLink's 900 GB/s, one way.
GPU_BF16_FLOPS, GPU_FP32_FLOPS, GPU_BYTES, NVLINK = 989e12, 67e12, 80e9, 450e9
GPUS_A_NODE, NODE_NETWORK = 8, 400e9
"""Eight 400 Gb/s ports a node, as NVIDIA DGX H100 has, in bytes a second."""
MFU = 0.40
"""Of the peak, what large trainings reach: 38 to 43 % (Llama 3, arXiv:2407.21783, table 4)."""
NODE_HOURS_BETWEEN_FAILURES = 54 * 24 / 419 * 2048
"""419 unexpected stops in 54 days of 16,384 GPUs, 2,048 nodes: the same, section 3.3.4."""
RESTART_SECONDS = 300.0
"""Until a worker that was lost has loaded its teacher again: an assumption."""

# Measured: benchmarks/labels.py, in docs/memory-and-speed.md.
SAMPLED_BYTES, SPARSE_BYTES = 30.1, 79.8

FLOAT, MOMENTS = 4, 8
SHARD_TOKENS = 16_384
LENGTH_SPREAD = 0.25
"""Standard deviation of a shard's time, as a share of its mean: an assumption, which only the tail depends on."""


@dataclass(frozen=True)
class Teacher:
    """What counts of a teacher."""

    name: str
    parameters: float
    active: float
    """Parameters that a token passes."""
    bytes_each: float
    """Of a weight, as it is served."""


@dataclass(frozen=True)
class Cluster:
    """What counts of a cluster, and how much text is worth its while."""

    name: str
    gpus: int
    tokens: float


TEACHERS = (
    (Teacher("1B", 1.24e9, 1.24e9, 2), 0.5e9),  # Llama 3.2 1B
    (Teacher("70B", 70.6e9, 70.6e9, 2), 3.2e9),  # Llama 3 70B
    (Teacher("1T", 1.04e12, 32e9, 1), 3.2e9),  # Kimi K2, a mixture of experts, served in 8 bits: arXiv:2507.20534
)
"""And the parameters of a student for each."""

CLUSTERS = (Cluster("1 GPU", 1, 1e8), Cluster("8 GPUs", 8, 1e9), Cluster("100 nodes", 800, 1e11))


@dataclass(frozen=True)
class Cost:
    """What a distillation takes."""

    gpus_a_teacher: int
    label_hours: float
    train_hours: float
    label_bytes: float
    step_network_share: float
    """Of a step's time, what exchanging gradients takes beside computing."""
    student_fits: bool


def gpus_a_teacher(teacher: Teacher) -> int:
    """The fewest GPUs, a power of two, whose memory holds it with a quarter left over for what it computes."""
    needed = teacher.parameters * teacher.bytes_each / (0.75 * GPU_BYTES)
    gpus = 1
    while gpus < needed:
        gpus *= 2
    return gpus


def label_seconds(teacher: Teacher, tokens: float, gpus: int) -> float:
    """To read so many tokens once: 2 operations a weight and token (Kaplan et al., 2020, arXiv:2001.08361, section 2.1)."""
    return tokens * 2 * teacher.active / (gpus * GPU_BF16_FLOPS * MFU)


def step_seconds(student: float, tokens_a_gpu: float, gpus: int, peak: float) -> tuple[float, float]:
    """To compute one step, and to exchange its gradients: a ring sends each of them twice, and nodes share their network."""
    computing = tokens_a_gpu * 6 * student / (peak * MFU)
    if gpus == 1:
        return computing, 0.0
    nodes = max(1, gpus // GPUS_A_NODE)
    bandwidth = NODE_NETWORK if nodes > 1 else NVLINK
    return computing, 2 * (gpus - 1) / gpus * student * FLOAT / bandwidth


def cost(
    teacher: Teacher, student: float, cluster: Cluster, *, epochs: float, row_tokens: int, peak: float
) -> Cost | None:
    """By closed form; None where the teacher does not fit."""
    per_teacher = gpus_a_teacher(teacher)
    if per_teacher > cluster.gpus:
        return None
    used = cluster.gpus // per_teacher * per_teacher
    tokens_a_gpu = 8 * row_tokens
    computing, exchanging = step_seconds(student, tokens_a_gpu, cluster.gpus, peak)
    steps = epochs * cluster.tokens / (tokens_a_gpu * cluster.gpus)
    return Cost(
        per_teacher,
        label_seconds(teacher, cluster.tokens, used) / 3600,
        steps * max(computing, exchanging) / 3600,
        cluster.tokens * SAMPLED_BYTES,
        exchanging / computing,
        student * (2 * FLOAT + MOMENTS) < 0.75 * GPU_BYTES,
    )


def expected_label_seconds(teacher: Teacher, tokens: float, gpus: int, *, failures: float = 1.0) -> float:
    """The closed form, with what waiting for the last shard and losing nodes add."""
    per_teacher = gpus_a_teacher(teacher)
    workers = gpus // per_teacher
    shard = label_seconds(teacher, SHARD_TOKENS, per_teacher)
    alone = label_seconds(teacher, tokens, workers * per_teacher)
    failures_a_second = failures * max(1, per_teacher // GPUS_A_NODE) / (NODE_HOURS_BETWEEN_FAILURES * 3600)
    away = RESTART_SECONDS - RESTART_SECONDS**2 / (2 * alone) if alone > RESTART_SECONDS else alone / 2
    lost = failures_a_second * (shard / 2 + away)  # others go on meanwhile, and to the end at most is it missed
    return alone * (1 + lost) + shard / 2


def simulated_label_seconds(
    teacher: Teacher, tokens: float, gpus: int, *, seed: int, failures: float = 1.0
) -> tuple[float, int]:
    """Workers take shard after shard; one that is lost comes back later, and its shard is done again. Seconds, and shards
    that were done twice."""
    chance = random.Random(seed)
    per_teacher = gpus_a_teacher(teacher)
    workers, mean = gpus // per_teacher, label_seconds(teacher, SHARD_TOKENS, per_teacher)
    between = NODE_HOURS_BETWEEN_FAILURES * 3600 / max(1, per_teacher // GPUS_A_NODE) / failures
    left, repeated, end = round(tokens / SHARD_TOKENS), 0, 0.0
    free = [(0.0, worker) for worker in range(workers)]
    heapq.heapify(free)
    while left:
        now, worker = heapq.heappop(free)
        takes = mean * max(0.1, chance.gauss(1, LENGTH_SPREAD))
        fails = chance.expovariate(1 / between)
        if fails < takes:
            repeated += 1
            heapq.heappush(free, (now + fails + RESTART_SECONDS, worker))
            continue
        left -= 1
        end = max(end, now + takes)
        heapq.heappush(free, (now + takes, worker))
    return end, repeated


def main() -> None:
    """Print the table, and the simulation beside the closed form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--row-tokens", type=int, default=2048)
    parser.add_argument("--price", type=float, default=0.0, help="of a GPU-hour, in any currency")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(
        "teacher  cluster     tokens  GPUs/teacher  label h  train h (float32)  train h (bf16)  labels     network  student"
    )
    for teacher, student in TEACHERS:
        for cluster in CLUSTERS:
            _print(teacher, student, cluster, options)
    print(
        "\nlabelling, closed form beside simulation (shards of 16,384 tokens, nodes lost as often as in Llama 3's training)"
    )
    for teacher, _ in TEACHERS:
        for cluster in CLUSTERS:
            if gpus_a_teacher(teacher) <= cluster.gpus:
                _simulate(teacher, cluster, seeds=options.seeds)


def _print(teacher: Teacher, student: float, cluster: Cluster, options: argparse.Namespace) -> None:
    head = f"{teacher.name:<8} {cluster.name:<10} {cluster.tokens:>7.0e}"
    shape = {"epochs": options.epochs, "row_tokens": options.row_tokens}
    slow, fast = (cost(teacher, student, cluster, peak=peak, **shape) for peak in (GPU_FP32_FLOPS, GPU_BF16_FLOPS))
    if slow is None or fast is None:
        print(f"{head}  {gpus_a_teacher(teacher):>12}  does not fit")
        return
    fits = "fits" if slow.student_fits else "too large for one GPU"
    money = ""
    if options.price:
        money = f"  {options.price * cluster.gpus * (slow.label_hours + slow.train_hours):,.0f}"
    print(
        f"{head}  {slow.gpus_a_teacher:>12}  {slow.label_hours:>7.2f}  {slow.train_hours:>17.2f}  {fast.train_hours:>14.2f}  "
        f"{slow.label_bytes / 1e9:>6,.0f} GB  {slow.step_network_share:>6.1%}  {fits}{money}"
    )


def _simulate(teacher: Teacher, cluster: Cluster, *, seeds: int) -> None:
    tokens = min(cluster.tokens, 5e8)  # thirty thousand shards are enough to compare
    for failures in (1.0, 10_000.0):
        expected = expected_label_seconds(teacher, tokens, cluster.gpus, failures=failures)
        found = [
            simulated_label_seconds(teacher, tokens, cluster.gpus, seed=seed, failures=failures)
            for seed in range(seeds)
        ]
        mean = sum(seconds for seconds, _ in found) / len(found)
        repeated = sum(number for _, number in found) / len(found)
        print(
            f"{teacher.name:<8} {cluster.name:<10} {tokens:>7.0e} tokens, failures x {failures:<6,.0f} {expected:>10,.1f} s by "
            f"formula, {mean:>10,.1f} s simulated ({mean / expected - 1:+.1%}), {repeated:.1f} shards done again"
        )


if __name__ == "__main__":
    main()
