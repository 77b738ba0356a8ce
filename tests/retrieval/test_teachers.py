"""Teachers say what their models say, raw; students are made of theirs."""

import numpy as np
import pytest
import torch

from stillhouse.core.errors import ModelError
from stillhouse.retrieval.embed import SentenceEmbedder, load_embedder, load_sentence_model, shortened
from stillhouse.retrieval.students import (
    cross_encoder_from_layers,
    from_layers,
    principal,
    spread_evenly,
    static_student,
    token_vectors,
)
from stillhouse.retrieval.teachers import AnswerTeacher, BiEncoderTeacher, CrossEncoderTeacher, ensemble, spread_of

from .cases import TEXTS
from .models import load_cross_encoder, save_bi_encoder, save_cross_encoder

PAIRS = [("which fox ran", text) for text in TEXTS]


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    return save_cross_encoder(tmp_path_factory.mktemp("cross"), layers=3)


@pytest.fixture(scope="module")
def bi_encoder(tmp_path_factory):
    return save_bi_encoder(tmp_path_factory.mktemp("bi"), layers=3)


def test_a_cross_encoders_scores_are_raw_logits_where_its_own_prediction_is_a_sigmoid(cross_encoder):
    teacher = CrossEncoderTeacher(str(cross_encoder))
    raw, predicted = teacher.scores(PAIRS), load_cross_encoder(cross_encoder).predict(PAIRS)
    assert teacher.output == "logits"
    assert raw.min() < 0 or raw.max() > 1
    np.testing.assert_allclose(1 / (1 + np.exp(-raw)), predicted, atol=1e-5)


def test_a_teacher_is_another_where_its_lengths_or_weights_are(cross_encoder, tmp_path):
    one = CrossEncoderTeacher(str(cross_encoder))
    assert one.identity == CrossEncoderTeacher(str(cross_encoder), batch_size=3).identity
    assert one.identity != CrossEncoderTeacher(str(cross_encoder), max_tokens=32).identity
    assert one.identity != CrossEncoderTeacher(str(save_cross_encoder(tmp_path, layers=3, seed=1))).identity


def test_a_bi_encoders_score_is_its_similarity(bi_encoder):
    teacher = BiEncoderTeacher(str(bi_encoder))
    queries, documents = (teacher.embedder.model.encode([pair[side] for pair in PAIRS]) for side in (0, 1))
    cosines = (queries * documents).sum(1) / np.linalg.norm(queries, axis=1) / np.linalg.norm(documents, axis=1)
    np.testing.assert_allclose(teacher.scores(PAIRS), cosines, atol=1e-5)


def test_a_language_models_score_is_its_mean_log_probability_of_the_answer(build_model, tokenizer, tmp_path):
    build_model("llama", vocab=len(tokenizer)).save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    teacher = AnswerTeacher(str(tmp_path / "lm"), {"who sang": "the girl"}, max_tokens=100)
    (found,) = teacher.scores([("who sang", "a girl found a key")])
    row = teacher._row("who sang", "a girl found a key")
    ids = torch.tensor([[*row.prompt, *row.answer]])
    assert tokenizer.decode(row.answer) == " the girl"
    with torch.no_grad():
        logprobs = teacher._loaded.model(ids).logits[0, :-1].log_softmax(-1)
    expected = logprobs.gather(1, ids[0, 1:, None])[-len(row.answer) :].mean()
    assert found == pytest.approx(float(expected), abs=1e-4)
    assert teacher.identity != AnswerTeacher(str(tmp_path / "lm"), {"who sang": "nobody"}).identity
    with pytest.raises(ModelError, match="has no answer"):
        teacher.scores([("who ran", "a fox")])


def test_an_ensemble_does_not_care_in_which_units_its_teachers_score():
    random = np.random.default_rng(0)
    one, other = (random.standard_normal(30).astype(np.float32) for _ in range(2))

    def together(*scores, weights=(0.5, 0.5), of=slice(None)):
        return ensemble([found[of] for found in scores], weights, [spread_of(found) for found in scores])

    both = together(one * 10, other)
    np.testing.assert_allclose(both, together(one * 10, other * 7 + 3), atol=1e-4)
    np.testing.assert_allclose(together(one, other, weights=(1, 0)), one - one.mean(), atol=1e-5)
    # What is asked for later means the same as what was asked for first.
    np.testing.assert_allclose(together(one * 10, other, of=slice(4)), both[:4], atol=1e-5)
    with pytest.raises(ValueError, match="2 teachers and 1 weights"):
        together(one, other, weights=(1.0,))


