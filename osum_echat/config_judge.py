"""How replies are judged by a language model: which endpoint is asked, how often, and what happens when it does not answer."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator

from osum_echat.config_types import NonNegative, Positive, Section
from osum_echat.errors import ConfigError

Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class JudgeConfig(Section):
    """One judge behind an OpenAI-compatible endpoint. Of these, model, temperature, max_tokens and seed decide what is asked."""

    base_url: str = Field(description="Address in front of /chat/completions, such as http://127.0.0.1:8000/v1.")
    model: str = Field(min_length=1, description="Name of the judging model; part of the result.")
    samples: int = Field(3, ge=3, description="Ratings of every reply; fewer than 3 would not tell how far the judge agrees with itself.")
    temperature: float = Field(1.0, ge=0.0, le=2.0, description="1 draws from the model's own distribution: the mean estimates its view.")
    max_tokens: Positive = Field(16, description="Longest answer. A rating is one numeral; models that reason in the answer need more.")
    seed: NonNegative = Field(777, description="Every request's own seed is made from this, the row's key and the number of the sample.")
    max_concurrent: Positive = Field(8, le=256, description="Requests under way at a time.")
    timeout_s: Seconds = Field(60.0, description="Longest silence of the endpoint, seconds.")
    max_tries: Positive = Field(5, description="Tries of a request that meets a timeout, a lost connection, 429, 5xx or a broken body.")
    max_asks: Positive = Field(3, description="Times a rating is asked for when the answer is no whole number from 1 to 5.")
    backoff_s: Seconds = Field(1.0, description="Wait before the second try, seconds; doubled every time.")
    max_wait_s: Seconds = Field(120.0, description="Longest wait between tries, seconds; an endpoint that asks for more is given up.")
    down_after: Positive = Field(3, description="Requests given up in a row after which the endpoint counts as down and the run ends.")

    @field_validator("base_url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected an address such as https://host/v1, got {value!r}")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("no password, query or fragment belongs into the address; the key comes from the environment")
        return value.rstrip("/")


def judge_config(options: dict[str, Any]) -> JudgeConfig:
    """A checked configuration from the options of a command; wrong values are a ConfigError that names the option."""
    try:
        return JudgeConfig(**options)
    except ValidationError as error:
        wrong = "; ".join(f"--{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(f"the judge cannot be set up: {wrong}") from error
