"""What a right answer is: by workflow, from the line of a problem and the text that came out."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

Line = Mapping[str, object]


class BadLine(ValueError):  # noqa: N818
    """A problem without what its answer is to be compared with; the text names the field."""


@dataclass(frozen=True)
class Task:
    """`reference` takes from a line what `score` (0 to 1) compares a text with. `answer` is the part of a text that
    counts: two texts agree if it is the same."""

    name: str
    reference: Callable[[Line], Sequence[str]]
    score: Callable[[str, Sequence[str]], float]
    answer: Callable[[str], str]


def boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...}, with the braces inside; None if there is none that is closed."""
    begin = text.rfind(r"\boxed{")
    if begin < 0:
        return None
    depth = 0
    for at in range(begin + len(r"\boxed"), len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return text[begin + len(r"\boxed{") : at]
    return None


def math_answer(text: str) -> str:
    """What is boxed, else the last number, in one spelling; "" if there is neither."""
    found = boxed(text)
    if found is None:
        numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?", text)
        found = numbers[-1] if numbers else ""
    return spelled(found)


def spelled(answer: str) -> str:
    r"""One spelling of an answer in LaTeX: no spaces, dollars or \left; \dfrac is \frac; numbers as fractions."""
    answer = re.sub(r"\\(?:text|mbox|textbf|mathrm)\{([^{}]*)\}", r"\1", answer)
    answer = re.sub(
        r"\\[dt]frac", r"\\frac", re.sub(r"\\(?:left|right|!|,|;|\s)|\\?[$%]|\^\{?\\circ\}?|\s", "", answer)
    )
    answer = re.sub(r"^\\frac\{?(-?\d+)\}?\{?(\d+)\}?$", r"\1/\2", answer.rstrip("."))
    plain = re.sub(r"(?<=\d),(?=\d{3}(?:\D|$))", "", answer)
    try:
        return str(Fraction(plain))
    except (ValueError, ZeroDivisionError):
        return answer


def _math_reference(line: Line) -> Sequence[str]:
    answer, solution = line.get("answer"), line.get("solution")
    if isinstance(answer, str | int | float) and not isinstance(answer, bool):
        return [spelled(str(answer))]
    found = boxed(solution) if isinstance(solution, str) else None
    if found is None:
        raise BadLine(r"a math problem needs the field 'answer', or 'solution' with \boxed{...}")
    return [spelled(found)]


def covered(text: str, concepts: Sequence[str]) -> float:
    """The share of concepts that the text has, inflected or not: a word that begins as the concept does, less a final
    e or y, and goes on with an ending of English."""
    words = re.findall(r"[a-z]+(?:'[a-z]+)?", text.lower())
    return sum(any(map(_form_of(concept), words)) for concept in concepts) / len(concepts)


def _form_of(concept: str) -> Callable[[str], bool]:
    concept = concept.lower()
    stem = re.escape(concept[:-1] if concept[-1] in "ey" else concept)
    last = re.escape(concept[-1])
    pattern = re.compile(rf"{re.escape(concept)}|{stem}{last}?{last}?(?:e?s|e?d|ing|ies|ied|er|ers|'s)")
    return lambda word: pattern.fullmatch(word) is not None


def plain(text: str) -> str:
    """In small letters, without punctuation and articles."""
    letters = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(word for word in letters.split() if word not in ("a", "an", "the"))


def named(text: str, answers: Sequence[str]) -> float:
    """The share of answers that stand in the text as whole words; "|" parts those of which one is enough."""
    said = f" {plain(text)} "
    found = sum(any(f" {plain(one)} " in said for one in answer.split("|")) for answer in answers)
    return found / len(answers)


def _texts(line: Line, *names: str) -> Sequence[str]:
    for name in names:
        value = line.get(name)
        if isinstance(value, str) and value.strip():
            return [value]
        if isinstance(value, list) and value and all(isinstance(each, str) and each.strip() for each in value):
            return value
    raise BadLine(f"the field {names[0]!r} must be a text or a list of texts")


MATH = Task("right", _math_reference, lambda text, right: float(math_answer(text) == right[0]), math_answer)
COVERAGE = Task("coverage", lambda line: _texts(line, "concepts"), covered, plain)
NAMED = Task("named", lambda line: _texts(line, "answers", "answer"), named, plain)
TASKS: Mapping[str, Task] = {
    "tree-of-thoughts": MATH,
    "debate": MATH,
    "iterative-debate": MATH,
    "branch-solve-merge": COVERAGE,
    "multi-question": NAMED,
    "rag-team": NAMED,
}
