"""What lies beside the images and is not read, and files whose content tells that they are images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import numpy as np
import numpy.typing as npt

from hpt.data import folder_names as called
from hpt.data.file_kinds import ARRAYS, EXTENSIONS, EXTRA, WITH_EXTRA, is_heif, suffix_of
from hpt.data.listing import Note
from hpt.data.pixel_format import PixelFormat

log = logging.getLogger("hpt.data")


def _suffixes(*texts: str) -> frozenset[str]:
    return frozenset(" ".join(texts).split())


NOT_IMAGES = _suffixes(
    ".txt .json .jsonl .xml .csv .tsv .yaml .yml .toml .ini .cfg .md .rst .pdf .doc .docx .xls .xlsx .mat .npy .npz "
    ".pkl .pickle .h5 .hdf5 .parquet .arrow .db .sqlite .log .py .ipynb .sh .m .r .c .cpp .js .html .css .names .data "
    ".cache .pt .pth .ckpt .onnx .safetensors .bib .tex .license .zip .tar .gz .tgz .bz2 .xz .7z .rar .lock .list "
    ".sha256 .md5 .geojson .shp .dbf .prj .shx .wld .tfw .jgw .pgw .aux .ovr .xmp .url .lnk"
)
"""Files that need no look into them."""
OTHER_IMAGES = (
    _suffixes(
        ".ai .arw .avi .cr2 .cr3 .czi .dcm .dds .dicom .dng .emf .eps .exr .fit .fits .hdr .heic .heif .ico .jxl .jxr "
        ".ktx .lif .mha .mhd .mkv .mov .mp4 .mrxs .nd2 .ndpi .nef .nii .npy .nrrd .oib .orf .pcx .psd .raf .raw .rw2 "
        ".sgi .svg .svs .tfrecord .tga .vsi .wdp .webm .wmf .xcf"
    )
    - EXTENSIONS
    | ARRAYS
)
"""Suffixes of images that this program does not read here; arrays it does, where there are no pictures beside them."""
FEW_LEVELS, ENOUGH = 128, 0.8
"""Below so many grey levels, and below this share of those of the file, their loss is a warning."""
PACKED = frozenset({".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz"})
HEAD = 132
"""The bytes that tell what a file is."""
_IMAGE_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  \r\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
)


def is_image(head: bytes, formats: Collection[str]) -> bool:
    """Whether a file that begins with these bytes is an image of one of the formats."""
    if head[128:132] == b"DICM":
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP" in formats
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF" in formats
    if is_heif(head):
        return "HEIF" in formats
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "BMP" in formats
    return any(head.startswith(start) and name in formats for start, name in _IMAGE_STARTS)


def kind_of(name: str, head: bytes = b"") -> str:
    """What a file that is no image is called where it is counted: its suffix, and HEIC's where it begins as one."""
    return ".heic" if is_heif(head) else suffix_of(name) or "without extension"


def beside_images(folders: Iterable[str], others: Mapping[str, str]) -> set[str]:
    """The folders at the top that are no classes though they hold no images: annotations, texts and programs."""
    kinds: dict[str, set[str]] = {}
    for name, kind in others.items():
        if "/" in name:
            kinds.setdefault(name.partition("/")[0], set()).add(kind)
    found = {name for name in folders if "/" not in name and called.is_aside(name)}
    return found | {top for top, its in kinds.items() if its <= NOT_IMAGES - PACKED - OTHER_IMAGES}


def notes_of_others(kinds: Iterable[str]) -> list[Note]:
    """A line each for the files that are images and are not read, and for the others that lie there."""
    found = Counter(kinds)
    images = Counter({kind: count for kind, count in found.items() if kind in OTHER_IMAGES})
    rest = found - images
    notes = []
    arrays = Counter({kind: count for kind, count in images.items() if kind in ARRAYS})
    extra = Counter({kind: count for kind, count in images.items() if kind in WITH_EXTRA})
    images -= arrays + extra
    if images:
        notes.append(
            Note(f"left out, since hptctl does not read them: {counts(images)}; convert them, to PNG for example")
        )
    if extra:
        notes.append(Note(f"left out, since it takes another package to read them: {counts(extra)}; {EXTRA}"))
    if arrays:
        notes.append(Note(f"left out beside pictures: {counts(arrays)}; in a folder of their own they are read"))
    if rest:
        notes.append(Note(f"left out, since they are no images: {counts(rest)}", doubtful=False))
    return notes


def notes_of_losses(losses: npt.NDArray[np.int64], form: PixelFormat) -> list[Note]:
    """A line each of how numbers became pixels, and of what `decode.Loss` counts of each image [N, 3]: pages, and grey
    levels."""
    pages, levels, _ = losses.T
    notes = []
    if paged := int((pages > 0).sum()):
        rest = counted(int(pages.sum()), "page or frame", "pages or frames")
        notes.append(
            Note(f"left out: {rest} after the first of {counted(paged, 'file')}; save as a file each what you need")
        )
    deep = levels > 0
    if words := form.in_words():
        notes.append(Note(words, doubtful=False))
    if (counted_levels := levels_of(losses)) is None:
        return notes
    before, after = counted_levels
    text = f"{counted(int(deep.sum()), 'image')} of more than 8 bits keep {after:,} of {before:,} grey levels (median)"
    few = after < FEW_LEVELS and after < ENOUGH * before
    fix = ": give the range that they use by data.window=LOW:HIGH, or keep 16 bits by data.bits=16" if few else ""
    notes.append(Note(text + fix, doubtful=few))
    if not deep.all():
        text = f"mixed bit depths: {int(deep.sum()):,} images of more than 8 bits and {int((~deep).sum()):,} of 8, each"
        notes.append(Note(f"{text} kind by a window of its own; what goes with the kind may be learned"))
    return notes


def levels_of(losses: npt.NDArray[np.int64]) -> tuple[int, int] | None:
    """The grey levels of the files of more than 8 bits, and those that their pixels keep, as medians of what
    `decode.Loss` counts of each image [N, 3]; None where there are no such files."""
    deep = losses[losses[:, 1] > 0]
    if not len(deep):
        return None
    before, kept = np.median(deep[:, 1:], axis=0)
    return int(before), int(kept)


def tell(name: str, notes: Iterable[Note]) -> None:
    """Log what is to be said of a dataset."""
    for note in notes:
        log.log(logging.WARNING if note.doubtful else logging.INFO, "%s: %s", name, note.text)


def counted(number: int, what: str, several: str = "") -> str:
    """`1 image`, `1,200 images`."""
    return f"{number:,} {what if number == 1 else several or what + 's'}"


def counts(found: Counter[str]) -> str:
    """`12 .txt, 3 .json`."""
    named = [f"{count:,} {suffix}" for suffix, count in found.most_common(8)]
    more = len(found) - len(named)
    return ", ".join(named) + (f" and {more} other kinds" if more else "")
