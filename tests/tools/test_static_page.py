"""The page without a server: what is written, and in a browser its pixels and scores against Keras' own way."""

import base64
import functools
import http.server
import io
import json
import os
import shutil
import struct
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data import views
from tests.tools.samples import BAD, encode, jpeg_that_declares, photo, png_that_declares
from tools import demo, explain, predict
from tools.page import static

CJK = ["蚂蚁", "ハチ", "고양이", "<b>dog</b>", "أنقليس", "fox", "gnu"]
# Environment variables: of docs/demo.md, a run whose scores are printed, and a PNG to write.
RUN, SCREENSHOT = "DEMO_RUN", "DEMO_SCREENSHOT"


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_16_bits(values, interlaced=False, key=None):
    """RGB or RGBA of 16 bits, which Pillow does not write; every filter in turn is 'sub' or none."""
    height, width, channels = values.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    raw = b""
    for left, top, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        for number, row in enumerate(values[top::dy, left::dx] if left < width else ()):
            data = np.frombuffer(row.astype(">u2").tobytes(), "uint8")
            before = np.concatenate([np.zeros(2 * channels, "uint8"), data[: -2 * channels]])
            raw += bytes([number % 2]) + (data - before if number % 2 else data).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, interlaced)
    transparent = b"" if key is None else chunk(b"tRNS", struct.pack(">HHH", *key))
    body = transparent + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


def odd_files():
    rgb = Image.fromarray(photo(61, 83))
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(photo(61, 83, seed=1)[..., 0]))
    files = {}

    def keep(name, image, kind, **options):
        file = io.BytesIO()
        image.save(file, kind, **options)
        files[name] = file.getvalue()

    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, options in {"JPEG": {"quality": 90}, "PNG": {}, "WEBP": {"lossless": True}}.items():
            keep(f"{kind} {orientation}", rgb, kind, exif=exif, **options)
    keep("grey JPEG", rgb.convert("L"), "JPEG")
    keep("progressive JPEG", rgb, "JPEG", progressive=True, quality=50)
    keep("CMYK JPEG", rgb.convert("CMYK"), "JPEG")
    at = files["CMYK JPEG"].index(b"\xff\xee")
    files["CMYK JPEG without Adobe's segment"] = files["CMYK JPEG"][:at] + files["CMYK JPEG"][at + 16 :]
    keep("grey PNG with alpha", rgba.convert("LA"), "PNG")
    keep("PNG with alpha", rgba, "PNG")
    keep("PNG with a palette", rgb.quantize(64), "PNG", transparency=3)
    keep("PNG of 1 bit", rgb.convert("1"), "PNG")
    gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
    files["PNG with gamma"] = files["PNG 1"][:33] + gamma + files["PNG 1"][33:]
    keep("WebP with alpha", rgba, "WEBP", quality=80)
    keep("GIF, animated", rgb.quantize(64), "GIF", save_all=True, append_images=[rgb.rotate(90).quantize(64)])
    keep("GIF with transparency", rgb.quantize(64), "GIF", transparency=2)
    keep("BMP", rgb, "BMP")
    keep("BMP with a palette", rgb.quantize(64), "BMP")
    keep("large JPEG", Image.fromarray(photo(900, 1200)), "JPEG")
    keep("one pixel", Image.fromarray(photo(1, 1)), "PNG")
    deep = np.random.default_rng(0).integers(0, 65536, (21, 26, 4))
    deep[3:6, 4:9, :3] = 1000, 2000, 3000
    files["PNG of 16 bits"] = png_of_16_bits(deep[..., :3])
    files["PNG of 16 bits, interlaced"] = png_of_16_bits(deep[..., :3], interlaced=True)
    files["PNG of 16 bits with alpha"] = png_of_16_bits(deep)
    files["PNG of 16 bits with a key"] = png_of_16_bits(deep[..., :3], key=(1000, 2000, 3000))
    keep("grey PNG of 16 bits", Image.fromarray(photo(20, 20)[..., 0].astype("uint16") * 200 + 77), "PNG")
    return files


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """What the page needs of onnxruntime-web, from npm."""
    try:
        return static._fetch_runtime(tmp_path_factory.mktemp("onnxruntime_web"))
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_package(tmp_path):
    """Files that are called as those of onnxruntime-web."""
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name in static._RUNTIME_FILES:
        (tmp_path / "package" / "dist" / name).write_text("no runtime")
    return tmp_path / "package"


