"""Problems of our own with their answers, so that an evaluation runs without a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pavane.bench.evals.tasks import Line

MATH = (
    {
        "problem": "A train leaves with 84 passengers. A third of them get off and 15 get on. How many are aboard?",
        "answer": 71,
    },
    {"problem": "Two numbers add up to 50 and differ by 12. What is the larger one?", "answer": 31},
    {"problem": "A box holds 6 rows of 8 eggs. 9 eggs break. How many are whole?", "answer": 39},
    {"problem": "A tap fills a 45 litre tub in 9 minutes. How many litres does it give in 4 minutes?", "answer": 20},
    {"problem": "What is 15 percent of 240?", "answer": 36},
    {"problem": "A rectangle is 7 cm wide and has an area of 91 square cm. How long is it, in cm?", "answer": 13},
    {"problem": "Mia is twice as old as Tom. In 6 years they will be 42 together. How old is Tom?", "answer": 10},
    {"problem": "What is 3/4 divided by 3/8?", "answer": 2},
)
CONCEPTS = (
    {"concepts": ["lighthouse", "storm", "letter", "bicycle", "baker", "ferry", "violin", "key"]},
    {"concepts": ["garden", "ladder", "cat", "moon", "teacher", "bucket"]},
    {"concepts": ["river", "bridge", "map", "lantern", "horse", "bread", "bell", "winter"]},
    {"concepts": ["kite", "beach", "sister", "sandwich", "whistle", "cloud"]},
)
QUESTIONS = (
    {"questions": ["What is the capital of Norway?", "How many legs has a spider?"], "answers": ["Oslo", "eight|8"]},
    {
        "questions": ["Which planet is nearest to the sun?", "What is frozen water called?"],
        "answers": ["Mercury", "ice"],
    },
    {"questions": ["Which metal is liquid at room temperature?", "What is 7 times 8?"], "answers": ["mercury", "56"]},
    {"questions": ["What do bees make?", "How many days has a week?"], "answers": ["honey", "seven|7"]},
)
READINGS = (
    {
        "question": "In which year did the ferry stop?",
        "documents": [
            "The island of Hallo lies four kilometres off the coast. A small ferry made six trips a day in summer.",
            "Work on the bridge began in 1961 and took three years longer than planned.",
            "The ferryman, Anders Holm, made his last trip in the autumn of 1967, a week after the bridge was opened.",
        ],
        "answers": ["1967"],
    },
    {
        "question": "Who repaired the clock?",
        "documents": [
            "The clock of the town hall stood still for eleven years, since nobody had the parts.",
            "Ruth Adler learned to make wheels of brass from her grandfather, a maker of looms.",
            "In March the clock struck again. Adler had cut forty new teeth by hand.",
        ],
        "answers": ["Adler"],
    },
)
SAMPLES: Mapping[str, Sequence[Line]] = {
    "tree-of-thoughts": MATH,
    "debate": MATH,
    "iterative-debate": MATH,
    "branch-solve-merge": CONCEPTS,
    "multi-question": QUESTIONS,
    "rag-team": READINGS,
}
