"""The pages of documentation: code that they quote stands where they say, and their links lead somewhere."""

from __future__ import annotations

import doctest
import re
import textwrap
from pathlib import Path

import pytest

from fastnn.testing import KERNELS

ROOT = Path(__file__).parents[1]
GRADIENTS = sorted((ROOT / "docs" / "gradients").glob("*.md"))
EXPLAINED = [ROOT / "docs" / f"{page}.md" for page in ("adversarial", "pruning", "quantization", "residual_networks")]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]

_BLOCK = re.compile(r"^```python\n(.*?)\n```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"`(fastnn/[\w/]+\.py)`")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*GRADIENTS, *EXPLAINED], ids=name)
def test_quoted_code_stands_in_the_file_named_before_it(page: Path) -> None:
    text = page.read_text()
    blocks = list(_BLOCK.finditer(text))
    assert blocks or page.name == "README.md"
    for block in blocks:
        file = _FILE.findall(text[: block.start()])[-1]
        lines, quoted = (ROOT / file).read_text().splitlines(), block[1]
        length = len(quoted.splitlines())
        stands = any(textwrap.dedent("\n".join(lines[i : i + length])) == quoted for i in range(len(lines)))
        assert stands, f"not in {file}:\n{quoted}"


@pytest.mark.parametrize("page", EXPLAINED, ids=name)
def test_examples_run(page: Path) -> None:
    examples = doctest.DocTestParser().get_doctest(page.read_text().replace("```", ""), {}, page.name, str(page), 0)
    assert len(examples.examples) > 9
    assert not doctest.DocTestRunner().run(examples).failed


def test_every_gradient_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "gradients" / "README.md").read_text()
    for page in GRADIENTS:
        assert page.name == "README.md" or f"]({page.name})" in index, page.name


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_figures_of_the_readme_stand_on_the_page_of_performance() -> None:
    speed = re.search(r"^## Speed\n(.*?)^## ", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert speed
    figures = re.findall(r"\d{4}-\d\d-\d\d|\d+\.\d\d", speed[1])
    assert len(figures) > 10
    page = re.findall(r"[\d.-]+", (ROOT / "docs" / "performance.md").read_text())
    assert not set(figures) - set(page)


def test_the_table_of_cuda_is_of_kernels_that_there_are() -> None:
    """None has failed what needs no GPU. One without a line was not run: to add it takes no CUDA compiler."""
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs" / "cuda.md").read_text(), re.MULTILINE)
    assert lines
    assert {kernel for kernel, _ in lines} <= set(KERNELS)
    for _, cells in lines:
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d|not run", cell) for cell in cells.split(" | ")[:-1])
