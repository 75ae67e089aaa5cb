"""Decision ids that any replica can check without a look-up: journal, time, random part, MAC.

The time comes before the random part so that neighbours in time are neighbours in the journal's index of ids.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from dataclasses import dataclass

JOURNAL_DIGITS = 8
TIME_DIGITS = 11
RANDOM_DIGITS = 13
MAC_BYTES = 6
LENGTH = JOURNAL_DIGITS + TIME_DIGITS + RANDOM_DIGITS + 2 * MAC_BYTES


@dataclass(frozen=True)
class DecisionIds:
    """Mints and checks ids of one journal.

    Attributes:
        journal_id: eight hex digits, unlike that of any other journal.
        key: secret of the deployment.
    """

    journal_id: str
    key: bytes

    def mint(self) -> str:
        """Return a new id, 44 hex digits."""
        now_ms = time.time_ns() // 1_000_000
        body = f"{self.journal_id}{now_ms:0{TIME_DIGITS}x}{os.urandom(7).hex()[:RANDOM_DIGITS]}"
        return body + self._mac(body)

    def issued(self, decision_id: str) -> bool:
        """Tell whether the deployment issued the id, by this journal or another of the same key."""
        if len(decision_id) != LENGTH or not decision_id.isascii():
            return False
        body, mac = decision_id[: -2 * MAC_BYTES], decision_id[-2 * MAC_BYTES :]
        return hmac.compare_digest(self._mac(body), mac)

    def own(self, decision_id: str) -> bool:
        """Tell whether this journal issued the id."""
        return decision_id.startswith(self.journal_id) and self.issued(decision_id)

    def _mac(self, body: str) -> str:
        return hashlib.blake2b(body.encode(), key=self.key[:64], digest_size=MAC_BYTES).hexdigest()
