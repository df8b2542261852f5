"""Who may see the page: the token or password, sessions, and how often somebody may try. No part of it knows HTTP."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from watcherd.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TOKEN_NAME = "web.token"  # noqa: S105 - the name of a file
TOKEN_BYTES = 24
SESSION_SECONDS = 12 * 3600
"""Seconds that a login lasts."""
TRIES = 5
"""Failed logins from one address within `TRIES_SECONDS`; then it has to wait."""
TRIES_IN_ALL = 50
"""The same from all addresses together."""
TRIES_SECONDS = 60.0
MOST_ADDRESSES = 1000
"""Addresses whose failed logins are remembered."""
MOST_REVOKED = 10_000
"""Sessions that were ended by hand and are remembered until they would have ended by themselves."""


def token(state: Path) -> str:
    """The token of this state folder, made at the first call: a file that its owner alone may read.

    Raises `UnavailableError` when it can be neither read nor made.
    """
    path = state / TOKEN_NAME
    try:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return _read(path)
        with os.fdopen(descriptor, "w") as file:
            made = secrets.token_urlsafe(TOKEN_BYTES)
            file.write(f"{made}\n")
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        raise UnavailableError(
            f"The page's token cannot be kept at {path}: {error.strerror}.",
            hint="Run it as the service's user, and start watcherd once: it makes its folders.",
        ) from error
    return made


def _read(path: Path) -> str:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "r") as file:
        found = file.read(1024).strip()
        os.fchmod(file.fileno(), 0o600)
    if len(found) < TOKEN_BYTES:
        raise UnavailableError(
            f"{path} holds no token.", hint="Delete it: a new one is made, and everybody logs in again."
        )
    return found


class Sessions:
    """Logins, as signed texts that browsers keep: nothing is stored but which of them were ended by hand.

    ``secret``: what people log in with; whoever changes it ends all sessions.
    """

    def __init__(self, secret: str, clock: Callable[[], float] = time.time) -> None:
        self._secret = secret.encode()
        self._key = hashlib.sha256(b"watcherd session\0" + self._secret).digest()
        self._clock = clock
        self._revoked: OrderedDict[str, None] = OrderedDict()

    def is_secret(self, said: str) -> bool:
        """Whether this is the token or password; takes as long for any text."""
        return hmac.compare_digest(hashlib.sha256(said.encode()).digest(), hashlib.sha256(self._secret).digest())

    def begin(self, who: str) -> str:
        """A new session for this person."""
        until = int(self._clock()) + SESSION_SECONDS
        name = base64.urlsafe_b64encode(who.encode()).decode().rstrip("=")
        body = f"{until}.{secrets.token_urlsafe(12)}.{name}"
        return f"{body}.{self._sign('session', body)}"

    def who(self, session: str) -> str | None:
        """Whose session it is; None for one that is over, was ended, or was never begun here."""
        body, _, signature = session.rpartition(".")
        if not body or not hmac.compare_digest(signature.encode(), self._sign("session", body).encode()):
            return None
        until, _, rest = body.partition(".")
        if int(until) <= self._clock() or session in self._revoked:
            return None
        name = rest.partition(".")[2]
        try:
            return base64.urlsafe_b64decode(name + "=" * (-len(name) % 4)).decode()
        except (binascii.Error, ValueError):
            return None

    def end(self, session: str) -> None:
        """It counts no longer, whoever has a copy of it."""
        self._revoked[session] = None
        while len(self._revoked) > MOST_REVOKED:
            self._revoked.popitem(last=False)

    def form_token(self, session: str) -> str:
        """What a form of this session has to bring along (against forgeries from other sites)."""
        return self._sign("form", session)

    def is_form_token(self, session: str, said: str) -> bool:
        return hmac.compare_digest(said.encode(), self.form_token(session).encode())

    def _sign(self, purpose: str, text: str) -> str:
        digest = hmac.new(self._key, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


class Tries:
    """How often somebody may be wrong: a few times a minute from one address, more from all together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    def wait(self, address: str) -> float:
        """Seconds until this address may try again; 0: now."""
        now = self._clock()
        own = self._failed.get(address, deque())
        return max(_until(own, TRIES, now), _until(self._all, TRIES_IN_ALL, now))

    def failed(self, address: str) -> None:
        """Remember a try that was wrong."""
        now = self._clock()
        own = self._failed.setdefault(address, deque(maxlen=TRIES))
        self._failed.move_to_end(address)
        own.append(now)
        self._all.append(now)
        while len(self._all) > TRIES_IN_ALL:
            self._all.popleft()
        while len(self._failed) > MOST_ADDRESSES:
            self._failed.popitem(last=False)


def _until(times: deque[float], most: int, now: float) -> float:
    if len(times) < most:
        return 0.0
    return max(0.0, times[-most] + TRIES_SECONDS - now)