class TestRefusals:
    def test_before_anything_is_loaded(self, tmp_path, version, monkeypatch):
        (tmp_path / "mine.txt").write_text("")
        with pytest.raises(FileExistsError, match=r"--static=.* exists; give another folder"):
            demo.write_static(tmp_path, tmp_path / "nowhere", [])
        with pytest.raises(ValueError, match=r"is an export for tf_saved_model, which browsers do not run: give the"):
            demo.write_static(tmp_path / "page", version, [])
        monkeypatch.setitem(sys.modules, "tf2onnx", None)
        with pytest.raises(ImportError, match=r"needs the package tf2onnx: pip install 'coatnet_tf\[runtimes\]'"):
            demo.write_static(tmp_path / "page", tmp_path / "model.keras", [])

    def test_no_runtime(self, tmp_path, model_file, monkeypatch):
        with pytest.raises(FileNotFoundError, match=r"holds no ort.wasm.bundle.min.mjs: give --onnxruntime_web"):
            demo.write_static(tmp_path / "page", model_file, [], tmp_path, crop="none")
        monkeypatch.setenv("PATH", "")
        with pytest.raises(FileNotFoundError, match="There is no npm here, .*: install Node.js, or give --onnxruntime"):
            demo.write_static(tmp_path / "page", model_file, [], crop="none")
        program = tmp_path / "npm"
        program.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
        with pytest.raises(OSError, match=r"npm cannot fetch onnxruntime-web@\S+ \(code ENOTFOUND\): mend that, or"):
            demo.write_static(tmp_path / "page", model_file, [], crop="none")
        assert [path.name for path in tmp_path.iterdir()] == ["npm"]  # nothing half-written

    def test_no_pictures(self, tmp_path):
        classifier = predict.Classifier(4, views.View((8, 8)), ("a", "b"), lambda images: images)
        with pytest.raises(ValueError, match="takes images of 4 channels; pictures in a browser have 1 or 3"):
            static.write(tmp_path / "page", static.Shown(tmp_path / "model.keras", classifier, "", 3))


@pytest.mark.slow
def test_what_is_written(tmp_path, run_folder, no_package):
    (tmp_path / "tiff.tif").write_bytes(encode(photo(), "TIFF"))
    examples, _ = demo.find_examples(run_folder, tmp_path, 3)
    sizes = demo.write_static(tmp_path / "page", run_folder, [tmp_path / "tiff.tif", *examples], no_package)
    about = json.loads((tmp_path / "page" / "model.json").read_text())
    assert [example["file"] for example in about["examples"]] == [f"examples/{i}.png" for i in range(3)]
    assert about["examples"][0]["name"] == examples[0].stem
    assert about["view"] == {"size": [16, 16], "interpolation": "bilinear", "center": None, "resized": None}
    assert len(about["check"]) == 10 and sum(about["check"]) == pytest.approx(1, abs=1e-5)
    assert sizes["runtime"] == 20 and sizes["model"] == (tmp_path / "page" / "model.onnx").stat().st_size
    assert (tmp_path / "page").stat().st_mode & 0o555 == 0o555  # a web host reads it


@pytest.fixture(scope="module")
def of_run(request, package, tmp_path_factory):
    """The page of a run on digits, and the run."""
    folder = tmp_path_factory.mktemp("static")
    run = Path(os.environ[RUN]) if RUN in os.environ else request.getfixturevalue("run_folder")
    examples, _ = demo.find_examples(run, folder)
    demo.write_static(folder / "page", run, examples, package)
    return folder / "page", run


@pytest.fixture(scope="module")
def of_file(package, model_file, tmp_path_factory):
    """The page of a model for images in colour, whose classes are of several scripts."""
    folder = tmp_path_factory.mktemp("static")
    (folder / "labels.txt").write_text("\n".join(CJK), encoding="utf-8")
    demo.write_static(folder / "page", model_file, [], package, labels=folder / "labels.txt", crop="0.9")
    return folder / "page"


@pytest.fixture
def opened(browser):
    """Opens a folder as a web host shows it; what its page asks of others is refused, and the test fails of it."""
    tabs, servers, asked, allowed = [], [], [], []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    def open_folder(folder, width=1200):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        address = f"http://127.0.0.1:{server.server_port}/"

        def ask(route):
            if route.request.url.startswith((address, "data:", "blob:")):
                allowed.append(route.request.url)
                route.continue_()
            else:
                asked.append(route.request.url)
                route.abort()

        context = browser.new_context(viewport={"width": width, "height": 900})
        context.route("**/*", ask)
        tabs.append(context.new_page())
        tabs[-1].on("request", lambda request: sent.append(request.post_data) if request.method != "GET" else None)
        tabs[-1].goto(address)
        tabs[-1].wait_for_selector("#checked:not(:empty), #status:has-text('Not ready')", timeout=60_000)
        return tabs[-1]

    sent = []
    yield open_folder
    for tab in tabs:
        tab.context.close()
    for server in servers:
        server.shutdown()
        server.server_close()
    assert not asked and not sent
    assert any(address.endswith("model.onnx") for address in allowed)  # the worker's requests are seen, too


