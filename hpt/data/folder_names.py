"""What the names of folders, and the values of a split column, say: splits, masks and annotations, containers.

A name is read word by word: `seg_train`, `TrainingSet`, `train2017` and `01-train-images` hold one word for a split
beside words that say nothing. `test tube` holds a word that says something, and is the name of a class; unless a folder
`train tube` lies beside it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import lru_cache

from hpt.data.listing import Split


def composed(name: str) -> str:
    """The name of a class in Unicode's composed form: macOS writes `e` and an accent where others write `\u00e9`."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def hidden(name: str) -> bool:
    """Whether a file is one that its system hides, or one of macOS's archiver."""
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/"))


def _plain(text: str) -> str:
    """In small letters, without accents."""
    apart = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", "".join(c for c in apart if unicodedata.category(c) != "Mn"))


def _table(text: str) -> frozenset[str]:
    return frozenset(_plain(word) for word in text.split())


_SPLIT_WORDS: dict[Split, frozenset[str]] = {
    "train": _table(
        "train training trainset trainingset traindata trainingdata trainval trn tr learn learning "
        "trainings trainingsdaten entrainement apprentissage entrenamiento treino treinamento addestramento "
        "allenamento trening treningowy egitim latih обучение обучающая тренировка тренировочная "
        "训练 训练集 训练数据 訓練 訓練集 学習 学習用 훈련 학습"
    ),
    "val": _table(
        "val valid validation validating validate valset validset validationset valdata va dev devset devel "
        "development validierung validierungsdaten validacion validacao validazione validatie walidacja validering "
        "dogrulama validasi валидация проверка валидационная 验证 验证集 驗證 驗證集 検証 検証用 검증"
    ),
    "test": _table(
        "test testing tests testset testingset testdata tst te ts eval evaluation holdout heldout unseen "
        "testdaten prueba pruebas teste testes essai testowy uji тест тестовая тестирование "
        "测试 测试集 測試 測試集 テスト テスト用 테스트 시험"
    ),
}
_SPLIT_OF: dict[str, Split] = {word: split for split, words in _SPLIT_WORDS.items() for word in words}
PLAIN_SPLITS: dict[str, Split] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""The names of splits that need no explanation, and that a message offers."""

_UNLABELLED = _table(
    "unlabeled unlabelled unlabel unsupervised unsup nolabel pred predict prediction predictions inference"
)
_CONTAINERS = _table(
    "images image img imgs imagery jpegimages jpgs photos photo pictures picture pics frames bilder imagenes imagens "
    "immagini изображения 图像 图片 画像 이미지"
)
_PARTS = _table("part parts batch chunk shard subset")
_FOLDS = _table("fold folds kfold cv")
_SILENT = _CONTAINERS | _table(
    "data dataset datasets set sets folder dir split splits seg cls classification raw original orig new final full "
    "small resized cropped crops clean samples sample files jpg jpeg png tif public private stage my x jpegs daten rgb "
    "held out hold"
)
"""Words that say nothing about what a folder beside others is."""
_ASIDE = _table(
    "mask masks groundtruth gt gts annotation annotations annot annots anno ann label labels labeltxt labelme "
    "segmentation segmentations segmentationclass segmentationobject segmask segmasks meta trimap trimaps bbox bboxes "
    "boxes xml xmls json jsons imagesets gtfine gtcoarse panoptic stuffthingmaps trainannot valannot testannot "
    "trainmasks labelstr labelsts maskimages masken mascaras masques маски разметка 掩码 标注 标签"
)
_BESIDE_ASIDE = _table("ground truth object class semantic instance instances binary png target targets final color id")
VARIANTS = _table(
    "color colour colored grayscale greyscale gray grey segmented rgb raw original originals augmented augmentation "
    "aug resized cropped preprocessed processed enhanced normalized normalised unprocessed noaugmentation denoised "
    "filtered"
)
_VERSION_WORDS = VARIANTS | _SILENT
NOT_WITH = _table("no not without with non in incorrect wrong improper")
"""Beside a folder `mask`, a `no_mask` shows that both are classes; so does `invalid` beside `valid`."""

OWN_FOLDERS = frozenset({"mlartifacts", "mlruns"})
OTHER_TOOLS = frozenset({"wandb", "lightning_logs", "__pycache__", "node_modules", "venv", "site-packages"})
"""Folders of programs, which lie in a working folder and never are classes."""


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """The words and numbers of a name: `JPEGImages_2017` is jpeg, images, 2017."""
    apart = re.sub(r"([^\W\d_A-Z])([A-Z])", r"\1 \2", name)
    apart = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1 \2", apart)
    return tuple(_plain(word) for word in re.findall(r"[^\W\d_]+|\d+", apart))


@lru_cache(maxsize=4096)
def read_split(name: str) -> tuple[Split, str] | None:
    """The split of a name that holds a word for one, and what else it says; None without such a word, or with two."""
    whole = _plain(name)
    if whole in _SPLIT_OF:
        return _SPLIT_OF[whole], ""
    found = words(name)
    splits = [_SPLIT_OF[word] for word in found if word in _SPLIT_OF]
    if {"hold", "held"} & set(found) and "out" in found:
        splits.append("test")
    rest = " ".join(w for w in found if w not in _SPLIT_OF and w not in _SILENT and not w.isdecimal())
    if len(splits) == 2 and set(splits) == {"train", "val"}:  # train_val
        return "train", rest
    return (splits[0], rest) if len(set(splits)) == 1 else None


def split_of(name: str) -> Split | None:
    """The split that a name stands for by itself."""
    read = read_split(name)
    return read[0] if read is not None and not read[1] else None


def splits_among(names: Iterable[str]) -> dict[str, tuple[Split, str]]:
    """The split of each of the folders side by side that are one, and the class that its name says, if several do.

    `bee_train` and `bee_test` are splits, since they differ by nothing else; with `ant_train` and `ant_test` there are
    two classes.
    """
    read = {name: found for name in names if (found := read_split(name)) is not None}
    pairs: dict[str, set[Split]] = {}
    for split, rest in read.values():
        pairs.setdefault(rest, set()).add(split)
    known = {rest for rest, splits in pairs.items() if not rest or ("train" in splits and len(splits) > 1)}
    several = len(known - {""}) > 1
    return {name: (split, rest if several else "") for name, (split, rest) in read.items() if rest in known}


def is_unlabelled(name: str) -> bool:
    """Whether a folder beside splits is called unlabelled."""
    found = words(name)
    return any(word in _UNLABELLED for word in found) and _only(found, _UNLABELLED | _SILENT)


@lru_cache(maxsize=4096)
def is_container(name: str, parent: str = "") -> bool:
    """Whether a folder is called images, or images and its parent's name."""
    found = words(name)
    return any(word in _CONTAINERS for word in found) and _only(found, _SILENT | set(words(parent)))


