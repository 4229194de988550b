"""What the page answers, without a browser; and the page in one."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import workdir
from experiments.data import sources
from tests.tools.samples import LABELS, encode, make_images, photo
from tools import demo

# Environment variables: of docs/demo.md, which run the page is of, and a PNG to write.
RUN, SCREENSHOT = "DEMO_RUN", "DEMO_SCREENSHOT"


@pytest.fixture(scope="module")
def of_file(model_file, tmp_path_factory):
    labels = tmp_path_factory.mktemp("labels") / "labels.txt"
    labels.write_text("\n".join(["<b>ant</b>", *LABELS[1:]]))
    return demo.load(model_file, labels=labels, crop="none")


@pytest.fixture
def pictures(tmp_path):
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        path.write_bytes(encode(photo(seed=index)))
    return paths


def cards_of(answer):
    return answer.split('<div class="card">')[1:]


class TestAnswers:
    def test_classes_scores_and_a_map(self, of_file, pictures):
        cards = cards_of(of_file.answer(pictures))
        assert len(cards) == 3
        for card, path in zip(cards, pictures, strict=True):
            (found,) = demo.predict.predict(of_file.classifier, [demo.predict.Prediction(str(path))])
            best = np.argsort(-found.probabilities)[: demo.TOP]
            assert re.findall(r"<b>([\d.]+)%</b></div>", card) == [f"{100 * found.probabilities[i]:.1f}" for i in best]
            assert card.count("data:image/png;base64,") == 2
            assert "Grad-CAM" in card

    def test_names_are_text(self, of_file, tmp_path):
        path = tmp_path / "<script>.png"
        path.write_bytes(encode(photo()))
        answer = demo.Demo(of_file.classifier, None, "").answer([path])
        assert "&lt;script&gt;.png" in answer and "<script>" not in answer and "<b>ant" not in answer

    def test_what_cannot_be_read_says_why(self, of_file, pictures, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(encode(photo(), "JPEG")[:60])
        (tmp_path / "notes.txt").write_text("no image")
        huge = Image.new("1", (10_000, 6_000))
        huge.save(tmp_path / "huge.png")
        names = ["broken.jpg", pictures[0].name, "notes.txt", "huge.png"]
        broken, good, notes, large = cards_of(of_file.answer([tmp_path / name for name in names]))
        assert "cannot be read" in broken and "cannot be read" in notes
        assert "It declares 60,000,000 pixels, more than 50,000,000." in large
        assert "error" not in good and "<img" in good and "<img" not in broken + notes + large

    def test_too_many_are_refused_and_none_is_fine(self, of_file, pictures):
        assert "51 files at once are too many; at most 50" in of_file.answer([pictures[0]] * 51)
        assert of_file.answer([]) == ""

    def test_an_export_has_classes_alone(self, version, pictures):
        of_export = demo.load(version)
        assert "An export has no Grad-CAM: give the run" in of_export.about
        (card,) = cards_of(of_export.answer(pictures[:1]))
        assert card.count("<img") == 1 and card.count("%</b>") == 3

    def test_of_a_run(self, run_folder, tmp_path):
        of_run = demo.load(run_folder)
        examples, why = demo.find_examples(run_folder, tmp_path)
        assert (len(examples), why) == (demo.EXAMPLES, "")
        assert re.fullmatch(r"held-out 0, \d\.png", examples[0].name)
        assert len(cards_of(of_run.answer(examples))) == demo.EXAMPLES

    def test_damaged_images_are_passed_over(self, run_folder, tmp_path):
        images = Path(make_images(tmp_path / "images", 20))
        config = workdir.read_recipe(run_folder)
        config.dataset.name = f"folder:{images}"
        (tmp_path / workdir.CONFIG).write_text(config.to_json())
        first = sources.prepare(config.dataset).eval.paths[0]
        Path(first).write_bytes(b"")
        examples, why = demo.find_examples(tmp_path, tmp_path)
        assert len(examples) >= 2 and why == "" and not any("held-out 0," in file.name for file in examples)

    def test_a_run_whose_data_is_gone(self, run_folder, tmp_path):
        config = workdir.read_recipe(run_folder)
        config.dataset.name = f"folder:{tmp_path}/gone"
        (tmp_path / workdir.CONFIG).write_text(config.to_json())
        assert demo.find_examples(tmp_path, tmp_path)[1].startswith("No held-out images to show, as the run's data")


@pytest.fixture(scope="module")
def address(request, tmp_path_factory):
    """The page of a run on digits, on loopback."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("page")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "dropped")
    run = Path(os.environ[RUN]) if RUN in os.environ else request.getfixturevalue("run_folder")
    of_run = demo.load(run)
    examples, _ = demo.find_examples(run, folder)
    page = demo.make_page(of_run, examples, folder / "dropped")
    yield demo.serve(page, max_megabytes=1), folder
    page.close()


