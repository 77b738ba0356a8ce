"""How good an answer is: each reward beside an independent way to the same number."""

import copy
import math
import sys

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from transformers import AutoConfig, AutoModelForSequenceClassification

from stillhouse.core.errors import DataError, ModelError, StillhouseError
from stillhouse.core.files import read_lines
from stillhouse.core.plugins import plugins
from stillhouse.models.answer_logprobs import CHUNK_TOKENS, Answered, answer_logprobs, next_logprobs
from stillhouse.models.generate import Sampling
from stillhouse.models.load import LoadedModel
from stillhouse.synthesis import reward_models
from stillhouse.synthesis.judge import PairJudge, RatingJudge, YesJudge, read_rating
from stillhouse.synthesis.records import Record
from stillhouse.synthesis.reward_models import ImplicitReward, ModelReward, Remembered, in_tokens
from stillhouse.synthesis.rewards import RewardConfig, Tools
from stillhouse.teachers.judging import read_better
from stillhouse.teachers.ledger import Ledger
from stillhouse.teachers.writer import LocalWriter, Reply

GREEDY = Sampling(temperature=0, max_new_tokens=4)


def answered(question, answer, **lineage):
    return Record(({"role": "user", "content": question}, {"role": "assistant", "content": answer}), lineage=lineage)


RECORDS = [
    answered("who ran?", "the small fox"),
    answered("who ran?", "the small fox ran over the hill and saw a red house"),
    answered("who sang?", "a robot"),
    answered("who sang?", "one day the robot learned to sing and all the birds came"),
]


def config(**values):
    return TypeAdapter(RewardConfig).validate_python(values)


class Scripted:
    """Replies by a function of what is asked, and keeps what was asked."""

    def __init__(self, say):
        self.say, self.asked = say, []

    def __call__(self, requests, *, title=""):
        self.asked += requests
        return [Reply(self.say(one.messages[-1]["content"]), True, 3, 9) for one in requests]


# The log-probability of an answer.


def test_an_answers_logprob_is_the_sum_over_its_tokens(build_model):
    model = build_model()
    random = torch.Generator().manual_seed(0)
    rows = [
        Answered(tuple(torch.randint(2, 300, (p,), generator=random).tolist()), tuple(range(5, 5 + n)))
        for p, n in ((3, 4), (1, 9), (7, 0), (2, 1), (5, 5))
    ]
    found = answer_logprobs(model, rows, batch_size=2)
    for row, value in zip(rows, found, strict=True):
        ids = torch.tensor([[*row.prompt, *row.answer]])
        logprobs = model(ids).logits[0].detach().log_softmax(-1)
        places = range(len(row.prompt), ids.shape[1])
        assert value == pytest.approx(sum(float(logprobs[at - 1, ids[0, at]]) for at in places), abs=1e-4)


def test_no_more_logits_than_a_chunk_are_multiplied_out(build_model, monkeypatch):
    model, sizes = build_model(), []
    from stillhouse.core.signals import FactoredLogits

    dense = FactoredLogits.dense
    monkeypatch.setattr(FactoredLogits, "dense", lambda self: sizes.append(self.hidden.shape) or dense(self))
    rows = [Answered((1, 2), tuple(range(2, 102))) for _ in range(6)]
    answer_logprobs(model, rows, batch_size=6)
    tokens = [shape[0] for shape in sizes if len(shape) == 2]
    assert max(tokens) == CHUNK_TOKENS and sum(tokens) >= 600


def test_the_next_token_has_the_models_own_distribution(build_model):
    model, ids = build_model(), [3, 4, 5]
    torch.testing.assert_close(
        next_logprobs(model, ids), model(torch.tensor([ids])).logits[0, -1].detach().log_softmax(-1)
    )


# The implicit reward.


@pytest.fixture
def pair(build_model, tokenizer, tmp_path):
    return [
        LoadedModel(build_model(vocab=len(tokenizer), seed=seed), tokenizer, f"model {seed}", tmp_path)
        for seed in (0, 1)
    ]


def test_the_implicit_reward_is_betas_share_of_the_log_ratio(pair, tokenizer):
    found = ImplicitReward(*pair, beta=0.3, batch_size=3)(RECORDS)
    for record, value in zip(RECORDS, found, strict=True):
        prompt = tokenizer.apply_chat_template(list(record.messages[:-1]), tokenize=False, add_generation_prompt=True)
        whole = tokenizer.apply_chat_template(list(record.messages), tokenize=False)
        ids, start = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (whole, prompt))
        sums = []
        for one in pair:
            logprobs = one.model(torch.tensor([ids])).logits[0].detach().log_softmax(-1)
            sums.append(sum(float(logprobs[at - 1, ids[at]]) for at in range(len(start), len(ids))))
        assert value == pytest.approx(0.3 * (sums[0] - sums[1]), abs=1e-4)


