"""A teacher's answers are the data's labels, in the same order, or it is refused with the difference."""

import pytest
from transformers import BertConfig

from stillhouse.core.errors import ModelError
from stillhouse.models.labels import check_labels, labels_of, name_labels

UNNAMED = ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_names_given_to_a_configuration_are_read_from_it_in_order_and_survive_the_disk(tmp_path):
    config, labels = BertConfig(), [f"label {number}" for number in reversed(range(12))]
    name_labels(config, labels)
    config.save_pretrained(tmp_path)
    again = BertConfig.from_pretrained(tmp_path)
    assert labels_of(again) == labels_of(config) == tuple(labels)
    assert again.num_labels == 12
    assert [again.label2id[label] for label in labels] == list(range(12))


def test_the_same_labels_in_the_same_order_fit():
    check_labels(["joy", "fear"], ("joy", "fear"), source="teacher")


def test_answers_that_were_never_named_fit_their_own_numbers():
    check_labels(UNNAMED, ["0", "1", "2"], source="teacher")
    check_labels(UNNAMED, UNNAMED, source="teacher")


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        (["joy", "fear", "rage"], ["joy", "rage", "fear"], "another order. Label 1 is 'fear' for the model and 'rage'"),
        (["joy", "fear"], ["joy", "hope"], "the model alone knows 'fear'; the data alone has 'hope'"),
        (["joy"], ["joy", "hope"], "the model has 1, the data 2; the data alone has 'hope'"),
        (["joy", "hope"], ["joy"], "the model has 2, the data 1; the model alone knows 'hope'"),
        (["joy", "joy"], ["joy"], "one has a label twice"),
        (UNNAMED, ["joy", "hope", "fear"], "it never named its 3 answers"),
        (UNNAMED, ["0", "2", "1"], "it never named its 3 answers"),
        (UNNAMED, ["0", "1"], "it never named its 3 answers"),
        ([str(number) for number in range(9)], ["x"], "'0', '1', '2', '3', '4' and 4 more"),
    ],
)
def test_labels_that_differ_are_refused_and_the_difference_is_named(model, data, said):
    with pytest.raises(ModelError, match="the labels of 'teacher' are not those of the data") as refusal:
        check_labels(model, data, source="teacher")
    assert said in str(refusal.value)
