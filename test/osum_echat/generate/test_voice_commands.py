"""osum-echat chat and osum-echat tts, with a tiny random model and a voice that is only a tone per code."""

import io
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

from osum_echat.audio.io import read_native
from osum_echat.bin import _voice, chat, tts
from osum_echat.bin._model import load_model, read_run
from osum_echat.bin._sampling import samplers_of
from osum_echat.config import CodeSamplingConfig, RunConfig, SpeechConfig
from osum_echat.generate.decoder import generate
from osum_echat.generate.reply import Reply
from osum_echat.generate.requests import RequestEncoder
from osum_echat.generate.sampling import Sampler
from osum_echat.generate.session import DialogueSession
from osum_echat.generate.voice import Hops
from osum_echat.model.echat import EChat
from osum_echat.tasks.task import TASKS
from osum_echat.train.assemble import load_token2wav
from osum_echat.utterance import Utterance

QUICK = ["--max_new", "7", "--max_speech", "30", "--device", "cpu"]


class Tones:
    """A synthesiser: 960 samples a code; remembers what it was given."""

    sample_rate = 24000
    sampling = SimpleNamespace(first_hop_tokens=4, hop_tokens=9)
    flow = SimpleNamespace(cfg=SimpleNamespace(codebook_size=8))

    def __init__(self) -> None:
        self.answers: list[list[int]] = []
        self.pushes: list[int] = []

    def init_state(self, seed: int) -> None:
        self.answers.append([])

    def push(self, codes: list[int], state: None) -> tuple[np.ndarray, None]:
        self.answers[-1] += codes
        self.pushes.append(len(codes))
        return np.repeat(np.array(codes, np.float32) / 16, 960), None

    def flush(self, state: None) -> tuple[np.ndarray, None]:
        return np.zeros(0, np.float32), None


