"""`hptctl datasets cache list|prune`"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hptctl import options
from hptctl.format import count, duration, size, thousands

if TYPE_CHECKING:
    from hpt.data.cache_store import StoredEntry

app = typer.Typer()

SECONDS = {"h": 3600, "d": 86_400, "w": 604_800}

BYTES = {unit + end: base**power for end, base in (("iB", 1024), ("B", 1000)) for power, unit in enumerate("KMGT", 1)}


@app.callback(invoke_without_command=True)
def cache(context: typer.Context, as_json: options.Json = False) -> None:
    """List and prune the decoded images that runs share, and the features; without a command: list.

    Example:

        hptctl datasets cache
    """
    from hpt.errors import ConfigError

    if context.invoked_subcommand is None:
        list_cache(as_json)
    elif as_json:
        raise ConfigError(
            "--json stands behind the command", f"hptctl datasets cache {context.invoked_subcommand} --json"
        )


@app.command("list")
def list_cache(as_json: options.Json = False) -> None:
    """List the decoded images in the cache, and the features of frozen backbones, the last used first.

    Example:

        hptctl datasets cache list
    """
    from hpt.data import cache_store
    from hptctl import console

    found = cache_store.entries()
    total = sum(stored.bytes for stored in found)
    where = cache_store.images_folder().parent
    if as_json:
        console.print_json({"folder": str(where), "bytes": total, "entries": [_cached(stored) for stored in found]})
        return
    if found:
        _show_cached(found)
    console.say(f"{count(len(found), 'entry', 'entries')}, {size(total)}, in {where}")
    for stored in found:
        if stored.reason:
            console.warn(f"{stored.path.name} is damaged ({stored.reason}); a run that needs it makes it again")


@app.command()
def prune(
    unused_for: Annotated[
        str | None, typer.Option("--unused-for", metavar="TIME", help="Remove what was not used for 12h, 30d or 8w.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", metavar="SIZE", help="Remove the longest unused down to 500MiB or 5GiB.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Remove all that is not in use.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed.")] = False,
    as_json: options.Json = False,
) -> None:
    """Remove decoded images and features, which the next run that needs them makes again.

    What is damaged, or left by a process that was killed, goes in any case; what a process has open or is building
    stays in any case.

    Examples:

        hptctl datasets cache prune --unused-for 30d --dry-run

        hptctl datasets cache prune --max-size 5GiB
    """
    from hpt.data import cache_store
    from hpt.errors import ConfigError
    from hptctl import console

    if everything and (unused_for or max_size):
        raise ConfigError("--all leaves nothing for --unused-for or --max-size to choose", "give one or the other")
    seconds = None if unused_for is None else amount("--unused-for", unused_for, SECONDS, "12h, 30d or 8w")
    most = None if max_size is None else int(amount("--max-size", max_size, BYTES, "500MiB or 5GiB"))
    done = cache_store.prune(unused_for=seconds, max_bytes=most, everything=everything, dry_run=dry_run)
    freed = sum(stored.bytes for stored in done.removed)
    if as_json:
        console.print_json(
            {
                "dry_run": dry_run,
                "bytes": freed,
                "removed": [_cached(stored) for stored in done.removed],
                "in_use": [_cached(stored) for stored in done.in_use],
                "denied": [_cached(stored) for stored in done.denied],
            }
        )
        return
    if done.removed:
        _show_cached(done.removed)
    console.say(
        f"{'would remove' if dry_run else 'removed'} {count(len(done.removed), 'entry', 'entries')}, {size(freed)}"
    )
    for stored in done.in_use:
        console.note(f"{_of(stored)} stays: it is in use")
    for stored in done.denied:
        console.note(f"{_of(stored)} stays: it is of another user, who alone may remove it ({stored.path})")


def _of(stored: StoredEntry) -> str:
    """What an entry holds, by name; bytes of a path that are not text are replaced."""
    name = ", ".join(stored.datasets).encode("utf-8", "replace").decode() or "unknown"
    return name if stored.features_of is None else f"{name}, features of {stored.features_of or 'a backbone'}"


def _cached(stored: StoredEntry) -> dict[str, Any]:
    return {
        "path": str(stored.path),
        "datasets": list(stored.datasets),
        "images": stored.images,
        "side": stored.side,
        "bytes": stored.bytes,
        "last_used": round(stored.used, 3),
        "state": stored.state,
        "reason": stored.reason,
        "in_use": stored.in_use,
        "features_of": stored.features_of,
    }


def _show_cached(found: Sequence[StoredEntry]) -> None:
    """A row for each entry of images, and one for all features of a dataset by a backbone."""
    from hptctl import console

    groups: dict[object, list[StoredEntry]] = {}
    for stored in found:
        key = stored.path if stored.features_of is None else (stored.datasets, stored.features_of, stored.state)
        groups.setdefault(key, []).append(stored)

    def number(value: int | None) -> str:
        return "?" if value is None else thousands(value)

    rows = []
    for some in groups.values():
        first, of_features = some[0], some[0].features_of is not None
        rows.append(
            (
                number(sum(each.images or 0 for each in some) if of_features else first.images),
                "-" if of_features else number(first.side),
                size(sum(each.bytes for each in some)),
                f"{duration(max(0.0, time.time() - first.used))} ago",
                f"{first.state}, in use" if first.in_use and first.state != "being built" else first.state,
                _of(first),
            )
        )
    console.table("", (">images", ">side", ">size", ">last used", "state", "dataset"), rows)


def amount(option: str, text: str, units: dict[str, int], examples: str) -> float:
    """What an option says: `12h` -> 43,200 seconds; `5GiB` -> 5,368,709,120 bytes.

    Raises:
        ConfigError: it is no such amount.
    """
    from hpt.errors import ConfigError

    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]+)", text.strip(), flags=re.IGNORECASE)
    factors = {unit.lower(): factor for unit, factor in units.items()}
    if found is None or found[2].lower() not in factors:
        raise ConfigError(f"{option} '{text}' is not a {'time' if units is SECONDS else 'size'}", f"write {examples}")
    return float(found[1]) * factors[found[2].lower()]
