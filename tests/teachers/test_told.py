"""What a server tells of likely tokens becomes labels like those of a model in this process."""

import math

import pytest
import torch
from torch.testing import assert_close

from stillhouse.core.config import parse_recipe
from stillhouse.core.errors import ModelError
from stillhouse.core.files import read_lines
from stillhouse.core.label_store import key_of
from stillhouse.core.signals import SparseLogprobs, Wanted
from stillhouse.data.packing import to_batch
from stillhouse.labelling import Sparse, label
from stillhouse.models.generate import Sampling
from stillhouse.models.token_bytes import token_bytes
from stillhouse.objectives.divergences import forward_kl
from stillhouse.objectives.sparse import in_buckets
from stillhouse.teachers import (
    LocalTeacher,
    RemoteWriter,
    RemoteWriterConfig,
    Reply,
    Request,
    StoredTeacher,
    TokenNames,
    ToldTeacher,
    scoring_teacher,
)
from stillhouse.teachers.told import sparse_of

from .fault_server import FaultServer

VOCAB = 300
TOP = 12
LOGITS = Wanted(logits=True)
ASKED = Request(
    seed="0", sampling=Sampling(max_new_tokens=6), messages=({"role": "user", "content": "sing"},), top_logprobs=TOP
)


@pytest.fixture(scope="module")
def model(build_model):
    return build_model("llama", layers=2, vocab=VOCAB)


@pytest.fixture(scope="module")
def examples(build_example):
    return [build_example(seed, 4 + 3 * seed) for seed in range(4)]


@pytest.fixture
def names(tokenizer):
    return TokenNames(tokenizer)


class Serving:
    """A model behind an API, as several servers tell log-probabilities."""

    def __init__(self, model, tokenizer, form):
        self.model, self.tokenizer, self.form, self.spelt = model, tokenizer, form, token_bytes(tokenizer)

    def logprobs(self, ids):
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)

    def name(self, number):
        spelt = self.spelt[number]
        if spelt is None:
            return str(self.tokenizer.convert_ids_to_tokens(number))
        try:
            return spelt.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)

    def entry(self, number, logprob):
        spelt = self.spelt[number]
        told = {"token": self.tokenizer.decode([number]), "logprob": logprob, "bytes": spelt and list(spelt)}
        if spelt is None:
            told["token"] = self.name(number)
        return {"id": number, **told} if self.form == "ids" else told

    def __call__(self, path, body):
        return self.chat(body) if "messages" in body else self.score(body)

    def chat(self, body):
        prompt = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        ids = list(self.tokenizer(prompt, add_special_tokens=False)["input_ids"])
        num_prompt, content = len(ids), []
        for _ in range(body["max_tokens"]):
            row = self.logprobs(ids)[-1]
            best = row.topk(body["top_logprobs"])
            chosen = int(best.indices[len(content) % 3])
            tops = [self.entry(int(n), float(v)) for v, n in zip(*best, strict=True)]
            content.append({**self.entry(chosen, float(row[chosen])), "top_logprobs": tops})
            ids.append(chosen)
        text = self.tokenizer.decode(ids[num_prompt:])
        choice = {
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length",
            "logprobs": {"content": content},
        }
        return {"choices": [choice], "usage": {"prompt_tokens": num_prompt, "completion_tokens": len(content)}}

    def score(self, body):
        ids = body["prompt"]
        rows = self.logprobs(ids)
        tops = [rows[place - 1].topk(TOP) for place in range(1, len(ids))]
        usage = {"prompt_tokens": len(ids), "completion_tokens": 0}
        if "prompt_logprobs" in body:
            told = [
                {str(int(n)): {"logprob": float(v), "rank": 1} for v, n in zip(*best, strict=True)}
                | {str(ids[place]): {"logprob": float(rows[place - 1][ids[place]])}}
                for place, best in enumerate(tops, start=1)
            ]
            return {"choices": [{"text": "x", "prompt_logprobs": [None, *told]}], "usage": usage}
        told = [{self.name(int(n)): float(v) for v, n in zip(*best, strict=True)} for best in tops]
        own = [float(rows[place - 1][ids[place]]) for place in range(1, len(ids))]
        logprobs = {
            "tokens": [self.name(n) for n in ids],
            "token_logprobs": [None, *own],
            "top_logprobs": [None, *told],
        }
        return {"choices": [{"text": "x", "logprobs": logprobs}], "usage": usage}


