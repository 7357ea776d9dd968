"""Weights of the Hugging Face hub: `timm:NAME` and `hf-hub:ORG/NAME`, fetched once into that hub's own cache.

huggingface_hub does the fetching, by its own settings (`HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_OFFLINE`), so that what timm or transformers have fetched is not fetched again. Where the hub cannot be reached,
a folder of this program's cache takes the files that were brought by hand.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from hpt.config import RESNETS
from hpt.errors import WeightsError, did_you_mean
from hpt.user_folders import cache_folder

logger = logging.getLogger(__name__)

TIMM, HUB = "timm:", "hf-hub:"
FILES = (
    *("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth"),
    *("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
)
"""The files that hold a model's weights on the hub, the one to take first."""
CONFIG = "config.json"


def is_named(text: str) -> bool:
    """Whether a text names weights of the hub."""
    return text.startswith((TIMM, HUB))


def folder_of(text: str) -> Path:
    """Where files that were brought by hand are looked for."""
    return cache_folder() / "weights" / re.sub(r"[^A-Za-z0-9._-]+", "--", text)


def architecture(text: str) -> str | None:
    """The backbone that a name of the hub stands for, where the name alone tells."""
    if not text.startswith(TIMM):
        return None
    name = text.removeprefix(TIMM).partition(".")[0]
    if name in RESNETS:
        return name
    from hpt.architectures import networks

    networks.check(name)
    return name


def kept(text: str) -> Path | None:
    """The file of weights of the hub that is on this machine; None where it would have to be fetched."""
    folder = folder_of(text)
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repository, revision, names = _place(text)
    for name in names:
        try:
            found = try_to_load_from_cache(
                repository, name, cache_dir=os.environ.get("HF_HUB_CACHE"), revision=revision
            )
        except HFValidationError:  # which fetching will say
            return None
        if isinstance(found, str):
            return Path(found)
    return None


def locate(text: str) -> Path:
    """The file of weights of the hub, fetched on first use, with the `config.json` that lies beside it there.

    Raises:
        WeightsError: there are none of that name, the hub cannot be reached, or does not give them to you; says where
            to put the file by hand.
    """
    if (here := kept(text)) is not None:
        return here
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, revision, names = _place(text)
    folder = folder_of(text)
    by_hand = f"put its {names[0]} and {CONFIG} into {folder}, or give --weights FILE or RUN"
    try:
        file = _first(repository, revision, names)
        try:
            _fetch(repository, revision, CONFIG)
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            logger.info("%s has no %s, so --backbone has to say what it is", repository, CONFIG)
        return file
    except GatedRepoError:
        raise WeightsError(
            f"{repository} is given to those alone who have agreed to its terms",
            f"agree on its page and set HF_TOKEN, or {by_hand}",
        ) from None
    except RevisionNotFoundError:
        raise WeightsError(f"{repository} has no revision '{revision}'", by_hand) from None
    except RepositoryNotFoundError:
        raise WeightsError(f"the hub has no repository {repository} (or not for you)", by_hand) from None
    except HFValidationError:
        raise WeightsError(f"'{text}' is no name of the hub", f"for example {HUB}ORG/NAME") from None
    except LocalEntryNotFoundError as error:
        raise WeightsError(f"{_host()} cannot be reached ({_why(error)})", by_hand) from None
    except EntryNotFoundError:
        raise WeightsError(f"{repository} has none of {', '.join(names)}", by_hand) from None
    except OSError as error:
        raise WeightsError(f"{repository} cannot be fetched ({_why(error)})", by_hand) from None


def _first(repository: str, revision: str | None, names: tuple[str, ...]) -> Path:
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in names[:-1]:
        try:
            return _fetch(repository, revision, name)
        except LocalEntryNotFoundError:  # the hub was not asked, so it did not say that it has no such file
            raise
        except EntryNotFoundError:
            continue
    return _fetch(repository, revision, names[-1])


def _fetch(repository: str, revision: str | None, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    logger.info("asking %s for %s of %s", _host(), name, repository)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tries again for 20 s, and says so each time
    return Path(
        hf_hub_download(
            repository,
            name,
            revision=revision,
            cache_dir=os.environ.get("HF_HUB_CACHE"),
            endpoint=os.environ.get("HF_ENDPOINT"),
            library_name="hptctl",
        )
    )


def _place(text: str) -> tuple[str, str | None, tuple[str, ...]]:
    """The repository, the revision and the files that a name stands for, the file to try first first."""
    if text.startswith(HUB):
        repository, _, revision = text.removeprefix(HUB).partition("@")
        return repository, revision or None, FILES
    import timm

    name = text.removeprefix(TIMM)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError:
        config = None
    hub = getattr(config, "hf_hub_id", None)
    if not hub:
        known = timm.list_pretrained()
        raise WeightsError(
            f"timm has no weights '{name}' on the hub{did_you_mean(name, known)}",
            f"name one such as {TIMM}vit_small_patch14_dinov2.lvd142m, or give --weights FILE",
        )
    given = getattr(config, "hf_hub_filename", None)
    if given is None:
        return hub, None, FILES[:2]
    safe = {"open_clip_pytorch_model.bin": "open_clip_model.safetensors"}.get(
        given, re.sub(r"\.bin$", ".safetensors", given)
    )
    return hub, None, tuple(dict.fromkeys((safe, given)))


def _host() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def _why(error: BaseException) -> str:
    """The first cause of an error, on one line."""
    while error.__cause__ is not None or error.__context__ is not None:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # one of both is there
    return " ".join(str(error).split())[:160] or type(error).__name__
