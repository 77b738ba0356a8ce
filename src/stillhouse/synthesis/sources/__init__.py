"""Where questions come from: each way is a plain program that asks the teacher and gives records to be answered."""

from stillhouse.synthesis.sources.continued import continued_texts
from stillhouse.synthesis.sources.documents import document_questions, passages_of
from stillhouse.synthesis.sources.evolve import evolved_questions
from stillhouse.synthesis.sources.magpie import UserOpening, magpie_questions, user_opening
from stillhouse.synthesis.sources.personas import persona_questions
from stillhouse.synthesis.sources.questions import read_questions, template_questions
from stillhouse.synthesis.sources.self_instruct import self_instruct_questions
from stillhouse.synthesis.sources.topics import grow_topics, topic_questions

__all__ = [
    "UserOpening",
    "continued_texts",
    "document_questions",
    "evolved_questions",
    "grow_topics",
    "magpie_questions",
    "passages_of",
    "persona_questions",
    "read_questions",
    "self_instruct_questions",
    "template_questions",
    "topic_questions",
    "user_opening",
]
