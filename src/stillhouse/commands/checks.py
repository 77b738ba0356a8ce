"""What can be found wrong with the models of a recipe from their folders alone, before any weight is read."""

from transformers import PretrainedConfig

from stillhouse.core.errors import ModelError
from stillhouse.models.load import check_weights, load_config, load_tokenizer, vocabulary_fingerprint
from stillhouse.students.build import changed_config
from stillhouse.students.config import CheckpointConfig, FromConfigConfig, FromLayersConfig, StudentConfig
from stillhouse.students.layer_choice import check_keep


def check_student(wanted: StudentConfig, *, teacher: str, row_tokens: int) -> None:
    """Refuse a student that cannot be made, cannot be compared with this teacher token by token, or cannot read a row.

    Raises:
        ModelError: naming the key of the recipe.
    """
    teacher_config = load_config(teacher)
    student_config = _student_config(wanted, teacher_config)
    if isinstance(wanted, CheckpointConfig):
        _check_vocabulary(wanted.model, teacher)
    _check_head(student_config, len(load_tokenizer(teacher)))
    _check_row("teacher", teacher_config, row_tokens)
    _check_row("student", student_config, row_tokens)


def _student_config(wanted: StudentConfig, teacher: PretrainedConfig) -> PretrainedConfig:
    match wanted:
        case FromLayersConfig():
            check_keep(wanted.keep, teacher.get_text_config(decoder=True).num_hidden_layers)
            return teacher
        case FromConfigConfig():
            return changed_config(load_config(wanted.config) if wanted.config else teacher, wanted.changes)
        case CheckpointConfig():
            check_weights(wanted.model)
            return load_config(wanted.model)


def _check_vocabulary(student: str, teacher: str) -> None:
    ours, theirs = load_tokenizer(student), load_tokenizer(teacher)
    if vocabulary_fingerprint(ours) != vocabulary_fingerprint(theirs):
        raise ModelError(
            f"student.model {student!r} has a vocabulary of {len(ours):,} tokens that is not the teacher's "
            f"({len(theirs):,}), and these objectives compare token by token. Choose a student with the teacher's tokenizer."
        )


def _check_head(student: PretrainedConfig, num_tokens: int) -> None:
    rows = student.get_text_config(decoder=True).vocab_size
    if rows < num_tokens:
        raise ModelError(
            f"the student's vocab_size is {rows:,}, but the teacher's tokenizer has {num_tokens:,} tokens, and these "
            "objectives compare token by token. Give the student as many, or choose another."
        )


def _check_row(owner: str, settings: PretrainedConfig, row_tokens: int) -> None:
    longest = getattr(settings.get_text_config(decoder=True), "max_position_embeddings", None)
    if longest is not None and row_tokens > longest:
        raise ModelError(
            f"data.sequence_tokens is {row_tokens}, but the {owner} reads at most {longest} tokens. Lower it to that."
        )
