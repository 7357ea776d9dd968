"""The machines of a run: how they find each other, what they compare before anything is computed, and how each learns
what became of the others.

The command is given on each of them, with its own rank. That of machine 0 holds the run's folder and opens a store of
torch.distributed at the main address, which the others join. In it lie

    machines    how many there are, as the first that came has it
    taken/R     how often rank R was given
    hello/R     what machine R is and was asked: versions, settings, clock
    refused     why one of them cannot take part, in a line
    verdict     by machine 0: whether they fit, for all of them
    told        by machine 0: the run, and where its processes meet
    beat/R      counts while machine R's command is there
    end/R       how that command ended

Nothing in it is secret or signed, as with torch.distributed itself: the machines share a network that is trusted.
"""

from __future__ import annotations

import errno
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from math import inf
from typing import TYPE_CHECKING, Any

from hpt.errors import ConfigError, HptError, Interrupted, ProcessLost, UserError
from hptctl import console, deadline
from hptctl.format import count, duration

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

PORT = 29500
"""The port of the main address where none is given, which is torch.distributed's own default."""
WAIT = "5m"
"""How long the machines wait for each other."""
POLL_SECONDS = 0.1
BEAT_SECONDS = 0.5
SILENT_SECONDS = 3.0
"""A machine that is silent for so long is named where the connection to some machine broke."""
LOST_SECONDS = 20.0
"""One that is silent for so long is lost, even where no connection has broken: the power failed, or the network."""
ANSWER_SECONDS = 10.0
SKEW_SECONDS = 60.0
"""Clocks that differ by more are spoken of."""


@dataclass(frozen=True)
class Place:
    """This machine among those of a run, as its command line has it."""

    machines: int
    rank: int
    host: str
    """Of machine 0."""
    port: int
    wait: float
    """Seconds in which the machines have to find each other."""

    @classmethod
    def of(cls, machines: int | None, rank: int | None, address: str | None, wait: float | None) -> Place | None:
        """From the options; None for a run on one machine.

        Raises:
            ConfigError: they do not go together, or the address is none.
        """
        given = {"--machine-rank": rank, "--main-address": address, "--wait": wait}
        if machines is None or machines == 1:
            if machines is None and (alone := [name for name, value in given.items() if value is not None]):
                raise ConfigError(f"{alone[0]} is for a run on several machines", "give --machines N too, or drop it")
            return None
        if machines < 1:
            raise ConfigError(f"--machines {machines} is no number of machines", "give 2 or more")
        if rank is None or address is None:
            missing = "--machine-rank" if rank is None else "--main-address"
            raise ConfigError(
                f"--machines {machines} needs {missing}",
                "give the same command on each, with its own --machine-rank and the --main-address of the first",
            )
        if not 0 <= rank < machines:
            raise ConfigError(
                f"--machine-rank {rank} is out of range", f"{machines} machines have the ranks 0 to {machines - 1}"
            )
        host, port = _parsed(address)
        return cls(machines, rank, host, port, wait if wait is not None else deadline.seconds(WAIT, "--wait"))

    @property
    def address(self) -> str:
        """Of machine 0: `HOST:PORT`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def words(self) -> list[str]:
        """The options, to be given again."""
        return [
            *("--machines", str(self.machines), "--machine-rank", str(self.rank), "--main-address", self.address),
        ]


@dataclass(frozen=True)
class Hello:
    """What a machine says of itself."""

    asked: Mapping[str, Any]
    """The settings that were given on its command line, by dotted names; paths do not count."""
    version: str
    torch: str
    host: str = field(default_factory=socket.gethostname)
    clock: float = field(default_factory=time.time)


@dataclass(frozen=True)
class End:
    """How a machine's command ended, or that it was lost."""

    rank: int
    state: str
    """`finished`, `interrupted`, `failed` or `lost`."""
    reason: str = ""
    exit_code: int = 0

    def error(self, host: str) -> HptError:
        """What is said of it elsewhere."""
        who = f"machine {self.rank} ({host})" if host else f"machine {self.rank}"
        if self.state == "lost":
            return ProcessLost(f"{who} was lost")
        kind = UserError if self.exit_code == UserError.exit_code else HptError
        return kind(f"{who} stopped: {self.reason}")


