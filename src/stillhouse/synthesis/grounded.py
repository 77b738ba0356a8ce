"""Answers over retrieved passages: the teacher reads all of a context, never the gold passage alone, and what it says is held
against what it has read before anybody learns it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from stillhouse.core.citations import abstains, citations, untrue_quotes, without_citations
from stillhouse.core.lexical import best_of, k_precision, token_recall
from stillhouse.data.grounded import Context, Template, fixed_answer, gold_answer, prompt_of, supporting
from stillhouse.synthesis.filters.agreement import AgreementConfig
from stillhouse.synthesis.filters.core import NamedFilter, each, quoted
from stillhouse.synthesis.flow import Clean
from stillhouse.synthesis.records import Ask, Record
from stillhouse.synthesis.traces import Answers, answered

Citing = Literal["asked", "added", "none"]
"""Whether an answer must cite, or is given the citation of the passage that its words stand in where it has none, or is learnt
as it is."""

Fits = Callable[[Record], str]
"""Why a record cannot be learnt as it is long; empty where it can."""


@dataclass(frozen=True)
class Checks:
    """What an answer must stand up to."""

    citing: Citing = "added"
    precision: float = 0.6
    """Share of its words that stand in the passages."""
    recall: float = 0.5
    """Share of a right answer's words that it has, where one is known."""
    agreement: float = 0.5
    """Mean ROUGE-L with the other samples, where there are any."""


def grounded_records(contexts: Sequence[Context], template: Template, *, by_data: bool) -> list[Record]:
    """A record for each context: answered already where no teacher is asked, as with an abstention, or `by_data` where the data
    has an answer of its own."""
    records = []
    for context in contexts:
        asked = Record(
            lineage={
                "source": "rag",
                "context": context.hash,
                "mix": context.mix,
                "held_out": context.held_out,
                "answer_in_context": context.answer_in_context,
            }
        ).say("user", prompt_of(context, template))
        # Nobody is asked about what is held out where the data knows.
        known = gold_answer(context, template) if by_data or context.held_out else fixed_answer(context, template)
        records.append(asked if known is None else asked.say("assistant", known, teacher="data"))
    return records


def answer_grounded(
    ask: Ask,
    records: Sequence[Record],
    contexts: Mapping[str, Context],
    *,
    writer: str,
    answers: Answers,
    template: Template,
    checks: Checks,
    clean: Clean = list,
    fits: Fits = lambda record: "",
) -> list[Record]:
    """All records with answers, dropped ones with their reason: those that are there already, and the teacher's, each over the
    whole of its context. Of several samples to one question the first that stands up to all checks is learnt."""
    known = [record for record in records if record.answer]
    asked = [record for record in records if not record.answer]
    groups = answered(ask, asked, answers, writer=writer, title="the teacher answers over passages")
    spoken = [with_citation(record, contexts, template, checks.citing) for group in groups for record in group]
    filters = grounded_filters(contexts, template, checks, samples=answers.samples)
    checked = clean(_run(spoken, filters))
    one_each = _first_of_each(checked)
    return [_fitting(record, fits) for record in (*known, *one_each)]


def _run(records: Sequence[Record], filters: Sequence[NamedFilter]) -> list[Record]:
    """As `run_filters`, on records that may be dropped already."""
    found = list(records)
    for one in filters:
        places = [place for place, record in enumerate(found) if not record.dropped]
        for place, reason in zip(places, one([found[place] for place in places]), strict=True):
            if reason:
                found[place] = found[place].drop(f"{one.name}: {reason}")
    return found


def _fitting(record: Record, fits: Fits) -> Record:
    reason = "" if record.dropped else fits(record)
    return record.drop(f"length: {reason}") if reason else record


def _first_of_each(records: Sequence[Record]) -> list[Record]:
    """One answer a question is learnt."""
    taken, found = set[str](), []
    for record in records:
        context = str(record.lineage["context"])
        if record.dropped:
            found.append(record)
        elif context in taken:
            found.append(record.drop("samples: another sample of this answer is learnt"))
        else:
            taken.add(context)
            found.append(record)
    return found