def test_a_student_of_layers_keeps_pooling_and_the_layers_named(bi_encoder):
    model = load_sentence_model(str(bi_encoder))
    student = from_layers(model, [0, 2])
    kept, whole = student[0].model.encoder.layer, model[0].model.encoder.layer
    assert len(kept) == 2
    assert torch.equal(kept[1].output.dense.weight, whole[2].output.dense.weight)
    assert [type(module).__name__ for module in student] == ["Transformer", "Pooling", "Normalize"]
    assert np.linalg.norm(student.encode(["the fox"]), axis=1) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ModelError, match=r"student.keep is 4, but the model has 3 layers"):
        from_layers(model, 4)


def test_a_cross_encoder_loses_layers_and_keeps_its_head(cross_encoder):
    model = load_cross_encoder(cross_encoder)
    student = cross_encoder_from_layers(model, 2)
    assert len(student[0].model.bert.encoder.layer) == 2
    assert torch.equal(student[0].model.classifier.weight, model[0].model.classifier.weight)
    whole = cross_encoder_from_layers(model, 3)
    np.testing.assert_allclose(whole.predict(PAIRS), model.predict(PAIRS), atol=1e-6)


def test_layers_are_spread_from_first_to_last():
    assert spread_evenly(3, 6) == (0, 2, 5)
    assert spread_evenly(1, 6) == (5,)
    assert spread_evenly((1, 4), 6) == (1, 4)


def test_a_static_student_is_the_mean_of_its_tokens_and_runs_no_model(bi_encoder, tmp_path):
    model = load_sentence_model(str(bi_encoder))
    student = static_student(model, TEXTS, dimensions=8)
    weights = student[0].embedding.weight.detach().numpy()
    ids = model.tokenizer("the red fox", add_special_tokens=False)["input_ids"]
    mean = weights[ids].mean(0)
    np.testing.assert_allclose(student.encode(["The red fox"])[0], mean / np.linalg.norm(mean), atol=1e-5)
    student.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    again = load_embedder(str(tmp_path / "static"), max_tokens=8)
    np.testing.assert_allclose(again.documents(["the red fox"])[0], student.encode(["the red fox"])[0], atol=1e-5)


def test_a_tokens_vector_is_what_the_model_makes_of_it_alone(bi_encoder):
    model = load_sentence_model(str(bi_encoder))
    word = model.tokenizer.convert_ids_to_tokens(7)
    np.testing.assert_allclose(token_vectors(model)[7], model.encode([word])[0], atol=1e-5)


def test_principal_axes_keep_the_distances_that_they_can():
    vectors = np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    turned = principal(vectors, 6)
    distances = [np.linalg.norm(one[:, None] - one[None], axis=-1) for one in (vectors, turned)]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-4)
    assert (np.diff(turned.var(0)) <= 1e-9).all()


def test_shorter_embeddings_have_length_1_again_only_where_angles_are_compared():
    vectors = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    np.testing.assert_array_equal(shortened(vectors, 3, similarity="dot"), vectors[:, :3])
    assert np.linalg.norm(shortened(vectors, 3, similarity="cosine"), axis=1) == pytest.approx(1, abs=1e-6)


def test_what_is_no_model_or_too_wide_is_refused(bi_encoder, tmp_path):
    with pytest.raises(ModelError, match="no existing folder"):
        load_sentence_model(str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="dimensions is 99"):
        SentenceEmbedder(load_sentence_model(str(bi_encoder)), dimensions=99)


def test_a_query_of_ten_thousand_words_is_read_as_far_as_the_model_reads(bi_encoder):
    embedder = load_embedder(str(bi_encoder))
    long = embedder.queries(["the fox ran " * 3_400])
    assert long.shape == (1, 16) and np.isfinite(long).all()
    assert embedder.queries([]).shape == (0, 16)