def is_images(name: str) -> bool:
    """Whether a folder is called images and nothing else, as no class is."""
    return _plain(name) in {"images", "image", "img", "imgs", "jpegimages"}


def is_aside(name: str, parent: str = "") -> bool:
    """Whether a folder is called as masks and annotations are."""
    found = words(name)
    if _plain(name).replace("_", "").replace("-", "") in _ASIDE:
        return True
    known = _ASIDE | _BESIDE_ASIDE | _SILENT | _SPLIT_OF.keys() | set(words(parent))
    named = any(word in _ASIDE for word in found) or {"ground", "truth"} <= set(found)
    return named and all(word in known or re.fullmatch(r"(19|20)\d\d", word) for word in found)


def is_denied(name: str, others: Iterable[str]) -> bool:
    """Whether another folder is the same with a no: `no_mask` beside `mask`, `invalid` beside `valid`."""
    its = set(words(name))
    for other in others:
        more = set(words(other))
        if _plain(other) in {f"in{_plain(name)}", f"un{_plain(name)}"} or (its <= more and (more - its) & NOT_WITH):
            return True
    return False


def are_parts(names: Collection[str]) -> bool:
    """Whether folders are one that was cut up: `images_001`, `images_002`."""
    return _numbered(names, _CONTAINERS | _PARTS)


def are_folds(names: Collection[str]) -> bool:
    """Whether folders are those of a cross-validation: `fold1`, `fold2`."""
    return _numbered(names, _FOLDS)


def is_fold(name: str) -> bool:
    """Whether a column is called as folds are."""
    return any(word in _FOLDS for word in words(name))


def are_versions(names: Collection[str]) -> bool:
    """Whether folders are called as versions of the same images are: `color`, `grayscale`, `segmented`."""
    return len(names) > 1 and all(
        any(word in VARIANTS for word in found) and _only(found, _VERSION_WORDS) for found in map(words, names)
    )


def are_numbered(names: Collection[str]) -> bool:
    """Whether folders differ by a number only: `VOC2007`, `VOC2012`."""
    rests = {tuple(word for word in words(name) if not word.isdecimal()) for name in names}
    return len(names) > 1 and len(rests) == 1


def says_splits(name: str) -> bool:
    """Whether a file beside images is called as one that says what is test: `test.txt`, `train_test_split.txt`."""
    return any(
        word in ("split", "splits", "partition") or (len(word) > 2 and _SPLIT_OF.get(word)) for word in words(name)
    )


def _numbered(names: Collection[str], called: Collection[str]) -> bool:
    found = [words(name) for name in names]
    return (
        are_numbered(names)
        and all(any(word.isdecimal() for word in its) for its in found)
        and any(word in called for word in found[0])
    )


def _only(found: Iterable[str], known: Collection[str]) -> bool:
    return all(word in known or word.isdecimal() for word in found)
