"""Kaldi filter banks against a slow definition and kaldi-native-fbank's numbers; what ONNX networks are fed; what is said without them.

onnxruntime is replaced by a recorder of the same calls: the files it would open are large and not ours.
"""

import math
import sys
import types

import numpy as np
import pytest
import torch

from osum_echat.audio.features import LogMel
from osum_echat.audio.frontends import OnnxSpeakerEmbedding, OnnxSpeechTokenizer, kaldi_fbank
from osum_echat.audio.io import write_wav
from osum_echat.datagen.speech_tokens import ExtractSettings, extract
from osum_echat.errors import DataError, UserError


def slow_fbank(samples, num_mels):
    """compute-fbank-feats by its definition: plain loops, DFT by its sum, float64."""
    mel = lambda hz: 1127 * math.log(1 + hz / 700)  # noqa: E731
    edges = [mel(20) + (mel(8000) - mel(20)) * i / (num_mels + 1) for i in range(num_mels + 2)]
    dft = np.exp(-2j * np.pi * np.outer(np.arange(256), np.arange(400)) / 512)
    rows = []
    for start in range(0, len(samples) - 399, 160):
        frame = samples[start : start + 400].astype(np.float64)
        frame -= frame.sum() / 400
        sharp = [frame[0] - 0.97 * frame[0]] + [frame[i] - 0.97 * frame[i - 1] for i in range(1, 400)]
        weighted = np.array([x * (0.5 - 0.5 * math.cos(2 * math.pi * i / 399)) ** 0.85 for i, x in enumerate(sharp)])
        power = np.abs(dft @ weighted) ** 2
        row = []
        for low, mid, high in zip(edges, edges[1:], edges[2:], strict=False):
            weights = [max(0.0, min((mel(k * 31.25) - low) / (mid - low), (high - mel(k * 31.25)) / (high - mid))) for k in range(256)]
            row.append(math.log(max(float(power @ np.array(weights)), 1.1920928955078125e-07)))
        rows.append(row)
    return np.array(rows)


def beat():
    time = np.arange(8000)
    wave = 0.3 * np.sin(2 * np.pi * 440 * time / 16000) + 0.1 * np.sign(np.sin(2 * np.pi * 97 * time / 16000)) + 0.01
    return wave.astype(np.float32)


@pytest.mark.parametrize("num_mels", [23, 80])
@pytest.mark.parametrize("length", [400, 559, 560, 1500])
def test_filter_banks_follow_the_definition(num_mels, length):
    samples = (0.1 * np.random.default_rng(length).standard_normal(length)).astype(np.float32)
    ours = kaldi_fbank(samples, num_mels)
    assert ours.shape == (1 + (length - 400) // 160, num_mels) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, slow_fbank(samples, num_mels), atol=2e-5)


def test_filter_banks_are_kaldi_s():
    """Numbers of kaldi-native-fbank 1.23.0 (the C++ code of Kaldi, float32) on the same samples, dither 0, 80 bins."""
    kaldi = [
        [-4.0093, -2.1884, -1.5238, -1.0069, -0.4722],
        [-4.0086, -2.1600, -1.8364, -1.0099, -0.4653],
        [-3.9252, -2.1715, -1.4924, -1.0074, -0.4629],
    ]
    ours = kaldi_fbank(beat())
    assert ours.shape == (48, 80)
    np.testing.assert_allclose(ours[[0, 20, 47]][:, [0, 1, 10, 40, 79]], kaldi, atol=2e-4)
    assert float(ours.mean()) == pytest.approx(-1.7604114, abs=1e-5)


def test_silence_is_the_floor_and_too_little_is_an_error():
    assert np.all(kaldi_fbank(np.zeros(800, np.float32)) == np.float32(math.log(2.0**-23)))
    for wrong in (np.zeros(399, np.float32), np.zeros((2, 800), np.float32)):
        with pytest.raises(DataError, match="at least 400 samples"):
            kaldi_fbank(wrong)


class FakeRuntime(types.ModuleType):
    """The few names of onnxruntime that are used; a session remembers what it was fed."""

    def __init__(self, shapes, answer):
        super().__init__("onnxruntime")
        self.fed, self.opened = [], []
        outer = self

        class SessionOptions:
            intra_op_num_threads = 0

        class InferenceSession:
            def __init__(self, path, sess_options, providers):
                outer.opened.append((path, sess_options.intra_op_num_threads, providers))
                if open(path, "rb").read() == b"rubbish":  # noqa: SIM115
                    raise ValueError("Protobuf parsing failed.\nmore")

            def get_inputs(self):
                return [types.SimpleNamespace(name=f"in{i}", shape=shape) for i, shape in enumerate(shapes)]

            def run(self, names, feed):
                assert names is None
                outer.fed.append(feed)
                return [answer(feed)]

        self.SessionOptions, self.InferenceSession = SessionOptions, InferenceSession

    def get_available_providers(self):
        return ["CPUExecutionProvider"]


@pytest.fixture
def model_file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"some network")
    return path