class Meeting:
    """The machines of a run, which have found each other; `meet` makes it."""

    def __init__(self, place: Place, store: TCPStore) -> None:
        self.place = place
        self.hosts: dict[int, str] = {place.rank: socket.gethostname()}
        """The names of the machines that are known here."""
        self.port = 0
        """Where the run's processes meet, on machine 0."""
        self.trouble: End | None = None
        """What became of another machine, by which this one cannot go on."""
        self._store = store
        self._heard: dict[int, tuple[int, float]] = {}
        self._over = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="beat", daemon=True)

    def tell(self, **told: Any) -> None:
        """By machine 0: what the others have to know."""
        self._store.set("told", json.dumps(told))

    def told(self) -> dict[str, Any]:
        """What machine 0 has told; it may have weights to fetch first.

        Raises:
            HptError: it stopped instead.
        """
        told: dict[str, Any] = json.loads(self._await("told", inf))
        return told

    def explained(self, seconds: float) -> HptError | None:
        """Why this machine's processes lost others: what another machine says of its end, or that it is silent."""
        end = time.monotonic() + seconds
        while self.trouble is None and time.monotonic() < end:
            try:
                ended = [found for rank in self._heard if (found := self._end(rank)) and found.state != "finished"]
            except RuntimeError:
                ended = [End(0, "lost")]
            silent = [End(rank, "lost") for rank in self._heard if self._silence(rank) > SILENT_SECONDS]
            self.trouble = next(iter([*ended, *silent]), self.trouble)
            time.sleep(POLL_SECONDS)
        return self.trouble.error(self.hosts.get(self.trouble.rank, "")) if self.trouble is not None else None

    def end_of_main(self) -> End:
        """How machine 0's command ended, on another machine; waits for it as long as it is there."""
        while self.trouble is None:
            if (end := self._end(0)) is not None:
                return end
            time.sleep(POLL_SECONDS)
        return self.trouble

    def close(self, end: End) -> None:
        """Say how this machine's part ended; machine 0, which has the store, then waits for the others to leave."""
        self._over.set()
        if self._pulse.is_alive():
            self._pulse.join(timeout=ANSWER_SECONDS)
        with suppress(RuntimeError):
            self._store.set(f"end/{end.rank}", json.dumps(asdict(end)))
            until = time.monotonic() + ANSWER_SECONDS
            others = [rank for rank in self._heard if rank != 0 and self._silence(rank) < SILENT_SECONDS]
            while self.place.rank == 0 and time.monotonic() < until and not all(map(self._end, others)):
                time.sleep(POLL_SECONDS)

    def greet(self, hello: Hello) -> None:
        """Take part, and find out whether all machines fit.

        Raises:
            ConfigError: they do not, or not all came in time; the same line on each.
        """
        place, store = self.place, self._store
        store.add("came", 1)
        counted = store.compare_set("machines", "", str(place.machines)).decode()
        refused = None
        if counted != str(place.machines):
            refused = f"one machine was given --machines {counted}, another --machines {place.machines}"
        elif store.add(f"taken/{place.rank}", 1) > 1:
            refused = f"--machine-rank {place.rank} was given twice, once on {hello.host}"
        if refused is not None:
            store.set(
                "refused", json.dumps([refused, "give each machine the same command with its own --machine-rank"])
            )
        else:
            store.set(f"hello/{place.rank}", json.dumps(asdict(hello)))
        if place.rank == 0:
            # Of a second machine 0, which has found the first one's store, the first says it.
            store.compare_set("verdict", "", json.dumps(self._judge(hello)))
        verdict = json.loads(self._await("verdict", place.wait + LOST_SECONDS))
        if refused is not None and verdict["refusal"] is None:  # that run has its machines
            raise ConfigError(*json.loads(store.get("refused")))
        self.hosts |= {int(rank): host for rank, host in verdict["hosts"].items()}
        store.add("read", 1)
        if verdict["refusal"] is not None:
            now = time.monotonic()  # the store is machine 0's, and goes with it
            while place.rank == 0 and time.monotonic() < now + ANSWER_SECONDS:
                time.sleep(5 * POLL_SECONDS)
                if store.add("read", 0) >= store.add("came", 0):
                    break
            raise ConfigError(*verdict["refusal"])
        for line in verdict["notes"]:
            console.warn(line)
        watched = range(1, place.machines) if place.rank == 0 else (0,)
        self._heard = {rank: (0, time.monotonic()) for rank in watched}
        self._pulse.start()

    def _judge(self, mine: Hello) -> dict[str, Any]:
        """By machine 0: wait for the others' hellos, and say whether they fit."""
        mine = Hello(**json.loads(json.dumps(asdict(mine))))  # as the others come
        place, hellos, notes = self.place, {0: mine}, list[str]()
        refusal: list[str] | None = None
        end = time.monotonic() + place.wait
        while refusal is None and len(hellos) < place.machines:
            if self._has("refused"):
                refusal = json.loads(self._store.get("refused"))
            for rank in range(1, place.machines):
                if rank not in hellos and self._has(f"hello/{rank}"):
                    hellos[rank] = other = Hello(**json.loads(self._store.get(f"hello/{rank}")))
                    if abs(ahead := other.clock - time.time()) > SKEW_SECONDS:
                        which = "ahead of" if ahead > 0 else "behind"
                        notes.append(
                            f"the clock of machine {rank} ({other.host}) is {duration(abs(ahead))} {which} that of"
                            f" machine 0 ({mine.host}), by which the run's times are"
                        )
                    refusal = refusal or _unfit(rank, other, mine)
            if refusal is None and len(hellos) < place.machines and time.monotonic() > end:
                absent = [str(rank) for rank in range(place.machines) if rank not in hellos]
                which = f"machine{'s' * (len(absent) > 1)} {', '.join(absent)} of {place.machines}"
                refusal = [
                    f"{which} did not come to {place.address} within {duration(place.wait)}",
                    "start the same command there with its own --machine-rank, or wait longer with --wait",
                ]
            time.sleep(POLL_SECONDS)
        if refusal is None and self._has("refused"):
            refusal = json.loads(self._store.get("refused"))
        return {"refusal": refusal, "notes": notes, "hosts": {rank: each.host for rank, each in hellos.items()}}

    def _await(self, key: str, seconds: float) -> bytes:
        """What machine 0 puts there."""
        end = time.monotonic() + seconds
        try:
            while not self._has(key):
                ended = self._end(0) or self.trouble
                if ended is not None and not self._has(key):  # which it may have put there since, and ended well
                    raise ended.error(self.hosts.get(ended.rank, ""))
                if time.monotonic() > end:
                    raise ConfigError(
                        f"machine 0 at {self.place.address} has not answered within {duration(seconds)}",
                        "look what its command says",
                    )
                time.sleep(POLL_SECONDS)
            return self._store.get(key)
        except RuntimeError:  # the store's connection
            raise End(0, "lost").error(self.hosts.get(0, self.place.host)) from None

    def _has(self, key: str) -> bool:
        return self._store.check([key])

    def _end(self, rank: int) -> End | None:
        return End(**json.loads(self._store.get(f"end/{rank}"))) if self._has(f"end/{rank}") else None

    def _silence(self, rank: int) -> float:
        """Seconds since another machine was heard of."""
        return time.monotonic() - self._heard[rank][1]

    def _beat(self) -> None:
        """Show that this machine is there, and look for those that it watches: machine 0 for all, they for it."""
        mine = self.place.rank
        while not self._over.wait(BEAT_SECONDS):
            try:
                self._store.add(f"beat/{mine}", 1)
                for rank, (before, heard) in self._heard.items():
                    end = self._end(rank)  # before the beats, which end with it
                    beats = self._store.add(f"beat/{rank}", 0)
                    late = time.monotonic() - heard > LOST_SECONDS
                    if beats != before:
                        self._heard[rank] = beats, time.monotonic()
                    elif end is None and late:
                        self.trouble = self.trouble or End(rank, "lost")
                    # Processes that were asked to stop agree on it with the others, which need a moment to save.
                    elif end is not None and (end.state == "failed" or (end.state == "interrupted" and late)):
                        self.trouble = self.trouble or end
            except RuntimeError:  # the store has gone, and machine 0 with it
                self.trouble = self.trouble or End(0, "lost")
                return