def writer_of(server, tokenizer_folder, **settings):
    plain = {"base_url": server.url, "model": "m", "tokenizer": str(tokenizer_folder), **settings}
    return RemoteWriter(parse_recipe(RemoteWriterConfig, plain), environment={})


@pytest.fixture(scope="module")
def tokenizer_folder(tokenizer, model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def labelled(teacher, examples, folder, **settings):
    recorder = Sparse(VOCAB, min_probability=0.0, **settings)
    label(teacher, examples, folder, made_from="x", row_tokens=32, recorder=recorder)
    return StoredTeacher(folder)


@pytest.mark.parametrize("scores_by", ["prompt_logprobs", "echo"])
def test_a_scoring_server_gives_the_labels_of_the_model_behind_it(
    scores_by, model, tokenizer, examples, tokenizer_folder, tmp_path
):
    """Row t is what predicts token t + 1: the server's is told at t + 1, and its first is null."""
    theirs = labelled(LocalTeacher(model), examples, tmp_path / "local", most=TOP)
    with FaultServer(
        answer=Serving(model, tokenizer, "names"), share=0.3, faults=("500", "bad_json"), seed=5
    ) as server:
        writer = writer_of(server, tokenizer_folder, scores_by=scores_by, retries=10)
        teacher = scoring_teacher(writer, tmp_path / "scores.jsonl", top=TOP)
        ours = labelled(teacher, examples, tmp_path / "remote", most=TOP)
        assert set(server.answered.values()) == {1}, "a text that was scored was asked for again"
        again = scoring_teacher(writer_of(server, tokenizer_folder), tmp_path / "scores.jsonl", top=TOP)
        assert again.signals(to_batch([[examples[0]]]), LOGITS).logits is not None, "from the file alone"
    lines = read_lines(tmp_path / "scores.jsonl")
    assert writer.spending.spent.tokens >= sum(line["tokens"] for line in lines) >= sum(len(e.ids) for e in examples)
    for example in examples:
        batch = to_batch([[example]])
        one, other = (teacher.signals(batch, LOGITS).logits for teacher in (theirs, ours))
        kept = other.logprobs[0, :-1] > -torch.inf
        # The token itself is told even where it is none of the likeliest.
        wide_one, wide_other = (_spread(told)[0, :-1] for told in (one, other))
        told_by_both = (wide_one > -torch.inf) & (wide_other > -torch.inf)
        assert int(told_by_both.sum()) >= TOP * (len(example.ids) - 1) - 1 and kept.any(-1).all()
        assert_close(wide_one[told_by_both], wide_other[told_by_both], atol=0.12, rtol=0)  # six bits a logit, twice
        assert_close(other.logprobs.exp().sum(-1) + other.tail.exp(), torch.ones(1, len(example.ids)))
        assert other.tail[0, -1] == 0 and not (other.logprobs[0, -1] > -torch.inf).any(), (
            "nothing is known behind the end"
        )


def _spread(told):
    return torch.full((*told.ids.shape[:-1], VOCAB), -torch.inf).scatter(-1, told.ids, told.logprobs)


@pytest.mark.parametrize("form", ["names", "ids"])
def test_what_is_told_of_an_answer_teaches_what_the_model_itself_would(form, model, tokenizer, tokenizer_folder, names):
    serving = Serving(model, tokenizer, form)
    with FaultServer(answer=serving) as server:
        reply = next(writer_of(server, tokenizer_folder).write([ASKED]))[1]
    assert reply.logprob == pytest.approx(sum(place[0][1] for place in reply.top_logprobs))
    prompt = tokenizer.apply_chat_template(list(ASKED.messages), tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    ids, places = names.document_of(prompt_ids, ASKED, reply, end=tokenizer.eos_token_id)
    assert tokenizer.decode(list(ids[len(prompt_ids) :])) == reply.text
    told = sparse_of(places, vocab_size=VOCAB)
    exact = serving.logprobs(list(ids))
    first, last = len(prompt_ids) - 1, len(ids) - 2
    for row in range(first, last + 1):
        used = told.logprobs[row] > -torch.inf
        assert used.sum() == TOP
        assert_close(told.logprobs[row][used], exact[row][told.ids[row][used]])
        others = 1 - exact[row][told.ids[row][used]].exp().sum()
        assert_close(told.tail[row].exp(), others, atol=1e-6, rtol=1e-4)
    # A student that says what the teacher says has nothing to learn, and of the prompt nobody can learn anything.
    student, teacher = in_buckets(exact, told)
    assert_close(forward_kl(student, teacher), torch.zeros(len(ids)), atol=1e-5, rtol=0)
    student, teacher = in_buckets(torch.randn(len(ids), VOCAB), told)
    losses = forward_kl(student, teacher)
    assert_close(losses[:first], torch.zeros(first), atol=1e-6, rtol=0)
    assert (losses[first : last + 1] > 0.1).all()


def test_a_finished_answer_has_its_end_and_nothing_is_told_of_it(names, tokenizer):
    reply = Reply("the", finished=True, tokens=1, prompt_tokens=1, top_logprobs=((("the", -0.1),),))
    number = names.id_of("the")
    ids, places = names.document_of([7], ASKED, reply, end=1)
    assert (ids, places) == ((7, number, 1), [(), ((number, -0.1),), ()])


def test_labels_of_told_answers_are_read_like_any_other(names, tmp_path, build_example):
    example = build_example(0, 5)
    places = [(), (), ((3, math.log(0.5)), (9, math.log(0.25))), ((4, math.log(0.9)),), ()]
    teacher = ToldTeacher({key_of(example.ids): places}, vocab_size=VOCAB)
    stored = labelled(teacher, [example], tmp_path).signals(to_batch([[example]]), LOGITS).logits
    assert isinstance(stored, SparseLogprobs)
    probs = _spread(stored)[0].exp()
    assert_close(probs[1, [3, 9]], torch.tensor([0.5, 0.25]), atol=5e-3, rtol=0)
    assert_close(probs[2, 4], torch.tensor(0.9), atol=5e-3, rtol=0)
    assert_close(stored.tail[0].exp(), torch.tensor([1.0, 0.25, 0.1, 1.0, 1.0]), atol=5e-3, rtol=0)
    with pytest.raises(ModelError, match="never answered or scored"):
        teacher.signals(to_batch([[build_example(1, 6)]]), LOGITS)


def test_what_is_not_likely_enough_goes_into_the_bucket(tmp_path, build_example):
    example = build_example(0, 3)
    places = [(), ((3, math.log(0.5)), (9, math.log(0.25)), (5, math.log(0.05))), ()]
    teacher = ToldTeacher({key_of(example.ids): places}, vocab_size=VOCAB)
    recorder = Sparse(VOCAB, min_probability=0.1)
    label(teacher, [example], tmp_path, made_from="x", row_tokens=8, recorder=recorder)
    stored = StoredTeacher(tmp_path).signals(to_batch([[example]]), LOGITS).logits
    assert sorted(stored.ids[0, 0].tolist()) == [3, 9]
    assert_close(stored.tail[0, 0].exp(), torch.tensor(0.25), atol=2e-3, rtol=0)


def test_another_temperature_is_refused_unless_every_token_was_told(build_example, tmp_path):
    example = build_example(0, 3)
    few = ToldTeacher({key_of(example.ids): [(), ((3, math.log(0.5)),), ()]}, vocab_size=VOCAB)
    with pytest.raises(ModelError, match="at temperature 1, and labels are asked for at 2"):
        labelled(few, [example], tmp_path / "few", temperatures=(2.0,))
    logprobs = torch.randn(VOCAB).log_softmax(-1)
    all_of = ToldTeacher({key_of(example.ids): [(), tuple(enumerate(logprobs.tolist())), ()]}, vocab_size=VOCAB)
    labelled(all_of, [example], tmp_path / "all", temperatures=(2.0,), most=VOCAB)
    stored = StoredTeacher(tmp_path / "all", temperature=2.0).signals(to_batch([[example]]), LOGITS).logits
    assert_close(_spread(stored)[0, 0], (logprobs / 2).log_softmax(-1), atol=0.1, rtol=0)


@pytest.mark.parametrize(
    ("sampling", "said"),
    [({"temperature": 0.7}, "temperature 0.7"), ({"top_k": 5}, "top_k 5"), ({"top_p": 0.9}, "top_p 0.9")],
)
def test_an_answer_that_was_not_drawn_as_the_model_has_it_is_refused(names, sampling, said):
    request = Request(seed="0", sampling=Sampling(**sampling), prefix="a", top_logprobs=1)
    with pytest.raises(ModelError, match=said):
        names.of_reply(request, Reply("a", True, 1, 1, top_logprobs=((("a", -0.1),),)))


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ((("the", -1.0), ("no such token", -2.0)), "the token 'no such token', but the tokenizer .* has none such"),
        ((("token_id:300", -1.0),), "'token_id:300', but the tokenizer .* has none such"),
        ((("a", -1.0), ("b", -2.0), ("b", -3.0)), "log-probability of 'b' twice at one place"),
    ],
)
def test_tokens_that_are_unknown_or_told_twice_are_refused_by_name(names, place, fault):
    with pytest.raises(ModelError, match=fault):
        names.place_of(place)


