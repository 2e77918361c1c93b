"""HiFT-style vocoder: log-mel to samples through a pitch predictor, a harmonic-plus-noise source and an inverse Fourier transform.

Architecture of HiFTNet (https://arxiv.org/abs/2309.09493) in the sizes of CosyVoice (https://arxiv.org/abs/2407.05407): the mel goes
through upsampling stages of residual blocks with Snake (https://arxiv.org/abs/2006.08195); each stage adds the Fourier transform of the
source at its own rate; the last layer's output is a log magnitude and a phase, which one iSTFT turns into samples. With the published
sizes the parameters have the published names and shapes.

``head: filter`` is for training from nothing in minutes: magnitude and phase are those of a filter that the spectrum of the source is
multiplied by (as in https://arxiv.org/abs/1910.09778, in the frequency domain), and a linear layer, which starts as interpolation, adds the
log-mel to the log magnitudes. So before the first step the output has the envelope of its mel, and the network learns corrections.

One code path serves whole utterances and streams (tape.py): ``push`` hands out every sample that later frames cannot change, ``flush``
the rest, together exactly what ``forward`` gives. Streams of a batch move in step. The non-causal network looks about 19 frames ahead;
``causal`` convolutions look back only, and the output is then behind its mel by less than a hop.

Shape legend: B utterances or streams, F mel frames, M mel bins, S samples, C channels, T time steps of a stage, K Fourier bins.

Left out: fixed-shape export.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from osum_echat.audio.features import mel_edges
from osum_echat.config_token2wav import MelConfig, VocoderConfig
from osum_echat.errors import ConfigError
from osum_echat.token2wav.source import HarmonicSource, SourceState
from osum_echat.token2wav.tape import WHOLE, Istft, Stft, StreamConv1d, StreamConvTranspose1d, Tails, Tape

_SLOPE = 0.1  # of the leaky ReLU before an upsampling
_MAX_LOG_MAGNITUDE = math.log(100.0)
_TYPICAL_LOG_MEL, _TYPICAL_HZ = -5.0, 120.0  # where training starts from
_PEAK = 0.99  # output is clipped here: 16-bit files and lossy codecs leave no head room at 1


class VocoderOutput(NamedTuple):
    """Samples, and the predicted pitch in Hz (positive everywhere; a frame at or below ``cfg.voiced_hz`` is unvoiced)."""

    samples_BS: Tensor
    f0_BF: Tensor


@dataclass(frozen=True)
class VocoderState:
    """A stream between two pushes: what the layers keep (None before the first), and the source."""

    tails: Tails | None
    source: SourceState


class Snake(nn.Module):
    """``x + sin(alpha x)^2 / alpha`` with one alpha per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x_BCT: Tensor) -> Tensor:
        alpha_C1 = self.alpha.unsqueeze(1)
        return x_BCT + (x_BCT * alpha_C1).sin().square() / (alpha_C1 + 1e-9)


class ResBlock(nn.Module):
    """Per dilation: Snake, dilated convolution, Snake, convolution, and the input added."""

    def __init__(self, channels: int, kernel_size: int, dilations: Sequence[int], causal: bool) -> None:
        super().__init__()
        convs1 = [StreamConv1d(channels, channels, kernel_size, causal, dilation) for dilation in dilations]
        convs2 = [StreamConv1d(channels, channels, kernel_size, causal) for _ in dilations]
        self.convs1 = nn.ModuleList(weight_norm(conv) for conv in convs1)
        self.convs2 = nn.ModuleList(weight_norm(conv) for conv in convs2)
        self.activations1 = nn.ModuleList(Snake(channels) for _ in dilations)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in dilations)

    def forward(self, x_BCT: Tensor, tape: Tape = WHOLE) -> Tensor:
        for snake1, conv1, snake2, conv2 in zip(self.activations1, self.convs1, self.activations2, self.convs2, strict=True):
            y_BCT = conv2(snake2(conv1(snake1(x_BCT), tape)), tape)
            x_BCT, y_BCT = tape.aligned(x_BCT, y_BCT)
            x_BCT = x_BCT + y_BCT
        return x_BCT


