"""A page to try a model on: drop images, see their classes and where these come from.

    python -m tools.demo --model=runs/mine
    python -m tools.demo --model=model.keras --labels=classes.txt
    python -m tools.demo --model=runs/mine/serving
    python -m tools.demo --model=runs/mine --static=page

opens a local page. It takes files, pictures of the camera and, of a run whose data is there, held-out images; says
of each what the model takes it for; and shows beside it what spoke for that class (Grad-CAM of the last stage). An
export is no Keras model and has classes alone. A file that cannot be read gets the reason in its place.

Nobody but this machine reaches the page unless `--host` says so, nothing of it is kept or sent anywhere, and
files above `--max_megabytes` are refused. Ctrl-C ends it.

`--static=FOLDER` writes a page for any web host instead, which computes in the browser: images never leave it. It has
classes alone, and holds the held-out images that it shows, of which `--examples=0` leaves it without.
"""

from __future__ import annotations

import experiments  # noqa: F401  (first, as it imports TensorFlow without its lines)

# isort: split
import base64
import dataclasses
import html
import io
import os
import signal
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags, logging
from PIL import Image, UnidentifiedImageError

from coatnet_tf.graph import inlined
from experiments import charts, command_line, path_flags, workdir
from experiments.data import images, readers, sources, views
from experiments.report import picture_of
from tools import model_files, predict
from tools.explanations import maps
from tools.explanations.picture import heat_over
from tools.page import static
from tools.serving.signatures import MAX_PIXELS

TOP = 3  # classes that are named
AT_ONCE = 50  # files
EXAMPLES = 8
LOOPBACK = "127.0.0.1"
STYLE = f":root {{ --bar: {charts.BLUE}; }}\n{(static.FILES / 'cards.css').read_text()}"


@dataclasses.dataclass(frozen=True)
class Demo:
    """What the page does, without the page.

    Args:
        classifier: The model.
        explained: The model for Grad-CAM; `None` if there is none.
        about: What the page says of the model.
    """

    classifier: predict.Classifier
    explained: keras.Model | None
    about: str

    def answer(self, files: Sequence[str | Path]) -> str:
        """What the page shows of some files: HTML, a card for each.

        Args:
            files: At most `AT_ONCE` paths.
        """
        if not files:
            return ""
        if len(files) > AT_ONCE:
            return _refused(f"{len(files)} files at once are too many; at most {AT_ONCE} can be dropped.")
        asked = [predict.Prediction(os.fspath(file), error=_too_large(file)) for file in files]
        return f'<div class="cards">{"".join(map(self._card, predict.predict(self.classifier, asked)))}</div>'

    def _card(self, found: predict.Prediction) -> str:
        name = f'<div class="name">{html.escape(Path(found.file).name)}</div>'
        if found.image is None or found.probabilities is None:
            return f'<div class="card">{name}<div class="error">{html.escape(_sentence(found.error))}</div></div>'
        pictures = [_picture(picture_of(found.image), "the image, as the model sees it")]
        if self.explained is not None:
            stage = maps.default_stages(self.explained)[-1]
            _, (heat,) = maps.predict_and_grad_cam(self.explained, found.image, [stage])
            about = "Grad-CAM: nothing speaks for the class" if not heat.any() else "Grad-CAM: brighter speaks for it"
            pictures.append(_picture(heat_over(found.image, heat), about))
        best = np.argsort(-found.probabilities, kind="stable")[:TOP]
        rows = [_row(self.classifier.class_names[i], float(found.probabilities[i])) for i in best]
        return f'<div class="card"><div class="pictures">{"".join(pictures)}</div>{name}{"".join(rows)}</div>'


def _row(name: str, score: float) -> str:
    shown = f'<div class="class"><span>{html.escape(name)}</span><b>{score:.1%}</b></div>'
    return f'{shown}<div class="bar"><div style="width: {100 * score:.1f}%"></div></div>'


def _picture(image: np.ndarray, about: str) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    encoded = base64.b64encode(file.getvalue()).decode()
    smooth = "" if min(image.shape[:2]) >= 64 else ' style="image-rendering: pixelated"'
    return f'<img alt="{about}" title="{about}" src="data:image/png;base64,{encoded}"{smooth}>'


def _refused(why: str) -> str:
    return f'<div class="refused">{html.escape(why)}</div>'


def _sentence(error: str) -> str:
    return error[:1].upper() + error[1:]


def _too_large(file: str | Path) -> str:
    """Why a file is not decoded, by what it declares; empty if it may be."""
    try:
        with Image.open(file) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        return f"it declares more than {MAX_PIXELS:,} pixels."
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError):
        return ""  # an array, or nothing that Pillow knows: the reader says what is wrong
    return f"it declares {width * height:,} pixels, more than {MAX_PIXELS:,}." if width * height > MAX_PIXELS else ""


