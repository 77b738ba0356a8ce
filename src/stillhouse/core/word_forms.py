"""English words in all their forms, and whether a text holds one of them: `ran` is a run."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

Inflection = Literal["noun", "verb", "adjective", "none"]
"""By which rules a word changes."""

VOWELS = "aeiou"

IRREGULAR_NOUNS = """
child children; man men; woman women; foot feet; tooth teeth; goose geese; mouse mice; person people; leaf leaves;
wolf wolves; knife knives; life lives; wife wives; half halves; shelf shelves; scarf scarves; thief thieves; loaf loaves;
elf elves; calf calves; sheep sheep; fish fish fishes; deer deer; hero heroes; potato potatoes; tomato tomatoes; echo echoes
"""
IRREGULAR_VERBS = """
be am is are was were been being; have has had having; do does did done doing; go goes went gone going; say says said saying;
get gets got gotten getting; make makes made making; know knows knew known knowing; think thinks thought thinking;
take takes took taken taking; see sees saw seen seeing; come comes came coming; give gives gave given giving;
find finds found finding; tell tells told telling; feel feels felt feeling; leave leaves left leaving;
put puts put putting; keep keeps kept keeping; let lets let letting; begin begins began begun beginning;
hear hears heard hearing; run runs ran running; hold holds held holding; bring brings brought bringing;
write writes wrote written writing; sit sits sat sitting; stand stands stood standing; lose loses lost losing;
meet meets met meeting; pay pays paid paying; grow grows grew grown growing; fall falls fell fallen falling;
send sends sent sending; build builds built building; break breaks broke broken breaking; spend spends spent spending;
cut cuts cut cutting; rise rises rose risen rising; drive drives drove driven driving; buy buys bought buying;
wear wears wore worn wearing; choose chooses chose chosen choosing; eat eats ate eaten eating;
drink drinks drank drunk drinking; sleep sleeps slept sleeping; sing sings sang sung singing;
swim swims swam swum swimming; fly flies flew flown flying; throw throws threw thrown throwing;
catch catches caught catching; teach teaches taught teaching; fight fights fought fighting; draw draws drew drawn drawing;
hide hides hid hidden hiding; ride rides rode ridden riding; ring rings rang rung ringing; shake shakes shook shaken shaking;
shine shines shone shined shining; sell sells sold selling; shut shuts shut shutting; sweep sweeps swept sweeping;
swing swings swung swinging; wake wakes woke woken waking; win wins won winning; bite bites bit bitten biting;
blow blows blew blown blowing; dig digs dug digging; feed feeds fed feeding; forget forgets forgot forgotten forgetting;
forgive forgives forgave forgiven forgiving; freeze freezes froze frozen freezing; hang hangs hung hanging;
hit hits hit hitting; hurt hurts hurt hurting; kneel kneels knelt kneeling; lead leads led leading;
lend lends lent lending; lie lies lay lain lied lying; light lights lit lighted lighting; read reads read reading;
set sets set setting; sink sinks sank sunk sinking; slide slides slid sliding; speak speaks spoke spoken speaking;
spin spins spun spinning; spread spreads spread spreading; steal steals stole stolen stealing;
stick sticks stuck sticking; sting stings stung stinging; tear tears tore torn tearing; understand understands understood
understanding; weep weeps wept weeping; wind winds wound winding; dream dreams dreamed dreamt dreaming;
learn learns learned learnt learning; spill spills spilled spilt spilling; burn burns burned burnt burning;
leap leaps leaped leapt leaping; lay lays laid laying; creep creeps crept creeping; bend bends bent bending;
can could; will would; may might; shall should; must; become becomes became becoming; show shows showed shown showing;
knit knits knitted knitting; visit visits visited visiting; open opens opened opening; listen listens listened listening;
answer answers answered answering; happen happens happened happening; offer offers offered offering;
enter enters entered entering; remember remembers remembered remembering; discover discovers discovered discovering;
wonder wonders wondered wondering; gather gathers gathered gathering; whisper whispers whispered whispering;
wander wanders wandered wandering; scatter scatters scattered scattering; water waters watered watering;
cover covers covered covering; deliver delivers delivered delivering; order orders ordered ordering;
follow follows followed following; reset resets reset resetting; cancel cancels canceled cancelled canceling cancelling
"""
IRREGULAR_ADJECTIVES = "good better best; bad worse worst; far farther further farthest furthest; little less least"


def forms(word: str, inflection: Inflection) -> frozenset[str]:
    """The word in lower case, and all that it becomes: plurals, tenses, comparatives."""
    return _forms(word.lower(), inflection)


@cache
def _forms(word: str, inflection: Inflection) -> frozenset[str]:
    known = _irregular(inflection).get(word)
    return frozenset({word, *(known or _regular(word, inflection))})


@cache
def _irregular(inflection: Inflection) -> dict[str, tuple[str, ...]]:
    tables = {"noun": IRREGULAR_NOUNS, "verb": IRREGULAR_VERBS, "adjective": IRREGULAR_ADJECTIVES, "none": ""}
    lines = [line.split() for line in tables[inflection].split(";")]
    return {line[0]: tuple(line[1:]) for line in lines if line}


def _regular(word: str, inflection: Inflection) -> Iterator[str]:
    """By the rules of spelling: `carries`, `hoped`, `stopping`, `bigger`."""
    match inflection:
        case "noun":
            yield _with_s(word)
        case "verb":
            yield _with_s(word)
            yield from (_joined(word, ending) for ending in ("ed", "ing"))
        case "adjective":
            yield from (_joined(word, ending) for ending in ("er", "est"))


def _with_s(word: str) -> str:
    if word.endswith("y") and word[-2:-1] not in VOWELS:
        return f"{word[:-1]}ies"
    return f"{word}es" if word.endswith(("s", "x", "z", "ch", "sh")) else f"{word}s"


def _joined(word: str, ending: str) -> str:
    if word.endswith("y") and word[-2:-1] not in VOWELS and ending[0] == "e":
        return f"{word[:-1]}i{ending}"
    if word.endswith("ie") and ending == "ing":
        return f"{word[:-2]}ying"
    if word.endswith("e") and not (ending == "ing" and word.endswith(("ee", "oe", "ye"))):
        return f"{word[:-1]}{ending}"
    return f"{word}{word[-1]}{ending}" if _doubles(word) else f"{word}{ending}"


def _doubles(word: str) -> bool:
    """Whether the last letter is doubled: one vowel before one consonant, in a word of one syllable."""
    if len(word) < 3 or word[-1] in f"{VOWELS}wxy" or word[-2] not in VOWELS or word[-3] in VOWELS:
        return False
    return sum(letter in VOWELS for letter in word) == 1


def holds(words: Sequence[str], wanted: str, inflection: Inflection) -> bool:
    """Whether a text, as its words in lower case, holds this word in any of its forms, or this phrase, whose last word may
    have any."""
    *first, last = wanted.lower().split()
    ends = forms(last, inflection)
    length = len(first)
    return any(
        word in ends and list(words[place - length : place]) == first
        for place, word in enumerate(words)
        if place >= length
    )