class F0Predictor(nn.Module):
    """``mel_BMF -> f0_BF`` in Hz: five convolutions and a linear layer."""

    def __init__(self, num_mels: int, channels: int, causal: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (num_mels, *[channels] * 4):
            layers += [weight_norm(StreamConv1d(width, channels, 3, causal)), nn.ELU()]
        self.condnet = nn.ModuleList(layers)
        self.classifier = nn.Linear(channels, 1)

    def forward(self, mel_BMF: Tensor, tape: Tape = WHOLE) -> Tensor:
        x_BCF = mel_BMF
        for conv, elu in zip(self.condnet[::2], self.condnet[1::2], strict=True):
            x_BCF = elu(conv(x_BCF, tape))
        return self.classifier(x_BCF.transpose(1, 2)).squeeze(2).abs()


class Vocoder(nn.Module):
    """``forward(mel_BFM) -> VocoderOutput`` with S = F * hop; ``init_state``, ``push`` and ``flush`` for streams."""

    def __init__(self, cfg: VocoderConfig, mel: MelConfig) -> None:
        super().__init__()
        _check_hop(cfg, mel)
        self.num_mels, self.hop, self.sample_rate = mel.num_mels, mel.hop, mel.sample_rate
        self.num_kernels = len(cfg.resblock_kernels)
        self.m_source = HarmonicSource(cfg, mel.sample_rate, mel.hop)
        self.envelope = None if cfg.head == "spectrum" else _envelope(cfg, mel)
        if self.envelope is not None:
            nn.init.ones_(self.m_source.l_linear.weight)
            nn.init.zeros_(self.m_source.l_linear.bias)
        self.f0_predictor = F0Predictor(mel.num_mels, cfg.f0_channels, cfg.causal)
        self.stft, self.istft = Stft(cfg.istft_n_fft, cfg.istft_hop), Istft(cfg.istft_n_fft, cfg.istft_hop)
        self.conv_pre = weight_norm(StreamConv1d(mel.num_mels, cfg.channels, 7, cfg.causal))
        self.ups, self.source_downs = nn.ModuleList(), nn.ModuleList()
        self.source_resblocks, self.resblocks = nn.ModuleList(), nn.ModuleList()
        channels = cfg.channels
        for stage, (rate, kernel) in enumerate(zip(cfg.upsample_rates, cfg.upsample_kernels, strict=True)):
            channels //= 2
            self.ups.append(weight_norm(StreamConvTranspose1d(2 * channels, channels, kernel, rate, cfg.causal)))
            self.source_downs.append(_source_down(cfg, channels, math.prod(cfg.upsample_rates[stage + 1 :])))
            self.source_resblocks.append(ResBlock(channels, cfg.source_kernels[stage], cfg.resblock_dilations, cfg.causal))
            for size in cfg.resblock_kernels:
                self.resblocks.append(ResBlock(channels, size, cfg.resblock_dilations, cfg.causal))
        self.conv_post = weight_norm(StreamConv1d(channels, cfg.istft_n_fft + 2, 7, cfg.causal))
        _centre(self.conv_pre)
        _centre(self.f0_predictor.condnet[0])
        nn.init.constant_(self.f0_predictor.classifier.bias, _TYPICAL_HZ)

    def forward(self, mel_BFM: Tensor, f0_BF: Tensor | None = None, generators: Sequence[torch.Generator] | None = None) -> VocoderOutput:
        """Whole utterances of equal length.

        Args:
            mel_BFM: log-mel; f0_BF: pitch in Hz (0 = unvoiced) that drives the source, in training that of the recording; None takes the
                predicted pitch. generators: one a row for the noise; None draws from torch's global generator.
        """
        self._check_mel(mel_BFM, mel_BFM.shape[0] if generators is None else len(generators))
        source = self.m_source.init_state(mel_BFM.shape[0], generators)
        if mel_BFM.shape[1] == 0:
            return VocoderOutput(mel_BFM.new_zeros(mel_BFM.shape[0], 0), mel_BFM.new_zeros(mel_BFM.shape[0], 0))
        mel_BMF = mel_BFM.transpose(1, 2)
        predicted_BF = self._pitch(mel_BMF, WHOLE)
        samples_BS, _ = self._generate(mel_BMF, predicted_BF if f0_BF is None else f0_BF, source, WHOLE)
        return VocoderOutput(samples_BS, predicted_BF)

    def init_state(self, generators: Sequence[torch.Generator]) -> VocoderState:
        """A batch of fresh streams, one for each generator; a generator belongs to one stream and is drawn from by ``push``."""
        return VocoderState(None, self.m_source.init_state(len(generators), generators))

    @torch.no_grad()
    def push(self, mel_BFM: Tensor, state: VocoderState) -> tuple[Tensor, VocoderState]:
        """The samples that are final after these frames, maybe none; never touches ``state`` except for its generators."""
        self._check_mel(mel_BFM, state.source.phase_B.shape[0])
        if mel_BFM.shape[1] == 0:
            return mel_BFM.new_zeros(mel_BFM.shape[0], 0), state
        return self._step(mel_BFM, state, last=False)

    @torch.no_grad()
    def flush(self, state: VocoderState) -> Tensor:
        """The rest of the streams, (B, S): all pushes and this one together are frames * hop samples."""
        mel_BFM = self.conv_pre.bias.new_zeros(state.source.phase_B.shape[0], 0, self.num_mels)
        if state.tails is None:
            return mel_BFM[..., 0]
        return self._step(mel_BFM, state, last=True)[0]

    def fold_weight_norm(self) -> None:
        """Replace weight norm by plain weights, for inference: the weights are no longer recomputed for every push."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)

    def _step(self, mel_BFM: Tensor, state: VocoderState, last: bool) -> tuple[Tensor, VocoderState]:
        tape = Tape(state.tails, last)
        samples_BS, source = self.play(mel_BFM, state.source, tape)
        return samples_BS, VocoderState(tape.kept(), source)

    def play(self, mel_BFM: Tensor, source: SourceState, tape: Tape) -> tuple[Tensor, SourceState]:
        """One piece of a stream: the samples that are ready, (B, S), and the source behind it; the tape holds what the layers keep."""
        mel_BMF = mel_BFM.transpose(1, 2)
        return self._generate(mel_BMF, self._pitch(mel_BMF, tape), source, tape)

    def _pitch(self, mel_BMF: Tensor, tape: Tape) -> Tensor:
        with _full_precision(mel_BMF):
            return self.f0_predictor(mel_BMF, tape)

    def _generate(self, mel_BMF: Tensor, f0_BF: Tensor, source: SourceState, tape: Tape) -> tuple[Tensor, SourceState]:
        with _full_precision(mel_BMF):
            source_B1S, source = self.m_source(f0_BF, source)
            source_BKT = self.stft(source_B1S, tape)
        x_BCT = self.conv_pre(mel_BMF, tape)
        for stage, (up, down, block) in enumerate(zip(self.ups, self.source_downs, self.source_resblocks, strict=True)):
            x_BCT = up(F.leaky_relu(x_BCT, _SLOPE), tape)
            if stage == len(self.ups) - 1:
                x_BCT = tape.reflect_start(x_BCT, 1)  # one frame more than hops, as the centred Fourier transform has
            x_BCT, added_BCT = tape.aligned(x_BCT, block(down(source_BKT, tape), tape))
            x_BCT = x_BCT + added_BCT
            parallel = self.resblocks[stage * self.num_kernels : (stage + 1) * self.num_kernels]
            branches = tape.aligned(*[resblock(x_BCT, tape) for resblock in parallel])
            x_BCT = torch.stack(branches).sum(0) / self.num_kernels
        with _full_precision(x_BCT):
            x_BCT = self.conv_post(F.leaky_relu(x_BCT.to(source_BKT.dtype)), tape)
            if self.envelope is None:
                spectrum_BKT = _polar(x_BCT)
            else:
                envelope_BKT = tape.reflect_start(self.envelope(mel_BMF, tape), 1)
                x_BCT, envelope_BKT, source_BKT = tape.aligned(x_BCT, envelope_BKT, source_BKT)
                spectrum_BKT = _product(_polar(x_BCT + F.pad(envelope_BKT, (0, 0, 0, envelope_BKT.shape[1]))), source_BKT)
            samples_B1S = self.istft(spectrum_BKT, tape)
        return samples_B1S.squeeze(1).clamp(-_PEAK, _PEAK), source

    def _check_mel(self, mel_BFM: Tensor, batch: int) -> None:
        if mel_BFM.dim() != 3 or mel_BFM.shape[0] != batch or mel_BFM.shape[2] != self.num_mels:
            raise ValueError(f"vocoder: mel {tuple(mel_BFM.shape)}; expected ({batch}, F, {self.num_mels})")


@torch.no_grad()
def _centre(conv: nn.Module) -> None:
    """Zero out for a log-mel of the usual size in, which is far from zero."""
    assert isinstance(conv, nn.Conv1d) and conv.bias is not None
    conv.bias.copy_(-_TYPICAL_LOG_MEL * conv.weight.sum((1, 2)))


def _full_precision(x: Tensor) -> AbstractContextManager[None]:
    """No autocast: at both ends of the network eight bits would be heard as noise, and hertz lost."""
    return torch.autocast(x.device.type, enabled=False)


def _polar(x_BCT: Tensor) -> Tensor:
    """Log magnitude and phase (through a sine, which bounds it) as real and imaginary parts."""
    log_magnitude_BKT, phase_BKT = x_BCT.chunk(2, 1)
    magnitude_BKT = log_magnitude_BKT.clamp(max=_MAX_LOG_MAGNITUDE).exp()  # in this order the gradient is finite everywhere
    phase_BKT = phase_BKT.sin()
    return torch.cat((magnitude_BKT * phase_BKT.cos(), magnitude_BKT * phase_BKT.sin()), 1)


@torch.no_grad()
def _envelope(cfg: VocoderConfig, mel: MelConfig) -> StreamConvTranspose1d:
    """Log-mel to log magnitudes at the rate of the iSTFT. It starts as an interpolation between the peaks of the mel bands."""
    nyquist = mel.sample_rate / 2
    peak_M = mel_edges(mel.num_mels, mel.low_hz, nyquist if mel.high_hz is None else mel.high_hz)[1:-1]
    bin_K = np.linspace(0.0, nyquist, cfg.istft_n_fft // 2 + 1)
    weight_MK = np.stack([np.interp(bin_K, peak_M, one_M) for one_M in np.eye(mel.num_mels)]).astype(np.float32)
    rate = math.prod(cfg.upsample_rates)
    layer = StreamConvTranspose1d(mel.num_mels, len(bin_K), rate, rate, cfg.causal)
    layer.weight.copy_(torch.from_numpy(weight_MK).unsqueeze(2).expand_as(layer.weight))
    assert layer.bias is not None
    layer.bias.zero_()
    return layer


def _product(x_BCT: Tensor, y_BCT: Tensor) -> Tensor:
    """Of complex numbers, real parts then imaginary parts."""
    (a, b), (c, d) = x_BCT.chunk(2, 1), y_BCT.chunk(2, 1)
    return torch.cat((a * c - b * d, a * d + b * c), 1)


def _source_down(cfg: VocoderConfig, channels: int, rate: int) -> StreamConv1d:
    """From the rate of the source's Fourier transform to that of a stage; a causal one sees no later than its own step."""
    if rate == 1:
        return StreamConv1d(cfg.istft_n_fft + 2, channels, 1)
    pad = (rate, 0) if cfg.causal else (rate // 2, rate // 2)
    return StreamConv1d(cfg.istft_n_fft + 2, channels, 2 * rate, stride=rate, pad=pad)


def _check_hop(cfg: VocoderConfig, mel: MelConfig) -> None:
    factors = [*cfg.upsample_rates, cfg.istft_hop]
    if math.prod(factors) != mel.hop:
        raise ConfigError(
            f"vocoder: upsample_rates x istft_hop = {' x '.join(map(str, factors))} = {math.prod(factors)} samples a frame, "
            f"but the mel's hop is {mel.hop}; make them equal"
        )
    if mel.hop <= cfg.istft_n_fft // 2:
        raise ConfigError(f"vocoder: istft_n_fft {cfg.istft_n_fft} needs a mel hop above {cfg.istft_n_fft // 2}, got {mel.hop}")