def load(path: Path, **options: Any) -> Demo:
    """Loads a model of any kind.

    Args:
        path: As of `predict.load_classifier`.
        **options: Its other arguments.

    Raises:
        FileNotFoundError, ValueError: As `predict.load_classifier` raises them.
    """
    classifier = predict.load_classifier(path, **options)
    if classifier.gives_values:
        raise ValueError(f"{path} gives numbers, and the page shows classes; tools.predict takes it.")
    explained, why = None, "an export has no Grad-CAM: give the run or the .keras file for it"
    if classifier.model is not None:
        try:
            explained = inlined(classifier.model)
            maps.check_model(explained, path)
        except ValueError as error:
            explained, why = None, f"without Grad-CAM: {error}"
    about = _describe(path, classifier)
    return Demo(classifier, explained, about if explained is not None else f"{about} ({_sentence(why)})")


def _describe(path: Path, classifier: predict.Classifier) -> str:
    return f"{path.name}: {len(classifier.class_names)} classes. It sees {classifier.view.describe()}."


def find_examples(run: Path, folder: Path, count: int = EXAMPLES) -> tuple[list[Path], str]:
    """Writes held-out images of a run, evenly spaced over the split.

    Args:
        run: Folder of the run.
        folder: Where to.
        count: How many, at most.

    Returns:
        The files, and why there are none.
    """
    try:
        source = sources.prepare(workdir.read_recipe(run).dataset)
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        return [], f"No held-out images to show, as the run's data cannot be read ({error})."
    written = []
    for index in readers.spread_places(source.eval.count, count):
        (example,) = source.eval.read(index, index + 1)
        label = np.atleast_1d(example["label"].numpy())
        true = np.flatnonzero(label) if source.multi_label else label
        encoded = example["image"].numpy()
        try:
            kind = str(Image.open(io.BytesIO(encoded)).format).lower()
        except (OSError, UnidentifiedImageError):
            continue  # an array, or damaged
        names = ", ".join(source.class_names[int(i)] for i in true)
        safe = "".join(letter if letter.isalnum() or letter in " ,-_" else "_" for letter in names)
        path = folder / f"held-out {index}, {safe[:80]}.{kind}"
        path.write_bytes(encoded)
        written.append(path)
    return written, "" if written else "No held-out images to show, as they are arrays or damaged."


def make_page(demo: Demo, examples: Sequence[Path], temporary: Path) -> Any:
    """The page, a `gradio.Blocks` that is not launched.

    Args:
        demo: What it does.
        examples: Images to choose from; without any that part is missing.
        temporary: Folder in which Gradio puts what is dropped; a file is removed once it is answered.

    Raises:
        ImportError: If gradio is not installed.
    """
    try:
        import gradio
    except ImportError as error:
        raise ImportError("The page needs the package gradio: pip install 'coatnet_tf[demo]'.") from error

    def once(files: Sequence[str | Path]) -> str:
        try:
            return demo.answer(files)
        finally:
            for file in files:
                if temporary in Path(file).parents:
                    Path(file).unlink(missing_ok=True)

    def dropped(files: list[str] | None) -> tuple[None, str]:
        return None, once(files or [])

    def taken(file: str | None) -> str:
        return once([file] if file else [])

    def chosen(event: gradio.SelectData) -> str:
        return demo.answer([examples[event.index]])

    # The annotation is text here, by which Gradio would not know that it is to pass the event.
    chosen.__annotations__["event"] = gradio.SelectData
    silent: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    with gradio.Blocks(title="coatnet_tf", analytics_enabled=False) as page:
        gradio.Markdown(f"# What is in this image?\n\n{html.escape(demo.about)}")
        shown = gradio.HTML(elem_id="answers", render=False)
        with gradio.Tab("Files"):
            label = f"Drop images here, at most {AT_ONCE} at once ({images.READ})"
            files = gradio.File(label=label, file_count="multiple", elem_id="files")
            files.upload(dropped, files, [files, shown], **silent)
        with gradio.Tab("Camera"):
            camera = gradio.Image(sources=["webcam"], type="filepath", label="Camera", format="png")
            camera.change(taken, camera, shown, **silent)
        if examples:
            with gradio.Tab("Held-out images"):
                gallery = gradio.Gallery(
                    [(Image.open(path).convert("RGB"), path.stem) for path in examples],  # a browser shows no TIFF
                    label="Of the run; choose one",
                    columns=4,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    buttons=[],
                )
                gallery.select(chosen, None, shown, **silent)
        shown.render()
    return page