def tokenizer_runtime(monkeypatch, answer=lambda feed: np.arange(feed["in1"][0] // 4, dtype=np.int32)[None]):
    runtime = FakeRuntime([["batch", 128, "time"], ["batch"]], answer)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    return runtime


def test_the_speech_tokenizer_hears_whisper_s_log_mel(model_file, monkeypatch):
    runtime = tokenizer_runtime(monkeypatch)
    samples = [torch.from_numpy(beat()), 0.1 * torch.randn(5000)]
    tokenizer = OnnxSpeechTokenizer(model_file, device="cuda")
    codes = tokenizer.encode_samples(samples)
    assert [c.tolist() for c in codes] == [list(range(12)), list(range(7))] and codes[0].dtype == torch.int64
    for feed, samples_S in zip(runtime.fed, samples, strict=True):
        mel = LogMel(128)(samples_S)
        assert feed["in0"].shape == (1, 128, len(mel)) and feed["in0"].dtype == np.float32
        np.testing.assert_array_equal(feed["in0"][0].T, mel.numpy())
        assert feed["in1"].dtype == np.int32 and feed["in1"].tolist() == [len(mel)]
    assert runtime.opened == [(str(model_file), 1, ["CPUExecutionProvider"])], "a provider that is not there is not asked for"


def test_the_speaker_embedding_hears_centred_filter_banks(model_file, monkeypatch):
    runtime = FakeRuntime([["B", "T", 80]], lambda feed: feed["in0"].sum(axis=1, keepdims=True) + 1.5)
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
    embedding = OnnxSpeakerEmbedding(model_file)(beat())
    fbank = kaldi_fbank(beat())
    np.testing.assert_allclose(runtime.fed[0]["in0"], (fbank - fbank.mean(axis=0))[None], atol=1e-6)
    assert embedding.shape == (80,) and embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, 1.5, atol=1e-3)  # nothing but the mean is left of the sum over time


def test_errors_say_what_to_do(model_file, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"none.onnx: no such file; the speech tokenizer .* download it first"):
        OnnxSpeechTokenizer(tmp_path / "none.onnx")
    with pytest.raises(UserError, match=r"no such file; the speaker embedding"):
        OnnxSpeakerEmbedding(tmp_path / "none.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # import raises ImportError
    with pytest.raises(UserError, match="pip install onnxruntime"):
        OnnxSpeechTokenizer(model_file)
    tokenizer_runtime(monkeypatch)
    with pytest.raises(UserError, match=r"input has shape .*a speaker embedding takes 80 mel bins"):
        OnnxSpeakerEmbedding(_with_shape(monkeypatch, model_file, [["B", "T", 128]]))
    tokenizer_runtime(monkeypatch)
    (tmp_path / "broken.onnx").write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"broken.onnx: not an ONNX model that onnxruntime can read \(Protobuf parsing failed.\)"):
        OnnxSpeechTokenizer(tmp_path / "broken.onnx")
    with pytest.raises(DataError, match=r"30.1 s of audio"):
        OnnxSpeechTokenizer(model_file).encode([torch.zeros(3010, 128)])
    tokenizer_runtime(monkeypatch, lambda feed: np.array([[5, 4096]]))
    with pytest.raises(UserError, match="gave code 4096, the codebook was said to have 4096"):
        OnnxSpeechTokenizer(model_file).encode([torch.zeros(8, 128)])


def _with_shape(monkeypatch, path, shapes):
    monkeypatch.setitem(sys.modules, "onnxruntime", FakeRuntime(shapes, lambda feed: None))
    return path


def test_extraction_uses_it(model_file, tmp_path, monkeypatch):
    """The worker's own steps, in this process because a fake module does not travel to others."""
    from osum_echat.datagen import speech_tokens

    tokenizer_runtime(monkeypatch)
    write_wav(tmp_path / "a.wav", beat())
    write_wav(tmp_path / "long.wav", np.zeros(16000 * 31, np.float32))
    (tmp_path / "a.list").write_text(f'{{"key": "a", "wav": "{tmp_path}/a.wav"}}\n{{"key": "b", "wav": "{tmp_path}/long.wav"}}\n')
    settings = ExtractSettings("", "", str(tmp_path / "a.list"), onnx=str(model_file))

    def run(settings, folder, todo, *_):
        extractor = speech_tokens.Extractor(settings, folder)
        return sum(extractor.run(number).num_tokens for number in todo)

    monkeypatch.setattr(speech_tokens, "_run", run)
    report = extract(settings, tmp_path / "out.list", 1, 0.5)
    assert report["tokens"] == 12 and report["codebook"]["size"] == 4096 and report["drops"] == {"too_long": {"asr": 1}}
