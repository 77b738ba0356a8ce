"""What a student is asked to match, and what is needed to compare it with its teacher."""

from collections.abc import Sequence

from transformers import PreTrainedModel

from stillhouse.commands.checks import student_depth
from stillhouse.commands.labels import recorder_of
from stillhouse.commands.parts.parts import Parts
from stillhouse.labelling import Recorder
from stillhouse.labelling.config import LabelsConfig
from stillhouse.models.anatomy import num_layers, text_config
from stillhouse.students.projections import Projections
from stillhouse.training.dual_space import dual_space_widths
from stillhouse.training.features import FeatureTerm, projection_widths
from stillhouse.training.terms import Scheduled


def terms_of(parts: Parts, *, student_layers: int) -> list[Scheduled]:
    """What a student of so many layers is asked to match, layer by layer."""
    # What learns from a teacher behind an API knows of no layers.
    theirs = student_layers if parts.remote else num_layers(parts.teacher_config)
    depths = {"student_layers": student_layers, "teacher_layers": theirs}
    return [chosen.build(**depths) for chosen in parts.recipe.objectives]


def recorder(parts: Parts, labels: LabelsConfig) -> Recorder:
    """What is to be kept of the teacher's answers: the student need not be made yet."""
    terms = terms_of(parts, student_layers=student_depth(parts.recipe))
    return recorder_of(labels, parts.recipe.objectives, terms, vocab_size=parts.num_answers)


def projections(parts: Parts, student: PreTrainedModel, terms: Sequence[Scheduled]) -> Projections:
    """Maps from the student's width to the teacher's, wherever the terms compare states that differ in it."""
    if parts.remote is not None:
        return Projections({}, seed=parts.recipe.training.seed)
    features = [term.term for term in terms if isinstance(term.term, FeatureTerm)]
    ours, theirs = text_config(student).hidden_size, text_config(parts.teacher_config).hidden_size
    widths = projection_widths(features, student_width=ours, teacher_width=theirs)
    spaces = dual_space_widths(features, student_width=ours, teacher_width=theirs, is_paired=parts.is_paired)
    return Projections({**widths, **spaces}, seed=parts.recipe.training.seed, always=spaces)
