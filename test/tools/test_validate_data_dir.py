"""tools/validate_data_dir.sh names every defect of a Kaldi directory with its line."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def good(tmp_path: Path) -> Path:
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(b"x")
    (tmp_path / "wav.scp").write_text(f"a {tmp_path}/a.wav\nb {tmp_path}/b.wav\n")
    (tmp_path / "text").write_text("a one\nb two words\n")
    (tmp_path / "utt2spk").write_text("a s1\nb s2\n")
    (tmp_path / "spk2utt").write_text("s1 a\ns2 b\n")
    (tmp_path / "utt2emotion").write_text("a happy\n")
    return tmp_path


@pytest.fixture
def validate(root: Path) -> Callable[..., tuple[int, str]]:
    def run(*args: object) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", str(root / "tools" / "validate_data_dir.sh"), *map(str, args)], capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_good_directory(good: Path, validate: Callable[..., tuple[int, str]]) -> None:
    assert validate(good) == (0, f"{good}: 2 utterances, fine\n")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("wav.scp", None, ["wav.scp: no such file"]),
        ("wav.scp", "", ["wav.scp: is empty"]),
        ("wav.scp", "a {dir}/a.wav\nb {dir}/none.wav\n", ["none.wav of key b does not exist"]),
        ("wav.scp", "a {dir}/a.wav\na {dir}/b.wav\n", ["wav.scp:2: key a was already given in line 1"]),
        ("wav.scp", "a {dir}/a.wav\nb\n", ["wav.scp:2: key b has no value"]),
        ("text", None, ["text: no such file"]),
        ("text", "a one\n", ["wav.scp:2: key b is not in", "text"]),
        ("text", "a one\nb two\nc three\n", ["text:3: key c is not in", "wav.scp"]),
        ("utt2spk", "a s1\n", ["key b is not in", "utt2spk"]),
        ("spk2utt", "s1 a b\n", ["disagree"]),
        ("utt2emotion", "c happy\n", ["utt2emotion:1: key c is not in"]),
        ("segments", "a a 0 1.5\nb c 2 3\n", ["segments:2: recording c is not in wav.scp"]),
        ("segments", "a a 0 1.5\nb b 3 2\n", ["segments:2: expected key recording start end"]),
    ],
)
def test_defects(good: Path, validate: Callable[..., tuple[int, str]], file: str, content: str | None, words: list[str]) -> None:
    if content is None:
        (good / file).unlink()
    else:
        (good / file).write_text(content.format(dir=good))
    status, output = validate(good)
    assert status == 1
    assert all(word in output for word in words), output


def test_pipes_arks_and_options(good: Path, validate: Callable[..., tuple[int, str]]) -> None:
    (good / "x.ark").write_bytes(b"x")
    (good / "wav.scp").write_text(f"a cat {good}/a.wav |\nb {good}/x.ark:17\n")
    assert validate(good)[0] == 0
    (good / "text").unlink()
    assert validate("--no-text", good)[0] == 0
    (good / "x.ark").unlink()
    assert validate("--no-text", good)[0] == 1
    assert validate("--no-text", "--no-wav", good)[0] == 0
    assert validate("--nope", good)[0] == 2