AS_BLOBS = "const blobs = files.map((text) => new Blob([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))]));"
LOAD = f"""async ([files, about]) => {{
  const {{ load }} = await import("./load.js"); {AS_BLOBS}
  return Promise.all(blobs.map((blob) => load(blob, about).then((seen) => Array.from(seen), (e) => e.message)));
}}"""
CLASSIFY = f"""async ([files]) => {{
  const {{ classify }} = await import("./page.js"); {AS_BLOBS}
  const answer = ({{ scores, milliseconds }}) => [Array.from(scores), milliseconds];
  return Promise.all(blobs.map((blob) => classify(blob).then(answer)));
}}"""


def as_text(files):
    return [base64.b64encode(file).decode() for file in files]


def scores_of(tab, files):
    answers = tab.evaluate(CLASSIFY, [as_text(files)])
    return np.array([scores for scores, _ in answers]), np.array([milliseconds for _, milliseconds in answers])


def expected_scores(model, folder, files, **options):
    paths = [folder / str(index) for index in range(len(files))]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    classifier = predict.load_classifier(model, **options)
    found = predict.predict(classifier, [predict.Prediction(str(path)) for path in paths])
    return np.array([entry.probabilities for entry in found])


@pytest.mark.slow
class TestInABrowser:
    @pytest.mark.parametrize(
        "view, channels",
        [
            (views.View((16, 16)), 1),
            (views.View((40, 72), "0.95", "bicubic"), 3),
            (views.View((96, 48), "0.875"), 3),
            (views.View((48, 64), "center"), 3),
        ],
        ids=str,
    )
    def test_pixels(self, opened, of_run, view, channels):
        """They are those of training and evaluation, of every kind of file that browsers read."""
        files = odd_files()
        about = {"channels": channels, "max_pixels": 5e7, "view": static.describe_view(view)}
        loaded = opened(of_run[0]).evaluate(LOAD, [as_text(files.values()), about])
        for (name, file), seen in zip(files.items(), loaded, strict=True):
            assert not isinstance(seen, str), (name, seen)
            expected = explain.decode(file, "it", channels, view)
            difference = np.abs(np.reshape(seen, expected.shape).astype(int) - expected)
            if "JPEG" in name and (channels == 1 or view.crop == "center"):
                # TensorFlow takes the grey of a JPEG before it makes colours, and its colours at the edge of a cut
                # from within the cut.
                assert difference.mean() < 0.3, name
            else:
                assert difference.max() == 0, name

    def test_scores_of_held_out_images(self, opened, of_run, tmp_path):
        page, run = of_run
        examples, _ = demo.find_examples(run, tmp_path, 1000)
        files = [path.read_bytes() for path in examples]
        scores, milliseconds = scores_of(opened(page), files)
        difference = np.abs(scores - expected_scores(run, tmp_path, files)).max()
        print(f"{len(files)} images: scores to {difference:.1e}, median {np.median(milliseconds):.1f} ms per image")
        assert len(files) == 359 and difference < 1e-5

    def test_scores_of_odd_files(self, opened, of_file, model_file, tmp_path):
        files = list(odd_files().values())
        scores, _ = scores_of(opened(of_file), files)
        expected = expected_scores(model_file, tmp_path, files, crop="0.9")
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert expected.max(axis=0).min() > 1.3 * expected.min()  # images that the model tells apart

    def test_what_cannot_be_read_says_why(self, opened, of_file, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        hidden = io.BytesIO()
        Image.fromarray(photo()).save(hidden, "PNG", exif=exif)
        png = encode(photo())
        as_text_chunk = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(exif.tobytes()))
        gif, webp, bmp = (encode(photo(), kind) for kind in ("GIF", "WEBP", "BMP"))
        flipped = bytearray(png)
        flipped[len(png) // 2] ^= 0xFF
        deep = png_of_16_bits(np.zeros((9, 9, 3), int))
        shorter = chunk(b"IDAT", zlib.compress(b"\0" * 60)) + chunk(b"IEND", b"")
        cases = {
            "empty": (b"", "It is no image"),
            "text": (BAD["text"][0], "It is no image"),
            "tiff": (encode(photo(), "TIFF"), "It is a TIFF, and JPEG, PNG, GIF, BMP or WebP are read: convert it."),
            "avif": (b"\0\0\0\x20ftypavif" + bytes(40), "It is a file of AVIF"),
            "truncated jpg": (BAD["truncated JPEG"][0], "damaged or truncated"),
            "jpg's beginning": (BAD["JPEG's beginning"][0], "damaged or truncated"),
            "truncated png": (BAD["truncated PNG"][0], "damaged or truncated"),
            "flipped png": (bytes(flipped), "damaged or truncated"),
            "deep png": (deep[:33] + shorter, "damaged or truncated"),
            "truncated gif": (gif[: len(gif) // 2], "damaged or truncated"),
            "truncated webp": (webp[:-20], "damaged or truncated"),
            "truncated bmp": (bmp[:-20], "damaged or truncated"),
            "png bomb": (
                png_that_declares(100_000, 100_000),
                "declares 10,000,000,000 pixels, more than 50,000,000",
            ),
            "jpg bomb": (jpeg_that_declares(65_000, 65_000), "It declares 4,225,000,000 pixels"),
            "hidden": (png[:33] + as_text_chunk + png[33:], "orientation in a compressed or hexadecimal text"),
        }
        for name, (file, _) in cases.items():
            (tmp_path / name).write_bytes(file)
        (tmp_path / "zz good.png").write_bytes(png)
        tab = opened(of_file)
        names = [*cases, "zz good.png"]
        tab.set_input_files("#files", [str(tmp_path / name) for name in names])
        tab.wait_for_selector(".card canvas", timeout=60_000)  # of the last
        cards = {card.locator(".name").inner_text(): card.inner_text() for card in tab.locator(".card").all()}
        assert list(cards) == names
        for name, (_, why) in cases.items():
            assert why in cards[name], name
        assert tab.locator(".card .error").count() == len(cases)

    @pytest.mark.parametrize("width", [375, 1200])
    def test_cards(self, opened, of_file, model_file, tmp_path, width):
        files = [encode(photo(seed=seed)) for seed in range(12)]
        expected = expected_scores(model_file, tmp_path, files, crop="0.9")
        for index, file in enumerate(files):
            (tmp_path / f"{index:02d}.png").write_bytes(file)
        tab = opened(of_file, width)
        tab.set_input_files("#files", sorted(map(str, tmp_path.glob("*.png"))))
        tab.locator(".card canvas").nth(11).wait_for(timeout=60_000)
        for card, scores in zip(tab.locator(".card").all(), expected, strict=True):
            best = np.argsort(-scores)[: demo.TOP]
            assert card.locator(".class span").all_inner_texts() == [CJK[i] for i in best]
            assert card.locator(".class b").all_inner_texts() == [f"{100 * scores[i]:.1f}%" for i in best]
            assert card.locator(".time").inner_text().endswith(" ms")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [card.bounding_box() for card in tab.locator(".card").all()]
        assert all(box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1200)  # side by side, and below each other

    def test_examples_and_the_camera(self, opened, of_run, tmp_path):
        tab = opened(of_run[0])
        if SCREENSHOT in os.environ:
            tab.set_viewport_size({"width": 1000, "height": 600})
        (tmp_path / "broken.jpg").write_bytes(encode(photo(), "JPEG")[:60])
        tab.set_input_files("#files", str(tmp_path / "broken.jpg"))
        for example in reversed(tab.locator(".example").all()):
            example.click()
        tab.locator(".card canvas").nth(demo.EXAMPLES - 1).wait_for(timeout=60_000)
        assert "held-out 0" in tab.locator(".card").first.inner_text()
        if SCREENSHOT in os.environ:
            tab.screenshot(path=os.environ[SCREENSHOT], full_page=True)
        tab.get_by_role("button", name="Camera").click()
        tab.wait_for_selector("#camera video")
        tab.wait_for_timeout(1000)  # until it shows something
        tab.get_by_role("button", name="Take a picture").click()
        tab.locator(".card canvas").nth(demo.EXAMPLES).wait_for(timeout=60_000)
        assert "camera" in tab.locator(".card").first.inner_text()

    def test_other_scores_are_refused(self, opened, of_file, tmp_path):
        """As from a browser that changes what a page reads of its canvas, or another model's file in the cache."""
        shutil.copytree(of_file, tmp_path / "page")
        about = json.loads((tmp_path / "page" / "model.json").read_text())
        about["check"][0] += 0.01
        (tmp_path / "page" / "model.json").write_text(json.dumps(about))
        (tmp_path / "good.png").write_bytes(encode(photo()))
        tab = opened(tmp_path / "page")
        assert "gives other scores than the model (off by 0.010" in tab.locator("#status").inner_text()
        tab.set_input_files("#files", str(tmp_path / "good.png"))
        tab.wait_for_selector(".card .error", timeout=60_000)
        assert "This browser gives other scores" in tab.locator(".card").inner_text()
        assert not tab.locator(".card canvas").count()