def test_a_model_beside_itself_prefers_nothing(pair):
    assert ImplicitReward(pair[0], pair[0])(RECORDS) == [0.0] * 4


def test_an_unfinished_answer_has_no_end_to_be_likely(tokenizer):
    cut = Record(RECORDS[0].messages, finished=False)
    assert in_tokens(tokenizer, RECORDS[0]).answer[:-1] == in_tokens(tokenizer, cut).answer


def test_an_answer_beyond_the_models_positions_has_no_reward(pair):
    assert math.isnan(ImplicitReward(*pair)([answered("?", "the fox " * 200)])[0])


def test_two_vocabularies_have_no_implicit_reward(pair, bert_tokenizer, tmp_path):
    other = LoadedModel(pair[1].model, bert_tokenizer, "other", tmp_path)
    with pytest.raises(ModelError, match="different tokenizers"):
        ImplicitReward(pair[0], other)


# Reward models.


@pytest.fixture
def decoder_reward(tokenizer, tmp_path):
    torch.manual_seed(0)
    settings = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings |= {"intermediate_size": 64, "max_position_embeddings": 64, "num_labels": 1, "pad_token_id": 1}
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model("llama", **settings)).eval()
    folder = tmp_path / "reward"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_reward_model_scores_conversations_as_it_does_one_by_one(decoder_reward, tokenizer):
    reward = config(kind="model", model=str(decoder_reward), batch_size=3).build()
    model = AutoModelForSequenceClassification.from_pretrained(decoder_reward).eval()
    found = reward(RECORDS)
    for record, value in zip(RECORDS, found, strict=True):
        text = tokenizer.apply_chat_template(list(record.messages), tokenize=False)
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        assert value == pytest.approx(float(model(ids).logits[0, 0].detach()), abs=1e-4)
    assert len(set(found)) == 4


def test_an_encoder_reads_question_and_answer_as_a_pair(build_encoder, bert_tokenizer, tmp_path):
    model = build_encoder("bert", "regression", layers=2)
    reward = ModelReward(LoadedModel(model, bert_tokenizer, "tiny", tmp_path, "regression"), batch_size=2)
    assert reward.form == "plain"
    for record, value in zip(RECORDS, reward(RECORDS), strict=True):
        alone = bert_tokenizer(record.question, record.answer, return_tensors="pt")
        assert value == pytest.approx(float(model(**alone).logits[0, 0].detach()), abs=1e-4)


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_what_is_too_long_is_cut_and_counted(side, decoder_reward, build_encoder, bert_tokenizer, tmp_path):
    if side == "decoder":
        reward = config(kind="model", model=str(decoder_reward)).build()
    else:
        model = build_encoder("bert", "regression", layers=2)
        reward = ModelReward(LoadedModel(model, bert_tokenizer, "tiny", tmp_path, "regression"))
    assert all(map(math.isfinite, reward([answered("who?", "the small fox " * 90), RECORDS[0]])))
    assert reward.counts == {"cut": 1}


def test_a_classifier_of_several_classes_is_no_reward_model(build_encoder, bert_tokenizer, tmp_path):
    build_encoder("bert", "sequence_classification", labels=("anger", "joy", "fear")).save_pretrained(tmp_path)
    bert_tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="3 classes apart"):
        config(kind="model", model=str(tmp_path)).build()


def test_chat_is_refused_without_a_template(build_encoder, bert_tokenizer, tmp_path):
    loaded = LoadedModel(build_encoder("bert", "regression"), bert_tokenizer, "tiny", tmp_path, "regression")
    with pytest.raises(ModelError, match="Say form: plain"):
        ModelReward(loaded, form="chat")


# Scores are kept.


class Counting:
    name, counts = "counting", {}

    def __init__(self, most=10**9):
        self.seen, self.most = 0, most

    def __call__(self, records):
        if self.seen + len(records) > self.most:
            raise KeyboardInterrupt
        self.seen += len(records)
        return [math.nan if "robot" in one.answer else len(one.answer) + len(records) / 100 for one in records]