@contextmanager
def meet(place: Place, hello: Hello) -> Iterator[Meeting]:
    """The machines of a run, once all are there and fit; how the block ends is told to the others.

    Raises:
        ConfigError: they do not fit, one did not come in time, the address cannot be reached, or its port is taken.
    """
    here, among = (f"machine {place.rank}", f"{place.machines} machines")
    where = "waiting for the others" if place.rank == 0 else "looking for machine 0"
    console.note(f"{here} of {among} (from 0): {where} at {place.address}, for up to {duration(place.wait)}")
    meeting = Meeting(place, _open(place) if place.rank == 0 else _join(place))
    try:
        meeting.greet(hello)
        yield meeting
    except BaseException as error:
        state = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, HptError):
            reason = str(error) if isinstance(error, UserError) else error.what
        meeting.close(End(place.rank, state, reason, getattr(error, "exit_code", 1)))
        raise
    meeting.close(End(place.rank, "finished"))


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.create_server(("", 0)) as listener:
        return int(listener.getsockname()[1])


def interface_to(place: Place) -> str | None:
    """The network interface over which this machine reaches machine 0; None where the system does not say.

    Gloo takes that of the machine's own name, which on many systems is the loopback.
    """
    import psutil

    with suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)  # sends nothing
            own = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if any(each.address.partition("%")[0] == own for each in addresses):
                return str(name)
    return None


