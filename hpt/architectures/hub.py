"""Weights of the Hugging Face hub: `timm:NAME` and `hf-hub:ORG/NAME`, fetched once into that hub's own cache; and a
folder that is uploaded there.

huggingface_hub does both, by its own settings (`HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`, `HF_TOKEN`,
`HF_HUB_OFFLINE`), so that what timm or transformers have fetched is not fetched again. Where the hub cannot be reached,
a folder of this program's cache takes the files that were brought by hand. Tokens are huggingface_hub's business: this
program asks whether there is one, and keeps and shows none.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import NamedTuple

from hpt.config import RESNETS
from hpt.errors import ConfigError, WeightsError, did_you_mean
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


class Pushed(NamedTuple):
    """A repository of the hub that a folder was uploaded to."""

    address: str
    private: bool

    def __str__(self) -> str:
        return f"{self.address} ({'private' if self.private else 'public'})"


def check_push(repository: str) -> None:
    """Refuse, before anything is written, a repository that nothing can be uploaded to from here.

    Raises:
        ConfigError: it is no ORG/NAME, the hub is not to be asked (`HF_HUB_OFFLINE`), or there is no token.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
        named = repository.count("/") == 1
    except HFValidationError:
        named = False
    if not named:
        raise ConfigError(
            f"'{repository}' is no name of a repository", "give --push ORG/NAME, of letters, digits, - _ ."
        )
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing is uploaded", "unset it, or do without --push")
    if huggingface_hub.get_token() is None:
        raise ConfigError(
            f"there is no token for {_host()}", "set HF_TOKEN to one that may write, or run `hf auth login`"
        )


def push(folder: Path, repository: str, *, public: bool) -> Pushed:
    """Upload the files of a folder to a repository of the hub, which is made where there is none.

    Args:
        public: whether a repository that is made is one for everybody; one that is there stays as it is.

    Raises:
        WeightsError: the hub cannot be reached, or refuses; says why, and that the folder is kept.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # httpx's, or in 0.34 that of requests

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="hptctl")
    try:
        if not api.repo_exists(repository):  # a token may write to one and make none
            api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="A model, written by hptctl")
        return Pushed(f"{_host()}/{repository}", bool(api.model_info(repository).private))
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # as the hub, the network, and large files complain
        raise _refusal(error, repository, folder) from None


_MENDS = {
    401: "make a token that may write, and set HF_TOKEN to it",
    402: "free some of its space there, or make the repository --public",
    403: "use a token that may write there, or another name",
    404: "check the name of the user or organisation",
    413: "free some of its space there",
    429: "wait, and give the command again",
}
"""By the hub's status, what its user can do."""


def _refusal(error: BaseException, repository: str, folder: Path) -> WeightsError:
    while not hasattr(error, "response") and isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__  # of a thread that uploads a large file
    kept = f"{folder} is kept"
    response = getattr(error, "response", None)
    if response is None:
        what = "refuses" if isinstance(error, ValueError) else "cannot be reached for"
        return WeightsError(f"{_host()} {what} {repository} ({_why(error)}); {kept}", "give the command again")
    said = " ".join(str(getattr(error, "server_message", None) or "").split())[:200]
    why = f"{response.status_code}{': ' if said else ''}{said}"
    mend = _MENDS.get(response.status_code, "give the command again")
    return WeightsError(f"{_host()} refuses {repository} ({why}); {kept}", mend)


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
