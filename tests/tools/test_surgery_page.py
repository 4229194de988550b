"""The outputs that docs/surgery.md shows are those that its lines give."""

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "surgery.md"


def test_outputs_of_the_page():
    blocks = re.findall("```pycon\n(.*?)```", PAGE.read_text(), re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, PAGE.name, str(PAGE), 0)
    result = doctest.DocTestRunner(verbose=False).run(examples)
    assert result.attempted >= 15 and not result.failed