def with_citation(record: Record, contexts: Mapping[str, Context], template: Template, citing: Citing) -> Record:
    """The record whose answer cites the passage that it stands in, where it cites none and `citing` is `added`."""
    answer, context = record.answer, contexts[str(record.lineage["context"])]
    if citing != "added" or record.dropped or citations(answer) or abstains(answer, abstention=template.abstention):
        return record
    number = supporting(context, answer) or _nearest(context, answer)
    if number is None:
        return record
    said = f"{answer.rstrip()} [{number}]"
    messages = (*record.messages[:-1], {"role": "assistant", "content": said})
    return replace(record, messages=messages, lineage={**record.lineage, "citation": "added by words"})


def _nearest(context: Context, answer: str) -> int | None:
    """The number of the passage that has most of the answer's words; of equals the first, and none that has not one."""
    shares = [k_precision(answer, passage.text) for passage in context.passages]
    return shares.index(max(shares)) + 1 if shares and max(shares) > 0 else None


# What drops an answer.


def grounded_filters(
    contexts: Mapping[str, Context], template: Template, checks: Checks, *, samples: int = 1
) -> list[NamedFilter]:
    """The checks as filters, each with its reasons, the cheap ones first."""

    def about(reason: Callable[[str, Context], str]) -> Callable[[Sequence[Record]], Sequence[str]]:
        return each(lambda record: reason(record.answer, contexts[str(record.lineage["context"])]))

    def over_refused(answer: str, context: Context) -> str:
        refuses = abstains(answer, abstention=template.abstention)
        return (
            f"the teacher over-refused in its answer ({quoted(answer)})"
            if refuses and context.answer_in_context
            else ""
        )

    def cites_wrongly(answer: str, context: Context) -> str:
        found, count = citations(answer), len(context.passages)
        strange = [number for number in found if not 1 <= number <= count]
        if strange:
            return f"the answer cites a passage that is not there ([{strange[0]}] of {count})"
        refuses = abstains(answer, abstention=template.abstention)
        return "the answer cites nothing" if checks.citing != "none" and not found and not refuses else ""

    def misquotes(answer: str, context: Context) -> str:
        found = untrue_quotes(answer, context.text)
        return f"the answer quotes what no passage says ({quoted(found[0])})" if found else ""

    def strays(answer: str, context: Context) -> str:
        if abstains(answer, abstention=template.abstention):
            return ""
        share = k_precision(without_citations(answer), context.text)
        return (
            f"the answer's words are not in the passages ({share:.0%}, {checks.precision:.0%} wanted)"
            if share < checks.precision
            else ""
        )

    def is_wrong(answer: str, context: Context) -> str:
        if not context.answers:
            return ""
        share = best_of(token_recall, without_citations(answer), context.answers)
        return (
            f"the answer is not the right one ({share:.0%} of its words, {checks.recall:.0%} wanted)"
            if share < checks.recall
            else ""
        )

    explained: list[tuple[str, str, Callable[[str, Context], str]]] = [
        ("over_refusal", "Drops answers that say the passages do not tell, where they do.", over_refused),
        ("citations", "Drops answers that cite a passage that is not there, or none where they must.", cites_wrongly),
        ("quotes", "Drops answers with a quote that no passage has, word for word.", misquotes),
        ("precision", f"Drops answers fewer than {checks.precision:.0%} of whose words a passage has.", strays),
        ("right_answer", f"Drops answers with fewer than {checks.recall:.0%} of a known answer's words.", is_wrong),
    ]
    agree = [AgreementConfig(by="rouge_l", least=checks.agreement).build()] if samples > 1 else []
    return [*agree, *(NamedFilter(name, said, about(reason)) for name, said, reason in explained)]


def over_refusals(records: Sequence[Record]) -> int:
    """How often the teacher said that the passages do not tell, though they do."""
    return sum(record.dropped.startswith("over_refusal:") for record in records)
