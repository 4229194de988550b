"""The pages of the documentation: no link leads nowhere, nothing is fetched from elsewhere, and they can be read."""

import functools
import json
import re
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import coatnet_tf

ROOT = Path(__file__).parents[2]
PHONE, WIDE = 375, 1280


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """As `make docs` builds it, strictly."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_nothing_is_fetched_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        fetched = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\s\">]*)", page.read_text())
        assert [address for address in fetched if "localhost" not in address] == [], page


def test_every_page_is_in_the_search_and_every_name_in_the_reference(site):
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    found = {entry["location"].partition("#")[0] for entry in index}
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "notebooks").glob("*.ipynb")]
    assert {page.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for page in pages} <= found
    reference = (site / "api.html").read_text()
    built = {"FAMILY", "RELATIVES", "layers", "rivals", *(name for name in dir(coatnet_tf) if "CoAtNet" in name)}
    left_out = [name for name in coatnet_tf.__all__ if name not in built and f"coatnet_tf.{name}" not in reference]
    assert left_out == []


def test_a_link_that_leads_nowhere_fails(tmp_path):
    """As the links of all pages are checked: with the project's own configuration."""
    (tmp_path / "docs").mkdir()
    for name in ("hooks.py", "griffe_examples.py", "site.css"):
        (tmp_path / "docs" / name).write_text((ROOT / "docs" / name).read_text())
    config = re.sub(r"\nnav:.*", "", (ROOT / "mkdocs.yml").read_text(), flags=re.DOTALL)
    (tmp_path / "mkdocs.yml").write_text(config)
    for text, leads_nowhere in (("[a](index.md#here)\n\n# Here", False), ("[a](gone.md)", True), ("[a](#gone)", True)):
        (tmp_path / "docs" / "index.md").write_text(f"{text}\n")
        command = [sys.executable, "-m", "mkdocs", "build"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert (result.returncode != 0) == leads_nowhere, result.stdout + result.stderr


@pytest.fixture(scope="module")
def address(site):
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def tab(browser, address):
    opened = browser.new_page(viewport={"width": WIDE, "height": 900})
    asked = []
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    opened.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize("width", [WIDE, PHONE])
    def test_pages_fit(self, tab, address, site, width):
        """Wide tables and code scroll within themselves, and no picture is missing."""
        tab.set_viewport_size({"width": width, "height": 900})
        for page in sorted([*site.glob("*.html"), *site.glob("notebooks/*.html")]):
            if page.name == "404.html":
                continue
            tab.goto(f"{address}/{page.relative_to(site)}")
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, page.name
            missing = "[...document.images].filter(image => image.complete && !image.naturalWidth).map(i => i.src)"
            assert tab.evaluate(missing) == [], page.name

    def test_the_search_finds(self, tab, address):
        tab.goto(f"{address}/index.html")
        tab.locator("input.md-search__input").click()
        tab.locator("input.md-search__input").press_sequentially("accumulation_steps")
        tab.wait_for_selector(".md-search-result__item", timeout=30_000)
        assert "planning.html" in "".join(
            link.get_attribute("href") for link in tab.locator(".md-search-result__link").all()
        )