def test_the_token_itself_may_be_among_the_likeliest_and_what_is_not_known_is_left_out(names):
    a, b = names.id_of("a"), names.id_of("b")
    assert dict(names.place_of((("a", -1.0), ("a", -1.0), ("b", -9999.0)))) == {a: -1.0}
    assert dict(names.place_of((("a", -9999.0), ("b", -0.5)))) == {b: -0.5}


def test_probabilities_of_more_than_one_are_refused():
    with pytest.raises(ModelError, match=r"add up to 1\.6"):
        sparse_of([(), ((1, math.log(0.8)), (2, math.log(0.8)))], vocab_size=VOCAB)


def test_a_server_with_another_tokenizer_is_found_out(model, tokenizer, tokenizer_folder, examples, tmp_path):
    class Foreign(Serving):
        def entry(self, number, logprob):
            return {**super().entry(number, logprob), "id": (number + 1) % VOCAB}

        def name(self, number):
            return super().name((number + 1) % VOCAB)

    with FaultServer(answer=Foreign(model, tokenizer, "ids")) as server:
        with pytest.raises(ModelError, match="the tokenizers differ"):
            list(writer_of(server, tokenizer_folder).write([ASKED]))
        teacher = scoring_teacher(writer_of(server, tokenizer_folder, scores_by="echo"), tmp_path / "s.jsonl", top=TOP)
        with pytest.raises(ModelError, match="the tokenizers differ"):
            teacher.signals(to_batch([[examples[1]]]), LOGITS)


def test_who_cannot_score_or_tell_is_refused(tokenizer_folder, names):
    with FaultServer() as server, pytest.raises(ModelError, match="scores_by does not say how"):
        list(writer_of(server, tokenizer_folder).score([(1, 2)], top=3))
    with pytest.raises(ModelError, match="told no log-probabilities"):
        names.of_reply(ASKED, Reply("a", True, 1, 1))
