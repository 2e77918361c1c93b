"""Speech tokens of a list to wav files: read ahead a window, synthesize rows of similar length together, write as they come.

``<out>/wav/<key>.wav`` holds the speech (16 bit mono at the vocoder's rate), ``<out>/data.list`` the rows with that file as ``wav`` and the
task asr, so that a recogniser can be run on them, ``<out>/synthesize.json`` the counts and the real-time factor. Every finished batch is
appended to ``partial.jsonl``; starting the same synthesis again goes on behind it. A row that cannot be spoken is a counted drop.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from osum_echat.audio.io import encode_pcm16
from osum_echat.data.batch import pack_padded
from osum_echat.data.source import Drop, Row, generator
from osum_echat.errors import DataError
from osum_echat.files import write_atomic, write_text
from osum_echat.generate.runner import PARTIAL, PartialFile
from osum_echat.token2wav.flow import check_codes
from osum_echat.token2wav.rows import draw_seed
from osum_echat.token2wav.stream import Token2wav
from osum_echat.utterance import Utterance

_READ_AHEAD = 512  # rows that are sorted by length


@dataclass
class SynthesisRecord:
    """What was synthesized so far: rows of data.list and drops, and the time it took."""

    order: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    drops: list[Drop] = field(default_factory=list)
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0


class ListSynthesis:
    """One run over a list.

    Args:
        seed: the noise of a row comes from it and the row's key.
        batch_tokens: speech tokens of a batch, padding included; a longer row has a batch of its own.
        progress: called with (rows done, rows dropped).
    """

    def __init__(
        self,
        token2wav: Token2wav,
        out: Path,
        seed: int,
        batch_tokens: int,
        progress: Callable[[int, int], None] = lambda done, dropped: None,
    ) -> None:
        self.token2wav, self.out, self.seed, self.batch_tokens, self.progress = token2wav, out, seed, batch_tokens, progress
        self.record = SynthesisRecord()

    def run(self, rows: Iterable[Row], identity: dict[str, Any]) -> SynthesisRecord:
        """Every row, going on where an earlier start of the same ``identity`` ended."""
        partial = PartialFile(self.out / PARTIAL, json.loads(json.dumps(identity)))
        for line in partial.lines:
            self._add(line)
        fresh = self._fresh(rows)
        try:
            while window := list(islice(fresh, _READ_AHEAD)):
                for batch in self._batches([row for row in window if row.key not in self.record.rows]):
                    line = self._speak(batch)
                    partial.add(line)
                    self._add(line)
                    self.progress(len(self.record.rows), len(self.record.drops))
        finally:
            partial.close()
        return self.record

    def write_outputs(self, facts: dict[str, Any]) -> dict[str, Any]:
        """data.list and synthesize.json of a finished run, whose content is returned; DataError when nothing could be spoken."""
        record = self.record
        rows = [record.rows[key] for key in record.order if key in record.rows]
        reasons = Counter(drop.reason for drop in record.drops)
        if not rows:
            raise DataError(f"no row could be synthesized: {dict(reasons)}, such as {record.drops[0].message}", "nothing_spoken")
        write_text(self.out / "data.list", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        info = {
            **facts,
            "n": len(rows),
            "sample_rate": self.token2wav.sample_rate,
            "audio_seconds": round(record.audio_seconds, 2),
            "wall_seconds": round(record.wall_seconds, 2),
            "rtf": record.wall_seconds / record.audio_seconds,
            "num_threads": torch.get_num_threads(),
            "drop_counts": dict(reasons),
            "drops": [{"key": d.key, "reason": d.reason, "origin": d.origin, "message": d.message} for d in record.drops],
        }
        write_text(self.out / "synthesize.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")
        (self.out / PARTIAL).unlink(missing_ok=True)
        return info

    def _fresh(self, rows: Iterable[Row]) -> Iterator[Utterance]:
        """Rows that can be spoken; notes the order of all and the drops."""
        seen: set[str] = set()
        for row in rows:
            if isinstance(row, Drop):
                self.record.drops.append(row)
                continue
            try:
                if row.key in seen:
                    raise DataError("this key was already given in the list", "duplicate_key")
                _check(row, self.token2wav.flow.cfg.codebook_size)
            except DataError as error:
                self.record.drops.append(Drop.because(error, row, row.task))
                continue
            seen.add(row.key)
            self.record.order.append(row.key)
            yield row

    def _batches(self, rows: list[Utterance]) -> Iterator[list[Utterance]]:
        lengths = [len(row.speech_token or ()) for row in rows]
        for places in pack_padded(lengths, [0.0] * len(rows), self.batch_tokens):
            yield [rows[place] for place in places]

    def _speak(self, batch: list[Utterance]) -> dict[str, Any]:
        begin = time.monotonic()
        try:
            spoken = list(zip(batch, self._synthesize(batch), strict=True))
        except DataError:  # one of them; the others are worth another try
            spoken = []
            for row in batch:
                try:
                    spoken.append((row, self._synthesize([row])[0]))
                except DataError as error:
                    self.record.drops.append(Drop.because(error, row, row.task))
        lines = [self._write(row, samples_S) for row, samples_S in spoken]
        return {"rows": lines, "seconds": sum(len(s) for _, s in spoken) / self.token2wav.sample_rate, "wall": time.monotonic() - begin}

    def _synthesize(self, batch: list[Utterance]) -> list[np.ndarray]:
        codes = [torch.tensor(row.speech_token) for row in batch]
        return self.token2wav.synthesize(codes, [draw_seed(generator("synthesize", self.seed, row.key)) for row in batch])

    def _write(self, row: Utterance, samples_S: np.ndarray) -> dict[str, Any]:
        """The file, and its row of data.list (paths are relative to the list)."""
        name = f"wav/{quote(row.key, safe='')}.wav"
        data = encode_pcm16(samples_S, self.token2wav.sample_rate)
        write_atomic(self.out / name, lambda file: file.write(data))
        return replace(row, wav=name, start=None, end=None, task="asr").to_record()

    def _add(self, line: dict[str, Any]) -> None:
        self.record.rows |= {row["key"]: row for row in line["rows"]}
        self.record.audio_seconds += line["seconds"]
        self.record.wall_seconds += line["wall"]


def _check(row: Utterance, codebook_size: int) -> None:
    if row.speech_token is None:
        raise DataError("no 'speech_token' to speak", "missing_speech_token")
    if not row.speech_token:
        raise DataError("the answer has no speech: its 'speech_token' is empty", "empty_speech")
    check_codes(torch.tensor(row.speech_token), codebook_size)
