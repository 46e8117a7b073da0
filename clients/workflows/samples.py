"""Problems of our own, so that every workflow runs without a file."""

from __future__ import annotations

from pavane.clients.workflows.problem import TextProblem

WORD_PROBLEMS = (
    TextProblem(
        "A bakery fills 14 trays with 12 rolls each. It sells 95 rolls before noon and gives a quarter of the full "
        "trays it still has afterwards to a school. How many rolls are left?"
    ),
    TextProblem("A train leaves with 84 passengers. A third of them get off and 15 get on. How many are aboard now?"),
    TextProblem("Two numbers add up to 50 and differ by 12. What is the larger one?"),
)

SUBJECTS = (
    TextProblem("How a lighthouse keeper spent a winter day a hundred years ago"),
    TextProblem("Why bread rises"),
)
