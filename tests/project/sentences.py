"""Reading of what a docstring says that its module does not know: `knows no sound and no SQL`."""

import re
from collections.abc import Iterator

# The verb with its subject left out: at the beginning of a sentence or of a part of it.
_VERB = re.compile(r"(?:^|[;:,] |\band )(knows?|(?:does|do) not know)\b", re.IGNORECASE)
_DENIAL = r"(?:no|neither|nothing (?:of|about)|not)\b"
_END = re.compile(r":(?:\s|$)|;(?! (?:no|nothing (?:of|about)) )|[.!?](?:\s|$)")
_QUESTION = re.compile(
    r"(?:in )?(?:what|which|how|where|when|who|whom|whose|why|whether|that|if)\b"
)


def is_question(thing: str) -> bool:
    """Whether a thing is an indirect question, as `how birds sound`."""
    return _QUESTION.match(thing) is not None


def unknown(docstring: str) -> list[str]:
    """Things that are not known, in small letters and without articles; questions are whole."""
    return [thing for clause in clauses(docstring) for thing in things(clause)]


def sentences(docstring: str) -> list[str]:
    """Sentences, each on one line and without what is in brackets; a paragraph ends one, too."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", docstring)]
    bare = [re.sub(r" \([^()]*\)", "", part) for part in parts]
    return [text for part in bare for text in re.split(r"(?<=[.!?])\s+(?=[^a-z])", part) if text]


def clauses(docstring: str) -> Iterator[str]:
    """What follows `knows` as far as it says what is not known: `no sound and no SQL`."""
    for sentence in sentences(docstring):
        for verb in _VERB.finditer(sentence):
            clause = _END.split(sentence[verb.end() :])[0].strip()
            if verb[1].lower().startswith("do"):
                yield f"not {clause}"
            elif (start := re.search(rf"(?:^|[,;] (?:and )?|\band ){_DENIAL}", clause)) is not None:
                yield clause[start.start() :].strip(",; ").removeprefix("and ")


def things(clause: str) -> list[str]:
    """The things of a clause. After `no X and` a thing counts only if it is denied itself."""
    each = re.match("no |neither ", clause)
    pieces = re.split(r"(?:[,;]?\s+(and|or|nor)|[,;])\s+", clause)
    known: list[str] = []
    for word, joint in zip(pieces[::2], [None, *pieces[1::2]], strict=True):
        thing, denials = re.subn(rf"^(?:{_DENIAL} |of |about )+", "", f"{word} ".lower())
        asks = is_question(thing)
        if re.match(r"(?:only|but)\b", thing) or (
            each and joint == "and" and not denials and not asks
        ):
            break
        if denials or asks or not (known and is_question(known[-1])):
            known.append(re.sub(r"^(?:the|an?|any|its|their) ", "", thing).strip())
    return known