@pytest.fixture
def tones(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Tones:
    """The voice, with run directories that look finished beside that of the model."""
    voice = Tones()
    for name in ("2_flow", "2_vocoder"):
        (run_dir.parent / name).mkdir(exist_ok=True)
        for file in ("train.yaml", "final.pt"):
            (run_dir.parent / name / file).touch()
    monkeypatch.setattr(_voice, "load_token2wav", lambda flow, vocoder, device: voice)
    return voice


def run(command: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["verb", *map(str, arguments)])
    return int(command.main())


def test_a_dialogue_of_two_turns(
    run_dir: Path, noise_list: Path, model: EChat, run_config: RunConfig, tones: Tones, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    wavs = [noise_list.parent / "u0.wav", noise_list.parent / "u3.wav"]
    assert run(chat, monkeypatch, *wavs, "--dir", run_dir, "--out", tmp_path / "reply.wav", *QUICK) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["reply_1.wav", "reply_2.wav"]
    for turn, codes in enumerate(tones.answers, 1):
        samples, rate = read_native(str(tmp_path / f"reply_{turn}.wav"))
        assert rate == 24000 and soundfile.info(tmp_path / f"reply_{turn}.wav").subtype == "PCM_16"
        np.testing.assert_allclose(samples, np.repeat(np.array(codes, np.float32) / 16, 960), atol=1e-4)
    assert tones.pushes[0] == 4 and 9 in tones.pushes  # the hops of the flow
    encoder = RequestEncoder(run_config, TASKS["s2s_interleaved"])
    request = encoder.request(Utterance("turn1", wav=str(wavs[0])))
    (answer,) = generate(model, [request.prompt], request.mels, encoder.plan(max_new=7, max_speech=30), seed=777)
    assert list(answer.codes) == tones.answers[0]  # what decode says for the same question and seed
    assert encoder.tokenizer.decode(answer.ids) in out
    assert out.count("first sound after") == 2 and "flow and vocoder" in out and "real-time factor" in out


def test_one_question_and_another_task(
    run_dir: Path, noise_list: Path, tones: Tones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wav = noise_list.parent / "u0.wav"
    assert run(chat, monkeypatch, wav, "--dir", run_dir, "--out", tmp_path / "deep" / "r.wav", "--task", "s2s", *QUICK) == 0
    assert (tmp_path / "deep" / "r.wav").is_file() and len(tones.answers) == 1


def test_a_task_that_only_writes_needs_no_voice(
    run_dir: Path, noise_list: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wav = noise_list.parent / "u0.wav"
    assert run(chat, monkeypatch, wav, "--dir", run_dir, "--task", "s2t", "--flow", "nowhere", *QUICK) == 0
    assert str(wav) in capsys.readouterr().out


def test_bad_questions_and_folders_say_what_to_do(
    run_dir: Path, noise_list: Path, tones: Tones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, out = noise_list.parent / "u0.wav", ["--out", tmp_path / "r.wav", *QUICK]

    def error(*arguments: object) -> str:
        assert run(chat, monkeypatch, *arguments) == 2
        assert not list(tmp_path.glob("r*.wav"))
        return capsys.readouterr().err.replace("\n", " ")

    soundfile.write(tmp_path / "short.wav", np.full(800, 0.1), 16000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    (tmp_path / "broken.wav").write_bytes(b"RIFF" + b"x" * 100)
    assert "0.050 s of audio" in error(good, tmp_path / "short.wav", "--dir", run_dir, *out)
    assert "is silent" in error(tmp_path / "silent.wav", "--dir", run_dir, *out)
    assert "not audio" in error(tmp_path / "broken.wav", "--dir", run_dir, *out)
    assert "no such file" in error(tmp_path / "gone.wav", "--dir", run_dir, *out)
    assert "no such directory" in error(good, "--dir", tmp_path / "nowhere", *out)
    assert "--out" in error(good, "--dir", run_dir)
    assert "stage 2" in error(good, "--dir", run_dir, "--vocoder", tmp_path, *out)
    (tmp_path / "empty").mkdir()
    assert "no train.yaml" in error(good, "--dir", tmp_path / "empty", *out)
    shutil.copy(run_dir / "train.yaml", tmp_path / "empty")
    assert "has not ended" in error(good, "--dir", tmp_path / "empty", *out)
    (tmp_path / "empty" / "train.yaml").write_text("model: {arch: speech_tokenizer}\ndata: {train: [{list: x}]}\ntrain: {max_steps: 1}\n")
    assert "expected echat" in error(good, "--dir", tmp_path / "empty", *out)
    monkeypatch.setattr(tones, "flow", SimpleNamespace(cfg=SimpleNamespace(codebook_size=16)))
    assert "codebook of 8" in error(good, "--dir", run_dir, *out)


def test_a_text_is_read_sentence_by_sentence(
    run_dir: Path, tones: Tones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "Open the door. The light is on!"
    drawn = ["--speech_temperature", 30, "--speech_top_p", 1, "--speech_top_k", 0, "--seed", 5]  # greedily, this model says little
    assert run(tts, monkeypatch, text, "--dir", run_dir, "--out", tmp_path / "x.wav", *drawn, *QUICK) == 0
    out = capsys.readouterr().out
    assert "[1/2] open the door" in out and "[2/2] the light is on" in out and "real-time factor" in out
    assert len(tones.answers) == 2 and all(tones.answers)
    samples, rate = read_native(str(tmp_path / "x.wav"))
    pause = np.zeros(4800, np.float32)
    spoken = [np.repeat(np.array(codes, np.float32) / 16, 960) for codes in tones.answers]
    assert rate == 24000
    np.testing.assert_allclose(samples, np.concatenate([spoken[0], pause, spoken[1]]), atol=1e-4)


@pytest.mark.parametrize("task", ["tts", "tts_interleaved"])
def test_text_from_a_file_and_from_a_pipe_is_the_same(
    run_dir: Path, tones: Tones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    (tmp_path / "t.txt").write_text("open the door\nthe light\n")
    options = ["--dir", run_dir, "--task", task, *QUICK]
    assert run(tts, monkeypatch, "--file", tmp_path / "t.txt", "--out", tmp_path / "a.wav", *options) == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("open the door\nthe light\n"))
    assert run(tts, monkeypatch, "--out", tmp_path / "b.wav", *options) == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes() and len(tones.answers) == 4


def test_an_emotion_reaches_the_prompt(run_dir: Path, tones: Tones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Utterance] = []
    request = RequestEncoder.request
    monkeypatch.setattr(RequestEncoder, "request", lambda self, utterance: asked.append(utterance) or request(self, utterance))
    options = ["the door", "--dir", run_dir, "--out", tmp_path / "x.wav", *QUICK]
    assert run(tts, monkeypatch, *options, "--emotion", "joyful") == 0
    assert asked[0].emotion == "happy" and asked[0].txt == "the door"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["世界"], "U+4E16"),
        (["?!"], "the text is empty"),
        (["the door", "--emotion", "hapy"], "'happy'"),
        (["the door", "--file", "x"], "not both"),
        (["--file", "nowhere.txt"], "nowhere.txt"),
        (["the door", "--max_text", "0"], "--max_text 0"),
        (["the door", "--speech_top_p", "0"], "top_p"),
    ],
)
def test_what_cannot_be_said_is_refused(
    run_dir: Path, tones: Tones, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], told: str,
) -> None:  # fmt: skip
    assert run(tts, monkeypatch, *arguments, "--dir", run_dir, "--out", tmp_path / "x.wav", *QUICK) == 2
    assert told in capsys.readouterr().err and not (tmp_path / "x.wav").exists()


def test_the_real_voice_speaks_with_the_hops_of_its_flow(
    run_dir: Path, noise_list: Path, token2wav_runs: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Flow and vocoder with random weights, a model that never ends its speech: the reply in hops is the reply in one piece."""
    runs, talker = token2wav_runs(8), tmp_path / "model"
    shutil.copytree(run_dir, talker)
    weights = torch.load(run_dir / "final.pt", weights_only=True)
    weights["speech.head.bias"][8] -= 1e6
    torch.save(weights, talker / "final.pt")
    wav, voice = noise_list.parent / "u0.wav", ["--flow", runs / "flow", "--vocoder", runs / "vocoder"]
    assert run(chat, monkeypatch, wav, "--dir", talker, *voice, "--out", tmp_path / "a.wav", *QUICK, "--max_speech", 60) == 0
    samples, rate = read_native(str(tmp_path / "a.wav"))
    assert rate == 24000 and len(samples) == 60 * 960 and "cut off" in capsys.readouterr().out
    config, checkpoint = read_run(talker)
    model = load_model(config, checkpoint, "cpu", "float32")
    encoder, token2wav = RequestEncoder(config, TASKS["s2s_interleaved"]), load_token2wav(runs / "flow", runs / "vocoder")
    plan = encoder.plan(max_new=7, max_speech=60)
    session = DialogueSession(model, encoder, plan, synthesizer=token2wav, hops=Hops(500, 500))
    whole_S = Reply(session.reply(Utterance("turn1", wav=str(wav)))).samples_S
    np.testing.assert_allclose(samples, whole_S, atol=2e-3)
    assert np.abs(samples).max() > 0.01


@pytest.mark.parametrize("command", [tts, chat])
def test_codes_are_drawn_as_the_run_says_unless_an_option_does(command: ModuleType, run_config: RunConfig) -> None:
    sampling = CodeSamplingConfig(temperature=0.7, top_k=5, repeat_window=3)
    config = run_config.model_copy(update={"model": run_config.model.model_copy(update={"speech": SpeechConfig(sampling=sampling)})})
    args = ["x", "--dir", "d", "--out", "o"]
    published = Sampler(temperature=1.0, top_k=25, top_p=0.8, repeat_window=10, repeat_share=0.1)
    assert samplers_of(command._parser().parse_args(args), run_config) == (Sampler(), published)
    assert samplers_of(command._parser().parse_args(args), config)[1] == Sampler(0.7, 5, 0.8, 3, 0.1)
    assert RequestEncoder(config, TASKS["tts"]).plan().speech.sampler == Sampler(0.7, 5, 0.8, 3, 0.1)
    args += ["--speech_temperature", "0", "--top_k", "2", "--repeat_share", "0.5"]
    assert samplers_of(command._parser().parse_args(args), config) == (Sampler(top_k=2), Sampler(0.0, 5, 0.8, 3, 0.5))
