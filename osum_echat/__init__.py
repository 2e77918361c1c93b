"""osum_echat: train, evaluate and serve empathetic speech-to-speech language models."""

__version__ = "0.1.0"
