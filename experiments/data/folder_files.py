"""Which files below a folder are images that can be read, and why the others are left out."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator

import tensorflow as tf

from experiments.data import other_formats

# Names that are believed, so that a million files need not be opened; what other files are, their first bytes tell.
EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp")
READ = ("JPEG", "PNG", "GIF", "BMP", "WebP", "TIFF", "NumPy")  # what `images.load` reads, of what `format_of` knows
ARRAY_EXTENSION = ".npy"  # not believed, as arrays can hold anything
_SIGNATURE_BYTES = 16
_ARRAY_HEADER_BYTES = 4096
_BEGIN = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF8",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "NumPy": (other_formats.ARRAY,),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
    "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
}
_BRANDS = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
}

NOWHERE = "links that lead nowhere"
LINKED_FOLDER = "links to folders, which are not followed"
HIDDEN = "hidden by their names"
FORBIDDEN = "not allowed to be read"
SPECIAL = "neither files nor folders"
ODD_NAME = "names that are not UTF-8"
NO_IMAGE = "no images, by name and content"
OTHER_ARRAY = "NumPy arrays that are no images, which are uint8 or uint16, [height, width] or [height, width, channels]"
BESIDE_PICTURES = "NumPy arrays beside pictures"
NOT_READ = " images, which are not read"  # behind the name of a format
BESIDE = "beside the folders of the classes"


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """A file or folder that is not read.

    Args:
        path: Its path.
        reason: Why, in words that a number can stand before.
    """

    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class ClassFiles:
    """What lies below the folder of a class.

    Args:
        images: Paths of the images, relative to the folder, sorted.
        left_out: The rest.
    """

    images: tuple[str, ...]
    left_out: tuple[LeftOut, ...]


def format_of(first_bytes: bytes) -> str:
    """Name of the format of the images that begin so; empty if it is none that is known here."""
    if first_bytes.startswith(b"RIFF") and first_bytes[8:12] == b"WEBP":
        return "WebP"
    if first_bytes.startswith(b"BM") and first_bytes[6:10] == bytes(4):
        return "BMP"
    if first_bytes[4:8] == b"ftyp":
        return _BRANDS.get(first_bytes[8:12], "")
    return next((name for name, begins in _BEGIN.items() if first_bytes.startswith(begins)), "")


def find_images(folder: str) -> ClassFiles:
    """Looks through a folder and the folders in it, as `keras.utils.image_dataset_from_directory` does.

    Links to files are followed, links to folders are not.

    Args:
        folder: Path; also on object storage.

    Returns:
        The images, and everything else.
    """
    images: list[str] = []
    left_out: list[LeftOut] = []

    def look_into(inside: str) -> None:
        for name, kind in _entries(f"{folder}/{inside}" if inside else folder):
            relative = f"{inside}/{name}" if inside else name
            path = f"{folder}/{relative}".rstrip("/")
            if name.startswith("."):
                left_out.append(LeftOut(path, HIDDEN))
            elif kind == "folder":
                look_into(relative)
            else:
                reason = "" if kind == "file" else kind
                reason = reason or ("" if name.lower().endswith(EXTENSIONS) else _reason_by_content(path))
                if reason:
                    left_out.append(LeftOut(path, reason))
                else:
                    images.append(relative)

    look_into("")
    return ClassFiles(tuple(sorted(images)), tuple(sorted(left_out, key=lambda entry: entry.path)))


def folders_in(path: str) -> tuple[list[str], list[LeftOut]]:
    """Names of the folders in a folder, sorted, and what else there is; a link to a folder counts as one.

    Raises:
        FileNotFoundError: If there is no such folder.
        PermissionError: If it may not be read.
    """
    if not tf.io.gfile.isdir(path):
        raise FileNotFoundError(f"There is no folder {path!r}; --data=folder:PATH takes one of class-named folders.")
    names, left_out = [], []
    for name, kind in _entries(path):
        if kind == FORBIDDEN and name == "":
            raise PermissionError(f"The folder {path} may not be read.")
        if name.startswith(".") or name == "__MACOSX":  # which macOS adds to its archives
            left_out.append(LeftOut(f"{path}/{name}", HIDDEN))
        elif kind in ("folder", LINKED_FOLDER):
            names.append(name)
        else:
            left_out.append(LeftOut(f"{path}/{name}", BESIDE if kind == "file" else kind))
    return sorted(names), left_out


def count_by_reason(left_out: Iterable[LeftOut]) -> str:
    """As `201 links that lead nowhere, 3 hidden by their names`, the most frequent first."""
    return ", ".join(f"{n:,} {reason}" for reason, n in Counter(entry.reason for entry in left_out).most_common())


def describe(left_out: Iterable[LeftOut]) -> str:
    """A line with reason and path of each, as for a file."""
    return "".join(f"{entry.reason}\t{_printable(entry.path)}\n" for entry in left_out)


def _entries(folder: str) -> Iterator[tuple[str, str]]:
    """Name and kind of what lies in a folder: `folder`, `file`, or why it is neither; an empty name is the folder's."""
    if "://" in folder:
        for entry in tf.io.gfile.listdir(folder):
            name = entry.rstrip("/")
            by_name = name.lower().endswith(EXTENSIONS)  # asking for each of a million takes hours
            is_folder = entry.endswith("/") or (not by_name and tf.io.gfile.isdir(f"{folder}/{name}"))
            yield name, "folder" if is_folder else "file"
        return
    try:
        found = list(os.scandir(folder))
    except PermissionError:
        yield "", FORBIDDEN
        return
    for entry in found:
        yield entry.name, _kind(entry)


def _kind(entry: os.DirEntry[str]) -> str:
    if _printable(entry.name) != entry.name:
        return ODD_NAME
    try:
        if entry.is_dir():
            return LINKED_FOLDER if entry.is_symlink() else "folder"
        if entry.is_file():
            return "file" if os.access(entry.path, os.R_OK) else FORBIDDEN
    except OSError:  # as for a link to itself
        return NOWHERE
    return NOWHERE if entry.is_symlink() and not os.path.exists(entry.path) else SPECIAL


def _printable(path: str) -> str:
    return os.fsencode(path).decode(errors="replace")


def _reason_by_content(path: str) -> str:
    """Why a file with a name that tells nothing is left out; empty if it is an image."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            first_bytes = file.read(_SIGNATURE_BYTES)
    except tf.errors.OpError:
        return FORBIDDEN
    name = format_of(first_bytes)
    if name == "NumPy":
        return "" if channels_of_array(path) else OTHER_ARRAY
    if name in READ:
        return ""
    return f"{name}{NOT_READ}" if name else NO_IMAGE


def reason_to_leave_out(path: str) -> str:
    """Why a file that somebody has named is left out, as `LeftOut` has it; empty if it is an image."""
    if not os.path.exists(path):
        return NOWHERE
    if not os.path.isfile(path):
        return SPECIAL
    if not os.access(path, os.R_OK):
        return FORBIDDEN
    return "" if path.lower().endswith(EXTENSIONS) else _reason_by_content(path)


def is_array(path: str) -> bool:
    """Whether a file is an array, by its name."""
    return path.lower().endswith(ARRAY_EXTENSION)


def channels_of_array(path: str) -> int:
    """Number of channels of a `.npy` file; 0 if it is no image."""
    with tf.io.gfile.GFile(path, "rb") as file:
        try:
            shape = other_formats.check_array(file.read(_ARRAY_HEADER_BYTES))
        except ValueError:  # damaged ones too
            return 0
    return shape[2] if len(shape) == 3 else 1
