"""Where a user speaks next, in the templates of all families: what magpie goes on from."""

import pytest

from stillhouse.data.chat_template import ChatTemplate
from stillhouse.synthesis.sources import user_opening

from .chat_families import FAMILIES, has, tokenizer_of


@pytest.mark.parametrize("family", sorted(name for name in FAMILIES if has(name)))
def test_the_opening_of_a_users_turn_is_what_any_template_writes_before_it(family):
    tokenizer = tokenizer_of(family)
    opening = user_opening(tokenizer)
    shown = ChatTemplate(tokenizer).try_render([{"role": "user", "content": "Why?"}], None, prompt=True)
    assert shown.startswith(opening.before + "Why?")
    assert opening.end and opening.end in shown[len(opening.before) :]


@pytest.mark.parametrize("family", sorted(name for name in FAMILIES if has(name)))
def test_so_is_that_of_the_next_turn(family):
    tokenizer = tokenizer_of(family)
    told = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    opening = user_opening(tokenizer, told)
    assert "Why?" in opening.before and "So." in opening.before
    shown = ChatTemplate(tokenizer).try_render([*told, {"role": "user", "content": "And?"}], None, prompt=True)
    assert shown.startswith(opening.before + "And?")