def _unfit(rank: int, other: Hello, mine: Hello) -> list[str] | None:
    """Why another machine does not fit machine 0, and what to do."""
    who = f"machine {rank} ({other.host})"
    for what in ("version", "torch"):
        theirs, ours = getattr(other, what), getattr(mine, what)
        if theirs != ours:
            program = "hptctl" if what == "version" else "torch"
            return [
                f"{who} has {program} {theirs}, and machine 0 ({mine.host}) has {ours}",
                "install the same on each machine",
            ]
    differing = [key for key in {**mine.asked, **other.asked} if mine.asked.get(key) != other.asked.get(key)]
    if differing:
        said = [
            f"{key} is {_value(other.asked.get(key))} on {who}, and {_value(mine.asked.get(key))} on machine 0"
            for key in differing[:3]
        ]
        more = f", and {count(len(differing) - 3, 'more setting')}" if len(differing) > 3 else ""
        return [f"the commands differ: {'; '.join(said)}{more}", "give the same command on each machine"]
    return None


def _value(value: Any) -> str:
    return "not given" if value is None else str(value)


def _parsed(address: str) -> tuple[str, int]:
    """`HOST:PORT`, `[::1]:PORT`, or a host alone."""
    host, colon, port = address.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):  # a host alone, or a bare address of IPv6
        host, port = address, str(PORT)
    host = host.strip("[]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--main-address {address!r} is no address", "give HOST:PORT of machine 0, as 10.0.0.5:29500")
    return host, int(port)


def _open(place: Place) -> TCPStore:
    """The store, by machine 0."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its name in the documentation

    _known(place)
    both = socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server(
            ("", place.port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be opened ({error.strerror})"
        raise ConfigError(
            f"port {place.port} of this machine {why}", "give another one in --main-address, on each machine"
        ) from None
    try:
        with socket.create_connection((place.host, place.port), timeout=min(ANSWER_SECONDS, place.wait)):
            pass
        limit = timedelta(seconds=ANSWER_SECONDS)
        listening = listener.detach()
        return TCPStore(
            *(place.host, place.port),
            is_master=True,
            timeout=limit,
            wait_for_workers=False,
            master_listen_fd=listening,
        )
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{place.address} does not lead to this machine ({_why(error)})",
            "give an address of machine 0 in --main-address, on each machine",
        ) from None


def _join(place: Place) -> TCPStore:
    """The store, by another machine. Asked for by a plain connection first: torch's own attempts write warnings."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # its name in the documentation

    _known(place)
    end = time.monotonic() + place.wait
    while True:
        try:
            with socket.create_connection((place.host, place.port), timeout=min(ANSWER_SECONDS, place.wait)):
                break
        except OSError as error:
            if time.monotonic() > end:
                raise ConfigError(
                    f"machine 0 was not found at {place.address} within {duration(place.wait)} ({_why(error)})",
                    "start its command too; check the address, its port and firewalls; or wait longer with --wait",
                ) from None
            time.sleep(POLL_SECONDS)
    found: list[TCPStore | RuntimeError] = []

    def join() -> None:
        try:
            found.append(TCPStore(place.host, place.port, is_master=False, timeout=limit, wait_for_workers=False))
        except RuntimeError as error:
            found.append(error)

    # In a thread of its own, since torch's time limit is none against somebody who listens and never answers.
    limit = timedelta(seconds=ANSWER_SECONDS)
    thread = threading.Thread(target=join, name="join", daemon=True)
    thread.start()
    thread.join(timeout=ANSWER_SECONDS)
    if found and not isinstance(found[0], RuntimeError):
        return found[0]
    why = _why(found[0]) if found and isinstance(found[0], RuntimeError) else "no answer"
    raise ConfigError(
        f"what listens at {place.address} is no machine of a run ({why})",
        "give a free port of machine 0 in --main-address, on each machine",
    )


def _known(place: Place) -> None:
    try:
        socket.getaddrinfo(place.host, place.port)
    except OSError as error:
        raise ConfigError(
            f"--main-address: this machine knows no host '{place.host}' ({error.strerror or error})",
            "give its address in numbers, or correct the name",
        ) from None


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