@pytest.mark.parametrize("most", [0, 2])
def test_no_answer_is_scored_twice_and_a_kill_changes_nothing(tmp_path, monkeypatch, most):
    monkeypatch.setattr(reward_models, "CHUNK_RECORDS", 2)
    records = [*RECORDS, RECORDS[0]]
    whole = Remembered(Counting(), tmp_path / "whole.jsonl", "0")(records)
    with pytest.raises(KeyboardInterrupt):
        Remembered(Counting(most), tmp_path / "scores.jsonl", "0")(records)
    again = Remembered(Counting(), tmp_path / "scores.jsonl", "0")(records)
    assert str(again) == str(whole)  # NaN is not equal to itself
    last = Counting()
    assert str(Remembered(last, tmp_path / "scores.jsonl", "0")(records)) == str(whole)
    assert last.seen == 0 and len(read_lines(tmp_path / "scores.jsonl")) == 4
    other = Counting()
    Remembered(other, tmp_path / "scores.jsonl", "1")(records)
    assert other.seen == 4, "another reward's scores are not its own"


# Judges.


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Clear.\nRating: 7", 7),
        ("**Rating:** 7.5/10", 7.5),
        ("Rating: 7\nRating: 7", 7),
        ("Rating: 7\nRating: 8", None),
        ("Rating: 11", None),
        ("I give it a rating of 7", None),
        ("Rating: 7 or 8", None),
        ("", None),
    ],
)
def test_a_rating_is_read_strictly(text, rating):
    assert read_rating(text, lowest=1, highest=10) == rating


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ("So.\nBetter: A", "A"),
        ("better: **b**", "B"),
        ("Better: tie.", "tie"),
        ("Better: A\nBetter: B", None),
        ("A", None),
    ],
)
def test_a_comparison_is_read_strictly(text, better):
    assert read_better(text) == better


def test_a_judge_without_a_rating_is_counted():
    script = Scripted(lambda text: "Rating: 4" if "[Answer to rate]\na robot" in text else "hm")
    judge = RatingJudge(script, lowest=1, highest=10, sampling=GREEDY)
    found = judge(RECORDS)
    assert [math.isnan(value) for value in found] == [True, True, False, True] and found[2] == 4
    assert judge.counts == {"unparsable": 3}
    assert "user: who ran?" in script.asked[0].messages[-1]["content"]


def test_what_an_answer_holds_in_braces_stays():
    script = Scripted(lambda text: "Rating: 4" if "{highest} {answer} {x}" in text else "hm")
    assert RatingJudge(script, lowest=1, highest=10, sampling=GREEDY)([answered("?", "{highest} {answer} {x}")]) == [
        4.0
    ]


def test_both_orders_undo_a_judge_that_favours_a_place():
    judge = PairJudge(Scripted(lambda text: "Better: A"), sampling=GREEDY)
    assert judge(RECORDS) == [0.5] * 4
    assert judge.counts == {"unparsable": 0, "first_wins": 1.0}


def test_the_better_answer_of_three_wins_all_its_comparisons():
    def longer(text):
        first, second = (part.split("\n\n")[0] for part in text.split("[Answer ")[1:3])
        return "Better: A" if len(first) > len(second) else "Better: B"

    records = [answered("?", "a"), answered("?", "a b c"), answered("?", "a b"), answered("alone?", "a")]
    judge = PairJudge(Scripted(longer), sampling=GREEDY)
    found = judge(records)
    assert found[:3] == [0.0, 1.0, 0.5] and math.isnan(found[3])
    assert judge.counts == {"unparsable": 0, "first_wins": 0.5}