@pytest.fixture
def page(browser, address):
    """A tab with the page; what it asks others than this machine for is refused, and the test fails of it."""
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    asked = []

    def ask(route):
        if route.request.url.startswith((address[0], "data:", "blob:")):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    tab.route("**/*", ask)
    tab.goto(address[0])
    tab.wait_for_selector("#files input[type=file]", state="attached", timeout=60_000)
    yield tab
    tab.close()
    assert not asked


def drop(page, *files):
    page.set_input_files("#files input[type=file]", [str(file) for file in files])


@pytest.mark.slow
class TestInABrowser:
    def test_a_good_file_and_a_damaged_one(self, page, address, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(encode(photo(), "JPEG")[:60])
        drop(page, *sorted(address[1].glob("held-out*")), tmp_path / "broken.jpg")
        page.wait_for_selector(".card .error", timeout=60_000)
        *_, good, broken = page.locator(".card").all()
        assert good.locator("img").count() == 2 and good.locator(".class").count() == 3
        assert "broken.jpg" in broken.inner_text() and "cannot be read" in broken.inner_text()
        dropped = [file for file in (address[1] / "dropped").rglob("*") if file.name == "broken.jpg"]
        assert not dropped
        if SCREENSHOT in os.environ:
            page.wait_for_timeout(1000)  # until it is no longer pale
            page.screenshot(path=os.environ[SCREENSHOT], full_page=True)

    def test_twenty_at_once_and_on_a_phone(self, page, tmp_path):
        for index in range(20):
            (tmp_path / f"{index:02d}.png").write_bytes(encode(photo(seed=index)))
        drop(page, *sorted(tmp_path.glob("*.png")))
        page.wait_for_function("document.querySelectorAll('.card img').length == 40", timeout=120_000)
        for width in (1200, 375):
            page.set_viewport_size({"width": width, "height": 800})
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            boxes = [card.bounding_box() for card in page.locator(".card").all()]
            assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
            assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1200)  # side by side, and below each other

    def test_a_file_above_the_limit(self, page, tmp_path):
        (tmp_path / "large.png").write_bytes(bytes(2 << 20))
        drop(page, tmp_path / "large.png")
        page.wait_for_selector("text=/exceeds|maximum|too large/i", timeout=60_000)
        assert not page.locator(".card").count()

    def test_held_out_images(self, page):
        page.get_by_role("tab", name="Held-out images").click()
        page.locator("button.thumbnail-item, .gallery-item button, .grid-container button").first.click()
        page.wait_for_selector(".card img", timeout=60_000)
        assert "held-out 0" in page.locator(".card").inner_text()

    def test_the_camera(self, page):
        page.get_by_role("tab", name="Camera").click()
        page.get_by_role("button", name=re.compile("access webcam|webcam", re.IGNORECASE)).first.click()
        # Captured before the camera gives a picture, there is none.
        page.wait_for_function("document.querySelector('video')?.videoWidth > 0", timeout=60_000)
        page.get_by_role("button", name=re.compile("capture", re.IGNORECASE)).first.click(timeout=60_000)
        page.wait_for_selector(".card img", timeout=60_000)
