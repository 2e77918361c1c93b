"""One answer of a session gathered from its events: text, sound, and where the time went until the first sound.

Spans, in seconds, of one question after the other, so that they add up to the first sound:
encode (features, encoder, adapter), prefill (the language model over the prompt), tokens (text and codes up to the last code that the first
sound waits for), token2wav (flow and vocoder). Shapes: S samples.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from osum_echat.generate.session import AudioEvent, EndEvent, Event, SpeechEvent, StageEvent, TextEvent

SPANS = ("encode", "prefill", "tokens", "token2wav")


@dataclass(frozen=True)
class Spans:
    """Where the time of one spoken answer went; `total` is until its end, `spoken` how long it sounds. All seconds."""

    encode: float
    prefill: float
    tokens: float
    token2wav: float
    total: float
    spoken: float

    @property
    def first_audio(self) -> float:
        """From the end of the question to the first sound."""
        return self.encode + self.prefill + self.tokens + self.token2wav

    @property
    def rtf(self) -> float:
        """Seconds of work per second of sound."""
        return self.total / self.spoken


class Reply:
    """Takes the events of one answer in order."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.text = ""
        self.codes: tuple[int, ...] = ()
        self.finished = False
        self.seconds = 0.0  # until its end
        self.sample_rate = 0
        self._pieces: list[np.ndarray] = []
        self._stages: dict[str, float] = {}
        self._last_code = self._first_audio = 0.0
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """The next event."""
        if isinstance(event, StageEvent):
            self._stages[event.stage] = event.seconds
        elif isinstance(event, TextEvent):
            self.text += event.text
        elif isinstance(event, SpeechEvent) and not self._pieces:
            self._last_code = event.seconds
        elif isinstance(event, AudioEvent):
            if not self._pieces:
                self._first_audio, self.sample_rate = event.seconds, event.sample_rate
            self._pieces.append(event.samples_S)
        elif isinstance(event, EndEvent):
            self.codes, self.finished, self.seconds = event.codes, event.finished, event.seconds

    @property
    def samples_S(self) -> np.ndarray:
        """The whole sound; empty when there was none."""
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, dtype=np.float32)

    @property
    def spans(self) -> Spans | None:
        """None for an answer without sound."""
        if not self._pieces:
            return None
        encoded, prefilled = self._stages["encoded"], self._stages["prefilled"]
        return Spans(
            encode=encoded,
            prefill=prefilled - encoded,
            tokens=self._last_code - prefilled,
            token2wav=self._first_audio - self._last_code,
            total=self.seconds,
            spoken=len(self.samples_S) / self.sample_rate,
        )