@pytest.fixture
def yes_writer(build_model, tokenizer, tmp_path):
    """A writer whose tokenizer has a token for each word."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens([" yes", "Yes", "no"])
    return LocalWriter(
        LoadedModel(build_model(vocab=len(own)), own, "tiny", tmp_path), name="tiny", fingerprint="0", batch_size=2
    )


def test_the_odds_of_yes_are_those_of_the_next_token(yes_writer):
    found = YesJudge(lambda *_, **__: [], yes_writer)(RECORDS[:2])
    judge = YesJudge(lambda *_, **__: [], yes_writer)
    yes, space, no = (yes_writer.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", " yes", "no"))
    for record, value in zip(RECORDS, found, strict=False):
        ids = torch.tensor([yes_writer.prompt_ids(judge._request(record))])
        probs = yes_writer.model(ids).logits[0, -1].detach().softmax(-1)
        assert value == pytest.approx(float(((probs[yes] + probs[space]) / probs[no]).log()), abs=1e-4)


def test_the_odds_of_yes_come_from_what_another_writer_tells():
    class Remote:
        name = fingerprint = "remote"
        tokenizer = None

        def write(self, requests, done=()):
            yield from ()

    tops = [
        ((("Yes", -0.5), (" yes", -2.0), ("Yes", -0.5), ("No", -1.5)),),
        ((("Hm", -0.1), ("Yes", -3.0)),),
    ]

    def ask(requests, *, title=""):
        assert all(request.top_logprobs == 20 for request in requests)
        return [Reply("Yes", False, 1, 9, top_logprobs=top) for top in tops]

    judge = YesJudge(ask, Remote())
    found = judge(RECORDS[:2])
    assert found[0] == pytest.approx(math.log((math.exp(-0.5) + math.exp(-2)) / math.exp(-1.5)))
    assert math.isnan(found[1]) and judge.counts == {"unparsable": 1}


def test_a_word_of_several_tokens_has_no_odds(build_model, tokenizer, tmp_path):
    loaded = LoadedModel(build_model(vocab=len(tokenizer)), tokenizer, "tiny", tmp_path)
    writer = LocalWriter(loaded, name="tiny", fingerprint="0")
    with pytest.raises(ModelError, match="by: rating"):
        YesJudge(lambda *_, **__: [], writer)(RECORDS)


def test_a_judge_is_asked_once(teacher_folder, tmp_path, monkeypatch):
    wanted = config(kind="judge", model=str(teacher_folder), prompt="{conversation} {answer}", sampling=GREEDY)
    first = wanted.build(Tools(folder=tmp_path))
    found = first(RECORDS)
    assert len(read_lines(tmp_path / "judge.jsonl")) == 4
    monkeypatch.setattr(LocalWriter, "write", lambda *_: pytest.fail("asked again"))
    again = wanted.build(Tools(folder=tmp_path))
    assert str(again(RECORDS)) == str(found) and again.counts == first.counts


def test_whoever_writes_may_judge(yes_writer, tmp_path):
    ledger = Ledger(tmp_path / "ledger.jsonl", yes_writer)
    tools = Tools(ask=ledger.ask, writer=yes_writer)
    assert all(map(math.isfinite, config(kind="judge", by="yes").build(tools)(RECORDS)))
    with pytest.raises(ModelError, match="nobody to judge"):
        config(kind="judge").build()


# Rewards without a model.


def test_length_and_rouge_are_what_their_names_say():
    assert config(kind="length").build()(RECORDS)[:1] == [-13.0]
    assert config(kind="length", better="longer", unit="words").build()(RECORDS)[:1] == [3.0]
    record = answered("?", "The fox ran.", reference="the small fox ran home")
    assert config(kind="rouge").build()([record]) == [pytest.approx(2 * 3 / (3 + 5))]
    with pytest.raises(DataError, match="has none under 'gold'"):
        config(kind="rouge", reference="gold").build()([record])


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    (tmp_path / "own_rewards.py").write_text(
        "def brevity(record):\n    return 1 / len(record.answer)\ndef bad(record):\n    return 'good'\nnumber = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_rewards", None)


def test_a_function_runs_only_where_code_may(own_code):
    wanted = config(kind="function", function="own_rewards:brevity")
    with pytest.raises(StillhouseError, match=r"reward.function is 'own_rewards:brevity'.*--allow-plugins"):
        wanted.build()
    assert "own_rewards" not in sys.modules
    with plugins(allowed=True):
        reward = wanted.build()
        assert (reward.name, reward(RECORDS)[0]) == ("brevity", 1 / 13)
        with pytest.raises(ModelError, match="'good'"):
            config(kind="function", function="own_rewards:bad").build()(RECORDS)
        for name, fault in (("own_rewards:number", "has no function"), ("not_there_at_all:f", "cannot be imported")):
            with pytest.raises(StillhouseError, match=fault):
                config(kind="function", function=name).build()


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"kind": "function", "function": "brevity"}, "module:function"),
        ({"kind": "judge", "prompt": "Rate {answer}"}, r"needs \{conversation\} in it"),
        ({"kind": "judge", "by": "pairs", "prompt": "{conversation} {answer}"}, r"\{first\} and \{second\}"),
        ({"kind": "judge", "lowest": 5.0, "highest": 5.0}, "no rating counts"),
        ({"kind": "implicit", "model": "one", "reference": "one"}, "every reward is 0"),
    ],
)
def test_a_reward_that_cannot_be_is_refused(values, fault):
    with pytest.raises(ValidationError, match=fault):
        config(**values)