def serve(page: Any, host: str = LOOPBACK, port: int | None = None, max_megabytes: int = 20) -> str:
    """Serves the page from threads of its own, until it is closed.

    Args:
        page: From `make_page`.
        host: Address to listen at.
        port: Its port; `None` for the first free one from 7860 on.
        max_megabytes: Of a file.

    Returns:
        The address of the page.

    Raises:
        OSError: If the port is taken.
    """
    import gradio

    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=f"{max_megabytes}mb",
        footer_links=[],
        ssr_mode=False,
        enable_monitoring=False,
        css=STYLE,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"]),  # none to be fetched
    )
    return page.local_url


def write_static(
    folder: Path, path: Path, examples: Sequence[Path], runtime: Path | None = None, **options: Any
) -> dict[str, int]:
    """Writes the page that needs no server.

    Args:
        folder: Where to; made if it is missing.
        path: As of `load`, but of exports only those for ONNX.
        examples: Images to choose from.
        runtime: Folder of the package onnxruntime-web; by default npm fetches it.
        **options: As of `load`.

    Returns:
        As of `static.write`.

    Raises:
        FileNotFoundError, ValueError: As `predict.load_classifier` raises them.
        OSError, ValueError: As `static.write` raises them.
    """
    static.check(folder, path)
    classifier = predict.load_classifier(path, **options)
    kept = {name: options[name] for name in ("labels", "preprocessing") if name in options}
    shown = static.Shown(path, classifier, _describe(path, classifier), TOP, examples, **kept)
    return static.write(folder, shown, runtime)


def main(argv: list[str]) -> None:
    command_line.begin(argv)
    values = flags.FLAGS
    path, labels = Path(values.model), Path(values.labels) if values.labels else None
    given = {name: getattr(values, name) for name in ("preprocessing", "crop", "interpolation")}
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder).resolve()
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        os.environ["GRADIO_TEMP_DIR"] = os.fspath(temporary / "dropped")
        try:
            of_server = [name for name in ("host", "port", "max_megabytes") if values[name].present]
            if values.static and of_server:
                raise ValueError(f"--{of_server[0]} is of the page with a server; leave it out with --static.")
            is_run = (path / workdir.CONFIG).is_file()
            examples, why = find_examples(path, temporary, values.examples) if is_run and values.examples else ([], "")
            if why:
                logging.warning("%s", why)
            if values.static:
                runtime = Path(values.onnxruntime_web) if values.onnxruntime_web else None
                written = write_static(Path(values.static), path, examples, runtime, labels=labels, **given)
                sizes = ", ".join(f"{what} {size / 1e6:.1f} MB" for what, size in written.items())
                print(f"The page: {values.static} ({sizes}), for any web host")
                return
            page = make_page(load(path, labels=labels, **given), examples, temporary / "dropped")
            address = serve(page, values.host, values.port, values.max_megabytes)
        except (OSError, ValueError, ImportError) as error:
            raise SystemExit(f"{type(error).__name__}: {error}") from error
        if values.host not in (LOOPBACK, "localhost"):
            logging.warning("Everyone who reaches this machine at %s can use the page.", values.host)
        print(f"The page: {address} (Ctrl-C ends it)", flush=True)
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        page.close(verbose=False)


if __name__ == "__main__":
    path_flags.define("model", None, "Folder of a finished run, .keras file, or folder of an export.")
    path_flags.define("labels", None, "File with one class name per line; runs and exports bring their own.")
    path_flags.define("static", None, "Folder to write a page to that needs no server, in place of serving one.")
    path_flags.define("onnxruntime_web", None, "With --static, folder of that package; npm fetches it by default.")
    flags.DEFINE_integer("examples", EXAMPLES, "Held-out images of a run to choose from.", lower_bound=0)
    flags.DEFINE_string("host", LOOPBACK, "Address to listen at; 0.0.0.0 lets others on the network in.")
    flags.DEFINE_integer("port", None, "Port; the first free one from 7860 on by default.", 1, 65535)
    flags.DEFINE_integer("max_megabytes", 20, "Size of a file above which it is refused.", lower_bound=1)
    flags.DEFINE_string("crop", "", f"{views.ABOUT_CROP} {views.BY_DEFAULT}")
    flags.DEFINE_enum("interpolation", "", ("", *images.INTERPOLATIONS), views.BY_DEFAULT)
    flags.DEFINE_enum("preprocessing", "", model_files.PREPROCESSING, model_files.ABOUT_PREPROCESSING)
    flags.mark_flag_as_required("model")
    app.run(main)
